//! What survives: functions, configuration and artifacts, whatever is killed when.

use std::time::Duration;

use serde_json::json;
use wambda_tests::{Server, example, guest, refused_start, within};

use crate::wats;

#[test]
fn functions_survive_kill_9_without_a_recompile() {
    let mut server = Server::start();
    server.deploy(
        "hello",
        &example("hello", "wasm32-wasip2"),
        "memory=64&timeout=2&env.A=b&reuse=fresh",
    );
    server.deploy("echo", wats::echo().as_bytes(), "concurrency=7");
    server.deploy("gone", wats::echo().as_bytes(), "");
    server.request("DELETE", "/v1/functions/gone", &[], b"").expect(204);
    let before = server.get("/v1/functions").json();
    server.kill();
    let took = server.restart();
    assert!(took < Duration::from_secs(4), "the restart took {took:?}");
    assert_eq!(server.get("/v1/functions").json(), before);
    assert_eq!(
        server.invoke("hello", r#"{"name":"Ada"}"#).expect(200).json()["message"],
        "Hello, Ada!"
    );
    assert_eq!(server.invoke("echo", "x").expect(200).text(), "x");
    assert_eq!(server.metric("wambda_compile_seconds_count"), 0.0, "nothing was compiled again");
    server.get("/v1/functions/gone").expect(404);
}

/// Kills while uploads are under way, at moments that differ: a function is absent or complete,
/// and what was acknowledged is there.
#[test]
fn a_publish_that_is_killed_leaves_nothing_half_written() {
    let mut server = Server::start();
    let mut acknowledged = Vec::new();
    for round in 0..12u64 {
        let (url, agent) = (server.url.clone(), ureq::Agent::new_with_defaults());
        let (told, acknowledgement) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            let mut good = Vec::new();
            for n in 0..100 {
                // Different code each time, so that each is compiled.
                let name = format!("r{round}n{n}");
                let wat = wats::core(&format!("(i64.const {})", round * 1_000 + n));
                let sent = agent.put(format!("{url}/v1/functions/{name}")).send(wat.as_bytes());
                match sent {
                    Ok(answer) if answer.status() == 201 => {
                        good.push(name);
                        let _ = told.send(());
                    }
                    _ => break,
                }
            }
            good
        });
        acknowledgement.recv_timeout(Duration::from_secs(30)).unwrap();
        std::thread::sleep(Duration::from_millis(round * 37));
        server.kill();
        acknowledged.extend(sender.join().unwrap());
        server.restart();
        let listed = server.get("/v1/functions?limit=1000").expect(200).json();
        let names: Vec<&str> = listed["functions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["name"].as_str().unwrap())
            .collect();
        for name in &acknowledged {
            assert!(names.contains(&name.as_str()), "{name} was acknowledged and is lost");
        }
        for name in names.iter().rev().take(5) {
            server.invoke(name, "x").expect(200);
        }
    }
    assert!(acknowledged.len() > 5, "the test published next to nothing: {}", acknowledged.len());
    assert_eq!(server.metric("wambda_compile_seconds_count"), 0.0);
    let leftovers: Vec<_> =
        std::fs::read_dir(server.data().join("artifacts/tmp")).unwrap().collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    server.assert_well();
}

fn artifacts(server: &Server) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(server.data().join("artifacts")).unwrap();
    entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "cwasm"))
        .collect()
}

#[test]
fn a_damaged_artifact_is_compiled_again_and_never_run() {
    let mut server = Server::start();
    server.deploy("echo", wats::echo().as_bytes(), "");
    let [artifact] = artifacts(&server).try_into().unwrap();
    let good = std::fs::read(&artifact).unwrap();
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let cut = good[..100].to_vec();
    for damage in [Some(flipped), Some(cut), Some(Vec::new()), None] {
        server.kill();
        match damage {
            Some(bytes) => std::fs::write(&artifact, bytes).unwrap(),
            None => std::fs::remove_file(&artifact).unwrap(),
        }
        server.restart();
        assert_eq!(server.invoke("echo", "x").expect(200).text(), "x");
        assert_eq!(server.metric("wambda_compile_seconds_count"), 1.0);
    }
    // One is not taken for another.
    server.deploy("count", wats::counter().as_bytes(), "");
    let [one, other] = artifacts(&server).try_into().unwrap();
    server.kill();
    for extension in ["cwasm", "mac"] {
        let [one, other] = [&one, &other].map(|path| path.with_extension(extension));
        let bytes = [&one, &other].map(|path| std::fs::read(path).unwrap());
        std::fs::write(&one, &bytes[1]).unwrap();
        std::fs::write(&other, &bytes[0]).unwrap();
    }
    server.restart();
    assert_eq!(server.invoke("echo", "x").expect(200).text(), "x");
    assert_eq!(server.invoke("count", "x").expect(200).text(), "1");
    assert_eq!(server.metric("wambda_compile_seconds_count"), 2.0);
    server.request("DELETE", "/v1/functions/count", &[], b"").expect(204);
    // Without the key nothing is authentic: everything is made again, nothing is lost.
    server.kill();
    std::fs::remove_file(server.data().join("artifact.key")).unwrap();
    server.restart();
    assert_eq!(server.invoke("echo", "x").expect(200).text(), "x");
    server.assert_well();
}

