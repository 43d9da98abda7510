//! One instance's memory limit: linear memories and tables summed, which wasmtime's own limits are
//! not, and charged against the process-wide budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wambda_model::limits::{
    STORE_INSTANCES_MAX, STORE_MEMORIES_MAX, STORE_TABLES_MAX, TABLE_ELEMENT_BYTES,
};
use wambda_model::{Charge, Short};
use wasmtime::ResourceLimiter;

/// Why a growth was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The function's limit; the instance wanted this many bytes in all.
    Limit(u64),
    /// The process-wide budget, or the function's part of it.
    Budget(Short),
}

#[derive(Debug)]
pub(crate) struct Limiter {
    limit: u64,
    charge: Charge,
    /// Bytes held, for those who cannot reach into the store.
    gauge: Arc<AtomicU64>,
    denied: Option<Denied>,
    /// Made ahead of time: takes what is free, and evicts nobody for it.
    ahead: bool,
}

impl Limiter {
    pub(crate) fn new(limit: u64, charge: Charge, ahead: bool) -> Self {
        Self { limit, charge, gauge: Arc::default(), denied: None, ahead }
    }

    /// Keeps room for what an instance that has not served yet is likely to take; or else what is short.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<(), Short> {
        self.charge.reserve(bytes.min(self.limit), true)
    }

    /// Gives back what was reserved and not taken.
    pub(crate) fn settle(&mut self) {
        self.charge.settle();
    }

    /// Bytes held. Wasm memory never shrinks, so this is the peak as well.
    pub(crate) fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// [`Self::bytes`], readable while the guest runs.
    pub(crate) fn gauge(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.gauge)
    }

    /// The last denial since [`Self::forgive`].
    pub(crate) fn denied(&self) -> Option<Denied> {
        self.denied
    }

    /// An invocation begins: forgets the last denial, and may evict from here on.
    pub(crate) fn begin(&mut self) {
        self.denied = None;
        self.ahead = false;
    }

    fn grow(&mut self, more: u64) -> bool {
        let wanted = self.charge.bytes().saturating_add(more);
        if wanted > self.limit {
            self.denied = Some(Denied::Limit(wanted));
            return false;
        }
        match self.charge.grow(more, !self.ahead) {
            Ok(()) => self.gauge.store(wanted, Relaxed),
            Err(short) => self.denied = Some(Denied::Budget(short)),
        }
        self.charge.bytes() >= wanted
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|max| desired > max) {
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|max| desired > max) {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current) as u64;
        Ok(self.grow(elements.saturating_mul(TABLE_ELEMENT_BYTES)))
    }

    fn instances(&self) -> usize {
        STORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        STORE_TABLES_MAX
    }

    fn memories(&self) -> usize {
        STORE_MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wambda_model::Budget;

    #[test]
    fn memories_and_tables_are_summed() {
        let budget = Budget::new(1 << 20);
        let mut limiter = Limiter::new(300 << 10, budget.charge(&Arc::default()), false);
        assert!(limiter.memory_growing(0, 128 << 10, None).unwrap());
        assert!(limiter.memory_growing(0, 128 << 10, None).unwrap());
        assert!(
            !limiter.memory_growing(128 << 10, 192 << 10, None).unwrap(),
            "a third does not fit"
        );
        assert_eq!(limiter.denied(), Some(Denied::Limit(320 << 10)));
        limiter.begin();
        assert!(limiter.table_growing(0, 5 << 10, None).unwrap());
        assert!(!limiter.table_growing(0, 5 << 10, None).unwrap());
        assert_eq!(limiter.bytes(), (256 + 40) << 10);
        assert!(!limiter.table_growing(0, usize::MAX, None).unwrap());
    }

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let budget = Budget::new(100);
        let mut first = Limiter::new(1_000, budget.charge(&Arc::default()), false);
        assert!(first.memory_growing(0, 70, None).unwrap());
        let mut second = Limiter::new(1_000, budget.charge(&Arc::default()), false);
        assert!(!second.memory_growing(0, 70, None).unwrap());
        assert_eq!(second.denied(), Some(Denied::Budget(Short::All)));
        drop(first);
        assert!(second.memory_growing(0, 70, None).unwrap());
        assert!(!second.memory_growing(70, 80, None).unwrap());
        assert_eq!(second.denied(), Some(Denied::Budget(Short::Own(80))));
    }

    #[test]
    fn a_declared_maximum_is_no_denial() {
        let mut limiter = Limiter::new(1_000, Budget::new(1_000).charge(&Arc::default()), false);
        assert!(!limiter.memory_growing(0, 80, Some(64)).unwrap());
        assert_eq!(limiter.denied(), None);
    }
}
