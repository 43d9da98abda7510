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
    let run = go(command.env("WAMBDA_TEST_PYTHON", python).args(filter));
    slowest();
    run
}

/// Tells which tests took longest, of those that nextest has run.
fn slowest() {
    let report = root().join("target/nextest/default/junit.xml");
    let Ok(report) = std::fs::read_to_string(report) else { return };
    let attribute = |line: &str, name: &str| -> Option<String> {
        let (_, rest) = line.split_once(&format!(" {name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let mut took: Vec<(f64, String)> = report
        .lines()
        .filter(|line| line.trim_start().starts_with("<testcase "))
        .filter_map(|line| Some((attribute(line, "time")?.parse().ok()?, attribute(line, "name")?)))
        .collect();
    took.sort_by(|a, b| b.0.total_cmp(&a.0));
    let all: f64 = took.iter().map(|(seconds, _)| seconds).sum();
    step(&format!("the slowest of {} tests, which took {all:.0} s together", took.len()));
    for (seconds, name) in took.iter().take(20) {
        println!("{seconds:7.1} s  {name}");
    }
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

/// The version of cargo-deny.
const DENY: &str = "0.20.2";
/// What was checked last, and passed.
const CHECKED: &str = "deny.checked";

/// What cargo-deny is asked depends on these files alone: what has passed passes again.
fn to_check() -> Result<String> {
    let mut text = format!("cargo-deny {DENY}\n");
    for name in ["Cargo.lock", "deny.toml"] {
        let bytes = std::fs::read(root().join(name)).with_context(|| name.to_owned())?;
        let mut crc = flate2::Crc::new();
        crc.update(&bytes);
        text += &format!("{name} {} bytes, CRC-32 {:08x}\n", crc.amount(), crc.sum());
    }
    Ok(text)
}

/// What may be depended on: deny.toml. Building cargo-deny takes minutes, so that it is not asked
/// twice about the same.
pub(crate) fn deny() -> Result<()> {
    let (wanted, checked) = (to_check()?, root().join(CHECKED));
    if std::fs::read_to_string(&checked).is_ok_and(|text| text == wanted) {
        println!("as in {CHECKED}");
        return Ok(());
    }
    ask_deny()?;
    std::fs::write(&checked, wanted).context(CHECKED)
}

fn ask_deny() -> Result<()> {
    let own = root().join("target/tools/bin/cargo-deny");
    let program = match output("cargo-deny", &["--version"]) {
        Some(_) => PathBuf::from("cargo-deny"),
        None => own,
    };
    if program.is_absolute() && !program.exists() {
        let crate_version = format!("cargo-deny@{DENY}");
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
