//! `cargo xtask bench overload`: offered load from half of capacity to five times of it, and a function that
//! says hello beside neighbours that behave badly. All latencies are of an open loop.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::open::{self, Load, Seen};
use crate::process::{self, Server};
use crate::{Arguments, CORE};

/// Counts to a million and a half: a millisecond or two of CPU time, whoever else wants it.
const WORK: &str = "(module (memory (export \"memory\") 1)
  (func (export \"wambda_alloc\") (param i32) (result i32) (i32.const 0))
  (func (export \"wambda_handle\") (param i32 i32) (result i64) (local $n i32)
    (loop $l
      (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (local.get $n)))
      (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1500000))))
    (i64.const 1)))";
const SPIN: &str = "(module (memory (export \"memory\") 1)
  (func (export \"wambda_alloc\") (param i32) (result i32) (i32.const 0))
  (func (export \"wambda_handle\") (param i32 i32) (result i64) (loop $l (br $l)) (i64.const 0)))";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let time = Duration::from_secs(if arguments.quick { 2 } else { 8 });
    let data = tempfile::tempdir()?;
    let path = data.path().to_string_lossy().into_owned();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir", &path];
    let start = || Server::start(&arguments.server, &serve);
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let server = process::apart(start)?;
    deploy(&server, "work", "timeout=5&queue=32", WORK.as_bytes())?;
    deploy(&server, "bounded", "timeout=5&queue=32&concurrency=2", WORK.as_bytes())?;
    runtime()?.block_on(async {
        overload(&server, "work", time).await?;
        overload(&server, "bounded", time).await
    })?;
    drop(server);
    // Beside neighbours, on all cores.
    process::together()?;
    let server = start()?;
    let guest = Path::new("tests/guests/target/wasm32-wasip2/release/guest_event.wasm");
    let guest =
        std::fs::read(guest).context("guest_event.wasm is missing: run `cargo xtask guests`")?;
    deploy(&server, "hello", "", CORE.as_bytes())?;
    deploy(&server, "bad", "timeout=1&memory=64", &guest)?;
    deploy(&server, "spin", "timeout=20", SPIN.as_bytes())?;
    runtime()?.block_on(neighbours(&server, time))
}

fn deploy(server: &Server, name: &str, query: &str, code: &[u8]) -> Result<()> {
    let url = format!("http://{}/v1/functions/{name}?{query}", server.address);
    ureq::put(url).send(code).with_context(|| format!("cannot deploy {name}")).map(drop)
}

fn load(server: &Server, function: &str, body: &str) -> Load {
    let path = format!("/v1/functions/{function}/invoke");
    Load { address: server.address, path, body: body.to_owned() }
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

async fn overload(server: &Server, function: &str, time: Duration) -> Result<()> {
    let work = load(server, function, "x");
    // Peak: the best goodput of rising offers.
    let mut peak = 0f64;
    for rate in [200.0, 400.0, 600.0, 800.0, 1_000.0, 1_300.0, 1_600.0, 2_000.0] {
        let seen = open::run(&work, rate, time / 4).await?;
        peak = peak.max(seen.good.len() as f64 / (time / 4).as_secs_f64());
    }
    println!("\n{function}: {peak:.0}/s at most");
    println!(
        "{:>7} {:>9} {:>9} {:>7} {:>8} {:>9} {:>9} {:>9} {:>7} {:>7}",
        "offered",
        "sent/s",
        "good/s",
        "of peak",
        "shed/s",
        "p50 ms",
        "p99 ms",
        "shed p99",
        "failed",
        "RSS MB"
    );
    let mut calm = 0;
    for factor in [0.5, 1.0, 1.5, 2.0, 3.0, 5.0] {
        let seen = open::run(&work, peak * factor, time).await?;
        if factor == 0.5 {
            calm = seen.good.value_at_quantile(0.99);
        }
        line(factor, &seen, time, peak, server.resident()?);
    }
    // Five times for a while, and then half: how long until it is as before.
    let began = Instant::now();
    let seen = open::run(&work, peak * 0.5, time).await?;
    let slow =
        seen.story.iter().filter(|(_, latency)| latency.as_micros() as u64 > 2 * calm.max(5_000));
    let recovered = slow.map(|(at, _)| *at).max().unwrap_or_default();
    println!(
        "recovery: the last answer slower than twice the calm p99 ({:.1} ms) came {:.2} s after the overload ended ({:.0} s watched)",
        ms(calm),
        recovered.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn line(factor: f64, seen: &Seen, time: Duration, peak: f64, resident: f64) {
    let rate = |count: u64| count as f64 / time.as_secs_f64();
    println!(
        "{factor:>6}x {:>9.0} {:>9.0} {:>6.0}% {:>8.0} {:>9.2} {:>9.2} {:>9.2} {:>7} {resident:>7.0}",
        rate(seen.sent),
        rate(seen.good.len()),
        100.0 * rate(seen.good.len()) / peak,
        rate(seen.shed.len()),
        ms(seen.good.value_at_quantile(0.5)),
        ms(seen.good.value_at_quantile(0.99)),
        ms(seen.shed.value_at_quantile(0.99)),
        seen.failed
    );
}

/// What a bad neighbour sends, over how many connections, each of which waits for its answer.
struct Neighbour {
    name: &'static str,
    connections: usize,
    path: &'static str,
    body: &'static str,
}

const NEIGHBOURS: [Neighbour; 6] = [
    Neighbour { name: "nobody", connections: 0, path: "", body: "" },
    Neighbour { name: "8 spinners", connections: 8, path: "/v1/functions/spin/invoke", body: "x" },
    Neighbour {
        name: "4 memory hogs",
        connections: 4,
        path: "/v1/functions/bad/invoke",
        body: r#"{"do":"grow"}"#,
    },
    Neighbour {
        name: "4 log floods",
        connections: 4,
        path: "/v1/functions/bad/invoke",
        body: r#"{"do":"print-long","bytes":200000}"#,
    },
    Neighbour {
        name: "4 that trap",
        connections: 4,
        path: "/v1/functions/bad/invoke",
        body: r#"{"do":"panic"}"#,
    },
    Neighbour {
        name: "16 that send events",
        connections: 16,
        path: "/v1/functions/bad/invoke?mode=event",
        body: r#"{"do":"count"}"#,
    },
];

async fn neighbours(server: &Server, time: Duration) -> Result<()> {
    println!("\nhello, 200 a second, beside");
    println!("{:>22} {:>9} {:>9} {:>9} {:>9}", "", "p50 ms", "p99 ms", "p99.9 ms", "failed");
    let hello = load(server, "hello", "{}");
    open::run(&hello, 200.0, time / 4).await?;
    for neighbour in NEIGHBOURS {
        let stop = Arc::new(AtomicBool::new(false));
        let mut busy = JoinSet::new();
        for _ in 0..neighbour.connections {
            let stop = Arc::clone(&stop);
            let load = Load {
                address: server.address,
                path: neighbour.path.to_owned(),
                body: neighbour.body.to_owned(),
            };
            busy.spawn(async move {
                while !stop.load(Relaxed) {
                    let _ = tokio::time::timeout(Duration::from_secs(2), open::once(&load)).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let seen = open::run(&hello, 200.0, time).await?;
        stop.store(true, Relaxed);
        while busy.join_next().await.is_some() {}
        println!(
            "{:>22} {:>9.2} {:>9.2} {:>9.2} {:>9}",
            neighbour.name,
            ms(seen.good.value_at_quantile(0.5)),
            ms(seen.good.value_at_quantile(0.99)),
            ms(seen.good.value_at_quantile(0.999)),
            seen.failed + seen.shed.len()
        );
        if neighbour.name == "8 spinners" {
            // They end at their timeout.
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    }
    Ok(())
}
