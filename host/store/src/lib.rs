//! Storage traits, small and object-safe, and their back ends: in memory for tests, embedded for
//! one machine. Contracts stand in the doc comments; each has a case in [`conformance`], which
//! every back end runs.
//!
//! Not a database layer: what a key means is the business of `control`.

pub mod blobs;
pub mod check;
pub mod conformance;
pub mod damage;
pub mod embedded;
mod file;
pub mod home;
pub mod memory;
mod overlay;
pub mod queues;
pub mod sealed;
pub mod trash;

use bytes::Bytes;
use wambda_model::BoxFuture;

pub use blobs::ObjectBlobs;
pub use embedded::EmbeddedRecords;
pub use home::{Claim, Home};
pub use memory::MemoryRecords;
pub use queues::{EmbeddedQueues, MemoryQueues, Queues};
pub use sealed::SealedRecords;

/// What a writer expects of a record before its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing in particular.
    Any,
    /// That there is none.
    Absent,
    /// That it has this revision.
    Revision(u64),
}

impl Expect {
    pub(crate) fn check(self, key: &str, found: Option<u64>) -> Result<(), StoreError> {
        let met = match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Revision(revision) => found == Some(revision),
        };
        if met {
            return Ok(());
        }
        Err(StoreError::Conflict { key: key.to_owned(), found })
    }
}

/// A small value with the revision of its last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// Grows with every write to the store.
    pub revision: u64,
}

/// What went wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The record was not as the writer expected.
    #[error("conflict on {key:?}: its revision is {found:?}")]
    Conflict {
        /// The record.
        key: String,
        /// Its revision; none when there is no record.
        found: Option<u64>,
    },
    /// The medium failed; nothing was written.
    #[error("storage failed: {0}")]
    Failed(String),
    /// There is no room on the medium; nothing was written.
    #[error("the disk of the data directory is full: {0}")]
    Full(String),
    /// Another process has it.
    #[error("{0} is in use: another server is running on it, or `wambda doctor`")]
    InUse(String),
    /// What is stored is not what was written, or is not understood. Nothing was changed.
    #[error("{0}")]
    Damaged(String),
}

impl StoreError {
    /// An error of the operating system, in words that begin with `what`.
    pub(crate) fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let text = format!("{what}: {error}");
        if damage::is_full(error) { Self::Full(text) } else { Self::Failed(text) }
    }

    /// With what it is about before it.
    #[must_use]
    pub fn about(self, what: impl std::fmt::Display) -> Self {
        match self {
            Self::Failed(why) => Self::Failed(format!("{what}: {why}")),
            Self::Full(why) => Self::Full(format!("{what}: {why}")),
            Self::Damaged(why) => Self::Damaged(format!("{what} is damaged: {why}")),
            Self::InUse(_) => Self::InUse(what.to_string()),
            conflict @ Self::Conflict { .. } => conflict,
        }
    }
}

/// Small values with compare-and-set.
///
/// - A successful `put` or `delete` is durable, in back ends that have a disk.
/// - A failed one changed nothing.
/// - Reads see every write that was acknowledged before they began.
pub trait Records: Send + Sync {
    /// The record of that key.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Record>, StoreError>>;

    /// Writes a record when what is there is as expected. Returns its new revision.
    fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
    ) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Removes a record when what is there is as expected. Removing nothing is no error.
    fn delete(&self, key: &str, expect: Expect) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Up to `limit` records whose keys start with `prefix` and follow `after`, in key order.
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(String, Record)>, StoreError>>;
}

/// Large values, written whole. Keys are paths of `/`-separated parts.
///
/// - A successful `put` is durable, in back ends that have a disk.
/// - A key is absent or complete: no reader sees half a blob, whatever is killed when.
pub trait Blobs: Send + Sync {
    /// Writes a blob, replacing any of that key.
    fn put(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The blob of that key.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>>;

    /// Removes a blob. Removing nothing is no error.
    fn delete(&self, key: &str) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Takes a blob out of the store into its trash, from where an operator can bring it back.
    /// Taking nothing is no error.
    fn discard(&self, key: &str) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The keys below `prefix`, sorted.
    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;
}
