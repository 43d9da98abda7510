//! Conditions of a statement. Comparisons of texts are made here, within bounds and with variables;
//! the others (numbers, dates, addresses, …) by the crate `iam-rs`. Source: "Condition operators",
//! IAM User Guide.

use iam_rs::{EvaluationOptions, IAMPolicy, PolicyEvaluator};
use serde_json::{Map, Value as Json, json};

use crate::document::MalformedPolicy;
use crate::prepared::{Prepared, Unjudgeable};
use crate::variable::Template;
use crate::wildcard::Text;

/// All conditions of a statement, of which each must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    texts: Vec<Comparison>,
    others: Option<PolicyEvaluator>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Equals,
    EqualsIgnoreCase,
    Like,
}

/// What holds when the fact is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Holds,
    Fails,
}

/// A comparison of a text with values, of which one must fit; or none, when it is negated.
#[derive(Debug, Clone)]
struct Comparison {
    key: String,
    how: How,
    negated: bool,
    absent: Absent,
    values: Vec<Template>,
}

impl Conditions {
    /// Reads normalized conditions whose operators and values the engine has taken.
    pub(crate) fn read(conditions: &Map<String, Json>) -> Result<Self, MalformedPolicy> {
        let mut texts = Vec::new();
        let mut others = Map::new();
        for (operator, keys) in conditions {
            let Some((how, negated, absent)) = comparison(operator) else {
                others.insert(operator.clone(), keys.clone());
                continue;
            };
            for (key, values) in keys.as_object().into_iter().flatten() {
                let values = match values {
                    Json::Array(all) => all.as_slice(),
                    one => std::slice::from_ref(one),
                };
                let read = |value: &Json| match value {
                    Json::String(text) => Template::read(text),
                    other => Template::read(&other.to_string()),
                };
                let values = values.iter().map(read).collect::<Result<_, _>>()?;
                texts.push(Comparison { key: key.clone(), how, negated, absent, values });
            }
        }
        let others = (!others.is_empty()).then(|| engine(&Json::Object(others))).transpose()?;
        Ok(Self { texts, others })
    }

    /// The values with variables.
    pub(crate) fn templates(&self) -> impl Iterator<Item = &Template> {
        self.texts.iter().flat_map(|comparison| &comparison.values)
    }

    /// Whether all of them hold.
    pub(crate) fn hold(&self, request: &Prepared<'_>) -> Result<bool, Unjudgeable> {
        for comparison in &self.texts {
            if !comparison.holds(request)? {
                return Ok(false);
            }
        }
        let Some(others) = &self.others else { return Ok(true) };
        let request = request.engine().ok_or(Unjudgeable)?;
        let result = others.evaluate(request).map_err(|_| Unjudgeable)?;
        Ok(result.decision != iam_rs::Decision::NotApplicable)
    }
}

impl Comparison {
    fn holds(&self, request: &Prepared<'_>) -> Result<bool, Unjudgeable> {
        let Some(fact) = request.fact(&self.key) else { return Ok(self.absent == Absent::Holds) };
        for value in &self.values {
            // A value whose variable has none fits nothing.
            if let Some(value) = value.fill(request)?
                && self.how.fits(fact, &value)
            {
                return Ok(!self.negated);
            }
        }
        Ok(self.negated)
    }
}

impl How {
    fn fits(self, fact: &Text<'_>, value: &str) -> bool {
        match self {
            Self::Equals => fact.as_str() == value,
            Self::EqualsIgnoreCase => fact.as_str().eq_ignore_ascii_case(value),
            Self::Like => fact.fits(value),
        }
    }
}

/// What an operator of texts and ARNs says; none for the others.
fn comparison(operator: &str) -> Option<(How, bool, Absent)> {
    let (set, plain) = match operator.split_once(':') {
        Some((set, plain)) => (Some(set), plain),
        None => (None, operator),
    };
    let (plain, if_exists) =
        plain.strip_suffix("IfExists").map_or((plain, false), |plain| (plain, true));
    let (how, negated) = match plain {
        "StringEquals" => (How::Equals, false),
        "StringNotEquals" => (How::Equals, true),
        "StringEqualsIgnoreCase" => (How::EqualsIgnoreCase, false),
        "StringNotEqualsIgnoreCase" => (How::EqualsIgnoreCase, true),
        "StringLike" | "ArnLike" => (How::Like, false),
        "StringNotLike" | "ArnNotLike" => (How::Like, true),
        _ => return None,
    };
    let holds = match set {
        Some("ForAllValues") => true,
        Some(_) => false,
        None => if_exists || negated,
    };
    Some((how, negated, if holds { Absent::Holds } else { Absent::Fails }))
}

/// The engine for these conditions, of a statement that says nothing else.
fn engine(conditions: &Json) -> Result<PolicyEvaluator, MalformedPolicy> {
    let statement =
        json!({"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": conditions});
    let policy: IAMPolicy =
        serde_json::from_value(json!({"Version": "2012-10-17", "Statement": [statement]}))
            .map_err(|error| MalformedPolicy(format!("a condition is not valid: {error}")))?;
    let options =
        EvaluationOptions { ignore_resource_constraints: true, ..EvaluationOptions::default() };
    Ok(PolicyEvaluator::with_policies(vec![policy]).with_options(options))
}

/// Keys of conditions are not case-sensitive, and the exact ARN operators match patterns (both: IAM
/// User Guide, "Condition operators").
pub(crate) fn normalized(conditions: &Json) -> Result<Map<String, Json>, MalformedPolicy> {
    let bad = || MalformedPolicy("a Condition must be an object of objects".to_owned());
    let mut out: Map<String, Json> = Map::new();
    for (operator, keys) in conditions.as_object().ok_or_else(bad)? {
        let operator =
            operator.replace("ArnEquals", "ArnLike").replace("ArnNotEquals", "ArnNotLike");
        let slot = out.entry(operator).or_insert_with(|| Json::Object(Map::new()));
        let slot = slot.as_object_mut().ok_or_else(bad)?;
        for (key, value) in keys.as_object().ok_or_else(bad)? {
            if slot.insert(key.to_ascii_lowercase(), value.clone()).is_some() {
                return Err(MalformedPolicy(format!("condition key {key:?} is there twice")));
            }
        }
    }
    Ok(out)
}
