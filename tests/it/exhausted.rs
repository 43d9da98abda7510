//! A server whose open files have run out: it accepts no connection, and starts no compiler, and goes on with what it
//! has; when there are some again, so does everything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use wambda_tests::{Server, eventually};

use crate::wats;

/// Lets the server have so many open files.
fn allow(server: &Server, files: u64) {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let most: u64 = line.split_whitespace().nth(4).unwrap().parse().unwrap();
    let limit = Rlimit { current: Some(files.min(most)), maximum: Some(most) };
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

/// A request on a connection that is open already, and its answer.
fn ask(mut stream: &TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[test]
fn open_files_that_run_out_are_survived() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    server.invoke("f", "x").expect(200);
    let held = TcpStream::connect(server.address()).unwrap();
    held.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let invoke = "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    assert!(ask(&held, invoke).ends_with("hi"));
    let files = server.open_files() as u64;
    allow(&server, files + 10);
    // Those beyond that wait with the kernel.
    let waiting: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    server.said().find("cannot accept a connection", Duration::from_secs(5));
    let lines = server.said().lines();
    let spent = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) as f64 / 100.0
    };
    let before = spent();
    // It goes on with those whom it has.
    for _ in 0..20 {
        let answer = ask(&held, invoke);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(spent() - before < 0.5, "it tried again and again: {} CPU-seconds", spent() - before);
    let said = server.said().lines() - lines;
    assert!(said <= 30, "{said} lines about it in a second");
    // What needs more files is told so, and nothing is lost by it.
    let code = wats::counter();
    let upload = format!(
        "PUT /v1/functions/g HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{code}",
        code.len()
    );
    let answer = ask(&held, &upload);
    assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    assert!(ask(&held, invoke).ends_with("hi"));
    drop(waiting);
    allow(&server, u64::MAX);
    let put = || (server.put("g", code.as_bytes(), "").status == 201).then_some(());
    eventually(Duration::from_secs(5), put);
    server.invoke("g", "x").expect(200);
    server.invoke("f", "x").expect(200);
    drop(held);
    eventually(Duration::from_secs(5), || (server.open_files() as u64 <= files).then_some(()));
    server.assert_well();
}
