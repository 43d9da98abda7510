//! A closed loop over keep-alive connections: each sends, waits for its answer, checks it, repeats.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is asked for, and what must come back.
pub(crate) struct Job {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// More header lines, each with its end.
    pub(crate) head: String,
    pub(crate) body: &'static str,
    pub(crate) wanted: &'static str,
}

/// Microseconds of each answered request.
pub(crate) type Latencies = Vec<u32>;

pub(crate) async fn run(job: &Job, connections: usize, time: Duration) -> Result<Latencies> {
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}\r\n{}",
        job.path,
        job.address,
        job.body.len(),
        job.head,
        job.body
    );
    let end = Instant::now() + time;
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            tokio::spawn(connection(job.address, request.clone().into_bytes(), job.wanted, end))
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    ensure!(!all.is_empty(), "no answers");
    all.sort_unstable();
    Ok(all)
}

async fn connection(
    address: SocketAddr,
    request: Vec<u8>,
    wanted: &'static str,
    end: Instant,
) -> Result<Latencies> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 4096];
    let mut latencies = Vec::new();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(latencies);
        }
        stream.write_all(&request).await?;
        let mut filled = 0;
        let body = loop {
            let free = buffer.get_mut(filled..).context("the answer is too long")?;
            let read = stream.read(free).await?;
            ensure!(read > 0, "the connection was closed");
            filled += read;
            if let Some((status, body)) = whole(buffer.get(..filled).unwrap_or_default())? {
                ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(body));
                break body;
            }
        };
        ensure!(body == wanted.as_bytes(), "wrong answer {:?}", String::from_utf8_lossy(body));
        latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

/// Status and body, when the whole answer is there.
pub(crate) fn whole(answer: &[u8]) -> Result<Option<(u16, &[u8])>> {
    let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let (head, rest) = answer.split_at(at);
    let head = std::str::from_utf8(head)?;
    let status = head.get(9..12).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("no content-length")?.parse()?;
    Ok(rest.get(4..4 + length).map(|body| (status, body)))
}
