//! Guests with a layer: files that are read whole, opened by the thousand, listed by the hundred, and left
//! through; and layers that are none.

use std::io::Write;
use std::time::Duration;

use wambda_tests::{Server, guest};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::stage::Stage;
use super::uploads::{encrypted, random, replaced, zip};
use super::wire::Wire::{self, Failed, Whole};
use super::{Case, Do, commands, no_layer, timeout, trap, well};
use crate::wats;

/// Files of the layer besides `big` and `small`: as many as there may be, with the longest names that there may be. Some of
/// them are in `dir`: preview 1 looks at each file when it lists a directory.
const NAMES: usize = 9_997;
const NAMES_IN_DIR: usize = 200;
/// Bytes of `big`.
const BIG: usize = 8 << 20;

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored)
}

fn layer() -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for n in 0..NAMES {
        let dir = if n < NAMES_IN_DIR { "dir/" } else { "" };
        zip.start_file(format!("{dir}{n:05}{}", "x".repeat(245)), stored()).unwrap();
    }
    for (name, bytes) in [("big", vec![b'b'; BIG]), ("small", b"small".to_vec())] {
        zip.start_file(name, stored()).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A stage whose guest has that layer, whatever its code is.
pub(super) fn stage() -> Stage {
    let stage = Stage::new(&["--wasi03"]);
    let server = &stage.server;
    server.publish_layer("files", &layer()).expect(201);
    server.deploy("holder", wats::echo().as_bytes(), "");
    for function in ["guest", "holder"] {
        let arn = "arn:aws:lambda:us-east-1:000000000000:layer:files:1";
        server.set_layers(function, &[arn]);
    }
    // The files are there for as long as anybody sees them: not to unpack ten thousand of them for each case.
    server.deploy("holder", wats::echo().as_bytes(), "provisioned=1");
    server.deploy("guest", &guest("hostile"), "memory=32&timeout=20");
    server.invoke("guest", r#"{"do":"files","act":"list-whole"}"#).expect(200);
    server.invoke("guest", r#"{"do":"files","act":"read-often","n":100}"#).expect(200);
    // A body as large as the largest here.
    server.publish_layer("hostile", &vec![0; 4 << 20]).expect(400);
    server.deploy("guest", wats::echo().as_bytes(), "memory=32");
    stage.settled().tight()
}

pub(super) fn cases() -> Vec<Case> {
    [files(), concurrent(), zips(), preview_1()].into_iter().flatten().collect()
}

fn act(case: impl Fn(&str, Vec<u8>) -> Case, act: &str, n: u64) -> Case {
    let event = format!(r#"{{"do":"files","act":"{act}","n":{n}}}"#);
    case(&format!("files: {act} {n}"), guest("hostile")).event(&event)
}

/// By components.
fn files() -> Vec<Case> {
    let says = |says: &'static str| {
        move |name: &str, upload: Vec<u8>| well(name, upload, says).within(5_000)
    };
    let any = says("");
    let traps = |name: &str, upload: Vec<u8>| trap(name, upload, "resource table").within(5_000);
    let late = |name: &str, upload: Vec<u8>| timeout(name, upload).within(600);
    vec![
        act(says("5"), "read", 5),
        act(any, "read", u64::MAX),
        act(any, "read-often", 1_000),
        act(says("[false,"), "read-beyond", 0),
        act(any, "stream-read", u64::MAX),
        act(any, "stream-skip", 0),
        act(any, "stream-splice", 0),
        act(says("9800"), "list-whole", 0),
        act(any, "list", 300),
        act(any, "list", 100_000),
        act(late, "list-forever", 0).within(1_500),
        act(late, "stat-forever", 0),
        act(late, "open-forever", 0),
        act(any, "open", 50),
        act(traps, "open", 100_000),
        act(traps, "streams", 100_000),
        act(says("[]"), "change", 0),
        event(says("small"), "read what is there", r#"{"do":"read","path":"/opt/small"}"#),
        event(
            says("error"),
            "climb out of a layer",
            r#"{"do":"read","path":"/opt/../etc/passwd"}"#,
        ),
        event(
            says("error"),
            "climb far out",
            r#"{"do":"read","path":"/opt/../../../../etc/passwd"}"#,
        ),
        event(says("error"), "a layer is not the root", r#"{"do":"read","path":"/etc/passwd"}"#),
        event(
            says("error"),
            "another process",
            r#"{"do":"read","path":"/opt/../proc/self/environ"}"#,
        ),
        event(says("error"), "write into a layer", r#"{"do":"write","path":"/opt/x"}"#),
        event(says("error"), "write over a file", r#"{"do":"write","path":"/opt/small"}"#),
    ]
}

fn event(case: impl Fn(&str, Vec<u8>) -> Case, name: &str, order: &str) -> Case {
    case(name, guest("event")).event(order)
}

/// By components of WASI 0.3. Where there is a bound, it may trap, be told, or wait until its time is over.
fn concurrent() -> Vec<Case> {
    let ask = |path: &'static str, allowed: &'static [Wire], says: &'static str| {
        let case = trap(&format!("0.3 {path}"), guest("http3"), says).within(2_500);
        Case { action: Do::Wire(path, allowed), ..case }.with("timeout=2")
    };
    let any = &[Whole, Failed];
    vec![
        ask("/abuse/files-out?1", &[Whole], "0 of 1"),
        ask("/abuse/files-read?20", &[Whole], "20 of 20"),
        ask("/abuse/files-open?50", &[Whole], "50 of 50"),
        ask("/abuse/files-open?100000", any, ""),
        ask("/abuse/files-list?2", &[Failed], ""),
        ask("/abuse/files-list?1000", any, ""),
        ask("/abuse/files-stream?2", &[Whole], "2 of 2"),
        ask("/abuse/files-stream?1000", any, ""),
    ]
}

/// A core module that opens `path`, by number 3, into `$n`, then does this, and answers with `$m`.
fn opens(path: &str, body: &str) -> String {
    let open = format!(
        "(drop (call $path_open (i32.const 3) (i32.const 1) (i32.const 512) (i32.const {}) (i32.const 0)
           (i64.const 0x6026) (i64.const 0x6026) (i32.const 0) (i32.const 16)))
         (local.set $n (i32.load (i32.const 16)))",
        path.len()
    );
    commands::module(256, path, &format!("{open} {body} (call $say (local.get $m))"))
}

/// Does this so many times; `$m` is how often it went well.
fn times(count: u32, call: &str) -> String {
    format!(
        "(i64.store (i32.const 40) (i64.const 0))
         (loop $l
           (if (i32.eqz {call}) (then (local.set $m (i32.add (local.get $m) (i32.const 1)))))
           (i32.store (i32.const 40) (i32.add (i32.load (i32.const 40)) (i32.const 1)))
           (br_if $l (i32.lt_u (i32.load (i32.const 40)) (i32.const {count}))))"
    )
}

/// By core modules. A buffer of nearly all memory is at 8, and eight thousand of them from 65536 on.
fn preview_1() -> Vec<Case> {
    let whole = "(i32.store (i32.const 8) (i32.const 131072)) (i32.store (i32.const 12) (i32.const 16000000))";
    let many = "(local.set $m (i32.const 65536)) (loop $f
          (i32.store (local.get $m) (i32.const 131072)) (i32.store offset=4 (local.get $m) (i32.const 16000000))
          (br_if $f (i32.lt_u (local.tee $m (i32.add (local.get $m) (i32.const 8))) (i32.const 131000))))
          (local.set $m (i32.const 0))";
    let does = |name: &str, path: &str, body: String, says: &'static str| {
        well(&format!("preview 1: {name}"), opens(path, &body), says).within(6_000)
    };
    let from_start =
        "(drop (call $fd_seek (local.get $n) (i64.const 0) (i32.const 0) (i32.const 16)))";
    let read = "(call $fd_read (local.get $n) (i32.const 8) (i32.const 1) (i32.const 16))";
    let read_many =
        "(call $fd_read (local.get $n) (i32.const 65536) (i32.const 8000) (i32.const 16))";
    let pread = |offset: &str| {
        format!(
            "(call $fd_pread (local.get $n) (i32.const 8) (i32.const 1) (i64.const {offset}) (i32.const 16))"
        )
    };
    let list = |room: u32| {
        format!(
            "(call $fd_readdir (local.get $n) (i32.const 131072) (i32.const {room}) (i64.load (i32.const 24)) (i32.const 16))"
        )
    };
    let again =
        "(call $path_open (i32.const 3) (i32.const 1) (i32.const 512) (i32.const 3) (i32.const 0)
        (i64.const 0x6026) (i64.const 0) (i32.const 0) (i32.const 16))";
    let piece =
        "(i32.store (i32.const 8) (i32.const 131072)) (i32.store (i32.const 12) (i32.const 65536))";
    let reads = |setup: &str, count: u32, call: &str| format!("{setup} {}", times(count, call));
    let again_and_read = format!("(block (result i32) {from_start} {read})");
    let open_until = format!("(loop $l (br_if $l (i32.eqz (local.tee $m {again}))))");
    let for_ever =
        |path: &str, call: &str| opens(path, &format!("(loop $l (drop {call}) (br $l))"));
    let late =
        |name: &str, upload: String| timeout(&format!("preview 1: {name}"), upload).within(1_500);
    let mut cases = vec![
        does("one read into all memory", "big", reads(whole, 1, read), "="),
        does("two hundred reads into all memory", "big", reads(whole, 200, &again_and_read), "="),
        does("eight thousand buffers of all memory", "big", reads(many, 1, read_many), "="),
        does("two hundred reads", "big", reads(piece, 200, &again_and_read), "=200;"),
        does("a hundred reads in the middle", "big", reads(piece, 100, &pread("4000000")), "=100;"),
        does("a read beyond the end", "big", reads(whole, 1, &pread("0x7fffffffffffffff")), "="),
        does("a read at no place", "big", reads(whole, 1, &pread("-1")), "="),
        does("a read of a directory", ".", reads(piece, 10, read), "=0;"),
        does("a listing of a file", "big", times(10, &list(65_536)), "=0;"),
        does("a listing without room", "dir", times(2, &list(0)), "=").with("timeout=10"),
        does("listings that begin again", "dir", times(2, &list(4_000)), "=2;").with("timeout=10"),
        does("listings into all memory", "dir", times(2, &list(16_000_000)), "=")
            .with("timeout=10"),
        late("reads for ever", for_ever("big", &again_and_read)),
        late("listings for ever", for_ever(".", &list(4_000))),
        late("opening what is not there for ever", for_ever("non", again)),
        does("forty files open", "big", times(40, again), "=40;"),
    ];
    for path in ["../etc/passwd", "/etc/passwd", "../../../../etc/passwd", "x/../../etc/passwd"] {
        let n = path.len();
        let open = format!(
            "(call $path_open (i32.const 3) (i32.const 1) (i32.const 512) (i32.const {n}) (i32.const 0) (i64.const 2)
               (i64.const 2) (i32.const 0) (i32.const 16))"
        );
        cases.push(does(&format!("{path} is not opened"), path, times(1, &open), "=0;"));
        let link = format!(
            "(call $path_symlink (i32.const 512) (i32.const {n}) (i32.const 3) (i32.const 513) (i32.const 2))"
        );
        cases.push(does(&format!("{path} is not linked to"), path, times(1, &link), "=0;"));
    }
    // How many there were by then, the stage looks at.
    let name = "preview 1: as many files open as there may be";
    let until = trap(name, opens("big", &open_until), "resource table").within(6_000);
    cases.push(until.with("timeout=10"));
    cases
}

