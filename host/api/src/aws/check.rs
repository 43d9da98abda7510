//! The constraints of a request, with AWS's texts: `1 validation error detected: Value 'x' at
//! 'functionName' failed to satisfy constraint: Member must …`.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;
use serde_json::Value;

use super::shape::{Kind, Service, Shape};

/// Broken constraints that one answer lists.
const LISTED_MAX: usize = 10;
/// Broken constraints that are looked for: a request may have millions.
const FOUND_MAX: usize = 50;
/// Characters of a value that an answer repeats.
const SHOWN_MAX: usize = 500;

/// Every broken constraint of `value`.
#[must_use]
pub fn check(service: &Service, shape: &Shape, value: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    walk(service, shape, value, "", &mut broken);
    broken
}

/// All of them as one text; none when there is none.
#[must_use]
pub fn message(broken: &[String]) -> Option<String> {
    let count = broken.len();
    let plural = if count == 1 { "" } else { "s" };
    let listed = broken.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join("; ");
    (count > 0).then(|| format!("{count} validation error{plural} detected: {listed}"))
}

fn walk(service: &Service, shape: &Shape, value: &Value, at: &str, broken: &mut Vec<String>) {
    if broken.len() >= FOUND_MAX {
        return;
    }
    match (shape.kind, value) {
        (Kind::Structure, Value::Object(given)) => {
            for member in shape.members {
                let at = below(at, member.name);
                match given.get(member.name) {
                    // AWS looks at a function's runtime later, and says so in other words.
                    Some(_) if service.shape(member.shape).name == "Runtime" => {}
                    Some(value) => walk(service, service.shape(member.shape), value, &at, broken),
                    None if member.required => {
                        broken.push(failed("null", &at, "Member must not be null"));
                    }
                    None => {}
                }
            }
        }
        (Kind::List, Value::Array(all)) => {
            if !length(shape, all.len(), value, at, broken) {
                return;
            }
            let element = service.shape(shape.element);
            if has_parts(element) {
                for (index, one) in all.iter().enumerate() {
                    walk(service, element, one, &format!("{at}.{}.member", index + 1), broken);
                }
            } else if let Some(why) = all.iter().find_map(|one| scalar_fault(element, one)) {
                broken.push(failed(&shown(value), at, &each("Member", &why)));
            }
        }
        (Kind::Map, Value::Object(given)) => {
            if !length(shape, given.len(), value, at, broken) {
                return;
            }
            let (key_shape, element) = (service.shape(shape.key), service.shape(shape.element));
            let mut keys = given.keys().map(|key| scalar_fault(key_shape, &Value::from(&**key)));
            if let Some(why) = keys.find_map(|fault| fault) {
                broken.push(failed(&shown(value), at, &each("Map keys", &why)));
            }
            if has_parts(element) {
                for (key, one) in given {
                    let key: String = key.chars().take(SHOWN_MAX).collect();
                    walk(service, element, one, &format!("{at}.{key}.member"), broken);
                }
            } else if let Some(why) = given.values().find_map(|one| scalar_fault(element, one)) {
                broken.push(failed(&shown(value), at, &each("Map value", &why)));
            }
        }
        _ => {
            if let Some(why) = scalar_fault(shape, value) {
                broken.push(failed(&shown(value), at, &why));
            }
        }
    }
}

fn has_parts(shape: &Shape) -> bool {
    matches!(shape.kind, Kind::Structure | Kind::List | Kind::Map)
}

/// What all elements, keys or values must be.
fn each(noun: &str, why: &str) -> String {
    format!("{noun} must satisfy constraint: [{why}, Member must not be null]")
}

/// Whether there are neither too few nor too many.
fn length(shape: &Shape, length: usize, value: &Value, at: &str, broken: &mut Vec<String>) -> bool {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let why = if length < shape.min {
        format!("Member must have length greater than or equal to {}", shape.min)
    } else if length > shape.max {
        format!("Member must have length less than or equal to {}", shape.max)
    } else {
        return true;
    };
    broken.push(failed(&shown(value), at, &why));
    false
}

/// What is wrong with a value that has no parts.
fn scalar_fault(shape: &Shape, value: &Value) -> Option<String> {
    let (measured, noun) = match (shape.kind, value) {
        (Kind::String, Value::String(text)) => (text.chars().count() as f64, "length"),
        (Kind::Integer | Kind::Double, Value::Number(number)) => (number.as_f64()?, "value"),
        _ => return None,
    };
    if measured < shape.min as f64 {
        return Some(format!("Member must have {noun} greater than or equal to {}", shape.min));
    }
    if measured > shape.max as f64 {
        return Some(format!("Member must have {noun} less than or equal to {}", shape.max));
    }
    let text = value.as_str()?;
    if !shape.one_of.is_empty() && !shape.one_of.contains(&text) {
        return Some(format!("Member must satisfy enum value set: [{}]", shape.one_of.join(", ")));
    }
    if !shape.pattern.is_empty() && !matches(shape.pattern, text) {
        return Some(format!("Member must satisfy regular expression pattern: {}", shape.pattern));
    }
    None
}

