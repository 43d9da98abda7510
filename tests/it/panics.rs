//! What a panic of the host does: the program `panics` is `wambda` with a clock that panics when it is told to. It is
//! read by what decides and keeps: publishing, admission, the plan, queues, users and roles.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use wambda_tests::{Server, eventually, guest};

use crate::wats;

/// A server, and where it hears how often to panic.
fn stage() -> (Server, String) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut arguments = vec!["--confine", "off", "--retry-delays", "0.05,0.1"];
    // What a worker held that panicked is somebody else's then.
    arguments.extend(["--retry-backoff", "0.02,0.2", "--lease-slack", "1"]);
    let server = Server::with_env(&arguments, &[("WAMBDA_PANICS", &*address)]);
    (server, address)
}

/// From now on one in so many readings of the clock panics; none with 0.
fn tell(address: &str, one_in: u64) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(one_in.to_string().as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // It ends when it is so.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

fn panics(server: &Server) -> f64 {
    server.metric("wambda_host_panics_total")
}

#[test]
fn a_panic_is_an_answer_and_is_counted() {
    let (server, address) = stage();
    server.deploy("f", wats::echo().as_bytes(), "");
    assert_eq!(panics(&server), 0.0);
    tell(&address, 1);
    for answer in [
        server.invoke("f", "x"),
        server.put("g", wats::echo().as_bytes(), ""),
        server.request("POST", "/v1/functions/f/invoke?mode=event", &[], b"{}"),
    ] {
        let text = answer.expect(500).text();
        assert!(text.contains("internal error") && !text.contains("as you wished"), "{text}");
    }
    // What does not read the time goes on.
    server.get("/healthz").expect(200);
    server.get("/v1/functions/f").expect(200);
    tell(&address, 0);
    assert!(panics(&server) >= 3.0);
    server.invoke("f", "x").expect(200);
    server.deploy("g", wats::echo().as_bytes(), "");
    server.invoke("g", "x").expect(200);
    assert!(server.said().text().contains("as you wished"), "whoever looks after it is told");
}

/// Wherever the clock panics, nothing is lost by it: places, memory, events, the work that goes on in the background.
#[test]
fn panics_anywhere_leave_nothing_behind() {
    let (server, address) = stage();
    server.deploy("f", wats::echo().as_bytes(), "concurrency=4");
    server.deploy("fresh", wats::echo().as_bytes(), "reuse=fresh");
    server.deploy("event", &guest("event"), "");
    server.deploy("http", &guest("http"), "");
    let mut accepted: usize = (0..6).map(|thread| calls(&server, thread)).sum();
    let rest = server.rest();
    for one_in in [7, 23, 101] {
        tell(&address, one_in);
        let counts = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|n| {
                    scope.spawn({
                        let server = &server;
                        move || calls(server, n)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        accepted += counts;
    }
    tell(&address, 0);
    assert!(panics(&server) > 50.0, "{}", panics(&server));
    // Each of them runs, and not one place of the four is gone.
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| server.invoke("f", "x"))).collect();
        calls.into_iter().for_each(|call| drop(call.join().unwrap().expect(200)));
    });
    for name in ["fresh", "event"] {
        server.invoke(name, r#"{"do":"count"}"#).expect(200);
    }
    server.get("/fn/http/status").expect(418);
    // Whatever was acknowledged has ended.
    let ended = || crate::forks::ended(&server, "event") as usize;
    assert!(accepted > 20, "{accepted}");
    eventually(Duration::from_secs(30), || (ended() >= accepted).then_some(()));
    eventually(Duration::from_secs(30), || {
        let queue = server.get("/v1/queues/async:event").expect(200).json();
        (queue["depth"] == 0 && queue["in_flight"] == 0).then_some(())
    });
    eventually(Duration::from_secs(5), || {
        let busy = |name: &str| {
            server.metric(&format!("wambda_instances{{function=\"{name}\",state=\"busy\"}}"))
        };
        (["f", "fresh", "event", "http"].map(busy) == [0.0; 4]).then_some(())
    });
    // What is idle is there by right.
    server.assert_rests(&rest, 32);
    let before = panics(&server);
    server.put("new", wats::echo().as_bytes(), "").expect(201);
    server.request("DELETE", "/v1/functions/new", &[], b"").expect(204);
    assert_eq!(panics(&server), before);
}

/// Calls of all kinds, whatever comes of them; how many events were acknowledged.
fn calls(server: &Server, thread: usize) -> usize {
    let mut accepted = 0;
    for n in 0..60 {
        let answer = match (thread + n) % 6 {
            0 => server.invoke("f", "x"),
            1 => server.invoke("fresh", "x"),
            2 => server.invoke("event", r#"{"do":"count"}"#),
            // Its head may be on its way when the host panics; then it is cut, and not passed as whole.
            3 => match server.try_request("GET", "/fn/http/status", &[], b"") {
                Ok(answer) => answer,
                Err(ureq::Error::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => continue,
                Err(error) => panic!("{error}"),
            },
            4 => server.put(&format!("own{thread}"), wats::echo().as_bytes(), ""),
            _ => {
                let path = "/v1/functions/event/invoke?mode=event";
                let answer = server.request("POST", path, &[], br#"{"do":"count"}"#);
                accepted += usize::from(answer.status == 202);
                answer
            }
        };
        if answer.status == 418 {
            assert_eq!(answer.text(), "teapot");
        }
        assert!(matches!(answer.status, 200..=202 | 418 | 429 | 500..=504), "{}", answer.status);
    }
    accepted
}
