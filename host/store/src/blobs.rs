//! Blobs on the `object_store` crate: files with fsync for one machine, memory for tests.

use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutPayload};
use wambda_model::BoxFuture;

use crate::{Blobs, StoreError};

/// Blobs in any `object_store`.
#[derive(Debug, Clone)]
pub struct ObjectBlobs(Arc<dyn ObjectStore>);

impl ObjectBlobs {
    /// Blobs that end with the process.
    #[must_use]
    pub fn memory() -> Self {
        Self(Arc::new(InMemory::new()))
    }

    /// Blobs as files below `root`, which must exist. A write goes to a temporary file, which is
    /// synced and renamed.
    ///
    /// # Errors
    /// When `root` cannot be resolved.
    pub fn files(root: &FilePath) -> Result<Self, StoreError> {
        remove_staged(root).map_err(|e| StoreError::Failed(e.to_string()))?;
        let files = LocalFileSystem::new_with_prefix(root).map_err(failed)?;
        Ok(Self(Arc::new(files.with_fsync(true).with_automatic_cleanup(true))))
    }
}

/// Removes what a killed process left behind: `object_store` stages a write beside its key under a
/// name with `#` in it, which no key has, and which its lists leave out.
fn remove_staged(dir: &FilePath) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_staged(&entry.path())?;
        } else if entry.file_name().to_string_lossy().contains('#') {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn failed(error: Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

fn path(key: &str) -> Result<Path, StoreError> {
    Path::parse(key).map_err(|error| StoreError::Failed(format!("bad key {key:?}: {error}")))
}

/// Turns "not found" into none.
fn found<T>(result: Result<T, Error>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

impl Blobs for ObjectBlobs {
    fn put(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        let key = path(key);
        Box::pin(async move {
            self.0.put(&key?, PutPayload::from_bytes(value)).await.map_err(failed)?;
            Ok(())
        })
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        let key = path(key);
        Box::pin(async move {
            match found(self.0.get(&key?).await)? {
                Some(blob) => found(blob.bytes().await),
                None => Ok(None),
            }
        })
    }

    fn delete(&self, key: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let key = path(key);
        Box::pin(async move { found(self.0.delete(&key?).await).map(drop) })
    }

    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        let prefix = path(prefix);
        Box::pin(async move {
            let entries = self.0.list(Some(&prefix?)).map_ok(|meta| meta.location.to_string());
            let mut keys: Vec<String> = entries.try_collect().await.map_err(failed)?;
            keys.sort();
            Ok(keys)
        })
    }
}
