//! Whose turn it is: deficit round robin (Shreedhar and Varghese, 1995) on CPU time, paid afterwards. A
//! function whose events cost much gets as much time as one whose events cost little, and fewer events.
//! And a brake for functions that mostly fail. Pure.

use std::collections::HashMap;
use std::time::Duration;

/// CPU time of one round, in nanoseconds.
const QUANTUM_NS: i64 = 20_000_000;
/// Weight of the newest sample in a mean.
const WEIGHT: f64 = 0.1;
/// What an event is taken to cost before one has been seen, in nanoseconds.
const COST_GUESS_NS: f64 = 1_000_000.0;
/// Error ratio from which on a function is held back.
const FAILING: f64 = 0.5;
/// Events before the ratio counts.
const SAMPLES_MIN: u32 = 20;

/// Accounts of CPU time, by function.
#[derive(Debug, Default)]
pub struct Fair {
    accounts: HashMap<String, i64>,
}

impl Fair {
    /// Those of `ready` that may have something now: everybody who has not used up more than they were
    /// given. Everybody is given what has `passed`, as one who has a core would be; when nobody may, everybody
    /// is given more. Those who are not ready lose what they have saved,
    /// not what they owe.
    pub fn turn(&mut self, ready: &[&str], passed: Duration) -> Vec<bool> {
        let passed = i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX);
        for (name, left) in &mut self.accounts {
            if !ready.contains(&name.as_str()) {
                *left = (*left).min(0);
            }
        }
        for name in ready {
            if !self.accounts.contains_key(*name) {
                self.accounts.insert((*name).to_owned(), QUANTUM_NS);
            }
        }
        for name in ready {
            if let Some(left) = self.accounts.get_mut(*name) {
                *left = left.saturating_add(passed).min(QUANTUM_NS);
            }
        }
        let least_debt = ready.iter().filter_map(|name| self.accounts.get(*name)).max().copied();
        if let Some(best) = least_debt.filter(|best| *best <= 0) {
            // As many rounds as it takes until somebody may.
            let rounds = -best / QUANTUM_NS + 1;
            for name in ready {
                if let Some(left) = self.accounts.get_mut(*name) {
                    *left = left.saturating_add(rounds * QUANTUM_NS).min(QUANTUM_NS);
                }
            }
        }
        ready.iter().map(|name| self.accounts.get(*name).is_some_and(|left| *left > 0)).collect()
    }

    /// What a function has left, in nanoseconds.
    #[must_use]
    pub fn left(&self, name: &str) -> i64 {
        self.accounts.get(name).copied().unwrap_or_default()
    }

    /// A function has used CPU time.
    pub fn charge(&mut self, name: &str, cpu_ns: u64) {
        if let Some(left) = self.accounts.get_mut(name) {
            *left = left.saturating_sub(i64::try_from(cpu_ns).unwrap_or(i64::MAX));
        }
    }

    /// Forgets functions that `is_known` denies and that owe nothing.
    pub fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.accounts.retain(|name, left| *left < 0 || is_known(name));
        // Debts are forgiven in time.
        for (_, left) in self.accounts.iter_mut().filter(|(name, _)| !is_known(name)) {
            *left = left.saturating_add(QUANTUM_NS).min(0);
        }
        self.accounts.retain(|name, left| *left < 0 || is_known(name));
    }
}

/// What a function's events have cost lately, and how they ended.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    cpu_ns: f64,
    seconds: Option<f64>,
    errors: f64,
    samples: u32,
}

impl Default for Record {
    fn default() -> Self {
        Self { cpu_ns: COST_GUESS_NS, seconds: None, errors: 0.0, samples: 0 }
    }
}

impl Record {
    /// Adds an event.
    pub fn note(&mut self, cpu_ns: u64, seconds: f64, failed: bool) {
        let mix = |mean: f64, new: f64| mean + WEIGHT * (new - mean);
        let first = self.samples == 0;
        let cpu = cpu_ns as f64;
        self.cpu_ns = if first { cpu } else { mix(self.cpu_ns, cpu) };
        self.seconds = Some(self.seconds.map_or(seconds, |mean| mix(mean, seconds)));
        self.errors = mix(self.errors, f64::from(u8::from(failed)));
        self.samples = self.samples.saturating_add(1);
    }

