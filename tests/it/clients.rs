//! Unmodified clients: boto3, curl, a Prometheus parser.

use std::process::Command;
use std::time::Duration;

use wambda_tests::{Server, eventually, example, guest, root, script};

use crate::wats;

#[test]
fn boto3_invokes() {
    let server = Server::start();
    server.deploy("hello", &example("hello", "wasm32-wasip2"), "");
    server.deploy("guest", &guest("event"), "timeout=1&memory=16&payload=1000");
    server.deploy("http", &example("http_echo", "wasm32-wasip2"), "");
    server.deploy("silent", wats::core("(i64.const 0)").as_bytes(), "");
    server.deploy("busy", wats::echo().as_bytes(), "concurrency=0");
    script(&server, "invoke.py");
    server.assert_well();
}

#[test]
fn metrics_are_valid_and_complete() {
    let server = Server::start();
    server.deploy("hello", &example("hello", "wasm32-wasip2"), "provisioned=1");
    server.deploy("guest", &guest("event"), "timeout=2&memory=16&concurrency=1&queue=0");
    server.invoke("hello", r#"{"name":"Ada"}"#).expect(200);
    for order in ["panic", "error", "loop", "grow", "count"] {
        server.invoke("guest", &format!(r#"{{"do":"{order}"}}"#));
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| server.invoke("guest", r#"{"do":"sleep","ms":1000}"#));
        }
    });
    // An event that fails, and whose destination is gone.
    let gone = "arn:aws:lambda:us-east-1:000000000000:function:gone";
    let path = format!("/v1/functions/guest?retries=0&on_failure={gone}");
    server.request("PUT", &path, &[], &guest("event")).expect(200);
    let event = br#"{"do":"error"}"#;
    server.request("POST", "/v1/functions/guest/invoke?mode=event", &[], event).expect(202);
    eventually(Duration::from_secs(10), || {
        let dead = r#"wambda_destination_failures_total{function="guest"}"#;
        (server.metric(dead) == 1.0
            && server.metric(r#"wambda_queue_depth{queue="dead:guest"}"#) == 1.0)
            .then_some(())
    });
    script(&server, "metrics.py");
}

#[test]
fn curl_as_in_the_readme() {
    let server = Server::start();
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let wasm = root().join("examples/target/wasm32-wasip2/release/hello.wasm");
    let upload = format!("@{}", wasm.display());
    let put = format!("{}/v1/functions/hello?memory=128&timeout=3", server.url);
    assert!(curl(&["-X", "PUT", "--data-binary", &upload, &put]).contains("\"kind\":\"event\""));
    let invoke = format!("{}/v1/functions/hello/invoke", server.url);
    assert!(curl(&["-d", r#"{"name":"Ada"}"#, &invoke]).contains("Hello, Ada!"));
    assert!(curl(&["-i", "-d", r#"{"name":""}"#, &invoke]).contains("x-wambda-error: EmptyName"));
}
