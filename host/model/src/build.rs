//! From an upload to code that runs: the border between `control`, which publishes, and `runtime`,
//! which inspects and compiles.

use std::time::Duration;

use bytes::Bytes;

use crate::config::Kind;
use crate::ids::Digest;
use crate::invocation::BoxFuture;

/// Why an upload was not taken; the text is for the uploader.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError {
    /// It is not something that the platform runs.
    #[error("{0}")]
    Invalid(String),
    /// It is larger than the platform takes.
    #[error("{0}")]
    TooLarge(String),
    /// The compiler has too much to do.
    #[error("{0}")]
    Busy(String),
    /// There is no room on the server's disk.
    #[error("{0}")]
    Full(String),
    /// A fault of the platform.
    #[error("{0}")]
    Internal(String),
}

impl BuildError {
    /// An error of the operating system while `what`.
    #[must_use]
    pub fn machine(what: &str, error: &std::io::Error) -> Self {
        let text = format!("{what}: {error}");
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full(text),
            _ => Self::Internal(text),
        }
    }
}

/// What an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The wasm binary inside the upload.
    pub wasm: Bytes,
    /// Its SHA-256.
    pub digest: Digest,
    /// How events reach it.
    pub kind: Kind,
    /// Whether it is a component (or else a core module).
    pub component: bool,
    /// Whether it needs WASI 0.3.
    pub wasi03: bool,
    /// What it imports: interfaces of a component, `module.name` of a core module.
    pub imports: Vec<String>,
    /// Smallest memory it starts with, in bytes; 0 when unknown (components).
    pub memory_min_bytes: u64,
}

/// Inspects and compiles.
pub trait Build: Send + Sync {
    /// Unpacks an upload and says what it is, in a turn of `by`. Nothing is compiled.
    fn inspect<'a>(
        &'a self,
        upload: Bytes,
        by: &'a str,
    ) -> BoxFuture<'a, Result<Inspection, BuildError>>;

    /// Checks that a layer can be unpacked, in a turn of `by`: a zip of plain files within its limits.
    fn check_layer<'a>(&'a self, zip: Bytes, by: &'a str) -> BoxFuture<'a, Result<(), BuildError>>;

    /// Compiles within hard limits, unless that was done before, and checks that the result links.
    /// Uploaders, whatever names them, take turns. Returns how long compiling took.
    fn build<'a>(
        &'a self,
        inspection: &'a Inspection,
        by: &'a str,
    ) -> BoxFuture<'a, Result<Duration, BuildError>>;

    /// Bytes of compiled code that are kept.
    fn stored(&self) -> u64;

    /// Bytes in memory of wasm that was unpacked, until the last inspection with it is dropped.
    fn unpacked(&self) -> u64;

    /// Removes the compiled code of one digest.
    fn forget(&self, digest: &Digest);

    /// Removes compiled code of digests that `is_used` denies.
    fn sweep(&self, is_used: &(dyn Fn(&Digest) -> bool + Sync));
}
