//! Core modules: clocks, memory, traps, and lies to the host.

use wambda_tests::wat;

use super::{Case, FAST, TOO_LARGE, TRAPPED, no_memory, timeout, trap, well};
use crate::wats::{self, core, core_with};

const MEMORY: &str = "(memory (export \"memory\") 1)";

/// A module whose alloc and handle have these bodies.
fn alloc(alloc: &str, handle: &str) -> String {
    format!(
        "(module {MEMORY} (func (export \"wambda_alloc\") (param i32) (result i32) {alloc})
         (func (export \"wambda_handle\") (param i32 i32) (result i64) {handle}))"
    )
}

/// Bulk operations, which no clock interrupts, over and over.
fn bulk(operation: &str) -> String {
    let definitions = format!(
        "(memory (export \"memory\") 32) (table $t 60000 funcref) (elem $e func 0) (data $d \"{}\")",
        "x".repeat(1_000)
    );
    core_with(&definitions, &format!("(loop $l {operation} (br $l)) (i64.const 0)"))
}

pub(super) fn cases() -> Vec<Case> {
    [clocks(), memory(), traps(), answers()].into_iter().flatten().collect()
}

fn clocks() -> Vec<Case> {
    let spin = "(loop $l (br $l))";
    vec![
        timeout("spin", wats::spin()),
        timeout("spin in the start function", core_with(&format!("{MEMORY} (func $s {spin}) (start $s)"), "(i64.const 0)")),
        timeout("spin in _initialize", core_with(&format!("{MEMORY} (func (export \"_initialize\") {spin})"), "(i64.const 0)")),
        timeout("spin in alloc", alloc(&format!("{spin} (i32.const 0)"), "(i64.const 0)")),
        timeout("spin in a command", format!("(module (func (export \"_start\") {spin}))")),
        timeout("spin by calls", core_with(&format!("{MEMORY} (func $n) (func $s (loop $l (call $n) (br $l)))"), "(call $s) (i64.const 0)")),
        timeout("spin by tail recursion of memory", core("(loop $l (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0))
           (i32.const 1))) (br $l)) (i64.const 0)")),
        timeout("memory.fill for ever", bulk("(memory.fill (i32.const 0) (i32.const 1) (i32.const 2000000))")),
        timeout("memory.copy for ever", bulk("(memory.copy (i32.const 0) (i32.const 1) (i32.const 2000000))")),
        timeout("memory.init for ever", bulk("(memory.init $d (i32.const 0) (i32.const 0) (i32.const 1000))")),
        timeout("table.fill for ever", bulk("(table.fill $t (i32.const 0) (ref.null func) (i32.const 60000))")),
        timeout("table.copy for ever", bulk("(table.copy $t $t (i32.const 0) (i32.const 1) (i32.const 59999))")),
        timeout("table.grow for ever", bulk("(drop (table.grow $t (ref.null func) (i32.const 1000000000)))")),
        timeout("memory.grow for ever", core("(loop $l (drop (memory.grow (i32.const 65536))) (br $l)) (i64.const 0)")).within(500),
        timeout("large fills", core_with("(memory (export \"memory\") 480)",
            "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 31000000)) (br $l)) (i64.const 0)")),
        Case { error: "Sandbox.CpuExceeded", ..trap("CPU before the timeout", wats::spin(), "0.050 seconds") }
            .with("timeout=10&cpu=0.05"),
        // One bulk operation over all of its memory is what a clock may be late by.
        timeout("one fill of much memory", core_with("(memory (export \"memory\") 4000)",
            "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 262000000)) (br $l)) (i64.const 0)"))
            .with("timeout=0.1&memory=256").within(750),
    ]
}

fn memory() -> Vec<Case> {
    let unless = |grown: &str| format!("(if (i32.eq {grown} (i32.const -1)) (then unreachable))");
    let tables = "(table 1 funcref)".repeat(30);
    vec![
        no_memory("grow to the limit", wats::grow(), "memory=16&timeout=5"),
        no_memory(
            "two memories are summed",
            core_with(
                &format!("{MEMORY} (memory $b 1)"),
                &format!(
                    "{} {} (i64.const 0)",
                    unless("(memory.grow $b (i32.const 14))"),
                    unless("(memory.grow 0 (i32.const 14))")
                ),
            ),
            "memory=1&timeout=5",
        ),
        no_memory(
            "tables count",
            core_with(
                &format!("{MEMORY} (table $t 0 funcref)"),
                &format!(
                    "{} (i64.const 0)",
                    unless("(table.grow $t (ref.null func) (i32.const 15000))")
                ),
            ),
            "memory=128KB&timeout=5",
        ),
        super::refused(
            "a table of externref",
            core_with(&format!("{MEMORY} (table 1 externref)"), "(i64.const 0)"),
            "gc types",
        ),
        well(
            "eight tables are allowed",
            core_with(&format!("{MEMORY} {}", "(table 10 funcref)".repeat(8)), "(i64.const 0)"),
            "",
        ),
        no_memory(
            "memory and tables are summed",
            core_with(
                &format!("{MEMORY} (table $t 0 funcref)"),
                &format!(
                    "{} {} (i64.const 0)",
                    unless("(memory.grow (i32.const 14))"),
                    unless("(table.grow $t (ref.null func) (i32.const 15000))")
                ),
            ),
            "memory=1&timeout=5",
        ),
        super::refused(
            "too many tables",
            core_with(&format!("{MEMORY} {tables}"), "(i64.const 0)"),
            "table",
        ),
        super::refused(
            "sixteen memories",
            core_with(&format!("{MEMORY} {}", "(memory 1)".repeat(15)), "(i64.const 0)"),
            "memor",
        ),
        super::refused(
            "four gigabytes at least",
            core_with("(memory (export \"memory\") 65536)", "(i64.const 0)"),
            "4294967296",
        ),
        super::refused(
            "a table of ten million",
            core_with(&format!("{MEMORY} (table 10000000 funcref)"), "(i64.const 0)"),
            "",
        ),
        super::refused(
            "eight memories of 8 MB",
            core_with(
                &format!("(memory (export \"memory\") 128) {}", "(memory 128)".repeat(7)),
                "(i64.const 0)",
            ),
            "67108864",
        ),
        super::refused(
            "a 64-bit memory",
            core_with("(memory (export \"memory\") i64 1)", "(i64.const 0)"),
            "memory64",
        ),
        super::refused(
            "a shared memory",
            core_with("(memory (export \"memory\") 1 1 shared)", "(i64.const 0)"),
            "threads",
        ),
    ]
}

fn traps() -> Vec<Case> {
    let many = "i64 ".repeat(1_000);
    let args = "(local.get 0)".repeat(1_000);
    let with = |definitions: &str, body: &str| {
        core_with(&format!("{MEMORY} {definitions}"), &format!("{body} (i64.const 0)"))
    };
    vec![
        trap("unreachable", core("unreachable"), "unreachable"),
        trap("division by zero", core("(drop (i32.div_u (i32.const 1) (i32.const 0))) (i64.const 0)"), "divide by zero"),
        trap("integer overflow", core("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1))) (i64.const 0)"), "overflow"),
        trap("not a number", core("(drop (i32.trunc_f32_s (f32.const nan))) (i64.const 0)"), "conversion to integer"),
        trap("too large a number", core("(drop (i32.trunc_f64_s (f64.const 1e300))) (i64.const 0)"), "overflow"),
        trap("read out of bounds", core("(drop (i32.load (i32.const -4))) (i64.const 0)"), "out of bounds"),
        trap("write out of bounds", core("(i64.store offset=4294967295 (i32.const -1) (i64.const 1)) (i64.const 0)"), "out of bounds"),
        trap("bulk out of bounds", core("(memory.fill (i32.const 1) (i32.const 1) (i32.const -1)) (i64.const 0)"), "out of bounds"),
        trap("a dropped segment", with("(data $d \"abc\")", "(data.drop $d) (memory.init $d (i32.const 0) (i32.const 0)
           (i32.const 3))"), "out of bounds"),
        trap("table out of bounds", with("(table $t 1 funcref)", "(drop (table.get $t (i32.const 7)))"), "out of bounds"),
        trap("an empty element", with("(table 1 funcref)", "(call_indirect (i32.const 0))"), "uninitialized element"),
        trap("another signature", with("(table 1 funcref) (func $f (param i64)) (elem (i32.const 0) $f)", "(call_indirect
           (i32.const 0))"), "type mismatch"),
        trap("call out of bounds", with("(table 1 funcref)", "(call_indirect (i32.const 99))"), "out of bounds"),
        trap("recursion", with("(func $r (call $r))", "(call $r)"), "call stack exhausted"),
        trap("recursion with a result", with("(func $r (param i64) (result i64) (i64.add (call $r (local.get 0)) (i64.const 1)))", "(drop
           (call $r (i64.const 1)))"), ""),
        trap("recursion with a thousand parameters", with(
            &format!("(func $r (param {many}) (call $r {args}))"),
            &format!("(call $r {})", "(i64.const 1)".repeat(1_000))), "call stack exhausted"),
        trap("mutual recursion by a table", with("(table 1 funcref) (func $r (call_indirect (i32.const 0))) (elem
           (i32.const 0) $r)", "(call $r)"), "call stack exhausted"),
        trap("a start function that traps", with("(func $s unreachable) (start $s)", ""), "unreachable"),
        trap("a segment that does not fit", with("(data (i32.const 65530) \"0123456789\")", ""), "out of bounds"),
        trap("an element segment that does not fit", with("(table 1 funcref) (func $f) (elem (i32.const 5) $f $f)", ""), "out of bounds"),
        trap("_initialize that traps", with("(func (export \"_initialize\") unreachable)", ""), "unreachable"),
        trap("exit of a command", "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $e (param i32)))
            (memory (export \"memory\") 1) (func (export \"_start\") (call $e (i32.const 7))))", "exit status 7"),
        trap("exit of a handler", "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $e (param i32)))
            (memory (export \"memory\") 1)
            (func (export \"wambda_alloc\") (param i32) (result i32) (i32.const 0))
            (func (export \"wambda_handle\") (param i32 i32) (result i64) (call $e (i32.const 0)) (i64.const 0)))", "without providing a reason"),
    ]
}

/// Results that are not where they are said to be, and pointers that are none.
fn answers() -> Vec<Case> {
    let write = |definitions: &str, call: &str| {
        format!(
        "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func $w (param i32 i32 i32 i32) (result i32)))
         {definitions} (memory (export \"memory\") 1)
         (func (export \"wambda_alloc\") (param i32) (result i32) (i32.const 1024))
         (func (export \"wambda_handle\") (param i32 i32) (result i64) {call}))"
    )
    };
    vec![
        trap(
            "a result out of bounds",
            core("(i64.const 0x7fff_ffff_0000_0010)"),
            "beyond its memory",
        ),
        trap(
            "a result that ends out of bounds",
            core("(i64.const 0x0000_fff0_0000_0011)"),
            "beyond its memory",
        ),
        trap(
            "a result at the end of the address space",
            core("(i64.const 0xffff_ffff_0000_0001)"),
            "beyond its memory",
        ),
        Case {
            error: TOO_LARGE,
            ..trap(
                "a result of two gigabytes",
                core("(i64.const 0x0000_0000_7fff_ffff)"),
                "6291556",
            )
        },
        Case {
            error: TOO_LARGE,
            ..trap(
                "an error of two gigabytes",
                core("(i64.const 0x0000_0000_ffff_ffff)"),
                "6291556",
            )
        },
        Case {
            error: "Error",
            ..trap(
                "an error that is not text",
                core_with(
                    &format!("{MEMORY} (data (i32.const 0) \"\\ff\\fe\\80\")"),
                    "(i64.const 0x0000_0000_8000_0003)",
                ),
                "\u{fffd}",
            )
        },
        trap("alloc out of bounds", alloc("(i32.const -1)", "(i64.const 0)"), "out of bounds"),
        trap("alloc at the very end", alloc("(i32.const 65536)", "(i64.const 0)"), "out of bounds"),
        trap("alloc that traps", alloc("unreachable", "(i64.const 0)"), "unreachable"),
        well(
            "a result that overlaps its event",
            alloc("(i32.const 0)", "(i64.const 0x0000_0000_0000_0001)"),
            "x",
        ),
        well("alloc that answers with the same place", alloc("(i32.const 0)", "(i64.const 0)"), ""),
        trap(
            "pointers of fd_write out of bounds",
            write(
                "",
                "(drop (call $w (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 0))) (i64.const 0)",
            ),
            "out of bounds",
        ),
        trap(
            "a list of fd_write that is too long",
            write(
                "",
                "(drop (call $w (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 0))) unreachable",
            ),
            "",
        ),
        well(
            "fd_write to what is not open",
            write(
                "",
                "(drop (call $w (i32.const 99) (i32.const 0) (i32.const 1) (i32.const 8))) (i64.const 0)",
            ),
            "",
        ),
        Case { error: TRAPPED, ..trap("a trap, binary", wat(&core("unreachable")), "unreachable") }
            .with(FAST),
    ]
}
