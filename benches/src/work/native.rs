//! The native yardstick: the bare server, doing in Rust what guests do in wasm.

use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};

use crate::bare;

/// What the guest compiles as well.
#[path = "../../../tests/guests/bench/src/work.rs"]
mod shared;

pub(crate) fn run() -> Result<()> {
    bare::serve("native", true, respond)
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, body) = match answer(&body) {
        Ok(body) => (StatusCode::OK, body),
        Err(message) => (StatusCode::BAD_REQUEST, message.into_bytes()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn answer(event: &[u8]) -> Result<Vec<u8>, String> {
    let event = serde_json::from_slice(event).map_err(|error| error.to_string())?;
    serde_json::to_vec(&shared::answer(event)?).map_err(|error| error.to_string())
}
