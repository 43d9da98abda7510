//! Looks at the threads that answer: a poll that holds one of them holds up everybody else's
//! requests there. What is seen at two looks or more is measured, by the thread's CPU time: a busy
//! machine makes no poll long.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use wambda_api::Surface;
use wambda_model::Metrics;
use wambda_model::limits::{EPOCH_TICK, POLL_CPU_MAX};
use wambda_model::polls::{Desk, Kind, Stretch, desks};

/// Looks without anything new, after which they become rare.
const QUIET_LOOKS: u32 = 200;
/// Pause between them then.
const QUIET_PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a thread's figures: three numbers.
const FIGURES_BYTES: usize = 96;

/// What a thread was doing at the last look.
struct Seen {
    stretch: Stretch,
    /// CPU time of the thread when this was first seen.
    first: Option<Duration>,
    /// The same at the last look, when that was another one.
    last: Option<Duration>,
    is_told: bool,
    figures: Option<File>,
}

impl Seen {
    fn new(desk: &Desk) -> Self {
        // Of this very process: the second wall lets nothing else be read.
        let figures = File::open(format!("/proc/self/task/{}/schedstat", desk.thread()));
        let figures = figures.inspect_err(|error| tracing::debug!(%error, "no thread's CPU time"));
        Self { stretch: desk.now(), first: None, last: None, is_told: false, figures: figures.ok() }
    }

    /// CPU time of the thread, without what it has had since the kernel last looked (proc(5),
    /// `schedstat`).
    fn thread_cpu(&self) -> Option<Duration> {
        let mut text = [0; FIGURES_BYTES];
        let read = self.figures.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..read)?).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    }

    fn took(&self) -> Option<Duration> {
        Some(self.last?.saturating_sub(self.first?))
    }

    /// Looks again. Whether the thread does something, or has done something since the last look.
    fn look(&mut self, desk: &Desk, metrics: &Metrics) -> bool {
        let now = desk.now();
        let is_new = now != self.stretch;
        if is_new {
            if let (Some(kind), Some(took)) = (self.stretch.kind(), self.took()) {
                metrics.poll_seconds(kind).observe(took.as_secs_f64());
            }
            (self.stretch, self.first, self.last, self.is_told) = (now, None, None, false);
        }
        let Some(kind) = now.kind() else { return is_new };
        let cpu = self.thread_cpu();
        match self.first {
            None => self.first = cpu,
            Some(_) => self.last = cpu,
        }
        let took = self.took().unwrap_or_default();
        if kind == Kind::Host && took > POLL_CPU_MAX && !self.is_told {
            self.is_told = true;
            metrics.long_polls.inc();
            let surface = Surface::name_of(desk.about());
            let ms = took.as_millis();
            tracing::warn!(surface, ms, "a thread that answers is held by one piece of work");
        }
        true
    }
}

/// Starts the thread that looks. It ends with the server.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn watch(metrics: &Arc<Metrics>) -> std::io::Result<()> {
    let metrics = Arc::downgrade(metrics);
    std::thread::Builder::new()
        .name("wambda-polls".into())
        .spawn(move || look_on(&metrics))
        .map(drop)
}

fn look_on(metrics: &Weak<Metrics>) {
    let mut seen: HashMap<i32, Seen> = HashMap::new();
    let mut quiet = 0;
    while let Some(metrics) = metrics.upgrade() {
        let mut is_new = false;
        for desk in desks() {
            let before = seen.entry(desk.thread()).or_insert_with(|| Seen::new(&desk));
            is_new |= before.look(&desk, &metrics);
        }
        drop(metrics);
        quiet = if is_new { 0 } else { (quiet + 1).min(QUIET_LOOKS) };
        std::thread::sleep(if quiet < QUIET_LOOKS { EPOCH_TICK } else { QUIET_PAUSE });
    }
}

#[cfg(test)]
mod tests {
    use wambda_model::{clock, polls};

    use super::*;

    /// Has a core for so long.
    fn compute(time: Duration) {
        let began = clock::thread_cpu();
        while clock::thread_cpu().saturating_sub(began) < time {}
    }

    #[test]
    fn what_holds_a_thread_is_measured_and_told_of() {
        let metrics = Metrics::new("test").unwrap();
        watch(&metrics).unwrap();
        let long = POLL_CPU_MAX * 6;
        // What waits holds a thread as well, but that is nobody's bytes' doing: a busy machine
        // looks the same.
        let waits = polls::connection();
        std::thread::sleep(long);
        drop(waits);
        let poll = polls::connection();
        let within = polls::guest();
        compute(long);
        drop(within);
        compute(long);
        drop(poll);
        let count = |kind| metrics.poll_seconds(kind).get_sample_count();
        // It is told of while it lasts, and measured when it is over.
        let until = clock::now() + Duration::from_secs(10);
        while (count(Kind::Host) < 2 || count(Kind::Guest) < 1) && clock::now() < until {
            std::thread::sleep(EPOCH_TICK);
        }
        assert_eq!(metrics.long_polls.get(), 1, "the server's own work, once");
        for kind in [Kind::Host, Kind::Guest] {
            let seconds = metrics.poll_seconds(kind).get_sample_sum();
            let most = (long * 2).as_secs_f64();
            assert!((POLL_CPU_MAX.as_secs_f64()..most).contains(&seconds), "{kind:?} {seconds}");
        }
    }
}
