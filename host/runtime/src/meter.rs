//! One invocation's clocks: the wall-clock deadline and the CPU time used.
//!
//! A call that ends within its first slice costs two clock readings. Only a call that outlives it
//! pays for the thread's CPU clock, which is a system call; its first slice counts as the time that
//! passed. That errs on the side of the limit: one bulk operation can fill many ticks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wambda_model::{KillReason, clock};
use wasmtime::UpdateDeadline;

const NOT_PRECISE: u64 = u64::MAX;

/// Slices after which a call leaves the thread that read its request.
pub(crate) const INLINE_SLICES: u32 = 2;
/// CPU time from which on a function's calls are expected to be long, and do not begin there: those who wait
/// for that thread wait for all that is inline on it, and a hop costs a fiftieth of this.
pub(crate) const LONG_CALL: Duration = Duration::from_micros(500);

/// Atomics, because the guest's fiber and the future that polls it both hold it; never contended.
#[derive(Debug)]
pub(crate) struct Meter {
    deadline: AtomicU64,
    timeout: AtomicU64,
    cpu_limit: AtomicU64,
    cpu_used: AtomicU64,
    poll_wall: AtomicU64,
    poll_cpu: AtomicU64,
    /// When the last poll ended.
    ended: AtomicU64,
    slices: AtomicU32,
    killed: AtomicU8,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(clock::now)
}

/// Nanoseconds since the process began.
pub(crate) fn since_origin(at: Instant) -> u64 {
    nanos(at.saturating_duration_since(origin()))
}

/// Nanoseconds since the process began.
pub(crate) fn now_ns() -> u64 {
    since_origin(clock::now())
}

/// CPU time of this thread in nanoseconds.
fn thread_cpu() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

impl Meter {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            deadline: zero(),
            timeout: zero(),
            cpu_limit: zero(),
            cpu_used: zero(),
            poll_wall: zero(),
            poll_cpu: AtomicU64::new(NOT_PRECISE),
            ended: zero(),
            slices: AtomicU32::new(0),
            killed: AtomicU8::new(0),
        }
    }

    /// Starts over for an invocation that began at `now`.
    pub(crate) fn arm(&self, now: u64, timeout: Duration, cpu: Duration) {
        self.deadline.store(now.saturating_add(nanos(timeout)), Relaxed);
        self.timeout.store(nanos(timeout), Relaxed);
        self.cpu_limit.store(nanos(cpu), Relaxed);
        self.cpu_used.store(0, Relaxed);
        self.slices.store(0, Relaxed);
        self.killed.store(0, Relaxed);
    }

    /// The wall-clock deadline.
    pub(crate) fn deadline(&self) -> Instant {
        origin() + Duration::from_nanos(self.deadline.load(Relaxed))
    }

    /// Time from the beginning to the deadline.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout.load(Relaxed))
    }

    /// Epoch slices that the guest has used up.
    pub(crate) fn slices(&self) -> u32 {
        self.slices.load(Relaxed)
    }

    /// Whether this turned out not to be a short call.
    pub(crate) fn was_long(&self) -> bool {
        self.slices() >= INLINE_SLICES || self.cpu() > LONG_CALL
    }

    /// CPU time used, up to the last end of a poll.
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_used.load(Relaxed))
    }

    /// Why the guest was stopped, when it was stopped by a clock.
    pub(crate) fn killed(&self) -> Option<KillReason> {
        match self.killed.load(Relaxed) {
            0 => None,
            1 => Some(KillReason::Timeout),
            _ => Some(KillReason::Cpu),
        }
    }

    pub(crate) fn kill(&self, reason: KillReason) {
        self.killed.store(if reason == KillReason::Cpu { 2 } else { 1 }, Relaxed);
    }

    /// The guest is about to run on this thread.
    pub(crate) fn poll_begin(&self, now: u64) {
        self.poll_wall.store(now, Relaxed);
        let precise = self.slices() > 0;
        self.poll_cpu.store(if precise { thread_cpu() } else { NOT_PRECISE }, Relaxed);
    }

    /// It no longer runs.
    pub(crate) fn poll_end(&self, now: u64) {
        self.end(now);
        let used = match self.poll_cpu.load(Relaxed) {
            NOT_PRECISE => now.saturating_sub(self.poll_wall.load(Relaxed)),
            start => thread_cpu().saturating_sub(start),
        };
        self.cpu_used.fetch_add(used, Relaxed);
    }

    /// Nothing runs after `now`.
    pub(crate) fn end(&self, now: u64) {
        self.ended.store(now, Relaxed);
    }

    /// Nanoseconds since the process began at the deadline.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.deadline.load(Relaxed)
    }

    /// From `began` to the end of the last poll.
    pub(crate) fn since(&self, began: u64) -> Duration {
        Duration::from_nanos(self.ended.load(Relaxed).saturating_sub(began))
    }

    /// When the last poll ended.
    pub(crate) fn ended(&self) -> Instant {
        origin() + Duration::from_nanos(self.ended.load(Relaxed))
    }

    /// The guest used up a slice: go on after letting others run, or stop.
    pub(crate) fn slice_end(&self) -> UpdateDeadline {
        self.slices.fetch_add(1, Relaxed);
        let now = now_ns();
        if self.poll_cpu.load(Relaxed) == NOT_PRECISE {
            let passed = now.saturating_sub(self.poll_wall.load(Relaxed));
            self.cpu_used.fetch_add(passed, Relaxed);
            self.poll_cpu.store(thread_cpu(), Relaxed);
        }
        let in_poll = thread_cpu().saturating_sub(self.poll_cpu.load(Relaxed));
        let reason = if now >= self.deadline.load(Relaxed) {
            KillReason::Timeout
        } else if self.cpu_used.load(Relaxed) + in_poll > self.cpu_limit.load(Relaxed) {
            KillReason::Cpu
        } else {
            return UpdateDeadline::Yield(1);
        };
        self.kill(reason);
        UpdateDeadline::Interrupt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_end_at_the_deadline_and_at_the_cpu_limit() {
        let (long, short) = (Duration::from_secs(60), Duration::from_nanos(1));
        for (timeout, cpu, wanted) in [
            (long, long, None),
            (short, long, Some(KillReason::Timeout)),
            (long, short, Some(KillReason::Cpu)),
        ] {
            let meter = Meter::new();
            let now = now_ns();
            meter.arm(now, timeout, cpu);
            meter.poll_begin(now);
            std::thread::sleep(Duration::from_millis(1));
            let goes_on = matches!(meter.slice_end(), UpdateDeadline::Yield(1));
            assert_eq!((goes_on, meter.killed()), (wanted.is_none(), wanted));
        }
    }

    #[test]
    fn sleeping_costs_no_cpu_once_precise() {
        let meter = Meter::new();
        meter.arm(now_ns(), Duration::from_secs(60), Duration::from_secs(60));
        meter.poll_begin(now_ns());
        let _ = meter.slice_end();
        meter.poll_end(now_ns());
        let before = meter.cpu();
        meter.poll_begin(now_ns());
        std::thread::sleep(Duration::from_millis(50));
        meter.poll_end(now_ns());
        assert!(meter.cpu() - before < Duration::from_millis(20), "{:?}", meter.cpu() - before);
    }
}
