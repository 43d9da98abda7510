//! The threads that answer are held by nobody's bytes: what is large is worked on elsewhere.
//! Measured by the server itself, in CPU time (`wambda_poll_seconds`, `wambda_long_polls_total`): a
//! busy machine changes nothing of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use wambda_tests::{Server, eventually, guest, percentile, wat};

use crate::wats;

/// How long each attack lasts.
const LASTS: Duration = Duration::from_millis(250);
/// Letters of 16 KB, and lines of 8 KB in a log.
const LETTERS: usize = 70;
/// Bytes of a payload, which a function may get and give.
const PAYLOAD: usize = 6 << 20;

/// What strangers do, over and over, on each of some threads.
pub struct Attack {
    pub name: &'static str,
    pub threads: usize,
    pub act: Box<dyn Fn(&Server) + Sync>,
}

pub fn attack(
    name: &'static str,
    threads: usize,
    act: impl Fn(&Server) + Sync + 'static,
) -> Attack {
    Attack { name, threads, act: Box::new(act) }
}

/// Fails with as many NULs as a payload has bytes.
pub fn nuls() -> String {
    let definitions = "(memory (export \"memory\") 98)";
    wats::core_with(definitions, &format!("(i64.const {})", (1 << 31) | PAYLOAD))
}

fn post(path: &'static str, body: Vec<u8>, status: u16) -> impl Fn(&Server) + Sync + 'static {
    move |server| drop(server.request("POST", path, &[], &body).expect(status))
}

/// What is sent.
pub fn requests() -> Vec<Attack> {
    let text = format!("{:?}", "x".repeat(PAYLOAD - 2)).into_bytes();
    let event = json!({"rawPath": "/echo", "requestContext": {"http": {"method": "POST"}},
        "isBase64Encoded": true, "body": BASE64_STANDARD.encode(vec![0; 4 << 20])});
    let zip = BASE64_STANDARD.encode(vec![0; 3 << 20]);
    let create = json!({"FunctionName": "new", "Role": "arn:aws:iam::000000000000:role/all",
        "Handler": "x", "Runtime": "provided.al2023", "Code": {"ZipFile": zip}});
    let form = |server: &Server| {
        let body = format!("Version=2010-05-08&Action=ListUsers&x={}", "%00".repeat(300_000));
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        drop(server.request("POST", "/", &headers, body.as_bytes()).expect(200));
    };
    vec![
        attack("requests that fit in base64 only", 4, post("/fn/core/", vec![0; 4_400_000], 200)),
        attack("requests that do not fit", 4, post("/fn/core/", vec![0; 5 << 20], 413)),
        attack("requests of text", 2, post("/fn/core/", vec![b'"'; 1 << 20], 200)),
        attack(
            "events by Lambda's front",
            2,
            post("/2015-03-31/functions/core/invocations", text, 200),
        ),
        attack("events of an HTTP function", 2, {
            let event = event.to_string();
            move |server| drop(server.invoke("http", &event).expect(200))
        }),
        attack("code in JSON", 1, post("/2015-03-31/functions", create.to_string().into(), 400)),
        attack("a form", 2, form),
    ]
}

/// What is answered.
pub fn answers() -> Vec<Attack> {
    let stream = "/2021-11-15/functions/nuls/response-streaming-invocations";
    vec![
        attack("errors", 4, |server| drop(server.invoke("nuls", "x").expect(500))),
        attack("errors in a stream", 2, post(stream, b"{}".to_vec(), 200)),
        attack("a response that a result describes", 2, post("/fn/shaped/", b"x".to_vec(), 200)),
        attack("a log", 2, |server| {
            let page = server.get("/v1/functions/nuls/logs?limit=4096").expect(200);
            assert!(page.body.len() > 2 << 20, "{}", page.body.len());
        }),
        attack("a log by CloudWatch", 1, |server| {
            let body = json!({"logGroupName": "/aws/lambda/nuls"}).to_string();
            let headers = [("x-amz-target", "Logs_20140328.FilterLogEvents")];
            let page = server.request("POST", "/", &headers, body.as_bytes()).expect(200);
            assert!(page.body.len() > 2 << 20, "{}", page.body.len());
        }),
        attack("a log that is followed", 10, |server| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let head = "GET /v1/functions/nuls/logs?follow=1 HTTP/1.1\r\nhost: a\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            let mut buffer = vec![0; 64 << 10];
            let mut read = 0;
            while read < 2 << 20 {
                read += stream.read(&mut buffer).unwrap();
            }
        }),
        attack("dead letters", 2, |server| {
            let page = server.get("/v1/queues/dead:nuls/messages?limit=1000").expect(200);
            assert!(page.body.len() > 4 << 20, "{}", page.body.len());
        }),
    ]
}

