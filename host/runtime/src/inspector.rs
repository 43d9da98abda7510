//! Says what uploads are, and whether layers can be unpacked. Zips, text and components are looked at in a child
//! process with hard limits, in turns of their uploaders: what they cost grows faster than they do. A core module is
//! looked at in place, which takes time in proportion to its size.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use wambda_model::limits::INSPECT_IN_PLACE_BYTES_MAX;
use wambda_model::{BuildError, Digest, Inspection};
use wasmparser::WasmFeatures;

use crate::child::Summary;
use crate::detect::inspect;
use crate::failures::Failures;
use crate::helper::{Files, Helper, Task};
use crate::turns::{Full, Turn, Turns};
use crate::upload::check_size;

/// Has uploads inspected.
#[derive(Debug)]
pub(crate) struct Inspector {
    helper: Helper,
    features: WasmFeatures,
    wasi03: bool,
    turns: Arc<Turns>,
    /// By the digest of the bytes, and whether they were to be a layer.
    failures: Failures<(Digest, bool)>,
    /// Of the files of one inspection.
    next: AtomicU64,
}

fn internal(error: impl std::fmt::Display) -> BuildError {
    BuildError::Internal(format!("cannot inspect an upload: {error}"))
}

/// Whether it is a core module, and small.
fn is_simple(upload: &[u8]) -> bool {
    upload.starts_with(b"\0asm\x01\0\0\0") && upload.len() <= INSPECT_IN_PLACE_BYTES_MAX
}

impl Inspector {
    pub(crate) fn new(helper: Helper, features: WasmFeatures, wasi03: bool) -> Self {
        Self {
            helper,
            features,
            wasi03,
            turns: Arc::default(),
            failures: Failures::new(),
            next: AtomicU64::new(0),
        }
    }

    /// What an upload is.
    ///
    /// # Errors
    /// What is wrong with it, and [`BuildError::Busy`] when too many wait.
    pub(crate) async fn look(&self, upload: Bytes, by: &str) -> Result<Inspection, BuildError> {
        check_size(upload.len() as u64)?;
        if is_simple(&upload) {
            let _turn = self.turn(&upload, by).await?;
            let (features, wasi03) = (self.features, self.wasi03);
            let work = move || inspect(upload, features, wasi03).map_err(BuildError::Invalid);
            return tokio::task::spawn_blocking(work).await.map_err(internal)?;
        }
        let files = self.files();
        let (digest, said) = self.run(&upload, by, (&files, false)).await?;
        let summary = Summary::read(&said).map_err(internal)?;
        if summary.is_upload {
            return Ok(summary.of(digest, upload));
        }
        let wasm = content(&files.1).await?;
        Ok(summary.of(Digest::of(&wasm), wasm))
    }

    /// Whether a layer can be unpacked.
    ///
    /// # Errors
    /// What is wrong with it, and [`BuildError::Busy`] when too many wait.
    pub(crate) async fn check_layer(&self, zip: Bytes, by: &str) -> Result<(), BuildError> {
        self.run(&zip, by, (&self.files(), true)).await.map(drop)
    }

    async fn turn(&self, upload: &[u8], by: &str) -> Result<Turn, BuildError> {
        let turn = self.turns.take(by, upload.len() as u64).await;
        turn.map_err(|Full(why)| BuildError::Busy(format!("{why}: try again later")))
    }

    fn files(&self) -> Files {
        let number = self.next.fetch_add(1, Relaxed);
        let at = |extension| self.helper.dir.join(format!("inspect-{number}.{extension}"));
        Files(at("upload"), at("wasm"))
    }

    /// What the child says of it, and its digest.
    async fn run(
        &self,
        upload: &Bytes,
        by: &str,
        (files, is_layer): (&Files, bool),
    ) -> Result<(Digest, String), BuildError> {
        let bytes = upload.clone();
        let digest = tokio::task::spawn_blocking(move || Digest::of(&bytes)).await;
        let digest = digest.map_err(internal)?;
        let asked = (digest, is_layer);
        self.failures.check(&asked)?;
        let _turn = self.turn(upload, by).await?;
        // Somebody before it may have sent the same.
        self.failures.check(&asked)?;
        let written = tokio::fs::write(&files.0, upload).await;
        written.map_err(|error| BuildError::machine("cannot inspect an upload", &error))?;
        let mut arguments: Vec<&OsStr> = vec![files.0.as_os_str(), files.1.as_os_str()];
        let flag = if is_layer { Some("--layer") } else { self.wasi03.then_some("--wasi03") };
        arguments.extend(flag.map(OsStr::new));
        let said = self.helper.run(Task::Inspect, &arguments).await;
        let said = said.inspect_err(|error| self.failures.note(asked, error))?;
        Ok((digest, said))
    }
}

/// What was inside the upload.
async fn content(path: &Path) -> Result<Bytes, BuildError> {
    let size = tokio::fs::metadata(path).await.map_err(internal)?.len();
    check_size(size)?;
    Ok(tokio::fs::read(path).await.map_err(internal)?.into())
}
