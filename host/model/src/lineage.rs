//! Which functions an invocation has come through: a count in the trace header, so that loops end.
//! Lambda keeps such a count in the same field, `Lineage`; its form is not published, and ours is
//! `HASH:COUNT|…`. Beside it stands when the sender's time ends, `Deadline=MILLISECONDS:HMAC`: nobody works for a
//! caller who has given up. A call that runs out of time costs its function the instance, so only functions of this
//! server shorten one: the key is of this process, and the time by its monotonic clock.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::SystemRandom;

use crate::clock;
use crate::ids::{Digest, FunctionName};
use crate::limits::RECURSION_MAX;

/// The header that carries it.
pub const HEADER: &str = "x-amzn-trace-id";

const LINEAGE: &str = "Lineage=";
const DEADLINE: &str = "Deadline=";

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

/// The trace header for a function, with one more pass through it counted, and without the [`deadline`].
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
            None if field.starts_with(DEADLINE) => {}
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

/// What deadlines are sealed with, and what they count from.
struct Seal {
    /// None when the system has no random numbers: no deadline is told then.
    key: Option<hmac::Key>,
    origin: Instant,
}

static SEAL: LazyLock<Seal> = LazyLock::new(|| {
    let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok();
    Seal { key, origin: clock::now() }
});

/// When the function has to have ended that sent a request with this trace header; nothing unless [`carry`] of this
/// process wrote so.
#[must_use]
pub fn deadline(trace: &str) -> Option<Instant> {
    let (ms, mac) =
        fields(trace).find_map(|field| field.strip_prefix(DEADLINE))?.split_once(':')?;
    hmac::verify(SEAL.key.as_ref()?, ms.as_bytes(), &hex::decode(mac).ok()?).ok()?;
    SEAL.origin.checked_add(Duration::from_millis(ms.parse().ok()?))
}

/// The trace header of a request that a function sends: what it says itself, but for the passes and the deadline,
/// which are those of its invocation.
#[must_use]
pub fn carry(given: &str, invocation: &str, deadline: Instant) -> String {
    let is_lineage = |field: &&str| field.starts_with(LINEAGE);
    let is_own = |field: &&str| !is_lineage(field) && !field.starts_with(DEADLINE);
    let given: Vec<&str> = fields(given).filter(is_own).collect();
    let passed = fields(invocation).filter(|field| given.is_empty() || is_lineage(field));
    let mut all: Vec<&str> = given.iter().copied().chain(passed).collect();
    let ms = deadline.saturating_duration_since(SEAL.origin).as_millis().to_string();
    let mac = SEAL.key.as_ref().map(|key| hex::encode(hmac::sign(key, ms.as_bytes())));
    let deadline = mac.map(|mac| format!("{DEADLINE}{ms}:{mac}"));
    all.extend(deadline.as_deref());
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
            ("Lineage=; Deadline=99999", own),
            ("Sampled=0;;", "Sampled=0;Lineage=00000000:3"),
        ] {
            let carry = carry(given, own, SEAL.origin + Duration::from_micros(1_900));
            assert!(carry.starts_with(&format!("{carried};Deadline=1:")), "{carry}");
            assert_eq!(deadline(&carry), Some(SEAL.origin + Duration::from_millis(1)));
        }
    }

    #[test]
    fn only_sealed_deadlines_count_and_none_is_passed_on() {
        let name = FunctionName::new("f").unwrap();
        let sealed = carry("", "Lineage=00000000:3", SEAL.origin + Duration::from_secs(2));
        let mac = sealed.rsplit(':').next().unwrap();
        for (trace, is_known) in [
            (sealed.clone(), true),
            (format!("Root=1-a; {sealed} ; Deadline=1"), true),
            (format!("Deadline=1;{sealed}"), false),
            (format!("Deadline=1999:{mac}"), false),
            (format!("Deadline=2000:{}", &mac[2..]), false),
            ("Deadline=2000".to_owned(), false),
            ("Deadline=2000:".to_owned(), false),
            ("Deadline=2000:zz".to_owned(), false),
            ("Root=1-a".to_owned(), false),
        ] {
            let expected = is_known.then(|| SEAL.origin + Duration::from_secs(2));
            assert_eq!(deadline(&trace), expected, "{trace}");
            assert!(!pass(&trace, &name, false).unwrap().contains("Deadline"), "{trace}");
        }
    }
}
