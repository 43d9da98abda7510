//! From a request to a JSON value whose members are named as in the model, without anything that the
//! model does not know.

use bytes::Bytes;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use super::check;
use super::shape::{Kind, Location, Operation, Protocol, Service, Shape};
use crate::ApiError;

/// Elements of one list of a query-protocol request.
const FORM_LIST_MAX: usize = 200;
/// Values of one JSON body; a value takes many times the bytes that it is written with.
const VALUES_MAX: usize = 100_000;
/// Nesting of structures; the models' own is below 10.
const DEPTH_MAX: usize = 32;

/// A request that does not have the form of its operation.
fn malformed(why: impl Into<String>) -> ApiError {
    ApiError::aws(400, "SerializationException", why)
}

/// A rest-json request; `labels` are the members of the path, still encoded.
///
/// # Errors
/// `SerializationException` for a wrong form, `ValidationException` for a broken constraint.
pub fn rest<T: DeserializeOwned>(
    service: &'static Service,
    operation: &Operation,
    labels: &[(&str, &str)],
    parts: &Parts,
    body: Bytes,
) -> Result<T, ApiError> {
    let shape = operation.input.map(|at| service.shape(at));
    let Some(shape) = shape else { return typed(service, None, Map::new()) };
    let mut given = Map::new();
    let mut sent = if shape.members.iter().any(|m| m.location == Location::Body) {
        object(&body)?
    } else {
        Map::new()
    };
    // Code in base64 is large: it is there once, and not copied.
    drop(body);
    let query: Vec<(String, String)> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    for member in shape.members {
        let target = service.shape(member.shape);
        let value = match member.location {
            Location::Uri => {
                let label = labels.iter().find(|(name, _)| *name == member.wire);
                label.map(|(_, text)| plain(target, &decode(text))).transpose()?
            }
            Location::Query => {
                let all: Vec<&str> = query
                    .iter()
                    .filter(|(key, _)| key == member.wire)
                    .map(|(_, value)| value.as_str())
                    .collect();
                match (target.kind, all.first()) {
                    (_, None) => None,
                    (Kind::List, _) => {
                        let element = service.shape(target.element);
                        let all = all.iter().map(|text| plain(element, text));
                        Some(Value::Array(all.collect::<Result<_, _>>()?))
                    }
                    (_, Some(text)) => Some(plain(target, text)?),
                }
            }
            Location::Header => match parts.headers.get(member.wire) {
                Some(value) => Some(plain(target, &String::from_utf8_lossy(value.as_bytes()))?),
                None => None,
            },
            Location::Body => match sent.remove(member.wire) {
                Some(value) => coerce(service, target, value, member.wire, 0)?,
                None => None,
            },
            Location::Status => None,
        };
        given.extend(value.map(|value| (member.name.to_owned(), value)));
    }
    typed(service, Some(shape), given)
}

/// A request whose members are all in one JSON or CBOR object.
///
/// # Errors
/// As [`rest`].
pub fn whole<T: DeserializeOwned>(
    service: &'static Service,
    operation: &Operation,
    sent: Value,
) -> Result<T, ApiError> {
    let Some(shape) = operation.input.map(|at| service.shape(at)) else {
        return typed(service, None, Map::new());
    };
    let Some(Value::Object(given)) = coerce(service, shape, sent, "", 0)? else {
        return Err(malformed("the body must be an object"));
    };
    typed(service, Some(shape), given)
}

/// A query-protocol request: `Member.member.1=…` for lists, `Member.Sub=…` for structures.
///
/// # Errors
/// As [`rest`].
pub fn form<T: DeserializeOwned>(
    service: &'static Service,
    operation: &Operation,
    pairs: &[(String, String)],
) -> Result<T, ApiError> {
    let Some(shape) = operation.input.map(|at| service.shape(at)) else {
        return typed(service, None, Map::new());
    };
    match unfold(service, shape, pairs, "", 0)? {
        Some(Value::Object(given)) => typed(service, Some(shape), given),
        _ => typed(service, Some(shape), Map::new()),
    }
}

