//! Stopping: running invocations end, new ones are not taken.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use wambda_tests::{Server, guest};

#[test]
fn sigterm_lets_running_invocations_end() {
    let mut server = Server::start();
    server.deploy("f", &guest("event"), "timeout=10");
    let answer = std::thread::scope(|scope| {
        let running = scope.spawn(|| server.invoke("f", r#"{"do":"sleep","ms":700}"#));
        std::thread::sleep(Duration::from_millis(250));
        server.signal(Signal::TERM);
        running.join().unwrap()
    });
    assert_eq!(answer.expect(200).text(), "\"awake\"");
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
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        server.signal(Signal::INT);
        if second {
            std::thread::sleep(Duration::from_millis(200));
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
    let follower =
        std::thread::spawn(move || ureq::get(&url).call().unwrap().into_body().read_to_string());
    std::thread::sleep(Duration::from_millis(300));
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
    std::thread::sleep(Duration::from_millis(300));
    drop(stream);
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    server.signal(Signal::TERM);
    assert!(server.wait(Duration::from_secs(8)));
    assert!(began.elapsed() > Duration::from_millis(800), "it was cut off");
}
