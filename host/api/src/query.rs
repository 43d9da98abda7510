//! A function's configuration as query parameters: `memory=128&timeout=2.5&env.KEY=value`.

use std::borrow::Cow;

use wambda_model::config::InvalidConfig;
use wambda_model::{Draft, Reuse};

const KNOWN: &str = "memory, timeout, cpu, payload, logs, concurrency, provisioned, queue, reuse, \
    retries, event_age, on_success, on_failure, dead_letter, role, env and env.NAME";

/// Applies the parameters that `query` names; the others stay as they are.
///
/// - `memory`: MB, fractions allowed, or with a unit: `64KB`, `1.5GB`.
/// - `timeout`, `cpu`: seconds, fractions allowed. `cpu=` goes back to "as much as the timeout".
/// - `payload`, `logs`: bytes, or with a unit.
/// - `concurrency`, `provisioned`, `queue`: whole numbers. `concurrency=` goes back to a share of the
///   account's.
/// - `reuse`: `warm`, `fresh`, or empty for the kind's default.
/// - `retries`: attempts of an asynchronous invocation after the first one; `event_age`: seconds after
///   which it is given up. `on_success`, `on_failure`, `dead_letter`: the ARN of where its record or the
///   event goes. Empty for the default, or nowhere.
/// - `role`: the execution role, by its ARN or its name. Empty for none, which reaches nothing.
/// - `env.NAME=value`: sets one variable. `env=` removes all of them first.
///
/// # Errors
/// [`InvalidConfig`] that names the parameter and what it takes.
pub fn apply(query: &str, draft: &mut Draft) -> Result<(), InvalidConfig> {
    let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
        form_urlencoded::parse(query.as_bytes()).collect();
    if pairs.iter().any(|(name, value)| name == "env" && value.is_empty()) {
        draft.config.env.clear();
    }
    for (name, value) in &pairs {
        one(name, value, draft)?;
    }
    Ok(())
}

fn one(name: &str, value: &str, draft: &mut Draft) -> Result<(), InvalidConfig> {
    let config = &mut draft.config;
    match name {
        "memory" => config.memory_bytes = size(name, value, 1 << 20)?,
        "timeout" => config.timeout_ms = milliseconds(name, value)?,
        "cpu" if value.is_empty() => config.cpu_ms = None,
        "cpu" => config.cpu_ms = Some(milliseconds(name, value)?),
        "payload" => config.payload_bytes = size(name, value, 1)?,
        "logs" => config.log_bytes = size(name, value, 1)?,
        "concurrency" if value.is_empty() => draft.reserved = None,
        "concurrency" => draft.reserved = Some(count(name, value)?),
        "provisioned" => draft.provisioned = count(name, value)?,
        "queue" => config.queue = count(name, value)?,
        "reuse" => {
            config.reuse = match value {
                "warm" => Some(Reuse::Warm),
                "fresh" => Some(Reuse::Fresh),
                "" => None,
                other => return Err(wrong(name, "warm or fresh", other)),
            }
        }
        "retries" if value.is_empty() => draft.events.retries = None,
        "retries" => draft.events.retries = Some(count(name, value)?),
        "event_age" if value.is_empty() => draft.events.max_age_s = None,
        "event_age" => draft.events.max_age_s = Some(milliseconds(name, value)?.div_ceil(1_000)),
        "on_success" => value.clone_into(&mut draft.events.on_success),
        "on_failure" => value.clone_into(&mut draft.events.on_failure),
        "dead_letter" => value.clone_into(&mut draft.attributes.dead_letter_arn),
        "role" => value.clone_into(&mut draft.attributes.role),
        "env" if value.is_empty() => {}
        "env" => {
            return Err(wrong(name, "nothing (env.NAME=value sets a variable)", value));
        }
        _ => match name.strip_prefix("env.") {
            Some(key) => drop(config.env.insert(key.to_owned(), value.to_owned())),
            None => {
                let name: String = name.chars().take(64).collect();
                let message = format!("unknown parameter {name:?}: known are {KNOWN}");
                return Err(InvalidConfig(message));
            }
        },
    }
    Ok(())
}

