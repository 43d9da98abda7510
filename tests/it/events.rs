//! Asynchronous invocations through the native API: accepted, tried again, ended, and the queues that they
//! wait in. Retry delays are milliseconds here.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use wambda_tests::{Answer, Server, eventually, example, guest, script};

use crate::wats;

const SOON: Duration = Duration::from_secs(10);
const FAST: [&str; 4] = ["--retry-delays", "0.05,0.1", "--retry-backoff", "0.02,0.2"];

fn send(server: &Server, name: &str, event: &str) -> Answer {
    let path = format!("/v1/functions/{name}/invoke?mode=event");
    server.request("POST", &path, &[], event.as_bytes())
}

/// Sends an event that must be taken, and returns its id.
#[track_caller]
fn sent(server: &Server, name: &str, event: &str) -> String {
    let answer = send(server, name, event).expect(202);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("x-wambda-request-id"), id);
    assert_eq!(answer.header("location"), format!("/v1/invocations/{id}"));
    id
}

fn status(server: &Server, id: &str) -> Value {
    server.get(&format!("/v1/invocations/{id}")).expect(200).json()
}

/// Waits until an event has ended.
#[track_caller]
fn ended(server: &Server, id: &str) -> Value {
    eventually(SOON, || Some(status(server, id)).filter(|status| status.get("ended").is_some()))
}

fn messages(server: &Server, queue: &str) -> Vec<Value> {
    let answer = server.get(&format!("/v1/queues/{queue}/messages?limit=1000")).expect(200).json();
    answer["messages"].as_array().unwrap().clone()
}

fn queue(server: &Server, name: &str) -> Value {
    server.get(&format!("/v1/queues/{name}")).expect(200).json()
}

