//! A redb database that is opened again after its medium has failed: redb refuses everything after a
//! failed write, because it no longer knows what is on disk.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    TableError, TableHandle, WriteTransaction,
};
use wambda_model::limits::VERIFY_BYTES_MAX;

use crate::overlay::Overlay;
use crate::queues::Backend;
use crate::{Claim, StoreError, damage};

/// Bytes of pages that are kept in memory: as much for a million messages as for one.
const CACHE_BYTES: usize = 64 << 20;

type Opener = Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>;

/// A database, open when somebody needs it.
pub(crate) struct RedbFile {
    open: Opener,
    current: RwLock<Option<Arc<Database>>>,
}

impl fmt::Debug for RedbFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_open = self.current.read().unwrap_or_else(PoisonError::into_inner).is_some();
        f.debug_struct("RedbFile").field("is_open", &is_open).finish_non_exhaustive()
    }
}

/// redb takes a medium by value.
#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.0.write(offset, data)
    }
    fn close(&self) -> Result<(), std::io::Error> {
        self.0.close()
    }
}

/// The directory's identity, under the key `identity`.
const IDENTITY: TableDefinition<'_, &str, &str> = TableDefinition::new("identity.v1");
const IDENTITY_KEY: &str = "identity";

/// Refuses a file that holds nothing: redb would begin a new database in it.
///
/// # Errors
/// That, or that it cannot be looked at.
pub(crate) fn check_length(path: &Path) -> Result<(), StoreError> {
    let found = std::fs::metadata(path).map_err(|error| StoreError::io(path.display(), &error))?;
    if found.len() > 0 {
        return Ok(());
    }
    let path = path.display();
    Err(StoreError::Damaged(format!(
        "{path} is damaged: it is empty (0 bytes); restore it from a backup"
    )))
}

/// The identity in a file, which is not changed; none when it has none.
pub(crate) fn identity_at(path: &Path) -> Result<Option<String>, StoreError> {
    let database = copy(path, false)?;
    damage::guarded(|| read_identity(&database))
}

pub(crate) fn read_identity(database: &Database) -> Result<Option<String>, StoreError> {
    let read = database.begin_read().map_err(redb::Error::from)?;
    let table = match read.open_table(IDENTITY) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(redb::Error::from(error).into()),
    };
    let found = table.get(IDENTITY_KEY).map_err(redb::Error::from)?;
    Ok(found.map(|value| value.value().to_owned()))
}

/// Whether a file begins with zeros where redb has its magic number.
fn is_blank(path: &Path) -> bool {
    let mut head = [1; 9];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == [0; 9]
}

/// Opens a file of so many bytes: one that is not large is read whole, so that damage is found now.
fn builder(length: u64) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder.set_check_integrity_on_open(length > 0 && length <= VERIFY_BYTES_MAX);
    builder
}

/// Opens a file that is not changed, with every page verified or none.
pub(crate) fn copy(path: &Path, is_verified: bool) -> Result<Database, StoreError> {
    let overlay = Overlay::over(path)?;
    damage::guarded(|| {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(is_verified);
        Ok(builder.create_with_backend(overlay).map_err(redb::Error::from)?)
    })
}

impl RedbFile {
    /// A file of a data directory. It is made when it is not there and may be made.
    pub(crate) fn at(path: &Path, claim: &Claim) -> Self {
        let (path, may_make) = (path.to_owned(), AtomicBool::new(claim.may_make));
        Self::opened_by(Box::new(move || {
            let is_new = may_make.swap(false, Relaxed);
            damage::guarded(|| {
                let length = || std::fs::metadata(&path).map_or(0, |file| file.len());
                // redb gives a file its length before its magic number: killed in between, or without
                // room on the disk, it leaves zeros, and nothing of anybody.
                if is_new && length() > 0 && is_blank(&path) {
                    let emptied = std::fs::File::create(&path);
                    emptied.map_err(|error| StoreError::io(path.display(), &error))?;
                }
                // redb would begin a new database in an empty file.
                let opened = match (length(), is_new) {
                    (0, true) => builder(0).create(&path),
                    (0, false) => {
                        return Err(StoreError::Damaged("it is missing or empty".to_owned()));
                    }
                    (length, _) => builder(length).open(&path),
                };
                Ok(opened.map_err(redb::Error::from)?)
            })
            .map_err(|error| error.about(path.display()))
        }))
    }

    /// Another medium.
    pub(crate) fn on(backend: Backend) -> Self {
        Self::opened_by(Box::new(move || {
            damage::guarded(|| {
                let (medium, mut builder) = (Boxed(backend()?), Builder::new());
                let made = builder.set_cache_size(CACHE_BYTES).create_with_backend(medium);
                Ok(made.map_err(redb::Error::from)?)
            })
        }))
    }

    fn opened_by(open: Opener) -> Self {
        Self { open, current: RwLock::default() }
    }

    /// The database; opened when it is not.
    pub(crate) fn get(&self) -> Result<Arc<Database>, StoreError> {
        if let Some(open) = &*self.current.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(open));
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*current {
            return Ok(Arc::clone(open));
        }
        let made = Arc::new((self.open)()?);
        *current = Some(Arc::clone(&made));
        Ok(made)
    }

    /// The medium has failed: whoever comes next opens it anew, once those who read it have ended.
    pub(crate) fn fault(&self) {
        let gone = self.current.write().unwrap_or_else(PoisonError::into_inner).take();
        // One that has panicked may do so again when it is closed.
        let _ = damage::guarded(|| {
            drop(gone);
            Ok(())
        });
    }
}

/// Checks what a file is, within the transaction that opens it: its tables are known, and it carries the
/// identity, or gets it.
pub(crate) fn admit(
    write: &WriteTransaction,
    known: &[&str],
    claim: &Claim,
) -> Result<(), StoreError> {
    let failed = |error: redb::Error| StoreError::from(error);
    for table in write.list_tables().map_err(|error| failed(error.into()))? {
        let name = table.name();
        if name != IDENTITY.name() && !known.contains(&name) {
            return Err(StoreError::Damaged(format!(
                "it has a table {name:?}, which this version does not know: a newer version wrote it; run that one"
            )));
        }
    }
    let mut table = write.open_table(IDENTITY).map_err(|error| failed(error.into()))?;
    let found = table.get(IDENTITY_KEY).map_err(|error| failed(error.into()))?;
    let found = found.map(|value| value.value().to_owned());
    if claim.check(found.as_deref())? {
        let identity = claim.identity.as_str();
        table.insert(IDENTITY_KEY, identity).map_err(|error| failed(error.into()))?;
    }
    Ok(())
}
