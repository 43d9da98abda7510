//! A function's log: a bounded ring of entries that are formatted when read, not when written.
//!
//! Not a log store: what the ring no longer holds is gone. Followers wait with [`LogRing::changed`].

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::ids::RequestId;
use crate::invocation::Report;
use crate::limits::{LOG_RING_BYTES, LOG_RING_LINES, MIB};

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The guest's standard output.
    Stdout,
    /// The guest's standard error.
    Stderr,
    /// The platform.
    Platform,
}

impl Stream {
    /// The name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Platform => "platform",
        }
    }
}

/// One line, unformatted.
#[derive(Debug, Clone)]
pub enum LogLine {
    /// `START RequestId: … Version: …`
    Start {
        /// The version's label.
        version: Arc<str>,
    },
    /// What the guest wrote, without its newline.
    Output {
        /// Where it wrote it.
        stream: Stream,
        /// The text; invalid UTF-8 was replaced.
        text: Box<str>,
    },
    /// What the platform has to say about an invocation, such as an error.
    Note(Box<str>),
    /// `END RequestId: …`
    End,
    /// `REPORT RequestId: …`
    Report {
        /// What the invocation took.
        report: Report,
        /// The function's memory limit.
        memory_limit: u64,
    },
}

/// One entry of the ring.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// Position in the function's log, from 1 since the process started.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The invocation.
    pub id: RequestId,
    /// What was logged.
    pub line: LogLine,
}

impl LogEntry {
    /// Where it came from.
    #[must_use]
    pub fn stream(&self) -> Stream {
        match &self.line {
            LogLine::Output { stream, .. } => *stream,
            _ => Stream::Platform,
        }
    }

    /// The line as Lambda prints it.
    #[must_use]
    pub fn text(&self) -> String {
        self.line.text(self.id)
    }
}

impl LogLine {
    /// The line as Lambda prints it.
    #[must_use]
    pub fn text(&self, id: RequestId) -> String {
        match self {
            Self::Start { version } => format!("START RequestId: {id} Version: {version}"),
            Self::Output { text, .. } | Self::Note(text) => text.to_string(),
            Self::End => format!("END RequestId: {id}"),
            Self::Report { report, memory_limit } => report_text(id, report, *memory_limit),
        }
    }

    /// What an entry with this line takes in memory.
    fn bytes(&self) -> usize {
        size_of::<LogEntry>()
            + match self {
                Self::Output { text, .. } | Self::Note(text) => text.len(),
                _ => 0,
            }
    }
}

fn report_text(id: RequestId, report: &Report, memory_limit: u64) -> String {
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let billed = (report.duration + report.init.unwrap_or_default()).as_micros().div_ceil(1_000);
    let init = report.init.map(|d| format!("\tInit Duration: {:.2} ms", ms(d))).unwrap_or_default();
    let (limit, used) = (memory_limit as f64 / MIB as f64, report.memory_bytes.div_ceil(MIB));
    format!(
        "REPORT RequestId: {id}\tDuration: {:.2} ms\tBilled Duration: {billed} ms\tMemory Size: {limit} MB\tMax Memory Used: {used} MB{init}\tCPU Time: {:.2} ms\tStart: {}",
        ms(report.duration),
        ms(report.cpu),
        report.start.as_str(),
    )
}

/// The last lines of one function.
#[derive(Debug, Default)]
pub struct LogRing(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<LogEntry>,
    bytes: usize,
    last_seq: u64,
    followers: Vec<Waker>,
}

impl LogRing {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends lines of one invocation, dropping the oldest ones that no longer fit.
    pub fn push(&self, id: RequestId, unix_ms: u64, lines: impl IntoIterator<Item = LogLine>) {
        let mut ring = self.lock();
        for line in lines {
            ring.last_seq += 1;
            ring.bytes += line.bytes();
            let seq = ring.last_seq;
            ring.entries.push_back(LogEntry { seq, unix_ms, id, line });
        }
        while ring.entries.len() > LOG_RING_LINES || ring.bytes > LOG_RING_BYTES {
            let Some(oldest) = ring.entries.pop_front() else {
                break;
            };
            ring.bytes -= oldest.line.bytes();
        }
        for follower in ring.followers.drain(..) {
            follower.wake();
        }
    }

    /// Entries after `seq` that were logged at `since_ms` or later, oldest first, `limit` at most.
    #[must_use]
    pub fn read(&self, seq: u64, since_ms: u64, limit: usize) -> Vec<LogEntry> {
        let ring = self.lock();
        let wanted = |e: &&LogEntry| e.seq > seq && e.unix_ms >= since_ms;
        ring.entries.iter().filter(wanted).take(limit).cloned().collect()
    }

    /// Waits until there is an entry after `seq`.
    pub async fn changed(&self, seq: u64) {
        poll_fn(|cx| {
            let mut ring = self.lock();
            if ring.last_seq > seq {
                return Poll::Ready(());
            }
            if !ring.followers.iter().any(|w| w.will_wake(cx.waker())) {
                ring.followers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::StartKind;
    use std::time::Duration;

    fn line(text: &str) -> LogLine {
        LogLine::Output { stream: Stream::Stdout, text: text.into() }
    }

    #[test]
    fn the_ring_is_bounded_in_lines_and_bytes() {
        let ring = LogRing::default();
        let id = RequestId::random();
        for n in 0..LOG_RING_LINES + 10 {
            ring.push(id, 0, [line(&n.to_string())]);
        }
        let kept = ring.read(0, 0, usize::MAX);
        assert_eq!((kept.len(), kept[0].text().as_str()), (LOG_RING_LINES, "10"));
        ring.push(id, 0, [line(&"x".repeat(LOG_RING_BYTES)), line("last")]);
        assert_eq!(ring.read(0, 0, usize::MAX).len(), 1);
    }

    #[test]
    fn reading_starts_after_a_sequence_number_and_a_time() {
        let ring = LogRing::default();
        let id = RequestId::random();
        ring.push(id, 10, [line("a")]);
        ring.push(id, 20, [line("b"), line("c")]);
        let texts = |v: Vec<LogEntry>| v.iter().map(LogEntry::text).collect::<Vec<_>>();
        assert_eq!(texts(ring.read(2, 0, 9)), ["c"]);
        assert_eq!(texts(ring.read(0, 20, 9)), ["b", "c"]);
        assert_eq!(texts(ring.read(0, 0, 1)), ["a"]);
    }

    #[test]
    fn report_lines_look_like_lambdas() {
        let report = Report {
            duration: Duration::from_micros(1_234),
            init: Some(Duration::from_micros(500)),
            cpu: Duration::from_micros(900),
            memory_bytes: 3 * MIB + 1,
            start: StartKind::Cold,
        };
        let text = LogLine::Report { report, memory_limit: 128 * MIB }.text(RequestId::random());
        let wanted = "\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 4 MB\tInit Duration: 0.50 ms\tCPU Time: 0.90 ms\tStart: cold";
        assert!(text.starts_with("REPORT RequestId: ") && text.ends_with(wanted), "{text}");
    }
}
