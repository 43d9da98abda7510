//! Records in a redb file: one writer at a time, readers never wait for it, a write is on disk when
//! it is acknowledged. Quick repair is on, because without it an unclean stop costs a walk over the
//! whole file at the next start.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use wambda_model::BoxFuture;

use crate::damage::{self, Store};
use crate::file::{self, RedbFile};
use crate::{Claim, Expect, Record, Records, StoreError};

/// Key → (revision, value).
pub(crate) const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> =
    TableDefinition::new("records.v1");
/// The store's last revision, under the key `revision`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta.v1");
/// The tables that this version knows.
const TABLES: [&str; 2] = ["records.v1", "meta.v1"];

/// Records in a file.
#[derive(Debug, Clone)]
pub struct EmbeddedRecords(Arc<RedbFile>);

fn failed(error: impl Into<redb::Error>) -> StoreError {
    error.into().into()
}

impl EmbeddedRecords {
    /// Opens the file, or makes it, as its directory says.
    ///
    /// # Errors
    /// When the file is in use, missing, damaged, another directory's, of a newer version, or cannot be
    /// written.
    pub fn open(path: &Path, claim: &Claim) -> Result<Self, StoreError> {
        let this = Self(Arc::new(RedbFile::at(path, claim)));
        let database = this.0.get()?;
        let opening = || {
            let mut write = database.begin_write().map_err(failed)?;
            write.set_quick_repair(true);
            file::admit(&write, &TABLES, claim)?;
            // Tables exist from the start, so that a reader never meets their absence.
            drop(write.open_table(RECORDS).map_err(failed)?);
            drop(write.open_table(META).map_err(failed)?);
            write.commit().map_err(failed)
        };
        damage::guarded(opening).map_err(|error| error.about(path.display()))?;
        drop(database);
        Ok(this)
    }

    fn get_now(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let read = self.0.get()?.begin_read().map_err(failed)?;
        let table = read.open_table(RECORDS).map_err(failed)?;
        Ok(table.get(key).map_err(failed)?.map(|found| record(found.value())))
    }

    /// Writes or, without a value, removes.
    fn write_now(
        &self,
        key: &str,
        value: Option<&[u8]>,
        expect: Expect,
    ) -> Result<u64, StoreError> {
        let database = self.0.get()?;
        let mut write = database.begin_write().map_err(failed)?;
        write.set_quick_repair(true);
        let revision = {
            let mut meta = write.open_table(META).map_err(failed)?;
            let revision = meta.get("revision").map_err(failed)?.map_or(0, |v| v.value()) + 1;
            meta.insert("revision", revision).map_err(failed)?;
            let mut table = write.open_table(RECORDS).map_err(failed)?;
            let found = table.get(key).map_err(failed)?.map(|found| found.value().0);
            // An unmet expectation returns here: dropping the transaction aborts it.
            expect.check(key, found)?;
            match value {
                Some(value) => drop(table.insert(key, (revision, value)).map_err(failed)?),
                None => drop(table.remove(key).map_err(failed)?),
            }
            revision
        };
        write.commit().map_err(failed)?;
        Ok(revision)
    }

    fn list_now(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Record)>, StoreError> {
        let read = self.0.get()?.begin_read().map_err(failed)?;
        let table = read.open_table(RECORDS).map_err(failed)?;
        let from = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        let mut out = Vec::new();
        for entry in table.range(from..).map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            if !key.value().starts_with(prefix) || out.len() >= limit {
                break;
            }
            if after != Some(key.value()) {
                out.push((key.value().to_owned(), record(value.value())));
            }
        }
        Ok(out)
    }

    /// Runs blocking work off the async threads.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let this = self.clone();
        let file = Arc::clone(&self.0);
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || damage::guarded(|| work(this))).await;
            let done = done.map_err(|lost| StoreError::Failed(lost.to_string()))?;
            match &done {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => {
                    if let StoreError::Damaged(why) = error {
                        damage::tell(Store::Records, why);
                    }
                    file.fault();
                }
            }
            done
        })
    }
}

impl EmbeddedRecords {
    /// As [`Self::run`], for what tells whether the disk has room.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        self.run(move |this| {
            let done = work(this);
            damage::note_write(&done);
            done
        })
    }
}

fn record((revision, value): (u64, &[u8])) -> Record {
    Record { value: Bytes::copy_from_slice(value), revision }
}

impl Records for EmbeddedRecords {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        let key = key.to_owned();
        self.run(move |this| this.get_now(&key))
    }

    fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        let key = key.to_owned();
        self.write(move |this| this.write_now(&key, Some(&value), expect))
    }

    fn delete(&self, key: &str, expect: Expect) -> BoxFuture<'_, Result<(), StoreError>> {
        let key = key.to_owned();
        self.write(move |this| this.write_now(&key, None, expect).map(drop))
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(String, Record)>, StoreError>> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run(move |this| this.list_now(&prefix, after.as_deref(), limit))
    }
}
