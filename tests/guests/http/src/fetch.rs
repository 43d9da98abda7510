//! Requests of its own, as the headers of the one it got say: `x-scheme`, `x-authority` and `x-path` as
//! they are given to the host, `x-times` at once, `x-send` bytes of body each, or `x-body`, with the headers that are
//! named behind `x-pass-`, after `x-delay` milliseconds; `x-follow` redirects, and `x-head` bytes (64) of each answer shown. With `x-again` all of these
//! are passed on: who fetches from itself does so for ever. With `x-again-event` what is sent is an event with all of
//! these.

use wasip2::http::outgoing_handler::{FutureIncomingResponse, handle};
use wasip2::http::types::{ErrorCode, Fields, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;
use wstd::http::{Body, HeaderMap};

pub struct Order {
    https: bool,
    authority: String,
    path: String,
    body: Vec<u8>,
    passed: Vec<(String, Vec<u8>)>,
    shown: usize,
}

/// Carries out the order; one line a request.
pub fn fetch(headers: &HeaderMap) -> String {
    let text = |name: &str| {
        let value = headers.get(name).map(|value| value.as_bytes().to_vec());
        String::from_utf8(value.unwrap_or_default()).unwrap_or_default()
    };
    let number = |name: &str| text(name).parse().unwrap_or(0usize);
    let again = headers.contains_key("x-again");
    let passed = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str();
        let is_order = again && name.starts_with("x-");
        let name = if is_order { name } else { name.strip_prefix("x-pass-")? };
        Some((name.to_owned(), value.as_bytes().to_vec()))
    });
    let body = match number("x-send") {
        0 if headers.contains_key("x-again-event") => event(headers).into_bytes(),
        0 => text("x-body").into_bytes(),
        bytes => vec![b'x'; bytes],
    };
    let order = Order {
        https: text("x-scheme") == "https",
        authority: text("x-authority"),
        path: text("x-path"),
        body,
        passed: passed.collect(),
        shown: if headers.contains_key("x-head") { number("x-head") } else { 64 },
    };
    let delay = number("x-delay") as u64 * 1_000_000;
    wasip2::clocks::monotonic_clock::subscribe_duration(delay).block();
    let end = |response| end(response, order.shown);
    let begun: Vec<_> = (0..number("x-times").max(1)).map(|_| begin(&order)).collect();
    let mut lines = Vec::new();
    for one in begun {
        let mut told = one.and_then(end);
        for _ in 0..number("x-follow") {
            let Ok(Told { location: Some(location), .. }) = &told else { break };
            let (scheme, rest) = location.split_once("://").unwrap_or(("http", location));
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let next = Order {
                https: scheme == "https",
                authority: authority.to_owned(),
                path: format!("/{path}"),
                body: Vec::new(),
                passed: Vec::new(),
                shown: order.shown,
            };
            told = begin(&next).and_then(end);
        }
        lines.push(match told {
            Ok(told) => format!("{} {} {}", told.status, told.length, told.head),
            Err(code) => format!("error {code}"),
        });
    }
    lines.join("\n")
}

/// An event that comes to this function as the same order (API Gateway, payload format 2.0).
fn event(headers: &HeaderMap) -> String {
    let orders = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-"));
    let orders = orders.map(|(name, value)| {
        format!("\"{name}\":\"{}\"", String::from_utf8_lossy(value.as_bytes()))
    });
    let orders = orders.collect::<Vec<_>>().join(",");
    format!(
        "{{\"version\":\"2.0\",\"rawPath\":\"/fetch\",\"rawQueryString\":\"\",\"headers\":{{{orders}}},\
         \"requestContext\":{{\"http\":{{\"method\":\"GET\",\"path\":\"/fetch\"}}}},\"isBase64Encoded\":false}}"
    )
}

struct Told {
    status: u16,
    length: usize,
    head: String,
    location: Option<String>,
}

fn begin(order: &Order) -> Result<FutureIncomingResponse, String> {
    let request = OutgoingRequest::new(Fields::from_list(&order.passed).map_err(|_| "headers")?);
    let scheme = if order.https { Scheme::Https } else { Scheme::Http };
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(&order.authority)).map_err(|()| "authority")?;
    request.set_path_with_query(Some(&order.path)).map_err(|()| "path")?;
    if !order.body.is_empty() {
        request.set_method(&Method::Post).map_err(|()| "method")?;
    }
    let body = request.body().map_err(|()| "body")?;
    let response = handle(request, None).map_err(told)?;
    if !order.body.is_empty() {
        let stream = body.write().map_err(|()| "stream")?;
        for part in order.body.chunks(4096) {
            if stream.blocking_write_and_flush(part).is_err() {
                // The response tells why.
                drop(stream);
                return Ok(response);
            }
        }
        drop(stream);
    }
    let _ = OutgoingBody::finish(body, None);
    Ok(response)
}

fn end(response: FutureIncomingResponse, shown: usize) -> Result<Told, String> {
    response.subscribe().block();
    let response = response.get().ok_or("nothing")?.map_err(|()| "twice")?.map_err(told)?;
    let location = response.headers().get("location").pop();
    let location = location.and_then(|value| String::from_utf8(value).ok());
    let body = response.consume().map_err(|()| "consume")?;
    let stream = body.stream().map_err(|()| "stream")?;
    let (mut length, mut head) = (0, Vec::new());
    loop {
        match stream.blocking_read(65_536) {
            Ok(part) => {
                length += part.len();
                head.extend(part.into_iter().take(shown - head.len().min(shown)));
            }
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return Err(code.map_or_else(|| error.to_debug_string(), told));
            }
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    Ok(Told { status: response.status(), length, head, location })
}

fn told(code: ErrorCode) -> String {
    format!("{code:?}")
}

/// The answer as a body.
pub fn body(headers: &HeaderMap) -> Body {
    fetch(headers).into()
}
