//! Blobs on the `object_store` crate: files with fsync for one machine, memory for tests.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutPayload};
use wambda_model::{BoxFuture, Digest, clock};

use crate::trash::Trash;
use crate::{Blobs, StoreError, damage};

/// Blobs in any `object_store`.
#[derive(Debug, Clone)]
pub struct ObjectBlobs {
    store: Arc<dyn ObjectStore>,
    /// Where the files are, and where they go that are discarded; none in memory.
    files: Option<(PathBuf, Trash)>,
}

impl ObjectBlobs {
    /// Blobs that end with the process.
    #[must_use]
    pub fn memory() -> Self {
        Self { store: Arc::new(InMemory::new()), files: None }
    }

    /// Blobs as files below `root`, which must exist. A write goes to a temporary file, which is
    /// synced and renamed. What is discarded goes to `trash`.
    ///
    /// # Errors
    /// When `root` cannot be resolved.
    pub fn files(root: &FilePath, trash: Trash) -> Result<Self, StoreError> {
        remove_staged(root).map_err(|error| StoreError::io(root.display(), &error))?;
        let files = LocalFileSystem::new_with_prefix(root).map_err(failed)?;
        let store = Arc::new(files.with_fsync(true));
        Ok(Self { store, files: Some((root.to_owned(), trash)) })
    }
}

/// Removes what a killed process left behind: `object_store` stages a write beside its key under a
/// name with `#` and a number after it, which its lists leave out. Other names are not ours.
fn remove_staged(dir: &FilePath) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_staged(&entry.path())?;
        } else if entry.file_name().to_str().is_some_and(is_staged) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a name is that of a write that has not ended: a digest, `#` and a number.
fn is_staged(name: &str) -> bool {
    name.split_once('#')
        .is_some_and(|(key, number)| Digest::parse(key).is_ok() && number.parse::<u64>().is_ok())
}

fn failed(error: Error) -> StoreError {
    let text = error.to_string();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(damage::is_full) {
            return StoreError::Full(text);
        }
        cause = error.source();
    }
    StoreError::Failed(text)
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
            let done = self.store.put(&key?, PutPayload::from_bytes(value)).await;
            let done = done.map(drop).map_err(failed);
            damage::note_write(&done);
            done
        })
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        let key = path(key);
        Box::pin(async move {
            match found(self.store.get(&key?).await)? {
                Some(blob) => found(blob.bytes().await),
                None => Ok(None),
            }
        })
    }

    fn delete(&self, key: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let key = path(key);
        Box::pin(async move { found(self.store.delete(&key?).await).map(drop) })
    }

    fn discard(&self, key: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let checked = path(key).map(|_| key.to_owned());
        Box::pin(async move {
            let key = checked?;
            let Some((root, trash)) = self.files.clone() else { return self.delete(&key).await };
            let take =
                move || trash.take(&root.join(&key), &format!("blobs/{key}"), clock::unix_ms());
            let taken = tokio::task::spawn_blocking(take).await;
            match taken.map_err(|lost| StoreError::Failed(lost.to_string()))? {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(StoreError::io("cannot move a blob to the trash", &error))
                }
                _ => Ok(()),
            }
        })
    }

    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        let prefix = path(prefix);
        Box::pin(async move {
            let entries = self.store.list(Some(&prefix?)).map_ok(|meta| meta.location.to_string());
            let mut keys: Vec<String> = entries.try_collect().await.map_err(failed)?;
            keys.sort();
            Ok(keys)
        })
    }
}
