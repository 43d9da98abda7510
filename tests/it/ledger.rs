//! The ledger: a client sends events and writes down what was acknowledged, while the server is killed
//! with SIGKILL at random moments. At the end every acknowledged id has an outcome, and only one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use wambda_tests::{Server, eventually, guest};

const DELAYS: [&str; 4] = ["--retry-delays", "0.05,0.1", "--retry-backoff", "0.02,0.2"];
/// Attempts that the function's configuration allows.
const ALLOWED: u64 = 3;

/// Sends until it is told to end; each event carries its number, and the answer has to as well.
fn client(
    seed: u64,
    url: &Mutex<String>,
    ledger: &Mutex<BTreeMap<String, u64>>,
    done: &AtomicBool,
) -> u64 {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build();
    let agent: ureq::Agent = config.into();
    let mut attempts = 0;
    for n in seed.. {
        if done.load(Relaxed) {
            break;
        }
        attempts += 1;
        let at = url.lock().unwrap().clone();
        // Most succeed, some at their second attempt, some never.
        let order = match n % 10 {
            7 => r#"{"do":"fail-until","attempt":2}"#.to_owned(),
            8 => r#"{"do":"error"}"#.to_owned(),
            9 => format!(r#"{{"do":"sleep","ms":{}}}"#, n % 90),
            _ => r#"{"do":"context"}"#.to_owned(),
        };
        let sent =
            agent.post(format!("{at}/v1/functions/f/invoke?mode=event")).send(order.as_str());
        match sent {
            Ok(mut answer) if answer.status() == 202 => {
                let Ok(text) = answer.body_mut().read_to_string() else { continue };
                let Ok(json) = serde_json::from_str::<Value>(&text) else { continue };
                ledger.lock().unwrap().insert(json["id"].as_str().unwrap().to_owned(), n % 10);
            }
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    attempts
}

/// What must be true of an acknowledged event at the end.
fn check(id: &str, sort: u64, known: &Value, kills: u64) {
    let attempts = known["attempts"].as_array().unwrap();
    assert!(attempts.len() as u64 <= ALLOWED + kills, "{known}");
    let lost = attempts.iter().filter(|a| a["error"]["type"] == "Wambda.WorkerLost").count();
    match known["status"].as_str().unwrap() {
        "succeeded" => {
            assert_ne!(sort, 8, "{known}");
            // It ran: the function tells its own request.
            if sort < 7 {
                assert_eq!(known["result"]["request_id"], id, "{known}");
            }
        }
        // Given up because the function failed, or because the server was killed five times under it.
        "dead" => assert!(sort == 8 || lost >= 5, "{known}"),
        other => panic!("{id} is {other}: {known}"),
    }
}

#[test]
fn every_acknowledged_event_has_one_outcome_whatever_is_killed() {
    let cycles = std::env::var("WAMBDA_CHAOS_CYCLES").ok().and_then(|n| n.parse().ok());
    let cycles: u64 = cycles.unwrap_or(50);
    let seed = std::env::var("WAMBDA_CHAOS_SEED").ok().and_then(|n| n.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7_919 + cycles);
    println!("WAMBDA_CHAOS_SEED={seed}");
    let mut random = seed;
    // A linear congruential generator (Knuth, MMIX): enough for moments.
    let mut next = move |below: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut server = Server::with(&DELAYS);
    server.deploy("f", &guest("event"), "timeout=5");
    let url = Arc::new(Mutex::new(server.url.clone()));
    let (ledger, done) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..4u64)
        .map(|n| {
            let (url, ledger, done) = (Arc::clone(&url), Arc::clone(&ledger), Arc::clone(&done));
            std::thread::spawn(move || {
                client(seed.wrapping_add(n * 1_000_003) >> 8, &url, &ledger, &done)
            })
        })
        .collect();
    for _ in 0..cycles {
        std::thread::sleep(Duration::from_millis(20 + next(280)));
        server.kill();
        server.restart();
        *url.lock().unwrap() = server.url.clone();
    }
    std::thread::sleep(Duration::from_millis(200));
    done.store(true, Relaxed);
    let sent: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    let ledger = std::mem::take(&mut *ledger.lock().unwrap());
    assert!(ledger.len() as u64 > cycles * 5, "only {} of {sent} were acknowledged", ledger.len());
    for (id, sort) in &ledger {
        let known = eventually(Duration::from_secs(90), || {
            let answer = server.get(&format!("/v1/invocations/{id}"));
            assert_eq!(answer.status, 200, "{id} was acknowledged, and is gone");
            Some(answer.json()).filter(|known| known.get("ended").is_some())
        });
        check(id, *sort, &known, cycles);
    }
    println!("{} acknowledged of {sent} sent, {cycles} kills", ledger.len());
    // One that was not acknowledged may have been accepted, and run still.
    eventually(Duration::from_secs(30), || {
        (server.get("/v1/queues/async:f").json()["depth"] == 0).then_some(())
    });
    server.assert_well();
}

/// An event during which the server is killed comes back: lost attempts are counted before they run, so
/// that one which kills its server again and again ends as a dead letter.
#[test]
fn an_event_that_kills_its_server_ends_as_a_dead_letter() {
    let mut server = Server::with(&DELAYS);
    server.deploy("f", &guest("event"), "timeout=900");
    let send = |server: &Server, order: &str| {
        let path = "/v1/functions/f/invoke?mode=event";
        let answer = server.request("POST", path, &[], order.as_bytes()).expect(202);
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let id = send(&server, r#"{"do":"sleep","ms":600000}"#);
    let known =
        |server: &Server, id: &str| server.get(&format!("/v1/invocations/{id}")).expect(200).json();
    for kill in 1..=5 {
        eventually(Duration::from_secs(20), || {
            (known(&server, &id)["status"] == "running").then_some(())
        });
        server.kill();
        server.restart();
        let attempts = known(&server, &id)["attempts"].as_array().unwrap().len();
        assert!(attempts >= kill, "{attempts} attempts are known after {kill} kills");
    }
    let ended = eventually(Duration::from_secs(30), || {
        Some(known(&server, &id)).filter(|known| known.get("ended").is_some())
    });
    assert_eq!(ended["status"], "dead", "{ended}");
    assert_eq!(ended["attempts"][4]["error"]["type"], "Wambda.WorkerLost");
    let letters = server.get("/v1/queues/dead:f/messages").expect(200).json();
    assert_eq!(letters["messages"][0]["id"], id.as_str());
    // One that was killed once is none of them.
    let id = send(&server, r#"{"do":"sleep","ms":1500}"#);
    eventually(Duration::from_secs(20), || {
        (known(&server, &id)["status"] == "running").then_some(())
    });
    server.kill();
    server.restart();
    let ended = eventually(Duration::from_secs(30), || {
        Some(known(&server, &id)).filter(|known| known.get("ended").is_some())
    });
    assert_eq!(
        (&ended["status"], ended["attempts"].as_array().unwrap().len()),
        (&"succeeded".into(), 2)
    );
}
