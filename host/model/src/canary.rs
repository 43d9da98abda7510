//! Rollback rules: a new version behind an alias goes back by itself when it does worse than the one
//! before. Lambda leaves this to CodeDeploy and alarms; the idea is theirs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::InvalidConfig;
use crate::limits::{ROLLBACK_SAMPLES_MAX, ROLLBACK_WINDOW_MS_MAX, ROLLBACK_WINDOW_MS_MIN};

/// When a new version goes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollbackRule {
    /// Milliseconds that are looked back upon; also how long a version counts as new.
    pub window_ms: u64,
    /// Fewest invocations of the new version within the window that a judgement needs.
    pub samples_min: u32,
    /// Largest share of errors, 0 to 1, beyond that of the previous version.
    pub error_ratio: Option<f64>,
    /// Largest 99th percentile of the duration, as a multiple of the previous version's.
    pub p99_factor: Option<f64>,
    /// Largest 99th percentile of the duration in milliseconds, whatever the previous version takes.
    pub p99_ms: Option<f64>,
}

impl Default for RollbackRule {
    fn default() -> Self {
        Self {
            window_ms: 60_000,
            samples_min: 20,
            error_ratio: Some(0.05),
            p99_factor: None,
            p99_ms: None,
        }
    }
}

impl RollbackRule {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`InvalidConfig`] that names the first value that is out of its range.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let wrong = |what: String| Err(InvalidConfig(what));
        let (min, max) = (ROLLBACK_WINDOW_MS_MIN, ROLLBACK_WINDOW_MS_MAX);
        if !(min..=max).contains(&self.window_ms) {
            return wrong(format!("window must be {min} to {max} ms, got {}", self.window_ms));
        }
        let most = u32::try_from(ROLLBACK_SAMPLES_MAX).unwrap_or(u32::MAX);
        if !(1..=most).contains(&self.samples_min) {
            return wrong(format!("samples must be 1 to {most}, got {}", self.samples_min));
        }
        if self.error_ratio.is_some_and(|ratio| !(0.0..=1.0).contains(&ratio)) {
            return wrong("error_ratio must be 0 to 1".to_owned());
        }
        if self.p99_factor.is_some_and(|factor| !(factor.is_finite() && factor >= 1.0)) {
            return wrong("p99_factor must be 1 or more".to_owned());
        }
        if self.p99_ms.is_some_and(|ms| !(ms.is_finite() && ms > 0.0)) {
            return wrong("p99_ms must be more than 0".to_owned());
        }
        if self.error_ratio.is_none() && self.p99_factor.is_none() && self.p99_ms.is_none() {
            return wrong("a rule needs error_ratio, p99_factor or p99_ms".to_owned());
        }
        Ok(())
    }
}

/// A version that went back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rolled {
    /// The version that did badly.
    pub from: String,
    /// The version that serves instead.
    pub to: String,
    /// What it did.
    pub reason: String,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// The last invocations through one alias, by version.
#[derive(Debug, Default)]
pub struct Watch(Mutex<HashMap<String, Vec<Sample>>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    unix_ms: u64,
    failed: bool,
    duration: Duration,
}

