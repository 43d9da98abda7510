//! Limits, through the API: that they are where they are said to be. Guests that break them are in
//! [`crate::hostile`].

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;
use wambda_tests::{Server, eventually, guest, wat};

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
    assert!(answer.text().contains("part of the server's memory"), "{}", answer.text());
    // Idle instances make room: `a` still holds 40 MB, until `b` needs them.
    server.invoke("b", r#"{"do":"take","mb":40}"#).expect(200);
    assert!(server.metric("wambda_memory_used_bytes") <= f64::from(64 << 20));
    server.assert_well();
}

/// One that grows as it goes is not begun where it could not end: who is refused has done nothing.
#[test]
fn memory_is_there_before_an_instance_is_made() {
    let server = Server::with(&["--memory-budget", "64"]);
    let grower = wats::core_with(
        "(memory (export \"memory\") 1)",
        "(local $n i32)
         (loop $grow
           (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
           (local.set $n (i32.const 2000000))
           (loop $wait (br_if $wait (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
           (br_if $grow (i32.lt_u (memory.size) (i32.const 289))))
         (i64.const 1)",
    );
    server.deploy("f", grower.as_bytes(), "memory=32&timeout=20&reuse=fresh");
    server.invoke("f", "x").expect(200);
    let answers = std::thread::scope(|scope| {
        let client = || (0..6).map(|_| server.invoke("f", "x").status).collect::<Vec<_>>();
        let clients: Vec<_> = (0..12).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let count = |status| answers.iter().filter(|s| **s == status).count();
    // The function has had its part of the memory, which is less than all of it.
    println!("{} went well, {} were refused", count(200), count(429));
    assert!(count(200) > 5 && count(200) + count(429) == answers.len(), "{answers:?}");
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
fn the_memory_for_logs_is_shared() {
    let server = Server::with(&["--log-memory", "1"]);
    let name = |n| format!("f{n}");
    let print = |n: usize| {
        server.invoke(&name(n), r#"{"do":"print-long","bytes":200000}"#).expect(200);
        server.log(&name(n)).len()
    };
    for n in 0..8 {
        server.deploy(&name(n), &guest("event"), "logs=1MB");
    }
    assert!(print(0) > 200_000, "one alone has it all");
    for n in 1..8 {
        print(n);
    }
    // A part is 128 KB; what the first one has beyond that goes by and by, the oldest first.
    for n in 0..8 {
        eventually(Duration::from_secs(5), || {
            (server.log(&name(n)).len() < 128 << 10).then_some(())
        });
        let log = server.log(&name(n));
        assert!(log.len() > 100_000 && !log.contains("START"), "{n}: {}", log.len());
        assert!(log.lines().last().unwrap().contains("REPORT"), "{n}");
    }
    // Those that are gone leave theirs to others.
    for n in 1..8 {
        server.request("DELETE", &format!("/v1/functions/{}", name(n)), &[], b"").expect(204);
    }
    eventually(Duration::from_secs(5), || (print(0) > 200_000).then_some(()));
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

/// The CPU limit is of CPU time: a call that had to wait for a core has not used it up.
#[test]
fn waiting_for_a_core_uses_up_no_cpu_time() {
    let server = Server::start();
    let fill = "(memory.fill (i32.const 4096) (i32.const 1) (i32.const 100000000)) (i64.const 1)";
    let code = wats::core_with("(memory (export \"memory\") 1600)", fill);
    server.deploy("fill", code.as_bytes(), "memory=120&timeout=20&cpu=0.8&reuse=fresh");
    let mut longest = 0.0f64;
    for _ in 0..5 {
        let answer = std::thread::scope(|scope| {
            let filling = scope.spawn(|| server.invoke("fill", "x").expect(200));
            std::thread::sleep(Duration::from_millis(10));
            server.signal(Signal::STOP);
            std::thread::sleep(Duration::from_secs(1));
            server.signal(Signal::CONT);
            filling.join().unwrap()
        });
        let cpu: f64 = answer.header("x-wambda-cpu-ms").parse().unwrap();
        let duration: f64 = answer.header("x-wambda-duration-ms").parse().unwrap();
        assert!(cpu < 800.0, "{cpu} ms of CPU time, and {duration} in all");
        longest = longest.max(duration);
    }
    assert!(longest > 900.0, "it was stopped within a call: {longest}");
    server.assert_well();
}

#[test]
fn more_provisioned_than_fits_harms_nobody() {
    let server = Server::with(&["--memory-budget", "64"]);
    server.deploy("neighbour", wats::echo().as_bytes(), "");
    let large = wats::core_with("(memory (export \"memory\") 256)", "(i64.const 0)");
    server.deploy("large", large.as_bytes(), "memory=32&provisioned=900");
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

#[test]
fn a_call_that_does_not_come_back_is_told_of() {
    let server = Server::with(&["--stuck-after", "0.02"]);
    // One operation, which no tick interrupts, on fresh memory: a quarter of a million page faults.
    let fill = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 0x3fff0000)) (i64.const 1)";
    let memory = "(memory (export \"memory\") 16383)";
    let config = "memory=1024&timeout=0.05&reuse=fresh";
    server.deploy("fill", wats::core_with(memory, fill).as_bytes(), config);
    let (mut most, mut seen) = (Duration::ZERO, 0.0f64);
    std::thread::scope(|scope| {
        let filling = scope.spawn(|| {
            let begin = Instant::now();
            let answer = server.invoke("fill", "x").expect(504);
            (answer.header("x-wambda-error").to_owned(), begin.elapsed())
        });
        while !filling.is_finished() {
            seen = seen.max(server.metric("wambda_stuck_polls"));
        }
        let (error, took) = filling.join().unwrap();
        assert_eq!(error, "Sandbox.Timedout");
        most = most.max(took);
    });
    println!("{seen} stuck at most; it took {most:?}");
    assert!(seen >= 1.0, "nobody noticed in {most:?}");
    eventually(Duration::from_secs(5), || {
        (server.metric("wambda_stuck_polls") == 0.0).then_some(())
    });
    // Whoever looks after the server reads which function it was, once for each time.
    let said = server.said().find("a call does not come back", Duration::from_secs(5));
    assert!(said.contains("ERROR") && said.contains("function=\"fill\""), "{said}");
    let back = server.said().find("has come back", Duration::from_secs(5));
    assert!(back.contains("function=\"fill\""), "{back}");
    assert!(said.lines().count() <= 2 && back.lines().count() <= 2, "{said}\n{back}");
    server.assert_well();
}

/// A zip with one file.
fn zip_of(bytes: &[u8], method: zip::CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    zip.start_file("data", options).unwrap();
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap().into_inner()
}

/// Bytes that become a few per cent of what they are, and no less: a bomb is refused.
fn compressible(count: usize, seed: u32) -> Vec<u8> {
    let noise = |at: usize| (at as u32 ^ seed).wrapping_mul(0x9e37_79b1).to_be_bytes()[0];
    (0..count).map(|at| if at.is_multiple_of(64) { noise(at) } else { 0 }).collect()
}

/// The layer's first version.
fn layer_arn(name: &str) -> String {
    format!("arn:aws:lambda:us-east-1:000000000000:layer:{name}:1")
}

#[test]
fn layers_that_are_unpacked_take_no_more_than_all_code_may() {
    let server = Server::with(&["--code-storage", "8"]);
    for at in 0..3 {
        // Small as they come, 8 MB each as they are used.
        let zip = zip_of(&compressible(8 << 20, at), zip::CompressionMethod::Deflated);
        server.publish_layer(&format!("l{at}"), &zip).expect(201);
        server.deploy(&format!("f{at}"), &guest("event"), "");
        server.set_layers(&format!("f{at}"), &[&layer_arn(&format!("l{at}"))]);
    }
    let read = |name: &str| server.invoke(name, r#"{"do":"read","path":"/opt/none"}"#);
    read("f0").expect(200);
    let refused = read("f1").expect(503);
    assert!(refused.message().contains("8388608 bytes unpacked"), "{}", refused.text());
    // Those of one that is gone make room.
    server.request("DELETE", "/v1/functions/f0", &[], b"").expect(204);
    eventually(Duration::from_secs(5), || (read("f1").status == 200).then_some(()));
    server.assert_well();
}

#[test]
fn the_queue_is_bounded_in_bytes_and_in_age() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "timeout=30&memory=64&concurrency=1&queue=100&payload=6MB");
    let sleep = |ms: u32, bytes: usize| {
        let event = serde_json::json!({"do": "sleep", "ms": ms, "more": "x".repeat(bytes)});
        server.invoke("f", &event.to_string())
    };
    std::thread::scope(|scope| {
        // Long enough for the last of them to have arrived ten seconds before, on a slow machine as well.
        let first = scope.spawn(|| sleep(20_000, 0));
        let running = || server.get("/v1/functions/f/scaling").json()["running"] == 1;
        eventually(Duration::from_secs(2), || running().then_some(()));
        // Eleven of them are 64 MiB, and a little.
        let large: Vec<_> = (0..11).map(|_| scope.spawn(|| sleep(1, (6 << 20) - 200))).collect();
        let answers: Vec<_> = large.into_iter().map(|call| call.join().unwrap()).collect();
        let says = |what: &str| {
            let of = |answer: &&wambda_tests::Answer| answer.message().contains(what);
            answers.iter().filter(|answer| answer.status == 429).filter(of).count()
        };
        let told: Vec<_> = answers.iter().map(|answer| (answer.status, answer.text())).collect();
        assert_eq!(says("67108864"), 1, "{told:?}");
        assert_eq!(says("10000"), 10, "{told:?}");
        let slowest = answers.iter().map(|answer| answer.took).max().unwrap();
        assert!((10..20).contains(&slowest.as_secs()), "{slowest:?}");
        first.join().unwrap().expect(200);
    });
    server.assert_well();
}

#[test]
fn a_response_streams_so_many_bytes_and_breaks_off() {
    let server = Server::start();
    server.deploy("f", &guest("http"), "timeout=120");
    let mut stream = server.connect_from("127.0.0.1");
    stream.write_all(b"GET /fn/f/endless HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let (mut bytes, mut count, mut last) = (vec![0; 1 << 20], 0u64, Vec::new());
    while let Ok(more) = stream.read(&mut bytes) {
        if more == 0 {
            break;
        }
        count += more as u64;
        last = bytes[..more].to_vec();
    }
    // With the chunks' own bytes; the last chunk may be missing.
    assert!((199 << 20..202 << 20).contains(&count), "{count} bytes");
    assert!(!last.ends_with(b"0\r\n\r\n"), "it looks whole");
    server.assert_well();
}

#[test]
fn a_core_module_may_have_layers_of_small_files() {
    let server = Server::start();
    let largest = 8 << 20;
    for (layer, bytes) in [("fits", largest), ("large", largest + 1)] {
        let zip = zip_of(&compressible(bytes, 0), zip::CompressionMethod::Deflated);
        server.publish_layer(layer, &zip).expect(201);
        for (kind, upload) in [("module", wats::echo().into_bytes()), ("component", guest("event"))]
        {
            let name = format!("{kind}-{layer}");
            server.deploy(&name, &upload, "");
            server.set_layers(&name, &[&layer_arn(layer)]);
        }
    }
    server.invoke("module-fits", "{}").expect(200);
    let refused = server.invoke("module-large", "{}").expect(400);
    let message = refused.message();
    assert!(message.contains("files of 8388608 bytes, these have one of 8388609"), "{message}");
    server.invoke("component-large", r#"{"do":"read","path":"/opt/none"}"#).expect(200);
    server.assert_well();
}

#[test]
fn refused_uploads_take_no_room() {
    let server = Server::with(&["--code-storage", "8"]);
    server.deploy("echo", wats::echo().as_bytes(), "");
    let used = || {
        let settings = server.get("/2016-08-19/account-settings/").expect(200).json();
        settings["AccountUsage"]["TotalCodeSize"].as_u64().unwrap()
    };
    let files = || {
        let count = |dir: &str| {
            std::fs::read_dir(server.data().join(dir)).map_or(0, |entries| entries.count())
        };
        [count("blobs/code"), count("blobs/upload"), count("artifacts"), count("artifacts/tmp")]
    };
    let before = (used(), files());
    // A megabyte of data, and an import that is there and has another type: it compiles, and does not link.
    let module = |n: usize| {
        let data = format!("{n:07}x").repeat(1 << 17);
        wat(&format!(
            "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i64) (result i64)))
              (memory (export \"memory\") 17) (data (i32.const 0) \"{data}\")
              (func (export \"wambda_alloc\") (param i32) (result i32) (i32.const 1024))
              (func (export \"wambda_handle\") (param i32 i32) (result i64) (i64.const 0)))"
        ))
    };
    for n in 0..9 {
        let message = server.put("new", &module(n), "").expect(400).message();
        assert!(message.contains("does not link"), "{message}");
        server.put("echo", &module(n), "").expect(400);
        assert_eq!((used(), files()), before, "upload {n}");
    }
    server.deploy("honest", &wat(&wats::counter()), "");
    assert_eq!(server.invoke("echo", "x").expect(200).text(), "x");
    server.assert_well();
}

/// What was deleted counts until its bytes have gone.
#[test]
fn layers_that_come_and_go_are_in_the_storage_of_code() {
    let server = Server::with(&["--code-storage", "8"]);
    let json = [("content-type", "application/json")];
    let publish = |seed: u8| {
        let zip = BASE64.encode(zip_of(&vec![seed; 3 << 20], zip::CompressionMethod::Stored));
        let body = serde_json::json!({"Content": {"ZipFile": zip}}).to_string();
        server.request("POST", "/2018-10-31/layers/l/versions", &json, body.as_bytes())
    };
    for number in 1..3 {
        publish(number).expect(201);
        let path = format!("/2018-10-31/layers/l/versions/{number}");
        server.request("DELETE", &path, &[], b"").expect(204);
    }
    let refused = publish(3).expect(400).text();
    assert!(refused.contains("Code storage limit exceeded"), "{refused}");
    server.assert_well();
}

#[test]
fn the_storage_of_code_is_bounded() {
    let mut server = Server::with(&["--code-storage", "8"]);
    // Three megabytes that no compiler looks at: a custom section without a name.
    let module = wat(&wats::core_with("(memory (export \"memory\") 1)", "(i64.const 0)"));
    let padded = |seed: u8| {
        let padding = [vec![0], vec![seed; (3 << 20) - 1]].concat();
        let section = [0, 0x80, 0x80, 0xc0, 0x01];
        [&module[..], &section, &padding].concat()
    };
    server.deploy("a", &padded(1), "");
    server.deploy("b", &padded(2), "");
    let refused = |server: &Server, name: &str| {
        let message = server.put(name, &padded(3), "").expect(400).message();
        assert!(message.starts_with("Code storage limit exceeded"), "{message}");
        assert!(message.contains("8388608") && message.contains("3145"), "{message}");
    };
    // A new function, and new code of one; neither leaves anything behind.
    refused(&server, "c");
    refused(&server, "a");
    server.get("/v1/functions/c").expect(404);
    server.kill();
    server.restart();
    refused(&server, "c");
    let settings = server.get("/2016-08-19/account-settings/").expect(200).json();
    let of = |part: &str| settings[part]["TotalCodeSize"].as_u64().unwrap();
    assert_eq!(of("AccountLimit"), 8 << 20);
    assert!((6 << 20..7 << 20).contains(&of("AccountUsage")), "{settings}");
    // A layer has no more room.
    let zip = BASE64.encode(zip_of(&[7; 3 << 20], zip::CompressionMethod::Stored));
    let body = serde_json::json!({"Content": {"ZipFile": zip}}).to_string();
    let json = [("content-type", "application/json")];
    let answer = server.request("POST", "/2018-10-31/layers/l/versions", &json, body.as_bytes());
    assert!(answer.expect(400).text().contains("Code storage limit exceeded"));
    server.request("DELETE", "/v1/functions/a", &[], b"").expect(204);
    let room = || (server.put("c", &padded(3), "").status == 201).then_some(());
    eventually(Duration::from_secs(5), room);
    server.invoke("b", "{}").expect(200);
    server.assert_well();
}
