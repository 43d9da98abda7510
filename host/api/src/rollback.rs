//! Rollback rules of aliases: `/v1/functions/{name}/aliases/{alias}/rollback`, and the judge that
//! enforces them.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use wambda_model::canary::{RollbackRule, Rolled};
use wambda_model::{Alias, Details, Function, FunctionName, LogLine, RequestId, clock};

use crate::{Api, ApiError, Response, logs, reply};

fn no_alias(name: &FunctionName, alias: &str) -> ApiError {
    let alias: String = alias.chars().take(130).collect();
    ApiError::aws(404, "AliasNotFound", format!("there is no alias {alias:?} of {name}"))
}

fn wrong(message: String) -> ApiError {
    ApiError::invalid("InvalidParameter", message)
}

/// A rule by query parameters: `window=60&samples=20&error_ratio=0.05&p99_factor=2&p99_ms=100`.
/// What is left out is the default, or nothing when any threshold is given.
fn read(query: &str) -> Result<RollbackRule, ApiError> {
    let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        form_urlencoded::parse(query.as_bytes()).collect();
    let mut rule = RollbackRule::default();
    if pairs.iter().any(|(key, _)| key.starts_with("p99") || key == "error_ratio") {
        rule.error_ratio = None;
    }
    for (key, value) in &pairs {
        let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
        let number = number.ok_or_else(|| wrong(format!("{key} takes a number, got {value:?}")))?;
        match &**key {
            "window" => rule.window_ms = (number * 1e3).round() as u64,
            "samples" => rule.samples_min = number.round() as u32,
            "error_ratio" => rule.error_ratio = Some(number),
            "p99_factor" => rule.p99_factor = Some(number),
            "p99_ms" => rule.p99_ms = Some(number),
            other => {
                return Err(wrong(format!(
                    "unknown parameter {other:?}: known are window (seconds), samples, error_ratio, p99_factor and p99_ms"
                )));
            }
        }
    }
    rule.check()?;
    Ok(rule)
}

fn shown(alias: &Alias) -> Value {
    let rule = alias.rollback.as_ref().map(|rule| {
        json!({
            "window": rule.window_ms as f64 / 1e3,
            "samples": rule.samples_min,
            "error_ratio": rule.error_ratio,
            "p99_factor": rule.p99_factor,
            "p99_ms": rule.p99_ms,
        })
    });
    let rolled = alias.rolled.as_ref().map(|rolled| {
        let time = logs::timestamp(rolled.unix_ms);
        json!({"time": time, "from": rolled.from, "to": rolled.to, "reason": rolled.reason})
    });
    let canary = alias.canary.as_ref();
    json!({
        "alias": alias.name,
        "version": alias.version,
        "canary": canary.map(|(version, weight)| json!({"version": version, "weight": weight})),
        "rule": rule,
        "rolled_back": rolled,
    })
}

/// `GET /v1/functions/{name}/aliases/{alias}/rollback`
pub(crate) fn describe(api: &Api, name: &FunctionName, alias: &str) -> Result<Response, ApiError> {
    let function = api.catalog.get(name).ok_or_else(|| ApiError::no_function(name))?;
    let found = function.details.aliases.get(alias).ok_or_else(|| no_alias(name, alias))?;
    Ok(reply::json(StatusCode::OK, &shown(found)))
}

/// `PUT` and `DELETE` of the same.
pub(crate) async fn change(
    api: &Api,
    name: &FunctionName,
    alias: &str,
    query: Option<&str>,
) -> Result<Response, ApiError> {
    let rule = query.map(read).transpose()?;
    if api.catalog.get(name).is_none() {
        return Err(ApiError::no_function(name));
    }
    let (label, owner, deletes) = (alias.to_owned(), name.clone(), rule.is_none());
    let change = move |_: &Function, details: &mut Details| {
        let known = details.aliases.get(&label).ok_or_else(|| no_alias(&owner, &label))?;
        let changed = Alias { rollback: rule, ..(**known).clone() };
        let text = shown(&changed);
        details.aliases.insert(label, Arc::new(changed));
        Ok::<_, ApiError>(text)
    };
    let (text, _) = api.functions.edit(name, change).await?;
    if deletes {
        return Ok(reply::bytes(StatusCode::NO_CONTENT, Bytes::new()));
    }
    Ok(reply::json(StatusCode::OK, &text))
}

/// The version that is new behind an alias, and the one to go back to: a canary and its elder, or
/// what the alias was switched to within the window and what it was before.
fn rivals<'a>(alias: &'a Alias, rule: &RollbackRule, now_ms: u64) -> Option<(&'a str, &'a str)> {
    if let Some((canary, _)) = &alias.canary {
        return Some((canary, &alias.version));
    }
    let (before, switched_ms) = alias.previous.as_ref()?;
    let is_new = now_ms.saturating_sub(*switched_ms) <= rule.window_ms;
    is_new.then_some((alias.version.as_str(), before.as_str()))
}

/// Judges every alias that has a rule, and takes bad versions out of service. Idempotent; run on a
/// period.
pub async fn judge(api: &Api) {
    let now = clock::unix_ms();
    let mut sentences = Vec::new();
    for function in api.catalog.load().iter() {
        for alias in function.details.aliases.values() {
            let Some(rule) = &alias.rollback else { continue };
            let Some((new, old)) = rivals(alias, rule, now) else { continue };
            if function.version(old).is_none() {
                continue;
            }
            if let Some(reason) = alias.watch.judge(rule, new, old, now) {
                let rolled =
                    Rolled { from: new.to_owned(), to: old.to_owned(), reason, unix_ms: now };
                sentences.push((function.name().clone(), alias.name.clone(), rolled));
            }
        }
    }
    for (name, alias, rolled) in sentences {
        if let Err(error) = roll_back(api, &name, &alias, rolled).await {
            tracing::error!(function = %name, alias, ?error, "cannot roll back");
        }
    }
}

async fn roll_back(
    api: &Api,
    name: &FunctionName,
    label: &str,
    rolled: Rolled,
) -> Result<(), ApiError> {
    let (alias, owner, sentence) = (label.to_owned(), name.clone(), rolled.clone());
    let change = move |_: &Function, details: &mut Details| {
        let known = details.aliases.get(&alias).ok_or_else(|| no_alias(&owner, &alias))?;
        let mut changed = (**known).clone();
        // Somebody may have changed it meanwhile.
        let stands = match &changed.canary {
            Some((canary, _)) => *canary == sentence.from && changed.version == sentence.to,
            None => changed.version == sentence.from,
        };
        if !stands {
            return Ok(false);
        }
        (changed.version, changed.canary) = (sentence.to.clone(), None);
        changed.previous = None;
        changed.watch.forget(&sentence.from);
        changed.revision_id = RequestId::random().to_string();
        changed.rolled = Some(sentence);
        details.aliases.insert(alias, Arc::new(changed));
        Ok::<_, ApiError>(true)
    };
    let (done, function) = api.functions.edit(name, change).await?;
    if done {
        let Rolled { from, to, reason, unix_ms } = rolled;
        tracing::warn!(function = %name, alias = label, from, to, reason, "rolled back");
        let latest = &function.latest;
        latest.metrics.rolled_back();
        let note = format!("ROLLBACK Alias: {label} From: {from} To: {to} Reason: {reason}");
        let line = [LogLine::Note(note.into())];
        latest.logs.push(RequestId::random(), unix_ms, &latest.log_stream, line);
    }
    Ok(())
}
