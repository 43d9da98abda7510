//! Where time comes from: the only place that may ask the operating system.
//!
//! Schedulers and queues take a [`Clock`]; measuring code on the hot path calls [`now`] directly,
//! because a virtual call for a stopwatch buys nothing.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
