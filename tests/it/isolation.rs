//! Nothing of one function is ever found by another: memory in recycled slots, environment, logs,
//! payloads.

use std::time::Duration;

use wambda_tests::{Server, eventually, guest};

use crate::wats::core_with;

/// Pages of memories that fit into what a free slot keeps of its memory, and are cleared by hand; and of memories that
/// do not, of which the rest is given back to the kernel. The first page is for events, from 1024 on, and answers.
const SMALL: u32 = 64;
const LARGE: u32 = 256;

/// What module `n` leaves behind.
fn canary(n: usize) -> usize {
    0x50 + n
}

/// Fills its memory with a byte of its own and keeps that. `n` makes it another module, with an affinity of its own.
fn plants(pages: u32, n: usize) -> String {
    let (secret, bytes, planted) = (canary(n), (pages - 1) << 16, format!("planted {n}"));
    core_with(
        &format!("(memory (export \"memory\") {pages}) (data (i32.const 0) \"{planted}\")"),
        &format!(
            "(memory.fill (i32.const 65536) (i32.const {secret}) (i32.const {bytes})) (i64.const {})",
            planted.len()
        ),
    )
}

/// Answers `clean`, or traps when a byte of what it was given is not zero; leaves secrets behind as well.
fn digs(pages: u32, n: usize) -> String {
    let (end, bytes) = (pages << 16, (pages - 1) << 16);
    core_with(
        &format!("(memory (export \"memory\") {pages}) (data (i32.const 0) \"clean {n}\")"),
        &format!(
            "(local $p i32) (local.set $p (i32.const 2048))
             (loop $l
               (if (i64.ne (i64.load (local.get $p)) (i64.const 0)) (then unreachable))
               (local.set $p (i32.add (local.get $p) (i32.const 8)))
               (br_if $l (i32.lt_u (local.get $p) (i32.const {end}))))
             (memory.fill (i32.const 65536) (i32.const 0x5a) (i32.const {bytes}))
             (i64.const 5)"
        ),
    )
}

/// Answers `clean`, or traps when an element of the table that it was given is there; fills it. Another one grows it
/// instead of having it whole from the start.
fn tables(n: usize) -> String {
    const ELEMENTS: u32 = 20_000;
    let grows = n % 2 == 1;
    let (first, grow) = if grows {
        let grow = format!("(drop (table.grow $t (ref.null func) (i32.const {})))", ELEMENTS - 1);
        (1, format!("(if (i32.eq (table.size $t) (i32.const 1)) (then {grow}))"))
    } else {
        (ELEMENTS, String::new())
    };
    core_with(
        &format!(
            "(memory (export \"memory\") 1) (data (i32.const 0) \"clean {n}\")
             (table $t {first} {ELEMENTS} funcref) (func $secret) (elem declare func $secret)"
        ),
        &format!(
            "(local $p i32) {grow}
             (loop $l
               (if (i32.eqz (ref.is_null (table.get $t (local.get $p)))) (then unreachable))
               (local.set $p (i32.add (local.get $p) (i32.const 1)))
               (br_if $l (i32.lt_u (local.get $p) (table.size $t))))
             (table.fill $t (i32.const 0) (ref.func $secret) (table.size $t))
             (i64.const 5)"
        ),
    )
}

/// More modules than there are slots, so that every slot goes from one to another all the time.
const SLOTS: usize = 8;
const MODULES: usize = 12;

fn few_slots() -> Server {
    Server::with(&["--instance-slots", &SLOTS.to_string()])
}

fn slots(server: &Server, engine: &str, state: &str) -> f64 {
    server.metric(&format!("wambda_pool_slots{{engine=\"{engine}\",state=\"{state}\"}}"))
}

/// Instances of a function that were ever made.
fn made(server: &Server, function: &str) -> f64 {
    let of = |start: &str| {
        let labels = format!("{{function=\"{function}\",start=\"{start}\"}}");
        server.metric(&format!("wambda_starts_total{labels}"))
    };
    of("cold") + of("prewarmed")
}

/// So many rounds of planting and digging, half of them after every function was removed and deployed anew: what the
/// server has without instances does not grow.
fn rounds(pages: u32, reuse: &str, rounds: usize) {
    let server = few_slots();
    plant_and_dig(&server, pages, reuse, rounds / 2);
    all_gone(&server);
    let rest = server.rest();
    plant_and_dig(&server, pages, reuse, rounds / 2);
    all_gone(&server);
    server.assert_rests(&rest, 8);
    server.assert_well();
}

fn plant_and_dig(server: &Server, pages: u32, reuse: &str, rounds: usize) {
    let query = format!("memory=24&timeout=5&reuse={reuse}");
    for n in 0..MODULES {
        server.deploy(&format!("plants{n}"), plants(pages, n).as_bytes(), &query);
        let fresh = "memory=24&timeout=5&reuse=fresh";
        server.deploy(&format!("digs{n}"), digs(pages, n).as_bytes(), fresh);
    }
    // An event is a secret as well: one that is longer than who digs gets himself.
    let secret = "s3cret".repeat(1_000);
    for round in 0..rounds {
        let planted = server.invoke(&format!("plants{}", round % MODULES), &secret).expect(200);
        assert_eq!(planted.text(), format!("planted {}", round % MODULES));
        let found = server.invoke(&format!("digs{}", (round * 5 + 3) % MODULES), "x");
        assert_eq!(
            (found.status, found.text().as_str()),
            (200, "clean"),
            "round {round}: a secret was found"
        );
    }
    // There are no more slots than that: what was planted lay where was dug.
    let most = slots(server, "main", "memories").max(slots(server, "main", "unused_warm_memories"));
    assert!((1.0..=SLOTS as f64).contains(&most), "{most}");
    // Each dig was in an instance of its own, and more secrets than there are slots were planted.
    let dug: f64 = (0..MODULES).map(|n| made(server, &format!("digs{n}"))).sum();
    assert!(dug >= rounds as f64, "{dug} instances dug in {rounds} rounds");
    let planters = (0..MODULES).filter(|n| made(server, &format!("plants{n}")) >= 1.0).count();
    assert!(planters > SLOTS, "{planters} secrets in {SLOTS} slots");
}

