//! Requests of its own, as the headers of the one it got say: `x-scheme`, `x-authority` and `x-path` as
//! they are given to the host, `x-times` at once, `x-send` bytes of body each, `x-follow` redirects.

use wasip2::http::outgoing_handler::{FutureIncomingResponse, handle};
use wasip2::http::types::{ErrorCode, Fields, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;
use wstd::http::{Body, HeaderMap};

pub struct Order {
    https: bool,
    authority: String,
    path: String,
    send: usize,
}

/// Carries out the order; one line a request.
pub fn fetch(headers: &HeaderMap) -> String {
    let text = |name: &str| {
        let value = headers.get(name).map(|value| value.as_bytes().to_vec());
        String::from_utf8(value.unwrap_or_default()).unwrap_or_default()
    };
    let number = |name: &str| text(name).parse().unwrap_or(0usize);
    let order = Order {
        https: text("x-scheme") == "https",
        authority: text("x-authority"),
        path: text("x-path"),
        send: number("x-send"),
    };
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
                send: 0,
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

struct Told {
    status: u16,
    length: usize,
    head: String,
    location: Option<String>,
}

fn begin(order: &Order) -> Result<FutureIncomingResponse, String> {
    let request = OutgoingRequest::new(Fields::new());
    let scheme = if order.https { Scheme::Https } else { Scheme::Http };
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(&order.authority)).map_err(|()| "authority")?;
    request.set_path_with_query(Some(&order.path)).map_err(|()| "path")?;
    if order.send > 0 {
        request.set_method(&Method::Post).map_err(|()| "method")?;
    }
    let body = request.body().map_err(|()| "body")?;
    let response = handle(request, None).map_err(told)?;
    let mut left = order.send;
    if left > 0 {
        let stream = body.write().map_err(|()| "stream")?;
        while left > 0 {
            let part = left.min(4096);
            let written = stream.blocking_write_and_flush(&vec![b'x'; part]);
            if written.is_err() {
                // The response tells why.
                drop(stream);
                return Ok(response);
            }
            left -= part;
        }
        drop(stream);
    }
    let _ = OutgoingBody::finish(body, None);
    Ok(response)
}

fn end(response: FutureIncomingResponse) -> Result<Told, String> {
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
                head.extend(part.into_iter().take(64 - head.len().min(64)));
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
