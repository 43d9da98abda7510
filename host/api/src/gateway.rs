//! API Gateway's payload format 2.0, both ways: an HTTP request as an event and a result as an HTTP
//! response, for functions that handle events; and the reverse, for functions that speak HTTP.
//! Source: "Working with AWS Lambda proxy integrations for HTTP APIs", payload format version 2.0.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::write::EncoderWriter;
use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, SET_COOKIE,
};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use wambda_model::limits::HEAD_BYTES_MAX;
use wambda_model::{Body, BodyError, FunctionError, RequestId, body};

use crate::{ApiError, Response, reply};

/// What an event tells about a request besides the request.
#[derive(Debug)]
pub struct Origin<'a> {
    /// The invocation.
    pub id: RequestId,
    /// The account.
    pub account: &'a str,
    /// What stands for the API: the function, or the id of its URL.
    pub function: &'a str,
    /// Who has signed the request, as `requestContext.authorizer.iam` tells it.
    pub signer: Option<Value>,
    /// The path within the function.
    pub path: &'a str,
    /// The caller's address.
    pub source_ip: String,
    /// When it came.
    pub unix_ms: u64,
}

/// The parameters of a query; those that come more than once are joined.
fn parameters(query: &str) -> Map<String, Value> {
    let mut parameters: Map<String, Value> = Map::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let joined = match parameters.get(&*key).and_then(Value::as_str) {
            Some(before) => format!("{before},{value}"),
            None => value.into_owned(),
        };
        parameters.insert(key.into_owned(), joined.into());
    }
    parameters
}

/// The head of an HTTP request as an event; [`event_with_body`] makes it whole.
#[must_use]
pub fn event_of_head(parts: &http::request::Parts, origin: &Origin<'_>) -> String {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers = Map::new();
    for name in parts.headers.keys().filter(|name| *name != COOKIE) {
        let all: Vec<String> = parts.headers.get_all(name).iter().map(text).collect();
        headers.insert(name.as_str().to_owned(), all.join(",").into());
    }
    let host = headers.get("host").and_then(Value::as_str).unwrap_or_default().to_owned();
    let agent = headers.get("user-agent").cloned().unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let parameters = parameters(query);
    let cookies: Vec<String> = parts
        .headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|c| text(c).split(';').map(|c| c.trim().to_owned()).collect::<Vec<_>>())
        .collect();
    let at = i64::try_from(origin.unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let time = at.map(|at| at.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string()).unwrap_or_default();
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": origin.path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": origin.account,
            "apiId": origin.function,
            "domainName": host,
            "domainPrefix": origin.function,
            "http": {
                "method": parts.method.as_str(),
                "path": origin.path,
                "protocol": format!("{:?}", parts.version),
                "sourceIp": origin.source_ip,
                "userAgent": agent,
            },
            "requestId": origin.id.to_string(),
            "routeKey": "$default",
            "stage": "$default",
            "time": time,
            "timeEpoch": origin.unix_ms,
        },
    });
    if let Some(event) = event.as_object_mut() {
        let context = event.get_mut("requestContext").and_then(Value::as_object_mut);
        if let (Some(context), Some(signer)) = (context, &origin.signer) {
            context.insert("authorizer".to_owned(), json!({"iam": signer}));
        }
        if !cookies.is_empty() {
            event.insert("cookies".to_owned(), cookies.into());
        }
        if !parameters.is_empty() {
            event.insert("queryStringParameters".to_owned(), parameters.into());
        }
    }
    event.to_string()
}

/// What stands around a body.
const AROUND_BODY: usize = r#","isBase64Encoded":false,"body":"""#.len();

/// Bytes of a text as JSON, without its quotes.
pub(crate) fn escaped_len(text: &str) -> usize {
    let of = |byte: u8| match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(of).sum()
}

/// How a body is written into JSON of at most `room` bytes, and how long it is so: as text, or in
/// base64 when it is none or its escapes do not fit.
///
/// # Errors
/// Its length when it fits in neither way.
fn written_as(body: &[u8], room: usize) -> Result<(Option<&str>, usize), usize> {
    let encoded = base64::encoded_len(body.len(), true).unwrap_or(usize::MAX);
    let text = std::str::from_utf8(body).ok();
    let escaped = text.map_or(usize::MAX, escaped_len);
    match (escaped <= room, encoded <= room) {
        (true, _) => Ok((text, escaped)),
        (false, true) => Ok((None, encoded)),
        (false, false) => Err(escaped.min(encoded)),
    }
}