#[test]
fn an_event_runs_and_its_result_is_kept() {
    let server = Server::start();
    server.deploy("hello", &example("hello", "wasm32-wasip2"), "");
    server.deploy("page", &example("http_echo", "wasm32-wasip2"), "");
    let id = sent(&server, "hello", r#"{"name":"Ada"}"#);
    let known = ended(&server, &id);
    assert_eq!((&known["status"], &known["function"]), (&json!("succeeded"), &json!("hello")));
    assert_eq!(known["result"]["message"], "Hello, Ada!");
    assert_eq!(known["result"]["request_id"], id.as_str());
    assert_eq!(
        (known["attempts"].as_array().unwrap().len(), &known["version"]),
        (1, &json!("$LATEST"))
    );
    // One of the http kinds gets its event as a request, and one that is none is refused now.
    let id =
        sent(&server, "page", r#"{"rawPath":"/a","requestContext":{"http":{"method":"GET"}}}"#);
    assert_eq!(ended(&server, &id)["result"]["statusCode"], 200);
    assert!(send(&server, "page", "[]").expect(400).message().contains("API Gateway"));
    assert_eq!(
        server.metric(r#"wambda_async_events_total{function="hello",outcome="received"}"#),
        1.0
    );
    let succeeded = r#"wambda_async_events_total{function="hello",outcome="succeeded"}"#;
    eventually(SOON, || (server.metric(succeeded) == 1.0).then_some(()));
    server.assert_well();
}

#[test]
fn what_is_wrong_is_said_before_anything_is_accepted() {
    let server = Server::start();
    server.deploy("echo", wats::echo().as_bytes(), "");
    send(&server, "nobody", "{}").expect(404);
    let large = "x".repeat((1 << 20) + 1);
    let message = send(&server, "echo", &large).expect(413).message();
    assert!(message.contains("1048576") && message.contains("1048577"), "{message}");
    send(&server, "echo", &large[1..]).expect(202);
    server.deploy("small", wats::echo().as_bytes(), "payload=10");
    let message = send(&server, "small", "12345678901").expect(413).message();
    assert!(message.contains("10") && message.contains("11"), "{message}");
    let path = "/v1/functions/echo/invoke?mode=event";
    let long = "k".repeat(257);
    for key in ["", &long] {
        let refused = server.request("POST", path, &[("idempotency-key", key)], b"{}").expect(400);
        assert!(refused.message().contains("1 to 256"), "{}", refused.text());
    }
    server.get("/v1/invocations/nothing").expect(404);
    server.get("/v1/invocations/01a2085b-7e27-779c-a63d-b58b5830de1c").expect(404);
    for (method, path, status) in [
        ("GET", "/v1/queues/nobody", 404),
        ("GET", "/v1/queues/async:nobody", 404),
        ("POST", "/v1/queues/async:echo", 405),
        ("GET", "/v1/queues/dead:echo/redrive", 405),
        ("POST", "/v1/queues/async:echo/redrive", 400),
        ("POST", "/v1/queues/dead:echo/redrive?rate=0", 400),
        ("POST", "/v1/queues/dead:echo/redrive?id=x", 400),
        ("POST", "/v1/queues/dead:echo/redrive?id=01a2085b-7e27-779c-a63d-b58b5830de1c", 404),
        ("GET", "/v1/queues/async:echo/messages?limit=0", 400),
        ("GET", "/v1/queues/async:echo/messages?depth=1", 400),
        ("POST", "/v1/queues/async:echo/purge?all=1", 400),
    ] {
        server.request(method, path, &[], b"").expect(status);
    }
    for (query, says) in [
        ("retries=3", "0 to 2"),
        ("event_age=59", "60 to 21600"),
        ("on_failure=arn:aws:sns:us-east-1:000000000000:t", "sns are not there"),
        ("on_success=arn:aws:lambda:us-east-1:000000000000:function:echo", "itself"),
        ("dead_letter=arn:aws:lambda:us-east-1:000000000000:function:f", "not a queue"),
    ] {
        let refused = server.put("echo", wats::echo().as_bytes(), query).expect(400);
        assert!(refused.message().contains(says), "{query}: {}", refused.text());
    }
}

#[test]
fn the_same_key_is_accepted_once() {
    let server = Server::start();
    server.deploy("echo", wats::echo().as_bytes(), "");
    let keyed = |key: &str| {
        let path = "/v1/functions/echo/invoke?mode=event";
        let headers = [("idempotency-key", key)];
        let answer = server.request("POST", path, &headers, b"{}").expect(202);
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let first = keyed("a");
    assert_ne!(keyed("b"), first);
    std::thread::scope(|scope| {
        let again: Vec<_> = (0..8).map(|_| scope.spawn(|| keyed("a"))).collect();
        assert!(again.into_iter().all(|id| id.join().unwrap() == first));
    });
    // Also when the first has ended, and its queue is empty again.
    ended(&server, &first);
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(keyed("a"), first);
    assert_eq!(
        server.metric(r#"wambda_async_events_total{function="echo",outcome="received"}"#),
        2.0
    );
}

#[test]
fn errors_are_tried_again_and_end_as_dead_letters() {
    let server = Server::with(&FAST);
    server.deploy("f", &guest("event"), "timeout=1");
    let flaky = sent(&server, "f", r#"{"do":"fail-until","attempt":3}"#);
    let known = ended(&server, &flaky);
    assert_eq!((&known["status"], &known["result"]), (&json!("succeeded"), &json!(3)));
    assert_eq!(known["attempts"][0]["error"]["type"], "Flaky");
    assert_eq!(known["attempts"][1]["error"]["message"], "attempt 2");
    for (order, kind) in [
        (r#"{"do":"error"}"#, ""),
        (r#"{"do":"panic"}"#, "Runtime.ExitError"),
        (r#"{"do":"loop"}"#, "Sandbox.Timedout"),
    ] {
        let id = sent(&server, "f", order);
        let known = ended(&server, &id);
        assert_eq!(
            (&known["status"], &known["reason"]),
            (&json!("dead"), &json!("RetriesExhausted"))
        );
        let attempts = known["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 3, "{known}");
        if !kind.is_empty() {
            assert_eq!(attempts[2]["error"]["type"], kind);
        }
        let letter = messages(&server, "dead:f").into_iter().find(|m| m["id"] == id.as_str());
        let letter = letter.expect("a dead letter");
        assert_eq!((&letter["body"], &letter["attempts"]), (&json!(order), &json!(3)));
    }
    let letters = || server.metric(r#"wambda_dead_letters_total{function="f"}"#);
    eventually(SOON, || (letters() == 3.0).then_some(()));
    // As many attempts as its owner wants.
    server.deploy("f", &guest("event"), "retries=0");
    let id = sent(&server, "f", r#"{"do":"error"}"#);
    assert_eq!(ended(&server, &id)["attempts"].as_array().unwrap().len(), 1);
    server.assert_well();
}

#[test]
fn destinations_get_records() {
    let server = Server::with(&FAST);
    let arn = |what: &str| format!("arn:aws:{what}");
    let seen = arn("lambda:us-east-1:000000000000:function:seen");
    let failed = arn("sqs:us-east-1:000000000000:failed");
    server.deploy("seen", wats::echo().as_bytes(), "");
    server.deploy(
        "f",
        &guest("event"),
        &format!("retries=1&on_success={seen}&on_failure={failed}"),
    );
    let id = sent(&server, "f", r#"{"do":"count"}"#);
    ended(&server, &id);
    // The record is the next function's event, and that echoes it.
    eventually(SOON, || {
        let done =
            server.metric(r#"wambda_async_events_total{function="seen",outcome="succeeded"}"#);
        (done == 1.0).then_some(())
    });
    let log = server.log("seen");
    let echoed = log.lines().find_map(|line| line.split("RequestId: ").nth(1)).unwrap();
    let echoed = status(&server, &echoed[..36]);
    let record = &echoed["result"];
    assert_eq!(record["requestContext"]["requestId"], id.as_str());
    assert_eq!(record["requestContext"]["condition"], "Success");
    assert_eq!(
        record["requestContext"]["functionArn"],
        "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST"
    );
    assert_eq!(record["requestPayload"], json!({"do": "count"}));
    assert_eq!(
        (&record["responseContext"]["statusCode"], &record["responsePayload"]),
        (&json!(200), &json!(1))
    );

    let id = sent(&server, "f", r#"{"do":"error"}"#);
    ended(&server, &id);
    let letters = messages(&server, "failed");
    let record: Value = serde_json::from_str(letters[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(record["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 2);
    assert_eq!(record["responseContext"]["functionError"], "Unhandled");
    assert!(record["responsePayload"]["errorMessage"].is_string(), "{record}");
    assert!(messages(&server, "dead:f").is_empty(), "one place is enough");

    // A dead-letter queue gets the event itself; a destination that is gone falls back to our own.
    let jobs = arn("sqs:us-east-1:000000000000:jobs");
    server.deploy("f", &guest("event"), &format!("retries=0&on_failure=&dead_letter={jobs}"));
    let id = sent(&server, "f", r#"{"do":"error"}"#);
    ended(&server, &id);
    assert_eq!(messages(&server, "jobs")[0]["body"], r#"{"do":"error"}"#);
    let gone = arn("lambda:us-east-1:000000000000:function:gone");
    server.deploy("f", &guest("event"), &format!("dead_letter=&on_failure={gone}"));
    let id = sent(&server, "f", r#"{"do":"error"}"#);
    let known = ended(&server, &id);
    assert!(known["undelivered"][0].as_str().unwrap().contains("no function gone"), "{known}");
    assert_eq!(messages(&server, "dead:f")[0]["id"], id.as_str());
    // Counted right after it was written.
    eventually(SOON, || {
        let failures = server.metric(r#"wambda_destination_failures_total{function="f"}"#);
        (failures == 1.0).then_some(())
    });
}

/// Whatever surface takes an ARN, what would be in the name of a queue is checked.
#[test]
fn names_of_queues_are_checked_where_they_are_configured() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let lambda = "arn:aws:lambda:us-east-1:000000000000:function:g:";
    let sqs = "arn:aws:sqs:us-east-1:000000000000:";
    let long = "a".repeat(129);
    let bad = ["", "a%01", "a%1B%5B31m", "a%0Ab", "a%20b", "a%22b", "%C3%A4", "a:b", &long];
    for (arn, bad) in [lambda, sqs].into_iter().flat_map(|arn| bad.map(|bad| (arn, bad))) {
        for parameter in ["on_success", "on_failure", "dead_letter"] {
            let query = format!("{parameter}={arn}{bad}");
            server.put("f", wats::echo().as_bytes(), &query).expect(400);
        }
        let json = bad.replace("%01", "\\u0001").replace("%1B%5B", "\\u001b[");
        let json = json.replace("%0A", "\\n").replace("%20", " ").replace("%22", "\\\"");
        let arn = format!("\"{arn}{}\"", json.replace("%C3%A4", "ä"));
        let events = "/2019-09-25/functions/f/event-invoke-config";
        for end in ["OnSuccess", "OnFailure"] {
            let body = format!(r#"{{"DestinationConfig": {{"{end}": {{"Destination": {arn}}}}}}}"#);
            server.request("PUT", events, &[], body.as_bytes()).expect(400);
        }
        let body = format!(r#"{{"DeadLetterConfig": {{"TargetArn": {arn}}}}}"#);
        let configuration = "/2015-03-31/functions/f/configuration";
        server.request("PUT", configuration, &[], body.as_bytes()).expect(400);
    }
    server.assert_well();
}

#[test]
fn loops_of_destinations_end() {
    let server = Server::with(&FAST);
    let to =
        |name: &str| format!("on_success=arn:aws:lambda:us-east-1:000000000000:function:{name}");
    let short = wats::core("(i64.const 0)");
    server.deploy("ping", short.as_bytes(), "");
    server.deploy("pong", short.as_bytes(), &to("ping"));
    server.deploy("ping", short.as_bytes(), &to("pong"));
    sent(&server, "ping", "{}");
    let total = |name: &str| {
        server.metric(&format!(
            "wambda_async_events_total{{function=\"{name}\",outcome=\"succeeded\"}}"
        ))
    };
    eventually(SOON, || (total("ping") + total("pong") >= 33.0).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    assert!(total("ping") + total("pong") <= 34.0, "{} {}", total("ping"), total("pong"));
}

#[test]
fn queues_are_paused_looked_into_purged_and_redriven() {
    let server = Server::with(&FAST);
    server.deploy("f", &guest("event"), "retries=0");
    let post = |path: &str| server.request("POST", path, &[], b"").expect(200).json();
    post("/v1/queues/async:f/pause");
    let ids: Vec<String> = (0..5).map(|_| sent(&server, "f", r#"{"do":"count"}"#)).collect();
    std::thread::sleep(Duration::from_millis(200));
    let info = queue(&server, "async:f");
    assert_eq!(
        (&info["depth"], &info["paused"], &info["in_flight"]),
        (&json!(5), &json!(true), &json!(0))
    );
    assert!(
        info["oldest_seconds"].as_f64().unwrap() >= 0.2 && info["bytes"].as_u64().unwrap() > 70
    );
    assert_eq!(server.metric(r#"wambda_queue_depth{queue="async:f"}"#), 5.0);
    assert_eq!(status(&server, &ids[0])["status"], "queued");
    let page = server.get("/v1/queues/async:f/messages?limit=2").json();
    let after = page["next"].as_str().unwrap();
    let rest = server.get(&format!("/v1/queues/async:f/messages?limit=9&after={after}")).json();
    assert_eq!((rest["messages"].as_array().unwrap().len(), &rest["next"]), (3, &Value::Null));
    // A paused queue outlasts the process.
    assert_eq!(post("/v1/queues/async:f/purge")["purged"], 5);
    let known = status(&server, &ids[3]);
    assert_eq!((&known["status"], &known["reason"]), (&json!("dead"), &json!("Purged")));
    let kept = sent(&server, "f", r#"{"do":"count"}"#);
    post("/v1/queues/async:f/resume");
    assert_eq!(ended(&server, &kept)["status"], "succeeded");

    let dead: Vec<String> = (0..6).map(|_| sent(&server, "f", r#"{"do":"error"}"#)).collect();
    dead.iter().for_each(|id| drop(ended(&server, id)));
    server.deploy("f", wats::echo().as_bytes(), "");
    let one = post(&format!("/v1/queues/dead:f/redrive?id={}", dead[2]));
    assert_eq!((&one["redriven"], &one["messages"][0]["id"]), (&json!(1), &json!(dead[2])));
    let new = one["messages"][0]["new_id"].as_str().unwrap();
    assert_eq!(ended(&server, new)["status"], "succeeded");
    assert_eq!(status(&server, &dead[2])["status"], "dead", "what has ended, has ended");
    // The rest at ten a second.
    let began = Instant::now();
    let all = post("/v1/queues/dead:f/redrive?rate=10");
    assert_eq!(all["redriven"], 5);
    for pair in all["messages"].as_array().unwrap() {
        assert_eq!(ended(&server, pair["new_id"].as_str().unwrap())["status"], "succeeded");
    }
    assert!(began.elapsed() >= Duration::from_millis(390), "{:?}", began.elapsed());
    assert!(messages(&server, "dead:f").is_empty());

    let listed = server.cli(&["queue", "list"]);
    assert!(listed.status.success());
    let text =
        String::from_utf8(server.cli(&["invoke", "f", "--event", "-d", "7"]).stdout).unwrap();
    ended(&server, text.trim());
    let shown = String::from_utf8(server.cli(&["status", text.trim()]).stdout).unwrap();
    assert!(
        shown.starts_with("f succeeded (Success)") && shown.contains("\"result\":7"),
        "{shown}"
    );
}

#[test]
fn no_concurrency_and_no_function_end_events_at_once() {
    let server = Server::with(&FAST);
    server.deploy("f", wats::echo().as_bytes(), "concurrency=0");
    let id = sent(&server, "f", "{}");
    let known = ended(&server, &id);
    assert_eq!(
        (&known["status"], &known["reason"]),
        (&json!("dead"), &json!("ZeroReservedConcurrency"))
    );
    assert!(known["attempts"].as_array().unwrap().is_empty());
    server.deploy("g", wats::echo().as_bytes(), "");
    server.request("POST", "/v1/queues/async:g/pause", &[], b"").expect(200);
    let id = sent(&server, "g", "{}");
    server.request("DELETE", "/v1/functions/g", &[], b"").expect(204);
    server.request("POST", "/v1/queues/async:g/resume", &[], b"").expect(200);
    assert_eq!(ended(&server, &id)["reason"], "ResourceNotFound");
    assert_eq!(messages(&server, "dead:g")[0]["id"], id.as_str());
}

#[test]
fn a_slow_backlog_scales_up_and_leaves_room_for_callers() {
    let server = Server::start();
    server.deploy("slow", &guest("event"), "timeout=10");
    let turn = |what: &str| {
        server.request("POST", &format!("/v1/queues/async:slow/{what}"), &[], b"").expect(200);
    };
    // A backlog from the beginning, however long each takes to be on the disk.
    let first = sent(&server, "slow", r#"{"do":"sleep","ms":300}"#);
    turn("pause");
    let ids: Vec<String> = std::iter::once(first)
        .chain((0..200).map(|_| sent(&server, "slow", r#"{"do":"sleep","ms":300}"#)))
        .collect();
    let began = Instant::now();
    turn("resume");
    let busy = eventually(SOON, || {
        let scaling = server.get("/v1/functions/slow/scaling").json();
        scaling["running"].as_u64().filter(|running| *running >= 40)
    });
    let answer = server.invoke("slow", r#"{"do":"count"}"#).expect(200);
    assert!(answer.took < Duration::from_millis(500), "{:?} beside {busy} events", answer.took);
    ids.iter().for_each(|id| assert_eq!(ended(&server, id)["status"], "succeeded"));
    // One after the other it would be a minute.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let reasons = server.get("/v1/functions/slow/scaling").json()["decisions"].to_string();
    assert!(reasons.contains("backlog"), "{reasons}");
    server.assert_well();
}

#[test]
fn a_function_that_mostly_fails_is_held_back() {
    let server = Server::with(&["--retry-delays", "0.01,0.01"]);
    server.deploy("bad", &guest("event"), "timeout=10");
    server.deploy("good", wats::echo().as_bytes(), "");
    let ids: Vec<String> = (0..150).map(|_| sent(&server, "bad", r#"{"do":"error"}"#)).collect();
    let ratio = |report: &Value| report["events"]["error_ratio"].as_f64().unwrap_or(0.0);
    eventually(SOON, || {
        let report = server.get("/v1/functions/bad/scaling").json();
        (ratio(&report) > 0.5).then_some(())
    });
    let good = sent(&server, "good", "1");
    assert_eq!(ended(&server, &good)["status"], "succeeded");
    ids.iter().for_each(|id| assert_eq!(ended(&server, id)["status"], "dead"));
}

#[test]
fn sigterm_under_load_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Server::on(&data, &FAST);
    server.deploy("f", &guest("event"), "timeout=5");
    let ids: Vec<String> = (0..60)
        .map(|n| sent(&server, "f", &format!(r#"{{"do":"sleep","ms":{}}}"#, 20 + n)))
        .collect();
    server.signal(Signal::TERM);
    assert!(server.wait(Duration::from_secs(10)), "it ends well");
    let server = Server::on(&data, &FAST);
    for id in &ids {
        let known = ended(&server, id);
        // Whatever ran when the signal came ended well: nothing was tried twice.
        assert_eq!(
            (&known["status"], known["attempts"].as_array().unwrap().len()),
            (&json!("succeeded"), 1)
        );
        assert_eq!(known["attempts"][0]["error"], Value::Null);
    }
}

#[test]
fn a_process_that_is_stopped_for_long_ends_each_event_once() {
    // Longer than a lease: 1 s of timeout and 1 s beyond.
    let server = Server::with(&[&FAST[..], &["--lease-slack", "1"]].concat());
    server.deploy("f", &guest("event"), "timeout=1");
    let ids: Vec<String> =
        (0..20).map(|_| sent(&server, "f", r#"{"do":"sleep","ms":200}"#)).collect();
    std::thread::sleep(Duration::from_millis(60));
    server.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(3));
    server.signal(Signal::CONT);
    for id in &ids {
        let known = ended(&server, id);
        assert_eq!(known["status"], "succeeded", "{known}");
    }
    let succeeded =
        || server.metric(r#"wambda_async_events_total{function="f",outcome="succeeded"}"#);
    eventually(SOON, || (succeeded() >= 20.0).then_some(()));
    assert_eq!(succeeded(), 20.0, "each has one outcome");
    server.assert_well();
}

/// A server on a file system of a few megabytes: what does not fit is refused, and when there is room
/// again the server goes on by itself.
#[test]
fn a_full_disk_acknowledges_nothing_and_the_server_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mount) = Small::mount(dir.path(), 16) else { return };
    let data = dir.path().join("data");
    let server = Server::on(&data, &FAST);
    let roomy = "(memory (export \"memory\") 8)";
    server.deploy("f", wats::core_with(roomy, "(i64.const 0)").as_bytes(), "");
    server.request("POST", "/v1/queues/async:f/pause", &[], b"").expect(200);
    let event = format!("\"{}\"", "x".repeat(200_000));
    let mut kept = Vec::new();
    let refused = loop {
        let answer = send(&server, "f", &event);
        match answer.status {
            202 => kept.push(answer.json()["id"].as_str().unwrap().to_owned()),
            _ => break answer,
        }
        assert!(kept.len() < 500, "the disk does not fill up");
    };
    refused.expect(503);
    // What needs no disk goes on.
    server.invoke("f", "1").expect(200);
    server.get("/healthz").expect(200);
    std::fs::write(dir.path().join("ballast"), vec![1; 256 << 10]).ok();
    for _ in 0..3 {
        send(&server, "f", &event).expect(503);
    }
    // What needs it says so, and that it does not take writes now.
    let large = wats::core_with(
        &format!("{roomy} (data (i32.const 0) \"{}\")", "x".repeat(400_000)),
        "(i64.const 0)",
    );
    let answer = server.put("large", large.as_bytes(), "").expect(507);
    assert_eq!(answer.json()["error"]["code"], "InsufficientStorage");
    assert!(!answer.text().contains(data.to_str().unwrap()), "{}", answer.text());
    let ready = server.get("/readyz").expect(503).text();
    assert!(ready.contains("the disk is full"), "{ready}");
    for id in &kept {
        assert_eq!(status(&server, id)["status"], "queued");
    }
    // Room again, without a restart.
    Small::grow(dir.path(), 64);
    let id = eventually(SOON, || {
        let answer = send(&server, "f", "{}");
        (answer.status == 202).then(|| answer.json()["id"].as_str().unwrap().to_owned())
    });
    eventually(SOON, || (server.get("/readyz").status == 200).then_some(()));
    server.request("POST", "/v1/queues/async:f/resume", &[], b"").expect(200);
    for id in kept.iter().chain([&id]) {
        assert_eq!(ended(&server, id)["status"], "succeeded");
    }
    server.deploy("g", wats::echo().as_bytes(), "");
    server.assert_well();
}

/// A small file system in memory; only root may make one.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &std::path::Path, megabytes: u32) -> Option<Self> {
        let size = format!("size={megabytes}m");
        let made = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(at)
            .status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: no right to mount a file system");
            return None;
        }
        Some(Self(at.to_owned()))
    }

    fn grow(at: &std::path::Path, megabytes: u32) {
        let size = format!("remount,size={megabytes}m");
        let done = std::process::Command::new("mount").args(["-o", &size]).arg(at).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn boto3_sends_events() {
    let server = Server::with(&FAST);
    server.deploy("echo", wats::echo().as_bytes(), "");
    server.deploy("guest", &guest("event"), "timeout=1");
    script(&server, "events.py");
    server.assert_well();
}
