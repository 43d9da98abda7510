//! A closed loop over keep-alive connections: each sends, waits for its answer, checks it, repeats.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What is asked for, and what must come back.
pub(crate) struct Job {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// More header lines, each with its end.
    pub(crate) head: String,
    pub(crate) body: &'static str,
    pub(crate) wanted: &'static str,
}

/// How long after the end of the load the last answers may come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Microseconds of each answered request.
pub(crate) type Latencies = Vec<u32>;

/// Loads for so long, and until each connection has had its last answer, which is one at least.
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
        all.extend(timeout(time + PATIENCE, task).await.context("no answer in time")???);
    }
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
        stream.write_all(&request).await?;
        let mut filled = 0;
        let body = loop {
            let free = buffer.get_mut(filled..).context("the answer is too long")?;
            let read = stream.read(free).await?;
            ensure!(read > 0, "the connection was closed");
            filled += read;
            if let Some((status, body)) = whole(buffer.get(..filled).unwrap_or_default())? {
                ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
                break body;
            }
        };
        ensure!(*body == *wanted.as_bytes(), "wrong answer {:?}", String::from_utf8_lossy(&body));
        latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
        if Instant::now() >= end {
            return Ok(latencies);
        }
    }
}

/// Status and body, when the whole answer is there. The body's length is told by `content-length`,
/// or by its chunks; an answer that ends with its connection is none that could be followed by
/// another.
pub(crate) fn whole(answer: &[u8]) -> Result<Option<(u16, Cow<'_, [u8]>)>> {
    let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let (head, rest) = answer.split_at(at);
    let rest = rest.get(4..).unwrap_or_default();
    let head = std::str::from_utf8(head)?;
    let status = head.get(9..12).context("no status")?.parse()?;
    let header = |wanted: &str| {
        let mut pairs = head.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Ok(chunks(rest)?.map(|body| (status, Cow::Owned(body))));
    }
    let length: usize = header("content-length").context("no content-length")?.parse()?;
    Ok(rest.get(..length).map(|body| (status, Cow::Borrowed(body))))
}

/// Bytes of one chunk that is believed.
const CHUNK_BYTES_MAX: usize = 1 << 30;

/// The body that chunks carry, when the last one is there with what follows it.
fn chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
        let (size, after) = rest.split_at(line);
        let size = std::str::from_utf8(size)?.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).context("no size of a chunk")?;
        ensure!(size <= CHUNK_BYTES_MAX, "a chunk of {size} bytes");
        let after = after.get(2..).unwrap_or_default();
        if size == 0 {
            // Trailers, if any, end as a head does: with an empty line.
            let ends = after.starts_with(b"\r\n") || after.windows(4).any(|w| w == b"\r\n\r\n");
            return Ok(ends.then_some(body));
        }
        let (Some(data), Some(next)) = (after.get(..size), after.get(size + 2..)) else {
            return Ok(None);
        };
        ensure!(after.get(size..size + 2) == Some(b"\r\n"), "a chunk is longer than it says");
        body.extend_from_slice(data);
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::whole;

    fn body(answer: &str) -> Option<(u16, String)> {
        let found = whole(answer.as_bytes()).ok()??;
        Some((found.0, String::from_utf8_lossy(&found.1).into_owned()))
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let hello = Some((200, "hello".to_owned()));
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), hello);
        assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhell"), None);
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n";
        for (end, wanted) in [("", None), ("\r\n", hello.clone()), ("a: b\r\n\r\n", hello)] {
            assert_eq!(body(&format!("{chunked}{end}")), wanted);
        }
        for cut in 0..chunked.len() {
            assert_eq!(body(chunked.get(..cut).unwrap_or_default()), None);
        }
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\nhello").is_err());
        let long = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nhello\r\n0\r\n\r\n";
        assert!(whole(long.as_bytes()).is_err());
    }
}