/// Removes every function; all of their instances end.
fn all_gone(server: &Server) {
    let listed = server.get("/v1/functions").expect(200).json();
    for function in listed["functions"].as_array().unwrap() {
        let name = function["name"].as_str().unwrap();
        server.request("DELETE", &format!("/v1/functions/{name}"), &[], b"").expect(204);
    }
    eventually(Duration::from_secs(10), || {
        (slots(server, "main", "core_instances") == 0.0).then_some(())
    });
}

/// As many instances at once as there are slots, so that each slot has one: first of those that plant, and when they
/// are gone, of those that dig.
fn every_slot(pages: u32, times: usize) {
    let server = few_slots();
    for time in 0..times {
        for plant in [true, false] {
            for n in 0..SLOTS {
                let code = if plant { plants(pages, n) } else { digs(pages, n) };
                let name = format!("f{n}");
                server.deploy(&name, code.as_bytes(), "memory=24&timeout=5&reuse=warm");
                let said = server.invoke(&name, "x").expect(200).text();
                assert!(
                    said == "clean" || (plant && said.starts_with("planted")),
                    "{time}: {said}"
                );
            }
            let taken = slots(&server, "main", "memories");
            assert_eq!(taken, SLOTS as f64, "each slot has an instance, {time}");
            all_gone(&server);
        }
    }
    server.assert_well();
}

/// Who digs finds what is there: by an instance that is used again, what it left itself.
#[test]
fn who_digs_finds_what_is_there() {
    let server = Server::start();
    for (name, code) in [
        ("small", digs(SMALL, 0)),
        ("large", digs(LARGE, 0)),
        ("table", tables(0)),
        ("grown", tables(1)),
    ] {
        server.deploy(name, code.as_bytes(), "memory=24&timeout=5&reuse=warm");
        assert_eq!(server.invoke(name, "x").expect(200).text(), "clean", "{name}");
        let found = server.invoke(name, "x").expect(500);
        assert!(found.text().contains("unreachable"), "{name}: {}", found.text());
    }
}

#[test]
fn a_thousand_recycled_slots_hold_no_secrets() {
    rounds(SMALL, "fresh", 1_000);
}

#[test]
fn slots_of_warm_instances_hold_no_secrets_either() {
    rounds(SMALL, "warm", 1_000);
}

/// Memories of which a free slot keeps a part only.
#[test]
fn slots_that_are_given_back_in_part_hold_no_secrets() {
    rounds(LARGE, "fresh", 200);
    rounds(LARGE, "warm", 200);
}

#[test]
fn no_slot_is_left_out() {
    every_slot(SMALL, 3);
    every_slot(LARGE, 3);
}

/// Tables hold references, which no guest can read as numbers: a fresh one has none.
#[test]
fn tables_are_empty_at_first() {
    let server = few_slots();
    for n in 0..MODULES {
        let query = "memory=24&timeout=5&reuse=fresh";
        server.deploy(&format!("tables{n}"), tables(n).as_bytes(), query);
    }
    for round in 0..500 {
        let found = server.invoke(&format!("tables{}", (round * 5) % MODULES), "x");
        assert_eq!((found.status, &*found.text()), (200, "clean"), "round {round}");
    }
    let dug: f64 = (0..MODULES).map(|n| made(&server, &format!("tables{n}"))).sum();
    assert!(dug >= 500.0, "{dug}");
    all_gone(&server);
    server.assert_well();
}

/// The pool of the engine for WASI 0.3 is another one.
#[test]
fn slots_for_wasi_03_hold_no_secrets() {
    let server = Server::with(&["--wasi03", "--instance-slots", &SLOTS.to_string()]);
    for n in 0..MODULES {
        for kind in ["plants", "digs"] {
            let query = format!("memory=32&timeout=5&reuse=fresh&env.N={n}");
            server.deploy(&format!("{kind}{n}"), &guest("http3"), &query);
        }
    }
    let ask = |function: String, order: &str, megabytes: usize| {
        let path = format!("/fn/{function}/abuse/{order}?{megabytes}");
        server.get(&path).expect(200).text()
    };
    for round in 0..120 {
        assert_eq!(ask(format!("plants{}", round % MODULES), "plant", 8), "plant 8");
        let found = ask(format!("digs{}", (round * 5 + 3) % MODULES), "dig", 12);
        assert_eq!(found, "0", "round {round}");
    }
    let dug: f64 = (0..MODULES).map(|n| made(&server, &format!("digs{n}"))).sum();
    assert!(dug >= 120.0, "{dug}");
    let most =
        slots(&server, "wasi03", "memories").max(slots(&server, "wasi03", "unused_warm_memories"));
    assert!((1.0..=SLOTS as f64).contains(&most), "{most}");
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
