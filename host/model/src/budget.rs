//! The process-wide memory budget: bytes that guests hold, against what the operator allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts the bytes that all guests hold together.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Bytes allowed.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes held.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Whether less than a sixteenth is free: time to retire idle instances.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.used() > self.limit - self.limit / 16
    }

    /// An empty charge against this budget.
    #[must_use]
    pub fn charge(self: &Arc<Self>) -> Charge {
        Charge { budget: Arc::clone(self), bytes: 0 }
    }
}

/// What one instance holds of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// Takes `more` bytes, or nothing when the budget lacks them. Returns whether it did.
    pub fn grow(&mut self, more: u64) -> bool {
        let limit = self.budget.limit;
        let fits = |used: u64| used.checked_add(more).filter(|sum| *sum <= limit);
        let taken = self.budget.used.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if taken {
            self.bytes += more;
        }
        taken
    }

    /// Bytes taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_never_exceeds_the_budget_and_gives_back() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (budget.charge(), budget.charge());
        assert!(a.grow(60) && !b.grow(50) && b.grow(40));
        assert_eq!((budget.used(), budget.is_tight()), (100, true));
        assert!(!a.grow(u64::MAX));
        drop(a);
        assert_eq!((budget.used(), b.bytes()), (40, 40));
    }
}
