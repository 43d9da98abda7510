//! A function's log: a bounded ring of entries that are formatted when read, not when written.
//!
//! Not a log store: what the ring no longer holds is gone. Followers wait with [`LogRing::changed`].

mod entry;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::ids::RequestId;
use crate::limits::{LOG_RING_BYTES, LOG_RING_LINES};

pub use entry::{Ending, LogEntry, LogLine, Stream};
use entry::{Held, Record};

/// What the logs of all functions may take in memory together.
#[derive(Debug)]
pub struct LogRoom {
    limit: usize,
    /// Rings that hold something.
    rings: AtomicUsize,
}

impl LogRoom {
    /// Room for `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Arc::new(Self { limit, rings: AtomicUsize::new(0) })
    }

    /// Bytes that all rings may hold.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit as u64
    }

    /// Bytes that each ring may hold.
    #[must_use]
    pub fn each(&self) -> usize {
        (self.limit / self.rings.load(Relaxed).max(1)).min(LOG_RING_BYTES)
    }
}

/// The last lines of one function.
#[derive(Debug)]
pub struct LogRing {
    ring: Mutex<Ring>,
    room: Arc<LogRoom>,
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Record>,
    lines: u64,
    bytes: usize,
    last_seq: u64,
    followers: BTreeMap<u64, Waker>,
    next_follower: u64,
}

impl Ring {
    /// Appends what is held of an invocation.
    fn push(&mut self, id: RequestId, unix_ms: u64, log_stream: Arc<str>, held: Held) {
        let record = Record { seq: self.last_seq + 1, unix_ms, id, log_stream, held };
        let count = record.count();
        self.last_seq += count;
        self.lines += count;
        self.bytes += record.bytes();
        self.records.push_back(record);
    }

    /// Drops the oldest lines until there are `bytes` at most.
    fn trim(&mut self, bytes: usize) {
        while self.lines > LOG_RING_LINES as u64 || self.bytes > bytes {
            let Some(oldest) = self.records.pop_front() else {
                break;
            };
            self.lines -= oldest.count();
            self.bytes -= oldest.bytes();
        }
    }
}

impl Drop for LogRing {
    fn drop(&mut self) {
        self.clear();
    }
}