/// Whether all of `text` matches. Patterns that look around are not regular; what they say is
/// checked where their members are used.
fn matches(pattern: &'static str, text: &str) -> bool {
    static COMPILED: LazyLock<Mutex<HashMap<&'static str, Option<Regex>>>> =
        LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let regex = compiled.entry(pattern).or_insert_with(|| compile(pattern).ok());
    // A clone shares the program: matching is outside of the lock.
    let regex = regex.clone();
    drop(compiled);
    regex.is_none_or(|regex| regex.is_match(text))
}

/// The models write characters as JavaScript does: `\u0009`.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    let parts: Vec<&str> = pattern.split("\\u").collect();
    let mut out = String::new();
    for (at, part) in parts.iter().enumerate() {
        match part.split_at_checked(4).filter(|_| at > 0) {
            Some((digits, rest)) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                out.push_str(&format!("\\x{{{digits}}}{rest}"));
            }
            _ if at > 0 => out.push_str(&format!("\\u{part}")),
            _ => out.push_str(part),
        }
    }
    Regex::new(&format!("^(?:{out})$"))
}

fn failed(shown: &str, at: &str, why: &str) -> String {
    let quoted = if shown == "null" { shown.to_owned() } else { format!("'{shown}'") };
    format!("Value {quoted} at '{at}' failed to satisfy constraint: {why}")
}

fn below(at: &str, name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    let name: String = first.into_iter().chain(chars).collect();
    if at.is_empty() { name } else { format!("{at}.{name}") }
}

/// A value as AWS's messages show it: Java's `toString`. No more of it is looked at than is shown.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => return text.chars().take(SHOWN_MAX).collect(),
        Value::Array(all) => {
            let all: Vec<String> = all.iter().take(SHOWN_MAX).map(shown).collect();
            format!("[{}]", all.join(", "))
        }
        Value::Object(all) => {
            let all = all.iter().take(SHOWN_MAX);
            let all: Vec<String> = all.map(|(k, v)| format!("{k}={}", shown(v))).collect();
            format!("{{{}}}", all.join(", "))
        }
        other => other.to_string(),
    };
    text.chars().take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::generated::{iam, lambda};
    use serde_json::json;

    fn broken(operation: &str, value: &Value) -> String {
        let operation = lambda::SERVICE.operation(operation).unwrap();
        let shape = lambda::SERVICE.shape(operation.input.unwrap());
        message(&check(&lambda::SERVICE, shape, value)).unwrap_or_default()
    }

    #[test]
    fn messages_are_those_of_aws() {
        let good = json!({"FunctionName": "f", "Name": "a", "FunctionVersion": "1"});
        assert_eq!(broken("CreateAlias", &good), "");
        let mut bad = good.clone();
        bad["FunctionVersion"] = json!("x y");
        assert_eq!(
            broken("CreateAlias", &bad),
            "1 validation error detected: Value 'x y' at 'functionVersion' failed to satisfy \
             constraint: Member must satisfy regular expression pattern: (\\$LATEST(\\.PUBLISHED)?|[0-9]+)"
        );
        let request = json!({"FunctionName": "f", "Role": "arn:aws:iam::123456789012:role/r", "Code": {},
            "Architectures": ["arm"], "EphemeralStorage": {"Size": 3_000_000}});
        let said = broken("CreateFunction", &request);
        assert!(said.starts_with("2 validation errors detected: "), "{said}");
        assert!(said.contains(
            "Value '[arm]' at 'architectures' failed to satisfy constraint: Member must satisfy \
             constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"
        ), "{said}");
        assert!(said.contains(
            "Value '3000000' at 'ephemeralStorage.size' failed to satisfy constraint: Member must \
             have value less than or equal to 10240"
        ), "{said}");
        assert!(broken("CreateAlias", &json!({})).contains("Value null at 'functionName'"));
    }

    #[test]
    fn every_pattern_compiles_or_looks_around() {
        for shape in lambda::SERVICE.shapes.iter().chain(iam::SERVICE.shapes) {
            let compiles = compile(shape.pattern).is_ok();
            let looks = ["(?!", "(?<"].iter().any(|mark| shape.pattern.contains(mark));
            assert!(compiles || looks, "{}: {}", shape.name, shape.pattern);
        }
    }
}
