//! Clients that go while their request is on its way, is served, or is answered.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use wambda_tests::{Server, eventually, guest};

/// Connections over which the test asks how it stands, from several threads, and which stay. What is left behind each time is
/// more in the end.
const OWN: usize = 5;

/// How a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Closes,
    /// What is on its way to it is lost at once.
    Resets,
    /// It says that nothing more will come, and would still read.
    HalfCloses,
}

/// Where it has got to by then.
struct Stage {
    name: &'static str,
    sends: String,
    /// Bytes of the answer that it reads.
    reads: usize,
    /// Calls that it has made, all of which run to their end.
    calls: u32,
}

impl Stage {
    fn is_endless(&self) -> bool {
        self.name.starts_with("an endless")
    }
}

fn stages() -> Vec<Stage> {
    let event = r#"{"do":"sleep","ms":700}"#;
    let length = event.len();
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nhost: a\r\n{more}\r\n");
    let invoke = "POST /v1/functions/slow/invoke";
    let whole = head(invoke, &format!("content-length: {length}\r\n")) + event;
    let stage = |name, sends, reads, calls| Stage { name, sends, reads, calls };
    let stream = "POST /2021-11-15/functions/slow/response-streaming-invocations";
    let upload = head("PUT /v1/functions/half", "content-length: 5000\r\n") + "(module";
    let chunk = head("POST /fn/http/echo", "transfer-encoding: chunked\r\n") + "5\r\nhello\r\n";
    vec![
        stage("nothing sent", String::new(), 0, 0),
        stage("half a head", format!("{invoke} HTTP/1.1\r\nhos"), 0, 0),
        stage("half a body", head(invoke, "content-length: 500\r\n") + "{", 0, 0),
        stage("half an upload", upload, 0, 0),
        stage("half a stream", chunk, 0, 0),
        stage("a call", whole.clone(), 0, 1),
        stage("two calls, pipelined", whole.repeat(2), 0, 1),
        stage("a call of a stream", whole.replace(invoke, stream), 0, 1),
        stage("an answered call", whole, 20, 1),
        stage("an endless answer", head("GET /fn/http/endless", ""), 100_000, 0),
        stage("an endless answer unread", head("GET /fn/http/endless", ""), 0, 0),
        stage("a log that is followed", head("GET /v1/functions/slow/logs?follow=1", ""), 20, 0),
    ]
}

