//! How long an idle function keeps an instance, by the idle times that it has had: a histogram, as in
//! "Serverless in the Wild" (Shahrad et al., USENIX ATC 2020), with a head and a tail. A function that
//! comes back soon keeps its instance until the tail; one that comes back much later, and regularly,
//! lets it go and gets it back shortly before the head.

use std::time::Duration;

use crate::plan::DOWN_WINDOW;

/// Shortest keep-alive.
pub const KEEP_MIN: Duration = Duration::from_secs(10);
/// Longest keep-alive.
pub const KEEP_MAX: Duration = Duration::from_secs(600);
/// Idle times before the histogram is trusted.
const SAMPLES_MIN: u32 = 8;
/// Bins, each a tenth longer than the one before: from a second to almost four hours.
const BINS: usize = 100;
const FACTOR: f64 = 1.1;
/// Idle times that are counted at full weight; older ones count less.
const SAMPLES_MAX: u32 = 256;

/// The idle times of one function.
#[derive(Debug, Clone)]
pub struct IdleTimes {
    bins: [u32; BINS],
    count: u32,
}

impl Default for IdleTimes {
    fn default() -> Self {
        Self { bins: [0; BINS], count: 0 }
    }
}

/// What to do with an idle function's last instance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Keep {
    /// Time that it is kept after it was last used.
    pub alive: Duration,
    /// Within this span of idle time it is there again; none for never.
    pub again: Option<(Duration, Duration)>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { alive: DOWN_WINDOW, again: None }
    }
}

/// The longest time of a bin.
fn end(bin: usize) -> Duration {
    Duration::from_secs_f64(FACTOR.powi(i32::try_from(bin).unwrap_or(i32::MAX)))
}

impl IdleTimes {
    /// Adds one.
    pub fn note(&mut self, idle: Duration) {
        let bin = (idle.as_secs_f64().max(1.0).ln() / FACTOR.ln()).ceil() as usize;
        if let Some(bin) = self.bins.get_mut(bin.min(BINS - 1)) {
            *bin += 1;
            self.count += 1;
        }
        if self.count > SAMPLES_MAX {
            self.bins.iter_mut().for_each(|bin| *bin /= 2);
            self.count = self.bins.iter().sum();
        }
    }

    fn percentile(&self, share: f64) -> usize {
        let wanted = (share * f64::from(self.count)).ceil().max(1.0);
        let mut seen = 0;
        let within = |count: &u32| {
            seen += count;
            f64::from(seen) >= wanted
        };
        self.bins.iter().position(within).unwrap_or(BINS - 1)
    }

    /// What the histogram advises.
    #[must_use]
    pub fn advice(&self) -> Keep {
        if self.count < SAMPLES_MIN {
            return Keep::default();
        }
        let (head, tail) = (self.percentile(0.05), self.percentile(0.99));
        let until = end(tail).mul_f64(1.1);
        if until <= KEEP_MAX {
            return Keep { alive: until.max(KEEP_MIN), again: None };
        }
        // Beyond the last bin there is no pattern.
        let from = end(head.saturating_sub(1)).mul_f64(0.9);
        let regular = tail < BINS - 1 && until.saturating_sub(from) * 3 <= until;
        let again = (regular && from > KEEP_MIN).then_some((from, until));
        // Waiting as long as allowed serves those that come back within that time.
        let soon = self.percentile(0.5);
        let alive = if end(soon) <= KEEP_MAX { KEEP_MAX } else { KEEP_MIN };
        Keep { alive, again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(seconds: impl Iterator<Item = u64>) -> Keep {
        let mut times = IdleTimes::default();
        seconds.for_each(|s| times.note(Duration::from_secs(s)));
        times.advice()
    }

    #[test]
    fn few_samples_change_nothing() {
        assert_eq!(advice(0..7), Keep::default());
    }

    #[test]
    fn a_busy_function_keeps_its_instance_for_a_little_and_a_slow_one_for_long() {
        let busy = advice((0..100).map(|_| 2));
        assert_eq!((busy.alive, busy.again), (KEEP_MIN, None));
        let slow = advice((0..100).map(|n| 200 + n));
        assert!(slow.alive > Duration::from_secs(300) && slow.alive <= KEEP_MAX, "{slow:?}");
        assert_eq!(slow.again, None);
    }

    #[test]
    fn a_regular_function_gets_its_instance_back_before_it_is_called() {
        let hourly = advice((0..20).map(|n| 3_600 + n % 5));
        assert_eq!(hourly.alive, KEEP_MIN);
        let (from, until) = hourly.again.unwrap();
        assert!(from < Duration::from_secs(3_600) && until > Duration::from_secs(3_605));
        assert!(until - from < Duration::from_secs(2_000), "{from:?} to {until:?}");
    }

    #[test]
    fn without_a_pattern_there_is_no_guess() {
        let wild = advice((0..100).map(|n| if n % 2 == 0 { 700 } else { 100_000 }));
        assert_eq!(wild, Keep { alive: KEEP_MIN, again: None });
    }

    #[test]
    fn a_new_pattern_replaces_an_old_one() {
        let old = (0..300).map(|_| 5_000);
        let new = (0..2_000).map(|_| 3);
        assert_eq!(advice(old.chain(new)).alive, KEEP_MIN);
    }
}
