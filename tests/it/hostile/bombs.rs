//! Uploads whose reading or compiling costs much: refused before, stopped by the child's limits, or compiled
//! within them. Nobody else notices.

use wambda_tests::wat;

use super::{Case, either, refused};
use crate::wats::core_with;

const MEMORY: &str = "(memory (export \"memory\") 1)";

fn bomb(definitions: &str) -> Vec<u8> {
    wat(&core_with(&format!("{MEMORY} {definitions}"), "(i64.const 0)"))
}

pub(super) fn cases() -> Vec<Case> {
    let locals = "(local i64)".repeat(1_000);
    let params = "(param i64)".repeat(1_000);
    let loops = format!("{}{}", "(loop ".repeat(100), ")".repeat(100));
    let branches = "(if (local.get 0) (then (local.set 1 (i64.const 1))))".repeat(20_000);
    let long = "(drop (i32.const 1))".repeat(400_000);
    vec![
        refused("loops over locals", bomb(&format!("(func {locals} {loops})")), "1000 x 100"),
        refused("loops over parameters", bomb(&format!("(func {params} {loops})")), "x 100"),
        refused(
            "branches over locals",
            bomb(&format!("(func (param i32) {locals} {branches})")),
            "branches",
        ),
        refused(
            "branches over parameters",
            bomb(&format!("(func (param i32) {} {branches})", "(param i64)".repeat(999))),
            "branches",
        ),
        refused("one long function", bomb(&format!("(func {long})")), "1048576"),
        refused("two hundred thousand functions", bomb(&"(func)".repeat(200_001)), "200000"),
        either("a hundred thousand functions", bomb(&"(func)".repeat(100_000))),
        refused(
            "fifty thousand locals and loops",
            bomb(&format!("(func (local {}) {loops})", "i64 ".repeat(49_000))),
            "",
        ),
        // To check each call is to look at two thousand values: a billion in a megabyte.
        refused("half a million calls of a thousand values", slow_to_check(), "").within(30_000),
    ]
}

/// A module that exports nothing, with a function that hands a thousand values around half a million times.
pub(crate) fn slow_to_check() -> Vec<u8> {
    let values = "i32 ".repeat(1_000);
    let (start, end) = ("(i32.const 7)".repeat(1_000), "(drop)".repeat(1_000));
    let calls = "(call $f)".repeat(480_000);
    wat(&format!(
        "(module (type $t (func (param {values}) (result {values})))
           (func $f (type $t) unreachable) (func {start} {calls} {end}))"
    ))
}