#[test]
fn code_that_nobody_uses_is_removed() {
    let server = Server::start();
    server.deploy("a", wats::echo().as_bytes(), "");
    server.deploy("b", wats::echo().as_bytes(), "");
    server.deploy("b", wats::counter().as_bytes(), "");
    assert_eq!(artifacts(&server).len(), 2);
    server.request("DELETE", "/v1/functions/a", &[], b"").expect(204);
    // Once nobody holds the old version.
    let one_left = || (artifacts(&server).len() == 1).then_some(());
    wambda_tests::eventually(Duration::from_secs(10), one_left);
    let blobs = || std::fs::read_dir(server.data().join("blobs/code")).unwrap().count();
    wambda_tests::eventually(Duration::from_secs(10), || (blobs() == 1).then_some(()));
    assert_eq!(server.invoke("b", "x").expect(200).text(), "1");
}

#[test]
fn two_servers_cannot_share_data() {
    let server = Server::start();
    let second = std::process::Command::new(wambda_tests::program())
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(server.data())
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another server"));
}

#[test]
fn a_thousand_functions_are_loaded_within_the_promise() {
    let (mut started, echo) = (None, wats::echo());
    within(Duration::from_millis(2_100), || {
        // Another one each time: what a restart after a restart finds is in better order.
        let server = started.insert(Server::start());
        for n in 0..1_000 {
            server.deploy(&format!("f{n}"), echo.as_bytes(), "");
        }
        server.kill();
        server.restart()
    });
    let server = started.unwrap();
    let last = server.get("/v1/functions?limit=1&after=f998").json();
    assert_eq!(last["functions"][0]["name"], json!("f999"));
    assert_eq!(server.invoke("f777", "x").expect(200).text(), "x");
}

/// What the files of a data directory hold.
fn on_disk(dir: &std::path::Path, found: &mut Vec<u8>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            on_disk(&entry.path(), found);
        } else if entry.file_name() != "root-key.json" {
            found.extend(std::fs::read(entry.path()).unwrap());
        }
    }
}

#[test]
fn secrets_are_not_on_the_disk_in_the_clear() {
    let mut server = Server::start();
    server.deploy("a-name-of-its-own", &guest("event"), "env.PASSWORD=canary-in-the-coal-mine");
    server.iam("CreateUser", &[("UserName", "u")]);
    let made = server.iam("CreateAccessKey", &[("UserName", "u")]);
    let secret =
        made.split("<SecretAccessKey>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let disk = |server: &Server| {
        let mut disk = Vec::new();
        on_disk(server.data(), &mut disk);
        disk
    };
    let holds =
        |text: &str, disk: &[u8]| disk.windows(text.len()).any(|part| part == text.as_bytes());
    let now = disk(&server);
    assert!(holds("a-name-of-its-own", &now), "names are");
    assert!(!holds("canary-in-the", &now) && !holds(&secret, &now));
    server.kill();
    server.restart();
    let env = r#"{"do":"env","name":"PASSWORD"}"#;
    assert_eq!(
        server.invoke("a-name-of-its-own", env).expect(200).json(),
        "canary-in-the-coal-mine"
    );
    server.kill();
    // Another key opens nothing, and says so.
    let key = server.data().join("records.key");
    std::fs::write(&key, [7; 32]).unwrap();
    let said = refused_start(server.data(), &[]);
    assert!(said.contains("records.key is not the one"), "{said}");
    std::fs::remove_file(&key).unwrap();
    let said = refused_start(server.data(), &[]);
    assert!(said.contains("records.key is missing"), "{said}");
}
