//! The quota of what is kept for functions and layers (Lambda: code storage).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wambda_model::Build;

/// There is no room for more.
#[derive(Debug, thiserror::Error)]
#[error(
    "Code storage limit exceeded: of {limit} bytes, {used} are in use by uploads, what they were unpacked and compiled \
     to, and layers; {more} more are needed"
)]
pub struct Full {
    /// Bytes allowed.
    pub limit: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that there is no room for.
    pub more: u64,
}

/// Bytes that are kept for functions and layers, against what the operator allows. What compiling makes of them may exceed it.
pub struct Storage {
    limit: u64,
    build: Arc<dyn Build>,
    code: AtomicU64,
    /// Of code that is being compiled.
    staged: AtomicU64,
    layers: AtomicU64,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (limit, used) = (self.limit, self.used());
        f.debug_struct("Storage")
            .field("limit", &limit)
            .field("used", &used)
            .finish_non_exhaustive()
    }
}

impl Storage {
    /// Room for `limit` bytes, those that `build` keeps included.
    #[must_use]
    pub fn new(limit: u64, build: Arc<dyn Build>) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self { limit, build, code: zero(), staged: zero(), layers: zero() })
    }

    /// Bytes allowed.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        let kept = [&self.code, &self.staged, &self.layers];
        kept.map(|bytes| bytes.load(Relaxed)).iter().sum::<u64>() + self.build.stored()
    }

    pub(crate) fn set_code(&self, bytes: u64) {
        self.code.store(bytes, Relaxed);
    }

    pub(crate) fn set_staged(&self, bytes: u64) {
        self.staged.store(bytes, Relaxed);
    }

    pub(crate) fn set_layers(&self, bytes: u64) {
        self.layers.store(bytes, Relaxed);
    }

    /// Whether there is room for `more` bytes.
    pub(crate) fn check(&self, more: u64) -> Result<(), Full> {
        let (limit, used) = (self.limit, self.used());
        if used.saturating_add(more) <= limit { Ok(()) } else { Err(Full { limit, used, more }) }
    }
}
