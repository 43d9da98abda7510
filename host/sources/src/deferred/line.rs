//! One function's events that are leased and have not begun, its workers, and what its events have cost.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Leased;
use super::fair::Record;
use wambda_model::FunctionName;

/// Longest time that a leased event waits for a worker; then it is given back, as if it had not been
/// leased.
pub(super) const BUFFER_AGE: Duration = Duration::from_secs(5);
/// Seconds of work that are leased ahead: some commits' worth.
const AHEAD_S: f64 = 0.05;

/// The part of one function's qualifier in it.
pub(super) struct Line {
    pub(super) name: FunctionName,
    pub(super) qualifier: Option<String>,
    pub(super) queue: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buffer: VecDeque<(Leased, Instant)>,
    workers: u32,
    record: Record,
    spent_ns: u64,
}

impl Line {
    pub(super) fn new((name, qualifier): (FunctionName, Option<String>), queue: String) -> Self {
        Self { name, qualifier, queue, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody works here, and nothing waits to be worked on.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.workers == 0 && state.buffer.is_empty()
    }

    pub(super) fn has_buffered(&self) -> bool {
        !self.lock().buffer.is_empty()
    }

    pub(super) fn buffered(&self) -> usize {
        self.lock().buffer.len()
    }

    /// Whether nobody works here for want of room.
    pub(super) fn is_starving(&self) -> bool {
        self.lock().workers == 0
    }

    pub(super) fn record(&self) -> Record {
        self.lock().record
    }

    /// CPU time since the last call, in nanoseconds.
    pub(super) fn take_spent(&self) -> u64 {
        std::mem::take(&mut self.lock().spent_ns)
    }

    /// How many events to lease, when so many more could begin now.
    pub(super) fn wish(&self, room: u32) -> u32 {
        let state = self.lock();
        let hands = state.workers.saturating_add(room);
        let hands = hands.min(state.record.brake(hands.max(1)));
        // Short events: as many as the hands get through until there is more. Long ones: one a hand.
        let each = match state.record.seconds() {
            Some(seconds) if seconds < AHEAD_S => (AHEAD_S / seconds.max(1e-5)).ceil(),
            _ => 1.0,
        };
        let ahead = if each > 1.0 { f64::from(hands) * each } else { f64::from(room.min(hands)) };
        let buffered = u32::try_from(state.buffer.len()).unwrap_or(u32::MAX);
        // Not for every event that is taken out.
        if each > 1.0 && f64::from(buffered) * 2.0 > ahead {
            return 0;
        }
        (ahead as u32).saturating_sub(buffered)
    }

    /// Takes leased events in.
    pub(super) fn put(&self, message: Leased, now: Instant) {
        self.lock().buffer.push_back((message, now));
    }

    /// Puts an event back that could not begin.
    pub(super) fn put_back(&self, message: Leased, since: Instant) {
        self.lock().buffer.push_front((message, since));
    }

    /// The next event, and whether little is left behind it.
    pub(super) fn next(&self) -> Option<(Leased, Instant, bool)> {
        let mut state = self.lock();
        let (message, since) = state.buffer.pop_front()?;
        let low = state.buffer.len() <= state.workers as usize;
        Some((message, since, low))
    }

    /// Events that have waited at least so long.
    pub(super) fn take_old(&self, age: Duration, now: Instant) -> Vec<Leased> {
        let mut state = self.lock();
        let old = |since: &Instant| now.saturating_duration_since(*since) >= age;
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            state.buffer.drain(..).partition(|(_, since)| old(since));
        state.buffer = kept;
        gone.into_iter().map(|(message, _)| message).collect()
    }

    /// How many workers to add when so many more could begin; they count as working from now on.
    pub(super) fn hire(&self, room: u32) -> u32 {
        let mut state = self.lock();
        let buffered = u32::try_from(state.buffer.len()).unwrap_or(u32::MAX);
        let most = state.record.brake(state.workers.saturating_add(room).max(1));
        let more = most.saturating_sub(state.workers).min(buffered).min(room);
        state.workers += more;
        more
    }

    /// Whether a worker is one too many, for a function that mostly fails.
    pub(super) fn is_crowded(&self) -> bool {
        let state = self.lock();
        state.workers > 1 && state.record.brake(state.workers) < state.workers
    }

    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.workers = state.workers.saturating_sub(1);
    }

    /// Adds an event that ran.
    pub(super) fn note(&self, cpu_ns: u64, seconds: f64, failed: bool) {
        let mut state = self.lock();
        state.record.note(cpu_ns, seconds, failed);
        state.spent_ns = state.spent_ns.saturating_add(cpu_ns);
    }
}
