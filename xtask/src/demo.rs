//! `cargo xtask demo`: from a fresh clone to functions that answer. And the guests it shows.

use std::process::Command;

use anyhow::Result;

use crate::sh::{cargo, root, run as go, step, wasm_targets};

fn tour(arguments: &[&str]) -> Result<()> {
    let examples = root().join("examples");
    let mut command = Command::new(root().join("target/release/wambda"));
    go(command.arg("demo").arg("--examples").arg(examples).args(arguments))
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    guests()?;
    step("build the server (the first time takes minutes)");
    go(&mut cargo(".", &["build", "--release", "--locked", "--package", "wambda-cli"]))?;
    step("the tour");
    tour(arguments)
}

/// Builds the examples, and the guests that only tests need.
pub(crate) fn guests() -> Result<()> {
    wasm_targets()?;
    step("build the examples");
    let build = ["build", "--release", "--locked", "--target"];
    let components =
        ["wasm32-wasip2", "-p", "hello", "-p", "thumbnail", "-p", "http-echo", "-p", "wordcount"];
    let modules = ["wasm32-wasip1", "-p", "wordcount", "-p", "sha256"];
    go(&mut cargo("examples", &[&build[..], &components].concat()))?;
    go(&mut cargo("examples", &[&build[..], &modules].concat()))?;
    step("build the test guests");
    go(&mut cargo("tests/guests", &[&build[..], &["wasm32-wasip2"]].concat()))
}
