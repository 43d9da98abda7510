//! The five kinds of upload, told apart by their binaries.

use serde_json::json;
use wambda_tests::{Server, example, guest};

use crate::wats;

#[test]
fn every_kind_runs() {
    let server = Server::with(&["--wasi03"]);
    let wordcount = example("wordcount", "wasm32-wasip1");
    for (name, upload, kind) in [
        ("event", example("hello", "wasm32-wasip2"), "event"),
        ("http", example("http_echo", "wasm32-wasip2"), "http"),
        ("http3", guest("http3"), "http3"),
        ("command-p1", wordcount, "command"),
        ("command-p2", example("wordcount", "wasm32-wasip2"), "command"),
        ("core", example("sha256", "wasm32-wasip1"), "core"),
        ("wat", wats::echo().into_bytes(), "core"),
    ] {
        assert_eq!(server.deploy(name, &upload, "")["kind"], kind, "{name}");
    }
    let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(server.invoke("event", r#"{"name":"Ada"}"#).json()["message"], "Hello, Ada!");
    assert_eq!(server.invoke("command-p1", "a b a").json()["words"], 3);
    assert_eq!(server.invoke("command-p2", "a b a").json()["words"], 3);
    assert_eq!(server.invoke("core", "abc").text(), sha);
    assert_eq!(server.request("POST", "/fn/http/x", &[], b"echo").text(), "echo");
    assert_eq!(
        server.get("/fn/http3/some/path?x=1").expect(200).text(),
        "Method::Get /some/path?x=1"
    );
    // Any kind takes an event; the http kinds take API Gateway's.
    let event =
        json!({"rawPath": "/p", "requestContext": {"http": {"method": "PUT"}}, "body": "b"});
    let result = server.invoke("http", &event.to_string()).expect(200).json();
    assert_eq!((&result["statusCode"], &result["body"]), (&json!(200), &json!("b")));
    assert_eq!(result["headers"]["x-method"], "PUT");
    let result = server.invoke("http3", &event.to_string()).expect(200).json();
    assert_eq!(result["body"], "Method::Put /p");
    server.invoke("http", "[1]").expect(400);
    server.assert_well();
}

#[test]
fn wasi_03_needs_the_operators_word() {
    let server = Server::start();
    let answer = server.put("http3", &guest("http3"), "").expect(400);
    assert!(answer.message().contains("--wasi03"), "{}", answer.message());
}

/// Uploads that are no function: what the answer must name.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "(module)",
        &["core module", "exports nothing", "wambda_handle", "wasi:http/incoming-handler"],
    ),
    ("(module (func (export \"main\")))", &["exports main"]),
    ("(module (func (export \"_start\") (param i32)))", &["exports _start"]),
    (
        "(module (import \"env\" \"print\" (func)) (func (export \"main\")))",
        &["env.print", "wasi_snapshot_preview1"],
    ),
    (
        "(module (import \"env\" \"print\" (func)) (func (export \"_start\")))",
        &["kind command", "env.print"],
    ),
    (
        "(module (import \"wasi_snapshot_preview1\" \"fd_frobnicate\" (func)) (func (export \"_start\")))",
        &["fd_frobnicate"],
    ),
    (
        "(module (memory (export \"memory\") 1) (func (export \"wambda_handle\")))",
        &["wambda_alloc"],
    ),
    ("(module (memory i64 1) (func (export \"_start\")))", &["not valid", "memory64"]),
    ("(module (memory 1 1 shared) (func (export \"_start\")))", &["not valid"]),
    ("(module (func (export \"_start\") (i32.add)))", &["not valid", "byte"]),
    ("(component)", &["component", "exports nothing"]),
    (
        "(component (import \"wasi:http/types@0.3.0-rc-2026-03-15\" (instance)))",
        &["0.3.0-rc-2026-03-15", "release candidates"],
    ),
    ("(component (import \"acme:db/sql@1.0.0\" (instance)))", &["acme:db/sql@1.0.0"]),
    (
        "(component (import \"wasi:keyvalue/store@0.2.0\" (instance)))",
        &["wasi:keyvalue/store@0.2.0", "WASI 0.2"],
    ),
];

#[test]
fn what_is_no_function_is_told_why() {
    let server = Server::start();
    for (wat, says) in REFUSED {
        let message = server.put("f", wat.as_bytes(), "").expect(400).message();
        for part in *says {
            assert!(message.contains(part), "{wat}: {message} lacks {part}");
        }
    }
    server.get("/v1/functions/f").expect(404);
    server.assert_well();
}

#[test]
fn the_context_reaches_the_function() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "timeout=5&memory=64&env.COLOUR=blue");
    let answer = server.invoke("f", r#"{"do":"context"}"#).expect(200);
    let context = answer.json();
    assert_eq!(context["request_id"], answer.header("x-wambda-request-id"));
    assert_eq!(context["function_name"], "f");
    assert_eq!(context["function_version"], "$LATEST");
    assert_eq!(context["arn"], "arn:aws:lambda:us-east-1:000000000000:function:f");
    assert_eq!((&context["memory"], &context["attempt"]), (&json!(64 << 20), &json!(1)));
    assert_eq!(context["log_group"], "/aws/lambda/f");
    let remaining = context["remaining_ms"].as_u64().unwrap();
    assert!((1_000..=5_000).contains(&remaining), "{remaining}");
    assert_eq!(server.invoke("f", r#"{"do":"env","name":"COLOUR"}"#).json(), "blue");
    assert_eq!(
        server.invoke("f", r#"{"do":"env","name":"PATH"}"#).json(),
        json!(null),
        "nothing of the host's"
    );
    let memory = r#"{"do":"env","name":"AWS_LAMBDA_FUNCTION_MEMORY_SIZE"}"#;
    assert_eq!(server.invoke("f", memory).json(), "64");
}

#[test]
fn a_core_handler_fails_with_a_message() {
    let server = Server::start();
    let fails = wats::core_with(
        "(memory (export \"memory\") 1) (data (i32.const 8) \"no way\")",
        "(i64.const 0x0000_0008_8000_0006)",
    );
    server.deploy("f", fails.as_bytes(), "");
    let answer = server.invoke("f", "x").expect(500);
    assert_eq!(
        (answer.header("x-wambda-error"), &answer.json()["errorMessage"]),
        ("Error", &json!("no way"))
    );
}
