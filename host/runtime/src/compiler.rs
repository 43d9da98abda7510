//! Compiles uploads in a child process that can be killed: one at a time, in [`turns`](crate::turns), with a
//! memory of what failed. A compile bomb costs its uploader an error, and the server
//! nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use wambda_model::limits::COMPILE_WALL;
use wambda_model::{BuildError, Digest, Metrics, clock};

use crate::artifact::Artifacts;
use crate::child;
use crate::engine::{EngineKind, Engines, compatibility};
use crate::turns::{Full, Turns};

/// Failed compilations remembered.
const FAILURES_MAX: usize = 1_000;
/// Bytes of the child's words that are read.
const WORDS_MAX: u64 = 8 << 10;

/// Kilobytes that the child's allocator reserves before the child limits its address space: what it
/// has then is beyond the limit. Its default is a gigabyte.
const ARENA: (&str, &str) = ("MIMALLOC_ARENA_RESERVE", "65536");

/// Runs the compiling child.
#[derive(Debug)]
pub struct Compiler {
    program: PathBuf,
    limits: child::Limits,
    artifacts: Arc<Artifacts>,
    engines: Engines,
    metrics: Arc<Metrics>,
    turns: Arc<Turns>,
    failures: Mutex<HashMap<(Digest, EngineKind), String>>,
}

impl Compiler {
    /// A compiler that runs `program compile …` within `limits`.
    #[must_use]
    pub fn new(
        program: PathBuf,
        limits: child::Limits,
        artifacts: Arc<Artifacts>,
        engines: Engines,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            program,
            limits,
            artifacts,
            engines,
            metrics,
            turns: Arc::default(),
            failures: Mutex::default(),
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
        let known = self
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(digest, kind))
            .cloned();
        if let Some(why) = known {
            return Err(BuildError::Invalid(why));
        }
        let turn = self.turns.take(uploader, wasm.len() as u64).await;
        let _turn =
            turn.map_err(|Full(why)| BuildError::Busy(format!("{why}: try again later")))?;
        if self.holds(digest, kind, engine).await {
            return Ok(None);
        }
        let started = clock::now();
        let (input, output) = self.files(&digest, kind);
        tokio::fs::write(&input, wasm).await.map_err(|e| internal(e.to_string()))?;
        let compiled = self.run(kind, &input, &output).await;
        let _ = tokio::fs::remove_file(&input).await;
        let made_for = match compiled {
            Ok(made_for) => made_for,
            Err(error) => {
                let _ = tokio::fs::remove_file(&output).await;
                if let Failed::Code(why) = &error {
                    self.remember((digest, kind), why);
                }
                return Err(error.into());
            }
        };
        if made_for != compatibility(engine) {
            return Err(internal("the compiler is of another build than the server".to_owned()));
        }
        let (artifacts, engine) = (Arc::clone(&self.artifacts), engine.clone());
        let keep = move || artifacts.keep(&output, &digest, kind, &engine);
        let kept = tokio::task::spawn_blocking(keep).await.map_err(|e| internal(e.to_string()))?;
        kept.map_err(|e| internal(format!("cannot keep the artifact: {e}")))?;
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

    fn files(&self, digest: &Digest, kind: EngineKind) -> (PathBuf, PathBuf) {
        let at = |extension| {
            self.artifacts.tmp().join(format!("{digest}-{}.{extension}", kind.as_str()))
        };
        (at("wasm"), at("cwasm"))
    }

    fn remember(&self, key: (Digest, EngineKind), why: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= FAILURES_MAX {
            failures.clear();
        }
        failures.insert(key, why.to_owned());
    }

    /// Runs the child. Returns the compatibility that it reports.
    async fn run(
        &self,
        kind: EngineKind,
        input: &std::path::Path,
        output: &std::path::Path,
    ) -> Result<String, Failed> {
        let internal = |what: &str, e: std::io::Error| Failed::Machine(format!("{what}: {e}"));
        let mut child = Command::new(&self.program)
            .arg("compile")
            .args(["--engine", kind.as_str()])
            .args(["--cpu-seconds", &self.limits.cpu_seconds.to_string()])
            .args(["--address-bytes", &self.limits.address_bytes.to_string()])
            .args([input, output])
            .env_clear()
            .env(ARENA.0, ARENA.1)
            .current_dir(self.artifacts.tmp())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| internal("cannot start the compiler", e))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let finish = async {
            let (said, complained) = tokio::join!(words(stdout), words(stderr));
            (child.wait().await, said, complained)
        };
        let Ok((status, said, complained)) = tokio::time::timeout(COMPILE_WALL, finish).await
        else {
            let _ = child.start_kill();
            let seconds = COMPILE_WALL.as_secs();
            let message = format!("compiling took more than {seconds} seconds and was stopped");
            return Err(Failed::Time(message));
        };
        let status = status.map_err(|e| internal("cannot wait for the compiler", e))?;
        if status.success() {
            return Ok(said.trim().to_owned());
        }
        tracing::info!(%status, words = complained.trim(), "a compilation failed");
        Err(why_failed(status, complained.trim(), &self.limits))
    }
}

/// Why a compilation failed.
#[derive(Debug)]
enum Failed {
    /// The code is at fault, and would fail again.
    Code(String),
    /// It took too long on the clock, which may be the machine's fault as well.
    Time(String),
    /// The machine is at fault.
    Machine(String),
}

impl From<Failed> for BuildError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Code(why) | Failed::Time(why) => Self::Invalid(why),
            Failed::Machine(why) => Self::Internal(why),
        }
    }
}

async fn words(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.take(WORDS_MAX).read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn why_failed(status: ExitStatus, complained: &str, limits: &child::Limits) -> Failed {
    use std::os::unix::process::ExitStatusExt;
    const SIGABRT: i32 = 6;
    const SIGSEGV: i32 = 11;
    const SIGXCPU: i32 = 24;
    let child::Limits { cpu_seconds, address_bytes } = limits;
    match (status.signal(), status.code()) {
        (Some(SIGXCPU), _) => Failed::Code(format!(
            "compiling took more than {cpu_seconds} CPU-seconds and was stopped"
        )),
        (Some(SIGABRT | SIGSEGV), _) => Failed::Code(format!(
            "compiling needed more than {address_bytes} bytes of memory or stack and was stopped"
        )),
        (Some(signal), _) => Failed::Machine(format!("the compiler was ended by signal {signal}")),
        (None, Some(code)) if code == i32::from(child::EXIT_MACHINE) => {
            Failed::Machine(complained.to_owned())
        }
        (None, _) => Failed::Code(format!("the code does not compile: {complained}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_machines_faults_are_told_from_the_codes() {
        let failed =
            |raw| why_failed(ExitStatus::from_raw(raw), "words", &child::Limits::default());
        assert!(matches!(failed(24), Failed::Code(why) if why.contains("120 CPU-seconds")));
        assert!(matches!(failed(6), Failed::Code(why) if why.contains("memory")));
        assert!(matches!(failed(1 << 8), Failed::Code(why) if why.contains("words")));
        assert!(matches!(failed(9), Failed::Machine(_)), "whoever killed it, it was not the code");
        assert!(matches!(failed(3 << 8), Failed::Machine(why) if why == "words"));
    }
}
