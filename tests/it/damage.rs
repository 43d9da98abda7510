//! Damaged data directories: whatever file is cut, emptied, removed, changed in a bit or taken from another
//! directory, the server refuses to start and names it, or starts and has everything that was acknowledged, or
//! tells what it has not. It never removes code.
//!
//! `WAMBDA_LONG=1` runs more trials; `WAMBDA_DAMAGE_SEED=n` repeats those of a run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use wambda_tests::{Server, eventually, program, refused_start, try_start};

use crate::wats;

const TRIALS: u64 = 10;
const TRIALS_LONG: u64 = 60;
const FLAGS: [&str; 2] = ["--retry-delays", "0.05,0.05"];
const SOON: Duration = Duration::from_secs(10);

/// Numbers that follow from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound.max(1) as u64) as usize
    }
}

fn send(server: &Server, name: &str, event: &str) -> String {
    let path = format!("/v1/functions/{name}/invoke?mode=event");
    let answer = server.request("POST", &path, &[], event.as_bytes()).expect(202).json();
    answer["id"].as_str().unwrap().to_owned()
}

/// How an event has ended; none while it has not.
fn end_of(server: &Server, id: &str) -> Option<Value> {
    let answer = server.get(&format!("/v1/invocations/{id}"));
    if answer.status != 200 {
        // It is told that it cannot be read.
        return Some(json!({"status": "unreadable", "code": answer.status}));
    }
    Some(answer.json()).filter(|status| status.get("ended").is_some())
}

/// What was acknowledged.
struct Kept {
    waiting: Vec<String>,
    ended: String,
}

/// A directory with something in every part of it.
fn fill(data: &Path) -> Kept {
    let mut server = Server::on(data, &FLAGS);
    server.deploy("echo", wats::echo().as_bytes(), "");
    server.deploy("fails", wats::core("(unreachable)").as_bytes(), "retries=0");
    server.deploy("gone", wats::counter().as_bytes(), "");
    server.publish_layer("layer", &zip_of("a.txt")).expect(201);
    server.iam("CreateUser", &[("UserName", "user")]);
    let ended = send(&server, "echo", "ended");
    eventually(SOON, || end_of(&server, &ended));
    let dead = send(&server, "fails", "dead");
    eventually(SOON, || end_of(&server, &dead));
    server.request("POST", "/v1/queues/async:echo/pause", &[], b"").expect(200);
    let waiting = (0..3).map(|n| send(&server, "echo", &format!("waiting {n}"))).collect();
    server.signal(Signal::TERM);
    assert!(server.wait(SOON));
    Kept { waiting, ended }
}

fn zip_of(name: &str) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(b"x").unwrap();
    zip.finish().unwrap().into_inner()
}

/// The files below a directory, by their paths in it, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => left.push(entry.path()),
                false => found.push(entry.path().strip_prefix(dir).unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        std::fs::create_dir_all(to.join(&file).parent().unwrap()).unwrap();
        std::fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

fn blobs(data: &Path) -> BTreeSet<PathBuf> {
    let root = data.join("blobs");
    if root.exists() { files(&root).into_iter().collect() } else { BTreeSet::new() }
}

fn doctor(data: &Path) -> Output {
    Command::new(program()).args(["doctor", "--json", "--data-dir"]).arg(data).output().unwrap()
}

/// Damages a file in one of six ways. Returns words for it.
fn damage(path: &Path, foreign: &Path, dice: &mut Dice) -> &'static str {
    let mut bytes = std::fs::read(path).unwrap();
    let what = match dice.below(6) {
        0 => "removed",
        1 => "emptied",
        2 => "cut",
        3 => "zeroed",
        4 if foreign.exists() => "foreign",
        _ => "flipped",
    };
    let at = dice.below(bytes.len());
    match what {
        "removed" => std::fs::remove_file(path).unwrap(),
        "emptied" => std::fs::write(path, b"").unwrap(),
        "cut" => std::fs::write(path, &bytes[..at]).unwrap(),
        "foreign" => drop(std::fs::copy(foreign, path).unwrap()),
        _ => {
            let to = (at + 4_096).min(bytes.len());
            match what {
                "zeroed" => bytes[at..to].fill(0),
                _ if bytes.is_empty() => {}
                _ => bytes[at] ^= 1 << dice.below(8),
            }
            std::fs::write(path, bytes).unwrap();
        }
    }
    what
}

