//! Stopping: running invocations end, new ones are not taken.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use wambda_tests::{Server, eventually, guest};

/// Waits until `f` runs.
fn runs(server: &Server) {
    let running = || server.get("/v1/functions/f/scaling").json()["running"] == 1;
    eventually(Duration::from_secs(5), || running().then_some(()));
}

#[test]
fn sigterm_lets_running_invocations_end() {
    let mut server = Server::start();
    server.deploy("f", &guest("event"), "timeout=10");
    let answer = std::thread::scope(|scope| {
        let running = scope.spawn(|| server.invoke("f", r#"{"do":"sleep","ms":1500}"#));
        runs(&server);
        server.signal(Signal::TERM);
        running.join().unwrap()
    });
    assert_eq!(answer.expect(200).text(), "\"awake\"");
    assert!(server.wait(Duration::from_secs(5)), "it ends well");
}

/// Whom the kernel has let in before the signal came is answered, though the server has not seen the connections yet.
#[test]
fn who_is_connected_is_answered() {
    use std::io::{Read, Write};
    let mut server = Server::start();
    server.deploy("f", &guest("event"), "timeout=10");
    server.signal(Signal::STOP);
    let head = "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: 14\r\n\r\n";
    let streams: Vec<_> = (0..64)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
            write!(stream, "{head}{{\"do\":\"count\"}}").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream
        })
        .collect();
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for mut stream in streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
    assert!(server.wait(Duration::from_secs(5)), "it ends well");
}

#[test]
fn a_second_signal_and_the_drain_deadline_end_at_once() {
    for second in [true, false] {
        let drain = if second { "60" } else { "1" };
        let mut server = Server::with(&["--drain", drain]);
        server.deploy("f", &guest("event"), "timeout=60");
        let url = format!("{}/v1/functions/f/invoke", server.url);
        let running =
            std::thread::spawn(move || drop(ureq::post(&url).send(r#"{"do":"sleep","ms":50000}"#)));
        runs(&server);
        let began = Instant::now();
        server.signal(Signal::INT);
        if second {
            // The first one is known.
            let refused = || std::net::TcpStream::connect(server.address()).is_err();
            eventually(Duration::from_secs(2), || refused().then_some(()));
            server.signal(Signal::INT);
        }
        assert!(server.wait(Duration::from_secs(5)));
        assert!(began.elapsed() < Duration::from_secs(3), "second signal: {second}");
        running.join().unwrap();
    }
}

#[test]
fn followers_do_not_hold_up_the_end() {
    let mut server = Server::start();
    server.deploy("f", &guest("event"), "");
    let url = format!("{}/v1/functions/f/logs?follow=1", server.url);
    let (told, head) = std::sync::mpsc::channel();
    let follower = std::thread::spawn(move || {
        let answer = ureq::get(&url).call().unwrap();
        told.send(()).unwrap();
        answer.into_body().read_to_string()
    });
    head.recv_timeout(Duration::from_secs(10)).unwrap();
    server.signal(Signal::TERM);
    assert!(server.wait(Duration::from_secs(5)));
    follower.join().unwrap().unwrap();
}

#[test]
fn invocations_whose_caller_has_gone_end_as_well() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::on(&dir.path().join("data"), &[]);
    server.deploy("f", &guest("event"), "timeout=10");
    let event = r#"{"do":"sleep","ms":1500}"#;
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    let head = "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: x\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{event}", event.len()).unwrap();
    let began = Instant::now();
    runs(&server);
    drop(stream);
    server.signal(Signal::TERM);
    assert!(server.wait(Duration::from_secs(8)));
    assert!(began.elapsed() > Duration::from_millis(1_400), "it was cut off");
}
