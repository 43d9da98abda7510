//! `cargo xtask bench`: builds the server and runs the benchmark on it.

use std::process::Command;

use anyhow::Result;

use crate::demo;
use crate::sh::{cargo, root, run as go, step};

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let dist = arguments.contains(&"--dist");
    let rest: Vec<&str> = arguments.iter().copied().filter(|a| *a != "--dist").collect();
    demo::guests()?;
    step("build the server and the benchmark");
    let profile = if dist { "dist" } else { "release" };
    let packages = ["--package", "wambda-cli", "--package", "wambda-bench"];
    let build = ["build", "--locked", "--profile", profile];
    go(&mut cargo(".", &[&build[..], &packages].concat()))?;
    step("measure");
    let folder = root().join("target").join(profile);
    let mut command = Command::new(folder.join("wambda-bench"));
    go(command.arg("--server").arg(folder.join("wambda")).args(rest).current_dir(root()))
}
