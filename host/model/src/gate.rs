//! How many invocations may run at once: a function's reserved concurrency, or the account's pool of
//! what nobody has reserved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::limits::UNRESERVED_MIN;

/// A counted limit. Never waits: whoever finds it closed comes back later.
#[derive(Debug)]
pub struct Gate {
    limit: AtomicU32,
    running: AtomicU32,
}

impl Gate {
    /// A gate that lets `limit` through at once.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit: AtomicU32::new(limit), running: AtomicU32::new(0) }
    }

    /// How many it lets through at once.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Changes the limit. Those that are through stay.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    /// How many are through.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running.load(Relaxed)
    }

    /// Whether one more may pass now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.running() < self.limit()
    }

    /// Passes, when the gate is open.
    #[must_use]
    pub fn try_enter(&self) -> bool {
        let limit = self.limit();
        let one_more = |running: u32| (running < limit).then_some(running + 1);
        self.running.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// Passes in any case: for those that came through another gate.
    pub fn force(&self, count: u32) {
        self.running.fetch_add(count, Relaxed);
    }

    /// Leaves.
    pub fn leave(&self, count: u32) {
        let less = |running: u32| Some(running.saturating_sub(count));
        let _ = self.running.fetch_update(Relaxed, Relaxed, less);
    }
}

/// What the versions of one function share of the concurrency.
#[derive(Debug)]
pub struct Share {
    /// Counts when the function has reserved concurrency.
    own: Gate,
    reserved: AtomicBool,
    /// Counts otherwise.
    account: Arc<Gate>,
}

impl Share {
    /// A share of the account's pool.
    #[must_use]
    pub fn of(account: &Arc<Gate>) -> Self {
        Self { own: Gate::new(0), reserved: AtomicBool::new(false), account: Arc::clone(account) }
    }

    /// Sets what the function has for itself, beyond what is provisioned; none is the pool.
    pub fn reserve(&self, limit: Option<u32>) {
        self.own.set_limit(limit.unwrap_or(0));
        self.reserved.store(limit.is_some(), Relaxed);
    }

    /// Whether the function has concurrency for itself.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.reserved.load(Relaxed)
    }

    /// The gate that counts; of the function itself when `own`.
    #[must_use]
    pub fn gate(&self, own: bool) -> &Gate {
        if own { &self.own } else { &self.account }
    }

    /// The gate that counts now.
    #[must_use]
    pub fn current(&self) -> &Gate {
        self.gate(self.is_reserved())
    }
}

/// What the pool has when functions have reserved and provisioned so much of an account's limit.
#[must_use]
pub fn unreserved(account_limit: u32, taken: u64) -> u32 {
    let left = u64::from(account_limit).saturating_sub(taken);
    u32::try_from(left).unwrap_or(u32::MAX).max(UNRESERVED_MIN.min(account_limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_counts() {
        let gate = Gate::new(2);
        assert!(gate.try_enter() && gate.try_enter() && !gate.try_enter());
        gate.leave(1);
        assert!(gate.is_open());
        gate.force(5);
        gate.set_limit(3);
        assert!(!gate.try_enter());
        gate.leave(100);
        assert_eq!(gate.running(), 0);
    }

    #[test]
    fn the_pool_never_runs_dry() {
        assert_eq!(unreserved(1_000, 0), 1_000);
        assert_eq!(unreserved(1_000, 400), 600);
        assert_eq!(unreserved(1_000, 100_000), UNRESERVED_MIN);
        assert_eq!(unreserved(10, 5), 10);
    }
}
