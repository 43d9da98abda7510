//! Compiles uploads in a child process that can be killed: one at a time, in [`turns`](crate::turns), with a
//! memory of what failed. A compile bomb costs its uploader an error, and the server
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use wambda_model::{BuildError, Digest, Metrics, clock};

use crate::artifact::Artifacts;
use crate::engine::{EngineKind, Engines, compatibility};
use crate::failures::Failures;
use crate::helper::{Files, Helper, Task};
use crate::turns::{Full, Turns};

/// Runs the compiling child.
#[derive(Debug)]
pub struct Compiler {
    helper: Helper,
    artifacts: Arc<Artifacts>,
    engines: Engines,
    metrics: Arc<Metrics>,
    turns: Arc<Turns>,
    failures: Failures<(Digest, EngineKind)>,
}

impl Compiler {
    /// A compiler that has `helper` compile.
    #[must_use]
    pub fn new(
        helper: Helper,
        artifacts: Arc<Artifacts>,
        engines: Engines,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            helper,
            artifacts,
            engines,
            metrics,
            turns: Arc::default(),
            failures: Failures::new(),
        }
    }

    /// Makes sure that an artifact of `wasm` is there, in a turn of `uploader`. Returns how long compiling
    /// took; none when it was there already.
    ///
    /// # Errors
    /// [`BuildError::Invalid`] when the code does not compile within the limits, and
    /// [`BuildError::Busy`] when too many wait.
    pub async fn ensure(
        &self,
        wasm: &[u8],
        digest: Digest,
        kind: EngineKind,
        uploader: &str,
    ) -> Result<Option<Duration>, BuildError> {
        let internal = |what: String| BuildError::Internal(what);
        let engine = self.engines.get(kind).ok_or_else(|| internal("engine is off".to_owned()))?;
        if self.holds(digest, kind, engine).await {
            return Ok(None);
        }
        self.failures.check(&(digest, kind))?;
        let turn = self.turns.take(uploader, wasm.len() as u64).await;
        let _turn =
            turn.map_err(|Full(why)| BuildError::Busy(format!("{why}: try again later")))?;
        // Somebody before it may have sent the same.
        self.failures.check(&(digest, kind))?;
        if self.holds(digest, kind, engine).await {
            return Ok(None);
        }
        let started = clock::now();
        let files = self.files(&digest, kind);
        let (input, output) = (&files.0, files.1.clone());
        let written = tokio::fs::write(input, wasm).await;
        written.map_err(|e| BuildError::machine("cannot hand it to the compiler", &e))?;
        let arguments =
            ["--engine".as_ref(), kind.as_str().as_ref(), input.as_os_str(), output.as_os_str()];
        let compiled = self.helper.run(Task::Compile, &arguments).await;
        let made_for = compiled.inspect_err(|error| self.failures.note((digest, kind), error))?;
        if made_for != compatibility(engine) {
            return Err(internal("the compiler is of another build than the server".to_owned()));
        }
        let (artifacts, engine) = (Arc::clone(&self.artifacts), engine.clone());
        let keep = move || artifacts.keep(&output, &digest, kind, &engine);
        let kept = tokio::task::spawn_blocking(keep).await.map_err(|e| internal(e.to_string()))?;
        kept.map_err(|e| BuildError::machine("cannot keep the artifact", &e))?;
        let took = clock::now() - started;
        self.metrics.compile.observe(took.as_secs_f64());
        Ok(Some(took))
    }

    /// Reads the whole artifact: off the threads that answer.
    async fn holds(&self, digest: Digest, kind: EngineKind, engine: &wasmtime::Engine) -> bool {
        let (artifacts, engine) = (Arc::clone(&self.artifacts), engine.clone());
        let look = move || artifacts.holds(&digest, kind, &engine);
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }

    fn files(&self, digest: &Digest, kind: EngineKind) -> Files {
        let at = |extension| {
            self.artifacts.tmp().join(format!("{digest}-{}.{extension}", kind.as_str()))
        };
        Files(at("wasm"), at("cwasm"))
    }
}
