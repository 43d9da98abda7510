//! Uploads that are no function, or pretend to be one. What costs the compiler dearly is in [`super::bombs`].

use std::io::Write;

use wambda_tests::{guest, wat};

use super::{Case, refused};
use crate::wats::{self, core_with};

const MEMORY: &str = "(memory (export \"memory\") 1)";

fn module(definitions: &str) -> String {
    core_with(&format!("{MEMORY} {definitions}"), "(i64.const 0)")
}

pub(super) fn random(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

pub(super) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub(super) fn cases() -> Vec<Case> {
    [shapes(), features(), compiled(), zips(), forged()].into_iter().flatten().collect()
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

/// Features of WebAssembly that guests do not get.
fn features() -> Vec<Case> {
    vec![
        refused(
            "pages of one byte",
            core_with("(memory (export \"memory\") 1 (pagesize 1))", "(i64.const 0)"),
            "custom page sizes",
        ),
        refused("exceptions", module("(tag $t) (func (throw $t))"), "exceptions"),
        refused("types of the collector", module("(type (struct (field i32)))"), "gc"),
        refused("an array of the collector", module("(type (array i8))"), "gc"),
        refused("a small number by reference", module("(func (param i31ref))"), ""),
        refused(
            "stack switching",
            module("(type $f (func)) (type $c (cont $f))"),
            "stack switching",
        ),
        refused("a table of 64 bits", module("(table i64 1 funcref)"), "memory64"),
        refused(
            "wide arithmetic",
            module(
                "(func (drop (drop (i64.add128 (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0)))))",
            ),
            "",
        ),
    ]
}

/// Code that is compiled already: what the server's own compiler made is refused by name, and so is what only
/// looks like it.
fn compiled() -> Vec<Case> {
    const NAMED: &str = "precompiled";
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.wasm"), dir.path().join("out.cwasm"));
    let compile = |engine: &str, wasm: &[u8]| {
        std::fs::write(&from, wasm).unwrap();
        let mut command = std::process::Command::new(wambda_tests::program());
        let output = command.args(["compile", "--engine", engine]).args([&from, &to]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::read(&to).unwrap()
    };
    let module = compile("main", &wat(&wats::echo()));
    let component = compile("main", &guest("proxy"));
    let mut forged = module.clone();
    let end = forged.len();
    forged[end - end / 4..].fill(0xcc);
    vec![
        refused("a compiled module", module.clone(), NAMED),
        refused("a compiled component", component, NAMED),
        refused(
            "a compiled module for the other engine",
            compile("wasi03", &wat(&wats::echo())),
            NAMED,
        ),
        refused("a compiled module that is damaged", forged, "ELF"),
        refused("a compiled module in a zip", zip(&[("f.wasm", &module)]), ""),
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

/// Zips that no honest program writes.
fn forged() -> Vec<Case> {
    let module = wat(&wats::echo());
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut link = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    link.add_symlink("f.wasm", "/etc/passwd", stored).unwrap();
    let link = link.finish().unwrap().into_inner();
    let mut linked = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    linked.add_symlink("lib", "../..", stored).unwrap();
    linked.start_file("lib/f.wasm", stored).unwrap();
    linked.write_all(&module).unwrap();
    let linked = linked.finish().unwrap().into_inner();
    let twice = zip(&[("a.wasm", &module), ("b.wasm", &module)]);
    let twice = replaced(&twice, b"b.wasm", b"a.wasm");
    vec![
        refused("an encrypted zip", encrypted(&zip(&[("f.wasm", &module)])), "encrypted"),
        refused("a zip with a link", link, "link"),
        refused("a zip with a link to climb by", linked, "link"),
        refused("a zip with a name twice", twice, "two entries of one name"),
        refused(
            "a zip with a name of another case twice",
            replaced(&zip(&[("a.wasm", &module), ("b.wasm", &module)]), b"b.wasm", b"A.wasm"),
            "",
        ),
        refused(
            "a zip that climbs in another machine's words",
            zip(&[(r"..\..\f.wasm", &module)]),
            "",
        ),
    ]
}

/// Says of every entry that it is encrypted: in front of it, and in the directory.
pub(super) fn encrypted(zip: &[u8]) -> Vec<u8> {
    let mut zip = zip.to_vec();
    for (signature, flags) in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)] {
        let at = zip.windows(4).position(|four| four == signature).unwrap();
        zip[at + flags] |= 1;
    }
    zip
}

/// The same with each `from` a `to` of the same length.
pub(super) fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(from.len()).position(|part| part == from) {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}
