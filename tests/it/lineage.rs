//! What calls carry on over the network: which functions they have come through, and when whoever calls has run out of time.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use wambda_tests::{Server, eventually, guest};

use crate::egress::{World, fetch, http, world};

/// A host that sends each request on to the server, as `written` says with the trace header of what it got.
fn relay(
    server: &Server,
    written: impl Fn(&str, &str) -> String + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let relay = TcpListener::bind("127.0.0.2:0").unwrap();
    let authority = relay.local_addr().unwrap().to_string();
    let (own, hops) = (server.address().to_owned(), Arc::<AtomicUsize>::default());
    let (host, count, written) = (authority.clone(), Arc::clone(&hops), Arc::new(written));
    std::thread::spawn(move || {
        for mut from in relay.incoming().flatten() {
            let (own, host, written) = (own.clone(), host.clone(), Arc::clone(&written));
            count.fetch_add(1, SeqCst);
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    from.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let mut lines = head.lines();
                let trace = lines.find(|line| line.starts_with("x-amzn-trace-id:")).unwrap();
                let mut to = std::net::TcpStream::connect(&*own).unwrap();
                to.write_all(written(&host, trace).as_bytes()).unwrap();
                let _ = std::io::copy(&mut to, &mut from);
            });
        }
    });
    (authority, hops)
}

#[test]
fn loops_over_the_network_end() {
    let World { server, .. } = world(&[]);
    let (authority, hops) = relay(&server, |host, trace| {
        format!(
            "GET /fn/f/fetch HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-scheme: http\r\n\
             x-authority: {host}\r\nx-path: /\r\n{trace}\r\n\r\n"
        )
    });
    let said = http(&server, "f", &authority);
    assert!(said.starts_with("200"), "{said}");
    assert_eq!(hops.load(SeqCst), 16);
    server.assert_well();
}

const SLEEP: &str = r#"{"do":"sleep","ms":8000}"#;

/// A request that has a function sleep, with the trace header of who calls.
fn sleeps(path: &str, trace: &str) -> String {
    let length = SLEEP.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{trace}\r\n\
         content-length: {length}\r\n\r\n{SLEEP}"
    )
}

#[test]
fn nobody_works_for_a_caller_who_has_run_out_of_time() {
    let World { server, .. } = world(&[]);
    server.deploy("slow", &guest("event"), "timeout=30");
    let (authority, _) = relay(&server, |_, trace| sleeps("/v1/functions/slow/invoke", trace));
    for (name, upload) in [("two", guest("http")), ("three", guest("http3"))] {
        server.deploy(name, &upload, "timeout=1&role=all");
        let before = server.metric(STOPPED);
        fetch(&server, name, "http", &authority, &[]).expect(504);
        let stopped = || (server.metric(STOPPED) > before).then_some(());
        eventually(Duration::from_secs(3), stopped);
    }
    assert!(server.log("slow").contains("Task timed out after 0."), "{}", server.log("slow"));
    server.assert_well();
}

const STOPPED: &str = "wambda_kills_total{function=\"slow\",reason=\"timeout\"}";

#[test]
fn every_front_heeds_the_deadline_of_who_calls() {
    let World { server, .. } = world(&[]);
    server.deploy("slow", &guest("event"), "timeout=2");
    server.deploy("hurried", &guest("http"), "timeout=1&role=all");
    server.deploy("patient", &guest("http"), "timeout=30&role=all");
    let v1 = "/v1/functions/slow/invoke";
    let lambda = "/2015-03-31/functions/slow/invocations";
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    for (count, path) in [v1, lambda].into_iter().enumerate() {
        let noted = Arc::clone(&seen);
        let (authority, _) = relay(&server, move |_, trace| {
            *noted.lock().unwrap() = trace.split_once(':').unwrap().1.trim().to_owned();
            sleeps(path, trace)
        });
        // Nobody's time grows by it.
        fetch(&server, "patient", "http", &authority, &[]);
        let log = server.log("slow");
        assert_eq!(log.matches("Task timed out after 2.00 seconds").count(), count + 1, "{log}");
        let before = server.metric(STOPPED);
        fetch(&server, "hurried", "http", &authority, &[]).expect(504);
        let stopped = || (server.metric(STOPPED) > before).then_some(());
        eventually(Duration::from_secs(3), stopped);
    }
    let log = server.log("slow");
    let times =
        ["Task timed out after 0.", "Task timed out after 1."].map(|t| log.matches(t).count());
    assert_eq!(times[0] + times[1], 2, "{log}");

    // Whoever keeps it and sends it again has nothing stopped, and runs nothing.
    let sealed = seen.lock().unwrap().clone();
    let call = |path: &str, trace: &str, event: &str| {
        server.request("POST", path, &[("x-amzn-trace-id", trace)], event.as_bytes())
    };
    let (stopped, log) = (server.metric(STOPPED), server.log("slow").len());
    for path in [v1, lambda, "/fn/slow"] {
        let text = call(path, &sealed, SLEEP).expect(504).text();
        assert!(text.contains("the function that calls has run out of time"), "{path}: {text}");
    }
    assert_eq!((server.metric(STOPPED), server.log("slow").len()), (stopped, log));

    // Nobody else can shorten a call.
    let short = r#"{"do":"sleep","ms":300}"#;
    let (known, mac) = sealed.rsplit_once(':').unwrap();
    let digit = if mac.starts_with('0') { '1' } else { '0' };
    for forged in [format!("{known}:{digit}{}", &mac[1..]), known.to_owned(), "Deadline=1".into()] {
        for path in [v1, lambda] {
            call(path, &forged, short).expect(200);
        }
    }
    // An event's sender does not wait for it.
    call(&format!("{v1}?mode=event"), &sealed, short).expect(202);
    let done = "wambda_async_events_total{function=\"slow\",outcome=\"succeeded\"}";
    eventually(Duration::from_secs(5), || (server.metric(done) >= 1.0).then_some(()));
    server.assert_well();
}
