//! What reading and compiling an upload may take, in the child and in the server, and who waits for it.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wambda_tests::{Server, eventually, percentile, wat, within};

use crate::wats;

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
        let mut waits = Vec::new();
        while !bomb.is_finished() {
            waits.push(server.invoke("neighbour", "hi").expect(200).took);
        }
        let p99 = percentile(&mut waits, 99);
        assert!(p99 < Duration::from_millis(100), "the neighbour waited {p99:?}");
        assert!(waits.last() < Some(&Duration::from_secs(1)), "and {:?}", waits.last());
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

/// A component of which every instance is checked against 15,000 exports, thousands of times over. Another one for each `n`.
fn tedious(n: usize) -> String {
    let exports: String = (0..15_000).map(|n| format!("(export \"a{n}\" (func))")).collect();
    let instances = "(instance (instantiate $c (with \"i\" (instance $x))))".repeat(990);
    let inner = format!(
        "(component (alias outer 1 $t (type $u)) (import \"x\" (instance $x (type $u)))
           (component $c (alias outer 1 $u (type $v)) (import \"i\" (instance (type $v)))) {instances})"
    );
    format!("(component (type $t (instance {exports})) {}) ;; {n}", inner.repeat(8))
}

/// Uploads some at once, as `bomb0` and so on: each is refused with words, and the neighbour notices nothing. What is refused is
/// known from then on: each time it is others.
fn bomb(server: &Server, mut uploads: impl FnMut() -> Vec<Vec<u8>>, says: &str) {
    server.deploy("neighbour", wats::echo().as_bytes(), "");
    within(Duration::from_millis(25), || beside(server, &uploads(), says));
    server.get("/v1/functions/bomb0").expect(404);
}

/// What the neighbour waits meanwhile, 99 times of a hundred.
fn beside(server: &Server, uploads: &[Vec<u8>], says: &str) -> Duration {
    let mut waits: Vec<Duration> = Vec::new();
    std::thread::scope(|scope| {
        let bombs: Vec<_> = uploads
            .iter()
            .enumerate()
            .map(|(n, upload)| scope.spawn(move || server.put(&format!("bomb{n}"), upload, "")))
            .collect();
        while !bombs.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            waits.push(server.invoke("neighbour", "hi").expect(200).took);
            std::thread::sleep(Duration::from_millis(1));
        }
        for bomb in bombs {
            let message = bomb.join().unwrap().expect(400).message();
            assert!(message.contains(says), "{message}");
        }
    });
    let (calls, p99) = (waits.len(), percentile(&mut waits, 99));
    // Enough of them for a hundredth to be some.
    println!("{calls} calls, p99 {p99:?}");
    assert!(calls > 100, "{calls}");
    p99
}

#[test]
fn looking_at_an_upload_is_limited_and_not_noticed() {
    let server = Server::with(&["--compile-cpu", "1"]);
    let says = "inspecting took more than 1 CPU-seconds";
    let mut times = 0..;
    let mut uploads = || vec![tedious(times.next().unwrap()).into_bytes(); 4];
    bomb(&server, &mut uploads, says);
    // Known by now, so that it costs nothing.
    let mut names = 0..;
    within(Duration::from_millis(900), || {
        let name = format!("again{}", names.next().unwrap());
        let again = server.put(&name, tedious(0).as_bytes(), "").expect(400);
        assert!(again.message().contains(says), "{}", again.message());
        again.took
    });
    server.assert_well();
}

/// A child that has not used up its CPU time is stopped by the clock. That may have been the machine's fault: the same
/// upload is compiled again when it is sent again.
#[test]
fn compiling_is_limited_by_the_clock() {
    let server = Server::with(&["--compile-wall", "2"]);
    let upload = wats::laborious(24, 1);
    let says = "compiling took more than 2 seconds and was stopped";
    for _ in 0..2 {
        let answer = server.put("slow", &upload, "").expect(400);
        assert!(answer.message().contains(says), "{}", answer.message());
        let took = answer.took.as_secs_f64();
        assert!((2.0..5.0).contains(&took), "{took} s");
    }
    let gone = || crate::wall::children(server.pid()).is_empty().then_some(());
    eventually(Duration::from_secs(2), gone);
    server.deploy("quick", wats::echo().as_bytes(), "");
    server.invoke("quick", "x").expect(200);
    server.assert_well();
}

/// A core module that is small and slow to check: the server itself does not do that.
#[test]
fn modules_that_are_slow_to_check_are_checked_in_the_child() {
    let server = Server::start();
    let cpu = || server.metric("process_cpu_seconds_total");
    let upload = crate::hostile::slow_to_check();
    assert!(upload.len() < 1 << 20, "{}", upload.len());
    let before = cpu();
    let answer = server.put("slow", &upload, "").expect(400);
    let (took, spent) = (answer.took.as_secs_f64(), cpu() - before);
    println!("it took {took} s, and {spent} CPU-seconds of the server");
    assert!(spent < 0.5, "the server spent {spent} CPU-seconds of {took} s on it");
    server.assert_well();
}

/// Ten that cost more than they may: each is stopped and says so, by either front, and nobody waits for it.
#[test]
fn ten_compile_bombs_in_a_row_are_not_noticed() {
    let server = Server::with(&["--compile-cpu", "1"]);
    let mut each = 0..;
    let uploads = || each.by_ref().take(10).map(|n| wats::laborious(16, n)).collect();
    bomb(&server, uploads, "more than 1 CPU-seconds and was stopped");
    // Known by now, so that it costs nothing.
    let mut names = 0..;
    within(Duration::from_millis(900), || {
        let name = format!("again{}", names.next().unwrap());
        server.put(&name, &wats::laborious(16, 0), "").expect(400).took
    });
    // Lambda's front says it by the function's state.
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("bootstrap", zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut zip, &wats::laborious(16, 99)).unwrap();
    let code = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        zip.finish().unwrap().into_inner(),
    );
    server.role("r");
    let order = serde_json::json!({"FunctionName": "late", "Runtime": "provided.al2023", "Handler": "x",
        "Role": "arn:aws:iam::000000000000:role/r", "Code": {"ZipFile": code}});
    let json = [("content-type", "application/json")];
    server
        .request("POST", "/2015-03-31/functions", &json, order.to_string().as_bytes())
        .expect(201);
    let state = wambda_tests::eventually(Duration::from_secs(20), || {
        let described = server.get("/2015-03-31/functions/late/configuration").expect(200).json();
        (described["State"] != "Pending").then_some(described)
    });
    assert_eq!(state["State"], "Failed", "{state}");
    assert!(state["StateReason"].as_str().unwrap().contains("was stopped"), "{state}");
    server.assert_well();
}

