//! `cargo xtask bench overload`: offered load from half of capacity to five times of it, and a function that
//! says hello beside neighbours that behave badly. All latencies are of an open loop.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::CORE;
use crate::args::Arguments;
use crate::open::{self, Load, Seen, Until};
use crate::process::{self, Server};

/// Counts to a million and a half: a millisecond or two of CPU time, whoever else wants it.
const WORK: &str = "(module (memory (export \"memory\") 1)
  (func (export \"wambda_alloc\") (param i32) (result i32) (i32.const 0))
  (func (export \"wambda_handle\") (param i32 i32) (result i64) (local $n i32)
    (loop $l
      (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (local.get $n)))
      (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1500000))))
    (i64.const 1)))";
/// Rounds of slices.
const ROUNDS: usize = 8;
const SPIN: &str = "(module (memory (export \"memory\") 1)
  (func (export \"wambda_alloc\") (param i32) (result i32) (i32.const 0))
  (func (export \"wambda_handle\") (param i32 i32) (result i64) (loop $l (br $l)) (i64.const 0)))";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let time = Duration::from_secs(if arguments.quick { 2 } else { 8 });
    let data = tempfile::tempdir()?;
    let path = data.path().to_string_lossy().into_owned();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir", &path];
    let start = || Server::start(&arguments.server, &serve);
    let server = process::apart(start)?;
    deploy(&server, "work", "timeout=5&queue=32", WORK.as_bytes())?;
    deploy(&server, "bounded", "timeout=5&queue=32&concurrency=2", WORK.as_bytes())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
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
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(neighbours(&server, time))
}

fn deploy(server: &Server, name: &str, query: &str, code: &[u8]) -> Result<()> {
    let url = format!("http://{}/v1/functions/{name}?{query}", server.address);
    ureq::put(url).send(code).with_context(|| format!("cannot deploy {name}")).map(drop)
}

fn load(server: &Server, function: &str, body: &str) -> Load {
    let path = format!("/v1/functions/{function}/invoke");
    Load { address: server.address, method: "POST", path, body: body.to_owned() }
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// Offers, as factors of capacity.
const FACTORS: [f64; 6] = [0.5, 1.0, 1.5, 2.0, 3.0, 5.0];
/// The offer that others are compared with: enough for the server never to wait.
const FULL: f64 = 1.2;

/// What was seen of one offer, slice by slice.
#[derive(Default)]
struct Row {
    slices: Vec<Seen>,
    /// Goodput of each slice, in that of the full offer of the same round.
    shares: Vec<f64>,
    resident: f64,
}

async fn overload(server: &Server, function: &str, time: Duration) -> Result<()> {
    let work = load(server, function, "x");
    let slice = time / 4;
    let good = |seen: &Seen| seen.good.len() as f64 / slice.as_secs_f64();
    // Offers rise until not much more than half is taken.
    let (mut capacity, mut rate) = (0f64, 200.0);
    while rate < 1.8 * capacity.max(200.0) {
        let seen = open::run(&work, rate, slice, Until::Awake).await?;
        capacity = capacity.max(good(&seen));
        rate *= 1.3;
    }
    // The machine drifts: each round has its own full offer, and its rows in random order.
    let mut rows: [Row; FACTORS.len()] = Default::default();
    for _ in 0..ROUNDS {
        let full = good(&open::run(&work, capacity * FULL, slice, Until::Awake).await?);
        let mut order: Vec<usize> = (0..FACTORS.len()).collect();
        fastrand::shuffle(&mut order);
        for at in order {
            let (Some(row), Some(factor)) = (rows.get_mut(at), FACTORS.get(at)) else { continue };
            let seen = open::run(&work, capacity * factor, slice, Until::Awake).await?;
            row.shares.push(good(&seen) / full);
            row.slices.push(seen);
            row.resident = row.resident.max(server.resident()?);
        }
    }
    println!(
        "\n{function}: {capacity:.0}/s at most; {ROUNDS} rounds of {slice:?}; goodput by that of {FULL}x"
    );
    println!(
        "{:>7} {:>9} {:>9} {:>17} {:>8} {:>9} {:>9} {:>9} {:>7} {:>7}",
        "offered",
        "sent/s",
        "good/s",
        "goodput",
        "shed/s",
        "p50 ms",
        "p99 ms",
        "shed p99",
        "failed",
        "RSS MB"
    );
    for (factor, row) in FACTORS.iter().zip(&mut rows) {
        line(*factor, row, slice)?;
    }
    // Five times for a minute, and then half: how long until it is as before.
    let half = rows.first().context("no rows")?;
    let calm = merged(half, |seen| &seen.good)?.value_at_quantile(0.99);
    open::run(&work, capacity * 5.0, time * 15 / 2, Until::Awake).await?;
    let seen = open::run(&work, capacity * 0.5, time, Until::Awake).await?;
    let bound = 2 * calm.max(5_000);
    match calm_from(&seen, bound) {
        Some(at) => println!(
            "recovery: {:.1} s after the overload p99 was {:.1} ms or less again; {} refused since it ended",
            at.as_secs_f64(),
            ms(bound),
            seen.shed.len()
        ),
        None => println!("recovery: p99 was never {:.1} ms or less again", ms(bound)),
    }
    Ok(())
}

/// The beginning of the first half second in which 99 of 100 answers took no more than `bound` microseconds.
fn calm_from(seen: &Seen, bound: u64) -> Option<Duration> {
    let window = Duration::from_millis(500);
    let mut windows: Vec<(usize, usize)> = Vec::new();
    for (at, latency) in &seen.story {
        let window = (at.as_millis() / window.as_millis()) as usize;
        windows.resize(windows.len().max(window + 1), (0, 0));
        if let Some((all, slow)) = windows.get_mut(window) {
            *all += 1;
            *slow += usize::from(latency.as_micros() as u64 > bound);
        }
    }
    let calm = windows.iter().position(|(all, slow)| *all > 0 && slow * 100 <= *all)?;
    Some(window * u32::try_from(calm).ok()?)
}

/// A row's slices in one.
fn merged(row: &Row, of: impl Fn(&Seen) -> &Histogram<u64>) -> Result<Histogram<u64>> {
    let mut all = open::histogram()?;
    for seen in &row.slices {
        all.add(of(seen)).context("histograms of one kind")?;
    }
    Ok(all)
}

fn line(factor: f64, row: &mut Row, slice: Duration) -> Result<()> {
    let (good, shed) = (merged(row, |seen| &seen.good)?, merged(row, |seen| &seen.shed)?);
    let seconds = slice.as_secs_f64() * row.slices.len() as f64;
    let rate = |count: u64| count as f64 / seconds;
    let sum = |of: fn(&Seen) -> u64| row.slices.iter().map(of).sum::<u64>();
    let (sent, failed) = (sum(|seen| seen.sent), sum(|seen| seen.failed));
    row.shares.sort_by(f64::total_cmp);
    let share = |part: usize| {
        100.0 * row.shares.get(row.shares.len() * part / 4).copied().unwrap_or_default()
    };
    let goodput = format!("{:.0}% ({:.0}-{:.0})", share(2), share(1), share(3));
    println!(
        "{factor:>6}x {:>9.0} {:>9.0} {goodput:>17} {:>8.0} {:>9.2} {:>9.2} {:>9.2} {failed:>7} {:>7.0}",
        rate(sent),
        rate(good.len()),
        rate(shed.len()),
        ms(good.value_at_quantile(0.5)),
        ms(good.value_at_quantile(0.99)),
        ms(shed.value_at_quantile(0.99)),
        row.resident,
    );
    Ok(())
}

/// What a bad neighbour does, on so many connections.
struct Neighbour {
    name: &'static str,
    connections: usize,
    act: Act,
}

#[derive(Clone, Copy)]
enum Act {
    /// Sends this to this path, and waits for the answer, over and over.
    Invoke(&'static str, &'static str),
    /// Uploads something new, over and over.
    Upload,
    /// Begins requests and leaves them so, ten a second.
    Hold,
}

const BAD: &str = "/v1/functions/bad/invoke";

const NEIGHBOURS: [Neighbour; 8] = [
    Neighbour { name: "nobody", connections: 0, act: Act::Hold },
    Neighbour {
        name: "8 spinners",
        connections: 8,
        act: Act::Invoke("/v1/functions/spin/invoke", "x"),
    },
    Neighbour { name: "4 memory hogs", connections: 4, act: Act::Invoke(BAD, r#"{"do":"grow"}"#) },
    Neighbour {
        name: "4 log floods",
        connections: 4,
        act: Act::Invoke(BAD, r#"{"do":"print-long","bytes":200000}"#),
    },
    Neighbour { name: "4 that trap", connections: 4, act: Act::Invoke(BAD, r#"{"do":"panic"}"#) },
    Neighbour {
        name: "16 that send events",
        connections: 16,
        act: Act::Invoke("/v1/functions/bad/invoke?mode=event", r#"{"do":"count"}"#),
    },
    Neighbour { name: "2 that upload", connections: 2, act: Act::Upload },
    Neighbour { name: "20 that hold", connections: 20, act: Act::Hold },
];

/// Misbehaves until it is told to stop.
async fn misbehave(address: SocketAddr, act: Act, number: usize, stop: Arc<AtomicBool>) {
    let (mut held, mut count) = (Vec::new(), 0u32);
    while !stop.load(Relaxed) {
        count += 1;
        let (method, path, body) = match act {
            Act::Invoke(path, body) => ("POST", path.to_owned(), body.to_owned()),
            // Code that nobody has seen.
            Act::Upload => {
                let body = WORK.replace("1500000", &format!("{number}{count:06}"));
                ("PUT", format!("/v1/functions/upload{number}"), body)
            }
            Act::Hold => ("POST", BAD.to_owned(), "x".to_owned()),
        };
        let load = Load { address, method, path, body };
        if matches!(act, Act::Hold) {
            held.extend(open::unfinished(&load).await.ok());
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else {
            let _ = tokio::time::timeout(Duration::from_secs(2), open::once(&load)).await;
        }
    }
}

async fn neighbours(server: &Server, time: Duration) -> Result<()> {
    println!("\nhello, 200 a second, beside");
    println!("{:>22} {:>9} {:>9} {:>9} {:>9}", "", "p50 ms", "p99 ms", "p99.9 ms", "failed");
    let hello = load(server, "hello", "{}");
    open::run(&hello, 200.0, time / 4, Until::Asleep).await?;
    for neighbour in NEIGHBOURS {
        let stop = Arc::new(AtomicBool::new(false));
        let mut busy = JoinSet::new();
        for number in 1..=neighbour.connections {
            let stop = Arc::clone(&stop);
            busy.spawn(misbehave(server.address, neighbour.act, number, stop));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let seen = open::run(&hello, 200.0, time, Until::Asleep).await?;
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
