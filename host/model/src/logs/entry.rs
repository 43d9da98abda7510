//! What a log consists of, and how it reads: lines, and all that the platform says of an invocation.

use std::sync::Arc;

use crate::ids::RequestId;
use crate::invocation::Report;
use crate::limits::MIB;

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
        /// The text; invalid UTF-8 was replaced. Shared, because the ring is locked while it is
        /// read.
        text: Arc<str>,
    },
    /// What the platform has to say about an invocation, such as an error.
    Note(Arc<str>),
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
    /// The log stream: that of the version that ran.
    pub log_stream: Arc<str>,
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
    /// Bytes of what a function wrote, or the platform had to say of it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Output { text, .. } | Self::Note(text) => text.len(),
            _ => 0,
        }
    }

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
}

/// How an invocation ended, for its last lines.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The version's label, when nothing was logged before: the first line is still missing then.
    pub start: Option<Arc<str>>,
    /// What the invocation took.
    pub report: Report,
    /// The function's memory limit.
    pub memory_limit: u64,
}

/// What the ring holds: a line, or all that the platform says of an invocation, which most consist of.
#[derive(Debug)]
pub(super) enum Held {
    Line(LogLine),
    Ending(Ending),
}

/// Lines of one invocation that were logged together.
#[derive(Debug)]
pub(super) struct Record {
    /// Of its first line.
    pub(super) seq: u64,
    pub(super) unix_ms: u64,
    pub(super) id: RequestId,
    pub(super) log_stream: Arc<str>,
    pub(super) held: Held,
}

impl Record {
    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let text = match &self.held {
            Held::Line(line) => line.bytes(),
            Held::Ending(_) => 0,
        };
        size_of::<Self>() + text
    }

    /// How many lines it has.
    pub(super) fn count(&self) -> u64 {
        match &self.held {
            Held::Line(_) => 1,
            Held::Ending(ending) => 2 + u64::from(ending.start.is_some()),
        }
    }

    /// Its lines, oldest first.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = LogEntry> {
        let lines = match &self.held {
            Held::Line(line) => [None, None, Some(line.clone())],
            Held::Ending(Ending { start, report, memory_limit }) => {
                let start = start.clone().map(|version| LogLine::Start { version });
                let (report, memory_limit) = (*report, *memory_limit);
                [start, Some(LogLine::End), Some(LogLine::Report { report, memory_limit })]
            }
        };
        let next = self.seq + self.count();
        let entry = move |(back, line): (u64, Option<LogLine>)| {
            let (seq, log_stream) = (next - back, Arc::clone(&self.log_stream));
            line.map(|line| LogEntry { seq, unix_ms: self.unix_ms, id: self.id, log_stream, line })
        };
        let [a, b, c] = lines;
        [(3, a), (2, b), (1, c)].into_iter().filter(|(_, line)| line.is_some()).filter_map(entry)
    }
}

fn report_text(id: RequestId, report: &Report, memory_limit: u64) -> String {
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let billed = (report.duration + report.init.unwrap_or_default()).as_micros().div_ceil(1_000);
    let init = report.init.map(|d| format!("\tInit Duration: {:.2} ms", ms(d))).unwrap_or_default();
    let (limit, used) = (memory_limit as f64 / MIB as f64, report.memory_bytes.div_ceil(MIB));
    let report_start = format!("REPORT RequestId: {id}\tDuration: {:.2} ms", ms(report.duration));
    let (cpu, start) = (ms(report.cpu), report.start.as_str());
    format!(
        "{report_start}\tBilled Duration: {billed} ms\tMemory Size: {limit} MB\t\
         Max Memory Used: {used} MB{init}\tCPU Time: {cpu:.2} ms\tStart: {start}"
    )
}
