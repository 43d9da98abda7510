//! What an invocation costs without HTTP, on one thread: `cargo xtask bench inside`. For each kind of function, with an
//! instance that is reused and with one for each invocation: the time until its answer, and the time until the next one
//! can begin, which includes what is done behind the answer (the old instance goes, another one is made).

#![allow(clippy::disallowed_methods, clippy::print_stdout, missing_docs)] // a stopwatch

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, Handle};
use wambda_egress::{Egress, Services};
use wambda_model::invocation::Ran;
use wambda_model::{
    BoxFuture, Budget, Build, Execute, FunctionName, Gate, Inspection, Invocation, Kind, Metrics,
    Payload, Permit, Release, Reply, Reuse, Share, StartKind, Version, body,
};
use wambda_runtime::artifact::Artifacts;
use wambda_runtime::child;
use wambda_runtime::layer::LayerDirs;
use wambda_runtime::{Executor, RuntimeConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Invocations before it is measured, and of a round.
const BEFORE: usize = 2_000;
const COUNT: usize = 20_000;
/// Rounds, of which the best counts: what else the machine does only adds.
const ROUNDS: usize = 5;

/// The same module and components as behind HTTP.
const CORE: &str = include_str!("../../../benches/core.wat");
const GUESTS: &str = "tests/guests/target/wasm32-wasip2/release";

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

/// Nobody is counted here.
struct Free;

impl Release for Free {
    fn release(self: Arc<Self>, _: Instant, _: Option<Ran>) {}
}

/// Nobody calls the platform here.
struct Nothing;

impl Services for Nothing {
    fn connect(&self, _: &Arc<Version>) -> DuplexStream {
        tokio::io::duplex(1).0
    }
}

fn main() -> Result<()> {
    let program =
        std::env::args().nth(1).ok_or("which program compiles? say the path of `wambda`")?;
    let one = |name: &str| {
        Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()
    };
    let (main, long_run) = (one("inside")?, one("inside-long")?);
    let folder = tempfile::tempdir()?;
    let handle = long_run.handle().clone();
    let path = folder.path().to_owned();
    // On the worker, as requests are: what is spawned there stays there.
    let program = std::fs::canonicalize(program)?;
    main.block_on(async move { tokio::spawn(measure(path, program, handle)).await? })
}

fn executor(folder: &Path, program: PathBuf, long_run: Handle) -> Result<Executor> {
    let nothing = |_| -> BoxFuture<'static, std::result::Result<Bytes, String>> {
        Box::pin(async { Err("nothing is kept".to_owned()) })
    };
    let settings = wambda_egress::Settings {
        allow: Vec::new(),
        deny: Vec::new(),
        dns: Vec::new(),
        patience: Duration::from_secs(1),
        own: ([127, 0, 0, 1], 1).into(),
    };
    let config = RuntimeConfig {
        program,
        artifacts: Artifacts::open(folder)?,
        wasi03: false,
        region: "us-east-1".into(),
        budget: Budget::new(1 << 32),
        layers: LayerDirs::open(folder, 1 << 20, (Arc::new(nothing), long_run.clone()))?,
        long_run,
        code: Arc::new(nothing),
        slots: 1_000,
        compiling: child::Limits::default(),
        egress: Arc::new(Egress::new(&settings, Arc::new(Nothing))?),
        stuck_after: Duration::from_secs(30),
        metrics: Metrics::new("inside")?,
    };
    Executor::new(config).map_err(|error| format!("{error:#}").into())
}

/// A version as the catalog would have it.
fn version(code: &Inspection, reuse: Reuse) -> Result<Arc<Version>> {
    let name = FunctionName::new("f")?;
    let metrics = Metrics::new("inside")?.function(&name);
    let share = Arc::new(Share::of(&Arc::new(Gate::new(1_000))));
    Ok(Arc::new(Version {
        kind: code.kind,
        component: code.component,
        wasi03: code.wasi03,
        digest: code.digest,
        reuse,
        ..Version::blank(name, metrics, share)
    }))
}

async fn measure(folder: PathBuf, program: PathBuf, long_run: Handle) -> Result<()> {
    let executor = executor(&folder, program, long_run)?;
    println!("{:<22} {:>10} {:>10} {:>14}", "", "answer p50", "p99", "until the next");
    for (name, file) in [
        ("core", None),
        ("event", Some("guest_hello")),
        ("wasi:http 0.2", Some("guest_hello_http")),
    ] {
        let upload = match file {
            None => Bytes::from_static(CORE.as_bytes()),
            Some(file) => std::fs::read(format!("{GUESTS}/{file}.wasm"))?.into(),
        };
        let code = executor.inspect(upload, "f").await?;
        executor.build(&code, "f").await?;
        for (reuse, how) in [(Reuse::Warm, "reused"), (Reuse::Fresh, "fresh")] {
            let version = version(&code, reuse)?;
            executor.keep_warm(&version, 2);
            calls(&executor, &version, BEFORE).await?;
            let mut best = calls(&executor, &version, COUNT).await?;
            for _ in 1..ROUNDS {
                best = best.min(calls(&executor, &version, COUNT).await?);
            }
            let (each, p50, p99) = best;
            let us = |ns: u64| ns as f64 / 1e3;
            println!(
                "{:<22} {:>7.2} µs {:>7.2} µs {:>11.2} µs",
                format!("{name}, {how}"),
                us(p50),
                us(p99),
                us(each)
            );
        }
    }
    Ok(())
}

/// Nanoseconds: of one from beginning to beginning, and of answers, the middle and the 99th of a hundred.
async fn calls(
    executor: &Executor,
    version: &Arc<Version>,
    count: usize,
) -> Result<(u64, u64, u64)> {
    let (mut took, mut cold) = (Vec::with_capacity(count), 0);
    let nanos = |since: Instant| u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let began = Instant::now();
    for _ in 0..count {
        let asked = Instant::now();
        let permit = Permit::new(Arc::new(Free), asked);
        let payload = match version.kind {
            Kind::Http => {
                Payload::Http(http::Request::post("http://localhost/").body(body::full("{}"))?)
            }
            _ => Payload::Event(Bytes::from_static(b"{}")),
        };
        let outcome = executor.execute(version, Invocation::new(payload), permit).await?;
        cold += usize::from(outcome.report.start == StartKind::Cold);
        let answer = match outcome.result? {
            Reply::Event(answer) => answer,
            Reply::Http(response) => response.into_body().collect().await?.to_bytes(),
        };
        took.push(nanos(asked));
        if answer != "\"hello\"" {
            return Err(format!("{answer:?} is not hello").into());
        }
        // What was begun behind the answer.
        tokio::task::yield_now().await;
    }
    if cold * 100 > count {
        return Err(format!("{cold} of {count} began cold: that is something else").into());
    }
    let each = nanos(began) / count.max(1) as u64;
    took.sort_unstable();
    let at = |part: usize| took.get(count * part / 100).copied().unwrap_or_default();
    Ok((each, at(50), at(99)))
}
