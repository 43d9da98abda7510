//! Metrics, health, version, and what there is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;
use wambda_model::clock;
use wambda_model::limits::UNPACKED_BYTES_MAX;
use wambda_store::damage;

use crate::lambda::REQUEST_BYTES_MAX;
use crate::{Api, ApiError, Response, reply};

/// The last time that metrics were printed.
#[derive(Debug)]
pub(crate) struct Printed {
    began: Instant,
    ended: Instant,
    /// CPU time that it took.
    cpu: Duration,
    text: Bytes,
}

/// Printing metrics takes one part in so many of a core, however often strangers ask.
const PRINTING_PART: u32 = 10;

/// The longest that one print waits for another.
const PRINTING_REST_MAX: Duration = Duration::from_secs(2);

/// The metrics as they are after this was called. Who asks while somebody else does gets the same.
async fn printed(api: &Arc<Api>) -> Result<Bytes, ApiError> {
    let asked = clock::now();
    let mut last = Arc::clone(&api.printed).lock_owned().await;
    if let Some(last) = &*last {
        if last.began >= asked {
            return Ok(last.text.clone());
        }
        let rest = last.cpu * (PRINTING_PART - 1);
        tokio::time::sleep_until((last.ended + rest.min(PRINTING_REST_MAX)).into()).await;
    }
    let this = Arc::clone(api);
    // Thousands of series take milliseconds to print: not on the threads that answer. With the lock, since whoever asked
    // may hang up meanwhile.
    let render = move || {
        let (began, cpu) = (clock::now(), clock::thread_cpu());
        (this.before_metrics)();
        for (kind, room) in [("requests", &this.room), ("responses", &this.responses)] {
            this.metrics.show_held(kind, room.used(), room.limit());
        }
        let (logs, limit) = this.functions.logs_held();
        this.metrics.show_held("logs", logs, limit);
        this.metrics.show_held("uploads", this.functions.unpacked(), UNPACKED_BYTES_MAX);
        this.metrics.show_held("values", this.offload.read(), REQUEST_BYTES_MAX);
        let text = Bytes::from(this.metrics.render().map_err(|e| e.to_string())?);
        let cpu = clock::thread_cpu().saturating_sub(cpu);
        *last = Some(Printed { began, ended: clock::now(), cpu, text: text.clone() });
        Ok(text)
    };
    let rendered = tokio::task::spawn_blocking(render).await;
    let rendered = rendered.unwrap_or_else(|lost| Err(lost.to_string()));
    rendered.map_err(|error| ApiError::internal(&error))
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
    if !*api.ready.borrow() {
        return reply::bytes(StatusCode::SERVICE_UNAVAILABLE, "not ready\n");
    }
    if damage::is_disk_full() {
        return reply::bytes(
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready for writes: the disk is full\n",
        );
    }
    reply::bytes(StatusCode::OK, "ready\n")
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