impl LogRing {
    /// An empty one.
    #[must_use]
    pub fn new(room: &Arc<LogRoom>) -> Self {
        Self { ring: Mutex::default(), room: Arc::clone(room) }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what is not its own any more, since others log as well.
    pub fn trim(&self) {
        let mut ring = self.lock();
        let was_empty = ring.records.is_empty();
        ring.trim(self.room.each());
        self.count(was_empty, &ring);
        if ring.records.capacity() > ring.records.len() * 2 {
            ring.records.shrink_to_fit();
        }
    }

    /// Bytes of what it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Appends lines of one invocation, dropping the oldest ones that no longer fit.
    pub fn push(
        &self,
        id: RequestId,
        unix_ms: u64,
        log_stream: &Arc<str>,
        lines: impl IntoIterator<Item = LogLine>,
    ) {
        self.append(|ring| {
            for line in lines {
                ring.push(id, unix_ms, Arc::clone(log_stream), Held::Line(line));
            }
        });
    }

    /// Appends the last lines of one invocation, as [`Self::push`] does.
    pub fn end(&self, id: RequestId, unix_ms: u64, log_stream: &Arc<str>, ending: Ending) {
        self.append(|ring| ring.push(id, unix_ms, Arc::clone(log_stream), Held::Ending(ending)));
    }

    fn append(&self, add: impl FnOnce(&mut Ring)) {
        let mut ring = self.lock();
        let was_empty = ring.records.is_empty();
        add(&mut ring);
        ring.trim(self.room.each());
        self.count(was_empty, &ring);
        if !ring.followers.is_empty() {
            for (_, follower) in std::mem::take(&mut ring.followers) {
                follower.wake();
            }
        }
    }

    /// Whether it holds something counts.
    fn count(&self, was_empty: bool, ring: &Ring) {
        match (was_empty, ring.records.is_empty()) {
            (true, false) => drop(self.room.rings.fetch_add(1, Relaxed)),
            (false, true) => drop(self.room.rings.fetch_sub(1, Relaxed)),
            _ => {}
        }
    }

    /// As [`Self::read`], but no more of them than have `bytes` of text; one in any case.
    #[must_use]
    pub fn page(&self, seq: u64, since_ms: u64, limit: usize, bytes: usize) -> Vec<LogEntry> {
        let mut page = self.read(seq, since_ms, limit);
        let mut size = 0;
        let mut fits = |entry: &LogEntry| {
            size += entry.line.bytes();
            size <= bytes
        };
        let count = page.iter().position(|entry| !fits(entry)).unwrap_or(page.len());
        page.truncate(count.max(1));
        page
    }

    /// Entries after `seq` that were logged at `since_ms` or later, oldest first, `limit` at most.
    #[must_use]
    pub fn read(&self, seq: u64, since_ms: u64, limit: usize) -> Vec<LogEntry> {
        let ring = self.lock();
        let wanted =
            |record: &&Record| record.seq + record.count() - 1 > seq && record.unix_ms >= since_ms;
        let entries = ring.records.iter().filter(wanted).flat_map(Record::entries);
        entries.filter(|entry| entry.seq > seq).take(limit).collect()
    }

    /// The last lines of one invocation, `bytes` at most, as Lambda returns them.
    #[must_use]
    pub fn tail(&self, id: RequestId, bytes: usize) -> Vec<u8> {
        let ring = self.lock();
        let mut lines: Vec<String> = Vec::new();
        let mut size = 0;
        let own = ring.records.iter().rev().filter(|record| record.id == id);
        for entry in own.flat_map(|record| record.entries().rev()) {
            let line = entry.text();
            size += line.len() + 1;
            lines.push(line);
            if size >= bytes || matches!(entry.line, LogLine::Start { .. }) {
                break;
            }
        }
        drop(ring);
        let mut tail = Vec::with_capacity(size);
        for line in lines.into_iter().rev() {
            tail.extend_from_slice(line.as_bytes());
            tail.push(b'\n');
        }
        tail.drain(..tail.len().saturating_sub(bytes));
        tail
    }

    /// Forgets every entry.
    pub fn clear(&self) {
        let mut ring = self.lock();
        let was_empty = ring.records.is_empty();
        ring.records = VecDeque::new();
        (ring.lines, ring.bytes) = (0, 0);
        self.count(was_empty, &ring);
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().records.is_empty()
    }

    /// Waits until there is an entry after `seq`.
    pub async fn changed(&self, seq: u64) {
        let mut place = Place { ring: self, id: None };
        poll_fn(|cx| {
            let mut ring = self.lock();
            if ring.last_seq > seq {
                return Poll::Ready(());
            }
            let id = *place.id.get_or_insert_with(|| {
                ring.next_follower += 1;
                ring.next_follower
            });
            ring.followers.insert(id, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A follower's place, given up when it leaves.
struct Place<'a> {
    ring: &'a LogRing,
    id: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.ring.lock().followers.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::Report;
    use crate::invocation::StartKind;
    use crate::limits::MIB;
    use std::time::Duration;

    const REPORT: Report = Report {
        duration: Duration::from_micros(1_234),
        init: Some(Duration::from_micros(500)),
        cpu: Duration::from_micros(900),
        memory_bytes: 3 * MIB + 1,
        start: StartKind::Cold,
    };

    fn line(text: &str) -> LogLine {
        LogLine::Output { stream: Stream::Stdout, text: text.into() }
    }

    #[test]
    fn the_ring_is_bounded_in_lines_and_bytes() {
        let ring = LogRing::new(&LogRoom::new(1 << 30));
        let id = RequestId::random();
        for n in 0..LOG_RING_LINES + 10 {
            ring.push(id, 0, &"1".into(), [line(&n.to_string())]);
        }
        let kept = ring.read(0, 0, usize::MAX);
        assert_eq!((kept.len(), kept[0].text().as_str()), (LOG_RING_LINES, "10"));
        ring.push(id, 0, &"1".into(), [line(&"x".repeat(LOG_RING_BYTES)), line("last")]);
        assert_eq!(ring.read(0, 0, usize::MAX).len(), 1);
    }

    #[test]
    fn what_is_held_together_is_read_line_by_line() {
        let ring = LogRing::new(&LogRoom::new(1 << 30));
        let (quiet, loud) = (RequestId::random(), RequestId::random());
        let ending = |start: Option<&str>| Ending {
            start: start.map(Into::into),
            report: REPORT,
            memory_limit: MIB,
        };
        ring.end(quiet, 10, &"s".into(), ending(Some("7")));
        ring.push(loud, 20, &"s".into(), [LogLine::Start { version: "7".into() }, line("a")]);
        ring.end(loud, 30, &"s".into(), ending(None));
        let seen = |seq, since, limit| {
            let entries = ring.read(seq, since, limit);
            let first = |e: &LogEntry| e.text().split(' ').next().unwrap().to_owned();
            entries.iter().map(|e| (e.seq, first(e))).collect::<Vec<_>>()
        };
        let all = ["START", "END", "REPORT", "START", "a", "END", "REPORT"];
        let all: Vec<_> = (1..).zip(all.map(str::to_owned)).collect();
        assert_eq!(seen(0, 0, 99), all);
        for seq in 0..=7 {
            assert_eq!(
                seen(seq, 0, 2),
                all[seq as usize..].iter().take(2).cloned().collect::<Vec<_>>()
            );
        }
        assert_eq!(seen(0, 11, 99), all[3..]);
        for (id, lines) in [(quiet, 3), (loud, 4)] {
            let tail = String::from_utf8(ring.tail(id, 10_000)).unwrap();
            assert!(tail.starts_with("START") && tail.lines().count() == lines, "{tail}");
        }
        for _ in 0..LOG_RING_LINES {
            ring.end(quiet, 40, &"s".into(), ending(Some("7")));
        }
        let kept = ring.read(0, 0, usize::MAX).len();
        assert!((LOG_RING_LINES - 3..=LOG_RING_LINES).contains(&kept), "{kept}");
    }

    #[test]
    fn rings_share_the_room_of_all() {
        let room = LogRoom::new(1 << 20);
        let rings: Vec<LogRing> = (0..8).map(|_| LogRing::new(&room)).collect();
        let fill = |ring: &LogRing| {
            let lines = (0..200).map(|n| line(&format!("{n:04096}")));
            ring.push(RequestId::random(), 0, &"1".into(), lines);
        };
        let held = || rings.iter().map(|ring| ring.lock().bytes).sum::<usize>();
        assert_eq!(room.each(), 1 << 20);
        rings.iter().for_each(fill);
        assert_eq!(room.each(), 1 << 17);
        rings.iter().for_each(LogRing::trim);
        assert!((900_000..=1 << 20).contains(&held()), "{}", held());
        // The newest are kept, and there is room again when others are gone.
        assert!(rings[0].read(0, 0, 999).last().unwrap().text().ends_with("0199"));
        rings[1..].iter().for_each(LogRing::clear);
        fill(&rings[0]);
        assert!(held() > 800_000 && room.each() == 1 << 20, "{}", held());
        drop(rings);
        assert_eq!(room.rings.load(Relaxed), 0);
    }

    #[test]
    fn a_tail_is_of_one_invocation_and_bounded() {
        let ring = LogRing::new(&LogRoom::new(1 << 30));
        let (one, other) = (RequestId::random(), RequestId::random());
        ring.push(one, 0, &"1".into(), [LogLine::Start { version: "$LATEST".into() }, line("a")]);
        ring.push(other, 0, &"1".into(), [line("b")]);
        ring.push(one, 0, &"1".into(), [line("c")]);
        let whole = String::from_utf8(ring.tail(one, 1_000)).unwrap();
        assert!(whole.starts_with("START") && whole.ends_with("\na\nc\n"), "{whole}");
        assert_eq!(ring.tail(one, 3), b"\nc\n");
        assert!(ring.tail(RequestId::random(), 10).is_empty());
    }

    #[test]
    fn followers_that_leave_leave_nothing_behind() {
        use std::future::Future;
        use std::pin::pin;
        use std::task::Context;
        let ring = LogRing::new(&LogRoom::new(1 << 30));
        for _ in 0..3 {
            let mut waiting = pin!(ring.changed(0));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            assert_eq!(ring.lock().followers.len(), 1);
        }
        assert!(ring.lock().followers.is_empty());
    }

    #[test]
    fn reading_starts_after_a_sequence_number_and_a_time() {
        let ring = LogRing::new(&LogRoom::new(1 << 30));
        let id = RequestId::random();
        ring.push(id, 10, &"1".into(), [line("a")]);
        ring.push(id, 20, &"1".into(), [line("b"), line("c")]);
        let texts = |v: Vec<LogEntry>| v.iter().map(LogEntry::text).collect::<Vec<_>>();
        assert_eq!(texts(ring.read(2, 0, 9)), ["c"]);
        assert_eq!(texts(ring.read(0, 20, 9)), ["b", "c"]);
        assert_eq!(texts(ring.read(0, 0, 1)), ["a"]);
    }

    #[test]
    fn report_lines_look_like_lambdas() {
        let text =
            LogLine::Report { report: REPORT, memory_limit: 128 * MIB }.text(RequestId::random());
        let wanted = "\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\t\
                      Max Memory Used: 4 MB\tInit Duration: 0.50 ms\tCPU Time: 0.90 ms\t\
                      Start: cold";
        assert!(text.starts_with("REPORT RequestId: ") && text.ends_with(wanted), "{text}");
    }
}
