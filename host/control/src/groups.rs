//! Log groups that somebody made: their retention and tags. What is in them are the functions' logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use wambda_store::{Expect, Records, StoreError};

use crate::to_the_end;

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
    commit: Arc<Mutex<()>>,
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
        let (current, commit) = (ArcSwap::from_pointee(all), Arc::default());
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
        self: &Arc<Self>,
        name: &str,
        change: impl FnOnce(Option<Group>) -> Result<Option<Group>, E>,
    ) -> Result<(), E> {
        let commit = Arc::clone(&self.commit).lock_owned().await;
        let mut all = (*self.current()).clone();
        let key = format!("{PREFIX}{name}");
        let text = match change(all.remove(name))? {
            Some(group) => {
                let text = serde_json::to_vec(&group);
                all.insert(name.to_owned(), group);
                Some(text.map_err(|error| StoreError::Failed(error.to_string()))?)
            }
            None => None,
        };
        let this = Arc::clone(self);
        let write = async move {
            match text {
                Some(text) => drop(this.records.put(&key, text.into(), Expect::Any).await?),
                None => drop(this.records.delete(&key, Expect::Any).await?),
            }
            this.current.store(Arc::new(all));
            Ok(())
        };
        Ok(to_the_end(commit, write).await?)
    }
}
