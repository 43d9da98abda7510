//! The XML of the query protocol.

use std::fmt::Write as _;

use quick_xml::escape::escape;
use serde_json::Value;
use wambda_model::RequestId;

use super::shape::{Kind, Operation, Service, Shape};

/// `<XResponse><XResult>…</XResult><ResponseMetadata>…</ResponseMetadata></XResponse>`
#[must_use]
pub fn result(service: &Service, operation: &Operation, value: &Value, id: RequestId) -> String {
    let (name, namespace) = (operation.name, service.namespace);
    let mut out = format!("<{name}Response xmlns=\"{namespace}\">");
    if let Some(shape) = operation.output.map(|at| service.shape(at)) {
        element(&mut out, service, shape, &format!("{name}Result"), value);
    }
    let _ = write!(
        out,
        "<ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></{name}Response>"
    );
    out
}

/// `<ErrorResponse><Error>…</Error><RequestId>…</RequestId></ErrorResponse>`
#[must_use]
pub fn error(namespace: &str, sender: bool, code: &str, message: &str, id: RequestId) -> String {
    let who = if sender { "Sender" } else { "Receiver" };
    let (code, message) = (escape(code), escape(message));
    format!(
        "<ErrorResponse xmlns=\"{namespace}\"><Error><Type>{who}</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>{id}</RequestId></ErrorResponse>"
    )
}

fn element(out: &mut String, service: &Service, shape: &Shape, name: &str, value: &Value) {
    let _ = write!(out, "<{name}>");
    match (shape.kind, value) {
        (Kind::Structure, Value::Object(given)) => {
            for member in shape.members {
                if let Some(value) = given.get(member.name) {
                    element(out, service, service.shape(member.shape), member.wire, value);
                }
            }
        }
        (Kind::List, Value::Array(all)) => {
            for value in all {
                element(out, service, service.shape(shape.element), "member", value);
            }
        }
        (Kind::Map, Value::Object(given)) => {
            for (key, value) in given {
                let _ = write!(out, "<entry><key>{}</key>", escape(key.as_str()));
                element(out, service, service.shape(shape.element), "value", value);
                out.push_str("</entry>");
            }
        }
        (Kind::Timestamp, value) => out.push_str(&iso(value.as_f64().unwrap_or_default())),
        (_, Value::String(text)) => {
            // XML 1.0 has no way to write most control characters.
            let legal = |c: &char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
            out.push_str(&escape(text.chars().filter(legal).collect::<String>()));
        }
        (_, other) => {
            let _ = write!(out, "{other}");
        }
    }
    let _ = write!(out, "</{name}>");
}

fn iso(seconds: f64) -> String {
    let at = jiff::Timestamp::from_second(seconds as i64).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
