//! `wambda-bench queue`: asynchronous invocations, durable, on the disk that `--data` names.
//!
//! - `enqueue`: 64 connections, each sends an event and waits for its 202, which comes after fsync;
//!   beside Redis Streams (`appendfsync always`) and NATS JetStream (`sync_interval: always`) on the
//!   same disk, in turns, when their programs are given.
//! - `run`: the same, while the function runs: from the first event to the last outcome.
//! - `depth`: a queue is filled while it is paused, then let go: rate, CPU and memory while it drains.
//! - `burst`: a thousand events at once to an idle function: from the last 202 to the empty queue.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peers::{self, Peer};
use crate::process::Server;

/// Clients of the enqueue runs.
const CLIENTS: usize = 64;
/// Bytes of an event.
const EVENT_BYTES: usize = 256;

/// What is measured, and where.
pub(crate) struct Arguments {
    pub(crate) server: PathBuf,
    /// Folder for everybody's data.
    pub(crate) data: PathBuf,
    pub(crate) quick: bool,
    pub(crate) redis: Option<PathBuf>,
    pub(crate) nats: Option<PathBuf>,
}

/// A core module that answers what it got.
const ECHO: &str = r#"(module (memory (export "memory") 40)
  (func (export "wambda_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "wambda_handle") (param $p i32) (param $n i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $p)) (i64.const 32))
            (i64.extend_i32_u (local.get $n)))))"#;

