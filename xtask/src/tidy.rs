//! Style as tests: file sizes, headers, dependency directions, promises that name their tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::sh::{output, root};

/// Lines of a source file; at the very most.
const FILE_LINES_MAX: usize = 800;
/// Columns of a line of Rust.
const COLUMNS_MAX: usize = 160;

/// The crates, from the bottom up. A crate may depend on those of lower layers only.
const LAYERS: &[&[&str]] = &[
    &["wambda-policy", "wambda-sigv4", "wambda-confine"],
    &["wambda-model"],
    &["wambda-store", "wambda-egress"],
    &["wambda-control"],
    &["wambda-runtime", "wambda-dispatch", "wambda-sources", "wambda-api"],
    &["wambda-server"],
    &["wambda-cli"],
];

/// Crates that may depend on wasmtime.
const SEES_WASM: &str = "wambda-runtime";

pub(crate) fn run() -> Result<()> {
    let mut problems = Vec::new();
    files(&mut problems)?;
    directions(&mut problems)?;
    promises(&mut problems)?;
    ensure!(problems.is_empty(), "untidy:\n  {}", problems.join("\n  "));
    Ok(())
}

/// The source files of the repository, wherever it is checked out.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn files(problems: &mut Vec<String>) -> Result<()> {
    let mut found = Vec::new();
    for part in ["host", "guest-sdk", "examples", "tests", "benches", "xtask"] {
        sources(&root().join(part), &mut found)?;
    }
    for path in found {
        let text = std::fs::read_to_string(&path)?;
        let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        if !text.starts_with("//!") {
            problems.push(format!("{shown}: opens without //!"));
        }
        // Tables, one row a line.
        if path.components().any(|part| part.as_os_str() == "generated") {
            continue;
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            problems.push(format!("{shown}: {lines} lines, {FILE_LINES_MAX} at most"));
        }
        for (at, line) in text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX {
                problems.push(format!("{shown}:{}: more than {COLUMNS_MAX} columns", at + 1));
            }
        }
        if path.file_name().is_some_and(|name| name == "mod.rs") {
            problems.push(format!("{shown}: name.rs, not mod.rs"));
        }
    }
    Ok(())
}

/// Our packages with the names of what they depend on, development excluded.
fn dependencies() -> Result<BTreeMap<String, Vec<String>>> {
    let text = output("cargo", &["metadata", "--format-version=1", "--no-deps", "--locked"]);
    let metadata: Value = serde_json::from_str(&text.context("cargo metadata failed")?)?;
    let packages = metadata.get("packages").and_then(Value::as_array).context("no packages")?;
    let text = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let named = packages.iter().map(|package| {
        let all = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
        let real = all.filter(|d| d.get("kind").is_none_or(Value::is_null));
        (text(package, "name"), real.map(|d| text(d, "name")).collect())
    });
    Ok(named.collect())
}

fn directions(problems: &mut Vec<String>) -> Result<()> {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    for (package, dependencies) in dependencies()? {
        let Some(own) = layer(&package) else { continue };
        for dependency in dependencies {
            if layer(&dependency).is_some_and(|other| other >= own) {
                problems.push(format!("{package} depends on {dependency}, which is not below it"));
            }
            if dependency.starts_with("wasmtime") && package != SEES_WASM {
                problems.push(format!("{package} depends on {dependency}: only {SEES_WASM} may"));
            }
            if dependency == "hyper"
                && !["wambda-api", "wambda-server", "wambda-egress"].contains(&&*package)
            {
                problems.push(format!("{package} depends on hyper: HTTP is the business of api"));
            }
        }
    }
    Ok(())
}

/// docs/SPECIFICATION.md: a row that names a test names one that exists.
fn promises(problems: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(root().join("docs/SPECIFICATION.md"))?;
    let mut found = Vec::new();
    for part in ["host", "tests", "xtask"] {
        sources(&root().join(part), &mut found)?;
    }
    let code: String = found.iter().map(std::fs::read_to_string).collect::<std::io::Result<_>>()?;
    for row in text.lines().filter(|line| line.starts_with("| P")) {
        let tests: Vec<&str> =
            row.split('`').filter_map(|part| part.strip_prefix("test:")).collect();
        if tests.is_empty() && !row.contains("[test pending]") {
            problems.push(format!(
                "docs/SPECIFICATION.md names neither test nor [test pending]: {row}"
            ));
        }
        for test in tests {
            if !code.contains(&format!("fn {test}()")) {
                problems.push(format!(
                    "docs/SPECIFICATION.md names the test {test}, which is not there"
                ));
            }
        }
    }
    threats(&code, problems)
}

/// docs/THREATMODEL.md: each attack names a test, and each that it names exists.
fn threats(code: &str, problems: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(root().join("docs/THREATMODEL.md"))?;
    let (_, table) = text.split_once("| attack | by |").context("no table of attacks")?;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let last = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        let tests: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() {
            problems.push(format!("docs/THREATMODEL.md: no test in {row}"));
        }
        for test in tests.iter().filter(|test| !code.contains(&format!("fn {test}()"))) {
            problems.push(format!("docs/THREATMODEL.md names the test {test}, which is not there"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        super::run().unwrap();
    }
}
