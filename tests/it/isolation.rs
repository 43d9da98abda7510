//! Nothing of one function is ever found by another: memory in recycled slots, environment, logs,
//! payloads.

use wambda_tests::{Server, guest};

use crate::wats::core_with;

/// Pages of the memories here; the first is for events, from 1024 on, and answers.
const PAGES: u32 = 64;

/// Fills its memory with 0x5a and keeps that. `n` makes it another module, with an affinity of its own.
fn plants(n: usize) -> String {
    core_with(
        &format!("(memory (export \"memory\") {PAGES}) (data (i32.const 0) \"planted {n}\")"),
        "(memory.fill (i32.const 65536) (i32.const 0x5a) (i32.const 4128768)) (i64.const 7)",
    )
}

/// Answers `clean`, or traps when a byte of what it was given is not zero; leaves secrets behind as well.
fn digs(n: usize) -> String {
    core_with(
        &format!("(memory (export \"memory\") {PAGES}) (data (i32.const 0) \"clean {n}\")"),
        "(local $p i32) (local.set $p (i32.const 2048))
         (loop $l
           (if (i64.ne (i64.load (local.get $p)) (i64.const 0)) (then unreachable))
           (local.set $p (i32.add (local.get $p) (i32.const 8)))
           (br_if $l (i32.lt_u (local.get $p) (i32.const 4194304))))
         (memory.fill (i32.const 65536) (i32.const 0x5a) (i32.const 4128768))
         (i64.const 5)",
    )
}

/// More modules than there are slots, so that every slot goes from one to another all the time.
const SLOTS: usize = 8;
const MODULES: usize = 12;

fn rounds(reuse: &str, rounds: usize) {
    let server = Server::with(&["--instance-slots", &SLOTS.to_string()]);
    let query = format!("memory=8&timeout=5&reuse={reuse}");
    for n in 0..MODULES {
        server.deploy(&format!("plants{n}"), plants(n).as_bytes(), &query);
        server.deploy(&format!("digs{n}"), digs(n).as_bytes(), "memory=8&timeout=5&reuse=fresh");
    }
    // An event is a secret as well: one that is longer than who digs gets himself.
    let secret = "s3cret".repeat(1_000);
    for round in 0..rounds {
        let planted = server.invoke(&format!("plants{}", round % MODULES), &secret).expect(200);
        assert_eq!(planted.text(), "planted");
        let found = server.invoke(&format!("digs{}", (round * 5 + 3) % MODULES), "x");
        assert_eq!(
            (found.status, found.text().as_str()),
            (200, "clean"),
            "round {round}: a secret was found"
        );
    }
    // There are no more slots than that: what was planted lay where was dug.
    let slots = |state: &str| {
        server.metric(&format!("wambda_pool_slots{{engine=\"main\",state=\"{state}\"}}"))
    };
    assert!(slots("memories").max(slots("unused_warm_memories")) <= SLOTS as f64);
    server.assert_well();
}

/// Who digs finds what is there: by an instance that is used again, what it left itself.
#[test]
fn who_digs_finds_what_is_there() {
    let server = Server::start();
    server.deploy("own", digs(0).as_bytes(), "memory=8&timeout=5&reuse=warm");
    assert_eq!(server.invoke("own", "x").expect(200).text(), "clean");
    let found = server.invoke("own", "x").expect(500);
    assert!(found.text().contains("unreachable"), "{}", found.text());
}

#[test]
fn a_thousand_recycled_slots_hold_no_secrets() {
    rounds("fresh", 1_000);
}

#[test]
fn slots_of_warm_instances_hold_no_secrets_either() {
    rounds("warm", 1_000);
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
