//! `cargo xtask test`: everything needed to pass all tests on a fresh machine with Rust, gcc and
//! Python 3. Cheapest first, so that a mistake is told soon; the test runner's summary comes last.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::sh::{cargo, output, root, run as go, step};
use crate::{demo, readme, tidy};

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    // More trials of what is tried at random.
    let is_long = arguments.contains(&"--long");
    let filter: Vec<&&str> = arguments.iter().filter(|it| **it != "--long").collect();
    step("format");
    go(&mut cargo(".", &["fmt", "--all", "--check"]))?;
    go(&mut cargo("examples", &["fmt", "--all", "--check"]))?;
    go(&mut cargo("tests/guests", &["fmt", "--all", "--check"]))?;
    step("tidy");
    tidy::run()?;
    step("lints");
    let lints = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    go(&mut cargo(".", &lints))?;
    step("licences, sources and bans");
    deny()?;
    demo::guests()?;
    step("Python clients");
    let python = python()?;
    step("build");
    go(&mut cargo(".", &["build", "--workspace", "--all-targets", "--locked"]))?;
    readme::run(&python)?;
    step("bench smoke");
    smoke()?;
    step("tests");
    let mut command = if output("cargo", &["nextest", "--version"]).is_some() {
        cargo(".", &["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
    } else {
        cargo(".", &["test", "--workspace", "--locked", "--no-fail-fast"])
    };
    if is_long {
        command.env("WAMBDA_LONG", "1");
    }
    go(command.env("WAMBDA_TEST_PYTHON", python).args(filter))
}

/// The README, typed, with all that it needs.
pub(crate) fn readme() -> Result<()> {
    demo::guests()?;
    // As the tests build it: with the features of the whole workspace.
    go(&mut cargo(".", &["build", "--workspace", "--all-targets", "--locked"]))?;
    readme::run(&python()?)
}

/// Every contender and workload of the benchmark for a moment: answers are checked, times are not
/// judged.
fn smoke() -> Result<()> {
    let folder = root().join("target/debug");
    let mut command = Command::new(folder.join("wambda-bench"));
    command.arg("--smoke").arg("--server").arg(folder.join("wambda"));
    go(command.current_dir(root()))
}

/// What may be depended on: deny.toml.
fn deny() -> Result<()> {
    const VERSION: &str = "0.20.2";
    let own = root().join("target/tools/bin/cargo-deny");
    let program = match output("cargo-deny", &["--version"]) {
        Some(_) => PathBuf::from("cargo-deny"),
        None => own,
    };
    if program.is_absolute() && !program.exists() {
        let crate_version = format!("cargo-deny@{VERSION}");
        go(&mut cargo(".", &["install", "--locked", "--root", "target/tools", &crate_version]))?;
    }
    let mut command = Command::new(program);
    go(command.current_dir(root()).args([
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

/// The ledger test, for longer than the tests run it.
pub(crate) fn chaos(arguments: &[&str]) -> Result<()> {
    let cycles = match arguments {
        [] => "1000",
        [cycles] if cycles.parse::<u32>().is_ok() => cycles,
        other => anyhow::bail!("cargo xtask chaos [CYCLES], got {other:?}"),
    };
    demo::guests()?;
    go(&mut cargo(".", &["build", "--workspace", "--locked"]))?;
    step("chaos");
    let test =
        ["test", "--locked", "--package", "wambda-tests", "--", "--nocapture", "ledger::every"];
    go(cargo(".", &test).env("WAMBDA_CHAOS_CYCLES", cycles))
}

/// The service models, as botocore ships them.
pub(crate) fn botocore() -> Result<PathBuf> {
    let python = python()?;
    let say =
        "import botocore, os; print(os.path.join(os.path.dirname(botocore.__file__), 'data'))";
    let said = output(&python, &["-c", say]).context("botocore is not there")?;
    Ok(PathBuf::from(said.trim()))
}

/// A virtual environment with the clients that tests drive the server with.
fn python() -> Result<String> {
    environment("target/venv", "tests/clients/requirements.txt")
}

/// A virtual environment with what a file names; its Python.
pub(crate) fn environment(folder: &str, requirements: &str) -> Result<String> {
    let venv = root().join(folder);
    let python = venv.join("bin/python");
    let wanted = root().join(requirements);
    let stamp = venv.join("requirements.txt");
    let wanted = std::fs::read_to_string(&wanted).with_context(|| requirements.to_owned())?;
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        go(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        let install = ["-m", "pip", "install", "--quiet", "--requirement", requirements];
        go(Command::new(&python).args(install).current_dir(root()))?;
        std::fs::write(&stamp, &wanted)?;
    }
    Ok(python.display().to_string())
}
