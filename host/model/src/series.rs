//! A function's last hours, minute by minute: what CloudWatch shows of a function. Filled by sampling
//! counters, so that an invocation pays for one addition.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::limits::SERIES_MINUTES_MAX;

/// Buckets of a duration: four to an octave of microseconds, up to 2^31 µs (36 minutes).
const BUCKETS: usize = 124;

/// Durations since the last sample.
#[derive(Debug)]
pub struct Durations {
    buckets: [AtomicU32; BUCKETS],
    sum_us: AtomicU64,
    min_us: AtomicU64,
    max_us: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
            sum_us: AtomicU64::new(0),
            min_us: AtomicU64::new(u64::MAX),
            max_us: AtomicU64::new(0),
        }
    }
}

fn bucket_of(us: u64) -> usize {
    let us = us.max(4);
    let octave = us.ilog2();
    let quarter = (us >> (octave - 2)) & 3;
    (octave as usize * 4 + quarter as usize - 8).min(BUCKETS - 1)
}

/// The middle of a bucket, in microseconds.
fn middle(bucket: usize) -> f64 {
    let (octave, quarter) = ((bucket + 8) / 4, (bucket + 8) % 4);
    (octave as f64).exp2() * (1.0 + (quarter as f64 + 0.5) / 4.0)
}

impl Durations {
    /// Adds one.
    pub fn note(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get(bucket_of(us)) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
        if us < self.min_us.load(Relaxed) {
            self.min_us.fetch_min(us, Relaxed);
        }
        if us > self.max_us.load(Relaxed) {
            self.max_us.fetch_max(us, Relaxed);
        }
    }

    fn take(&self) -> Spread {
        let mut spread = Spread {
            sum_us: self.sum_us.swap(0, Relaxed),
            min_us: self.min_us.swap(u64::MAX, Relaxed),
            max_us: self.max_us.swap(0, Relaxed),
            ..Spread::default()
        };
        for (at, bucket) in self.buckets.iter().enumerate() {
            if bucket.load(Relaxed) > 0 {
                let count = bucket.swap(0, Relaxed);
                spread.count += u64::from(count);
                spread.buckets.push((u8::try_from(at).unwrap_or(u8::MAX), count));
            }
        }
        spread
    }
}

/// Durations of one minute, or of several.
#[derive(Debug, Clone)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// Together, in microseconds.
    pub sum_us: u64,
    /// Shortest, in microseconds; `u64::MAX` when there is none.
    pub min_us: u64,
    /// Longest, in microseconds.
    pub max_us: u64,
    /// Bucket and count, sorted.
    buckets: Vec<(u8, u32)>,
}

impl Default for Spread {
    fn default() -> Self {
        Self { count: 0, sum_us: 0, min_us: u64::MAX, max_us: 0, buckets: Vec::new() }
    }
}

impl Spread {
    /// Adds another one.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum_us += other.sum_us;
        self.min_us = self.min_us.min(other.min_us);
        self.max_us = self.max_us.max(other.max_us);
        for (bucket, count) in &other.buckets {
            match self.buckets.binary_search_by_key(bucket, |(at, _)| *at) {
                Ok(at) => {
                    if let Some((_, known)) = self.buckets.get_mut(at) {
                        *known = known.saturating_add(*count);
                    }
                }
                Err(at) => self.buckets.insert(at, (*bucket, *count)),
            }
        }
    }

    /// A percentile in microseconds, within an eighth of its value; none when there is nothing.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let wanted = (percent / 100.0 * self.count as f64).ceil().max(1.0);
        let mut seen = 0.0;
        for (bucket, count) in &self.buckets {
            seen += f64::from(*count);
            if seen >= wanted {
                let (min, max) = (self.min_us as f64, self.max_us as f64);
                return Some(middle(usize::from(*bucket)).clamp(min, max));
            }
        }
        None
    }
}

/// One minute.
#[derive(Debug, Clone, Default)]
pub struct Minute {
    /// Its first second, since the Unix epoch.
    pub start_s: u64,
    /// Invocations that ran.
    pub invocations: u64,
    /// Those that failed.
    pub errors: u64,
    /// Invocations that were refused.
    pub throttles: u64,
    /// Most at once.
    pub concurrency: u32,
    /// Their durations.
    pub durations: Spread,
    /// Asynchronous events that were accepted.
    pub events_received: u64,
    /// Those that were given up, or got too old.
    pub events_dropped: u64,
    /// Records and dead letters that were not delivered.
    pub destination_failures: u64,
    /// From acceptance to the end of events.
    pub event_ages: Spread,
}

