//! Smithy RPC v2 CBOR (the protocol of CloudWatch's newer clients): bodies to JSON values and back.
//! Source: "Smithy RPC v2 CBOR protocol", smithy.io.

use bytes::Bytes;
use ciborium::Value as Cbor;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Number, Value};

use super::shape::{Kind, Service, Shape};
use crate::ApiError;

/// The content type.
pub const CBOR: HeaderValue = HeaderValue::from_static("application/cbor");
/// Tells the protocol.
pub const SMITHY_PROTOCOL: HeaderName = HeaderName::from_static("smithy-protocol");
/// This protocol.
pub const RPC_V2: HeaderValue = HeaderValue::from_static("rpc-v2-cbor");

/// RFC 8949, 3.4.2: seconds since the epoch.
const TAG_EPOCH: u64 = 1;
/// Nesting that is read.
const DEPTH_MAX: usize = 32;

fn malformed(why: impl Into<String>) -> ApiError {
    ApiError::aws(400, "SerializationException", why)
}

/// A body as a JSON value; nothing counts as an empty object.
///
/// # Errors
/// `SerializationException` for what is no CBOR.
pub fn decode(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let read = ciborium::de::from_reader_with_recursion_limit::<Cbor, _>(body, DEPTH_MAX);
    json(read.map_err(|error| malformed(error.to_string()))?)
}

fn json(value: Cbor) -> Result<Value, ApiError> {
    Ok(match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(value) => value.into(),
        Cbor::Integer(value) => i64::try_from(value).map_err(|e| malformed(e.to_string()))?.into(),
        Cbor::Float(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
        Cbor::Text(text) => text.into(),
        Cbor::Tag(TAG_EPOCH, inner) => json(*inner)?,
        Cbor::Array(all) => Value::Array(all.into_iter().map(json).collect::<Result<_, _>>()?),
        Cbor::Map(all) => {
            let mut out = Map::new();
            for (key, value) in all {
                let Cbor::Text(key) = key else { return Err(malformed("map keys must be text")) };
                out.insert(key, json(value)?);
            }
            Value::Object(out)
        }
        _ => return Err(malformed("this CBOR type is not expected here")),
    })
}

/// A value as CBOR, its timestamps and numbers by shape.
///
/// # Errors
/// When it cannot be written.
pub fn encode(service: &Service, shape: Option<&Shape>, value: Value) -> Result<Bytes, ApiError> {
    let value = match shape {
        Some(shape) => cbor(service, shape, value),
        None => Cbor::Map(Vec::new()),
    };
    let mut out = Vec::new();
    ciborium::into_writer(&value, &mut out).map_err(|e| ApiError::internal(&e.to_string()))?;
    Ok(out.into())
}

/// An error as CBOR.
#[must_use]
pub fn error(code: &str, message: &str) -> Bytes {
    let text = |text: &str| Cbor::Text(text.to_owned());
    let value = Cbor::Map(vec![(text("__type"), text(code)), (text("message"), text(message))]);
    let mut out = Vec::new();
    let _ = ciborium::into_writer(&value, &mut out);
    out.into()
}

fn cbor(service: &Service, shape: &Shape, value: Value) -> Cbor {
    match (shape.kind, value) {
        (Kind::Structure, Value::Object(mut given)) => {
            let members = shape.members.iter().filter_map(|member| {
                let value = given.remove(member.name)?;
                let value = cbor(service, service.shape(member.shape), value);
                Some((Cbor::Text(member.wire.to_owned()), value))
            });
            Cbor::Map(members.collect())
        }
        (Kind::List, Value::Array(all)) => {
            let element = service.shape(shape.element);
            Cbor::Array(all.into_iter().map(|value| cbor(service, element, value)).collect())
        }
        (Kind::Map, Value::Object(given)) => {
            let element = service.shape(shape.element);
            let all = given.into_iter();
            Cbor::Map(all.map(|(key, v)| (Cbor::Text(key), cbor(service, element, v))).collect())
        }
        (Kind::Timestamp, value) => {
            Cbor::Tag(TAG_EPOCH, Box::new(Cbor::Float(value.as_f64().unwrap_or_default())))
        }
        (Kind::Double, value) => Cbor::Float(value.as_f64().unwrap_or_default()),
        (_, Value::Number(number)) => match number.as_i64() {
            Some(whole) => Cbor::Integer(whole.into()),
            None => Cbor::Float(number.as_f64().unwrap_or_default()),
        },
        (_, Value::Bool(value)) => Cbor::Bool(value),
        (_, Value::String(text)) => Cbor::Text(text),
        _ => Cbor::Null,
    }
}
