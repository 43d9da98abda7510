//! Small pieces that answers are made of.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use wambda_model::{FunctionError, Report, RequestId, body};

use crate::Response;

/// JSON, for people as well: it ends with a newline.
#[must_use]
pub fn json(status: StatusCode, value: &Value) -> Response {
    let mut response = bytes(status, format!("{value}\n"));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// The content type of results and errors.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Bytes as they are.
#[must_use]
pub fn bytes(status: StatusCode, bytes: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = status;
    response
}

/// A function's result, with room for what reports put into the head and what hyper adds: one allocation, no
/// rehashing.
#[must_use]
pub fn result(status: StatusCode, result: impl Into<Bytes>) -> Response {
    let mut response = bytes(status, result);
    response.headers_mut().reserve(1 + HEAD_ROOM);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// What reports put into a head, and what hyper adds.
const HEAD_ROOM: usize = 10;

/// Bytes that a header takes in a head: its name and value, and what stands around them.
pub(crate) fn header_bytes(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + ": \r\n".len()
}

/// The id of an invocation.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-wambda-request-id");
const DURATION: HeaderName = HeaderName::from_static("x-wambda-duration-ms");
const INIT: HeaderName = HeaderName::from_static("x-wambda-init-ms");
const START: HeaderName = HeaderName::from_static("x-wambda-start");
const MEMORY: HeaderName = HeaderName::from_static("x-wambda-memory-bytes");
const CPU: HeaderName = HeaderName::from_static("x-wambda-cpu-ms");
const ERROR: HeaderName = HeaderName::from_static("x-wambda-error");

/// AWS's header for the id of a request.
pub const AWS_REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// Puts a request id into a header.
pub fn put_id(headers: &mut HeaderMap, name: HeaderName, id: RequestId) {
    if let Ok(value) = HeaderValue::from_str(id.encode(&mut [0; 36])) {
        headers.insert(name, value);
    }
}

/// Puts an invocation's report into headers.
pub fn report_headers(headers: &mut HeaderMap, id: RequestId, report: &Report) {
    if headers.capacity() - headers.len() < HEAD_ROOM {
        headers.reserve(HEAD_ROOM);
    }
    put_id(headers, REQUEST_ID, id);
    headers.insert(DURATION, milliseconds(report.duration));
    if let Some(init) = report.init {
        headers.insert(INIT, milliseconds(init));
    }
    headers.insert(START, HeaderValue::from_static(report.start.as_str()));
    headers.insert(MEMORY, report.memory_bytes.into());
    headers.insert(CPU, milliseconds(report.cpu));
}

/// Names the error of a failed function.
pub fn error_header(headers: &mut HeaderMap, error: &FunctionError) {
    let visible: String =
        error.error_type.chars().filter(|c| c.is_ascii_graphic()).take(200).collect();
    let value = HeaderValue::from_str(&visible).unwrap_or(HeaderValue::from_static("Error"));
    headers.insert(ERROR, value);
}

/// Milliseconds with microseconds behind the point, without the cost of formatting floats.
fn milliseconds(duration: Duration) -> HeaderValue {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut text = [0u8; 24];
    let mut at = text.len();
    let mut rest = micros;
    let mut digits = 0;
    while digits < 4 || rest > 0 {
        if digits == 3 {
            at -= 1;
            if let Some(byte) = text.get_mut(at) {
                *byte = b'.';
            }
        }
        at -= 1;
        if let (Some(byte), Ok(digit)) = (text.get_mut(at), u8::try_from(rest % 10)) {
            *byte = b'0' + digit;
        }
        rest /= 10;
        digits += 1;
    }
    let text = text.get(at..).unwrap_or_default();
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_three_decimals() {
        let shown =
            |micros| milliseconds(Duration::from_micros(micros)).to_str().unwrap().to_owned();
        assert_eq!(
            [0, 7, 999, 1_000, 12_345].map(shown),
            ["0.000", "0.007", "0.999", "1.000", "12.345"]
        );
        assert_eq!(shown(u64::MAX), "18446744073709551.615");
    }

    #[test]
    fn error_types_are_fit_for_headers() {
        let mut headers = HeaderMap::new();
        error_header(
            &mut headers,
            &FunctionError::returned("Bad\r\nX: 1 é", String::new(), vec![]),
        );
        assert_eq!(headers[ERROR], "BadX:1");
    }
}
