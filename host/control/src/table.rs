//! Small things that are kept by name: an immutable snapshot for readers, one record each on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, OwnedMutexGuard};
use wambda_store::{Expect, Records, StoreError};

/// Records of one read while loading.
const LOAD_PAGE: usize = 1_000;

/// What a table keeps.
pub trait Row: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the keys of its records begin with.
    const PREFIX: &'static str;
}

/// Rows by name.
pub type Snapshot<V> = BTreeMap<String, Arc<V>>;

/// Rows, and who may change them: one commit at a time.
pub struct Table<V> {
    records: Arc<dyn Records>,
    current: ArcSwap<Snapshot<V>>,
    commit: Arc<Mutex<()>>,
}

impl<V> fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("count", &self.current.load().len()).finish_non_exhaustive()
    }
}

impl<V: Row> Table<V> {
    /// Reads all rows.
    ///
    /// # Errors
    /// When storage fails or a record is damaged.
    pub async fn load(records: Arc<dyn Records>) -> Result<Arc<Self>, StoreError> {
        let all = read_all::<V>(&*records, V::PREFIX).await?;
        let all: Snapshot<V> = all.into_iter().map(|(name, row)| (name, Arc::new(row))).collect();
        let (current, commit) = (ArcSwap::from_pointee(all), Arc::default());
        Ok(Arc::new(Self { records, current, commit }))
    }

    /// All of them now.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot<V>> {
        self.current.load_full()
    }

    /// Adds or changes one: `change` gets all of them as they are, and says what it is to be.
    ///
    /// # Errors
    /// What `change` says, or that storage failed; readers see nothing of it then.
    pub async fn put<E: From<StoreError>>(
        self: &Arc<Self>,
        name: &str,
        change: impl FnOnce(&Snapshot<V>) -> Result<V, E>,
    ) -> Result<Arc<V>, E> {
        let commit = Arc::clone(&self.commit).lock_owned().await;
        let mut all = (*self.current()).clone();
        let row = Arc::new(change(&all)?);
        all.insert(name.to_owned(), Arc::clone(&row));
        let (this, key, kept) = (Arc::clone(self), key::<V>(name), Arc::clone(&row));
        to_the_end(commit, async move {
            write(&*this.records, &key, &*kept).await?;
            this.current.store(Arc::new(all));
            Ok(())
        })
        .await?;
        Ok(row)
    }

    /// Removes one, when `check` has nothing against it.
    ///
    /// # Errors
    /// What `check` says, or that storage failed; it is still there then.
    pub async fn remove<E: From<StoreError>>(
        self: &Arc<Self>,
        name: &str,
        check: impl FnOnce(&Snapshot<V>) -> Result<(), E>,
    ) -> Result<(), E> {
        let commit = Arc::clone(&self.commit).lock_owned().await;
        let mut all = (*self.current()).clone();
        check(&all)?;
        all.remove(name);
        let (this, key) = (Arc::clone(self), key::<V>(name));
        to_the_end(commit, async move {
            this.records.delete(&key, Expect::Any).await?;
            this.current.store(Arc::new(all));
            Ok(())
        })
        .await?;
        Ok(())
    }
}

fn key<V: Row>(name: &str) -> String {
    format!("{}{name}", V::PREFIX)
}

/// Everything whose key begins with `prefix`, by the rest of its key.
pub(crate) async fn read_all<V: DeserializeOwned>(
    records: &dyn Records,
    prefix: &str,
) -> Result<Vec<(String, V)>, StoreError> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = records.list(prefix, after.as_deref(), LOAD_PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(all) };
        after = Some(last.clone());
        for (key, stored) in page {
            let row = serde_json::from_slice(&stored.value);
            let row = row.map_err(|error| StoreError::Failed(format!("{key}: {error}")))?;
            all.push((key.strip_prefix(prefix).unwrap_or(&key).to_owned(), row));
        }
    }
}

/// Writes one record.
pub(crate) async fn write(
    records: &dyn Records,
    key: &str,
    value: &(impl Serialize + Sync),
) -> Result<(), StoreError> {
    let text = serde_json::to_vec(value);
    let text = text.map_err(|error| StoreError::Failed(format!("{key}: {error}")))?;
    records.put(key, text.into(), Expect::Any).await.map(drop)
}

/// Runs a commit to its end, whether or not somebody still waits for it: what is on disk and what readers
/// see must not part.
pub(crate) async fn to_the_end(
    commit: OwnedMutexGuard<()>,
    write: impl Future<Output = Result<(), StoreError>> + Send + 'static,
) -> Result<(), StoreError> {
    let task = tokio::spawn(async move {
        let done = write.await;
        drop(commit);
        done
    });
    task.await.map_err(|lost| StoreError::Failed(lost.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Pebble(u32);

    impl Row for Pebble {
        const PREFIX: &'static str = "pebble/";
    }

    #[tokio::test]
    async fn rows_are_there_again_after_a_restart() {
        let records: Arc<dyn Records> = Arc::new(wambda_store::MemoryRecords::default());
        let table = Table::<Pebble>::load(Arc::clone(&records)).await.unwrap();
        for n in 0..3 {
            let name = n.to_string();
            table.put(&name, |_| Ok::<_, StoreError>(Pebble(n))).await.unwrap();
        }
        table.remove("1", |_| Ok::<_, StoreError>(())).await.unwrap();
        let refused = |_: &Snapshot<Pebble>| Err(StoreError::Failed("no".to_owned()));
        assert!(table.remove("2", refused).await.is_err());
        assert!(table.put("3", |_| refused(&Snapshot::new()).map(|()| Pebble(3))).await.is_err());
        let again = Table::<Pebble>::load(records).await.unwrap();
        for table in [table, again] {
            let names: Vec<String> = table.current().keys().cloned().collect();
            assert_eq!(names, ["0", "2"]);
        }
    }

    #[tokio::test]
    async fn a_commit_goes_on_when_nobody_waits_for_it() {
        let records: Arc<dyn Records> = Arc::new(wambda_store::MemoryRecords::default());
        let table = Table::<Pebble>::load(Arc::clone(&records)).await.unwrap();
        let put = table.put("0", |_| Ok::<_, StoreError>(Pebble(7)));
        // Polled once: it has begun, and its caller goes away.
        let _ = tokio::time::timeout(std::time::Duration::ZERO, put).await;
        while table.current().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(records.get("pebble/0").await.unwrap().is_some());
    }
}
