//! Which functions an invocation has come through: a count in the trace header, so that loops end.
//! Lambda keeps such a count in the same field, `Lineage`; its form is not published, and ours is
//! `HASH:COUNT|…`. Beside it stands what is left of the sender's time, `Remaining=MILLISECONDS`: nobody works for a
//! caller who has given up. It is relative, as gRPC's `grpc-timeout` is, since clocks differ.

use std::time::Duration;

use crate::ids::{Digest, FunctionName};
use crate::limits::RECURSION_MAX;

/// The header that carries it.
pub const HEADER: &str = "x-amzn-trace-id";

const LINEAGE: &str = "Lineage=";
const REMAINING: &str = "Remaining=";

/// Functions that are remembered.
const PASSES_MAX: usize = 64;

/// A function has been come through too often.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "Lambda has detected that the function {function} is being invoked in a recursive loop: \
     it was invoked {times} times in this chain, {RECURSION_MAX} are allowed"
)]
pub struct Loop {
    /// Which one.
    pub function: FunctionName,
    /// How often.
    pub times: u32,
}

/// The trace header for a function, with one more pass through it counted, and without [`remaining`].
///
/// # Errors
/// [`Loop`] when it has come through so often that it must be one, unless that is allowed.
pub fn pass(trace: &str, function: &FunctionName, is_allowed: bool) -> Result<String, Loop> {
    let digest = Digest::of(function.as_str().as_bytes()).to_string();
    let hash = digest.get(..8).unwrap_or_default();
    let mut kept: Vec<&str> = Vec::new();
    let mut passes: Vec<(&str, u32)> = Vec::new();
    for field in fields(trace) {
        match field.strip_prefix(LINEAGE) {
            None if field.starts_with(REMAINING) => {}
            Some(list) => passes.extend(list.split('|').take(PASSES_MAX).filter_map(|pass| {
                let (name, count) = pass.split_once(':')?;
                Some((name, count.parse().ok()?))
            })),
            None => kept.push(field),
        }
    }
    let times = passes.iter().find(|(name, _)| *name == hash).map_or(0, |(_, count)| *count);
    if times >= RECURSION_MAX && !is_allowed {
        return Err(Loop { function: function.clone(), times });
    }
    passes.retain(|(name, _)| *name != hash);
    passes.push((hash, times.saturating_add(1)));
    let list: Vec<String> = passes.iter().map(|(name, count)| format!("{name}:{count}")).collect();
    let list = format!("{LINEAGE}{}", list.join("|"));
    kept.push(&list);
    Ok(kept.join(";"))
}

fn fields(trace: &str) -> impl Iterator<Item = &str> {
    trace.split(';').map(str::trim).filter(|field| !field.is_empty())
}

/// What is left of the time of whoever sent a request with this trace header.
#[must_use]
pub fn remaining(trace: &str) -> Option<Duration> {
    let given = fields(trace).filter_map(|field| field.strip_prefix(REMAINING)?.parse().ok());
    given.min().map(Duration::from_millis)
}

/// The trace header of a request that a function sends: what it says itself, but for the passes and the time, which
/// are those of its invocation.
#[must_use]
pub fn carry(given: &str, invocation: &str, remaining: Duration) -> String {
    let is_lineage = |field: &&str| field.starts_with(LINEAGE);
    let is_own = |field: &&str| !is_lineage(field) && !field.starts_with(REMAINING);
    let given: Vec<&str> = fields(given).filter(is_own).collect();
    let passed = fields(invocation).filter(|field| given.is_empty() || is_lineage(field));
    let mut all: Vec<&str> = given.iter().copied().chain(passed).collect();
    let remaining = format!("{REMAINING}{}", remaining.as_millis());
    all.push(&remaining);
    all.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_end() {
        let name = FunctionName::new("f").unwrap();
        let mut trace = "Root=1-abc;Sampled=1".to_owned();
        for _ in 0..RECURSION_MAX {
            trace = pass(&trace, &name, false).unwrap();
        }
        assert!(trace.starts_with("Root=1-abc;Sampled=1;Lineage="), "{trace}");
        let error = pass(&trace, &name, false).unwrap_err().to_string();
        assert!(error.contains("16 are allowed"), "{error}");
        assert!(pass(&trace, &name, true).is_ok());
        assert!(pass(&trace, &FunctionName::new("g").unwrap(), false).is_ok());
    }

    #[test]
    fn functions_cannot_leave_their_passes_behind() {
        let own = "Root=1-a;Lineage=00000000:3";
        for (given, carried) in [
            ("", own),
            ("Root=1-b; Lineage=11111111:1", "Root=1-b;Lineage=00000000:3"),
            ("Lineage=; Remaining=99999", own),
            ("Sampled=0;;", "Sampled=0;Lineage=00000000:3"),
        ] {
            let carry = carry(given, own, Duration::from_micros(1_900));
            assert_eq!(carry, format!("{carried};Remaining=1"));
        }
    }

    #[test]
    fn what_remains_is_read_and_not_passed_on() {
        let name = FunctionName::new("f").unwrap();
        for (trace, remains) in [
            ("Root=1-a", None),
            ("Remaining=", None),
            ("Remaining=-1;Remaining=1e3", None),
            ("Root=1-a; Remaining=250", Some(250)),
            ("Remaining=900;Lineage=00000000:3;Remaining=0", Some(0)),
            ("Remaining=18446744073709551615", Some(u64::MAX)),
        ] {
            assert_eq!(remaining(trace), remains.map(Duration::from_millis), "{trace}");
            assert!(!pass(trace, &name, false).unwrap().contains("Remaining"), "{trace}");
        }
    }
}
