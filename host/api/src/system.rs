//! Metrics, health, version, and what there is.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;
use wambda_model::clock;

use crate::{Api, ApiError, Response, reply};

/// The last time that metrics were printed.
#[derive(Debug)]
pub(crate) struct Printed {
    began: Instant,
    ended: Instant,
    text: Bytes,
}

/// Printing metrics takes one part in so many of a core, however often strangers ask.
const PRINTING_PART: u32 = 10;

/// The metrics as they are after this was called. Who asks while somebody else does gets the same.
async fn printed(api: &Arc<Api>) -> Result<Bytes, ApiError> {
    let asked = clock::now();
    let mut last = api.printed.lock().await;
    if let Some(last) = &*last {
        if last.began >= asked {
            return Ok(last.text.clone());
        }
        let rest = (last.ended - last.began) * (PRINTING_PART - 1);
        tokio::time::sleep_until((last.ended + rest).into()).await;
    }
    let began = clock::now();
    let this = Arc::clone(api);
    // Thousands of series take milliseconds to print: not on the threads that answer.
    let render = move || {
        (this.before_metrics)();
        this.metrics.render()
    };
    let rendered = tokio::task::spawn_blocking(render).await;
    let text = rendered.map_err(|e| ApiError::internal(&e.to_string()))?;
    let text = Bytes::from(text.map_err(|e| ApiError::internal(&e.to_string()))?);
    *last = Some(Printed { began, ended: clock::now(), text: text.clone() });
    Ok(text)
}

/// `GET /metrics`
pub(crate) async fn metrics(api: &Arc<Api>) -> Result<Response, ApiError> {
    let text = printed(api).await?;
    let mut response = reply::bytes(StatusCode::OK, text);
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, format);
    Ok(response)
}

/// `GET /healthz`: the process answers.
pub(crate) fn health() -> Response {
    reply::bytes(StatusCode::OK, "ok\n")
}

/// `GET /readyz`: it takes work.
pub(crate) fn ready(api: &Api) -> Response {
    if *api.ready.borrow() {
        return reply::bytes(StatusCode::OK, "ready\n");
    }
    reply::bytes(StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
}

/// `GET /version`
pub(crate) fn version(api: &Api) -> Response {
    reply::json(StatusCode::OK, &api.about)
}

/// `GET /openapi.json`
pub(crate) fn openapi() -> Response {
    let mut response = reply::bytes(StatusCode::OK, include_str!("openapi.json"));
    response.headers_mut().insert(CONTENT_TYPE, reply::JSON);
    response
}

/// `GET /`
pub(crate) fn root() -> Response {
    let about = json!({
        "name": "wambda",
        "functions": "/v1/functions",
        "invoke": "/v1/functions/{name}/invoke",
        "url": "/fn/{name}/",
        "metrics": "/metrics",
        "api": "/openapi.json",
    });
    reply::json(StatusCode::OK, &about)
}
