//! Load with any body: requests as bytes over keep-alive connections, each answer checked. A closed
//! loop for what a request costs, an open loop for how long it takes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::whole;

/// Longest wait for one answer, whatever is asked.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is sent, and what must come back.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) address: SocketAddr,
    pub(crate) request: Arc<[u8]>,
    pub(crate) status: u16,
    /// The answer's body; none where it cannot be known before.
    pub(crate) wanted: Option<Arc<[u8]>>,
}

impl Ask {
    pub(crate) fn new(address: SocketAddr, line: &str, body: &[u8]) -> Self {
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n");
        let request = [head.as_bytes(), body].concat().into();
        Self { address, request, status: 200, wanted: None }
    }

    /// An invocation by `/v1`.
    pub(crate) fn invoke(address: SocketAddr, function: &str, body: &[u8]) -> Self {
        Self::new(address, &format!("POST /v1/functions/{function}/invoke"), body)
    }

    pub(crate) fn wants(self, body: &[u8]) -> Self {
        Self { wanted: Some(body.into()), ..self }
    }

    pub(crate) fn answers_with(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

/// A connection, and the answer that it has got last.
pub(crate) struct Line {
    stream: TcpStream,
    answer: Vec<u8>,
    body_at: usize,
}

impl Line {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answer: Vec::with_capacity(4_096), body_at: 0 })
    }

    /// Sends, waits for the whole answer, and checks it.
    pub(crate) async fn ask(&mut self, ask: &Ask) -> Result<()> {
        tokio::time::timeout(PATIENCE, self.exchange(ask)).await.context("no answer in time")?
    }

    /// The same without a bound of its own, which would cost the loops a timer each time.
    async fn exchange(&mut self, ask: &Ask) -> Result<()> {
        self.stream.write_all(&ask.request).await?;
        self.answer.clear();
        let mut end = None;
        while end.is_none_or(|end| self.answer.len() < end) {
            let read = self.stream.read_buf(&mut self.answer).await?;
            ensure!(read > 0, "the connection was closed");
            if end.is_none() {
                end = self.end()?;
            }
        }
        if self.header("content-length").is_none() {
            // Its chunks have come: what they carry takes their place.
            let body = whole(&self.answer)?.context("no end")?.1.into_owned();
            self.answer.splice(self.body_at.., body);
        }
        let (status, body) = (status(&self.answer)?, self.body());
        let shown = || String::from_utf8_lossy(body.get(..body.len().min(300)).unwrap_or_default());
        ensure!(status == ask.status, "status {status}: {}", shown());
        if let Some(wanted) = &ask.wanted {
            ensure!(**wanted == *body, "wrong answer of {} bytes: {:?}", body.len(), shown());
        }
        Ok(())
    }

    /// Where the answer ends, once that is known: with its head, or with its last chunk.
    fn end(&mut self) -> Result<Option<usize>> {
        let Some(at) = self.answer.windows(4).position(|part| part == b"\r\n\r\n") else {
            return Ok(None);
        };
        self.body_at = at + 4;
        let Some(length) = self.header("content-length") else {
            return Ok(whole(&self.answer)?.map(|_| self.answer.len()));
        };
        let length: usize = length.parse()?;
        self.answer.reserve(length);
        Ok(Some(self.body_at + length))
    }

    /// A header of the last answer; names are in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let head = std::str::from_utf8(self.answer.get(..self.body_at)?).ok()?;
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        self.answer.get(self.body_at..).unwrap_or_default()
    }
}

fn status(answer: &[u8]) -> Result<u16> {
    let digits = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).context("no status")
}

/// Every connection sends when its answer has come, until the time is over; at least once. Sorted
/// microseconds.
pub(crate) async fn closed(ask: &Ask, connections: usize, time: Duration) -> Result<Vec<u32>> {
    let end = Instant::now() + time;
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let ask = ask.clone();
            tokio::spawn(async move {
                let mut line = Line::open(ask.address).await?;
                let mut latencies = Vec::new();
                loop {
                    let sent = Instant::now();
                    line.exchange(&ask).await?;
                    latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                    if Instant::now() >= end {
                        return anyhow::Ok(latencies);
                    }
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(tokio::time::timeout(time + PATIENCE, task).await.context("no end")???);
    }
    all.sort_unstable();
    Ok(all)
}

/// Each request once, over so many connections; sorted latencies in microseconds, and what `look`
/// saw in the answers.
pub(crate) async fn each<T: Send + 'static>(
    asks: Vec<Ask>,
    connections: usize,
    look: fn(&Line) -> T,
) -> Result<(Vec<u32>, Vec<T>)> {
    let waiting = Arc::new(Mutex::new(asks.into_iter()));
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let waiting = Arc::clone(&waiting);
            let next = move || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            tokio::spawn(async move {
                let (mut line, mut latencies, mut seen) = (None, Vec::new(), Vec::new());
                while let Some(ask) = next() {
                    let open = match line.take() {
                        Some(open) => open,
                        None => Line::open(ask.address).await?,
                    };
                    let open = line.insert(open);
                    let sent = Instant::now();
                    open.ask(&ask).await?;
                    latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                    seen.push(look(open));
                }
                anyhow::Ok((latencies, seen))
            })
        })
        .collect();
    let (mut latencies, mut seen) = (Vec::new(), Vec::new());
    for task in tasks {
        let (more, looked) = task.await??;
        latencies.extend(more);
        seen.extend(looked);
    }
    latencies.sort_unstable();
    Ok((latencies, seen))
}

/// Sends `rate` requests a second, each when its time has come. Nanoseconds from that time to the
/// answer. Who is `awake` looks for answers without a pause, and needs a core for that.
pub(crate) async fn open(
    ask: &Ask,
    rate: f64,
    time: Duration,
    awake: bool,
) -> Result<Histogram<u64>> {
    let (pool, began) = (Arc::new(Mutex::new(Vec::<Line>::new())), Instant::now());
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut next = 0u64;
    while began.elapsed() < time {
        let due = (began.elapsed().as_secs_f64() * rate) as u64;
        while next <= due {
            let intended = began + Duration::from_secs_f64(next as f64 / rate);
            let (pool, ask, told) = (Arc::clone(&pool), ask.clone(), told.clone());
            tokio::spawn(async move {
                let done = pooled(&pool, &ask).await.map(|()| intended.elapsed());
                let _ = told.send(done);
            });
            next += 1;
        }
        match awake {
            true => tokio::task::yield_now().await,
            false => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    drop(told);
    let mut latencies = Histogram::new_with_bounds(1, 200_000_000_000, 3).context("a histogram")?;
    while let Some(done) = heard.recv().await {
        latencies.saturating_record(u64::try_from(done?.as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(latencies)
}

/// One request on a free connection, or on a new one.
async fn pooled(pool: &Mutex<Vec<Line>>, ask: &Ask) -> Result<()> {
    let free = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut line = match free {
        Some(line) => line,
        None => Line::open(ask.address).await?,
    };
    line.ask(ask).await?;
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    Ok(())
}
