//! Functions as HTTP endpoints: `/fn/{name}[:{qualifier}]/{path…}`. The http kinds get the request
//! itself, streamed both ways; the others get it as an API Gateway event.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use wambda_model::limits::STREAM_BYTES_MAX;
use wambda_model::{
    BodyError, FunctionError, FunctionName, Invocation, KillReason, Outcome, Payload, Reply,
    RequestId, clock,
};

use crate::gateway::{self, Origin};
use crate::{Api, ApiError, Request, Response, body, native, reply};

pub(crate) async fn serve(
    api: &Api,
    name: &str,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let (name, qualifier) = name.split_once(':').unwrap_or((name, "$LATEST"));
    let name =
        FunctionName::new(name).map_err(|e| ApiError::invalid("InvalidName", e.to_string()))?;
    if qualifier != "$LATEST" {
        return Err(ApiError::no_function(format!("{name}:{qualifier}")));
    }
    let version = native::version_of(api, &name)?;
    let id = RequestId::random();
    let (mut parts, incoming) = request.into_parts();
    let path = inner_path(&parts.uri)?;
    let payload = if version.kind.is_http() {
        let incoming = body::Rest::new(&parts.headers, incoming);
        forward(&mut parts, &path, peer)?;
        let limited =
            Limited::new(incoming, usize::try_from(STREAM_BYTES_MAX).unwrap_or(usize::MAX));
        Payload::Http(http::Request::from_parts(
            parts,
            limited.map_err(BodyError::new).boxed_unsync(),
        ))
    } else {
        let content = body::read(&parts.headers, incoming, version.config.payload_bytes).await?;
        let origin = Origin {
            id,
            account: &api.identity.account,
            function: name.as_str(),
            path: path.path(),
            source_ip: peer.ip().to_string(),
            unix_ms: clock::unix_ms(),
        };
        Payload::Event(gateway::event_from_request(&parts, &content.bytes, &origin))
    };
    let invocation = Invocation { id, payload, caller: None, attempt: 1 };
    let Outcome { result, report, .. } = api.invoke.invoke(&version, invocation).await?;
    let answered = result.and_then(|given| match given {
        Reply::Http(response) => Ok(response),
        Reply::Event(bytes) => gateway::response_from_result(&bytes)
            .map_err(|why| FunctionError::returned("Runtime.InvalidResponse", why, Vec::new())),
    });
    let mut response = answered.unwrap_or_else(|error| failed(&error));
    reply::report_headers(response.headers_mut(), id, &report);
    Ok(response)
}

/// What remains of `/fn/NAME/path?query`.
fn inner_path(uri: &Uri) -> Result<PathAndQuery, ApiError> {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = whole.strip_prefix("/fn/").unwrap_or(whole);
    let inner = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at).1,
        None => "/",
    };
    let inner = if inner.starts_with('?') { format!("/{inner}") } else { inner.to_owned() };
    inner.parse().map_err(|e| ApiError::invalid("InvalidPath", format!("{e}")))
}

/// Turns the request to the server into the request to the function.
fn forward(
    parts: &mut http::request::Parts,
    path: &PathAndQuery,
    peer: SocketAddr,
) -> Result<(), ApiError> {
    parts.uri = Uri::from(path.clone());
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        parts.headers.remove(name);
    }
    let address = peer.ip().to_string();
    let chain = match parts.headers.get("x-forwarded-for").and_then(|v| v.to_str().ok()) {
        Some(before) => format!("{before}, {address}"),
        None => address,
    };
    let chain = HeaderValue::from_str(&chain).map_err(|e| ApiError::internal(&e.to_string()))?;
    parts.headers.insert("x-forwarded-for", chain);
    parts.headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    Ok(())
}

/// A failed function, as strangers see it: that it failed, not how. The type is in a header.
fn failed(error: &FunctionError) -> Response {
    let (status, text) = match error.kill {
        Some(KillReason::Timeout) => {
            (StatusCode::GATEWAY_TIMEOUT, r#"{"message":"Endpoint request timed out"}"#)
        }
        _ => (StatusCode::BAD_GATEWAY, r#"{"message":"Internal Server Error"}"#),
    };
    let mut response = reply::bytes(status, Bytes::from_static(text.as_bytes()));
    response.headers_mut().insert(http::header::CONTENT_TYPE, reply::JSON);
    reply::error_header(response.headers_mut(), error);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_own_path() {
        for (outer, inner) in [
            ("/fn/f", "/"),
            ("/fn/f/", "/"),
            ("/fn/f?x=1", "/?x=1"),
            ("/fn/f/?x=1", "/?x=1"),
            ("/fn/f:$LATEST/a//b?c", "/a//b?c"),
            ("/fn/f/%2F..%2F", "/%2F..%2F"),
        ] {
            assert_eq!(inner_path(&outer.parse().unwrap()).unwrap().as_str(), inner, "{outer}");
        }
    }
}
