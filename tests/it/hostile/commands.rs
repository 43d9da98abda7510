//! Core modules that abuse WASI preview 1: polls, randomness, and descriptors that are none.

use super::{CUT, Case, timeout, trap, well};

/// What they import; [`super::layers`] takes the same.
pub(super) const IMPORTS: &[(&str, &str)] = &[
    ("args_get", "i32 i32"),
    ("clock_res_get", "i32 i32"),
    ("clock_time_get", "i32 i64 i32"),
    ("environ_get", "i32 i32"),
    ("fd_advise", "i32 i64 i64 i32"),
    ("fd_allocate", "i32 i64 i64"),
    ("fd_close", "i32"),
    ("fd_fdstat_get", "i32 i32"),
    ("fd_filestat_set_size", "i32 i64"),
    ("fd_pread", "i32 i32 i32 i64 i32"),
    ("fd_prestat_dir_name", "i32 i32 i32"),
    ("fd_pwrite", "i32 i32 i32 i64 i32"),
    ("fd_read", "i32 i32 i32 i32"),
    ("fd_readdir", "i32 i32 i32 i64 i32"),
    ("fd_renumber", "i32 i32"),
    ("fd_seek", "i32 i64 i32 i32"),
    ("fd_write", "i32 i32 i32 i32"),
    ("path_create_directory", "i32 i32 i32"),
    ("path_link", "i32 i32 i32 i32 i32 i32 i32"),
    ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
    ("path_readlink", "i32 i32 i32 i32 i32 i32"),
    ("path_rename", "i32 i32 i32 i32 i32 i32"),
    ("path_symlink", "i32 i32 i32 i32 i32"),
    ("path_unlink_file", "i32 i32 i32"),
    ("poll_oneoff", "i32 i32 i32 i32"),
    ("random_get", "i32 i32"),
    ("sock_accept", "i32 i32 i32"),
];

