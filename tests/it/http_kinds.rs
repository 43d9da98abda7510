//! Functions as HTTP endpoints: streamed for those that speak HTTP, translated for the others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use wambda_tests::{Server, example, guest, within};

use crate::wats;

#[test]
fn requests_and_responses_stream_through() {
    let server = Server::start();
    server.deploy("echo", &example("http_echo", "wasm32-wasip2"), "timeout=60");
    // curl reads while it sends; a client that does not would fill every buffer on the way.
    let dir = tempfile::tempdir().unwrap();
    let (sent, got) = (dir.path().join("sent"), dir.path().join("got"));
    let body: Vec<u8> = (0..20_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    std::fs::write(&sent, &body).unwrap();
    let curl = Command::new("curl")
        .args(["-sS", "--fail", "--max-time", "60", "-H", "content-type: x/y", "--data-binary"])
        .arg(format!("@{}", sent.display()))
        .arg("-o")
        .arg(&got)
        .arg(format!("{}/fn/echo/a/b?c=d", server.url))
        .output()
        .unwrap();
    assert!(curl.status.success(), "{curl:?}");
    assert!(std::fs::read(&got).unwrap() == body, "20 MB came back otherwise");
    let headers = [("content-type", "x/y")];
    let answer = server.request("POST", "/fn/echo/a/b?c=d", &headers, b"small").expect(200);
    assert_eq!((answer.header("content-type"), answer.header("x-method")), ("x/y", "POST"));
    assert!(answer.header("x-path").ends_with("/a/b?c=d"), "{}", answer.header("x-path"));
    assert_eq!(server.get("/fn/echo").expect(200).header("x-method"), "GET");
    assert_eq!(server.request("PATCH", "/fn/echo:$LATEST/", &[], b"p").expect(200).text(), "p");
    server.get("/fn/echo:v1/").expect(404);
    server.get("/fn/nobody/").expect(404);
    server.assert_well();
}

#[test]
fn the_first_bytes_come_before_the_last_are_sent() {
    let server = Server::start();
    server.deploy("echo", &guest("http"), "timeout=10");
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"POST /fn/echo/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").unwrap();
    let mut seen = String::new();
    while !seen.contains("first") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).expect("the first chunk, before the second is sent");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
    while !seen.contains("second") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

#[test]
fn bad_http_guests_fail_alone() {
    let server = Server::start();
    server.deploy("g", &guest("http"), "timeout=5&memory=32");
    server.deploy("short", &guest("http"), "timeout=0.2&memory=32");
    for (path, status, error) in [
        ("/panic", 502, "Runtime.ExitError"),
        ("/exit", 502, "Runtime.ExitError"),
        ("/loop", 504, "Sandbox.Timedout"),
        ("/sleep", 504, "Sandbox.Timedout"),
        ("/lengths", 502, "Runtime.ExitError"),
    ] {
        let name = if status == 504 { "short" } else { "g" };
        within(Duration::from_millis(600), || {
            let answer = server.request("POST", &format!("/fn/{name}{path}"), &[], b"x");
            let text = answer.text();
            let told = (answer.status, answer.header("x-wambda-error"));
            assert_eq!(told, (status, error), "{path}: {text}");
            assert!(!text.contains("wished"), "strangers are not told how: {text}");
            answer.took
        });
    }
    assert_eq!(server.get("/fn/g/status").expect(418).header("x-guest"), "http");
    // WASI itself lets nobody set the headers of a connection.
    server.get("/fn/g/hop").expect(502);
    assert_eq!(
        server.request("POST", "/fn/g/unread", &[], &[b'x'; 3 << 20]).expect(200).text(),
        "not read"
    );
    assert!(server.get("/fn/g/outside").expect(200).text().contains("refused"));
    let seen = server
        .request("GET", "/fn/g/headers", &[("connection", "close"), ("x-a", "b")], b"")
        .text();
    assert!(
        seen.contains("x-a: \"b\"") && seen.contains("x-forwarded-for: \"127.0.0.1\""),
        "{seen}"
    );
    assert!(!seen.contains("connection:"), "{seen}");
    server.assert_well();
}

#[test]
fn events_for_http_guests_are_bounded_too() {
    let server = Server::start();
    server.deploy("g", &guest("http"), "timeout=5");
    let answer = server.invoke("g", r#"{"rawPath":"/big"}"#).expect(500);
    assert_eq!(answer.header("x-wambda-error"), "Function.ResponseSizeTooLarge");
    let big = server.get("/fn/g/big").expect(200);
    assert_eq!(big.body.len(), 7 << 20, "a streamed response is not bound to 6 MB");
    // More headers than a map can hold, and more than a head may take.
    for (count, status) in [(500, 200), (40_000, 400)] {
        let headers: serde_json::Map<_, _> =
            (0..count).map(|n| (format!("x{n}"), json!(""))).collect();
        let event = json!({"rawPath": "/headers", "headers": headers}).to_string();
        let answer = server.invoke("g", &event).expect(status);
        assert!(status == 200 || answer.message().contains("32768"), "{}", answer.text());
    }
    server.assert_well();
}

#[test]
fn a_caller_who_leaves_does_not_stop_the_function() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "timeout=5");
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let event = r#"{"do":"sleep","ms":400}"#;
    let head = format!(
        "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        event.len()
    );
    stream.write_all(format!("{head}{event}").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    drop(stream);
    wambda_tests::eventually(Duration::from_secs(5), || {
        let done = server.metric("wambda_invocations_total{function=\"f\",outcome=\"success\"}");
        (done == 1.0).then_some(())
    });
    server.assert_well();
}

