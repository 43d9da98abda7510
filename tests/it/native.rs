//! The native API: what curl users type, and what they mistype.

use serde_json::{Value, json};
use wambda_tests::{Server, example, wat};

use crate::wats;

#[test]
fn functions_are_published_described_listed_and_deleted() {
    let server = Server::start();
    let hello = example("hello", "wasm32-wasip2");
    let created =
        server.put("hello", &hello, "memory=128&timeout=3&env.GREETING=hi").expect(201).json();
    assert_eq!((&created["name"], &created["kind"]), (&json!("hello"), &json!("event")));
    assert_eq!(created["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(created["size"], hello.len());
    assert_eq!(
        (&created["config"]["memory"], &created["config"]["timeout"]),
        (&json!(128), &json!(3))
    );
    assert_eq!(created["config"]["env"], json!(["GREETING"]), "names are shown, values are not");
    assert!(
        created["imports"]
            .as_array()
            .unwrap()
            .iter()
            .any(|i| i.as_str().unwrap().starts_with("wasi:"))
    );

    let replaced = server.put("hello", &hello, "timeout=0.5").expect(200).json();
    assert_eq!((&replaced["revision"], &replaced["config"]["timeout"]), (&json!(2), &json!(0.5)));
    assert_eq!(replaced["config"]["env"], json!(["GREETING"]), "what is not named stays");
    assert_eq!(replaced["compile_ms"], 0, "the same code is not compiled twice");
    assert_eq!(server.get("/v1/functions/hello").expect(200).json(), replaced);

    let answer = server.invoke("hello", r#"{"name":"Ada"}"#).expect(200);
    assert_eq!(answer.json()["message"], "Hello, Ada!");
    assert_eq!(answer.json()["request_id"], answer.header("x-wambda-request-id"));
    assert_eq!(answer.header("x-wambda-start"), "cold");
    for name in ["duration-ms", "init-ms", "cpu-ms", "memory-bytes"] {
        assert!(answer.header(&format!("x-wambda-{name}")).parse::<f64>().unwrap() > 0.0, "{name}");
    }

    server.request("DELETE", "/v1/functions/hello", &[], b"").expect(204);
    server.request("DELETE", "/v1/functions/hello", &[], b"").expect(404);
    assert!(server.invoke("hello", "{}").expect(404).message().contains("hello"));
    let metrics = server.get("/metrics").text();
    assert!(!metrics.contains("function=\"hello\""), "a deleted function leaves no series behind");
    server.assert_well();
}

#[test]
fn lists_are_paged() {
    let server = Server::start();
    let echo = wats::echo();
    for n in 0..5 {
        server.deploy(&format!("f{n}"), echo.as_bytes(), "");
    }
    let names = |page: &Value| -> Vec<String> {
        let functions = page["functions"].as_array().unwrap();
        functions.iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = server.get("/v1/functions?limit=2").expect(200).json();
    assert_eq!((names(&first), &first["next"]), (vec!["f0".into(), "f1".into()], &json!("f1")));
    let last = server.get("/v1/functions?limit=3&after=f1").expect(200).json();
    assert_eq!((names(&last).len(), &last["next"]), (3, &Value::Null));
    for bad in ["limit=0", "limit=1001", "limit=x", "after=a%20b", "page=2"] {
        server.get(&format!("/v1/functions?{bad}")).expect(400);
    }
}

#[test]
fn mistakes_get_clear_answers_and_change_nothing() {
    let server = Server::start();
    let echo = wats::echo();
    server.deploy("kept", echo.as_bytes(), "");
    let before = server.get("/v1/functions").json();
    for (name, upload, query, status, says) in [
        ("a.b", echo.as_bytes(), "", 400, "letters, digits"),
        (&"x".repeat(65), echo.as_bytes(), "", 400, "64"),
        ("f", b"", "", 400, "empty"),
        ("f", b"hello", "", 400, "hello"),
        ("f", b"(module", "", 400, "WAT"),
        ("f", b"\0asm\x01\0\0\0\xff\xff", "", 400, "damaged"),
        ("f", b"\x7fELF\x02\x01\x01\0", "", 400, "ELF"),
        ("f", b"PK\x03\x04 not a zip", "", 400, "zip"),
        ("f", echo.as_bytes(), "memory=63KB", 400, "65536"),
        ("f", echo.as_bytes(), "memory=11GB", 400, "10 GB"),
        ("f", echo.as_bytes(), "timeout=901", 400, "900"),
        ("f", echo.as_bytes(), "timeout=0.0001", 400, "got 0"),
        ("f", echo.as_bytes(), "payload=7MB", 400, "6291456"),
        ("f", echo.as_bytes(), "provisioned=2&concurrency=1", 400, "provisioned"),
        ("f", echo.as_bytes(), "memroy=1", 400, "memroy"),
        ("f", echo.as_bytes(), "env.AWS_REGION=x", 400, "reserved"),
        ("f", echo.as_bytes(), "reuse=sometimes", 400, "warm or fresh"),
        ("kept", b"broken", "memory=64", 400, "broken"),
    ] {
        let answer = server.put(name, upload, query).expect(status);
        assert!(answer.message().contains(says), "{name} {query}: {}", answer.message());
    }
    assert_eq!(server.get("/v1/functions").json(), before);
    assert_eq!(server.invoke("kept", "still here").expect(200).text(), "still here");
    server.assert_well();
}

#[test]
fn routes_and_methods_are_told_apart() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    for (method, path, status) in [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v2", 404),
        ("POST", "/v1/functions", 405),
        ("POST", "/v1/functions/f", 405),
        ("GET", "/v1/functions/f/invoke", 405),
        ("PUT", "/metrics", 405),
        ("GET", "/v1/functions/", 200),
        ("GET", "/v1/functions/f/", 200),
        ("GET", "/v1/functions/%66", 200),
        ("GET", "/v1/functions/%2e%2e", 400),
        ("GET", "/", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
    ] {
        let answer = server.request(method, path, &[], b"");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        if status == 405 {
            assert_ne!(answer.header("allow"), "", "{method} {path}");
        }
    }
    let version = server.get("/version").expect(200).json();
    assert!(version["wasmtime"].as_str().unwrap().starts_with("48."), "{version}");
    let schema = server.get("/openapi.json").expect(200).json();
    let lambda = |path: &str, body: &str| {
        server
            .request("POST", &format!("/2015-03-31/functions/f/{path}"), &[], body.as_bytes())
            .expect(201);
    };
    lambda("versions", "{}");
    lambda("aliases", r#"{"Name": "live", "FunctionVersion": "1"}"#);
    let event = server.request("POST", "/v1/functions/f/invoke?mode=event", &[], b"{}");
    let event = event.expect(202).json()["id"].as_str().unwrap().to_owned();
    for path in schema["paths"].as_object().unwrap().keys() {
        let place = path.replace("{name}", "f").replace("{alias}", "live");
        let place = place.replace("{queue}", "async:f").replace("{id}", &event);
        assert_ne!(server.get(&place).status, 404, "{path} is described");
    }
}

#[test]
fn modes_of_invocation() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let invoke =
        |query: &str| server.request("POST", &format!("/v1/functions/f/invoke?{query}"), &[], b"x");
    assert_eq!(invoke("mode=sync").expect(200).text(), "x");
    invoke("mode=whatever").expect(400);
}

#[test]
fn zips_are_taken() {
    use std::io::Write;
    let server = Server::start();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("bootstrap", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&wat(&wats::echo())).unwrap();
    let zip = zip.finish().unwrap().into_inner();
    assert_eq!(server.deploy("zipped", &zip, "")["kind"], "core");
    assert_eq!(server.invoke("zipped", "unpacked").text(), "unpacked");
}