/// One event as JSON, of a fixed size.
pub(crate) fn event() -> Vec<u8> {
    let mut event = br#"{"pad":""#.to_vec();
    event.resize(EVENT_BYTES - 2, b'x');
    event.extend(br#""}"#);
    event
}

fn request(address: SocketAddr, function: &str, event: &[u8]) -> Vec<u8> {
    let length = event.len();
    let head = format!(
        "POST /v1/functions/{function}/invoke?mode=event HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), event].concat()
}

/// Sends events over `clients` connections until `count` are acknowledged, or the time is over.
/// Returns how many were, how long it took, and the latencies in microseconds.
async fn send(
    address: SocketAddr,
    function: &str,
    clients: usize,
    (count, time): (usize, Duration),
) -> Result<(usize, Duration, Vec<u32>)> {
    let request = request(address, function, &event());
    let (began, end) = (Instant::now(), Instant::now() + time);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let request = request.clone();
            let share = count / clients + usize::from(client < count % clients);
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let mut buffer = vec![0; 2_048];
                let mut latencies = Vec::new();
                while latencies.len() < share && Instant::now() < end {
                    let sent = Instant::now();
                    stream.write_all(&request).await?;
                    let mut filled = 0usize;
                    // The answer is short, and ends with a line's end after its JSON.
                    while !buffer.get(..filled).is_some_and(|seen| seen.ends_with(b"}\n")) {
                        let free = buffer.get_mut(filled..).context("the answer is too long")?;
                        let read = stream.read(free).await?;
                        ensure!(read > 0, "the connection was closed");
                        filled += read;
                    }
                    let answer = buffer.get(..filled).unwrap_or_default();
                    ensure!(
                        answer.starts_with(b"HTTP/1.1 202"),
                        "{}",
                        String::from_utf8_lossy(answer)
                    );
                    buffer.fill(0);
                    latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let took = began.elapsed();
    latencies.sort_unstable();
    Ok((latencies.len(), took, latencies))
}

pub(crate) fn percentile(sorted: &[u32], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    f64::from(sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)) / 1e3
}

struct Wambda {
    server: Server,
}

impl Wambda {
    fn start(program: &Path, data: &Path) -> Result<Self> {
        let data = data.to_string_lossy().into_owned();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir", &data];
        let this = Self { server: Server::start(program, &arguments)? };
        let address = this.server.address;
        ureq::put(format!("http://{address}/v1/functions/echo")).send(ECHO.as_bytes())?;
        Ok(this)
    }

    fn call(&self, method: &str, path: &str) -> Result<Value> {
        let url = format!("http://{}{path}", self.server.address);
        let mut answer = match method {
            "GET" => ureq::get(url).call()?,
            _ => ureq::post(url).send_empty()?,
        };
        Ok(serde_json::from_str(&answer.body_mut().read_to_string()?)?)
    }

    fn depth(&self) -> Result<u64> {
        let info = self.call("GET", "/v1/queues/async:echo")?;
        info.get("depth").and_then(Value::as_u64).context("no depth")
    }

    fn empty(&self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        while self.depth()? > 0 {
            if Instant::now() > end {
                bail!("the queue is not empty after {patience:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Milliseconds of one fsync on the disk: the median of fifty.
fn fsync_ms(dir: &Path) -> Result<f64> {
    use std::io::Write;
    let path = dir.join("fsync");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        file.write_all(&[7; 4_096])?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    std::fs::remove_file(path)?;
    times.sort_unstable();
    Ok(percentile(&times, 0.5))
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    std::fs::create_dir_all(&arguments.data)?;
    println!("one fsync: {:.2} ms (median)", fsync_ms(&arguments.data)?);
    enqueue(arguments, &runtime)?;
    let dir = tempfile::tempdir_in(&arguments.data)?;
    let wambda = Wambda::start(&arguments.server, dir.path())?;
    whole(arguments, &runtime, &wambda)?;
    burst(&runtime, &wambda)?;
    depths(arguments, &runtime, &wambda)
}

/// Durable enqueue, in turns.
fn enqueue(arguments: &Arguments, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let (rounds, slice) = if arguments.quick { (1, 1) } else { (5, 4) };
    let slice = Duration::from_secs(slice);
    let dir = tempfile::tempdir_in(&arguments.data)?;
    let wambda = Wambda::start(&arguments.server, &dir.path().join("wambda"))?;
    wambda.call("POST", "/v1/queues/async:echo/pause")?;
    let mut peers: Vec<Peer> = Vec::new();
    if let Some(redis) = &arguments.redis {
        peers.push(peers::redis(redis, &dir.path().join("redis"))?);
    }
    if let Some(nats) = &arguments.nats {
        peers.push(peers::nats(nats, &dir.path().join("nats"))?);
    }
    let mut rows: Vec<(String, Vec<[f64; 4]>)> = vec![("wambda".to_owned(), Vec::new())];
    rows.extend(peers.iter().map(|peer| (peer.name().to_owned(), Vec::new())));
    for _ in 0..rounds {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        fastrand::shuffle(&mut order);
        for at in order {
            let peer = at.checked_sub(1).and_then(|at| peers.get(at));
            let server = peer.map_or(&wambda.server, Peer::server);
            let before = server.cpu()?;
            let (count, took, latencies) = match peer {
                None => {
                    let until = (usize::MAX, slice);
                    runtime.block_on(send(server.address, "echo", CLIENTS, until))?
                }
                Some(peer) => runtime.block_on(peer.send(CLIENTS, slice))?,
            };
            let cpu = (server.cpu()? - before) as f64 / 1e3 / count as f64;
            let rate = count as f64 / took.as_secs_f64();
            if let Some((_, samples)) = rows.get_mut(at) {
                samples.push([
                    rate,
                    cpu,
                    percentile(&latencies, 0.5),
                    percentile(&latencies, 0.99),
                ]);
            }
        }
    }
    println!(
        "\ndurable enqueue, {CLIENTS} clients, {EVENT_BYTES} bytes, {rounds} rounds of {slice:?} each (medians)"
    );
    println!("{:<28}{:>12}{:>14}{:>10}{:>10}", "", "events/s", "CPU µs/event", "p50 ms", "p99 ms");
    for (name, samples) in &mut rows {
        let mut median = |column: usize| {
            samples.sort_by(|a, b| {
                let of = |row: &[f64; 4]| row.get(column).copied().unwrap_or_default();
                of(a).total_cmp(&of(b))
            });
            samples.get(samples.len() / 2).and_then(|row| row.get(column)).copied().unwrap_or(0.0)
        };
        let (rate, cpu, p50, p99) = (median(0), median(1), median(2), median(3));
        println!("{name:<28}{rate:>12.0}{cpu:>14.1}{p50:>10.2}{p99:>10.2}");
    }
    Ok(())
}

/// From the first event to the last outcome, while events come.
fn whole(arguments: &Arguments, runtime: &tokio::runtime::Runtime, wambda: &Wambda) -> Result<()> {
    let count = if arguments.quick { 2_000 } else { 50_000 };
    let (before, began) = (wambda.server.cpu()?, Instant::now());
    let until = (count, Duration::from_secs(300));
    let (sent, took, _) = runtime.block_on(send(wambda.server.address, "echo", CLIENTS, until))?;
    wambda.empty(Duration::from_secs(300))?;
    let all = began.elapsed();
    let cpu = (wambda.server.cpu()? - before) as f64 / 1e3 / sent as f64;
    println!(
        "\nenqueue, run, done: {sent} events in {:.2} s (sent in {:.2} s): {:.0} events/s, {cpu:.1} µs CPU each",
        all.as_secs_f64(),
        took.as_secs_f64(),
        sent as f64 / all.as_secs_f64()
    );
    Ok(())
}

/// A thousand events at once.
fn burst(runtime: &tokio::runtime::Runtime, wambda: &Wambda) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(300));
        let until = (1_000, Duration::from_secs(60));
        let (sent, took, _) =
            runtime.block_on(send(wambda.server.address, "echo", 1_000, until))?;
        ensure!(sent == 1_000, "only {sent} were taken");
        let last = Instant::now();
        wambda.empty(Duration::from_secs(60))?;
        times.push((last.elapsed().as_secs_f64() * 1e3, took.as_secs_f64() * 1e3));
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (empty, sending) = times.get(times.len() / 2).copied().unwrap_or_default();
    println!(
        "\nburst of 1,000 at once: sent and acknowledged in {sending:.0} ms, queue empty {empty:.0} ms after the last 202 (median of 5), none refused"
    );
    Ok(())
}

/// Draining queues of ever greater depth.
fn depths(arguments: &Arguments, runtime: &tokio::runtime::Runtime, wambda: &Wambda) -> Result<()> {
    let depths: &[usize] =
        if arguments.quick { &[1_000, 5_000] } else { &[10_000, 100_000, 1_000_000] };
    println!(
        "\n{:<12}{:>14}{:>14}{:>16}{:>12}{:>14}",
        "depth", "fill /s", "drain /s", "CPU µs/event", "RSS before", "RSS highest"
    );
    for depth in depths {
        wambda.call("POST", "/v1/queues/async:echo/pause")?;
        let idle = wambda.server.resident()?;
        let until = (*depth, Duration::from_secs(600));
        let (sent, fill, _) =
            runtime.block_on(send(wambda.server.address, "echo", CLIENTS, until))?;
        ensure!(sent == *depth, "only {sent} were taken");
        let (before, began) = (wambda.server.cpu()?, Instant::now());
        wambda.call("POST", "/v1/queues/async:echo/resume")?;
        let mut most = 0.0f64;
        while wambda.depth()? > 0 {
            most = most.max(wambda.server.resident()?);
            ensure!(began.elapsed() < Duration::from_secs(900), "it does not drain");
            std::thread::sleep(Duration::from_millis(20));
        }
        let (took, cpu) = (began.elapsed(), wambda.server.cpu()? - before);
        println!(
            "{depth:<12}{:>14.0}{:>14.0}{:>16.1}{:>9.0} MB{:>11.0} MB",
            sent as f64 / fill.as_secs_f64(),
            sent as f64 / took.as_secs_f64(),
            cpu as f64 / 1e3 / sent as f64,
            idle,
            most
        );
    }
    Ok(())
}
