//! The table of Lambda's operations and parameters in docs/COMPATIBILITY.md.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::model::{Model, text};
use super::notes::{NOTES, TESTS};
use super::services::Source;

const BEGIN: &str = "<!-- begin: cargo xtask codegen -->\n";
const END: &str = "<!-- end: cargo xtask codegen -->\n";

/// The document with the table in its place.
pub(crate) fn placed(document: &str, model: &Model, source: &Source) -> Result<String> {
    let (before, rest) = document.split_once(BEGIN).context("the mark of the table is missing")?;
    let (_, after) = rest.split_once(END).context("the end of the table is missing")?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", table(model, source)?))
}

fn table(model: &Model, source: &Source) -> Result<String> {
    let mut out = String::from("\n| operation | parameter | status | test |\n|---|---|---|---|\n");
    for (name, operation) in model.operations() {
        let test = TESTS.iter().find(|(word, _)| name.contains(word)).map_or("", |(_, test)| test);
        if !source.supported.contains(&name) {
            writeln!(
                out,
                "| {name} | | no: 501 `UnsupportedOperationException` | `every_operation_has_its_route` |"
            )?;
            continue;
        }
        writeln!(out, "| {name} | | yes | `{test}` |")?;
        for member in model.members(text(&operation["input"], "shape")) {
            let said = NOTES.iter().find(|(operation, parameter, _)| {
                *parameter == member.name && (*operation == name || *operation == "*")
            });
            let own =
                NOTES.iter().find(|(o, parameter, _)| *parameter == member.name && *o == name);
            let status = own.or(said).map_or("yes", |(_, _, status)| status);
            writeln!(out, "| | `{}` | {status} | |", member.name)?;
        }
    }
    out.push('\n');
    Ok(out)
}
