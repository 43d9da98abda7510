//! What the server holds for others is what it says that it holds: under attacks that make it work
//! on much of strangers' content, its memory is no more than its account and a bound beside it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::json;
use wambda_tests::{Server, guest};

use crate::readers::padded;
use crate::threads::{Attack, answers, attack, requests, world};

/// How long each attack lasts.
const LASTS: Duration = Duration::from_millis(1_500);
/// Bytes that the server may have beside what it accounts for.
const BESIDE: u64 = 64 << 20;
const KINDS: [&str; 5] = ["requests", "responses", "logs", "uploads", "values"];

/// A zip with wasm of 30 MB, in the JSON of `CreateFunction`.
fn code() -> String {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("bootstrap.wasm", stored).unwrap();
    zip.write_all(&padded(30_000_000)).unwrap();
    let zip = zip.finish().unwrap().into_inner();
    json!({"FunctionName": "large", "Role": "arn:aws:iam::000000000000:role/all",
        "Handler": "x", "Runtime": "provided.al2023",
        "Code": {"ZipFile": BASE64_STANDARD.encode(zip)}})
    .to_string()
}

/// Bytes that the server says it holds: its own, and its functions'.
fn account(server: &Server) -> u64 {
    let text = server.get("/metrics").expect(200).text();
    let value = |series: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is not there")).parse::<f64>().unwrap() as u64
    };
    let held = KINDS.map(|kind| value(&format!("wambda_held_bytes{{kind=\"{kind}\"}}")));
    held.iter().sum::<u64>() + value("wambda_memory_used_bytes")
}

/// The most that was resident, and the most that was accounted for, while this went on.
fn watched(server: &Server, attack: &Attack) -> (u64, u64) {
    let (over, resident, accounted) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..attack.threads {
            scope.spawn(|| {
                loop {
                    (attack.act)(server);
                    if over.load(Relaxed) {
                        break;
                    }
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Relaxed) {
                accounted.fetch_max(account(server), Relaxed);
            }
        });
        let began = Instant::now();
        while began.elapsed() < LASTS {
            resident.fetch_max(server.resident(), Relaxed);
            std::thread::sleep(Duration::from_millis(2));
        }
        over.store(true, Relaxed);
    });
    (resident.into_inner(), accounted.into_inner())
}

#[test]
fn memory_under_attack_is_accounted_for() {
    let server = world();
    let code = code();
    let create = move |server: &Server| {
        let _ = server.request("POST", "/2015-03-31/functions", &[], code.as_bytes());
    };
    let mut attacks: Vec<Attack> = requests().into_iter().chain(answers()).collect();
    attacks.push(attack("much code in JSON", 4, create));
    server.deploy("proxy", &guest("proxy"), "memory=16&timeout=10");
    let script = format!("body,set,write:5900000,{}finish", "sleep:200,".repeat(8));
    let event = json!({"rawPath": "/script", "rawQueryString": script,
        "requestContext": {"http": {"method": "GET"}}});
    let event = event.to_string();
    attacks.push(attack("responses that are long in coming", 40, move |server| {
        server.invoke("proxy", &event);
    }));
    attacks.push(attack("results that wait for their turn", 40, |server| {
        server.request("POST", "/fn/shaped/", &[], b"x");
    }));
    // What is there at rest: code and tables.
    let rest = server.rest().resident.saturating_sub(account(&server));
    let mut beyond = Vec::new();
    for attack in &attacks {
        let (resident, accounted) = watched(&server, attack);
        let beside = resident.saturating_sub(rest + accounted) >> 20;
        let [resident, accounted, rest] = [resident, accounted, rest].map(|bytes| bytes >> 20);
        println!("{}: {resident} MB, accounted for {accounted}, at rest {rest}", attack.name);
        beyond.extend((beside > BESIDE >> 20).then_some((attack.name, beside)));
    }
    assert!(beyond.is_empty(), "MB beside the account: {beyond:?}");
    server.assert_well();
}
