//! What is stored and is not what was written: how it is told, counted and recognised. A store that
//! meets damage says so here once for each read, and goes on with what is whole.

use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::StoreError;

/// A part of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// `records.redb`.
    Records,
    /// `queues.redb`.
    Queues,
    /// `blobs/`.
    Blobs,
}

/// Damaged values that were met, by store.
static MET: [AtomicU64; 3] = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];
/// Whether the last write found no room.
static IS_FULL: AtomicBool = AtomicBool::new(false);

impl Store {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Records, Self::Queues, Self::Blobs];

    /// The label of a metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Queues => "queues",
            Self::Blobs => "blobs",
        }
    }

    /// How many damaged values of it were met.
    #[must_use]
    pub fn met(self) -> u64 {
        MET.get(self as usize).map_or(0, |met| met.load(Relaxed))
    }
}

/// Tells and counts a damaged value.
pub fn tell(store: Store, what: &str) {
    if let Some(met) = MET.get(store as usize) {
        met.fetch_add(1, Relaxed);
    }
    tracing::error!(store = store.as_str(), what, "damaged: `wambda doctor` says what else is");
}

/// Whether the last write of any store found no room.
#[must_use]
pub fn is_disk_full() -> bool {
    IS_FULL.load(Relaxed)
}

/// Notes a write that found no room. That there is some again, [`probe`] finds: a small write may fit where
/// a large one does not.
pub(crate) fn note_write<T>(done: &Result<T, StoreError>) {
    if matches!(done, Err(StoreError::Full(_))) {
        note_full();
    }
}

/// Notes that there was no room on the disk.
pub fn note_full() {
    IS_FULL.store(true, Relaxed);
}

/// Bytes that a disk must take to count as having room again.
const PROBE_BYTES: usize = 4 << 20;

/// Tries whether a disk takes a few megabytes, and notes it.
pub fn probe(dir: &Path) {
    let path = dir.join(".probe");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&path)?;
        file.write_all(&vec![1; PROBE_BYTES])?;
        file.sync_all()
    };
    let is_taken = write().is_ok();
    let _ = std::fs::remove_file(&path);
    if is_taken {
        IS_FULL.store(false, Relaxed);
    }
}

/// Whether an error of the operating system says that there is no room.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Whether an error says that a file is not what it should be: redb has it so.
fn is_cut(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}

/// Whether a panic comes from redb: it panics at pages that are not as it wrote them. That is damage, and
/// no fault of the program.
#[must_use]
pub fn is_redb(panic: &std::panic::PanicHookInfo<'_>) -> bool {
    panic.location().is_some_and(|at| at.file().contains("redb-"))
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// Does something with a redb file, whose damage may be met as a panic.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(StoreError::Damaged(format!("a panic while reading it: {}", words(&*panic))))
    })
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        let text = error.to_string();
        match error {
            redb::Error::Io(error) if is_full(&error) => Self::Full(text),
            redb::Error::Io(error) if is_cut(&error) => Self::Damaged(text),
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                Self::InUse("the file".to_owned())
            }
            redb::Error::Io(_) | redb::Error::Backend(_) | redb::Error::PreviousIo => {
                Self::Failed(text)
            }
            _ => Self::Damaged(text),
        }
    }
}