/// A core module with these pages of memory and this body, which answers with `$say` and a number: `=8;`. Paths that
/// it opens are at 512.
pub(super) fn module(pages: u32, data: &str, body: &str) -> String {
    let used = IMPORTS.iter().filter(|(name, _)| body.contains(&format!("(call ${name} ")));
    let imports: String = used
        .map(|(name, params)| {
            format!(
                "(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param {params}) (result i32)))"
            )
        })
        .collect();
    format!(
        "(module {imports} (memory (export \"memory\") {pages}) (data (i32.const 512) \"{data}\")
          (func $say (param $n i32) (result i64) (local $at i32)
            (local.set $at (i32.const 940)) (i32.store8 (i32.const 940) (i32.const 59))
            (loop $l
              (local.set $at (i32.sub (local.get $at) (i32.const 1)))
              (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
              (br_if $l (local.tee $n (i32.div_u (local.get $n) (i32.const 10)))))
            (i32.store8 (local.tee $at (i32.sub (local.get $at) (i32.const 1))) (i32.const 61))
            (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
              (i64.extend_i32_u (i32.sub (i32.const 941) (local.get $at)))))
          (func (export \"wambda_alloc\") (param i32) (result i32) (i32.const 4096))
          (func (export \"wambda_handle\") (param $at i32) (param $len i32) (result i64)
            (local $n i32) (local $m i32) {body}))"
    )
}

/// What one call says.
fn says(name: &str, call: &str, says: &'static str) -> Case {
    well(name, module(16, "", &format!("(call $say {call})")), says)
}

/// The numbers of preview 1's errors.
const BAD_DESCRIPTOR: &str = "=8;";
const INVALID: &str = "=28;";
/// What one call would copy is more than the host copies.
const NO_ROOM: &str = "=48;";

pub(super) fn cases() -> Vec<Case> {
    [polls(), randomness(), floods(), descriptors(), pointers()].into_iter().flatten().collect()
}

/// Subscriptions are 48 bytes, from 65536 on: zeroes, which are timers that are over.
fn polls() -> Vec<Case> {
    let poll = |count: &str| {
        format!(
            "(call $poll_oneoff (i32.const 65536) (i32.const 524288) (i32.const {count}) (i32.const 16))"
        )
    };
    let far =
        "(i64.store (i32.const 65560) (i64.const -1)) (i32.store (i32.const 65552) (i32.const 1))";
    let for_ever =
        |body: String| module(16, "", &format!("(loop $l {body} (br $l)) (i64.const 0)"));
    vec![
        says("polling nothing", &poll("0"), INVALID),
        says("polling eight hundred timers", &poll("800"), "=0;"),
        says("polling nine thousand timers", &poll("9000"), "=0;"),
        says("polling more than there is memory for", &poll("1000000"), NO_ROOM),
        says("polling four billion timers", &poll("-1"), NO_ROOM),
        timeout("polling for ever", for_ever(format!("(drop {})", poll("800")))),
        timeout("polling until the end of time", for_ever(format!("{far} (drop {})", poll("1")))),
        says(
            "polling a descriptor that is none",
            "(block (result i32) (i32.store8 (i32.const 65544) (i32.const 1)) (i32.store (i32.const 65552) (i32.const 99))
               (call $poll_oneoff (i32.const 65536) (i32.const 524288) (i32.const 1) (i32.const 16)))",
            "",
        ),
    ]
}

fn randomness() -> Vec<Case> {
    let random = |at: &str, length: &str| {
        format!("(call $random_get (i32.const {at}) (i32.const {length}))")
    };
    let large = |body: String| module(16_383, "", &body);
    let config = "memory=1024&timeout=0.1&reuse=fresh";
    vec![
        says("a little randomness", &random("65536", "65536"), "=0;"),
        trap(
            "randomness beyond its memory",
            module(16, "", &format!("(call $say {})", random("0", "0x40000000"))),
            "",
        ),
        timeout(
            "randomness for ever in preview 1",
            module(
                16,
                "",
                &format!("(loop $l (drop {}) (br $l)) (i64.const 0)", random("65536", "65536")),
            ),
        ),
        trap(
            "a gigabyte of randomness in preview 1",
            large(format!("(call $say {})", random("0", "0x3fff0000"))),
            "exceeds limit 65536",
        )
        .with(config),
    ]
}

/// Writes that never end, of this many bytes each.
fn floods() -> Vec<Case> {
    let flood = |bytes: u32| {
        let write =
            "(drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))";
        let buffer = format!(
            "(i32.store (i32.const 8) (i32.const 65536)) (i32.store (i32.const 12) (i32.const {bytes}))
             (memory.fill (i32.const 65536) (i32.const 120) (i32.const {bytes}))"
        );
        module(64, "", &format!("{buffer} (loop $l {write} (br $l)) (i64.const 0)"))
    };
    vec![
        timeout("printing byte by byte for ever", flood(1)),
        timeout("printing nothing for ever", flood(0)),
        timeout("printing megabytes for ever", flood(1 << 20)).logging(CUT),
    ]
}

/// Calls on descriptors that nobody has, or that are something else.
fn descriptors() -> Vec<Case> {
    let all = [
        ("fd_read", "(i32.const 8) (i32.const 1) (i32.const 16)"),
        ("fd_pread", "(i32.const 8) (i32.const 1) (i64.const -1) (i32.const 16)"),
        ("fd_write", "(i32.const 8) (i32.const 1) (i32.const 16)"),
        ("fd_pwrite", "(i32.const 8) (i32.const 1) (i64.const -1) (i32.const 16)"),
        ("fd_readdir", "(i32.const 65536) (i32.const 65536) (i64.const 0) (i32.const 16)"),
        ("fd_seek", "(i64.const -1) (i32.const 2) (i32.const 16)"),
        ("fd_filestat_set_size", "(i64.const -1)"),
        ("fd_allocate", "(i64.const 0) (i64.const -1)"),
        ("fd_advise", "(i64.const 0) (i64.const -1) (i32.const 0)"),
        ("fd_prestat_dir_name", "(i32.const 65536) (i32.const -1)"),
        ("fd_renumber", "(i32.const 1)"),
        ("sock_accept", "(i32.const 0) (i32.const 16)"),
    ];
    let mut cases: Vec<Case> = all
        .iter()
        .filter(|(call, _)| *call != "sock_accept")
        .map(|(call, rest)| {
            let called = format!("(call ${call} (i32.const 99) {rest})");
            says(&format!("{call} of what is not open"), &called, BAD_DESCRIPTOR)
        })
        .collect();
    // Every one of them on every one of the first hundred numbers, and on the last: whatever is said, none ends the call.
    let each: String = all
        .iter()
        .map(|(call, rest)| {
            format!(
                "(local.set $n (i32.const -3)) (loop $l
                   (if (i32.eqz (call ${call} (local.get $n) {rest})) (then (local.set $m (i32.add (local.get $m) (i32.const 1)))))
                   (br_if $l (i32.ne (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100))))"
            )
        })
        .collect();
    let each = format!("{each} (call $say (local.get $m))");
    cases.push(well("every call on every descriptor", module(16, "", &each), "="));
    let closed = "(drop (call $fd_close (i32.const 0))) (drop (call $fd_close (i32.const 1)))
        (drop (call $fd_close (i32.const 2))) (call $say (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))";
    cases.push(well("writing to what it closed", module(1, "", closed), BAD_DESCRIPTOR));
    let open = |path: &str| {
        format!("(call $say (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const {}) (i32.const 0)
            (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 16)))", path.len())
    };
    for path in ["/etc/passwd", "../etc/passwd", "."] {
        cases.push(well(
            &format!("opening {path} without a directory"),
            module(1, path, &open(path)),
            BAD_DESCRIPTOR,
        ));
    }
    cases
}

/// Results that are to be written where no memory is.
fn pointers() -> Vec<Case> {
    let all = [
        ("args_get", "(i32.const -4) (i32.const -4)"),
        ("environ_get", "(i32.const -4) (i32.const -4)"),
        ("clock_time_get", "(i32.const 0) (i64.const 0) (i32.const -4)"),
        ("clock_res_get", "(i32.const 0) (i32.const -4)"),
        ("fd_fdstat_get", "(i32.const 1) (i32.const -4)"),
        ("fd_read", "(i32.const 0) (i32.const -8) (i32.const 1) (i32.const 16)"),
    ];
    let case = |(at, (call, rest)): (usize, &(&str, &str))| {
        let call_it = module(1, "", &format!("(call $say (call ${call} {rest}))"));
        trap(&format!("{call} out of bounds {at}"), call_it, "out of bounds")
    };
    let mut cases: Vec<Case> = all.iter().enumerate().map(case).collect();
    for (call, rest) in [
        ("fd_read", "(i32.const 0) (i32.const 8) (i32.const -1) (i32.const 16)"),
        ("fd_write", "(i32.const 1) (i32.const 8) (i32.const 0x10000000) (i32.const 16)"),
    ] {
        let called = format!("(call ${call} {rest})");
        cases.push(says(&format!("too many buffers for {call}"), &called, NO_ROOM));
    }
    cases
}
