//! Says what uploads are, and whether layers can be unpacked. Zips, text and components are looked
//! at in a child process with hard limits, in turns of their uploaders: what they cost grows faster
//! than they do. A small core module is looked at in place, in turns as well, on threads of a lower
//! priority.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use tokio::runtime::Handle;
use wambda_model::limits::{INSPECT_IN_PLACE_BYTES_MAX, UNPACKED_BYTES_MAX};
use wambda_model::{BuildError, Digest, Inspection};
use wasmparser::WasmFeatures;

use crate::child::Summary;
use crate::detect::inspect;
use crate::failures::Failures;
use crate::helper::{Failed, Files, Helper, Task};
use crate::turns::{Full, Turn, Turns};
use crate::upload::check_size;

/// Has uploads inspected.
#[derive(Debug)]
pub(crate) struct Inspector {
    helper: Helper,
    features: WasmFeatures,
    wasi03: bool,
    /// Those with the lower priority.
    threads: Handle,
    turns: Arc<Turns>,
    /// By the digest of the bytes, and whether they were to be a layer.
    failures: Failures<(Digest, bool)>,
    /// Of the files of one inspection.
    next: AtomicU64,
    /// Bytes in memory that were unpacked.
    unpacked: Arc<AtomicU64>,
}

/// Part of the memory for what was unpacked.
#[derive(Debug)]
struct Part {
    bytes: u64,
    of: Arc<AtomicU64>,
}

impl Part {
    /// # Errors
    /// [`BuildError::Busy`] when there is not as much left.
    fn new(of: &Arc<AtomicU64>, bytes: u64) -> Result<Self, BuildError> {
        let grown = |used: u64| used.checked_add(bytes).filter(|used| *used <= UNPACKED_BYTES_MAX);
        let used = of.fetch_update(Relaxed, Relaxed, grown).map_err(|used| {
            let most = UNPACKED_BYTES_MAX;
            let what = "bytes of unpacked code wait for the compiler already, and may be";
            BuildError::Busy(format!("{used} {what} {most} together: try again later"))
        });
        used.map(|_| Self { bytes, of: Arc::clone(of) })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}

/// What was unpacked, and its part of the memory.
struct Unpacked(Vec<u8>, #[expect(dead_code, reason = "given back when dropped")] Part);

impl AsRef<[u8]> for Unpacked {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn internal(error: impl std::fmt::Display) -> BuildError {
    BuildError::Internal(format!("cannot inspect an upload: {error}"))
}

/// Whether it is a core module, and small.
fn is_simple(upload: &[u8]) -> bool {
    upload.starts_with(b"\0asm\x01\0\0\0") && upload.len() <= INSPECT_IN_PLACE_BYTES_MAX
}

impl Inspector {
    pub(crate) fn new(
        helper: Helper,
        (features, wasi03): (WasmFeatures, bool),
        threads: Handle,
    ) -> Self {
        Self {
            helper,
            features,
            wasi03,
            threads,
            turns: Arc::default(),
            failures: Failures::new(),
            next: AtomicU64::new(0),
            unpacked: Arc::default(),
        }
    }

    /// Bytes in memory that were unpacked.
    pub(crate) fn unpacked(&self) -> u64 {
        self.unpacked.load(Relaxed)
    }

    /// What an upload is.
    ///
    /// # Errors
    /// What is wrong with it, and [`BuildError::Busy`] when too many wait.
    pub(crate) async fn look(&self, upload: Bytes, by: &str) -> Result<Inspection, BuildError> {
        check_size(upload.len() as u64)?;
        if is_simple(&upload) {
            return self.look_here(upload, by).await;
        }
        let files = self.files();
        let (digest, said) = self.run(&upload, by, (&files, false)).await?;
        let summary = Summary::read(&said).map_err(internal)?;
        if summary.is_upload {
            return Ok(summary.of(digest, upload));
        }
        let wasm = self.content(&files.1).await?;
        let hash = move || (Digest::of(&wasm), wasm);
        let (digest, wasm) = self.threads.spawn_blocking(hash).await.map_err(internal)?;
        Ok(summary.of(digest, wasm))
    }

    /// What a small core module is. Even that can take half a second, so that the threads that
    /// answer go first.
    async fn look_here(&self, upload: Bytes, by: &str) -> Result<Inspection, BuildError> {
        let asked = (Digest::of(&upload), false);
        self.failures.check(&asked)?;
        let _turn = self.turn(&upload, by).await?;
        self.failures.check(&asked)?;
        let (features, wasi03) = (self.features, self.wasi03);
        let work = move || inspect(upload, features, wasi03).map_err(Failed::Code);
        let looked = self.threads.spawn_blocking(work).await.map_err(internal)?;
        Ok(looked.inspect_err(|failed| self.failures.note(asked, failed))?)
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
        let digest = self.threads.spawn_blocking(move || Digest::of(&bytes)).await;
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

    /// What was inside the upload.
    async fn content(&self, path: &Path) -> Result<Bytes, BuildError> {
        let size = tokio::fs::metadata(path).await.map_err(internal)?.len();
        check_size(size)?;
        let part = Part::new(&self.unpacked, size)?;
        let bytes = tokio::fs::read(path).await.map_err(internal)?;
        Ok(Bytes::from_owner(Unpacked(bytes, part)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_unpacked_is_counted_and_bounded() {
        let all = Arc::default();
        let part = Part::new(&all, UNPACKED_BYTES_MAX - 1).unwrap();
        let error = Part::new(&all, 2).unwrap_err();
        assert!(matches!(&error, BuildError::Busy(why) if why.contains("117440511")), "{error}");
        let last = Bytes::from_owner(Unpacked(vec![0], Part::new(&all, 1).unwrap()));
        drop(part);
        let copy = last.clone();
        drop(last);
        assert_eq!(all.load(Relaxed), 1);
        drop(copy);
        assert_eq!(all.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn what_was_refused_is_not_looked_at_again() {
        let nowhere = || std::path::PathBuf::from("/nowhere");
        let limits = crate::child::Limits::default();
        let helper = Helper { program: nowhere(), limits, dir: nowhere() };
        let features = crate::engine::features().unwrap();
        let inspector = Inspector::new(helper, (features, false), Handle::current());
        let nothing = Bytes::from_static(b"\0asm\x01\0\0\0");
        let first = inspector.look(nothing.clone(), "a").await.unwrap_err();
        // It is another one's turn, and what is known waits for none.
        let turn = inspector.turn(b"", "b").await.unwrap();
        let again = tokio::time::timeout(Duration::from_secs(10), inspector.look(nothing, "a"));
        let again = again.await.expect("no turn is waited for").unwrap_err();
        assert_eq!(again.to_string(), first.to_string());
        drop(turn);
    }
}