/// Answers a request with a described response of 5 MB of quotation marks, escaped.
fn shaped() -> Vec<u8> {
    let head = r#"{\"statusCode\":200,\"body\":\""#;
    let (start, length) = (26, 5 << 20);
    let definitions = format!("(memory (export \"memory\") 98) (data (i32.const 0) \"{head}\")");
    wat(&wats::core_with(
        &definitions,
        &format!(
            "(memory.fill (i32.const {start}) (i32.const 110) (i32.const {length}))
             (local.set $at (i32.const {start}))
             (loop $l
               (i32.store8 (local.get $at) (i32.const 92))
               (local.set $at (i32.add (local.get $at) (i32.const 2)))
               (br_if $l (i32.lt_u (local.get $at) (i32.const {length}))))
             (i32.store16 (local.get $at) (i32.const 0x7d22))
             (i64.extend_i32_u (i32.add (local.get $at) (i32.const 2)))"
        ),
    ))
}

pub fn world() -> Server {
    let server = Server::start();
    server.role("all");
    let echo = wats::echo().replace("\"memory\") 1)", "\"memory\") 98)");
    server.deploy("core", echo.as_bytes(), "memory=16");
    server.deploy("nuls", nuls().as_bytes(), "memory=16&retries=0");
    server.deploy("shaped", &shaped(), "memory=16");
    server.deploy("http", &guest("http"), "memory=64");
    server.deploy("hello", wats::echo().as_bytes(), "");
    // Each leaves a line of 8 KB in the log, and one of them a letter of 16 KB.
    let letter = vec![0; 16 << 10];
    for _ in 0..LETTERS {
        let path = "/v1/functions/nuls/invoke?mode=event";
        server.request("POST", path, &[], &letter).expect(202);
    }
    eventually(Duration::from_secs(20), || {
        let queue = server.get("/v1/queues/dead:nuls").expect(200).json();
        (queue["depth"] == LETTERS).then_some(())
    });
    server
}

/// The p99 of a neighbour while this goes on.
fn beside(server: &Server, attack: &Attack) -> Duration {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..attack.threads {
            scope.spawn(|| {
                // Once at least, however long it takes.
                loop {
                    (attack.act)(server);
                    if over.load(Relaxed) {
                        break;
                    }
                }
            });
        }
        let began = Instant::now();
        let mut took = Vec::new();
        while began.elapsed() < LASTS {
            took.push(server.invoke("hello", "hi").expect(200).took);
            std::thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Relaxed);
        percentile(&mut took, 99)
    })
}

/// Does all of it, and expects that nothing of it was held against the threads that answer.
#[track_caller]
fn assert_holds_nothing_up(server: &Server, attacks: &[Attack]) {
    let mut held = Vec::new();
    for attack in attacks {
        let before = server.metric("wambda_long_polls_total");
        let p99 = beside(server, attack);
        let long = server.metric("wambda_long_polls_total") - before;
        println!("{}: {long} long polls, a neighbour's p99 {p99:?}", attack.name);
        held.extend((long > 0.0).then_some((attack.name, long, p99)));
    }
    assert!(held.is_empty(), "{held:?}");
    server.assert_well();
}

#[test]
fn what_is_sent_and_answered_holds_no_thread_that_answers() {
    let attacks: Vec<Attack> = requests().into_iter().chain(answers()).collect();
    assert_holds_nothing_up(&world(), &attacks);
}

#[test]
fn bodies_whose_signature_is_checked_hold_no_thread_that_answers() {
    let server = Server::with(&["--auth", "keys"]);
    let key = std::fs::read_to_string(server.data().join("root-key.json")).unwrap();
    let key: Value = serde_json::from_str(&key).unwrap();
    let id = key["access_key_id"].as_str().unwrap();
    let now = Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]).output().unwrap().stdout;
    let now = String::from_utf8(now).unwrap().trim().to_owned();
    let (scope, signature) =
        (format!("{}/us-east-1/lambda/aws4_request", &now[..8]), "0".repeat(64));
    let signed = format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
    );
    // Whose key it is, is known; that the signature is wrong comes out when all of it has been
    // hashed.
    let headers = [("authorization", &*signed), ("x-amz-date", &*now)];
    let body = vec![0; 60_000_000];
    let refused = server.request("PUT", "/v1/functions/f", &headers, &body).expect(403);
    assert!(refused.text().contains("signature"), "{}", refused.text());
    assert_eq!(server.metric("wambda_long_polls_total"), 0.0);
    server.assert_well();
}
