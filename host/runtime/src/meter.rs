//! One invocation's clocks: the wall-clock deadline and the CPU time used.
//!
//! A call that ends within its first slice costs two clock readings. A call that outlives it pays for the
//! thread's CPU clock, which is a system call; its first slice counts as the time that passed. That errs on
//! the side of the limit: one bulk operation can fill many ticks. It says nothing of how long the next call
//! will be, though: a busy machine may have had this one wait for a core. The next calls after one that took
//! long are measured by the CPU clock from their beginning on, and so are the first ones of a version, and
//! all of one whose CPU time is limited more than its time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wambda_model::{KillReason, clock};
use wasmtime::UpdateDeadline;

const NOT_PRECISE: u64 = u64::MAX;

/// Slices after which a call leaves the thread that read its request.
const INLINE_SLICES: u32 = 2;

/// How long a call was, as far as it tells how long the next one will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Short,
    /// Much time passed, and how much of it on a core was not measured.
    Unclear,
    Long,
}

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
    /// The part of it that the thread's CPU clock says.
    cpu_measured: AtomicU64,
    /// Measured from the beginning on.
    exact: AtomicBool,
    /// What the instance took before its call.
    cpu_before: AtomicU64,
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
    nanos(clock::thread_cpu())
}

impl Meter {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            deadline: zero(),
            timeout: zero(),
            cpu_limit: zero(),
            cpu_used: zero(),
            cpu_measured: zero(),
            exact: AtomicBool::new(false),
            cpu_before: zero(),
            poll_wall: zero(),
            poll_cpu: AtomicU64::new(NOT_PRECISE),
            ended: zero(),
            slices: AtomicU32::new(0),
            killed: AtomicU8::new(0),
        }
    }

    /// Starts over for an invocation that began at `now`; `exact` when all of its CPU time shall be measured.
    pub(crate) fn arm(&self, now: u64, timeout: Duration, cpu: Duration, exact: bool) {
        self.deadline.store(now.saturating_add(nanos(timeout)), Relaxed);
        self.timeout.store(nanos(timeout), Relaxed);
        self.cpu_limit.store(nanos(cpu), Relaxed);
        self.cpu_used.store(0, Relaxed);
        self.cpu_measured.store(0, Relaxed);
        self.cpu_before.store(0, Relaxed);
        self.exact.store(exact, Relaxed);
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

    /// The instance is made: how long its call will be is counted from here.
    pub(crate) fn made(&self) {
        self.cpu_before.store(self.cpu_used.load(Relaxed), Relaxed);
        self.cpu_measured.store(0, Relaxed);
    }

    /// It has waited for room: that is not its function's time. Its caller's ends at `until`.
    pub(crate) fn postpone(&self, by: Duration, until: Option<Instant>) {
        let later = self.deadline_ns().saturating_add(nanos(by));
        self.deadline.store(until.map_or(later, |at| later.min(since_origin(at))), Relaxed);
    }

    /// What this turned out to be.
    pub(crate) fn length(&self) -> Length {
        let used = self.cpu_used.load(Relaxed) - self.cpu_before.load(Relaxed);
        if Duration::from_nanos(self.cpu_measured.load(Relaxed)) > LONG_CALL {
            Length::Long
        } else if Duration::from_nanos(used) > LONG_CALL {
            Length::Unclear
        } else {
            Length::Short
        }
    }

    /// Whether this is not to go on where short calls are. Having waited for a core is no reason.
    pub(crate) fn outlived(&self) -> bool {
        self.slices() >= INLINE_SLICES && self.length() == Length::Long
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
        let precise = self.exact.load(Relaxed) || self.slices() > 0;
        self.poll_cpu.store(if precise { thread_cpu() } else { NOT_PRECISE }, Relaxed);
    }

    /// It no longer runs.
    pub(crate) fn poll_end(&self, now: u64) {
        self.end(now);
        let used = match self.poll_cpu.load(Relaxed) {
            NOT_PRECISE => now.saturating_sub(self.poll_wall.load(Relaxed)),
            start => {
                let measured = thread_cpu().saturating_sub(start);
                self.cpu_measured.fetch_add(measured, Relaxed);
                measured
            }
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
            meter.arm(now, timeout, cpu, false);
            meter.poll_begin(now);
            std::thread::sleep(Duration::from_millis(1));
            let goes_on = matches!(meter.slice_end(), UpdateDeadline::Yield(1));
            assert_eq!((goes_on, meter.killed()), (wanted.is_none(), wanted));
        }
    }

    #[test]
    fn sleeping_costs_no_cpu_once_precise() {
        let meter = Meter::new();
        meter.arm(now_ns(), Duration::from_secs(60), Duration::from_secs(60), false);
        meter.poll_begin(now_ns());
        let _ = meter.slice_end();
        meter.poll_end(now_ns());
        let before = meter.cpu();
        meter.poll_begin(now_ns());
        std::thread::sleep(Duration::from_millis(50));
        meter.poll_end(now_ns());
        assert!(meter.cpu() - before < Duration::from_millis(20), "{:?}", meter.cpu() - before);
    }

    #[test]
    fn waiting_for_a_core_makes_no_call_long() {
        let minute = Duration::from_secs(60);
        let call = |exact, spins: Duration| {
            let meter = Meter::new();
            meter.arm(now_ns(), minute, minute, exact);
            for _ in 0..=INLINE_SLICES {
                meter.poll_begin(now_ns());
                // As when others have the cores.
                std::thread::sleep(Duration::from_millis(1));
                let until = thread_cpu() + nanos(spins);
                while thread_cpu() < until {}
                let _ = meter.slice_end();
                meter.poll_end(now_ns());
            }
            (meter.length(), meter.outlived())
        };
        assert_eq!(call(false, Duration::ZERO), (Length::Unclear, false));
        assert_eq!(call(true, Duration::ZERO), (Length::Short, false));
        assert_eq!(call(false, LONG_CALL), (Length::Long, true));
        assert_eq!(call(true, LONG_CALL), (Length::Long, true));
    }
}
