//! What is known to fail: uploads that were refused by the child, so that sending them again costs nothing. What it is
//! full of stays when more comes than there is room for, so that nobody pushes out with new failures what is asked for
//! again and again (TinyLFU, as `moka` has it). After an hour it is tried again: the machine may have been at fault.

use std::hash::Hash;

use moka::sync::Cache;
use wambda_model::limits::{FAILURES_AGE_MAX, FAILURES_MAX};

use crate::helper::Failed;

/// Failures by what was asked.
pub(crate) struct Failures<K>(Cache<K, Failed>);

impl<K> std::fmt::Debug for Failures<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Failures")
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Failures<K> {
    pub(crate) fn new() -> Self {
        Self(Cache::builder().max_capacity(FAILURES_MAX).time_to_live(FAILURES_AGE_MAX).build())
    }

    /// How it failed before.
    ///
    /// # Errors
    /// That.
    pub(crate) fn check(&self, key: &K) -> Result<(), Failed> {
        self.0.get(key).map_or(Ok(()), Err)
    }

    /// Remembers it, if it would fail again.
    pub(crate) fn note(&self, key: K, failed: &Failed) {
        if matches!(failed, Failed::Code(_) | Failed::Large(_)) {
            self.0.insert(key, failed.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_fail_again_is_remembered_and_bounded() {
        let failures = Failures::new();
        failures.note(1, &Failed::Code("code".to_owned()));
        failures.note(2, &Failed::Time("time".to_owned()));
        failures.note(3, &Failed::Machine("machine".to_owned()));
        assert!(matches!(failures.check(&1), Err(Failed::Code(why)) if why == "code"));
        assert!(
            failures.check(&2).is_ok() && failures.check(&3).is_ok() && failures.check(&4).is_ok()
        );
        // Others come and go; what is asked for stays.
        for n in 10..20_000 {
            failures.note(n, &Failed::Large("large".to_owned()));
            assert!(failures.check(&1).is_err(), "pushed out by {n}");
        }
        failures.0.run_pending_tasks();
        assert!(failures.0.entry_count() <= FAILURES_MAX);
    }
}
