//! Responses that nobody reads: what they take in memory is counted, bounded, and given back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wambda_tests::{Server, eventually};

use crate::wats;

/// Bytes of a result, as large as one may be.
const RESULT: usize = 6 << 20;
/// What the server may have beside what it accounts for.
const BESIDE: u64 = 64 << 20;

/// Answers with so many bytes of nothing.
fn large() -> String {
    let memory = "(memory (export \"memory\") 97)";
    wats::core_with(memory, &format!("(i64.const {})", (65_536u64 << 32) | RESULT as u64))
        .replace(" 97)", " 98)")
}

fn ask(server: &Server, source: &str, request: &str) -> TcpStream {
    let mut stream = server.connect_from(source);
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn held(server: &Server) -> u64 {
    server.metric("wambda_held_bytes{kind=\"responses\"}") as u64
}

#[test]
fn responses_that_nobody_reads_are_bounded_and_the_slowest_readers_go() {
    unread("/v1/functions/large/invoke");
}

#[test]
fn results_in_streams_that_nobody_reads_are_bounded_as_well() {
    unread("/2021-11-15/functions/large/response-streaming-invocations");
}

fn unread(path: &str) {
    let arguments = ["--response-memory", "128", "--memory-budget", "1024"];
    let server = Server::with(&arguments);
    server.deploy("large", large().as_bytes(), "memory=8");
    server.deploy("small", wats::echo().as_bytes(), "");
    let invoke =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{{}}");
    assert_eq!(server.invoke("large", "{}").expect(200).body.len(), RESULT);
    let before = server.resident();
    let limit = server.metric("wambda_held_limit_bytes{kind=\"responses\"}") as u64;
    assert_eq!(limit, 128 << 20);
    let (mut most, mut streams) = (0, Vec::new());
    for n in 0..150 {
        // Two addresses: one alone has three quarters.
        let source = if n % 2 == 0 { "127.0.0.2" } else { "127.0.0.3" };
        streams.push(ask(&server, source, &invoke));
        most = most.max(server.resident());
    }
    eventually(Duration::from_secs(5), || (held(&server) >= limit / 2).then_some(()));
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(2) {
        most = most.max(server.resident());
        assert!(held(&server) <= limit, "{} are held", held(&server));
        std::thread::sleep(Duration::from_millis(50));
    }
    let guests = server.metric("wambda_memory_used_bytes") as u64;
    let accounted = before + limit + guests;
    assert!(most <= accounted + BESIDE, "{most} resident, {accounted} accounted for");
    // Others are answered, large ones too: the slowest make room.
    assert_eq!(server.invoke("small", "hi").expect(200).text(), "hi");
    let whole = eventually(Duration::from_secs(10), || {
        let mut stream =
            ask(&server, "127.0.0.4", &invoke.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        (answer.len() > RESULT).then_some(answer.len())
    });
    assert!(whole > RESULT);
    drop(streams);
    eventually(Duration::from_secs(10), || (held(&server) == 0).then_some(()));
    server.assert_well();
}

/// A memory cgroup of the test's own, of either version; none where it may not make one.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("wambda-test-{}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let path = Path::new(root).join(&name);
            if std::fs::create_dir(&path).is_err() {
                continue;
            }
            let made = Self(path);
            if std::fs::write(made.0.join(limit), bytes.to_string()).is_ok() {
                return Some(made);
            }
        }
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        eventually(Duration::from_secs(5), || std::fs::remove_dir(&self.0).ok());
    }
}

