//! AWS's clients against the AWS surfaces, and what only a process can show of them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wambda_tests::{Server, eventually, example, guest, script, script_with};

use crate::wats;

#[test]
fn boto3_manages_functions() {
    let server = Server::start();
    script(&server, "lambda_api.py");
    server.assert_well();
}

#[test]
fn terraforms_calls() {
    let server = Server::start();
    script(&server, "terraform.py");
    server.assert_well();
}

#[test]
fn function_urls_and_response_streams() {
    let server = Server::start();
    script(&server, "urls.py");
    server.assert_well();
}

#[test]
fn cloudwatch_shows_logs_and_metrics() {
    let server = Server::start();
    script(&server, "cloudwatch.py");
    server.assert_well();
}

#[test]
fn keys_are_asked_for() {
    let server = Server::with(&["--auth", "keys"]);
    let key = server.data().join("root-key.json");
    script_with(&server, "keys.py", &[("WAMBDA_ROOT_KEY", key.to_str().unwrap())]);
    server.assert_well();
}

#[test]
fn nobody_gets_around_a_policy() {
    let server = Server::with(&["--auth", "keys"]);
    let key = server.data().join("root-key.json");
    script_with(&server, "detours.py", &[("WAMBDA_ROOT_KEY", key.to_str().unwrap())]);
    server.assert_well();
}

#[test]
fn there_may_be_so_many_of_each() {
    let server = Server::start();
    script(&server, "quotas.py");
    server.assert_well();
}

#[test]
fn bad_input_is_told_in_awss_words() {
    let server = Server::start();
    script(&server, "fuzz.py");
    server.assert_well();
}

