//! The command line, as a user types it.

use std::process::{Command, Output};

use serde_json::Value;
use wambda_tests::{Server, program, root};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn deploy_invoke_list_logs_delete() {
    let server = Server::start();
    let hello = root().join("examples/target/wasm32-wasip2/release/hello.wasm");
    let hello = hello.to_str().unwrap();
    let said = good(&server.cli(&[
        "deploy",
        "hello",
        hello,
        "--memory",
        "64",
        "--timeout",
        "2",
        "--env",
        "A=b=c",
    ]));
    assert!(said.contains("hello is ready: kind event"), "{said}");
    let invoked = server.cli(&["invoke", "hello", "-d", r#"{"name":"Ada"}"#]);
    assert!(good(&invoked).starts_with(r#"{"message":"Hello, Ada!""#));
    assert!(text(&invoked.stderr).contains("start cold, duration-ms"), "{}", text(&invoked.stderr));
    let listed = good(&server.cli(&["list"]));
    assert!(listed.lines().next().unwrap().starts_with("NAME"), "{listed}");
    assert!(listed.lines().nth(1).unwrap().starts_with("hello"), "{listed}");
    let json: Value = serde_json::from_str(&good(&server.cli(&["list", "--json"]))).unwrap();
    assert_eq!(json["functions"][0]["config"]["env"][0], "A");
    assert!(good(&server.cli(&["logs", "hello"])).contains("greeting Ada"));
    let json: Value = serde_json::from_str(&good(&server.cli(&[
        "--json",
        "invoke",
        "hello",
        "-d",
        r#"{"name":"B"}"#,
    ])))
    .unwrap();
    assert_eq!((&json["result"]["message"], &json["failed"]), (&"Hello, B!".into(), &false.into()));

    let failed = server.cli(&["invoke", "hello", "-d", r#"{"name":""}"#]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        text(&failed.stdout).contains("EmptyName")
            && text(&failed.stderr).contains("error EmptyName")
    );
    good(&server.cli(&["delete", "hello"]));
    let missing = server.cli(&["delete", "hello"]);
    assert!(
        !missing.status.success() && text(&missing.stderr).contains("hello"),
        "{}",
        text(&missing.stderr)
    );
}

#[test]
fn errors_are_told_plainly() {
    let server = Server::start();
    let no_file = server.cli(&["deploy", "f", "/nowhere.wasm"]);
    assert!(text(&no_file.stderr).contains("/nowhere.wasm"));
    let manifest = root().join("Cargo.toml");
    let no_wasm = server.cli(&["deploy", "f", manifest.to_str().unwrap()]);
    assert!(text(&no_wasm.stderr).contains("this is no wasm"), "{}", text(&no_wasm.stderr));
    let nobody =
        Command::new(program()).args(["--server", "http://127.0.0.1:1", "list"]).output().unwrap();
    assert!(text(&nobody.stderr).contains("is the server running?"), "{}", text(&nobody.stderr));
    let public = Command::new(program()).args(["serve", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert!(text(&public.stderr).contains("--insecure"), "{}", text(&public.stderr));
    let nats = Command::new(program()).args(["serve", "--store", "nats://x"]).output().unwrap();
    assert!(text(&nats.stderr).contains("not there yet"), "{}", text(&nats.stderr));
}

#[test]
fn completions_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(program()).args(["completions", shell]).output().unwrap();
        assert!(good(&output).contains("deploy"), "{shell}");
    }
}
