//! Function logs: read, filtered, followed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use wambda_tests::{Server, guest, program};

#[test]
fn each_invocation_logs_start_lines_end_and_report() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "memory=64");
    let answer = server.invoke("f", r#"{"do":"print","lines":2}"#).expect(200);
    let id = answer.header("x-wambda-request-id");
    let page = server.get("/v1/functions/f/logs").expect(200).json();
    let lines = page["lines"].as_array().unwrap();
    let messages: Vec<&str> = lines.iter().map(|l| l["message"].as_str().unwrap()).collect();
    assert_eq!(
        messages[..4],
        [
            &*format!("START RequestId: {id} Version: $LATEST"),
            "line 0",
            "line 1",
            &*format!("END RequestId: {id}")
        ]
    );
    let report = messages[4];
    for part in [
        "REPORT RequestId",
        "\tDuration: ",
        " ms\tBilled Duration: ",
        "\tMemory Size: 64 MB\tMax Memory Used: ",
        "\tInit Duration: ",
        "\tCPU Time: ",
        "\tStart: cold",
    ] {
        assert!(report.contains(part), "{report} lacks {part}");
    }
    assert!(lines.iter().all(|l| l["request_id"] == id));
    assert_eq!((&lines[1]["stream"], &lines[0]["stream"]), (&"stdout".into(), &"platform".into()));
    let next = page["next"].as_u64().unwrap();
    assert_eq!(next, 5);
    server.invoke("f", r#"{"do":"error"}"#).expect(500);
    let later = server.get(&format!("/v1/functions/f/logs?after={next}")).json();
    assert!(
        later["lines"][1]["message"].as_str().unwrap().contains("Wanted: as you wished"),
        "{later}"
    );
    assert_eq!(
        server.get("/v1/functions/f/logs?since=1h").json()["lines"].as_array().unwrap().len(),
        9
    );
    assert!(
        server.get("/v1/functions/f/logs?since=2100-01-01T00:00:00Z").json()["lines"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    server.get("/v1/functions/f/logs?since=yesterday").expect(400);
    server.get("/v1/functions/g/logs").expect(404);
}

#[test]
fn output_that_is_no_text_is_made_harmless() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "");
    // "a", ESC [2J, invalid UTF-8, "b", newline
    server.invoke("f", r#"{"do":"print-bytes","hex":"611b5b324aff620a"}"#).expect(200);
    let page = server.get("/v1/functions/f/logs").expect(200).json();
    assert_eq!(page["lines"][1]["message"], "a\u{1b}[2J\u{fffd}b");
    let printed = server.cli(&["logs", "f"]);
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(text.contains("a\u{fffd}[2J\u{fffd}b") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn followers_see_what_comes() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "");
    let mut follower = Command::new(program())
        .args(["--server", &server.url, "logs", "f", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (send, lines) = std::sync::mpsc::channel();
    let stdout = follower.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    for n in 0..3 {
        server.invoke("f", r#"{"do":"print","lines":1}"#).expect(200);
        for wanted in ["START", "line 0", "END", "REPORT"] {
            let line = lines
                .recv_timeout(Duration::from_secs(5))
                .unwrap_or_else(|_| panic!("{n}: no {wanted}"));
            assert!(line.contains(wanted), "{line} instead of {wanted}");
        }
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// A follower is sent nothing more once its key, its policy, its user or the function is gone.
#[test]
fn followers_are_cut_off_with_their_right() {
    let server = Server::with(&["--auth", "keys"]);
    let root = server.data().join("root-key.json");
    let root = ["--json", "--root-key", root.to_str().unwrap()];
    let run = |arguments: &[&str]| {
        let output = server.cli(&[&root, arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let wasm = server.data().join("f.wat");
    std::fs::write(&wasm, crate::wats::echo()).unwrap();
    for function in ["f", "g"] {
        run(&["deploy", function, wasm.to_str().unwrap()]);
        run(&["invoke", function, "-d", "[1]"]);
    }
    let policy = |effect: &str| {
        let path = server.data().join(format!("{effect}.json"));
        let statement = format!(r#"{{"Effect": "{effect}", "Action": "*", "Resource": "*"}}"#);
        std::fs::write(&path, format!(r#"{{"Version": "2012-10-17", "Statement": {statement}}}"#))
            .unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (allow, deny) = (policy("Allow"), policy("Deny"));
    let create = |user: &str, policy: &str| run(&["keys", "create", user, "--policy", policy]);
    let follow = |user: &str, function: &str| {
        let made: serde_json::Value = serde_json::from_str(&create(user, &allow)).unwrap();
        let (id, secret) = (&made["access_key_id"], &made["secret_access_key"]);
        let follower = Command::new(program())
            .args(["--server", &server.url, "logs", function, "--follow"])
            .env("AWS_ACCESS_KEY_ID", id.as_str().unwrap())
            .env("AWS_SECRET_ACCESS_KEY", secret.as_str().unwrap())
            .stdout(Stdio::piped())
            .spawn();
        let mut follower = follower.unwrap();
        let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("START"), "{user}");
        // The lines are kept: without a reader, it would end by itself.
        (follower, id.as_str().unwrap().to_owned(), lines)
    };
    let (mut by_key, id, _lines) = follow("key", "f");
    let (mut by_policy, _, _lines) = follow("policy", "f");
    let (mut of_deleted, _, _lines) = follow("deleted", "g");
    let (mut stays, _, _lines) = follow("stays", "f");
    run(&["keys", "delete", "key", &id]);
    run(&["delete", "g"]);
    create("policy", &deny);
    for (name, follower) in
        [("key", &mut by_key), ("policy", &mut by_policy), ("deleted", &mut of_deleted)]
    {
        let ended = || follower.try_wait().unwrap().is_some().then_some(());
        let begin = std::time::Instant::now();
        wambda_tests::eventually(Duration::from_secs(5), ended);
        assert!(begin.elapsed() < Duration::from_secs(5), "{name}");
    }
    assert!(stays.try_wait().unwrap().is_none(), "who still may goes on");
    stays.kill().unwrap();
    stays.wait().unwrap();
}

#[test]
fn lines_of_a_running_invocation_are_seen_before_it_ends() {
    let server = Server::start();
    // Writes a line through WASI preview 1, then waits in a loop until its timeout.
    let wat = r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (data (i32.const 16) "early\n")
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 6))
        (drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
        (loop $l (br $l))))"#;
    server.deploy("f", wat.as_bytes(), "timeout=3");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.invoke("f", "x").status);
        wambda_tests::eventually(Duration::from_secs(2), || {
            server.log("f").contains("early").then_some(())
        });
        assert!(!running.is_finished());
        assert_eq!(running.join().unwrap(), 504);
    });
}
