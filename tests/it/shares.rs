//! No function gets all there is: of the memory for guests, of the instance slots, of the account's concurrency; nor
//! all queues the whole disk. Each beside a function that goes on as before.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wambda_tests::{Server, eventually, guest};

use crate::wats;

/// What the neighbour says.
fn hello(server: &Server) -> Duration {
    let answer = server.invoke("hello", "{}").expect(200);
    assert_eq!(answer.text(), "{}");
    answer.took
}

/// Grows until it gets no more, and then holds that until its time is over.
fn hog() -> String {
    wats::core_with(
        "(memory (export \"memory\") 1)",
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
         (loop $l (br $l)) (i64.const 0)",
    )
}

#[test]
fn one_function_does_not_get_all_of_the_memory() {
    let server = Server::with(&["--memory-budget", "64"]);
    server.deploy("hello", wats::echo().as_bytes(), "");
    server.deploy("other", wats::counter().as_bytes(), "");
    server.deploy("hog", hog().as_bytes(), "memory=1024&timeout=4");
    hello(&server);
    // The first call shows what the others will want.
    server.invoke("hog", "x").expect(504);
    hello(&server);
    std::thread::scope(|scope| {
        let holds = scope.spawn(|| server.invoke("hog", "x"));
        let used = || server.metric("wambda_memory_used_bytes");
        eventually(Duration::from_secs(3), || (used() > 46e6).then_some(()));
        assert!(used() < 52e6, "{}", used());
        // Who is there goes on, who is new comes in, and the function itself gets no more of it.
        for _ in 0..20 {
            let took = hello(&server);
            assert!(took < Duration::from_millis(500), "{took:?}");
        }
        assert_eq!(server.invoke("other", "x").expect(200).text(), "1");
        let refused = server.invoke("hog", "x").expect(429);
        assert!(refused.message().contains("memory (limit 50331648, now"), "{}", refused.text());
        assert_eq!(refused.header("retry-after"), "1");
        holds.join().unwrap().expect(504);
    });
    assert_eq!(server.metric("wambda_throttles_total{function=\"hog\",reason=\"memory\"}"), 1.0);
    server.assert_well();
}

#[test]
fn a_function_that_wants_giants_does_not_cost_others_their_idle_instances() {
    let server = Server::with(&["--memory-budget", "64"]);
    let names: Vec<String> = (0..8).map(|at| format!("small-{at}")).collect();
    for name in &names {
        server.deploy(name, wats::echo().as_bytes(), "");
        server.invoke(name, "{}").expect(200);
    }
    server.deploy("hog", &guest("event"), "memory=1024&timeout=6");
    server.invoke("hog", r#"{"do":"sleep","ms":1500}"#).expect(200);
    server.invoke("hog", r#"{"do":"take","mb":40}"#).expect(200);
    std::thread::scope(|scope| {
        let call = || server.invoke("hog", r#"{"do":"sleep","ms":2500}"#);
        let calls: Vec<_> = (0..12).map(|_| scope.spawn(call)).collect();
        // By its calls it would have many instances of 40 MB each, which the plan has to refuse it.
        let throttled =
            || server.metric("wambda_throttles_total{function=\"hog\",reason=\"memory\"}");
        eventually(Duration::from_secs(2), || (throttled() > 8.0).then_some(()));
        std::thread::sleep(Duration::from_secs(1));
        for name in &names {
            server.invoke(name, "{}").expect(200);
            let starts =
                |start| format!("wambda_starts_total{{function=\"{name}\",start=\"{start}\"}}");
            assert_eq!(server.metric(&starts("warm")), 1.0, "{name} is as warm as before");
        }
        let statuses: Vec<_> = calls.into_iter().map(|call| call.join().unwrap().status).collect();
        assert!(statuses.iter().all(|status| [429, 200].contains(status)), "{statuses:?}");
    });
    server.assert_well();
}

#[test]
fn one_function_does_not_get_all_instance_slots() {
    let server = Server::with(&["--instance-slots", "64"]);
    let memories = (0..7).map(|_| "(memory 1)").collect::<String>();
    let definitions = format!("(memory (export \"memory\") 1) {memories}");
    let wide = wats::core_with(&definitions, "(loop $l (br $l)) (i64.const 0)");
    server.deploy("hello", wats::echo().as_bytes(), "");
    server.deploy("other", wats::counter().as_bytes(), "");
    server.deploy("wide", wide.as_bytes(), "timeout=3");
    hello(&server);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..12).map(|_| scope.spawn(|| server.invoke("wide", "x"))).collect();
        let busy = || server.get("/v1/functions/wide/scaling").json()["instances"]["busy"].as_u64();
        eventually(Duration::from_secs(2), || (busy() >= Some(4)).then_some(()));
        for _ in 0..20 {
            let took = hello(&server);
            assert!(took < Duration::from_millis(500), "{took:?}");
            // Six of eight memories each. Who wants one more is counted until that is refused; who had it would go on
            // for three seconds.
            eventually(Duration::from_secs(2), || (busy() <= Some(6)).then_some(()));
        }
        assert_eq!(server.invoke("other", "x").expect(200).text(), "1");
        let answers: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        for answer in answers.iter().filter(|answer| answer.status != 504) {
            assert_eq!(answer.status, 429, "{}", answer.text());
        }
    });
    server.assert_well();
}

