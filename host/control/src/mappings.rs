//! Event source mappings: from a queue or stream to a function. Kept here; what polls the sources is
//! not there yet, so that every mapping is disabled.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wambda_model::FunctionName;
use wambda_store::StoreError;

use crate::table::{Row, Table};

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

impl Row for Mapping {
    const PREFIX: &'static str = "mapping/";
}

/// The mappings of this server, by id.
pub type Mappings = Table<Mapping>;

impl Mappings {
    /// Removes the mappings of a function that goes.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn forget(self: &Arc<Self>, function: &FunctionName) -> Result<(), StoreError> {
        let current = self.current();
        for mapping in current.values().filter(|mapping| mapping.function == *function) {
            self.remove(&mapping.id, |_| Ok::<_, StoreError>(())).await?;
        }
        Ok(())
    }
}
