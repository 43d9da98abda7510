//! Bodies that are streamed through a function: a component of `wasi:http` that answers with what
//! it is sent, both ways at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::stage::{Context, HTTP_ECHO, figure, guest, since};
use crate::figure::Figure;

/// Streams at once.
const STREAMS: usize = 2;
/// Longest time that one body may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are asked for at once.
const PART_BYTES: usize = 64 << 10;

const SIZES: [(&str, usize); 3] = [("64 KiB", 64 << 10), ("1 MiB", 1 << 20), ("16 MiB", 16 << 20)];

pub(crate) fn bodies(context: &Context<'_>) -> Result<Vec<Figure>> {
    let stage = context.stage(&[])?;
    stage.deploy("echo", "timeout=60", &guest(HTTP_ECHO)?)?;
    let (rounds, slice) = context.rounds();
    let mut figures = Vec::new();
    for (name, size) in SIZES {
        let body: Arc<[u8]> = fastrand::Rng::with_seed(7).sample_bytes(size).into();
        let run = |time| context.runtime.block_on(streams(stage.address(), &body, time));
        run(slice / 5)?;
        let before = stage.server.resident()?;
        let (mut rates, mut costs, mut most) = (Vec::new(), Vec::new(), before);
        for _ in 0..rounds.min(context.pick(1, 2, 5)) {
            let (cpu, began) = (stage.server.cpu()?, Instant::now());
            let bytes = run(slice)? as f64 * size as f64;
            rates.push(bytes / f64::from(1 << 20) / since(began));
            costs.push(stage.server.cpu()?.saturating_sub(cpu) as f64 / bytes);
            most = most.max(stage.server.resident()?);
        }
        let note = format!("{STREAMS} streams; a byte in and out again counts once");
        let rate = figure("bodies", format!("{name}, rate"), "MiB/s", rates);
        figures.push(Figure { note, ..rate });
        figures.push(figure("bodies", format!("{name}, cost"), "ns CPU/byte", costs));
        figures.push(figure("bodies", format!("{name}, RSS growth"), "MB", vec![most - before]));
    }
    Ok(figures)
}

trait Bytes {
    fn sample_bytes(self, count: usize) -> Vec<u8>;
}

impl Bytes for fastrand::Rng {
    fn sample_bytes(mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }
}

/// How many bodies came back.
async fn streams(address: SocketAddr, body: &Arc<[u8]>, time: Duration) -> Result<usize> {
    let end = Instant::now() + time;
    let tasks: Vec<_> = (0..STREAMS)
        .map(|_| {
            let body = Arc::clone(body);
            tokio::spawn(async move {
                let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
                let mut count = 0;
                while count == 0 || Instant::now() < end {
                    let head = format!(
                        "POST /fn/echo/ HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    let sent = async {
                        write.write_all(head.as_bytes()).await?;
                        write.write_all(&body).await.context("the body was not taken")
                    };
                    let both = async { tokio::try_join!(sent, echoed(&mut read, &body)) };
                    tokio::time::timeout(PATIENCE, both).await.context("no answer in time")??;
                    count += 1;
                }
                anyhow::Ok(count)
            })
        })
        .collect();
    let mut all = 0;
    for task in tasks {
        all += task.await??;
    }
    Ok(all)
}

/// Reads an answer, which must be `body`: each part is compared as it comes.
async fn echoed(stream: &mut OwnedReadHalf, body: &[u8]) -> Result<()> {
    let mut got = Got { stream, buffer: Vec::with_capacity(2 * PART_BYTES), at: 0 };
    let (mut length, mut chunked) = (None, false);
    let status = got.line().await?;
    loop {
        let line = got.line().await?.to_ascii_lowercase();
        match line.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => break,
            Some(("content-length", value)) => length = Some(value.parse()?),
            Some(("transfer-encoding", value)) => chunked = value == "chunked",
            Some(_) => {}
        }
    }
    ensure!(status.starts_with("HTTP/1.1 200"), "{status}");
    let mut left = body;
    if let Some(length) = length {
        left = got.same(left, length).await?;
    }
    while chunked {
        let size = usize::from_str_radix(got.line().await?.trim(), 16).context("no chunk")?;
        left = got.same(left, size).await?;
        ensure!(got.line().await?.is_empty(), "a chunk does not end");
        chunked = size > 0;
    }
    ensure!(left.is_empty(), "{} bytes are missing", left.len());
    Ok(())
}

struct Got<'a> {
    stream: &'a mut OwnedReadHalf,
    buffer: Vec<u8>,
    /// Up to where the buffer is used up.
    at: usize,
}

impl Got<'_> {
    async fn more(&mut self) -> Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.reserve(PART_BYTES);
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.rest().windows(2).position(|part| part == b"\r\n") {
                let line = String::from_utf8_lossy(self.rest().get(..end).unwrap_or_default());
                let line = line.into_owned();
                self.at += end + 2;
                return Ok(line);
            }
            self.more().await?;
        }
    }

    /// The next `count` bytes are those that `wanted` begins with; what comes after them.
    async fn same<'b>(&mut self, wanted: &'b [u8], count: usize) -> Result<&'b [u8]> {
        let Some((mut now, later)) = wanted.split_at_checked(count) else {
            bail!("the answer is longer than the body");
        };
        while !now.is_empty() {
            if self.rest().is_empty() {
                self.more().await?;
            }
            let part = now.len().min(self.rest().len());
            let (first, rest) = now.split_at(part);
            ensure!(self.rest().starts_with(first), "the body came back changed");
            self.at += part;
            now = rest;
        }
        Ok(later)
    }
}
