//! Running programs, and saying so.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Announces a step.
pub(crate) fn step(what: &str) {
    eprintln!("\n\u{2500}\u{2500} {what}");
}

/// Runs a command in the repository and expects it to succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("cannot run {shown}"))?;
    ensure!(status.success(), "{shown} failed: {status}");
    Ok(())
}

/// `cargo` in `dir` below the repository.
pub(crate) fn cargo(dir: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or("cargo".to_owned()));
    command.current_dir(root().join(dir)).args(arguments);
    command
}

/// What a command prints; none when it cannot run or fails.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(root()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Installs the wasm targets that are missing.
pub(crate) fn wasm_targets() -> Result<()> {
    let installed = output("rustup", &["target", "list", "--installed"]).unwrap_or_default();
    for target in ["wasm32-wasip1", "wasm32-wasip2"] {
        if !installed.lines().any(|line| line == target) {
            step(&format!("install the target {target}"));
            run(Command::new("rustup").args(["target", "add", target]).current_dir(root()))?;
        }
    }
    Ok(())
}