/// Sent at once by one address.
const BOMBS: usize = 24;

#[test]
fn uploaders_take_turns_at_the_compiler() {
    let server = Server::with(&["--compile-cpu", "1"]);
    let (ended, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    // Until it is answered, or all is over.
    let put = |source: &str, name: &str, upload: &[u8]| {
        let mut stream = server.connect_from(source);
        let length = upload.len();
        let line = format!("PUT /v1/functions/{name} HTTP/1.1\r\nhost: h\r\nconnection: close");
        let head = format!("{line}\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), upload].concat()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut answer = Vec::new();
        while stream.read_to_end(&mut answer).is_err() && !over.load(Relaxed) {}
        ended.fetch_add(1, Relaxed);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let bombs: Vec<Vec<u8>> = (0..BOMBS).map(|n| wats::laborious(16, 100 + n)).collect();
    let answers = std::thread::scope(|scope| {
        let put = &put;
        let bombs = bombs.iter().enumerate();
        let calls: Vec<_> = bombs
            .map(|(n, bomb)| scope.spawn(move || put("127.0.0.2", &format!("bomb{n}"), bomb)))
            .collect();
        // One is compiled, and sixteen wait: the others are refused.
        eventually(Duration::from_secs(60), || (ended.load(Relaxed) >= BOMBS - 17).then_some(()));
        // Somebody else waits for the one that is at it, and not for the others.
        let before = ended.load(Relaxed);
        let answer = put("127.0.0.3", "small", wats::echo().as_bytes());
        let between = ended.load(Relaxed) - before;
        over.store(true, Relaxed);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        assert!(between <= 4, "{between} came before, itself among them");
        calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>()
    });
    let busy: Vec<_> = answers.iter().filter(|said| said.starts_with("HTTP/1.1 503")).collect();
    assert!(!busy.is_empty(), "{answers:?}");
    for said in busy {
        assert!(
            said.contains("16 of your uploads wait") && said.contains("retry-after: 5"),
            "{said}"
        );
    }
    server.assert_well();
}

#[test]
fn what_compiling_takes_of_memory_is_bounded() {
    let server = Server::with(&["--compile-memory", "256"]);
    let many = wats::core_with(
        &format!("(memory (export \"memory\") 1) {}", "(func)".repeat(150_000)),
        "(i64.const 0)",
    );
    let message = server.put("many", &wat(&many), "").expect(400).message();
    assert!(
        message.contains("more than 268435456 bytes of memory or stack and was stopped"),
        "{message}"
    );
    server.deploy("few", wats::echo().as_bytes(), "");
    server.assert_well();
}