#[test]
fn the_client_signs() {
    let server = Server::with(&["--auth", "keys"]);
    let key = server.data().join("root-key.json");
    let root = ["--root-key", key.to_str().unwrap()];
    let refused = server.cli(&["list"]);
    assert!(!refused.status.success());
    let wasm = server.data().join("f.wat");
    std::fs::write(&wasm, wats::echo()).unwrap();
    let run = |arguments: &[&str]| {
        let output = server.cli(&[&root, arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["deploy", "f", wasm.to_str().unwrap()]);
    assert_eq!(run(&["invoke", "f", "-d", "[1]"]).trim(), "[1]");
    assert!(run(&["list"]).contains('f'));
    let made: Value =
        serde_json::from_str(&run(&["--json", "keys", "create", "ada", "--admin"])).unwrap();
    let id = made["access_key_id"].as_str().unwrap();
    assert!(run(&["keys", "list", "ada"]).contains(&format!("{id}  Active")));
    run(&["keys", "disable", "ada", id]);
    assert!(run(&["keys", "list", "ada"]).contains("Inactive"));
    run(&["keys", "delete", "ada", id]);
    assert_eq!(run(&["keys", "list", "ada"]), "");
}

/// Everything that AWS's API made is there after the server was killed.
#[test]
fn what_was_made_survives_a_kill() {
    let mut server = Server::start();
    script(&server, "survive.py");
    server.kill();
    server.restart();
    script_with(&server, "survive.py", &[("WAMBDA_AGAIN", "1")]);
    server.assert_well();
}

fn instances(server: &Server, name: &str) -> u64 {
    let shown = server.get(&format!("/v1/functions/{name}/scaling")).expect(200).json();
    let count = |state: &str| shown["instances"][state].as_u64().unwrap();
    count("busy") + count("warm") + count("prewarmed")
}

fn put(server: &Server, path: &str, body: &Value) -> u16 {
    server.request("PUT", path, &[], body.to_string().as_bytes()).status
}

/// Reserved concurrency bounds the instances, provisioned concurrency keeps them, and the account's
/// limit bounds everybody together.
#[test]
fn concurrency_is_what_really_runs() {
    let server = Server::with(&["--concurrency", "6"]);
    for name in ["a", "b"] {
        server.deploy(name, &guest("event"), "timeout=10");
    }
    let busy = |name: &'static str, calls: usize| {
        let most = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..calls {
                scope.spawn(|| server.invoke(name, r#"{"do":"sleep","ms":400}"#).expect(200));
            }
            let end = Instant::now() + Duration::from_millis(1_000);
            while Instant::now() < end {
                let shown = server.get(&format!("/v1/functions/{name}/scaling")).json();
                let running = shown["running"].as_u64().unwrap();
                most.fetch_max(running, std::sync::atomic::Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        most.into_inner()
    };
    assert_eq!(busy("a", 12), 6, "the account's limit");
    let reserve = |name: &str, count: u32| {
        let path = format!("/2017-10-31/functions/{name}/concurrency");
        put(&server, &path, &json!({"ReservedConcurrentExecutions": count}))
    };
    // Both surfaces give no more than the account has, and leave some of it.
    for count in [6, 50] {
        assert_eq!(reserve("a", count), 400, "nothing would be left to the others");
        for query in [format!("concurrency={count}"), format!("provisioned={count}")] {
            let refused = server.put("a", &guest("event"), &query).expect(400).message();
            assert!(refused.contains("must leave 1 of the account's 6"), "{refused}");
            let new = server.put("new", &guest("event"), &query).expect(400).message();
            assert!(new.contains(&format!("{count} were asked for")), "{new}");
        }
    }
    let shown = server.get("/v1/functions/a/scaling").json();
    assert_eq!(shown["max"], 6, "nothing of it is in force");
    assert_eq!(reserve("a", 3), 200);
    server.deploy("a", &guest("event"), "timeout=10&concurrency=2");
    assert_eq!(busy("a", 6), 2, "the function's reservation");
    server.put("b", &guest("event"), "timeout=10&provisioned=4").expect(400);
    server.deploy("b", &guest("event"), "timeout=10&provisioned=3");
    eventually(Duration::from_secs(5), || (instances(&server, "b") == 3).then_some(()));
    server.deploy("b", &guest("event"), "timeout=10&provisioned=0");
    // What versions have provisioned is within the reservation, on either surface.
    aws(&server, "POST", "/2015-03-31/functions/b/versions", &json!({}));
    let path = "/2019-09-30/functions/b/provisioned-concurrency?Qualifier=1";
    assert_eq!(put(&server, path, &json!({"ProvisionedConcurrentExecutions": 2})), 202);
    let refused = server.put("b", &guest("event"), "timeout=10&concurrency=1").expect(400);
    assert!(refused.message().contains("at least the 2 that are provisioned"));
    aws(&server, "DELETE", path, &json!({}));
    eventually(Duration::from_secs(90), || (instances(&server, "b") <= 1).then_some(()));
}

fn aws(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let answer = server.request(method, path, &[], body.to_string().as_bytes());
    assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text());
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

/// The execution role's policies, as they are now, are what instances may do.
#[test]
fn an_execution_role_grants_what_its_policies_say() {
    let server = Server::start();
    let form = |text: &str| {
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        let text = format!("{text}&Version=2010-05-08");
        server.request("POST", "/", &kind, text.as_bytes()).expect(200).text()
    };
    let trust = json!({"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": {"Service": "lambda.amazonaws.com"}}});
    form(&format!("Action=CreateRole&RoleName=r&AssumeRolePolicyDocument={trust}"));
    server.deploy("f", wats::echo().as_bytes(), "");
    let allowed = |query: &str| {
        let shown = server.get(&format!("/v1/functions/f/grants?{query}")).expect(200).json();
        shown["allowed"].as_bool().unwrap()
    };
    assert!(!allowed("host=api.example.com"), "no role, no grants");
    let role = json!({"Role": "arn:aws:iam::000000000000:role/r"});
    aws(&server, "PUT", "/2015-03-31/functions/f/configuration", &role);
    assert!(!allowed("host=api.example.com"), "a role without policies");
    let document = json!({"Statement": [
        {"Effect": "Allow", "Action": "wambda:Connect", "Resource": "arn:aws:wambda:::host/*.example.com:443"},
        {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "arn:aws:sqs:us-east-1:000000000000:q"}]});
    form(&format!("Action=PutRolePolicy&RoleName=r&PolicyName=p&PolicyDocument={document}"));
    assert!(allowed("host=api.example.com"));
    assert!(!allowed("host=api.example.com&port=80") && !allowed("host=example.org"));
    let queue = "arn:aws:sqs:us-east-1:000000000000:q";
    assert!(allowed(&format!("action=sqs:SendMessage&resource={queue}")));
    assert!(!allowed(&format!("action=sqs:DeleteQueue&resource={queue}")));
    form("Action=DeleteRolePolicy&RoleName=r&PolicyName=p");
    assert!(!allowed("host=api.example.com"), "a grant that was taken back");
    server.get("/v1/functions/f/grants?nonsense=1").expect(400);
    server.get("/v1/functions/f/grants").expect(400);
    server.assert_well();
}

/// A canary that fails goes back by itself, with a line in the log and a count; a good one stays.
#[test]
fn a_bad_canary_goes_back_by_itself() {
    let server = Server::start();
    let functions = "/2015-03-31/functions/f";
    let publish = || aws(&server, "POST", &format!("{functions}/versions"), &json!({}));
    server.deploy("f", &example("hello", "wasm32-wasip2"), "");
    assert_eq!(publish()["Version"], "1");
    server.deploy("f", &example("hello", "wasm32-wasip2"), "memory=64");
    assert_eq!(publish()["Version"], "2");
    // This one knows no names, and so fails at every event.
    server.deploy("f", &guest("event"), "");
    assert_eq!(publish()["Version"], "3");
    let alias = |version: &str, weight: f64| json!({"FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {version: weight}}});
    aws(
        &server,
        "POST",
        &format!("{functions}/aliases"),
        &json!({"Name": "live", "FunctionVersion": "1"}),
    );
    let path = format!("{functions}/aliases/live");
    let rule = "/v1/functions/f/aliases/live/rollback";
    server.request("PUT", &format!("{rule}?error_ratio=2"), &[], b"").expect(400);
    server.request("PUT", "/v1/functions/f/aliases/none/rollback", &[], b"").expect(404);
    server
        .request("PUT", &format!("{rule}?window=60&samples=10&error_ratio=0.2"), &[], b"")
        .expect(200);
    let call = || {
        let to = "/2015-03-31/functions/f/invocations?Qualifier=live";
        server.request("POST", to, &[], br#"{"name":"x"}"#).expect(200)
    };
    aws(&server, "PUT", &path, &alias("2", 0.5));
    for _ in 0..100 {
        call();
    }
    std::thread::sleep(Duration::from_millis(1_500));
    let shown = server.get(rule).expect(200).json();
    assert_eq!(shown["canary"]["version"], "2", "a good canary stays: {shown}");
    aws(&server, "PUT", &path, &alias("3", 0.5));
    let shown = eventually(Duration::from_secs(10), || {
        call();
        let shown = server.get(rule).expect(200).json();
        shown["canary"].is_null().then_some(shown)
    });
    assert_eq!((&shown["version"], &shown["rolled_back"]["from"]), (&json!("1"), &json!("3")));
    assert!(shown["rolled_back"]["reason"].as_str().unwrap().contains("error ratio"), "{shown}");
    assert_eq!(server.metric("wambda_alias_rollbacks_total{function=\"f\"}"), 1.0);
    let log = server.get("/v1/functions/f/logs?format=text").text();
    assert!(log.contains("ROLLBACK Alias: live From: 3 To: 1"), "{log}");
    // A complete switch goes back as well.
    aws(&server, "PUT", &path, &json!({"FunctionVersion": "3"}));
    eventually(Duration::from_secs(10), || {
        call();
        (server.get(rule).json()["version"] == "1").then_some(())
    });
    server.request("DELETE", rule, &[], b"").expect(204);
    assert!(server.get(rule).json()["rule"].is_null());
    server.assert_well();
}
