//! Runs a child of this very program that does one task on strangers' bytes, within limits that it sets itself and
//! a clock that it cannot move. Whatever the bytes do to it, the server gets words.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use wambda_model::BuildError;
use wambda_model::limits::INSPECT_CPU_SECONDS;

use crate::child;

/// Bytes of the child's words that are read.
const WORDS_MAX: u64 = 4 << 20;
/// Bytes of its complaints.
const COMPLAINTS_MAX: u64 = 8 << 10;

/// Kilobytes that the child's allocator reserves before the child limits its address space: what it
/// has then is beyond the limit. Its default is a gigabyte.
const ARENA: (&str, &str) = ("MIMALLOC_ARENA_RESERVE", "65536");

/// What a child reads, and what it writes. Both files go with this, however the task ends.
#[derive(Debug)]
pub(crate) struct Files(pub(crate) PathBuf, pub(crate) PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        // The last is what an artifact's MAC is written to first.
        for path in [&self.0, &self.1, &self.1.with_extension("mac")] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What it is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Unpack an upload, and say what it is.
    Inspect,
    /// Compile.
    Compile,
}

/// Starts children.
#[derive(Debug, Clone)]
pub struct Helper {
    /// The program, of which each task is a command.
    pub program: PathBuf,
    /// What compiling may take; inspecting may take less time.
    pub limits: child::Limits,
    /// Where it runs.
    pub dir: PathBuf,
}

/// Why there is no result.
#[derive(Debug, Clone)]
pub enum Failed {
    /// The bytes are at fault, and would fail again.
    Code(String),
    /// They are too many.
    Large(String),
    /// It took too long on the clock, which may be the machine's fault as well.
    Time(String),
    /// There is no room on the disk.
    Full(String),
    /// The machine is at fault.
    Machine(String),
}

impl From<Failed> for BuildError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Code(why) | Failed::Time(why) => Self::Invalid(why),
            Failed::Large(why) => Self::TooLarge(why),
            Failed::Full(why) => Self::Full(why),
            Failed::Machine(why) => Self::Internal(why),
        }
    }
}

impl Task {
    fn command(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Compile => "compile",
        }
    }

    fn doing(self) -> &'static str {
        match self {
            Self::Inspect => "inspecting",
            Self::Compile => "compiling",
        }
    }
}

impl Helper {
    fn limits(&self, task: Task) -> child::Limits {
        let mut limits = self.limits;
        if task == Task::Inspect {
            limits.cpu_seconds = limits.cpu_seconds.min(INSPECT_CPU_SECONDS);
        }
        limits
    }

    /// Runs a task. Returns what the child says.
    ///
    /// # Errors
    /// [`Failed`], with words for the uploader or the operator.
    pub async fn run(&self, task: Task, arguments: &[&OsStr]) -> Result<String, Failed> {
        let internal = |what: &str, e: std::io::Error| Failed::Machine(format!("{what}: {e}"));
        let limits = self.limits(task);
        let mut child = Command::new(&self.program)
            .arg(task.command())
            .args(["--cpu-seconds", &limits.cpu_seconds.to_string()])
            .args(["--address-bytes", &limits.address_bytes.to_string()])
            .args(["--landlock", limits.wall.landlock])
            .args(limits.wall.seccomp.then_some("--seccomp"))
            .args(arguments)
            .env_clear()
            .env(ARENA.0, ARENA.1)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| internal("cannot start the compiler", e))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let finish = async {
            let (said, complained) =
                tokio::join!(words(stdout, WORDS_MAX), words(stderr, COMPLAINTS_MAX));
            (child.wait().await, said, complained)
        };
        let Ok((status, said, complained)) = tokio::time::timeout(limits.time, finish).await else {
            let _ = child.start_kill();
            let (doing, seconds) = (task.doing(), limits.time.as_secs());
            let message = format!("{doing} took more than {seconds} seconds and was stopped");
            return Err(Failed::Time(message));
        };
        let status = status.map_err(|e| internal("cannot wait for the compiler", e))?;
        if status.success() {
            return Ok(said.trim().to_owned());
        }
        if status.code() != Some(1) {
            tracing::info!(%status, words = complained.trim(), "{} failed", task.doing());
        }
        Err(why_failed(task, status, complained.trim(), limits))
    }
}

async fn words(pipe: Option<impl tokio::io::AsyncRead + Unpin>, most: u64) -> String {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.take(most).read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn why_failed(task: Task, status: ExitStatus, complained: &str, limits: child::Limits) -> Failed {
    use std::os::unix::process::ExitStatusExt;
    const SIGABRT: i32 = 6;
    const SIGSEGV: i32 = 11;
    const SIGXCPU: i32 = 24;
    let child::Limits { cpu_seconds, address_bytes, .. } = limits;
    let doing = task.doing();
    match (status.signal(), status.code()) {
        (Some(SIGXCPU), _) => Failed::Code(format!(
            "{doing} took more than {cpu_seconds} CPU-seconds and was stopped"
        )),
        (Some(SIGABRT | SIGSEGV), _) => Failed::Code(format!(
            "{doing} needed more than {address_bytes} bytes of memory or stack and was stopped"
        )),
        (Some(signal), _) => Failed::Machine(format!("the compiler was ended by signal {signal}")),
        (None, Some(code)) if code == i32::from(child::EXIT_MACHINE) => {
            Failed::Machine(complained.to_owned())
        }
        (None, Some(code)) if code == i32::from(child::EXIT_LARGE) => {
            Failed::Large(complained.to_owned())
        }
        (None, Some(code)) if code == i32::from(child::EXIT_FULL) => {
            Failed::Full(complained.to_owned())
        }
        // It ended as it should, and says why.
        (None, Some(1)) if task == Task::Inspect => Failed::Code(complained.to_owned()),
        (None, Some(1)) => Failed::Code(format!("the code does not compile: {complained}")),
        // A panic, which is told in the log: it names files of the machine and of the compiler.
        (None, _) => {
            Failed::Code(format!("{doing} failed on this code: it is more than the compiler takes"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_machines_faults_are_told_from_the_codes() {
        let failed = |raw| {
            why_failed(Task::Compile, ExitStatus::from_raw(raw), "words", child::Limits::default())
        };
        assert!(matches!(failed(24), Failed::Code(why) if why.contains("120 CPU-seconds")));
        assert!(matches!(failed(6), Failed::Code(why) if why.contains("memory")));
        assert!(matches!(failed(1 << 8), Failed::Code(why) if why.contains("words")));
        assert!(matches!(failed(9), Failed::Machine(_)), "whoever killed it, it was not the code");
        assert!(matches!(failed(4 << 8), Failed::Large(_)));
        assert!(matches!(failed(5 << 8), Failed::Full(_)));
        assert!(matches!(failed(3 << 8), Failed::Machine(why) if why == "words"));
        // What a panic says is not for the uploader.
        assert!(matches!(failed(101 << 8), Failed::Code(why) if !why.contains("words")));
    }
}
