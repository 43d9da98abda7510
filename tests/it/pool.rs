//! Reuse, isolation, scaling: which instance serves, how many there are, and who waits.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use wambda_tests::{Server, eventually, guest};

use crate::wats;

const PATIENCE: Duration = Duration::from_secs(10);

fn instances(server: &Server, name: &str) -> Value {
    server.get(&format!("/v1/functions/{name}/scaling")).expect(200).json()["instances"].clone()
}

#[test]
fn warm_instances_are_reused_and_fresh_ones_are_not() {
    let server = Server::start();
    server.deploy("warm", wats::counter().as_bytes(), "reuse=warm");
    server.deploy("fresh", wats::counter().as_bytes(), "reuse=fresh");
    let answers = |name: &str| -> Vec<String> {
        (0..4).map(|_| server.invoke(name, "x").expect(200).text()).collect()
    };
    assert_eq!(answers("warm"), ["1", "2", "3", "4"]);
    assert_eq!(answers("fresh"), ["1", "1", "1", "1"]);
    assert_eq!(server.invoke("warm", "x").header("x-wambda-start"), "warm");
    // A fresh instance waits for the next event: it was made after the last answer.
    eventually(PATIENCE, || (instances(&server, "fresh")["prewarmed"] == 1).then_some(()));
    assert_eq!(server.invoke("fresh", "x").header("x-wambda-start"), "prewarmed");
    assert!(server.metric("wambda_starts_total{function=\"fresh\",start=\"prewarmed\"}") >= 1.0);
}

#[test]
fn a_trap_retires_the_instance() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "");
    let count = || server.invoke("f", r#"{"do":"count"}"#).expect(200).text();
    assert_eq!([count(), count()], ["1", "2"]);
    server.invoke("f", r#"{"do":"error"}"#).expect(500);
    assert_eq!(count(), "3", "an error of its own leaves the instance as it is");
    server.invoke("f", r#"{"do":"panic"}"#).expect(500);
    assert_eq!(count(), "1", "a trap does not");
}

#[test]
fn reuse_is_switched_off_where_only_reused_instances_trap() {
    let server = Server::start();
    let once = wats::core_with(
        "(memory (export \"memory\") 1) (global $used (mut i32) (i32.const 0))",
        "(if (global.get $used) (then unreachable)) (global.set $used (i32.const 1)) (i64.const 0)",
    );
    server.deploy("once", once.as_bytes(), "reuse=warm");
    let statuses: Vec<u16> = (0..12).map(|_| server.invoke("once", "x").status).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 500).count(), 3, "{statuses:?}");
    assert!(statuses.ends_with(&[200, 200, 200, 200]), "{statuses:?}");
    assert_eq!(server.metric("wambda_reuse_switched_total{function=\"once\"}"), 1.0);
}

#[test]
fn a_new_version_gets_instances_of_its_own() {
    let server = Server::start();
    server.deploy("f", wats::counter().as_bytes(), "");
    assert_eq!([server.invoke("f", "x").text(), server.invoke("f", "x").text()], ["1", "2"]);
    server.deploy("f", wats::counter().as_bytes(), "env.CHANGED=1");
    assert_eq!(server.invoke("f", "x").text(), "1");
    let slots = || server.metric("wambda_pool_slots{engine=\"main\",state=\"core_instances\"}");
    eventually(PATIENCE, || (slots() <= 1.0).then_some(()));
    server.request("DELETE", "/v1/functions/f", &[], b"").expect(204);
    eventually(PATIENCE, || (slots() == 0.0).then_some(()));
}

#[test]
fn provisioned_instances_are_there_before_the_first_event() {
    let mut server = Server::start();
    server.deploy("f", wats::counter().as_bytes(), "provisioned=3");
    eventually(PATIENCE, || (instances(&server, "f")["prewarmed"] == 3).then_some(()));
    assert_eq!(server.invoke("f", "x").header("x-wambda-start"), "prewarmed");
    let scaling = server.get("/v1/functions/f/scaling").json();
    assert_eq!((&scaling["desired"], &scaling["min"]), (&Value::from(3), &Value::from(3)));
    assert_eq!(scaling["decisions"][0]["reason"], "provisioned");
    let wanted = || server.metric("wambda_desired_instances{function=\"f\"}");
    eventually(PATIENCE, || (wanted() == 3.0).then_some(()));
    server.kill();
    server.restart();
    eventually(PATIENCE, || (instances(&server, "f")["prewarmed"] == 3).then_some(()));
}