/// How a version did within a window.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Standing {
    count: usize,
    error_ratio: f64,
    p99_ms: f64,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Sample>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one invocation of `version`.
    pub fn note(&self, version: &str, unix_ms: u64, failed: bool, duration: Duration) {
        let mut all = self.lock();
        if !all.contains_key(version) {
            all.insert(version.to_owned(), Vec::new());
        }
        let Some(samples) = all.get_mut(version) else { return };
        if samples.len() >= ROLLBACK_SAMPLES_MAX {
            // Half at a time, so that dropping the oldest costs next to nothing.
            samples.drain(..ROLLBACK_SAMPLES_MAX / 2);
        }
        samples.push(Sample { unix_ms, failed, duration });
    }

    /// Forgets what `version` did.
    pub fn forget(&self, version: &str) {
        self.lock().remove(version);
    }

    /// Forgets what versions did that are not wanted any more.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|version, _| wanted(version));
    }

    fn standing(&self, version: &str, since_ms: u64) -> Option<Standing> {
        let all = self.lock();
        let within = all.get(version)?.iter().filter(|sample| sample.unix_ms >= since_ms);
        let mut durations = Vec::new();
        let mut failed = 0usize;
        for sample in within {
            failed += usize::from(sample.failed);
            durations.push(sample.duration);
        }
        drop(all);
        let count = durations.len();
        durations.sort_unstable();
        let at = (count * 99).div_ceil(100).checked_sub(1)?;
        let p99_ms = durations.get(at)?.as_secs_f64() * 1e3;
        Some(Standing { count, error_ratio: failed as f64 / count as f64, p99_ms })
    }

    /// Why `new` is to go back to `old`; none while it does well, or too little is known.
    #[must_use]
    pub fn judge(&self, rule: &RollbackRule, new: &str, old: &str, now_ms: u64) -> Option<String> {
        let since = now_ms.saturating_sub(rule.window_ms);
        let found = self.standing(new, since)?;
        if found.count < rule.samples_min as usize {
            return None;
        }
        // After a complete switch, the old version's last window lies before the new one's.
        let before = self.standing(old, since.saturating_sub(rule.window_ms));
        let (old_errors, old_p99) = before.map_or((0.0, None), |b| (b.error_ratio, Some(b.p99_ms)));
        let Standing { count, error_ratio, p99_ms } = found;
        if let Some(limit) = rule.error_ratio
            && error_ratio > limit + old_errors
        {
            return Some(format!(
                "error ratio {error_ratio:.3} of {count} invocations, limit {limit} beyond {old_errors:.3} of version {old}"
            ));
        }
        if let (Some(factor), Some(old_p99)) = (rule.p99_factor, old_p99)
            && p99_ms > factor * old_p99
        {
            return Some(format!(
                "p99 {p99_ms:.2} ms of {count} invocations, limit {factor} times {old_p99:.2} ms of version {old}"
            ));
        }
        rule.p99_ms
            .filter(|limit| p99_ms > *limit)
            .map(|limit| format!("p99 {p99_ms:.2} ms of {count} invocations, limit {limit} ms"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(watch: &Watch, version: &str, count: u64, failures: u64, ms: u64) {
        for n in 0..count {
            watch.note(version, 1_000 + n, n < failures, Duration::from_millis(ms));
        }
    }

    #[test]
    fn a_bad_version_is_told_from_a_good_one() {
        let rule = RollbackRule { p99_factor: Some(2.0), ..RollbackRule::default() };
        let watch = Watch::default();
        fill(&watch, "1", 100, 10, 10);
        fill(&watch, "2", 19, 19, 10);
        assert_eq!(watch.judge(&rule, "2", "1", 2_000), None, "too few");
        fill(&watch, "3", 100, 12, 15);
        assert_eq!(watch.judge(&rule, "3", "1", 2_000), None, "hardly worse");
        fill(&watch, "4", 100, 30, 10);
        assert!(watch.judge(&rule, "4", "1", 2_000).unwrap().contains("0.300"));
        fill(&watch, "5", 100, 0, 30);
        assert!(watch.judge(&rule, "5", "1", 2_000).unwrap().contains("p99"));
        assert_eq!(watch.judge(&rule, "5", "1", 9_000_000), None, "long ago");
    }

    #[test]
    fn samples_are_bounded() {
        let watch = Watch::default();
        fill(&watch, "1", 3 * ROLLBACK_SAMPLES_MAX as u64, 0, 1);
        assert!(watch.lock()["1"].len() <= ROLLBACK_SAMPLES_MAX);
    }

    #[test]
    fn rules_are_checked() {
        RollbackRule::default().check().unwrap();
        let wrong = |change: fn(&mut RollbackRule)| {
            let mut rule = RollbackRule::default();
            change(&mut rule);
            rule.check().unwrap_err().to_string()
        };
        assert!(wrong(|r| r.window_ms = 1).contains("window"));
        assert!(wrong(|r| r.samples_min = 0).contains("samples"));
        assert!(wrong(|r| r.error_ratio = Some(1.5)).contains("error_ratio"));
        assert!(wrong(|r| r.error_ratio = None).contains("needs"));
        assert!(wrong(|r| r.p99_factor = Some(f64::NAN)).contains("p99_factor"));
    }
}
