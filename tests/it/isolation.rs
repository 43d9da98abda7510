//! Nothing of one function is ever found by another: memory in recycled slots, environment, logs,
//! payloads.

use wambda_tests::{Server, guest};

use crate::wats::core_with;

/// Fills 63 pages with 0x5a and keeps them.
fn plants() -> String {
    core_with(
        "(memory (export \"memory\") 64) (global $n (mut i32) (i32.const 0))",
        "(memory.fill (i32.const 65536) (i32.const 0x5a) (i32.const 4128768)) (i64.const 0)",
    )
}

/// Counts the bytes of 63 pages, and of a table of zero, that are not zero: a digit for none, a trap for any.
fn digs() -> String {
    core_with(
        "(memory (export \"memory\") 64) (data (i32.const 0) \"clean\")",
        "(local $p i32) (local.set $p (i32.const 65536))
         (loop $l
           (if (i64.ne (i64.load (local.get $p)) (i64.const 0)) (then unreachable))
           (local.set $p (i32.add (local.get $p) (i32.const 8)))
           (br_if $l (i32.lt_u (local.get $p) (i32.const 4194304))))
         ;; What it leaves for itself: the next event must find a new instance, or this.
         (memory.fill (i32.const 65536) (i32.const 0) (i32.const 4128768))
         (i64.const 5)",
    )
}

/// As many rounds as there are slots that matter: each plants in some slots and digs in as many.
fn rounds(reuse: &str, rounds: usize) {
    let server = Server::start();
    server.deploy("plants", plants().as_bytes(), &format!("memory=8&timeout=5&reuse={reuse}"));
    let upload = digs();
    server.deploy("digs", upload.as_bytes(), "memory=8&timeout=5&reuse=fresh");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..rounds / 4 {
                    server.invoke("plants", "x").expect(200);
                    let found = server.invoke("digs", "x");
                    assert_eq!(
                        (found.status, found.text().as_str()),
                        (200, "clean"),
                        "a secret was found"
                    );
                }
            });
        }
    });
    server.assert_well();
}

#[test]
fn a_thousand_recycled_slots_hold_no_secrets() {
    rounds("fresh", 1_000);
}

#[test]
fn slots_of_warm_instances_hold_no_secrets_either() {
    // A warm instance keeps its slot until its version goes: so versions go.
    let server = Server::start();
    let (plants, digs) = (plants(), digs());
    for round in 0..100 {
        server.deploy(
            "plants",
            plants.as_bytes(),
            &format!("memory=8&timeout=5&reuse=warm&env.R={round}"),
        );
        server.invoke("plants", "x").expect(200);
        server.deploy("plants", digs.as_bytes(), "memory=8&timeout=5&reuse=warm");
        for _ in 0..3 {
            let found = server.invoke("plants", "x");
            assert_eq!(
                (found.status, found.text().as_str()),
                (200, "clean"),
                "round {round}: a secret was found"
            );
        }
    }
    rounds("warm", 400);
    server.assert_well();
}

/// Components, whose memory grows: what they get is new.
#[test]
fn memory_that_is_grown_is_new() {
    let server = Server::start();
    for name in ["plants", "digs"] {
        server.deploy(name, &guest("hostile"), "memory=64&timeout=5&reuse=fresh");
    }
    for round in 0..60 {
        server.invoke("plants", r#"{"do":"plant","mb":8}"#).expect(200);
        let found = server.invoke("digs", r#"{"do":"dig","mb":12}"#).expect(200);
        assert_eq!(found.text(), "0", "round {round}");
    }
    server.assert_well();
}

#[test]
fn environment_logs_and_payloads_are_their_owners() {
    const CANARY: &str = "canary-7f3a";
    let server = Server::start();
    let secret = format!("memory=64&timeout=5&env.SECRET={CANARY}");
    server.deploy("owner", &guest("event"), &secret);
    server.deploy("other", &guest("event"), "memory=64&timeout=5");
    for _ in 0..20 {
        let event = format!(r#"{{"do":"print-bytes","hex":"{}0a"}}"#, hex(CANARY));
        server.invoke("owner", &event).expect(200);
        server.invoke("owner", &format!(r#"{{"do":"env","name":"{CANARY}"}}"#)).expect(200);
        for order in [
            r#"{"do":"env-all"}"#,
            r#"{"do":"env","name":"SECRET"}"#,
            r#"{"do":"context"}"#,
            r#"{"do":"count"}"#,
        ] {
            let said = server.invoke("other", order).expect(200).text();
            assert!(!said.contains(CANARY) && !said.contains("SECRET"), "{order}: {said}");
        }
    }
    assert!(server.log("owner").contains(CANARY));
    assert!(!server.log("other").contains(CANARY));
    for path in [
        "/v1/functions/other",
        "/v1/functions/other/logs",
        "/v1/functions/other/scaling",
        "/v1/functions",
        "/metrics",
        "/version",
    ] {
        assert!(!server.get(path).text().contains(CANARY), "{path}");
    }
    // The owner's description tells names only.
    let described = server.get("/v1/functions/owner").expect(200).text();
    assert!(described.contains("SECRET") && !described.contains(CANARY), "{described}");
    // Names that try to be another's.
    for name in [
        "other/../owner",
        "..%2fowner",
        "other%00owner",
        "other%2f..%2fowner",
        "./owner",
        "owner%20",
        "%6fwner/../other",
    ] {
        let answer = server.get(&format!("/v1/functions/{name}/logs"));
        assert!(!answer.text().contains(CANARY), "{name}: {}", answer.status);
    }
    server.assert_well();
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
