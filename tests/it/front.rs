//! The HTTP front, with raw sockets: what no well-behaved client sends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use wambda_tests::Server;

use crate::wats;

fn status(answer: &str) -> u16 {
    let line = answer.lines().next().unwrap_or_default();
    line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[test]
fn broken_requests_are_answered_or_dropped() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let long = "x".repeat(70_000);
    let many = "a: b\r\n".repeat(200);
    for (name, request, wanted) in [
        ("no host", "GET /healthz HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("two hosts", "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(), 400),
        ("bad host", "GET /healthz HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(), 400),
        ("HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("no HTTP at all", "\x16\x03\x01\x02\x00\r\n\r\n".to_owned(), 400),
        ("bad method", "G\x01T / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 400),
        ("long target", format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), 414),
        ("long header", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), 431),
        ("many headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431),
        ("bad length", "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n".to_owned(), 400),
        ("two lengths", "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(), 400),
        ("bad chunk", "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(), 400),
        ("says too much", "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n".to_owned(), 413),
        ("upload says too much", "PUT /v1/functions/g HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n".to_owned(), 413),
    ] {
        let answer = server.raw(request.replacen("\r\nhost", "\r\nconnection: close\r\nhost", 1).as_bytes());
        let got = status(&answer);
        assert!(got == wanted, "{name}: {got}, wanted {wanted}: {answer}");
    }
    server.assert_well();
}

#[test]
fn a_client_that_expects_a_continue_is_refused_before_it_sends() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let ask = |length: usize| {
        let head = "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
        let request = format!("{head}expect: 100-continue\r\ncontent-length: {length}\r\n\r\n");
        server.raw(request.as_bytes())
    };
    let refused = ask(50_000_000);
    assert_eq!(status(&refused), 413, "{refused}");
    assert!(ask(5).starts_with("HTTP/1.1 100"), "a fitting body is asked for");
}

#[test]
fn an_oversize_body_that_does_not_say_so_is_cut_off() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "payload=1000");
    let mut request = b"POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..3 {
        request.extend_from_slice(format!("200\r\n{}\r\n", "x".repeat(0x200)).as_bytes());
    }
    let answer = server.raw(&request);
    assert_eq!(status(&answer), 413, "{answer}");
    server.assert_well();
}

#[test]
fn clients_that_leave_at_any_point_harm_nobody() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let whole =
        b"POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    for cut in 0..whole.len() {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(&whole[..cut]).unwrap();
    }
    let upload =
        b"PUT /v1/functions/half HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\n(module";
    TcpStream::connect(server.address()).unwrap().write_all(upload).unwrap();
    assert_eq!(server.invoke("f", "well").expect(200).text(), "well");
    server.get("/v1/functions/half").expect(404);
    server.assert_well();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let one = |body: &str, more: &str| {
        format!(
            "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\n{more}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let all = format!(
        "{}{}{}",
        one("first", ""),
        "GET /v1/nothing HTTP/1.1\r\nhost: a\r\n\r\n",
        one("last", "connection: close\r\n")
    );
    let answer = server.raw(all.as_bytes());
    let at = |part: &str| answer.find(part).unwrap_or_else(|| panic!("{part} is not in {answer}"));
    assert!(at("first") < at("404") && at("404") < at("last"));
}

#[test]
fn idle_and_slow_connections_do_not_block_others() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let mut idle: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    for (n, stream) in idle.iter_mut().enumerate() {
        let part: &[u8] = if n % 2 == 0 {
            b"GET /heal"
        } else {
            b"POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx"
        };
        stream.write_all(part).unwrap();
    }
    let began = Instant::now();
    for _ in 0..50 {
        server.invoke("f", "x").expect(200);
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    // A kept-alive connection that has gone stale is answered or closed, never hung.
    let mut kept = TcpStream::connect(server.address()).unwrap();
    kept.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for _ in 0..2 {
        kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut buffer = [0; 1024];
        assert!(kept.read(&mut buffer).unwrap() > 0);
    }
    server.assert_well();
}
