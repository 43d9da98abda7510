//! Where time comes from: the only place that may ask the operating system.
//!
//! Schedulers and queues take a [`Clock`]; measuring code on the hot path calls [`now`] directly,
//! because a virtual call for a stopwatch buys nothing.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::ClockId;

/// A source of monotonic and wall-clock time.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Wall-clock time in milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;
}

/// The operating system's clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        now()
    }
    fn unix_ms(&self) -> u64 {
        unix_ms()
    }
}

/// Monotonic time.
#[must_use]
#[allow(clippy::disallowed_methods)] // this is the place
pub fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time in milliseconds since the Unix epoch; 0 for a clock set before it.
#[must_use]
#[allow(clippy::disallowed_methods)] // this is the place
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// CPU time that this thread has used.
#[must_use]
pub fn thread_cpu() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

/// CPU time that all threads of this process have used.
#[must_use]
pub fn process_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime)
}

fn cpu(clock: ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What [`wall_ms`] counts from, and the wall-clock time there in microseconds since the Unix epoch.
static ORIGIN: LazyLock<(Instant, AtomicU64)> =
    LazyLock::new(|| (now(), AtomicU64::new(unix_ms().saturating_mul(1_000))));

/// Takes over what somebody has done to the wall clock; to be called now and then.
pub fn adjust() {
    let (origin, unix_us) = &*ORIGIN;
    let passed = u64::try_from(now().saturating_duration_since(*origin).as_micros());
    let there = unix_ms().saturating_mul(1_000).saturating_sub(passed.unwrap_or(0));
    // Within a millisecond it is the same: time should not tremble.
    if unix_us.load(Relaxed).abs_diff(there) > 1_000 {
        unix_us.store(there, Relaxed);
    }
}

/// Wall-clock time in milliseconds since the Unix epoch at `at`, without asking the operating system; changes of the
/// clock are there with the next [`adjust`].
#[must_use]
pub fn wall_ms(at: Instant) -> u64 {
    let (origin, unix_us) = &*ORIGIN;
    let passed = u64::try_from(at.saturating_duration_since(*origin).as_micros());
    unix_us.load(Relaxed).saturating_add(passed.unwrap_or(0)) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_follows_the_clock() {
        assert!(wall_ms(now()).abs_diff(unix_ms()) <= 2);
        ORIGIN.1.fetch_add(60_000_000, Relaxed);
        assert!(wall_ms(now()).abs_diff(unix_ms()) > 59_000);
        adjust();
        assert!(wall_ms(now()).abs_diff(unix_ms()) <= 2);
    }
}