/// An event of at most `limit` bytes with its body, as text or in base64. The body may be large: it
/// is written once, where it stays.
///
/// # Errors
/// 413 when the event would be larger: escaping must not make more than a function takes.
pub fn event_with_body(head: String, body: &[u8], limit: u64) -> Result<Bytes, ApiError> {
    let mut event = head.into_bytes();
    event.pop();
    let room = usize::try_from(limit).unwrap_or(usize::MAX);
    let around = event.len() + AROUND_BODY + 1;
    let (text, length) = written_as(body, room.saturating_sub(around))
        .map_err(|length| ApiError::too_large(limit, length.saturating_add(around) as u64))?;
    event.reserve_exact(length + AROUND_BODY + 1);
    event.extend_from_slice(match text {
        Some(_) => br#","isBase64Encoded":false"#,
        None => br#","isBase64Encoded":true"#,
    });
    if body.is_empty() {
        event.push(b'}');
        return Ok(event.into());
    }
    event.extend_from_slice(br#","body":"#);
    let written = match text {
        Some(text) => serde_json::to_writer(&mut event, text).map_err(std::io::Error::from),
        None => {
            event.push(b'"');
            let mut encoder = EncoderWriter::new(&mut event, &BASE64);
            let written = encoder.write_all(body).and_then(|()| encoder.finish().map(drop));
            drop(encoder);
            event.push(b'"');
            written
        }
    };
    if let Err(error) = written {
        tracing::error!(%error, "a body that cannot be written to memory");
    }
    event.push(b'}');
    Ok(event.into())
}

/// A result that says how to answer.
#[derive(Deserialize)]
struct Says {
    #[serde(rename = "statusCode")]
    _status: IgnoredAny,
}

/// A function's result as an HTTP response: an object with `statusCode` says all of it; any other
/// JSON is the body of a 200.
///
/// # Errors
/// A text that says what is wrong with the result.
pub fn response_from_result(result: &Bytes) -> Result<Response, String> {
    let is_text = result.trim_ascii_start().starts_with(b"\"");
    let parsed: Option<Value> = match is_text || serde_json::from_slice::<Says>(result).is_ok() {
        true => serde_json::from_slice(result).ok(),
        // It is the body as it is, and may be large.
        false => None,
    };
    let mut shape = match parsed {
        Some(Value::Object(shape)) if shape.contains_key("statusCode") => shape,
        other => {
            let mut response = match other {
                // A string is the body itself, as with Lambda's function URLs.
                Some(Value::String(text)) => reply::bytes(StatusCode::OK, text),
                _ => reply::bytes(StatusCode::OK, result.clone()),
            };
            response.headers_mut().insert(CONTENT_TYPE, reply::JSON);
            return Ok(response);
        }
    };
    let code = shape.get("statusCode").and_then(|code| match code {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    });
    let status = code
        .and_then(|code| u16::try_from(code).ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| {
            format!(
                "statusCode must be 200 to 599, got {}",
                shape.get("statusCode").unwrap_or(&Value::Null)
            )
        })?;
    let content = match shape.remove("body") {
        None | Some(Value::Null) => Bytes::new(),
        Some(Value::String(text)) if shape.get("isBase64Encoded") == Some(&Value::Bool(true)) => {
            BASE64.decode(&text).map_err(|e| format!("body is not valid base64: {e}"))?.into()
        }
        Some(Value::String(text)) => text.into(),
        Some(other) => other.to_string().into(),
    };
    let mut response = reply::bytes(status, content);
    response.headers_mut().insert(CONTENT_TYPE, reply::JSON);
    put_headers(response.headers_mut(), &shape, SET_COOKIE)?;
    Ok(response)
}

/// Puts the headers and cookies of an event or a result where HTTP has them, within what a head may take.
fn put_headers(
    into: &mut HeaderMap,
    shape: &serde_json::Map<String, Value>,
    cookie_name: HeaderName,
) -> Result<(), String> {
    let mut bytes = 0;
    let mut count = |name: &HeaderName, value: &HeaderValue| {
        bytes += reply::header_bytes(name, value);
        match bytes > HEAD_BYTES_MAX {
            true => Err(format!("the headers take more than {HEAD_BYTES_MAX} bytes")),
            false => Ok(()),
        }
    };
    for (name, value) in shape.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("header name {name:?} is not valid"))?;
        if is_framing(&parsed) {
            continue;
        }
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let value = HeaderValue::from_str(&text)
            .map_err(|_| format!("the value of header {name} is not valid"))?;
        count(&parsed, &value)?;
        into.insert(parsed, value);
    }
    for cookie in shape.get("cookies").and_then(Value::as_array).into_iter().flatten() {
        let value = cookie.as_str().and_then(|text| HeaderValue::from_str(text).ok());
        let value = value.ok_or_else(|| format!("cookie {cookie} is not valid"))?;
        count(&cookie_name, &value)?;
        into.append(cookie_name.clone(), value);
    }
    Ok(())
}