fn unfold(
    service: &Service,
    shape: &Shape,
    pairs: &[(String, String)],
    at: &str,
    depth: usize,
) -> Result<Option<Value>, ApiError> {
    if depth > DEPTH_MAX {
        return Err(malformed("the request is nested too deeply"));
    }
    let below = |part: &str| if at.is_empty() { part.to_owned() } else { format!("{at}.{part}") };
    let within = |prefix: &str| {
        pairs.iter().any(|(key, _)| {
            key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    match shape.kind {
        Kind::Structure => {
            let mut out = Map::new();
            for member in shape.members {
                let found = unfold(
                    service,
                    service.shape(member.shape),
                    pairs,
                    &below(member.wire),
                    depth + 1,
                )?;
                out.extend(found.map(|value| (member.name.to_owned(), value)));
            }
            let given = depth == 0 || !out.is_empty() || within(at);
            Ok(given.then_some(Value::Object(out)))
        }
        Kind::List => {
            let element = service.shape(shape.element);
            let mut out = Vec::new();
            while out.len() < FORM_LIST_MAX {
                let place = below(&format!("member.{}", out.len() + 1));
                if !within(&place) {
                    break;
                }
                let Some(found) = unfold(service, element, pairs, &place, depth + 1)? else {
                    break;
                };
                out.push(found);
            }
            let given = !out.is_empty() || within(at);
            Ok(given.then_some(Value::Array(out)))
        }
        Kind::Map => {
            let value = service.shape(shape.element);
            let mut out = Map::new();
            while out.len() < FORM_LIST_MAX {
                let entry = below(&format!("entry.{}", out.len() + 1));
                let key = pairs.iter().find(|(k, _)| *k == format!("{entry}.key"));
                let Some((_, key)) = key else { break };
                let found = unfold(service, value, pairs, &format!("{entry}.value"), depth + 1)?;
                out.insert(key.clone(), found.unwrap_or_default());
            }
            Ok((!out.is_empty()).then_some(Value::Object(out)))
        }
        _ => {
            let text = pairs.iter().find(|(key, _)| key == at);
            text.map(|(_, text)| plain(shape, text)).transpose()
        }
    }
}

/// A JSON object; nothing counts as an empty one.
///
/// # Errors
/// `SerializationException` for anything else.
pub fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    // Commas and colons in texts count as well; what is large are texts in base64, without any.
    let values = body.iter().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
    if values > VALUES_MAX {
        let what = format!("the body may have {VALUES_MAX} values, it has up to {values}");
        return Err(malformed(what));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(malformed("the body must be a JSON object")),
        Err(error) => Err(malformed(format!("could not parse request body into json: {error}"))),
    }
}

fn decode(label: &str) -> String {
    percent_encoding::percent_decode_str(label).decode_utf8_lossy().into_owned()
}

/// Text from a path, a query, a header or a form.
fn plain(shape: &Shape, text: &str) -> Result<Value, ApiError> {
    let wrong = |what: &str| malformed(format!("{text:?} cannot be converted to {what}"));
    Ok(match shape.kind {
        Kind::Integer => Value::from(text.parse::<i64>().map_err(|_| wrong("an integer"))?),
        Kind::Double => number(text).ok_or_else(|| wrong("a number"))?,
        Kind::Boolean => match text {
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            _ => return Err(wrong("a boolean")),
        },
        Kind::Timestamp => seconds(text).ok_or_else(|| wrong("a timestamp"))?,
        _ => Value::from(text),
    })
}

fn number(text: &str) -> Option<Value> {
    text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number)
}

fn seconds(text: &str) -> Option<Value> {
    if let Some(number) = number(text) {
        return Some(number);
    }
    let at: jiff::Timestamp = text.parse().ok()?;
    Number::from_f64(at.as_millisecond() as f64 / 1e3).map(Value::Number)
}

/// A JSON value in the form of `shape`; nulls and unknown members are left out.
fn coerce(
    service: &Service,
    shape: &Shape,
    value: Value,
    at: &str,
    depth: usize,
) -> Result<Option<Value>, ApiError> {
    if depth > DEPTH_MAX {
        return Err(malformed("the request is nested too deeply"));
    }
    let wrong = |what: &str| malformed(format!("{at} must be {what}"));
    Ok(Some(match (shape.kind, value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Structure, Value::Object(mut given)) => {
            let mut out = Map::new();
            for member in shape.members {
                if let Some(value) = given.remove(member.wire) {
                    let target = service.shape(member.shape);
                    let found = coerce(service, target, value, member.wire, depth + 1)?;
                    out.extend(found.map(|value| (member.name.to_owned(), value)));
                }
            }
            Value::Object(out)
        }
        (Kind::List, Value::Array(all)) => {
            let element = service.shape(shape.element);
            let mut out = Vec::with_capacity(all.len());
            for value in all {
                out.extend(coerce(service, element, value, at, depth + 1)?);
            }
            Value::Array(out)
        }
        (Kind::Map, Value::Object(given)) => {
            let element = service.shape(shape.element);
            let mut out = Map::new();
            for (key, value) in given {
                out.extend(
                    coerce(service, element, value, at, depth + 1)?.map(|value| (key, value)),
                );
            }
            Value::Object(out)
        }
        (Kind::String | Kind::Blob, value @ Value::String(_))
        | (Kind::Boolean, value @ Value::Bool(_))
        | (Kind::Double, value @ Value::Number(_)) => value,
        (Kind::Timestamp, Value::String(text)) => {
            seconds(&text).ok_or_else(|| wrong("a timestamp"))?
        }
        (Kind::Timestamp, Value::Number(number)) => {
            let seconds = number.as_f64().and_then(Number::from_f64);
            seconds.map(Value::Number).ok_or_else(|| wrong("a timestamp"))?
        }
        (Kind::Integer, Value::Number(number)) => {
            let whole = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15);
            let whole = number.as_i64().or_else(|| whole.map(|f| f as i64));
            Value::from(whole.ok_or_else(|| wrong("an integer"))?)
        }
        (kind, _) => return Err(wrong(&format!("a {kind:?}").to_lowercase())),
    }))
}

/// Checks the constraints, and makes the type.
fn typed<T: DeserializeOwned>(
    service: &Service,
    shape: Option<&Shape>,
    given: Map<String, Value>,
) -> Result<T, ApiError> {
    let given = Value::Object(given);
    if let Some(shape) = shape {
        let broken = check::check(service, shape, &given);
        if let Some(message) = check::message(&broken) {
            let code = match service.protocol {
                Protocol::RestJson => "ValidationException",
                Protocol::Json if service.name == "logs" => "InvalidParameterException",
                Protocol::Query => "ValidationError",
                Protocol::Json | Protocol::Cbor => "InvalidParameterValue",
            };
            return Err(ApiError::aws(400, code, message));
        }
    }
    serde_json::from_value(given).map_err(|error| malformed(error.to_string()))
}
