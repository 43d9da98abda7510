//! The stored form of a function. Fields may be added with a default; none is ever renamed.

use serde::{Deserialize, Serialize};
use wambda_model::{Digest, FunctionConfig, FunctionName, Kind};

/// The newest form that this build writes and reads.
pub const SCHEMA: u32 = 1;

/// What is kept of a function under `function/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// The form of this record.
    pub schema: u32,
    /// The function.
    pub name: FunctionName,
    /// Counts publishes, from 1.
    pub revision: u64,
    /// What the upload turned out to be.
    pub kind: Kind,
    /// Whether it is a component.
    pub component: bool,
    /// Whether it needs WASI 0.3.
    pub wasi03: bool,
    /// SHA-256 of the wasm binary, which is the blob `code/DIGEST`.
    pub digest: Digest,
    /// Bytes of the wasm binary.
    pub code_bytes: u64,
    /// Imports, for people.
    pub imports: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub published_ms: u64,
    /// Milliseconds the compilation took.
    pub compile_ms: u64,
    /// Configuration.
    pub config: FunctionConfig,
}

/// The key of a function's record.
#[must_use]
pub fn key(name: &FunctionName) -> String {
    format!("{PREFIX}{name}")
}

/// The prefix of every function's key.
pub const PREFIX: &str = "function/";

/// The key of a code blob.
#[must_use]
pub fn code_key(digest: &Digest) -> String {
    format!("code/{digest}")
}
