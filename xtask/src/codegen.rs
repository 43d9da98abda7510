//! `cargo xtask codegen`: the AWS protocol front, from the public service models that botocore ships
//! (Apache-2.0). Names, types, constraints, routes and codes carry over; the models' prose does not.
//!
//! One file a service, in `host/api/src/aws/generated/`: tables that the protocol engine reads
//! (operations, shapes, errors), and a Rust type for each structure of the operations that this
//! build answers. What the tables mean is in `host/api/src/aws/shape.rs`.

mod emit;
mod model;
mod notes;
mod services;
mod table;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::sh::root;
use model::Model;
use services::{SERVICES, Source};

/// Where the generated files are.
fn target() -> PathBuf {
    root().join("host/api/src/aws/generated")
}

/// Generates; with `check`, only says whether that would change anything.
pub(crate) fn run(check: bool) -> Result<()> {
    let data = crate::test::botocore()?;
    let mut stale = Vec::new();
    let mut place = |path: PathBuf, text: String| -> Result<()> {
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        if before != text {
            stale.push(path.display().to_string());
            if !check {
                std::fs::write(&path, text)?;
            }
        }
        Ok(())
    };
    for source in SERVICES {
        let model = Model::read(&data, source)?;
        let text = generate(&model, source)?;
        place(target().join(format!("{}.rs", source.module)), text)?;
        if source.lists_all {
            let document = root().join("docs/COMPATIBILITY.md");
            let text = table::placed(&std::fs::read_to_string(&document)?, &model, source)?;
            place(document, text)?;
        }
    }
    ensure!(!check || stale.is_empty(), "stale: {} (run cargo xtask codegen)", stale.join(", "));
    Ok(())
}

fn generate(model: &Model, source: &Source) -> Result<String> {
    format(&emit::service(model, source)?)
}

/// Through rustfmt, so that the output is as the rest of the tree.
fn format(text: &str) -> Result<String> {
    use std::io::Write as _;
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("rustfmt")?;
    let mut stdin = child.stdin.take().context("rustfmt takes nothing")?;
    let text = text.to_owned();
    let feed = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let done = child.wait_with_output()?;
    feed.join().map_err(|_| anyhow::anyhow!("cannot feed rustfmt"))??;
    ensure!(done.status.success(), "rustfmt failed");
    Ok(String::from_utf8(done.stdout)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_files_are_current() {
        super::run(true).unwrap();
    }
}
