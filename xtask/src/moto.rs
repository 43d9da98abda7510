//! `cargo xtask test --aws`: moto's own tests of Lambda, STS and IAM against Wambda. They come from
//! moto's source package, which is unpacked below `target/`; nothing of it is kept here.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::sh::{cargo, root, run as go, step};

/// The release whose tests these are.
const MOTO: &str = "moto==5.2.5";
const TOOLS: &[&str] =
    &["moto[all,server]==5.2.5", "pytest==9.2.0", "pytest-timeout==2.4.0", "freezegun==1.5.5"];

fn folder() -> PathBuf {
    root().join("target/moto")
}

/// Runs them, and compares the failures with docs/COMPATIBILITY.md.
pub(crate) fn run() -> Result<()> {
    step("moto");
    let python = folder().join("venv/bin/python");
    let stamp = folder().join("installed");
    let wanted = TOOLS.join("\n");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        go(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder().join("venv")))?;
        go(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(TOOLS))?;
        let source = folder().join("source");
        let download =
            ["-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps", MOTO];
        go(Command::new(&python).args(download).arg("--dest").arg(&source))?;
        let packed = std::fs::read_dir(&source)?.flatten().map(|entry| entry.path());
        let packed = packed.filter(|path| path.extension().is_some_and(|e| e == "gz"));
        let packed = packed.last().context("pip downloaded no source package")?;
        go(Command::new("tar").arg("-xzf").arg(packed).arg("-C").arg(&source))?;
        std::fs::write(&stamp, &wanted)?;
    }
    go(&mut cargo(".", &["build", "--locked", "--bin", "wambda"]))?;
    let mut command = Command::new(&python);
    command.arg(root().join("tests/clients/moto_suite.py"));
    command.arg(root().join("target/debug/wambda"));
    command.arg(folder().join("source").join(MOTO.replace("==", "-")));
    command.arg(folder().join("out"));
    command.arg(root().join("docs/COMPATIBILITY.md"));
    go(&mut command)
}
