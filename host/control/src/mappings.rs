//! Event source mappings: from a queue or stream to a function. Kept here; what polls the sources is
//! not there yet, so that every mapping is disabled.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use wambda_model::FunctionName;
use wambda_store::{Expect, Records, StoreError};

use crate::to_the_end;

/// A mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// Its id, a UUID.
    pub id: String,
    /// ARN of the source.
    pub source_arn: String,
    /// The function.
    pub function: FunctionName,
    /// Which version or alias of it.
    pub qualifier: Option<String>,
    /// Records of one batch.
    pub batch_size: i64,
    /// Seconds that a batch is gathered.
    pub window_s: i64,
    /// Patterns, of which one must match.
    pub filters: Vec<String>,
    /// Whether functions report single failures.
    pub response_types: Vec<String>,
    /// Most invocations at once.
    pub concurrency: Option<i64>,
    /// Where records go that cannot be handled.
    pub on_failure: Option<String>,
    /// What only streams have.
    pub stream: Option<StreamOptions>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Milliseconds since the Unix epoch.
    pub modified_ms: u64,
}

/// What only streams have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// `TRIM_HORIZON`, `LATEST` or `AT_TIMESTAMP`.
    pub position: String,
    /// Seconds since the Unix epoch, for the last one.
    pub timestamp: Option<f64>,
    /// Whether a batch that fails is split.
    pub bisects: bool,
    /// Seconds that a record is tried; -1 for ever.
    pub age_s: i64,
    /// Tries of a batch; -1 for ever.
    pub retries: i64,
    /// Batches of one shard at once.
    pub parallel: i64,
    /// Seconds of a tumbling window.
    pub tumbling_s: i64,
}

type Snapshot = BTreeMap<String, Arc<Mapping>>;

/// The mappings of this server.
pub struct Mappings {
    records: Arc<dyn Records>,
    current: ArcSwap<Snapshot>,
    commit: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Mappings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mappings")
            .field("count", &self.current.load().len())
            .finish_non_exhaustive()
    }
}

const PREFIX: &str = "mapping/";

impl Mappings {
    /// Reads the mappings.
    ///
    /// # Errors
    /// When storage fails or a record is damaged.
    pub async fn load(records: Arc<dyn Records>) -> Result<Arc<Self>, StoreError> {
        let mut all = Snapshot::new();
        for (key, stored) in records.list(PREFIX, None, usize::MAX).await? {
            let read = serde_json::from_slice::<Mapping>(&stored.value);
            let read = read.map_err(|error| StoreError::Failed(format!("{key}: {error}")))?;
            all.insert(read.id.clone(), Arc::new(read));
        }
        let (current, commit) = (ArcSwap::from_pointee(all), Arc::default());
        Ok(Arc::new(Self { records, current, commit }))
    }

    /// All of them now, by id.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Adds, changes or removes one: `change` gets all of them, and says what becomes of one.
    ///
    /// # Errors
    /// What `change` says, or that storage failed.
    pub async fn edit<E: From<StoreError>>(
        self: &Arc<Self>,
        id: &str,
        change: impl FnOnce(&Snapshot) -> Result<Option<Mapping>, E>,
    ) -> Result<Option<Arc<Mapping>>, E> {
        let commit = Arc::clone(&self.commit).lock_owned().await;
        let mut all = (*self.current()).clone();
        let key = format!("{PREFIX}{id}");
        let changed = change(&all)?.map(Arc::new);
        let text = match &changed {
            Some(mapping) => {
                all.insert(id.to_owned(), Arc::clone(mapping));
                let text = serde_json::to_vec(&**mapping);
                Some(text.map_err(|error| StoreError::Failed(error.to_string()))?)
            }
            None => {
                all.remove(id);
                None
            }
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
        to_the_end(commit, write).await?;
        Ok(changed)
    }

    /// Removes the mappings of a function that goes.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn forget(self: &Arc<Self>, function: &FunctionName) -> Result<(), StoreError> {
        let current = self.current();
        for mapping in current.values().filter(|mapping| mapping.function == *function) {
            self.edit(&mapping.id, |_| Ok::<_, StoreError>(None)).await?;
        }
        Ok(())
    }
}