/// What the counters say now, since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Invocations that ran.
    pub invocations: u64,
    /// Those that failed.
    pub errors: u64,
    /// Invocations that were refused.
    pub throttles: u64,
    /// Asynchronous events that were accepted.
    pub events_received: u64,
    /// Those that were given up, or got too old.
    pub events_dropped: u64,
    /// Records and dead letters that were not delivered.
    pub destination_failures: u64,
}

/// A function's minutes, oldest first; minutes without anything are left out.
#[derive(Debug, Default)]
pub struct Series(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    minutes: VecDeque<Minute>,
    seen: Totals,
}

impl Series {
    /// Adds what happened since the last sample to the present minute.
    pub fn sample(&self, now_s: u64, totals: Totals, running: u32, durations: [&Durations; 2]) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if totals == inner.seen && running == 0 {
            return;
        }
        let start_s = now_s - now_s % 60;
        if inner.minutes.back().is_none_or(|minute| minute.start_s < start_s) {
            inner.minutes.push_back(Minute { start_s, ..Minute::default() });
            if inner.minutes.len() > SERIES_MINUTES_MAX {
                inner.minutes.pop_front();
            }
        }
        let seen = std::mem::replace(&mut inner.seen, totals);
        let Some(minute) = inner.minutes.back_mut() else { return };
        minute.invocations += totals.invocations.saturating_sub(seen.invocations);
        minute.errors += totals.errors.saturating_sub(seen.errors);
        minute.throttles += totals.throttles.saturating_sub(seen.throttles);
        minute.concurrency = minute.concurrency.max(running);
        let more = |now: u64, before: u64| now.saturating_sub(before);
        minute.events_received += more(totals.events_received, seen.events_received);
        minute.events_dropped += more(totals.events_dropped, seen.events_dropped);
        minute.destination_failures += more(totals.destination_failures, seen.destination_failures);
        let [ran, events] = durations;
        minute.durations.merge(&ran.take());
        minute.event_ages.merge(&events.take());
    }

    /// The minutes that begin within a span of seconds.
    #[must_use]
    pub fn read(&self, from_s: u64, until_s: u64) -> Vec<Minute> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |minute: &&Minute| (from_s..until_s).contains(&minute.start_s);
        inner.minutes.iter().filter(within).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_everything_in_order() {
        let mut last = 0;
        for us in (0..3_000_000_000u64).step_by(999_983).chain([0, 1, 5, 9, u64::MAX]) {
            let bucket = bucket_of(us);
            assert!(bucket < BUCKETS);
            if us < 2_000_000_000 && us > 8 {
                assert!(bucket >= last || us < 1_000_000);
                last = bucket;
                assert!((middle(bucket) / us as f64 - 1.0).abs() < 0.13, "{us}");
            }
        }
    }

    #[test]
    fn minutes_hold_what_happened_in_them() {
        let (series, durations) = (Series::default(), Durations::default());
        for ms in 1..=100 {
            durations.note(Duration::from_millis(ms));
        }
        let (ages, totals) = (Durations::default(), |invocations| Totals {
            invocations,
            errors: 2,
            throttles: 1,
            ..Totals::default()
        });
        let durations = [&durations, &ages];
        series.sample(6_000, totals(100), 3, durations);
        series.sample(6_059, totals(101), 1, durations);
        series.sample(6_060, totals(101), 0, durations);
        durations[0].note(Duration::from_secs(1));
        series.sample(6_061, totals(105), 0, durations);
        let minutes = series.read(0, u64::MAX);
        assert_eq!(minutes.len(), 2);
        let first = &minutes[0];
        assert_eq!((first.start_s, first.invocations, first.errors), (6_000, 101, 2));
        assert_eq!((first.throttles, first.concurrency), (1, 3));
        assert_eq!((first.durations.min_us, first.durations.max_us), (1_000, 100_000));
        let p50 = first.durations.percentile(50.0).unwrap();
        assert!((p50 / 50_000.0 - 1.0).abs() < 0.15, "{p50}");
        assert_eq!(minutes[1].invocations, 4);
        assert_eq!(series.read(6_060, 6_061).len(), 1);
    }
}
