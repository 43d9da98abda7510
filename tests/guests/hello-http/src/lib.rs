//! The least that a wasi:http 0.2 function can do: it reads the body and says hello. By the bare
//! bindings, since this is what servers are compared with.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

const HELLO: &[u8] = b"\"hello\"";

struct Function;

wasip2::http::proxy::export!(Function);

impl Guest for Function {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        read(&request);
        let headers = Fields::new();
        for (name, value) in [("content-type", &b"application/json"[..]), ("content-length", b"7")]
        {
            headers.append(name, value).expect("a header");
        }
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the body");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the stream");
        stream.blocking_write_and_flush(HELLO).expect("written");
        drop(stream);
        OutgoingBody::finish(body, None).expect("finished");
    }
}

/// Reads the request's body to its end.
fn read(request: &IncomingRequest) {
    let body = request.consume().expect("the body");
    let stream = body.stream().expect("the stream");
    while stream.blocking_read(64 << 10).is_ok() {}
}
