//! What a warm invocation allocates: the program `counted` is `wambda` with an allocator that counts. A task that is
//! begun, a channel, a boxed future more, each is an allocation more: this is the alarm for the hot path.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use wambda_tests::{Server, guest};

use crate::wats;

/// Invocations that are counted.
const COUNT: u64 = 2_000;

/// Allocations so far.
fn allocations(counter: &str) -> u64 {
    let mut text = String::new();
    TcpStream::connect(counter).unwrap().read_to_string(&mut text).unwrap();
    text.trim().parse().unwrap()
}

/// Sends invocations on one connection.
fn invoke(stream: &mut TcpStream, name: &str, count: u64) {
    let request = format!(
        "POST /v1/functions/{name}/invoke HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let mut answer = [0; 1_024];
    for _ in 0..count {
        stream.write_all(request.as_bytes()).unwrap();
        let read = stream.read(&mut answer).unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 "), "{:?}", &answer[..read]);
    }
}

#[test]
fn warm_invocations_allocate_no_more_than_they_did() {
    let counter = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let env = [("WAMBDA_COUNTED", &*counter)];
    let server = Server::with_env(&["--confine", "off"], &env);
    server.deploy("core", wats::echo().as_bytes(), "");
    server.deploy("event", &guest("hello"), "");
    for (name, most) in [("core", CORE_MOST), ("event", EVENT_MOST)] {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        invoke(&mut stream, name, 500);
        let before = allocations(&counter);
        invoke(&mut stream, name, COUNT);
        let each = (allocations(&counter) - before) as f64 / COUNT as f64;
        println!("{name}: {each:.2} allocations an invocation");
        // What goes on beside them, ten times a second, is a fraction of one.
        assert!(each < most + 0.9, "{name}: {each:.2} allocations an invocation, {most} allowed");
    }
    server.assert_well();
}

/// Allocations of one request, hyper's included.
const CORE_MOST: f64 = 24.0;
const EVENT_MOST: f64 = 30.0;
