//! From a typed response to HTTP, by protocol.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value};
use wambda_model::RequestId;

use super::shape::{Kind, Location, Operation, Protocol, Service, Shape};
use super::{cbor, xml};
use crate::{ApiError, Response, reply};

/// The answer of an operation.
///
/// # Errors
/// When the type does not serialize, which the generated ones do.
pub fn respond(
    service: &'static Service,
    operation: &Operation,
    value: &impl Serialize,
) -> Result<Response, ApiError> {
    let value = serde_json::to_value(value).map_err(|e| ApiError::internal(&e.to_string()))?;
    let Value::Object(mut value) = without_nulls(value) else {
        return Err(ApiError::internal("a response that is no structure"));
    };
    let status = StatusCode::from_u16(operation.status).unwrap_or(StatusCode::OK);
    let output = operation.output.map(|at| service.shape(at));
    let id = RequestId::random();
    let mut response = match service.protocol {
        Protocol::RestJson => {
            let headers = take_headers(service, output, &mut value);
            let empty = status == StatusCode::NO_CONTENT || output.is_none();
            let body = if empty { String::new() } else { Value::Object(value).to_string() };
            let mut response = reply::bytes(status, body);
            if !empty {
                response.headers_mut().insert(CONTENT_TYPE, reply::JSON);
            }
            response.headers_mut().extend(headers);
            response
        }
        Protocol::Json => {
            let empty = output.is_none();
            let body = if empty { String::new() } else { Value::Object(value).to_string() };
            let mut response = reply::bytes(status, body);
            response.headers_mut().insert(CONTENT_TYPE, JSON_1_1);
            response
        }
        Protocol::Query => {
            let body = xml::result(service, operation, &Value::Object(value), id);
            let mut response = reply::bytes(status, body);
            response.headers_mut().insert(CONTENT_TYPE, XML);
            response
        }
        Protocol::Cbor => {
            let body = cbor::encode(service, output, Value::Object(value))?;
            let mut response = reply::bytes(status, body);
            response.headers_mut().insert(CONTENT_TYPE, cbor::CBOR);
            response.headers_mut().insert(cbor::SMITHY_PROTOCOL, cbor::RPC_V2);
            response
        }
    };
    reply::put_id(response.headers_mut(), reply::AWS_REQUEST_ID, id);
    Ok(response)
}

/// The content type of JSON 1.1.
pub const JSON_1_1: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");
/// The content type of the query protocol's answers.
pub const XML: HeaderValue = HeaderValue::from_static("text/xml");

/// Takes the members that are headers.
fn take_headers(
    service: &Service,
    output: Option<&Shape>,
    value: &mut Map<String, Value>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for member in output.map_or(&[][..], |shape| shape.members) {
        let scalar = !matches!(
            service.shape(member.shape).kind,
            Kind::Structure | Kind::List | Kind::Map | Kind::Blob
        );
        if member.location == Location::Body || !scalar {
            continue;
        }
        let Some(taken) = value.remove(member.name) else { continue };
        let text = taken.as_str().map_or_else(|| taken.to_string(), str::to_owned);
        if let (Location::Header, Ok(name), Ok(text)) = (
            member.location,
            HeaderName::from_bytes(member.wire.as_bytes()),
            HeaderValue::from_str(&text),
        ) {
            headers.push((name, text));
        }
    }
    headers
}

/// What is absent is left out.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(all) => {
            let there = all.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(there.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
