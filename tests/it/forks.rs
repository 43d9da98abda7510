//! Functions that call themselves, each call several times where it can: what becomes of one event, and of many,
//! is bounded, ends, and is not noticed by a neighbour.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wambda_tests::{Server, eventually, guest, percentile};

use crate::wats;

/// Longest that a neighbour waits, 95 times of a hundred: the rest is left to what else goes on on the machine.
const NEIGHBOUR_MAX: Duration = Duration::from_millis(50);
/// How often a function may be called in one lineage.
const LINEAGE: usize = 16;
const EVENTS: usize = 40;

fn arn(name: &str) -> String {
    format!("arn:aws:lambda:us-east-1:000000000000:function:{name}")
}

/// What a neighbour waits while this happens.
pub(crate) fn beside<T>(server: &Server, act: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let mut took = Vec::new();
            while !stop.load(Relaxed) {
                took.push(server.invoke("neighbour", "hi").expect(200).took);
                std::thread::sleep(Duration::from_millis(1));
            }
            let p95 = percentile(&mut took, 95);
            assert!(took.last() < Some(&Duration::from_secs(2)), "it waited {:?}", took.last());
            p95
        });
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        stop.store(true, Relaxed);
        let slowest = neighbour.join().unwrap();
        let acted = acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(slowest < NEIGHBOUR_MAX, "the neighbour waited {slowest:?}");
        acted
    })
}

/// Asynchronous events of a function that have ended.
pub(crate) fn ended(server: &Server, name: &str) -> f64 {
    let of = |outcome: &str| {
        let labels = format!("{{function=\"{name}\",outcome=\"{outcome}\"}}");
        server.metric(&format!("wambda_async_events_total{labels}"))
    };
    of("succeeded") + of("dead") + of("expired")
}

/// Calls of a function.
pub(crate) fn calls(server: &Server, name: &str) -> usize {
    let of = |outcome: &str| {
        let labels = format!("{{function=\"{name}\",outcome=\"{outcome}\"}}");
        server.metric(&format!("wambda_invocations_total{labels}"))
    };
    (of("success") + of("error") + of("trap") + of("timeout")) as usize
}

/// Sends the events and waits until nothing comes of them any more; how many calls there were in all.
fn burst(server: &Server, names: &[&str]) -> usize {
    for n in 0..EVENTS {
        let path = format!("/v1/functions/{}/invoke?mode=event", names[n % names.len()]);
        server.request("POST", &path, &[], b"{}").expect(202);
    }
    let total = || names.iter().map(|name| ended(server, name)).sum::<f64>() as usize;
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut last, mut since) = (total(), Instant::now());
    while since.elapsed() < Duration::from_secs(1) || last < EVENTS {
        assert!(Instant::now() < deadline, "it goes on: {last} events by now");
        std::thread::sleep(Duration::from_millis(20));
        let now = total();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    names.iter().map(|name| calls(server, name)).sum()
}

/// Each of many events goes on to a function that sends it on in its turn, by ending well or by failing. No
/// function is its own destination: that is refused.
#[test]
fn many_loops_of_destinations_end() {
    let server = Server::with(&["--retry-delays", "0.05,0.1", "--retry-backoff", "0.02,0.2"]);
    server.deploy("neighbour", wats::echo().as_bytes(), "");
    let loops: [(&str, &[&str], String); 3] = [
        ("on_success", &["there", "back"], wats::core("(i64.const 0)")),
        ("on_success", &["one", "two", "three"], wats::core("(i64.const 0)")),
        ("on_failure", &["fails", "too"], wats::core("unreachable")),
    ];
    for (kind, names, code) in &loops {
        for name in *names {
            server.deploy(name, code.as_bytes(), "retries=0");
        }
        for (at, name) in names.iter().enumerate() {
            let to = |name: &str| format!("retries=0&{kind}={}", arn(name));
            for itself in [name.to_string(), format!("{name}:$LATEST")] {
                server.put(name, code.as_bytes(), &to(&itself)).expect(400);
            }
            server.deploy(name, code.as_bytes(), &to(names[(at + 1) % names.len()]));
        }
    }
    for (_, names, _) in &loops {
        let total = beside(&server, || burst(&server, names));
        println!("{EVENTS} events of {names:?} became {total}");
        let most = EVENTS * (LINEAGE * names.len() + 1);
        assert!((EVENTS * LINEAGE..=most).contains(&total), "{names:?}: {total}");
    }
    let rest = server.rest();
    burst(&server, loops[0].1);
    // Idle instances are there by right.
    server.assert_rests(&rest, 32);
    for name in loops.iter().flat_map(|(_, names, _)| *names) {
        let queue = server.get(&format!("/v1/queues/async:{name}")).expect(200).json();
        assert_eq!((&queue["depth"], &queue["in_flight"]), (&0.into(), &0.into()), "{name}");
    }
    server.assert_well();
}

/// Each call would make two: the server itself is out of their reach, however they spell it.
#[test]
fn functions_cannot_call_themselves_by_the_network() {
    let server = Server::start();
    server.deploy("neighbour", wats::echo().as_bytes(), "");
    crate::egress::role(&server, "all", &["*"]);
    let port = server.address().rsplit(':').next().unwrap().to_owned();
    server.deploy("fork", &guest("http"), "timeout=5&role=all");
    let before = server.metric("wambda_invocations_total{function=\"fork\",outcome=\"success\"}");
    let hosts = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "127.1"];
    beside(&server, || {
        std::thread::scope(|scope| {
            for host in hosts {
                let (server, port) = (&server, &port);
                scope.spawn(move || {
                    let authority = format!("{host}:{port}");
                    for _ in 0..8 {
                        let headers = [
                            ("x-scheme", "http"),
                            ("x-authority", &*authority),
                            ("x-path", "/fn/fork/fetch"),
                        ];
                        let said = server.request("GET", "/fn/fork/fetch", &headers, b"");
                        assert!(said.expect(200).text().starts_with("error"), "{host}");
                    }
                });
            }
        });
    });
    let of = "wambda_invocations_total{function=\"fork\",outcome=\"success\"}";
    let calls = (hosts.len() * 8) as f64;
    eventually(Duration::from_secs(5), || (server.metric(of) - before >= calls).then_some(()));
    assert_eq!(server.metric(of) - before, calls, "nobody else called it");
    server.assert_well();
}
