//! Uploads that are no function, pretend to be one, or cost the compiler dearly.

use std::io::Write;

use wambda_tests::{guest, wat};

use super::{Case, refused};
use crate::wats::{self, core_with};

const MEMORY: &str = "(memory (export \"memory\") 1)";

fn random(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn bomb(definitions: &str) -> Vec<u8> {
    wat(&core_with(&format!("{MEMORY} {definitions}"), "(i64.const 0)"))
}

pub(super) fn cases() -> Vec<Case> {
    [shapes(), zips(), bombs()].into_iter().flatten().collect()
}

fn shapes() -> Vec<Case> {
    let good = guest("event");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 64].fill(0xff);
    let import = |module: &str, name: &str| {
        core_with(&format!("(import \"{module}\" \"{name}\" (func)) {MEMORY}"), "(i64.const 0)")
    };
    let elf = std::fs::read("/proc/self/exe").unwrap();
    vec![
        refused("nothing at all", "", ""),
        refused("one byte", "\0", ""),
        refused("only the magic number", &b"\0asm"[..], ""),
        refused("only the head of a module", &b"\0asm\x01\0\0\0"[..], "exports nothing"),
        refused("only the head of a component", &b"\0asm\x0d\0\x01\0"[..], ""),
        refused("a version that is none", &b"\0asm\xff\0\0\0"[..], ""),
        refused("half a component", &good[..middle], ""),
        refused("all but one byte", &good[..good.len() - 1], ""),
        refused("a component with a hole", flipped, ""),
        refused("random bytes", random(100_000), ""),
        refused("random bytes that begin well", [&b"\0asm\x01\0\0\0"[..], &random(100_000)].concat(), ""),
        refused("an ELF program", &elf[..1 << 20], ""),
        refused("a script", "#!/bin/sh\necho pwned\n", ""),
        refused("half of a text", "(module (func", ""),
        refused("a text that nests deeply", format!("(module {}", "(func ".repeat(50_000)), "").large(),
        Case { status: 413, ..refused("a text that is a bomb", format!("(module (memory 1) (data (i32.const 0) \"{}\"))", "x".repeat(1 << 20)), "1048576") },
        refused("an unknown import", import("env", "system"), "env"),
        refused("an unknown function of WASI", import("wasi_snapshot_preview1", "pwn"), "pwn"),
        refused("an import of the wrong type", import("wasi_snapshot_preview1", "fd_write"), "fd_write"),
        refused("an imported memory", core_with("(import \"env\" \"memory\" (memory 1)) (export \"memory\" (memory 0))", "(i64.const 0)"), "env"),
        refused("the wrong types", "(module (memory (export \"memory\") 1) (func (export \"wambda_alloc\") (param i64) (result i32) (i32.const 0))
            (func (export \"wambda_handle\") (param i32 i32) (result i64) (i64.const 0)))", "wambda_alloc"),
        refused("code that is not valid", "(module (memory (export \"memory\") 1) (func (export \"wambda_alloc\") (param i32) (result i32))
            (func (export \"wambda_handle\") (param i32 i32) (result i64) (i64.const 0)))", ""),
    ]
}

fn zips() -> Vec<Case> {
    let module = wat(&wats::echo());
    let zeroes = vec![0; 60 << 20];
    let many: Vec<String> = (0..1_100).map(|n| format!("f{n}")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let cut = zip(&[("f.wasm", &module)]);
    let entries: Vec<String> = (0..100_000).map(|n| format!("{n}")).collect();
    let entries: Vec<(&str, &[u8])> =
        entries.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let directory = zip(&entries);
    vec![
        refused("an empty zip", zip(&[]), ""),
        refused("a zip without wasm", zip(&[("readme.txt", b"hello")]), ""),
        refused("a zip with two modules", zip(&[("a.wasm", &module), ("b.wasm", &module)]), ""),
        refused("a zip bomb", zip(&[("f.wasm", &zeroes)]), "100").large(),
        refused("a zip with too many files", zip(&many), "1000"),
        refused("a zip of which the directory is most", directory, "got 100000"),
        refused("a zip that climbs", zip(&[("../../f.wasm", &module)]), "leaves the archive"),
        refused(
            "a zip with an absolute path",
            zip(&[("/etc/f.wasm", &module)]),
            "leaves the archive",
        ),
        refused("half a zip", &cut[..cut.len() / 2], ""),
        refused("a zip of random bytes", zip(&[("f.wasm", &random(10_000))]), ""),
    ]
}

/// Each of the shapes whose compiling costs much: refused before, or stopped by the child's limits.
fn bombs() -> Vec<Case> {
    let locals = "(local i64)".repeat(1_000);
    let loops = format!("{}{}", "(loop ".repeat(100), ")".repeat(100));
    let branches = "(if (local.get 0) (then (local.set 1 (i64.const 1))))".repeat(20_000);
    let long = "(drop (i32.const 1))".repeat(400_000);
    vec![
        refused("loops over locals", bomb(&format!("(func {locals} {loops})")), "1000 x 100"),
        refused(
            "branches over locals",
            bomb(&format!("(func (param i32) {locals} {branches})")),
            "branches",
        ),
        refused("one long function", bomb(&format!("(func {long})")), "1048576"),
        refused("two hundred thousand functions", bomb(&"(func)".repeat(200_001)), "200000"),
        refused(
            "fifty thousand locals and loops",
            bomb(&format!("(func (local {}) {loops})", "i64 ".repeat(49_000))),
            "",
        ),
    ]
}
