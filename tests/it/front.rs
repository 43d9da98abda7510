//! The HTTP front, with raw sockets: what no well-behaved client sends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use wambda_tests::{Server, eventually, guest, refused_start};

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
    let (many, large) = ("a: b\r\n".repeat(200), "x".repeat(40_000));
    let (chunked, trailer) = (
        "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        "x".repeat(20_000),
    );
    for (name, request, wanted) in [
        ("no host", "GET /healthz HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("two hosts", "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(), 400),
        ("bad host", "GET /healthz HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(), 400),
        ("HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("no HTTP at all", "\x16\x03\x01\x02\x00\r\n\r\n".to_owned(), 400),
        ("bad method", "G\x01T / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 400),
        ("long target", format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), 414),
        ("long header", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), 431),
        ("large headers", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {large}\r\n\r\n"), 431),
        ("many headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431),
        ("bad length", "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n".to_owned(), 400),
        ("two lengths", "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(), 400),
        ("bad chunk", "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(), 400),
        ("long extension", format!("{chunked}5;x={trailer}\r\nhello\r\n0\r\n\r\n"), 400),
        ("many extensions", format!("{chunked}{}0\r\n\r\n", "1;xxxxxxxxxxxxxxxx\r\na\r\n".repeat(2_000)), 400),
        ("long trailer", format!("{chunked}5\r\nhello\r\n0\r\nx: {trailer}\r\n\r\n"), 400),
        ("many trailers", format!("{chunked}5\r\nhello\r\n0\r\n{}\r\n", "a: b\r\n".repeat(4_000)), 400),
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

/// What no two readers may read differently: one answer at most, and nothing that hides in a body is served.
#[test]
fn ambiguous_requests_are_refused() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let post = |headers: &str, body: &str| {
        format!("POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n{body}")
    };
    let hidden = "GET /version HTTP/1.1\r\nhost: a\r\n\r\n";
    let chunked = format!("0\r\n\r\n{hidden}");
    let lengths = format!("content-length: {}", hidden.len());
    for (name, request) in [
        ("both framings", post(&format!("{lengths}\r\ntransfer-encoding: chunked"), &chunked)),
        (
            "both framings, turned",
            post(&format!("transfer-encoding: chunked\r\n{lengths}"), &chunked),
        ),
        ("chunked twice", post("transfer-encoding: chunked, chunked", &chunked)),
        ("chunked, and then not", post("transfer-encoding: chunked, identity", &chunked)),
        ("another coding", post("transfer-encoding: xchunked", &chunked)),
        ("two codings", post("transfer-encoding: chunked\r\ntransfer-encoding: gzip", &chunked)),
        ("a blank before the colon", post("transfer-encoding : chunked", &chunked)),
        ("a folded header", post("x: a\r\n b\r\ntransfer-encoding: chunked", &chunked)),
        ("a length with a sign", post("content-length: +5", hidden)),
        ("a length below zero", post("content-length: -1", hidden)),
        ("a length in hex", post("content-length: 0x5", hidden)),
        ("two lengths in one", post("content-length: 5, 6", hidden)),
        ("a length with a blank", post("content-length: 5 6", hidden)),
        ("a length beyond 64 bits", post("content-length: 18446744073709551616", hidden)),
        (
            "a chunk beyond 64 bits",
            post("transfer-encoding: chunked", &format!("10000000000000000\r\n{hidden}")),
        ),
        (
            "a chunk that is no number",
            post("transfer-encoding: chunked", &format!("0x5\r\nhello\r\n{chunked}")),
        ),
        (
            "a chunk that lies",
            post("transfer-encoding: chunked", &format!("2\r\nhello\r\n{chunked}")),
        ),
        ("a NUL in a header", post("x: a\0b", "")),
        ("a header without a colon", post("nonsense", "")),
        ("a name that is none", post("a b: c", "")),
        ("an empty name", post(": c", "")),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("another version", "GET /version HTTP/3.0\r\nhost: a\r\n\r\n".to_owned()),
        ("no version", "GET /version\r\n\r\n".to_owned()),
        ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n".to_owned()),
        ("CONNECT to a function", "CONNECT /fn/f/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        (
            "another host in the target",
            "GET http://b/version HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        ),
        ("a user in the host", "GET /version HTTP/1.1\r\nhost: u@a\r\n\r\n".to_owned()),
        ("a path in the host", "GET /version HTTP/1.1\r\nhost: a/b\r\n\r\n".to_owned()),
        ("two hosts in one", "GET /version HTTP/1.1\r\nhost: a, b\r\n\r\n".to_owned()),
        ("a port that is none", "GET /version HTTP/1.1\r\nhost: a:x\r\n\r\n".to_owned()),
    ] {
        let answer = server.raw(request.as_bytes());
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{name}: {answers} answers: {answer}");
        assert!(!answer.contains("wasmtime"), "{name}: what was hidden was served: {answer}");
        // With both framings it is chunked, and the connection ends with the answer (RFC 9112, 6.3).
        let both = name.starts_with("both") && status(&answer) == 200;
        assert!(both || matches!(status(&answer), 0 | 400..=499 | 501 | 505), "{name}: {answer}");
    }
    server.assert_well();
}

#[test]
fn an_error_in_the_middle_of_a_pipeline_ends_it() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let good = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = server.raw(format!("{good}G\x01T / HTTP/1.1\r\nhost: a\r\n\r\n{good}").as_bytes());
    let statuses: Vec<&str> = answer.matches("HTTP/1.1 ").collect();
    assert_eq!(statuses.len(), 2, "{answer}");
    assert!(answer.contains("200 OK") && answer.contains("400 Bad Request"), "{answer}");
    server.assert_well();
}

/// Connects, sends `first`, then `drip` again and again; how long until the server has had enough.
fn lasts(server: &Server, first: &[u8], drip: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let _ = stream.write_all(first);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return began.elapsed(),
            Err(e)
                if !matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                return began.elapsed();
            }
            _ => {}
        }
        if !drip.is_empty() && stream.write_all(drip).is_err() {
            return began.elapsed();
        }
    }
    Duration::MAX
}

#[test]
fn slow_senders_and_readers_are_cut_off() {
    let server = Server::with(&["--client-patience", "0.5"]);
    server.deploy("f", wats::echo().as_bytes(), "payload=6MB&memory=64");
    let head = "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\n";
    let before = server.open_files();
    for (name, first, drip, most) in [
        ("nothing at all", String::new(), "", 3),
        ("half a head", "GET /heal".to_owned(), "", 3),
        ("a head, letter by letter", "GET /healthz HTTP/1.1\r\nhost: a\r\nx: ".to_owned(), "y", 3),
        ("a head, line by line", "GET /healthz HTTP/1.1\r\nhost: a\r\n".to_owned(), "x: y\r\n", 3),
        ("half a body", format!("{head}content-length: 9\r\n\r\nhalf"), "", 3),
        ("a body, letter by letter", format!("{head}content-length: 90000\r\n\r\nhalf"), "x", 3),
        (
            "chunks, letter by letter",
            format!("{head}transfer-encoding: chunked\r\n\r\n"),
            "1\r\nx\r\n",
            3,
        ),
        (
            "an upload, letter by letter",
            "PUT /v1/functions/g HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\n".to_owned(),
            "x",
            3,
        ),
        ("kept alive for nothing", "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "", 3),
    ] {
        let took = lasts(&server, first.as_bytes(), drip.as_bytes());
        assert!(took < Duration::from_secs(most), "{name}: {took:?}");
    }
    // Readers who ask for much and take nothing.
    let mut deaf: Vec<TcpStream> = Vec::new();
    let body = vec![b'x'; 4 << 20];
    for _ in 0..5 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        write!(stream, "{head}content-length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(&body).unwrap();
        deaf.push(stream);
    }
    wambda_tests::eventually(Duration::from_secs(8), || {
        (server.open_files() <= before + 1).then_some(())
    });
    drop(deaf);
    assert_eq!(server.invoke("f", "well").expect(200).text(), "well");
    server.get("/v1/functions/g").expect(404);
    server.assert_well();
}

#[test]
fn who_is_answered_before_all_is_sent_may_still_send_it() {
    let server = Server::with(&["--client-patience", "1.5"]);
    server.deploy("f", &guest("http"), "timeout=10");
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "POST /fn/f/answers-first HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\n\r\n")
        .unwrap();
    stream.write_all(b"aaaa").unwrap();
    let mut answer = String::new();
    while !answer.ends_with("first") {
        let mut bytes = [0; 512];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "cut off after {answer:?}");
        answer.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Three times as long as a head may take.
    for _ in 0..9 {
        std::thread::sleep(Duration::from_millis(500));
        stream.write_all(b"bbbb").unwrap();
    }
    // From here on it is a connection like any other: the next head is waited for, and not for ever.
    write!(stream, "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert!(first(&stream).is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
    let began = Instant::now();
    assert_eq!(first(&stream).as_deref(), Some(""), "its end");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let log = || server.log("f");
    wambda_tests::eventually(Duration::from_secs(2), || {
        log().contains("read 40 bytes").then_some(())
    });
    server.assert_well();
}

/// What comes back first, if something does within 12 s.
fn first(mut stream: &TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// Sends most of a body, and keeps the rest.
fn hold_body(server: &Server, source: &str, line: &str, sent: &[u8], said: usize) -> TcpStream {
    let mut stream = server.connect_from(source);
    let head = format!("{line} HTTP/1.1\r\nhost: h\r\ncontent-length: {said}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // Who has no room does not read on.
    stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let _ = stream.write_all(sent);
    stream
}

#[test]
fn an_address_has_its_share_of_the_memory_for_bodies() {
    let server = Server::with(&["--body-memory", "128", "--client-patience", "60"]);
    server.deploy("f", wats::echo().as_bytes(), "");
    let upload = |source, megabytes: usize| {
        hold_body(&server, source, "PUT /v1/functions/g", &vec![b'x'; megabytes << 20], 64 << 20)
    };
    let call = |source| {
        let line = "POST /v1/functions/f/invoke";
        let mut stream = hold_body(&server, source, line, &[b'x'; 40_000 - 1], 40_000);
        let _ = stream.write_all(b"x");
        first(&stream).unwrap_or_default()
    };
    // One of those who have no room together is refused, whoever asks last.
    let refused = |uploads: &[TcpStream]| -> Vec<String> {
        std::thread::scope(|scope| {
            let waiting: Vec<_> = uploads.iter().map(|one| scope.spawn(|| first(one))).collect();
            waiting.into_iter().filter_map(|one| one.join().unwrap()).collect()
        })
    };
    let mut held: Vec<_> = [44, 44, 24].map(|size| upload("127.0.0.2", size)).into();
    let said = refused(&held);
    assert!(said.iter().all(|said| said.starts_with("HTTP/1.1 429")), "{said:?}");
    let told =
        |said: &String| said.contains("from your address") && said.contains("retry-after: 5");
    assert!((1..3).contains(&said.len()) && said.iter().all(told), "{said:?}");
    // What is left is others'.
    assert!(call("127.0.0.3").starts_with("HTTP/1.1 200"));
    held.extend([44, 44].map(|size| upload("127.0.0.3", size)));
    let said = refused(&held[3..]);
    assert!(said.iter().any(|said| said.starts_with("HTTP/1.1 503")), "{said:?}");
    drop(held);
    assert!(call("127.0.0.2").starts_with("HTTP/1.1 200"));
    let data = tempfile::tempdir().unwrap();
    let said = refused_start(data.path(), &["--body-memory", "100"]);
    assert!(said.contains("--body-memory takes 128 to 1048576 MB, got 100"), "{said}");
    server.assert_well();
}

/// Who would wait to be asked for its body is told at once that there is no room, and keeps it.
#[test]
fn nobody_is_asked_for_a_body_that_there_is_no_room_for() {
    let server = Server::with(&["--body-memory", "128", "--client-patience", "60"]);
    server.deploy("f", wats::echo().as_bytes(), "");
    let expects = |length| {
        let mut stream = server.connect_from("127.0.0.4");
        let head = "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n";
        write!(stream, "{head}content-length: {length}\r\n\r\n").unwrap();
        first(&stream).unwrap_or_default()
    };
    assert!(expects(100_000).starts_with("HTTP/1.1 100"));
    // 96 MB are what one address may have, and 32 are left to another one.
    let upload = |source, megabytes: usize| {
        hold_body(&server, source, "PUT /v1/functions/g", &vec![b'x'; megabytes << 20], 64 << 20)
    };
    let _held = [("127.0.0.2", 60), ("127.0.0.3", 60)].map(|(source, size)| upload(source, size));
    let refused = eventually(Duration::from_secs(10), || {
        let said = expects(100_000);
        (!said.starts_with("HTTP/1.1 100")).then_some(said)
    });
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("retry-after"), "{refused}");
    // Small ones need none of that room.
    assert_eq!(server.invoke("f", "well").expect(200).text(), "well");
    server.assert_well();
}

/// Whose client has gone still has its event, and room for it is not given to the next.
#[test]
fn a_body_counts_for_as_long_as_its_call_runs() {
    let server = Server::with(&["--body-memory", "128"]);
    server.deploy("sleeps", &guest("event"), "memory=64&timeout=60");
    let event = |ms| format!(r#"{{"do":"sleep","ms":{ms},"pad":"{}"}}"#, "x".repeat(5 << 20));
    let call = |ms| {
        let event = event(ms);
        let line = "POST /v1/functions/sleeps/invoke";
        hold_body(&server, "127.0.0.2", line, event.as_bytes(), event.len())
    };
    let calls: Vec<_> = (0..18).map(|_| call(18_000)).collect();
    std::thread::sleep(Duration::from_secs(4));
    drop(calls);
    let refused = first(&call(1)).unwrap_or_default();
    assert!(
        refused.starts_with("HTTP/1.1 429") && refused.contains("from your address"),
        "{refused}"
    );
    eventually(Duration::from_secs(30), || {
        first(&call(1)).unwrap_or_default().starts_with("HTTP/1.1 200").then_some(())
    });
    server.assert_well();
}
