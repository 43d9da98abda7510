//! Log groups that somebody made: their retention and tags. What is in them are the functions' logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use wambda_store::{Expect, Records, StoreError};

/// A log group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Days that entries are to be kept; none for ever. What the memory holds is less in any case.
    pub retention_days: Option<u32>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

type Snapshot = BTreeMap<String, Group>;

/// The log groups of this server.
pub struct Groups {
    records: Arc<dyn Records>,
    current: ArcSwap<Snapshot>,
    commit: Mutex<()>,
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").field("count", &self.current.load().len()).finish_non_exhaustive()
    }
}

const PREFIX: &str = "loggroup/";

impl Groups {
    /// Reads the groups.
    ///
    /// # Errors
    /// When storage fails or a record is damaged.
    pub async fn load(records: Arc<dyn Records>) -> Result<Arc<Self>, StoreError> {
        let mut all = Snapshot::new();
        for (key, stored) in records.list(PREFIX, None, usize::MAX).await? {
            let read = serde_json::from_slice(&stored.value);
            let read = read.map_err(|error| StoreError::Failed(format!("{key}: {error}")))?;
            all.insert(key.strip_prefix(PREFIX).unwrap_or(&key).to_owned(), read);
        }
        let (current, commit) = (ArcSwap::from_pointee(all), Mutex::new(()));
        Ok(Arc::new(Self { records, current, commit }))
    }

    /// All of them now, by name.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Adds, changes or removes one: `change` gets what is there, and says what becomes of it.
    ///
    /// # Errors
    /// What `change` says, or that storage failed.
    pub async fn edit<E: From<StoreError>>(
        &self,
        name: &str,
        change: impl FnOnce(Option<Group>) -> Result<Option<Group>, E>,
    ) -> Result<(), E> {
        let _commit = self.commit.lock().await;
        let mut all = (*self.current()).clone();
        let key = format!("{PREFIX}{name}");
        match change(all.get(name).cloned())? {
            Some(group) => {
                let text = serde_json::to_vec(&group);
                let text = text.map_err(|error| StoreError::Failed(error.to_string()))?;
                self.records.put(&key, text.into(), Expect::Any).await?;
                all.insert(name.to_owned(), group);
            }
            None => {
                self.records.delete(&key, Expect::Any).await?;
                all.remove(name);
            }
        }
        self.current.store(Arc::new(all));
        Ok(())
    }
}
