//! An open loop: requests are sent when their time has come, whether or not earlier ones are answered, and
//! latencies count from that time. A closed loop would wait with the server, and not see its stalls
//! ("coordinated omission").

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::whole;

/// How answers came: microseconds by kind, and when the good ones did.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) sent: u64,
    pub(crate) good: Histogram<u64>,
    /// 429 and 503.
    pub(crate) shed: Histogram<u64>,
    /// Anything else, and what was never answered.
    pub(crate) failed: u64,
    /// Time since the beginning, and latency, of each good answer.
    pub(crate) story: Vec<(Duration, Duration)>,
}

/// Microseconds, up to two minutes.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 120_000_000, 3).context("a histogram")
}

impl Seen {
    fn new() -> Result<Self> {
        let (good, shed) = (histogram()?, histogram()?);
        Ok(Self { sent: 0, good, shed, failed: 0, story: Vec::new() })
    }
}

/// What is sent, again and again.
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
}

impl Load {
    fn request(&self) -> Vec<u8> {
        let Self { address, method, path, body } = self;
        let length = body.len();
        let line = format!("{method} {path} HTTP/1.1");
        format!("{line}\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    }
}

type Pool = Arc<Mutex<Vec<TcpStream>>>;

/// What is done until the next request is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Sleep, a millisecond at a time: for who shares cores with the server.
    Asleep,
    /// Look for answers without a pause: for who has cores of their own. Whoever sleeps there has to be woken for
    /// each answer, by the server's core, which on a virtual machine costs it more than the answer.
    Awake,
}

/// Sends `rate` requests a second for `time`; waits for the last answers.
pub(crate) async fn run(load: &Load, rate: f64, time: Duration, until: Until) -> Result<Seen> {
    let request: Arc<[u8]> = load.request().into();
    let (pool, began, address) = (Pool::default(), Instant::now(), load.address);
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut seen = Seen::new()?;
    let mut next = 0u64;
    while began.elapsed() < time {
        let due = (began.elapsed().as_secs_f64() * rate) as u64;
        while next <= due {
            let intended = began + Duration::from_secs_f64(next as f64 / rate);
            let (pool, request, told) = (Arc::clone(&pool), Arc::clone(&request), told.clone());
            tokio::spawn(async move {
                let status = one(address, &pool, &request).await.unwrap_or(0);
                let _ = told.send((status, began.elapsed(), intended.elapsed()));
            });
            next += 1;
        }
        match until {
            Until::Asleep => tokio::time::sleep(Duration::from_millis(1)).await,
            Until::Awake => tokio::task::yield_now().await,
        }
    }
    drop(told);
    seen.sent = next;
    while let Some((status, at, latency)) = heard.recv().await {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        match status {
            200 => {
                seen.good.saturating_record(micros);
                seen.story.push((at, latency));
            }
            429 | 503 => seen.shed.saturating_record(micros),
            _ => seen.failed += 1,
        }
    }
    Ok(seen)
}

/// One request on a free connection, or on a new one; the status of its answer.
async fn one(address: SocketAddr, pool: &Pool, request: &[u8]) -> Result<u16> {
    let free = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut stream = match free {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(1_024);
    loop {
        anyhow::ensure!(stream.read_buf(&mut answer).await? > 0, "the connection was closed");
        if let Some((status, _)) = whole(&answer)? {
            pool.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            return Ok(status);
        }
    }
}

/// A connection on which a request begins and does not go on.
pub(crate) async fn unfinished(load: &Load) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(load.address).await?;
    let mut request = load.request();
    request.pop();
    stream.write_all(&request).await?;
    Ok(stream)
}

/// One request on a connection of its own.
pub(crate) async fn once(load: &Load) -> Result<u16> {
    one(load.address, &Pool::default(), &load.request()).await
}