/// Runs `count` invocations at once; returns their statuses and the largest number that ran
/// together.
fn crowd(server: &Server, count: usize, event: &str) -> (Vec<u16>, u64) {
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..count).map(|_| scope.spawn(|| server.invoke("f", event).status)).collect();
        let mut most = 0;
        while !calls.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            most = most.max(instances(server, "f")["busy"].as_u64().unwrap());
        }
        (calls.into_iter().map(|call| call.join().unwrap()).collect(), most)
    })
}

#[test]
fn concurrency_is_bounded_and_the_rest_waits() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "concurrency=3&timeout=5");
    let (statuses, most) = crowd(&server, 12, r#"{"do":"sleep","ms":150}"#);
    assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
    assert!((2..=3).contains(&most), "{most} ran together");
    assert!(server.metric("wambda_queue_wait_seconds_count{function=\"f\"}") >= 8.0);
    let scaling = server.get("/v1/functions/f/scaling").json();
    let reasons: BTreeSet<&str> = scaling["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["reason"].as_str().unwrap())
        .collect();
    assert!(reasons.contains("concurrency"), "{scaling}");
}

#[test]
fn slow_functions_scale_up_at_once() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "timeout=5");
    server.invoke("f", r#"{"do":"sleep","ms":300}"#).expect(200);
    let (statuses, most) = crowd(&server, 16, r#"{"do":"sleep","ms":600}"#);
    assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
    assert!(most >= 8, "only {most} ran together");
}

#[test]
fn a_full_queue_answers_429_and_nothing_is_lost() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "concurrency=1&queue=2&timeout=5");
    let (statuses, _) = crowd(&server, 8, r#"{"do":"sleep","ms":1000}"#);
    let of = |status: u16| statuses.iter().filter(|s| **s == status).count();
    assert_eq!((of(200), of(429)), (3, 5), "{statuses:?}");
    let throttles = "wambda_throttles_total{function=\"f\",reason=\"queue_count\"}";
    assert_eq!(server.metric(throttles), 5.0);
    server.deploy("f", &guest("event"), "concurrency=0");
    let answer = server.invoke("f", "{}").expect(429);
    assert_eq!(answer.header("retry-after"), "1");
    assert!(answer.message().contains("limit 0"), "{}", answer.message());
}

#[test]
fn instances_see_nothing_of_each_other() {
    let server = Server::start();
    // Leaves a mark in the middle of its memory, and tells whether it finds one.
    let marks = wats::core_with(
        "(memory (export \"memory\") 16)",
        "(i32.store8 (i32.const 0) (i32.add (i32.const 48) (i32.load8_u (i32.const 500000))))
         (i32.store8 (i32.const 500000) (i32.const 1)) (i64.const 1)",
    );
    for reuse in ["warm", "fresh"] {
        for n in 0..8 {
            server.deploy(&format!("f{n}"), marks.as_bytes(), &format!("reuse={reuse}&env.N={n}"));
            assert_eq!(server.invoke(&format!("f{n}"), "x").expect(200).text(), "0", "{reuse} {n}");
        }
    }
    assert_eq!(server.invoke("f0", "x").text(), "0", "fresh again");
}

#[test]
fn a_publish_under_load_loses_no_invocation() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "concurrency=1&timeout=10");
    std::thread::scope(|scope| {
        let sleep = || scope.spawn(|| server.invoke("f", r#"{"do":"sleep","ms":400}"#).status);
        let calls: Vec<_> = (0..4).map(|_| sleep()).collect();
        std::thread::sleep(Duration::from_millis(200));
        server.deploy("f", wats::echo().as_bytes(), "");
        assert_eq!(server.invoke("f", "new").expect(200).text(), "new");
        for call in calls {
            assert_eq!(call.join().unwrap(), 200, "admitted before the publish");
        }
    });
    server.assert_well();
}