#[test]
fn event_functions_get_api_gateway_events() {
    let server = Server::start();
    server.deploy("echo", wats::echo().as_bytes(), "");
    let headers = [("cookie", "a=1; b=2"), ("x-many", "1"), ("content-type", "text/plain")];
    let answer = server.request("POST", "/fn/echo/p/q?x=1&y=2", &headers, b"body").expect(200);
    let event = answer.json();
    assert_eq!((&event["version"], &event["rawPath"]), (&json!("2.0"), &json!("/p/q")));
    assert_eq!(event["rawQueryString"], "x=1&y=2");
    assert_eq!(event["cookies"], json!(["a=1", "b=2"]));
    assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!("body"), &json!(false)));
    assert_eq!(event["requestContext"]["http"]["sourceIp"], "127.0.0.1");
    assert_eq!(event["requestContext"]["requestId"], answer.header("x-wambda-request-id"));
    let binary = server.request("POST", "/fn/echo/", &[], &[0xff, 0]).expect(200).json();
    assert_eq!((&binary["body"], &binary["isBase64Encoded"]), (&json!("/wA="), &json!(true)));

    let shaped = |json: &str| {
        let length = json.len();
        let data = format!("(memory (export \"memory\") 1) (data (i32.const 8) {json:?})");
        wats::core_with(&data, &format!("(i64.const {})", (8u64 << 32) | length as u64))
    };
    let good = r#"{"statusCode":201,"headers":{"x-a":"b","content-length":"999"},"cookies":["c=1"],"body":"aGk=","isBase64Encoded":true}"#;
    server.deploy("shaped", shaped(good).as_bytes(), "");
    let answer = server.get("/fn/shaped").expect(201);
    assert_eq!(
        (answer.text().as_str(), answer.header("x-a"), answer.header("set-cookie")),
        ("hi", "b", "c=1")
    );
    server.deploy(
        "shaped",
        shaped(r#"{"statusCode":200,"headers":{"a":"x\r\ny: z"}}"#).as_bytes(),
        "",
    );
    assert_eq!(
        server.get("/fn/shaped").expect(502).header("x-wambda-error"),
        "Runtime.InvalidResponse"
    );
    server.assert_well();
}

#[test]
fn a_response_that_breaks_off_does_not_look_complete() {
    let server = Server::start();
    server.deploy("g", &guest("http"), "timeout=2");
    let close = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let broken = server.raw(format!("GET /fn/g/then-panic {close}").as_bytes());
    assert!(broken.contains("200 OK") && broken.contains("xxxx"), "{}", broken.len());
    assert!(!broken.ends_with("0\r\n\r\n"), "it ended as if it were whole");
    let short = server.raw(format!("GET /fn/g/wrong-length {close}").as_bytes());
    // Told in time, it is a 502; after the head was given, the connection breaks off.
    assert!(
        short.starts_with("HTTP/1.1 502") || short.len() < 50 || !short.contains("0\r\n\r\n"),
        "{short}"
    );
    // As an event, the same is an error of the function.
    let answer = server.invoke("g", r#"{"rawPath":"/then-panic"}"#).expect(500);
    assert_eq!(answer.header("x-wambda-error"), "Runtime.ExitError", "{}", answer.text());
    let whole = server.raw(format!("GET /fn/g/status {close}").as_bytes());
    assert!(whole.ends_with("0\r\n\r\n"), "{whole}");
    server.assert_well();
}

#[test]
fn a_client_that_does_not_read_does_not_hold_the_function() {
    let server = Server::start();
    server.deploy("g", &guest("http"), "timeout=1");
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"GET /fn/g/endless HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        streams.push(stream);
    }
    let timeouts = "wambda_invocations_total{function=\"g\",outcome=\"timeout\"}";
    let ended = || (server.metric(timeouts) == 4.0).then_some(());
    wambda_tests::eventually(Duration::from_secs(4), ended);
    wambda_tests::eventually(Duration::from_secs(2), || {
        let scaling = server.get("/v1/functions/g/scaling").json();
        (scaling["running"] == 0 && scaling["instances"]["busy"] == 0).then_some(())
    });
    server.assert_well();
}

#[test]
fn a_guest_that_throws_its_answer_away_and_goes_on_fails_alone() {
    let server = Server::start();
    server.deploy("silent", &guest("silent"), "timeout=2");
    let answer = server.get("/fn/silent/").expect(502);
    assert_eq!(answer.header("x-wambda-error"), "Runtime.NoResponse", "{}", answer.text());
    server.assert_well();
}