/// Headers that the server decides about.
fn is_framing(name: &HeaderName) -> bool {
    let known = [
        "connection",
        "content-length",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    known.contains(&name.as_str())
}

/// An API Gateway event as an HTTP request.
///
/// # Errors
/// 400 that says what is wrong with the event.
pub fn request_from_event(event: &Bytes, function: &str) -> Result<http::Request<Body>, ApiError> {
    let wrong = |what: String| {
        ApiError::invalid_content(format!(
            "this function speaks HTTP, so its event must be an API Gateway event (payload format 2.0): {what}"
        ))
    };
    let event: Value = match event.is_empty() {
        true => json!({}),
        false => serde_json::from_slice(event).map_err(|e| wrong(e.to_string()))?,
    };
    let Some(event) = event.as_object() else {
        return Err(wrong("it is no JSON object".to_owned()));
    };
    let text = |key: &str| event.get(key).and_then(Value::as_str);
    let context = event.get("requestContext").and_then(|context| context.get("http"));
    let method = context.and_then(|http| http.get("method")).and_then(Value::as_str);
    let method = method.or(text("httpMethod")).unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| wrong(format!("method {method:?} is not valid")))?;
    let path = text("rawPath").or(text("path")).unwrap_or("/");
    let uri = match text("rawQueryString").filter(|query| !query.is_empty()) {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut request = http::Request::builder().method(method).uri(&uri);
    let fallback = HeaderValue::from_str(function).map_err(|e| wrong(e.to_string()))?;
    if let Some(headers) = request.headers_mut() {
        headers.insert(HOST, fallback);
        put_headers(headers, event, COOKIE).map_err(wrong)?;
    }
    let content = match text("body") {
        None => Bytes::new(),
        Some(body) if event.get("isBase64Encoded") == Some(&Value::Bool(true)) => {
            BASE64.decode(body).map_err(|e| wrong(format!("body is not valid base64: {e}")))?.into()
        }
        Some(body) => body.to_owned().into(),
    };
    request.body(body::full(content)).map_err(|e| wrong(format!("path {uri:?}: {e}")))
}

/// A function's HTTP response with all of its body.
///
/// # Errors
/// What the function did wrong: a body larger than `limit`, or one that breaks off.
pub async fn whole_response(
    response: http::Response<Body>,
    limit: u64,
) -> Result<http::Response<Bytes>, FunctionError> {
    let (parts, body) = response.into_parts();
    let cap = usize::try_from(limit).unwrap_or(usize::MAX);
    let collected = Limited::new(body, cap).collect().await.map_err(|error| {
        let own = error.downcast_ref::<BodyError>().and_then(BodyError::function_error);
        if let Some(own) = own {
            own.clone()
        } else if error.downcast_ref::<LengthLimitError>().is_some() {
            FunctionError::response_too_large(limit)
        } else {
            let message = format!("the response broke off: {error}");
            FunctionError::returned("Runtime.InvalidResponse", message, Vec::new())
        }
    })?;
    Ok(http::Response::from_parts(parts, collected.to_bytes()))
}

/// A function's HTTP response as the result of an event, of at most `limit` bytes.
///
/// # Errors
/// The function's, when the result would be larger.
pub fn event_from_response(
    response: http::Response<Bytes>,
    limit: u64,
) -> Result<Bytes, FunctionError> {
    let (parts, bytes) = response.into_parts();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers = Map::new();
    for name in parts.headers.keys().filter(|name| **name != SET_COOKIE && **name != CONTENT_LENGTH)
    {
        let all: Vec<String> = parts.headers.get_all(name).iter().map(text).collect();
        headers.insert(name.as_str().to_owned(), all.join(",").into());
    }
    let cookies: Vec<String> = parts.headers.get_all(SET_COOKIE).iter().map(text).collect();
    let mut head = json!({
        "statusCode": parts.status.as_u16(),
        "headers": headers,
        "cookies": cookies,
    });
    if let (Some(head), true) = (head.as_object_mut(), bytes.is_empty()) {
        head.insert("body".to_owned(), "".into());
    }
    let too_large = |_| FunctionError::response_too_large(limit);
    event_with_body(head.to_string(), &bytes, limit).map_err(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(result: &str) -> Result<u16, String> {
        response_from_result(&Bytes::from(result.to_owned())).map(|r| r.status().as_u16())
    }

    #[test]
    fn results_become_responses() {
        assert_eq!(status(r#"{"statusCode":404,"body":"x"}"#), Ok(404));
        assert_eq!(status(r#"{"statusCode":"201"}"#), Ok(201));
        assert_eq!(status(r#"{"answer":42}"#), Ok(200));
        assert_eq!(status("not json"), Ok(200));
        for bad in [
            r#"{"statusCode":99}"#,
            r#"{"statusCode":101}"#,
            r#"{"statusCode":"x"}"#,
            r#"{"statusCode":200,"headers":{"a b":"c"}}"#,
            r#"{"statusCode":200,"headers":{"a":"b\r\nc: d"}}"#,
            r#"{"statusCode":200,"body":"%","isBase64Encoded":true}"#,
            r#"{"statusCode":200,"cookies":[1]}"#,
        ] {
            assert!(status(bad).is_err(), "{bad} was taken");
        }
        let many = |count: usize| {
            let headers: serde_json::Map<_, _> =
                (0..count).map(|n| (format!("x{n}"), json!(""))).collect();
            let cookies = vec!["a"; count / 2];
            json!({"statusCode": 200, "headers": headers, "cookies": cookies}).to_string()
        };
        assert_eq!(status(&many(1_000)), Ok(200));
        for count in [8_000, 30_000, 40_000] {
            assert!(status(&many(count)).unwrap_err().contains("32768"), "{count}");
            assert!(request_from_event(&many(count).into(), "f").is_err(), "{count}");
        }
        let shaped = r#"{"statusCode":200,"headers":{"Content-Length":"1","Transfer-Encoding":"chunked","X":1}}"#;
        let response = response_from_result(&shaped.into()).unwrap();
        assert!(response.headers().get(CONTENT_LENGTH).is_none(), "framing is the server's");
        assert_eq!(response.headers()["x"], "1");
    }

    #[test]
    fn requests_become_events_and_back() {
        let request = http::Request::builder()
            .method("POST")
            .uri("/fn/f/a/b?x=1&x=2&y=%20")
            .header("host", "h:1")
            .header("cookie", "a=1; b=2")
            .header("x-two", "1")
            .header("x-two", "2");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let origin = Origin {
            id: RequestId::random(),
            account: "000000000000",
            function: "f",
            signer: None,
            path: "/a/b",
            source_ip: "127.0.0.1".to_owned(),
            unix_ms: 1_700_000_000_000,
        };
        let event = event_with_body(event_of_head(&parts, &origin), b"\xff\0", 2_000).unwrap();
        let shape: Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(shape["headers"]["x-two"], "1,2");
        assert_eq!(shape["cookies"], json!(["a=1", "b=2"]));
        assert_eq!(shape["queryStringParameters"], json!({"x": "1,2", "y": " "}));
        assert_eq!(shape["requestContext"]["time"], "14/Nov/2023:22:13:20 +0000");
        assert_eq!(shape["isBase64Encoded"], true);
        let back = request_from_event(&event, "f").unwrap();
        assert_eq!(
            (back.method().as_str(), back.uri().to_string().as_str()),
            ("POST", "/a/b?x=1&x=2&y=%20")
        );
        assert_eq!(back.headers()[HOST], "h:1");
        assert_eq!(request_from_event(&Bytes::new(), "f").unwrap().uri().path(), "/");
        for bad in ["[]", "{", r#"{"rawPath":"no slash"}"#, r#"{"httpMethod":"A B"}"#] {
            assert!(request_from_event(&Bytes::from(bad), "f").is_err(), "{bad} was taken");
        }
    }
}
