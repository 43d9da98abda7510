//! Speaks HTTP itself: answers with what it was sent, streamed, and the request line in headers.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (method, uri) = (request.method().to_string(), request.uri().to_string());
    let content_type = request.headers().get("content-type").cloned();
    let mut response = Response::builder().header("x-method", method).header("x-path", uri);
    if let Some(content_type) = content_type {
        response = response.header("content-type", content_type);
    }
    Ok(response.body(request.into_body())?)
}
