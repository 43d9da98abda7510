//! A redb database that is opened again after its medium has failed: redb refuses everything after a
//! failed write, because it no longer knows what is on disk.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Builder, Database, StorageBackend};

use crate::StoreError;
use crate::queues::Backend;

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

impl RedbFile {
    /// A file, made when it is not there.
    pub(crate) fn at(path: &Path) -> Self {
        let path = path.to_owned();
        Self::opened_by(Box::new(move || {
            let made = Builder::new().set_cache_size(CACHE_BYTES).create(&path);
            made.map_err(|error| redb::Error::from(error).into())
        }))
    }

    /// Another medium.
    pub(crate) fn on(backend: Backend) -> Self {
        Self::opened_by(Box::new(move || {
            let mut builder = Builder::new();
            let made = builder.set_cache_size(CACHE_BYTES).create_with_backend(Boxed(backend()?));
            made.map_err(|error| redb::Error::from(error).into())
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
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