fn wrong(name: &str, takes: &str, got: &str) -> InvalidConfig {
    let got: String = got.chars().take(64).collect();
    InvalidConfig(format!("{name} takes {takes}, got {got:?}"))
}

fn count(name: &str, value: &str) -> Result<u32, InvalidConfig> {
    value.parse().map_err(|_| wrong(name, "a whole number", value))
}

fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse().ok().filter(|n: &f64| plain && n.is_finite())
}

fn milliseconds(name: &str, value: &str) -> Result<u64, InvalidConfig> {
    let text = value.strip_suffix('s').unwrap_or(value);
    let seconds = number(text).ok_or_else(|| wrong(name, "seconds, such as 3 or 0.25", value))?;
    // The cast saturates; the range is checked with the rest of the configuration.
    Ok((seconds * 1e3).round() as u64)
}

fn size(name: &str, value: &str, unit: u64) -> Result<u64, InvalidConfig> {
    let upper = value.trim().to_ascii_uppercase();
    let text = upper.strip_suffix('B').unwrap_or(&upper);
    let units = [("K", 1u64 << 10), ("M", 1 << 20), ("G", 1 << 30)];
    let named = units.iter().find_map(|(s, unit)| text.strip_suffix(s).map(|rest| (rest, *unit)));
    let (digits, unit) = match named {
        Some(named) => named,
        None if upper.ends_with('B') => (text, 1),
        None => (text, unit),
    };
    let value =
        number(digits).ok_or_else(|| wrong(name, "a size, such as 128, 64KB or 1.5GB", value))?;
    Ok((value * unit as f64).round() as u64)
}

#[cfg(test)]
mod tests {
    use wambda_model::FunctionConfig;

    use super::*;

    fn drafted(query: &str) -> Draft {
        let mut draft = Draft::default();
        apply(query, &mut draft).unwrap();
        draft
    }

    fn applied(query: &str) -> FunctionConfig {
        drafted(query).config
    }

    fn refused(query: &str) -> String {
        apply(query, &mut Draft::default()).unwrap_err().to_string()
    }

    #[test]
    fn units_and_fractions() {
        let memory = |text| applied(&format!("memory={text}")).memory_bytes;
        assert_eq!(
            ["128", "0.0625", "64KB", "64k", "1.5GB", "65536B"].map(memory),
            [128 << 20, 64 << 10, 64 << 10, 64 << 10, 3 << 29, 65_536]
        );
        assert_eq!(applied("timeout=0.001").timeout_ms, 1);
        assert_eq!(applied("timeout=2.5s").timeout_ms, 2_500);
        assert_eq!(applied("payload=100&logs=1KB").payload_bytes, 100);
        assert_eq!(applied("cpu=1&cpu=").cpu_ms, None);
        assert_eq!(applied("reuse=fresh").reuse, Some(Reuse::Fresh));
    }

    #[test]
    fn environment_is_set_and_cleared() {
        let mut draft = drafted("env.A=1&env.B=a%20b%3D");
        assert_eq!(draft.config.env["B"], "a b=");
        apply("env.A=2", &mut draft).unwrap();
        assert_eq!((draft.config.env.len(), draft.config.env["A"].as_str()), (2, "2"));
        apply("env.C=3&env=", &mut draft).unwrap();
        assert_eq!(draft.config.env.keys().collect::<Vec<_>>(), ["C"]);
        apply("concurrency=7", &mut draft).unwrap();
        assert_eq!(draft.reserved, Some(7));
        apply("concurrency=", &mut draft).unwrap();
        assert_eq!(draft.reserved, None);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(refused("memroy=128").contains("\"memroy\""));
        assert!(refused("memory=lots").contains("64KB"));
        assert!(refused("timeout=-1").contains("seconds"));
        assert!(refused("timeout=1e9").contains("seconds"));
        assert!(refused("concurrency=1.5").contains("whole number"));
        assert!(refused("reuse=never").contains("warm or fresh"));
        assert!(refused("env=X").contains("env.NAME"));
        let mut config = applied("timeout=99999999999999999999");
        assert!(config.check().is_err());
        config.timeout_ms = 1;
        config.check().unwrap();
    }
}
