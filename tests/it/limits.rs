//! Limits, through the API: that they are where they are said to be. Guests that break them are in
//! [`crate::hostile`].

use std::time::{Duration, Instant};

use wambda_tests::{Server, guest, wat};

use crate::wats;

#[test]
fn waiting_costs_no_cpu_time() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "timeout=5&cpu=0.2");
    let answer = server.invoke("f", r#"{"do":"sleep","ms":600}"#).expect(200);
    let cpu: f64 = answer.header("x-wambda-cpu-ms").parse().unwrap();
    let duration: f64 = answer.header("x-wambda-duration-ms").parse().unwrap();
    assert!(cpu < 100.0 && duration >= 600.0, "{cpu} of {duration}");
    let answer = server.invoke("f", r#"{"do":"work","ms":600}"#).expect(500);
    assert_eq!(answer.header("x-wambda-error"), "Sandbox.CpuExceeded");
}

#[test]
fn memory_is_given_up_to_the_limit() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "memory=64&timeout=10");
    let answer = server.invoke("f", r#"{"do":"take","mb":40}"#).expect(200);
    let held: u64 = answer.header("x-wambda-memory-bytes").parse().unwrap();
    assert!((40 << 20..=64 << 20).contains(&held), "{held}");
    server.invoke("f", r#"{"do":"take","mb":70}"#).expect(500);
    server.invoke("f", r#"{"do":"take","mb":40}"#).expect(200);
    // What it needs at the start is checked before it is taken.
    let greedy = wats::core_with("(memory (export \"memory\") 100)", "(i64.const 0)");
    let message = server.put("greedy", greedy.as_bytes(), "memory=1").expect(400).message();
    assert!(message.contains("6553600") && message.contains("1048576"), "{message}");
}

#[test]
fn the_memory_of_all_guests_together_is_bounded() {
    let server = Server::with(&["--memory-budget", "64"]);
    server.deploy("a", &guest("event"), "memory=128&timeout=10");
    server.deploy("b", &guest("event"), "memory=128&timeout=10");
    server.invoke("a", r#"{"do":"take","mb":40}"#).expect(200);
    let answer = server.invoke("b", r#"{"do":"take","mb":70}"#).expect(500);
    assert!(answer.text().contains("memory budget"), "{}", answer.text());
    // Idle instances make room: `a` still holds 40 MB, until `b` needs them.
    server.invoke("b", r#"{"do":"take","mb":40}"#).expect(200);
    assert!(server.metric("wambda_memory_used_bytes") <= f64::from(64 << 20));
    server.assert_well();
}

#[test]
fn payloads_are_bounded_both_ways() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "payload=1000");
    assert_eq!(server.invoke("f", &"x".repeat(1_000)).expect(200).body.len(), 1_000);
    let message = server.invoke("f", &"x".repeat(1_001)).expect(413).message();
    assert!(message.contains("1000") && message.contains("1001"), "{message}");
    let big = wats::core_with(
        "(memory (export \"memory\") 110)",
        "(i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
                 (i64.extend_i32_u (local.get $len)))",
    );
    server.deploy("big", big.as_bytes(), "");
    assert_eq!(server.invoke("big", &"x".repeat(6 << 20)).expect(200).body.len(), 6 << 20);
    server.invoke("big", &"x".repeat((6 << 20) + 1)).expect(413);
    server.assert_well();
}

#[test]
fn log_output_is_bounded() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "logs=100");
    server.invoke("f", r#"{"do":"print","lines":1000}"#).expect(200);
    let log = server.log("f");
    assert!(log.contains("line 9") && !log.contains("line 99"), "{log}");
    assert!(log.contains("truncated: this invocation's limit is 100 bytes"), "{log}");
    assert!(log.contains("END RequestId") && log.contains("REPORT RequestId"), "{log}");
    server.deploy("f", &guest("event"), "logs=6MB");
    server.invoke("f", r#"{"do":"print-long","bytes":3000000}"#).expect(200);
    assert!(server.log("f").lines().all(|line| line.len() < 8_300), "long lines are split");
    server.assert_well();
}

#[test]
fn functions_reach_nothing_outside() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "");
    for address in
        [server.address(), "127.0.0.1:1", "169.254.169.254:80", "[::1]:1", "localhost:80"]
    {
        let said = server
            .invoke("f", &format!(r#"{{"do":"reach","address":"{address}"}}"#))
            .expect(200)
            .text();
        assert!(said.contains("refused"), "{address}: {said}");
    }
    assert!(server.invoke("f", r#"{"do":"files"}"#).expect(200).text().contains("refused"));
    let names = server.invoke("f", r#"{"do":"env-all"}"#).expect(200).json();
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with("AWS_")), "{names:?}");
}

#[test]
fn compile_bombs_are_refused_and_the_neighbour_answers() {
    let server = Server::start();
    server.deploy("neighbour", wats::echo().as_bytes(), "");
    let locals = "(local i64)".repeat(1_000);
    let loops = format!("{}{}", "(loop ".repeat(100), ")".repeat(100));
    let nested = wats::core_with(
        &format!("(memory (export \"memory\") 1) (func {locals} {loops})"),
        "(i64.const 0)",
    );
    let message = server.put("bomb", &wat(&nested), "").expect(400).message();
    assert!(message.contains("20000") && message.contains("1000 x 100"), "{message}");
    // Past the pre-checks: what still costs time costs the child's.
    let many = format!("(memory (export \"memory\") 1) {}", "(func)".repeat(60_000));
    let upload = wat(&wats::core_with(&many, "(i64.const 0)"));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let bomb = scope.spawn(|| server.put("bomb", &upload, ""));
        while !bomb.is_finished() {
            let took = server.invoke("neighbour", "hi").expect(200).took;
            assert!(took < Duration::from_millis(250), "the neighbour waited {took:?}");
        }
        assert!(matches!(bomb.join().unwrap().status, 201 | 400));
    });
    assert!(began.elapsed() < Duration::from_secs(125));
    server.assert_well();
}

/// The child that compiles, with limits that a test can reach.
#[test]
fn the_compiling_child_is_limited() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.wasm"), dir.path().join("out.cwasm"));
    let body = "(i32.store (i32.const 0) (i32.add (i32.load (i32.const 4)) (local.get $at)))"
        .repeat(9_000);
    let many = format!("(func (param $at i32) {body})").repeat(40);
    let heavy = wats::core_with(&format!("(memory (export \"memory\") 1) {many}"), "(i64.const 0)");
    std::fs::write(&input, wat(&heavy)).unwrap();
    let compile = |limit: &str, value: &str| {
        let mut command = std::process::Command::new(wambda_tests::program());
        command.args(["compile", "--engine", "main", limit, value]).args([&input, &output]);
        // As the server starts it: the allocator must not have its memory before the limit.
        command.env("MIMALLOC_ARENA_RESERVE", "65536").output().unwrap()
    };
    let began = Instant::now();
    let stopped = compile("--cpu-seconds", "1");
    assert_eq!(stopped.status.signal(), Some(24), "{stopped:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(
        std::fs::metadata(&output).unwrap().len() == 0,
        "nothing that could pass for an artifact"
    );
    let stopped = compile("--address-bytes", "200000000");
    assert_eq!(stopped.status.signal(), Some(6), "{stopped:?}");
    assert!(
        std::fs::metadata(&output).unwrap().len() == 0,
        "nothing that could pass for an artifact"
    );
    std::fs::write(&input, wat(&wats::echo())).unwrap();
    let good = compile("--cpu-seconds", "60");
    assert!(good.status.success() && output.exists(), "{good:?}");
}

#[test]
fn more_provisioned_than_fits_harms_nobody() {
    let server = Server::with(&["--memory-budget", "64"]);
    server.deploy("neighbour", wats::echo().as_bytes(), "");
    let large = wats::core_with("(memory (export \"memory\") 256)", "(i64.const 0)");
    server.deploy("large", large.as_bytes(), "memory=32&provisioned=1000");
    let cpu = || server.metric("process_cpu_seconds_total");
    std::thread::sleep(Duration::from_millis(500));
    let before = cpu();
    for _ in 0..20 {
        let took = server.invoke("neighbour", "hi").expect(200).took;
        assert!(took < Duration::from_millis(500), "the neighbour waited {took:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(cpu() - before < 1.0, "it went on trying: {} CPU-seconds in 2", cpu() - before);
    server.invoke("large", "x").expect(200);
    server.assert_well();
}
