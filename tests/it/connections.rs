//! Who may connect, how often, and what is kept for whoever looks after the server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use wambda_tests::{Server, eventually, refused_start};

use crate::wats;

/// What comes back until the connection closes.
fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends a request from an address, on a connection of its own.
fn ask(server: &Server, source: &str, line: &str) -> String {
    let mut stream = server.connect_from(source);
    let request =
        format!("{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let _ = stream.write_all(request.as_bytes());
    rest(stream)
}

fn hold(server: &Server, source: &str, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| server.connect_from(source)).collect()
}

const INVOKE: &str = "POST /v1/functions/f/invoke";

#[test]
fn questions_are_answered_while_others_hold_every_place() {
    let server = Server::with(&["--connections", "20", "--client-patience", "60"]);
    server.deploy("f", wats::echo().as_bytes(), "");
    // The client's own connection goes as well.
    let held = (hold(&server, "127.0.0.2", 15), hold(&server, "127.0.0.3", 15));
    let from = "127.0.0.4";
    for line in [
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /version",
        "GET /v1/functions",
        "GET /v1/functions/f",
        "GET /v1/functions/f/scaling",
        "GET /2015-03-31/functions",
        "HEAD /healthz",
    ] {
        let answer = ask(&server, from, line);
        assert!(answer.starts_with("HTTP/1.1 200"), "{line}: {answer}");
    }
    for line in [
        INVOKE,
        "PUT /v1/functions/g",
        "DELETE /v1/functions/f",
        "GET /v1/functions/f/logs?follow=1",
        "GET /v1/functions/f/logs/?follow=1",
        "GET /fn/g",
        "GET /v1/downloads/x",
        "GET /fn/f/",
        "POST /2015-03-31/functions/f/invocations",
        "POST /",
    ] {
        let answer = ask(&server, from, line);
        assert!(answer.starts_with("HTTP/1.1 503"), "{line}: {answer}");
        assert!(
            answer.contains("connection: close") && answer.contains("retry-after: 5"),
            "{answer}"
        );
        assert!(answer.contains("as many connections are open as may be"), "{line}: {answer}");
    }
    // Nor does who is refused stay, with a body that does not come.
    let begin = Instant::now();
    let mut idle = server.connect_from(from);
    idle.write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nhalf").unwrap();
    assert!(rest(idle).starts_with("HTTP/1.1 503"));
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    // Nor can one address have all that is kept: it holds eight of them already.
    let more = hold(&server, "127.0.0.3", 40);
    let begin = Instant::now();
    assert!(ask(&server, from, "GET /healthz").starts_with("HTTP/1.1 200"));
    // They are not waited for as long as others.
    more.into_iter().for_each(|stream| drop(rest(stream)));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(held);
    eventually(Duration::from_secs(5), || {
        ask(&server, from, INVOKE).starts_with("HTTP/1.1 200").then_some(())
    });
    server.assert_well();
}

#[test]
fn an_address_has_its_share_of_the_connections() {
    let server = Server::with(&["--connections", "100", "--peer-connections", "5"]);
    server.deploy("f", wats::echo().as_bytes(), "");
    let held = hold(&server, "127.0.0.2", 5);
    let answer = ask(&server, "127.0.0.2", INVOKE);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("from your address"), "{answer}");
    assert!(ask(&server, "127.0.0.3", INVOKE).starts_with("HTTP/1.1 200"));
    drop(held);
    eventually(Duration::from_secs(5), || {
        ask(&server, "127.0.0.2", INVOKE).starts_with("HTTP/1.1 200").then_some(())
    });
    let data = tempfile::tempdir().unwrap();
    for (arguments, wanted) in [
        (["--connections", "0"], "--connections must be 1 to 100000, got 0"),
        (
            ["--peer-connections", "9000"],
            "--peer-connections must be 1 to 8192 (--connections), got 9000",
        ),
    ] {
        let said = refused_start(data.path(), &arguments);
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn an_address_has_its_rate_of_requests() {
    let server = Server::with(&["--peer-rate", "20"]);
    server.deploy("f", wats::echo().as_bytes(), "");
    let begin = Instant::now();
    let answers: Vec<String> = (0..60).map(|_| ask(&server, "127.0.0.2", INVOKE)).collect();
    let good = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
    let passed = begin.elapsed().as_secs_f64();
    let most = 20.0 + 20.0 * passed + 1.0;
    assert!(good >= 20 && (good as f64) <= most, "{good} in {passed} s");
    let refused = answers.iter().find(|answer| !answer.starts_with("HTTP/1.1 200"));
    if let Some(refused) = refused {
        assert!(
            refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: 1"),
            "{refused}"
        );
        assert!(refused.contains("20 requests a second are allowed"), "{refused}");
    }
    // Two hundred on one connection, faster than anybody allows, and in AWS's words.
    let mut stream = server.connect_from("127.0.0.2");
    let one =
        "POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n";
    let last = one.replace("host", "connection: close\r\nhost");
    stream.write_all((one.repeat(200) + &last).as_bytes()).unwrap();
    let said = rest(stream);
    assert!(said.matches("HTTP/1.1 429").count() > 100, "{said}");
    assert!(
        said.contains("TooManyRequestsException") && said.contains("CallerRateLimitExceeded"),
        "{said}"
    );
    // Others have their own, and health is not counted.
    assert!(ask(&server, "127.0.0.3", INVOKE).starts_with("HTTP/1.1 200"));
    assert!(ask(&server, "127.0.0.2", "GET /healthz").starts_with("HTTP/1.1 200"));
    eventually(Duration::from_secs(5), || {
        ask(&server, "127.0.0.2", INVOKE).starts_with("HTTP/1.1 200").then_some(())
    });
    server.assert_well();
}
