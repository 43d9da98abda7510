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
            let row = parse(&key, &stored.value)?;
            all.push((key.strip_prefix(prefix).unwrap_or(&key).to_owned(), row));
        }
    }
}

/// The newest form of rows that this build writes and reads. It counts up when an older build would lose
/// something that a newer one has written.
const SCHEMA: u64 = 1;

/// Reads a record.
///
/// # Errors
/// When it is damaged, or of a newer form: what it says would be lost with the next write.
pub(crate) fn parse<V: DeserializeOwned>(key: &str, stored: &[u8]) -> Result<V, StoreError> {
    #[derive(serde::Deserialize)]
    struct Form {
        #[serde(default)]
        schema: u64,
    }
    // What is no object has no form.
    let form = serde_json::from_slice::<Form>(stored);
    if let Ok(Form { schema }) = form
        && schema > SCHEMA
    {
        return Err(newer(key, schema, SCHEMA));
    }
    serde_json::from_slice(stored).map_err(|error| unreadable(key, &error))
}

/// A record that a newer version wrote.
pub(crate) fn newer(key: &str, found: u64, known: u64) -> StoreError {
    StoreError::Damaged(format!(
        "the record {key:?} has schema {found}, and this version knows {known}: a newer version wrote it; run \
         that one, or restore a backup of this one"
    ))
}

/// A record that cannot be read.
pub(crate) fn unreadable(key: &str, why: &dyn fmt::Display) -> StoreError {
    StoreError::Damaged(format!(
        "the record {key:?} is damaged: {why}; nothing was changed. `wambda doctor` says what else is; restore \
         a backup"
    ))
}

/// Writes one record, with the form that it has.
pub(crate) async fn write(
    records: &dyn Records,
    key: &str,
    value: &(impl Serialize + Sync),
) -> Result<(), StoreError> {
    let text = to_text(key, value)?;
    records.put(key, text.into(), Expect::Any).await.map(drop)
}

fn to_text(key: &str, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let text = serde_json::to_vec(value);
    let text = text.map_err(|error| StoreError::Failed(format!("{key}: {error}")))?;
    let known = format!("{{\"schema\":{SCHEMA}");
    // As text, which keeps every document in a row as it came.
    Ok(match text.strip_prefix(b"{") {
        Some(b"}") => format!("{known}}}").into_bytes(),
        Some(rest) => [known.as_bytes(), b",", rest].concat(),
        None => text,
    })
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

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Stone {
        weight: u32,
    }

    #[test]
    fn rows_say_their_form_and_newer_or_damaged_ones_are_refused() {
        let text = to_text("stone/a", &Stone { weight: 7 }).unwrap();
        assert_eq!(text, br#"{"schema":1,"weight":7}"#);
        assert_eq!(parse::<Stone>("stone/a", &text).unwrap(), Stone { weight: 7 });
        // As older versions wrote it.
        assert_eq!(parse::<Stone>("stone/a", br#"{"weight":7}"#).unwrap(), Stone { weight: 7 });
        assert_eq!(to_text("stone/a", &serde_json::json!({})).unwrap(), br#"{"schema":1}"#);
        assert_eq!(to_text("pebble/a", &Pebble(7)).unwrap(), b"7");
        for (stored, words) in [
            (&br#"{"schema":9,"weight":7}"#[..], "schema 9, and this version knows 1"),
            (br#"{"schema":1,"weight":"#, "is damaged"),
            (br#"{"schema":1}"#, "missing field `weight`"),
            (b"", "is damaged"),
        ] {
            let refused = parse::<Stone>("stone/a", stored).unwrap_err().to_string();
            assert!(refused.contains("\"stone/a\"") && refused.contains(words), "{refused}");
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