    /// Share of the last events that failed.
    #[must_use]
    pub fn error_ratio(&self) -> f64 {
        if self.samples < SAMPLES_MIN { 0.0 } else { self.errors }
    }

    /// Seconds that one takes; none before the first has ended.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    /// Events that `cpu_ns` pay for, one at least.
    #[must_use]
    pub fn affords(&self, cpu_ns: i64) -> u32 {
        ((cpu_ns.max(0) as f64 / self.cpu_ns.max(1_000.0)).ceil() as u32).max(1)
    }

    /// How many may run at once, when `most` may otherwise: fewer as more fail, one when all do.
    #[must_use]
    pub fn brake(&self, most: u32) -> u32 {
        let ratio = self.error_ratio();
        if ratio < FAILING {
            return most;
        }
        let left = (1.0 - ratio) / (1.0 - FAILING);
        // Steep: at three quarters of errors a sixteenth is left.
        ((f64::from(most) * left.powi(4)) as u32).clamp(1, most.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `rounds` turns; each function that may, runs as many events as it can afford.
    fn shares(costs: &[(&str, u64)], rounds: usize) -> HashMap<String, u64> {
        let (mut fair, mut used) = (Fair::default(), HashMap::new());
        let names: Vec<&str> = costs.iter().map(|(name, _)| *name).collect();
        for _ in 0..rounds {
            let may = fair.turn(&names, Duration::ZERO);
            assert!(may.iter().any(|may| *may), "nobody may");
            for ((name, cost), _) in costs.iter().zip(may).filter(|(_, may)| *may) {
                let events = (fair.left(name) as u64).div_ceil(*cost);
                fair.charge(name, events * cost);
                *used.entry((*name).to_owned()).or_insert(0) += events * cost;
            }
        }
        used
    }

    #[test]
    fn cpu_time_is_shared_evenly_whatever_an_event_costs() {
        let used = shares(&[("hello", 20_000), ("sum", 3_000_000), ("spin", 900_000_000)], 20_000);
        let all: u64 = used.values().sum();
        for (name, ns) in used {
            let share = ns as f64 / all as f64;
            assert!((share - 1.0 / 3.0).abs() < 0.03, "{name} has {share}");
        }
    }

    #[test]
    fn who_is_alone_never_waits() {
        let used = shares(&[("spin", 900_000_000)], 100);
        assert_eq!(used["spin"], 100 * 900_000_000);
    }

    #[test]
    fn nothing_is_saved_up_while_idle_and_debts_stay() {
        let mut fair = Fair::default();
        fair.turn(&["a", "b"], Duration::ZERO);
        fair.charge("a", 10 * QUANTUM_NS as u64);
        for _ in 0..5 {
            assert_eq!(fair.turn(&["b"], Duration::ZERO), [true]);
        }
        assert_eq!(fair.turn(&["a", "b"], Duration::ZERO), [false, true]);
        // A machine that has nothing to do does not wait for those who ask for little.
        assert_eq!(fair.turn(&["a", "b"], Duration::from_millis(200)), [true, true]);
        fair.charge("a", 10 * QUANTUM_NS as u64);
        fair.retain(|name| name == "b");
        assert!(fair.left("a") < 0, "the debt is remembered for a while");
        for _ in 0..20 {
            fair.retain(|name| name == "b");
        }
        assert_eq!(fair.left("a"), 0);
    }

    #[test]
    fn those_who_fail_are_held_back_and_come_back() {
        let mut record = Record::default();
        for _ in 0..SAMPLES_MIN - 1 {
            record.note(1, 0.1, true);
        }
        assert_eq!(record.brake(1_000), 1_000, "too few to tell");
        for _ in 0..100 {
            record.note(1, 0.1, true);
        }
        assert_eq!(record.brake(1_000), 1);
        for _ in 0..7 {
            record.note(1, 0.1, false);
        }
        assert_eq!(record.brake(1_000), 1_000);
        record = Record { errors: 0.75, ..record };
        assert_eq!(record.brake(1_000), 62);
    }
}