fn go(mut stream: TcpStream, how: How, stage: &Stage) {
    match how {
        How::Closes => {}
        How::Resets => {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        How::HalfCloses => {
            // It is answered or not, and let go.
            stream.shutdown(Shutdown::Write).unwrap();
            if stage.is_endless() {
                return;
            }
            stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
            let began = Instant::now();
            let mut bytes = vec![0; 1 << 20];
            while !matches!(stream.read(&mut bytes), Ok(0) | Err(_)) {}
            assert!(began.elapsed() < Duration::from_secs(3), "{} half-closed hangs", stage.name);
        }
    }
}

/// What breaks off under a guest is an error of the host's, which the guest may print: without the host's stack.
#[test]
fn errors_that_guests_see_carry_no_stack_of_the_host() {
    let server = Server::with_env(&[], &[("RUST_BACKTRACE", "1")]);
    server.deploy("http", &guest("http"), "timeout=20");
    let stage = stages().into_iter().find(|stage| stage.name == "half a stream").unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(stage.sends.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(stream);
    let log = eventually(Duration::from_secs(5), || {
        let log = server.log("http");
        log.contains("REPORT").then_some(log)
    });
    println!("{log}");
    assert!(log.contains("error reading a body"), "{log}");
    assert!(!log.contains("wasmtime::"), "{log}");
    server.assert_well();
}

#[test]
fn clients_that_leave_at_any_stage_leave_nothing_behind() {
    let server = Server::start();
    server.deploy("slow", &guest("event"), "timeout=10");
    server.deploy("http", &guest("http"), "timeout=20");
    let invoked = "wambda_invocations_total{function=\"slow\",outcome=\"success\"}";
    // Of the other one, whose body breaks off under it, nobody knows what it makes of that.
    let killed = "wambda_kills_total{function=\"slow\"";
    let sum = |series: &str| -> f64 {
        let metrics = server.get("/metrics").text();
        let of = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        metrics.lines().filter(|line| line.starts_with(series)).filter_map(of).sum()
    };
    let running = |name: &str| {
        let scaling = server.get(&format!("/v1/functions/{name}/scaling")).json();
        scaling["running"].as_u64().unwrap() + scaling["queue"]["depth"].as_u64().unwrap()
    };
    let quiet = || running("slow") == 0 && running("http") == 0;
    let leave = |stage: &Stage, how: How, together: u64| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(stage.sends.as_bytes()).unwrap();
        stream.read_exact(&mut vec![0; stage.reads]).unwrap();
        // It is being served by then.
        if stage.reads == 0 && stage.calls > 0 {
            eventually(Duration::from_secs(10), || (running("slow") >= together).then_some(()));
        } else if stage.reads == 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
        go(stream, how, stage);
    };
    let all = stages();
    all.iter().for_each(|stage| leave(stage, How::Closes, 1));
    eventually(Duration::from_secs(10), || quiet().then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    let files = server.open_files();
    for stage in &all {
        for how in [How::Closes, How::Resets, How::HalfCloses] {
            let (calls, kills) = (sum(invoked), sum(killed));
            std::thread::scope(|scope| {
                (0..4).for_each(|_| drop(scope.spawn(|| leave(stage, how, 4))));
            });
            let name = stage.name;
            let began = Instant::now();
            eventually(Duration::from_secs(10), || quiet().then_some(()));
            let ended = eventually(Duration::from_secs(5), || {
                (server.open_files() <= files + OWN).then(|| began.elapsed())
            });
            assert!(ended < Duration::from_secs(3), "{name}, {how:?}: {ended:?}");
            let more = sum(invoked) - calls;
            assert!(more >= f64::from(4 * stage.calls), "{name}, {how:?}: {more} calls ended");
            assert_eq!(sum(killed), kills, "{name}, {how:?}");
        }
    }
    server.get("/v1/functions/half").expect(404);
    server.assert_well();
}

/// A client that has said all that it has to say is answered (RFC 9112, 9.6), as netcat's and some proxies' are.
#[test]
fn clients_that_half_close_are_answered() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "timeout=10");
    server.deploy("http", &guest("http"), "timeout=10");
    server.deploy("proxy", &guest("proxy"), "timeout=10");
    let event = r#"{"do":"sleep","ms":100}"#;
    // It leaves the request's body unread for longer than a cut one is waited for.
    let late = format!("/fn/proxy/script?{}body,set,write:3,finish", "sleep:200,".repeat(8));
    let post = |path: &str| {
        let length = event.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{event}"
        )
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let invoke = post("/v1/functions/f/invoke");
    for (request, answers) in [
        (invoke.clone(), 1),
        (invoke.repeat(3), 3),
        (post("/fn/f/"), 1),
        (post("/2015-03-31/functions/f/invocations"), 1),
        (post("/2021-11-15/functions/f/response-streaming-invocations"), 1),
        (post("/v1/functions/f/invoke?mode=event").replace(event, "{}").replace(": 23", ": 2"), 1),
        (post("/fn/http/echo"), 1),
        (post(&late), 1),
        (get("/fn/http/big"), 1),
        (get("/metrics"), 1),
        (get("/v1/functions"), 1),
        (get("/v1/functions/nobody"), 1),
        (get("/healthz"), 1),
    ] {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let seen = answer.windows(9).filter(|bytes| *bytes == b"HTTP/1.1 ").count();
        assert_eq!(seen, answers, "{request}: {} bytes", answer.len());
        // All of it, and then the end.
        assert!(!request.contains("/big") || answer.len() > 7 << 20, "{} bytes", answer.len());
    }
    server.assert_well();
}
