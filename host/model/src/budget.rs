//! The process-wide memory budget: bytes that guests hold, against what the operator allows.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::limits::SHARE_PARTS;

/// Frees some memory that nobody uses now, of all functions or of that one whose count this is; says whether it found
/// any.
pub type Reliever = Box<dyn Fn(Option<&Arc<AtomicU64>>) -> bool + Send + Sync>;

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
            if !self.reliever.get().is_some_and(|free_some| free_some(None)) {
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

    /// Bytes that one function may hold: three quarters, so that it is not alone.
    #[must_use]
    pub fn each(&self) -> u64 {
        let (part, of) = SHARE_PARTS;
        self.limit / of * part
    }

    /// An empty charge against this budget, of a function that holds `own` bytes by now.
    #[must_use]
    pub fn charge(self: &Arc<Self>, own: &Arc<AtomicU64>) -> Charge {
        Charge { budget: Arc::clone(self), own: Arc::clone(own), bytes: 0, held: 0 }
    }
}

/// Why a charge could not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// The function would hold more than [`Budget::each`]: so many bytes.
    Own(u64),
    /// All together would hold more than there is.
    All,
}

/// What one instance holds of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    /// What the function holds, this charge included.
    own: Arc<AtomicU64>,
    /// Bytes taken.
    bytes: u64,
    /// Those, and what is kept for more.
    held: u64,
}

impl Charge {
    /// Keeps room for `bytes` in all; asks the reliever before it fails when `urgent`.
    ///
    /// # Errors
    /// When the budget lacks them, or the function has had its part. Nothing has changed then.
    pub fn reserve(&mut self, bytes: u64, urgent: bool) -> Result<(), Short> {
        let more = bytes.saturating_sub(self.held);
        if more == 0 {
            return Ok(());
        }
        let each = self.budget.each();
        // The first one may have all there is, or a large one could never run.
        let within = |own: u64| own.checked_add(more).filter(|sum| own == 0 || *sum <= each);
        while let Err(own) = self.own.fetch_update(Relaxed, Relaxed, within) {
            let free_some = self.budget.reliever.get().filter(|_| urgent && more <= each);
            if !free_some.is_some_and(|free_some| free_some(Some(&self.own))) {
                return Err(Short::Own(own.saturating_add(more)));
            }
        }
        if self.take(more, urgent) {
            self.held += more;
            return Ok(());
        }
        self.own.fetch_sub(more, Relaxed);
        Err(Short::All)
    }

    /// Takes `more` bytes of what all have. Returns whether it did.
    fn take(&self, more: u64, urgent: bool) -> bool {
        // What is not urgent leaves the last sixteenth alone: it would be evicted again at once.
        let limit = self.budget.limit - if urgent { 0 } else { self.budget.limit / 16 };
        let fits = |used: u64| used.checked_add(more).filter(|sum| *sum <= limit);
        while self.budget.used.fetch_update(Relaxed, Relaxed, fits).is_err() {
            let free_some = self.budget.reliever.get();
            if !urgent || more > limit || !free_some.is_some_and(|free_some| free_some(None)) {
                return false;
            }
        }
        true
    }

    /// Takes `more` bytes, of what is reserved first.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub fn grow(&mut self, more: u64, urgent: bool) -> Result<(), Short> {
        let bytes = self.bytes.checked_add(more).ok_or(Short::Own(u64::MAX))?;
        self.reserve(bytes, urgent)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Gives back what is reserved and not taken.
    pub fn settle(&mut self) {
        // Mostly there is nothing to give, and others count on the same line.
        if self.held > self.bytes {
            self.give_back(self.held - self.bytes);
            self.held = self.bytes;
        }
    }

    fn give_back(&self, bytes: u64) {
        self.own.fetch_sub(bytes, Relaxed);
        self.budget.used.fetch_sub(bytes, Relaxed);
    }

    /// Bytes taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give_back(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(budget: &Arc<Budget>) -> Charge {
        budget.charge(&Arc::default())
    }

    #[test]
    fn a_reliever_is_asked_before_anyone_is_refused() {
        let budget = Budget::new(100);
        let idle = std::sync::Mutex::new(Vec::new());
        for _ in 0..3 {
            let mut charge = charge(&budget);
            charge.grow(30, true).unwrap();
            idle.lock().unwrap().push(charge);
        }
        budget.set_reliever(Box::new(move |_| idle.lock().unwrap().pop().is_some()));
        let mut ahead = charge(&budget);
        assert_eq!(ahead.grow(60, false), Err(Short::All), "nobody goes for what is not urgent");
        let mut busy = charge(&budget);
        busy.grow(60, true).unwrap();
        assert_eq!(budget.used(), 90, "two of the three had to go");
        assert_eq!(busy.grow(15, true), Ok(()));
        let mut other = charge(&budget);
        other.grow(25, true).unwrap();
        assert_eq!(budget.used(), 100, "the last one as well");
        assert_eq!(other.grow(1, true), Err(Short::All));
    }

    #[test]
    fn a_charge_never_exceeds_the_budget_and_gives_back() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (charge(&budget), charge(&budget));
        a.grow(60, true).unwrap();
        assert_eq!(b.grow(50, true), Err(Short::All));
        b.grow(40, true).unwrap();
        assert_eq!((budget.used(), budget.is_tight()), (100, true));
        assert!(a.grow(u64::MAX, true).is_err());
        drop(a);
        assert_eq!((budget.used(), b.bytes()), (40, 40));
    }

    #[test]
    fn a_function_gets_three_quarters() {
        let (budget, own) = (Budget::new(100), Arc::default());
        let (mut a, mut b) = (budget.charge(&own), budget.charge(&own));
        a.grow(50, true).unwrap();
        assert_eq!(b.grow(26, true), Err(Short::Own(76)));
        assert_eq!(budget.charge(&Arc::default()).grow(101, true), Err(Short::All));
        assert_eq!(b.reserve(26, true), Err(Short::Own(76)));
        b.reserve(25, true).unwrap();
        charge(&budget).grow(25, true).unwrap();
        a.settle();
        drop(a);
        b.settle();
        assert_eq!((own.load(Relaxed), budget.used()), (0, 0));
        b.grow(75, true).unwrap();
    }

    #[test]
    fn what_is_reserved_is_there() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (charge(&budget), charge(&budget));
        a.reserve(60, true).unwrap();
        assert!(b.reserve(50, true).is_err());
        b.reserve(30, true).unwrap();
        assert_eq!((budget.used(), a.bytes()), (90, 0));
        a.grow(50, true).unwrap();
        a.grow(15, true).unwrap();
        assert!(a.grow(6, true).is_err() && b.grow(40, true).is_err());
        assert_eq!((budget.used(), a.bytes()), (95, 65));
        b.settle();
        a.settle();
        assert_eq!((budget.used(), b.bytes()), (65, 0));
        b.grow(20, true).unwrap();
        drop(a);
        assert_eq!(budget.used(), 20);
    }
}