/// Zips that are no layers.
fn zips() -> Vec<Case> {
    let linked = |name: &str, target: &str| {
        let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
        zip.add_symlink(name, target, stored()).unwrap();
        zip.start_file("lib/data", stored()).unwrap();
        zip.finish().unwrap().into_inner()
    };
    let out = "is a link or leaves the archive";
    let names: Vec<String> = (0..10_001).map(|n| n.to_string()).collect();
    let names: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b""[..])).collect();
    let deep = format!("{}x", "d/".repeat(40));
    let spread: Vec<String> = (0..1_000).map(|n| format!("{n}/{}x", "d/".repeat(12))).collect();
    let spread: Vec<(&str, &[u8])> = spread.iter().map(|name| (&**name, &b""[..])).collect();
    let plain = zip(&[("lib/data", b"data")]);
    let twice = replaced(&zip(&[("first", b"x"), ("other", b"y")]), b"other", b"first");
    vec![
        no_layer("a layer with a link", linked("passwd", "/etc/passwd"), out),
        no_layer("a layer with a link to climb by", linked("lib", "../.."), out),
        no_layer("a layer with a file without a name", zip(&[(".", b"x")]), "names no file"),
        no_layer("a layer that climbs", zip(&[("../../x", b"x")]), out),
        no_layer("a layer with an absolute path", zip(&[("/etc/x", b"x")]), out),
        no_layer("an encrypted layer", encrypted(&plain), "decrypt"),
        no_layer("a layer of too many files", zip(&names), "10000 files"),
        no_layer("a layer of too many directories", zip(&spread), "10000 directories"),
        no_layer("a layer that is too deep", zip(&[(&deep, b"x")]), "32 parts"),
        no_layer(
            "a layer with a name that is too long",
            zip(&[(&"x".repeat(2_000), b"x")]),
            "1024 bytes",
        ),
        no_layer("a layer that is a bomb", zip(&[("x", &vec![0; 40 << 20])]), "inflates beyond"),
        no_layer("a layer with a name twice", twice, "two entries of one name"),
        no_layer(
            "a file that is a directory",
            zip(&[("a", b"x"), ("a/b", b"y")]),
            "is a file in the layer, and a directory",
        ),
        no_layer("half a layer", &plain[..plain.len() / 2], ""),
        no_layer("a layer of random bytes", random(100_000), ""),
        Case { action: Do::Layer, ..no_layer("a layer that is no zip", wats::echo(), "") },
    ]
}

/// A guest that begins more listings than the host has threads for, and reads none to its end: whoever else reads
/// files waits for none of them.
#[test]
fn listings_that_nobody_reads_hold_up_no_other_files() {
    let server = Server::with(&["--wasi03"]);
    server.publish_layer("files", &layer()).expect(201);
    for (name, upload) in [("lister", guest("http3")), ("reader", guest("event"))] {
        server.deploy(name, &upload, "memory=64&timeout=6");
        server.set_layers(name, &["arn:aws:lambda:us-east-1:000000000000:layer:files:1"]);
    }
    server.get("/fn/lister/abuse/files-out?1").expect(200);
    let read = || server.invoke("reader", r#"{"do":"read","path":"/opt/small"}"#).expect(200);
    read();
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        let lister = scope.spawn(|| server.get("/fn/lister/abuse/files-list?1000").status);
        std::thread::sleep(Duration::from_millis(1_500));
        while !lister.is_finished() || took.len() < 20 {
            took.push(read().took);
        }
        lister.join().unwrap();
    });
    let slowest = took.iter().max().unwrap();
    assert!(*slowest < Duration::from_millis(500), "a file was waited for {slowest:?}");
    server.assert_well();
}