/// Who calls once the last call is over finds room, though the last instance may be on its way out still, and the next one
/// is being made ahead of time.
#[test]
fn calls_one_after_the_other_have_room() {
    let server = Server::with(&["--memory-budget", "256", "--instance-slots", "8"]);
    let fill = "(memory.fill (i32.const 4096) (i32.const 1) (i32.const 0x9f00000)) (i64.const 1)";
    let large = wats::core_with("(memory (export \"memory\") 2560)", fill);
    let memories = (0..3).map(|_| "(memory 1)").collect::<String>();
    let wide = wats::core_with(
        &format!("(memory (export \"memory\") 1) {memories}"),
        "(memory.fill (i32.const 4096) (i32.const 1) (i32.const 60000)) (i64.const 1)",
    );
    for (name, code) in [("large", large), ("wide", wide)] {
        for reuse in ["fresh", "warm"] {
            for _ in 0..4 {
                // What the version before has idle goes as well.
                let config = format!("memory=192&timeout=20&reuse={reuse}");
                server.deploy(name, code.as_bytes(), &config);
                for _ in 0..4 {
                    server.invoke(name, "x").expect(200);
                }
            }
        }
        // Two of these do not fit beside each other.
        server.deploy("other", code.as_bytes(), "memory=192&timeout=20&reuse=fresh");
        for _ in 0..4 {
            server.invoke(name, "x").expect(200);
            server.invoke("other", "x").expect(200);
        }
    }
    server.assert_well();
}

/// The same of an HTTP function that goes on when its caller has all of its response.
#[test]
fn who_has_its_response_has_room_for_the_next_call() {
    let server = Server::with(&["--memory-budget", "64"]);
    for reuse in ["fresh", "warm"] {
        server.deploy("lingers", &guest("proxy"), &format!("memory=64&timeout=5&reuse={reuse}"));
        for _ in 0..4 {
            let answer = server.get("/fn/lingers/lingers").expect(200);
            assert_eq!(answer.text(), "ok");
            assert!(answer.took < Duration::from_millis(900), "{:?}", answer.took);
        }
        let waits = "wambda_queue_wait_seconds_count{function=\"lingers\"}";
        assert!(server.metric(waits) >= 1.0, "none had to wait");
        // What another version's calls will take is not known before the first of them.
        server.request("DELETE", "/v1/functions/lingers", &[], b"").expect(204);
        let used = || server.metric("wambda_memory_used_bytes");
        eventually(Duration::from_secs(5), || (used() < 1e6).then_some(()));
    }
    server.assert_well();
}

#[test]
fn one_function_does_not_get_all_places() {
    let server = Server::with(&["--concurrency", "32"]);
    server.deploy("hello", wats::echo().as_bytes(), "");
    server.deploy("sleep", &guest("event"), "timeout=8");
    hello(&server);
    std::thread::scope(|scope| {
        let event = r#"{"do":"sleep","ms":6000}"#;
        let calls: Vec<_> =
            (0..40).map(|_| scope.spawn(|| server.invoke("sleep", event))).collect();
        let running = || server.get("/v1/functions/sleep/scaling").json()["running"].as_u64();
        eventually(Duration::from_secs(4), || (running() == Some(30)).then_some(()));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            let took = hello(&server);
            assert!(took < Duration::from_millis(500), "{took:?}");
            assert!(running() <= Some(30));
        }
        for call in calls {
            call.join().unwrap().expect(200);
        }
    });
    server.assert_well();
}

#[test]
fn all_queues_together_are_bounded() {
    let server = Server::with(&["--event-storage", "2"]);
    for name in ["a", "b"] {
        server.deploy(name, wats::echo().as_bytes(), "");
        server.request("POST", &format!("/v1/queues/async:{name}/pause"), &[], b"").expect(200);
    }
    let send = |name: &str| {
        let event = format!("{:?}", "x".repeat(500_000));
        let path = format!("/v1/functions/{name}/invoke?mode=event");
        server.request("POST", &path, &[], event.as_bytes())
    };
    (0..4).for_each(|_| drop(send("a").expect(202)));
    let refused = send("b").expect(429);
    let message = refused.message();
    assert!(message.contains("may hold 2097152 bytes"), "{message}");
    assert!(!refused.header("retry-after").is_empty());
    // It is looked at once a second what there is.
    server.request("POST", "/v1/queues/async:a/purge", &[], b"").expect(200);
    eventually(Duration::from_secs(5), || (send("b").status == 202).then_some(()));
    server.assert_well();
}

#[test]
fn metrics_are_true_however_often_they_are_asked_for() {
    let server = Server::start();
    server.deploy("hello", wats::echo().as_bytes(), "");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    server.get("/metrics").expect(200);
                }
            });
        }
        for count in 1..=20 {
            hello(&server);
            let series = "wambda_invocations_total{function=\"hello\",outcome=\"success\"}";
            assert_eq!(server.metric(series), f64::from(count), "as of when it was asked");
        }
        stop.store(true, Relaxed);
    });
    server.assert_well();
}
