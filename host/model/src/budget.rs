//! The process-wide memory budget: bytes that guests hold, against what the operator allows.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Frees some memory that nobody uses now; says whether it found any.
pub type Reliever = Box<dyn Fn() -> bool + Send + Sync>;

/// Counts the bytes that all guests hold together.
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    reliever: OnceLock<Reliever>,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("limit", &self.limit).field("used", &self.used).finish()
    }
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0), reliever: OnceLock::new() })
    }

    /// Names who is asked for memory when there is not enough. The first one stays.
    pub fn set_reliever(&self, reliever: Reliever) {
        let _ = self.reliever.set(reliever);
    }

    /// Asks for memory until less than fifteen sixteenths are used. Returns whether that is so.
    pub fn relieve(&self) -> bool {
        while self.is_tight() {
            if !self.reliever.get().is_some_and(|free_some| free_some()) {
                return false;
            }
        }
        true
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
        Charge { budget: Arc::clone(self), bytes: 0, held: 0 }
    }
}

/// What one instance holds of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    /// Bytes taken.
    bytes: u64,
    /// Those, and what is kept for more.
    held: u64,
}

impl Charge {
    /// Keeps room for `bytes` in all, or nothing when the budget lacks them; asks the reliever before that when
    /// `urgent`. Returns whether it did.
    pub fn reserve(&mut self, bytes: u64, urgent: bool) -> bool {
        let more = bytes.saturating_sub(self.held);
        // What is not urgent leaves the last sixteenth alone: it would be evicted again at once.
        let limit = self.budget.limit - if urgent { 0 } else { self.budget.limit / 16 };
        let fits = |used: u64| used.checked_add(more).filter(|sum| *sum <= limit);
        while more > 0 && self.budget.used.fetch_update(Relaxed, Relaxed, fits).is_err() {
            let free_some = self.budget.reliever.get();
            if !urgent || more > limit || !free_some.is_some_and(|free_some| free_some()) {
                return false;
            }
        }
        self.held += more;
        true
    }

    /// Takes `more` bytes, of what is reserved first, and as [`Self::reserve`] says beyond that. Returns whether it did.
    pub fn grow(&mut self, more: u64, urgent: bool) -> bool {
        let Some(bytes) = self.bytes.checked_add(more) else { return false };
        let grows = self.reserve(bytes, urgent);
        if grows {
            self.bytes = bytes;
        }
        grows
    }

    /// Gives back what is reserved and not taken.
    pub fn settle(&mut self) {
        self.budget.used.fetch_sub(self.held - self.bytes, Relaxed);
        self.held = self.bytes;
    }

    /// Bytes taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.held, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reliever_is_asked_before_anyone_is_refused() {
        let budget = Budget::new(100);
        let idle = std::sync::Mutex::new(Vec::new());
        for _ in 0..3 {
            let mut charge = budget.charge();
            assert!(charge.grow(30, true));
            idle.lock().unwrap().push(charge);
        }
        budget.set_reliever(Box::new(move || idle.lock().unwrap().pop().is_some()));
        let mut ahead = budget.charge();
        assert!(
            !ahead.grow(60, false) && budget.used() == 90,
            "nobody goes for what is not urgent"
        );
        let mut busy = budget.charge();
        assert!(busy.grow(60, true));
        assert_eq!(budget.used(), 90, "two of the three had to go");
        assert!(!busy.grow(200, true) && budget.used() == 90, "what can never fit costs nobody");
        assert!(busy.grow(40, true) && !busy.grow(1, true));
    }

    #[test]
    fn a_charge_never_exceeds_the_budget_and_gives_back() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (budget.charge(), budget.charge());
        assert!(a.grow(60, true) && !b.grow(50, true) && b.grow(40, true));
        assert_eq!((budget.used(), budget.is_tight()), (100, true));
        assert!(!a.grow(u64::MAX, true));
        drop(a);
        assert_eq!((budget.used(), b.bytes()), (40, 40));
    }

    #[test]
    fn what_is_reserved_is_there() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (budget.charge(), budget.charge());
        assert!(a.reserve(60, true) && !b.reserve(50, true) && b.reserve(30, true));
        assert_eq!((budget.used(), a.bytes()), (90, 0));
        assert!(a.grow(50, true) && a.grow(15, true) && !a.grow(6, true) && !b.grow(40, true));
        assert_eq!((budget.used(), a.bytes()), (95, 65));
        b.settle();
        a.settle();
        assert_eq!((budget.used(), b.bytes()), (65, 0));
        assert!(b.grow(20, true) && !b.grow(u64::MAX, true));
        drop(a);
        assert_eq!(budget.used(), 20);
    }
}
