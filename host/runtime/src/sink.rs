//! Where a guest's standard output and error go: line by line into the function's log, up to the
//! limit of one invocation; or, for a command's standard output, into its result.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wambda_model::limits::{LOG_LINE_BYTES_MAX, LOG_WRITE_BYTES_MAX};
use wambda_model::{Ending, LogLine, Report, RequestId, Stream, Version, clock};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// The output of one instance, invocation after invocation.
#[derive(Debug)]
pub(crate) struct Sink {
    version: Arc<Version>,
    /// The invocation that output belongs to.
    current: Mutex<Option<Current>>,
}

/// The invocation that output belongs to.
#[derive(Debug)]
struct Current {
    id: RequestId,
    started: bool,
    left: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Standard output as a result, and whether it exceeded its limit.
    reply: Option<(Vec<u8>, bool)>,
}

impl Sink {
    /// Of an instance of `version`; what is written belongs to nobody yet.
    pub(crate) fn new(version: &Arc<Version>) -> Arc<Self> {
        Arc::new(Self { version: Arc::clone(version), current: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Output from now on belongs to this invocation. `capture` makes standard output the result.
    pub(crate) fn begin(&self, id: RequestId, capture: bool) {
        *self.lock() = Some(Current {
            id,
            started: false,
            left: self.version.config.log_bytes,
            stdout: Vec::new(),
            stderr: Vec::new(),
            reply: capture.then(|| (Vec::new(), false)),
        });
    }

    /// A command's result so far, or none when it exceeded the payload limit.
    pub(crate) fn take_reply(&self) -> Option<Bytes> {
        let (bytes, exceeded) = self.lock().as_mut()?.reply.take()?;
        (!exceeded).then(|| bytes.into())
    }

    /// The invocation was over at `ended`: logs its end.
    pub(crate) fn end(&self, note: Option<String>, report: Report, ended: Instant) {
        let Some(mut current) = self.lock().take() else { return };
        let mut lines = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(current.buffer(stream));
            if !rest.is_empty() {
                lines.push(output(stream, &rest));
            }
        }
        lines.extend(note.map(|text| LogLine::Note(text.into())));
        let unix_ms = clock::wall_ms(ended);
        current.log(&self.version, lines, unix_ms);
        let version = &self.version;
        let start = (!current.started).then(|| Arc::clone(&version.label));
        let ending = Ending { start, report, memory_limit: version.config.memory_bytes };
        version.logs.end(current.id, unix_ms, &version.log_stream, ending);
    }

    /// Output of the present invocation; nobody's, when there is none.
    pub(crate) fn write(&self, stream: Stream, bytes: &[u8]) {
        if let Some(current) = self.lock().as_mut() {
            current.write(&self.version, stream, bytes);
        }
    }
}

fn output(stream: Stream, line: &[u8]) -> LogLine {
    LogLine::Output { stream, text: String::from_utf8_lossy(line).into() }
}

impl Current {
    fn buffer(&mut self, stream: Stream) -> &mut Vec<u8> {
        if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr }
    }

    fn write(&mut self, version: &Version, stream: Stream, bytes: &[u8]) {
        if let (Stream::Stdout, Some((reply, exceeded))) = (stream, self.reply.as_mut()) {
            let limit = version.config.payload_bytes;
            *exceeded |= (reply.len() + bytes.len()) as u64 > limit;
            if !*exceeded {
                reply.extend_from_slice(bytes);
            }
            return;
        }
        if self.left == 0 {
            return;
        }
        let take = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let (mut rest, _) = bytes.split_at(take);
        self.left -= take as u64;
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let buffer = self.buffer(stream);
            let room = LOG_LINE_BYTES_MAX - buffer.len();
            let at = rest.iter().take(room).position(|b| *b == b'\n');
            let (head, after) = rest.split_at(at.unwrap_or(room.min(rest.len())));
            buffer.extend_from_slice(head);
            if at.is_some() || buffer.len() >= LOG_LINE_BYTES_MAX {
                lines.push(output(stream, &std::mem::take(buffer)));
            }
            rest = if at.is_some() { after.split_at(1).1 } else { after };
        }
        if self.left == 0 {
            let limit = version.config.log_bytes;
            let text = format!("[log output truncated: this invocation's limit is {limit} bytes]");
            lines.push(LogLine::Note(text.into()));
        }
        self.log(version, lines, clock::wall_ms(clock::now()));
    }

    fn log(&mut self, version: &Version, lines: Vec<LogLine>, unix_ms: u64) {
        if lines.is_empty() {
            return;
        }
        let start = (!self.started).then(|| LogLine::Start { version: Arc::clone(&version.label) });
        self.started = true;
        let lines = start.into_iter().chain(lines);
        version.logs.push(self.id, unix_ms, &version.log_stream, lines);
    }
}

/// One of the two streams, as WASI sees it: always ready, never full, never failing.
#[derive(Debug, Clone)]
pub(crate) struct SinkStream {
    pub(crate) sink: Arc<Sink>,
    pub(crate) stream: Stream,
}

impl IsTerminal for SinkStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for SinkStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for SinkStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.sink.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LOG_WRITE_BYTES_MAX)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for SinkStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for SinkStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let taken = bytes.get(..bytes.len().min(LOG_WRITE_BYTES_MAX)).unwrap_or_default();
        self.sink.write(self.stream, taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