/// Everything that was acknowledged is there, or is told to be damaged.
fn judge(server: &Server, kept: &Kept, case: &str) {
    let listed = server.get("/v1/functions").expect(200).text();
    for name in ["echo", "fails", "gone"] {
        assert!(listed.contains(&format!("\"{name}\"")), "{case}: {name} is lost");
    }
    assert_eq!(server.invoke("echo", "x").expect(200).text(), "x", "{case}");
    assert!(server.iam("ListUsers", &[]).contains("<UserName>user</UserName>"), "{case}");
    server.request("POST", "/v1/queues/async:echo/resume", &[], b"").expect(200);
    let mut damaged = 0;
    for (n, id) in kept.waiting.iter().enumerate() {
        let end = eventually(SOON, || end_of(server, id));
        match end["status"].as_str().unwrap() {
            "succeeded" => assert_eq!(end["result"], json!(format!("waiting {n}")), "{case}"),
            _ => damaged += 1,
        }
    }
    let end = end_of(server, &kept.ended);
    damaged += usize::from(end.is_none_or(|end| end["status"] != "succeeded"));
    let letters = server.get("/v1/queues/dead:fails/messages").json()["messages"].clone();
    damaged += usize::from(letters.as_array().map_or(0, Vec::len) != 1);
    let told = server.metric("wambda_damaged_records_total{store=\"queues\"}");
    assert!(damaged == 0 || told > 0.0, "{case}: {damaged} are lost, and it is not told");
    assert_eq!(server.metric("wambda_host_panics_total"), 0.0, "{case}");
}

#[test]
fn damage_is_refused_by_name_or_told_and_nothing_is_lost_silently() {
    let is_long = std::env::var_os("WAMBDA_LONG").is_some();
    let given = std::env::var("WAMBDA_DAMAGE_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_nanos() as u64
    });
    let dir = tempfile::tempdir().unwrap();
    let (whole, other) = (dir.path().join("whole"), dir.path().join("other"));
    let kept = fill(&whole);
    fill(&other);
    let sound = doctor(&whole);
    assert!(sound.status.success(), "{sound:?}");
    let (mut refusals, mut starts) = (0, 0);
    for trial in 0..if is_long { TRIALS_LONG } else { TRIALS } {
        let mut dice = Dice(seed.wrapping_add(trial * 1_000_003));
        let data = dir.path().join(format!("trial-{trial}"));
        copy(&whole, &data);
        let all = files(&data);
        // The stores are what matters most: each second trial is one of them.
        let stores =
            ["records.redb", "queues.redb", "wambda.json", "records.key", "blobs/identity"];
        let file = match dice.below(2) {
            0 => PathBuf::from(stores[dice.below(stores.len())]),
            _ => all[dice.below(all.len())].clone(),
        };
        let what = damage(&data.join(&file), &other.join(&file), &mut dice);
        let case = format!("WAMBDA_DAMAGE_SEED={seed}, trial {trial}: {} {what}", file.display());
        let code = blobs(&data);
        match try_start(&data, &FLAGS) {
            Ok(server) => {
                starts += 1;
                judge(&server, &kept, &case);
            }
            Err(said) => {
                refusals += 1;
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                let path = file.display().to_string();
                // A key that is another one is told by what it does not open.
                assert!(said.contains(&name) || said.contains(&path), "{case}: {said}");
                assert!(!said.contains("panicked"), "{case}: {said}");
                let report = doctor(&data);
                assert_eq!(report.status.code(), Some(1), "{case}: {report:?}");
            }
        }
        assert!(blobs(&data).is_superset(&code), "{case}: code was removed");
        std::fs::remove_dir_all(&data).unwrap();
    }
    println!("{refusals} refusals, {starts} starts, WAMBDA_DAMAGE_SEED={seed}");
}

