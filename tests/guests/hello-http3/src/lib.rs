//! The least that a wasi:http 0.3 function can do: it reads the body and says hello.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

const HELLO: &[u8] = b"\"hello\"";

struct Function;

wasip3::http::service::export!(Function);

impl wasip3::exports::http::handler::Guest for Function {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (_, done) = wit_future::new(|| Ok(()));
        let (body, _trailers) = Request::consume_body(request, done);
        drop(body.collect().await);
        let headers = Fields::new();
        for (name, value) in [("content-type", &b"application/json"[..]), ("content-length", b"7")]
        {
            headers.append(name, value).expect("a header");
        }
        let (mut body, stream) = wit_stream::new();
        let (trailers, end) = wit_future::new(|| Ok(None));
        wit_bindgen::spawn_local(async move {
            body.write_all(HELLO.to_vec()).await;
            drop(body);
            let _ = trailers.write(Ok(None)).await;
        });
        let (response, _sent) = Response::new(headers, Some(stream), end);
        Ok(response)
    }
}
