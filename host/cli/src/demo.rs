//! `wambda demo`: starts a server on a free port with a temporary data directory, and takes the
//! examples on a tour of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use serde_json::{Value, json};

use crate::client::{self, Client};
use crate::{deploy, show};

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The examples folder of the repository, built
    #[arg(long, default_value = "examples")]
    examples: PathBuf,
    /// End after the tour; the exit code says whether every step succeeded
    #[arg(long)]
    exit: bool,
}

/// One stop of the tour.
struct Stop {
    name: &'static str,
    /// Below `examples/target`.
    wasm: &'static str,
    query: &'static str,
    about: &'static str,
    event: fn(&Path) -> Result<Vec<u8>>,
    /// Sent to the function's own URL instead of being invoked.
    path: Option<&'static str>,
    /// What the answer must contain.
    expect: &'static str,
}

const STOPS: [Stop; 5] = [
    Stop {
        name: "hello",
        wasm: "wasm32-wasip2/release/hello.wasm",
        query: "memory=16&timeout=1",
        about: "an event function in Rust",
        event: |_| Ok(br#"{"name":"Ada"}"#.to_vec()),
        path: None,
        expect: "Hello, Ada!",
    },
    Stop {
        name: "thumbnail",
        wasm: "wasm32-wasip2/release/thumbnail.wasm",
        query: "memory=128&timeout=10",
        about: "shrinks a picture: memory and CPU in earnest",
        event: picture,
        path: None,
        expect: r#""width":160"#,
    },
    Stop {
        name: "http-echo",
        wasm: "wasm32-wasip2/release/http_echo.wasm",
        query: "memory=16",
        about: "speaks HTTP itself (wasi:http)",
        event: |_| Ok(b"streamed through".to_vec()),
        path: Some("/some/path?answer=42"),
        expect: "streamed through",
    },
    Stop {
        name: "wordcount",
        wasm: "wasm32-wasip1/release/wordcount.wasm",
        query: "memory=16",
        about: "a command-line program: event on stdin, result on stdout",
        event: |examples| Ok(std::fs::read(examples.join("wordcount/poem.txt"))?),
        path: None,
        expect: r#""lines":"#,
    },
    Stop {
        name: "sha256",
        wasm: "wasm32-wasip1/release/sha256.wasm",
        query: "memory=16",
        about: "a core module: the fastest lane",
        event: |_| Ok(b"abc".to_vec()),
        path: None,
        expect: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    },
];

fn picture(examples: &Path) -> Result<Vec<u8>> {
    let photo = std::fs::read(examples.join("thumbnail/photo.png"))?;
    Ok(json!({"image": BASE64.encode(photo), "width": 160}).to_string().into_bytes())
}

/// A server of our own, stopped with us.
struct Server {
    child: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Server {
    fn start() -> Result<Self> {
        let data = tempfile::tempdir()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir"])
            .arg(data.path().join("data"))
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.trim().strip_prefix("wambda listening on ").map(str::to_owned);
        let server = Self { child, url: url.unwrap_or_default(), _data: data };
        ensure!(!server.url.is_empty(), "the server did not start");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let server = Server::start()?;
    say(&format!("the server listens on {}\n", server.url))?;
    let client = Client::new(&server.url, None);
    let mut failed = Vec::new();
    for stop in &STOPS {
        if let Err(error) = visit(stop, &client, &args.examples) {
            say(&format!("   FAILED: {error:#}\n"))?;
            failed.push(stop.name);
        }
    }
    farewell(&server.url)?;
    if args.exit {
        ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
        say("every step succeeded")?;
        return Ok(());
    }
    say("Ctrl-C ends the server and removes its data.")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::signal::ctrl_c())?;
    Ok(())
}

fn visit(stop: &Stop, client: &Client, examples: &Path) -> Result<()> {
    say(&format!("== {}: {}", stop.name, stop.about))?;
    let before = metrics(client)?;
    let wasm = examples.join("target").join(stop.wasm);
    ensure!(wasm.exists(), "{} is not there: run `cargo xtask guests`", wasm.display());
    let described = deploy::upload(client, stop.name, &wasm, stop.query)?;
    let field = |key: &str| described.get(key).map(Value::to_string).unwrap_or_default();
    let (kind, size, took) = (field("kind"), field("size"), field("compile_ms"));
    say(&format!("   uploaded {size} bytes, kind {kind}, compiled in {took} ms"))?;
    let event = (stop.event)(examples)?;
    for _ in 0..2 {
        let path = match stop.path {
            Some(path) => format!("/fn/{}{path}", stop.name),
            None => format!("/v1/functions/{}/invoke", stop.name),
        };
        let answer = client::good(client.post(&path, &event)?)?;
        let answer = String::from_utf8_lossy(&answer);
        let shown: String = answer.chars().take(160).collect();
        say(&format!(
            "   -> {}{}",
            shown.trim_end(),
            if shown.len() < answer.len() { "..." } else { "" }
        ))?;
        ensure!(answer.contains(stop.expect), "the answer lacks {:?}", stop.expect);
    }
    let log = client::good(client.get(&format!("/v1/functions/{}/logs?format=text", stop.name))?)?;
    for line in String::from_utf8_lossy(&log).lines().filter(|line| line.contains("REPORT")) {
        let report = line.split_once("REPORT").map_or(line, |(_, rest)| rest);
        say(&format!("   REPORT{}", report.replace('\t', "  ")))?;
    }
    for (series, value) in metrics(client)? {
        let telling =
            ["invocations_total", "starts_total"].iter().any(|part| series.contains(part));
        if telling
            && series.contains(&format!("\"{}\"", stop.name))
            && before.get(&series) != Some(&value)
            && value != "0"
        {
            say(&format!("   {series} {value}"))?;
        }
    }
    say("")
}

fn metrics(client: &Client) -> Result<BTreeMap<String, String>> {
    let text = client::good(client.get("/metrics")?)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let series =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    Ok(series.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn farewell(url: &str) -> Result<()> {
    say(&format!(
        "API      {url}/v1/functions
metrics  {url}/metrics
schema   {url}/openapi.json

curl -d '{{\"name\":\"Ada\"}}' {url}/v1/functions/hello/invoke
curl -d 'hi' '{url}/fn/http-echo/any/path?x=1'
curl '{url}/v1/functions/hello/logs?format=text'
curl {url}/v1/functions/hello/scaling
"
    ))
}

fn say(line: &str) -> Result<()> {
    show::out(&line)?;
    std::io::stdout().flush()?;
    Ok(())
}
