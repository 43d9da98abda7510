//! `cargo xtask bench`: the server against a bare hyper server, in one run.
//!
//! Each round measures every contender once, in random order. The figure is the server's CPU time
//! per request (`/proc/PID/task/*/schedstat`), as a ratio to the bare server's of the same round:
//! absolute times drift with the machine, ratios do not. Answers are checked; errors end the run.

#![allow(clippy::disallowed_methods)] // a stopwatch

mod bare;
mod load;
mod open;
mod overload;
mod peers;
mod process;
mod queue;
mod report;
mod sign;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::Server;
use crate::report::{Row, Sample};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Connections of the load, each with one request in flight.
const CONNECTIONS: usize = 32;

/// One way to get `"hello"`.
struct Contender {
    name: &'static str,
    about: &'static str,
    /// The function and its configuration; none for the bare server.
    function: Option<(&'static str, &'static str)>,
    front: Front,
}

/// By which API a function is invoked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Front {
    /// `/v1`
    Native,
    /// AWS Lambda's `Invoke`.
    Lambda,
    /// The same on a server with `--auth keys`, signed.
    Keys,
}

const CONTENDERS: [Contender; 8] = [
    Contender { name: "bare", about: "hyper alone", function: None, front: Front::Native },
    Contender {
        name: "core warm",
        about: "core module, reused",
        function: Some(("core", "reuse=warm")),
        front: Front::Native,
    },
    Contender {
        name: "event warm",
        about: "event component, reused",
        function: Some(("event", "reuse=warm")),
        front: Front::Native,
    },
    Contender {
        name: "core fresh",
        about: "core module, instance per event",
        function: Some(("core", "reuse=fresh")),
        front: Front::Native,
    },
    Contender {
        name: "event fresh",
        about: "event component, instance per event",
        function: Some(("event", "reuse=fresh")),
        front: Front::Native,
    },
    Contender {
        name: "core lambda",
        about: "core module, reused, by Lambda's Invoke",
        function: Some(("core", "reuse=warm")),
        front: Front::Lambda,
    },
    Contender {
        name: "core keys",
        about: "the same, signed, with --auth keys",
        function: Some(("core", "reuse=warm")),
        front: Front::Keys,
    },
    Contender {
        name: "native keys",
        about: "core module, reused, by /v1, signed, with --auth keys",
        function: Some(("core", "reuse=warm")),
        front: Front::Keys,
    },
];

/// A core module that answers `"hello"`.
const CORE: &str = r#"(module (memory (export "memory") 1) (data (i32.const 8) "\"hello\"")
  (func (export "wambda_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "wambda_handle") (param i32 i32) (result i64) (i64.const 0x0000000800000007)))"#;

struct Arguments {
    server: PathBuf,
    quick: bool,
}

fn arguments(skip: usize) -> Result<Arguments> {
    let (mut server, mut quick) = (None, false);
    let mut given = std::env::args().skip(skip);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--server" => server = given.next().map(PathBuf::from),
            "--quick" => quick = true,
            other => bail!("no argument {other:?}: known are --server PATH and --quick"),
        }
    }
    Ok(Arguments { server: server.context("--server PATH is missing")?, quick })
}

fn queue_arguments() -> Result<queue::Arguments> {
    let (mut server, mut data, mut quick) = (None, None, false);
    let (mut redis, mut nats) = (None, None);
    let mut given = std::env::args().skip(2);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--server" => server = given.next().map(PathBuf::from),
            "--data" => data = given.next().map(PathBuf::from),
            "--redis" => redis = given.next().map(PathBuf::from),
            "--nats" => nats = given.next().map(PathBuf::from),
            "--quick" => quick = true,
            other => bail!(
                "no argument {other:?}: known are --server, --data, --redis and --nats PATH, and --quick"
            ),
        }
    }
    let server = server.context("--server PATH is missing")?;
    let data = data.unwrap_or_else(|| PathBuf::from("target/bench"));
    Ok(queue::Arguments { server, data, quick, redis, nats })
}

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("bare") {
        return bare::run();
    }
    if std::env::args().nth(1).as_deref() == Some("queue") {
        return queue::run(&queue_arguments()?);
    }
    if std::env::args().nth(1).as_deref() == Some("overload") {
        return overload::run(&arguments(2)?);
    }
    let Arguments { server, quick } = arguments(1)?;
    let (rounds, slice) =
        if quick { (3, Duration::from_millis(500)) } else { (12, Duration::from_secs(2)) };
    let event = Path::new("tests/guests/target/wasm32-wasip2/release/guest_hello.wasm");
    let event =
        std::fs::read(event).context("guest_hello.wasm is missing: run `cargo xtask guests`")?;
    let bare = Server::start(std::env::current_exe()?.as_path(), &["bare"])?;
    let data = tempfile::tempdir()?;
    let data = data.path().to_string_lossy().into_owned();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir", &data];
    let wambda = Server::start(&server, &arguments)?;
    let guarded_data = tempfile::tempdir()?;
    let guarded_path = guarded_data.path().to_string_lossy().into_owned();
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--log",
        "warn",
        "--auth",
        "keys",
        "--data-dir",
        &guarded_path,
    ];
    let guarded = Server::start(&server, &arguments)?;
    let signer = sign::Signer::read(&guarded_data.path().join("root-key.json"))?;
    for contender in CONTENDERS {
        if let Some((kind, query)) = contender.function {
            let code = if kind == "core" { CORE.as_bytes() } else { &event };
            let name = contender.name.replace(' ', "-");
            let path = format!("/v1/functions/{name}?{query}");
            let keys = contender.front == Front::Keys;
            let server = if keys { &guarded } else { &wambda };
            let mut request = ureq::put(format!("http://{}{path}", server.address));
            if keys {
                for (header, value) in signer.headers(server.address, "PUT", &path, code) {
                    request = request.header(header, value);
                }
            }
            request.send(code).with_context(|| format!("cannot deploy {name}"))?;
        }
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut rows: Vec<Row> = CONTENDERS.iter().map(|c| Row::new(c.name, c.about)).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..CONTENDERS.len()).collect();
        fastrand::shuffle(&mut order);
        eprint!("\rround {} of {rounds} ", round + 1);
        for at in order {
            let (Some(contender), Some(row)) = (CONTENDERS.get(at), rows.get_mut(at)) else {
                continue;
            };
            let server = match (contender.function, contender.front) {
                (None, _) => &bare,
                (_, Front::Keys) => &guarded,
                _ => &wambda,
            };
            let name = contender.name.replace(' ', "-");
            let path = match contender.name {
                "core lambda" | "core keys" => {
                    format!("/2015-03-31/functions/{name}/invocations")
                }
                _ => format!("/v1/functions/{name}/invoke"),
            };
            let mut head = String::new();
            if contender.front == Front::Keys {
                for (header, value) in signer.headers(server.address, "POST", &path, b"{}") {
                    head.push_str(&format!("{header}: {value}\r\n"));
                }
            }
            let address = server.address;
            let job = load::Job { address, path, head, body: "{}", wanted: "\"hello\"" };
            runtime.block_on(load::run(&job, CONNECTIONS, slice / 5))?;
            let before = server.cpu()?;
            let done = runtime.block_on(load::run(&job, CONNECTIONS, slice))?;
            let used = server.cpu()? - before;
            row.samples.push(Sample::new(used, &done, slice));
        }
    }
    eprintln!();
    report::print(&rows, rounds, slice, CONNECTIONS)?;
    report::compare(&rows, "core lambda", "core warm");
    report::compare(&rows, "core keys", "core lambda");
    report::compare(&rows, "native keys", "core warm");
    Ok(())
}