/// `--memory-budget 512` fits into 1.5 GB with all that the server holds beside it.
#[test]
fn a_small_budget_survives_in_a_small_cgroup() {
    let Some(cgroup) = Cgroup::new(1536 << 20) else {
        eprintln!("skipped: no memory cgroup can be made here");
        return;
    };
    let server = Server::with(&["--memory-budget", "512"]);
    std::fs::write(cgroup.0.join("cgroup.procs"), server.pid().to_string()).unwrap();
    server.deploy("large", large().as_bytes(), "memory=8");
    let invoke = "POST /v1/functions/large/invoke HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}";
    let sources = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let streams: Vec<_> = (0..600).map(|n| ask(&server, sources[n % 3], invoke)).collect();
    std::thread::sleep(Duration::from_secs(1));
    let kinds = ["requests", "responses", "logs", "uploads", "values"];
    let limit = |kind| server.metric(&format!("wambda_held_limit_bytes{{kind=\"{kind}\"}}"));
    let all: f64 = kinds.map(limit).iter().sum();
    assert!(all <= f64::from(512 << 20), "{all} bytes may be held beside the budget");
    server.assert_well();
    drop(streams);
    server.assert_well();
    drop(server);
    drop(cgroup);
}

/// Many small responses on one connection that nobody reads: what waits is bounded as well.
#[test]
fn small_responses_that_pile_up_are_counted() {
    let server = Server::with(&["--response-memory", "128"]);
    server.deploy("small", wats::echo().as_bytes(), "");
    let body = "x".repeat(30_000);
    let length = body.len();
    let one = format!(
        "POST /v1/functions/small/invoke HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    while sent < 2_000 && stream.write_all(one.as_bytes()).is_ok() {
        sent += 1;
    }
    assert!(sent < 2_000, "it read on although nobody took its answers");
    eventually(Duration::from_secs(5), || (held(&server) > 0).then_some(()));
    drop(stream);
    eventually(Duration::from_secs(10), || (held(&server) == 0).then_some(()));
    server.assert_well();
}

/// Heads without bodies pile up nowhere either: hyper takes the next request of a pipeline before the
/// last answer is written when a request's body ends after its answer.
#[test]
fn heads_that_pile_up_are_bounded() {
    let server = Server::start();
    let chunks = "1\r\na\r\n".repeat(3);
    let one = format!(
        "HEAD /healthz HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
    );
    let many = one.repeat(500);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut sent, before) = (0, server.resident());
    while sent < 64 << 20 && stream.write_all(many.as_bytes()).is_ok() {
        sent += many.len();
    }
    assert!(sent < 64 << 20, "it read on although nobody took its answers");
    assert!(server.resident() < before + (32 << 20));
    // What has been sent is answered once it is taken.
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut answers = vec![0; 1 << 20];
    let (mut read, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_secs(2) && read < sent / 4 {
        if let Ok(more) = stream.read(&mut answers) {
            (read, last) = (read + more, Instant::now());
        }
    }
    assert!(read >= sent / 4, "{read} bytes of answers to {sent} bytes");
    drop(stream);
    server.assert_well();
}

/// Links to code are for any number of readers, of whom few have it in memory at a time.
#[test]
fn downloads_find_room_before_they_are_read() {
    let server = Server::with(&["--response-memory", "128", "--memory-budget", "1024"]);
    server.deploy("f", &padded(40 << 20), "");
    let described = server.request("GET", "/2015-03-31/functions/f", &[], b"").expect(200).json();
    let link = described["Code"]["Location"].as_str().unwrap().to_owned();
    let path = link.split_once("/v1/").map(|(_, rest)| format!("/v1/{rest}")).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let before = server.resident();
    let mut most = 0;
    let streams: Vec<_> = (0..30).map(|_| ask(&server, "127.0.0.2", &request)).collect();
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(2) {
        most = most.max(server.resident());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(most <= before + (128 << 20) + BESIDE, "{} MB more", (most - before) >> 20);
    drop(streams);
    server.assert_well();
}

/// A module with so many bytes that do not compress and that no compiler looks at: a custom section.
pub fn padded(bytes: usize) -> Vec<u8> {
    let mut state = 7u32;
    let noise = (0..bytes).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let mut module = wambda_tests::wat(&wats::echo());
    module.push(0);
    leb(&mut module, bytes + 2);
    module.extend([1, b'n']);
    module.extend(noise);
    module
}

fn leb(out: &mut Vec<u8>, mut number: usize) {
    loop {
        let byte = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        out.push(if number == 0 { byte } else { byte | 0x80 });
        if number == 0 {
            return;
        }
    }
}
