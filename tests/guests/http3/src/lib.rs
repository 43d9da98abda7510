//! A wasi:http 0.3 function: answers with the method and path it was asked with.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Function;

wasip3::http::service::export!(Function);

impl wasip3::exports::http::handler::Guest for Function {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        if path == "/panic" {
            panic!("as you wished");
        }
        if path == "/loop" {
            loop {
                std::hint::black_box(0);
            }
        }
        let text = format!("{:?} {path}", request.get_method());
        let (mut body, stream) = wit_stream::new();
        let (trailers, end) = wit_future::new(|| Ok(None));
        wit_bindgen::spawn_local(async move {
            body.write_all(text.into_bytes()).await;
            drop(body);
            let _ = trailers.write(Ok(None)).await;
        });
        let (response, _sent) = Response::new(Fields::new(), Some(stream), end);
        Ok(response)
    }
}
