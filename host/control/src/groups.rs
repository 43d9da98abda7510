//! Log groups that somebody made: their retention and tags. What is in them are the functions' logs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::table::{Row, Table};

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

impl Row for Group {
    const PREFIX: &'static str = "loggroup/";
}

/// The log groups of this server, by name.
pub type Groups = Table<Group>;
