//! A guard for the many who are counted while they do something.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// One of those who are counted, while this lives.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    /// One more.
    pub(crate) fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }

    /// One that is counted already.
    pub(crate) fn already(count: &'a AtomicU32) -> Self {
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
