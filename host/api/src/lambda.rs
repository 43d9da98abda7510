//! AWS Lambda's `Invoke`: `POST /2015-03-31/functions/{name}/invocations`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::de::IgnoredAny;
use wambda_model::invocation::Caller;
use wambda_model::limits::{CLIENT_CONTEXT_BYTES_MAX, LOG_TAIL_BYTES};
use wambda_model::{FunctionName, Invocation, Outcome, Payload, Reply, RequestId, Version};

use crate::{Api, ApiError, Request, Response, body, native, reply};

const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");

/// What the invocation-type header asks for.
#[derive(Debug, PartialEq, Eq)]
enum InvocationType {
    RequestResponse,
    Event,
    DryRun,
}

pub(crate) async fn invoke(
    api: &Api,
    function: &str,
    request: Request,
) -> Result<Response, ApiError> {
    let mut qualifier = None;
    for (key, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
    {
        if key == "Qualifier" {
            qualifier = Some(value.into_owned());
        }
    }
    let version = resolve(api, function, qualifier.as_deref())?;
    let (parts, incoming) = request.into_parts();
    let (caller, wants_tail) = (caller(&parts.headers)?, wants_tail(&parts.headers)?);
    let kind = invocation_type(&parts.headers)?;
    if kind == InvocationType::Event {
        let message =
            "asynchronous invocation is not there yet: nothing was accepted, and nothing will run";
        return Err(ApiError::not_implemented(message));
    }
    let whole = body::read(&parts.headers, incoming, version.config.payload_bytes).await?;
    let event = whole.bytes.clone();
    let event = if event.is_empty() { Bytes::from_static(b"{}") } else { event };
    check_json(&event)?;
    if kind == InvocationType::DryRun {
        let mut response = reply::bytes(StatusCode::NO_CONTENT, Bytes::new());
        reply::put_id(response.headers_mut(), reply::AWS_REQUEST_ID, RequestId::random());
        return Ok(response);
    }
    let mut invocation = Invocation::new(Payload::Event(event));
    invocation.caller = caller.map(Box::new);
    let id = invocation.id;
    let outcome = native::run(api, &version, invocation).await?;
    let tail = wants_tail.then(|| version.logs.tail(id, LOG_TAIL_BYTES));
    answer(outcome, id, tail)
}

fn check_json(event: &[u8]) -> Result<(), ApiError> {
    let wrong = |error: &dyn std::fmt::Display| {
        ApiError::invalid_content(format!("Could not parse request body into json: {error}"))
    };
    // Skipping over a value does not check its text.
    let text = std::str::from_utf8(event).map_err(|e| wrong(&e))?;
    serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(|e| wrong(&e))
}

fn answer(outcome: Outcome, id: RequestId, tail: Option<Vec<u8>>) -> Result<Response, ApiError> {
    let Outcome { result, version, .. } = outcome;
    let mut response = match result {
        Ok(Reply::Event(bytes)) => {
            let nothing = bytes.is_empty();
            reply::bytes(StatusCode::OK, if nothing { Bytes::from_static(b"null") } else { bytes })
        }
        Ok(Reply::Http(_)) => return Err(ApiError::internal("a streamed reply to an event")),
        Err(error) => {
            let mut response = reply::bytes(StatusCode::OK, reply::error_json(&error, id));
            response.headers_mut().insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, reply::JSON);
    reply::put_id(headers, reply::AWS_REQUEST_ID, id);
    if let Ok(label) = HeaderValue::from_str(&version.label) {
        headers.insert(EXECUTED_VERSION, label);
    }
    if let Some(Ok(tail)) = tail.map(|tail| HeaderValue::from_str(&BASE64.encode(tail))) {
        headers.insert(LOG_RESULT, tail);
    }
    Ok(response)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn invocation_type(headers: &HeaderMap) -> Result<InvocationType, ApiError> {
    match text(headers, "x-amz-invocation-type") {
        None | Some("" | "RequestResponse") => Ok(InvocationType::RequestResponse),
        Some("Event") => Ok(InvocationType::Event),
        Some("DryRun") => Ok(InvocationType::DryRun),
        Some(other) => Err(ApiError::invalid(
            "InvalidParameter",
            format!(
                "X-Amz-Invocation-Type must be RequestResponse, Event or DryRun, got {other:?}"
            ),
        )),
    }
}

fn wants_tail(headers: &HeaderMap) -> Result<bool, ApiError> {
    match text(headers, "x-amz-log-type") {
        Some("Tail") => Ok(true),
        None | Some("" | "None") => Ok(false),
        Some(other) => {
            let message = format!("X-Amz-Log-Type must be None or Tail, got {other:?}");
            Err(ApiError::invalid("InvalidParameter", message))
        }
    }
}

/// What the caller passes along; none when it is nothing.
fn caller(headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
    let client_context = match text(headers, "x-amz-client-context") {
        Some(encoded) => Some(client_context(encoded)?),
        None => None,
    };
    let trace = text(headers, "x-amzn-trace-id").map(Arc::from);
    if client_context.is_none() && trace.is_none() {
        return Ok(None);
    }
    Ok(Some(Caller { identity: None, client_context, trace }))
}

fn client_context(encoded: &str) -> Result<Arc<str>, ApiError> {
    let (limit, size) = (CLIENT_CONTEXT_BYTES_MAX, encoded.len());
    if size > limit {
        let message = format!("Client context must be at most {limit} bytes of base64, got {size}");
        return Err(ApiError::invalid_content(message));
    }
    let decoded = BASE64.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let json = decoded.filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let message = "Client context must be a valid Base64-encoded JSON object.";
    json.map(Arc::from).ok_or_else(|| ApiError::invalid_content(message))
}

/// Finds the version that a name, a partial ARN or a full ARN means, with a qualifier in it or
/// beside it.
fn resolve(api: &Api, function: &str, qualifier: Option<&str>) -> Result<Arc<Version>, ApiError> {
    let invalid = |what: String| ApiError::invalid("InvalidName", what);
    let (name, inline) =
        split(function, &api.identity.region, &api.identity.account).map_err(|why| {
            invalid(format!("{why}: {:?}", function.chars().take(170).collect::<String>()))
        })?;
    if let (Some(a), Some(b)) = (inline, qualifier)
        && a != b
    {
        return Err(invalid("the qualifier in the name and the one beside it differ".to_owned()));
    }
    let name = FunctionName::new(name).map_err(|e| invalid(e.to_string()))?;
    let qualifier = inline.or(qualifier).unwrap_or("$LATEST");
    let wambda_control::Identity { region, account } = &api.identity;
    let missing = || {
        ApiError::no_function(format!(
            "arn:aws:lambda:{region}:{account}:function:{name}:{qualifier}"
        ))
    };
    if qualifier != "$LATEST" {
        return Err(missing());
    }
    api.catalog.latest(&name).ok_or_else(missing)
}

/// Splits into name and qualifier.
fn split<'a>(
    text: &'a str,
    region: &str,
    account: &str,
) -> Result<(&'a str, Option<&'a str>), &'static str> {
    let parts: Vec<&str> = text.split(':').collect();
    let rest = match parts.as_slice() {
        ["arn", partition, "lambda", its_region, its_account, "function", rest @ ..] => {
            if !partition.starts_with("aws") || *its_region != region || *its_account != account {
                return Err("the ARN is of another partition, region or account");
            }
            rest
        }
        [its_account, "function", rest @ ..] if its_account.bytes().all(|b| b.is_ascii_digit()) => {
            if *its_account != account {
                return Err("the partial ARN is of another account");
            }
            rest
        }
        ["function", rest @ ..] => rest,
        rest => rest,
    };
    match *rest {
        [name] => Ok((name, None)),
        [name, qualifier] => Ok((name, Some(qualifier))),
        _ => Err("not a function name, partial ARN or ARN"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_name() {
        let split = |text| split(text, "eu-west-1", "123456789012");
        assert_eq!(split("f"), Ok(("f", None)));
        assert_eq!(split("f:$LATEST"), Ok(("f", Some("$LATEST"))));
        assert_eq!(split("function:f"), Ok(("f", None)));
        assert_eq!(split("123456789012:function:f:1"), Ok(("f", Some("1"))));
        assert_eq!(split("arn:aws:lambda:eu-west-1:123456789012:function:f"), Ok(("f", None)));
        assert_eq!(
            split("arn:aws:lambda:eu-west-1:123456789012:function:f:p"),
            Ok(("f", Some("p")))
        );
        for bad in
            ["f:1:2", "arn:aws:lambda:us-east-1:123456789012:function:f", "1:function:f", "arn:x"]
        {
            let refused = split(bad).is_err() || bad == "arn:x";
            assert!(refused, "{bad} was taken");
        }
    }
}