#[test]
fn a_directory_without_records_keeps_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Server::on(&data, &[]);
    server.deploy("echo", wats::echo().as_bytes(), "");
    server.kill();
    let code = blobs(&data);
    let records = data.join("records.redb");
    let aside = dir.path().join("aside");
    std::fs::rename(&records, &aside).unwrap();
    let said = refused_start(&data, &[]);
    assert!(said.contains("records.redb is missing") && said.contains("wambda doctor"), "{said}");
    std::fs::write(&records, b"").unwrap();
    let said = refused_start(&data, &[]);
    assert!(said.contains("records.redb is damaged: it is empty"), "{said}");
    assert_eq!(blobs(&data), code);
    let report: Value = serde_json::from_slice(&doctor(&data).stdout).unwrap();
    assert_eq!(report["damaged"][0]["place"], "records.redb", "{report}");
    std::fs::rename(&aside, &records).unwrap();
    let server = Server::on(&data, &[]);
    assert_eq!(server.invoke("echo", "x").expect(200).text(), "x");
    // A server has it: nothing is looked at.
    let report = doctor(&data);
    assert_eq!(report.status.code(), Some(1));
    let said = String::from_utf8_lossy(&report.stderr).into_owned();
    assert!(said.contains("is in use") && report.stdout.is_empty(), "{report:?}");
}

/// Changes the stored bodies that `change` takes, as a disk would that nothing watches.
fn change_bodies(data: &Path, change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> usize {
    use redb::ReadableTable;
    let database = redb::Database::open(data.join("queues.redb")).unwrap();
    let write = database.begin_write().unwrap();
    let bodies = redb::TableDefinition::<&[u8], &[u8]>::new("bodies.v1");
    let mut table = write.open_table(bodies).unwrap();
    let all: Vec<(Vec<u8>, Vec<u8>)> = table
        .iter()
        .unwrap()
        .map(|entry| entry.map(|(k, v)| (k.value().to_vec(), v.value().to_vec())).unwrap())
        .collect();
    let mut changed = 0;
    for (key, body) in all {
        if let Some(body) = change(&body) {
            table.insert(&key[..], &body[..]).unwrap();
            changed += 1;
        }
    }
    drop(table);
    write.commit().unwrap();
    changed
}

#[test]
fn a_damaged_event_ends_as_a_dead_letter_and_never_runs() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Server::on(&data, &FLAGS);
    server.deploy("echo", wats::echo().as_bytes(), "");
    server.request("POST", "/v1/queues/async:echo/pause", &[], b"").expect(200);
    let hurt = send(&server, "echo", "hurt");
    let whole = send(&server, "echo", "whole");
    server.kill();
    let flip = |body: &[u8]| (body == b"hurt").then(|| b"hurl".to_vec());
    assert_eq!(change_bodies(&data, flip), 1);
    let report = doctor(&data);
    assert_eq!(report.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let damaged = report["damaged"].as_array().unwrap();
    assert!(
        damaged.len() == 1 && damaged[0]["place"].as_str().unwrap().contains(&hurt),
        "{report}"
    );
    let server = Server::on(&data, &FLAGS);
    server.request("POST", "/v1/queues/async:echo/resume", &[], b"").expect(200);
    let end = eventually(SOON, || end_of(&server, &hurt));
    assert_eq!((&end["status"], &end["reason"]), (&json!("dead"), &json!("Damaged")), "{end}");
    let end = eventually(SOON, || end_of(&server, &whole));
    assert_eq!(end["status"], "succeeded", "the queue goes on");
    let letter = server.get("/v1/queues/dead:echo/messages").json()["messages"][0].clone();
    assert_eq!(
        (&letter["body"], &letter["reason"]),
        (&json!("hurl"), &json!("Damaged")),
        "{letter}"
    );
    assert_eq!(letter["damaged"], true);
    assert!(server.metric("wambda_damaged_records_total{store=\"queues\"}") >= 1.0);
    // Nor does it run when it is sent again.
    let path = "/v1/queues/dead:echo/redrive";
    let sent = server.request("POST", path, &[], b"").expect(200).json();
    assert_eq!(sent["redriven"], 0, "{sent}");
    assert_eq!(
        server.metric("wambda_invocations_total{function=\"echo\",outcome=\"success\"}"),
        1.0
    );
    server.assert_well();
}
