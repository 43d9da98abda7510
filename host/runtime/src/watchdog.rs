//! Notices guests whose poll does not come back. The epoch ends what a guest computes; it does not end one
//! bulk operation, nor a host function that hangs. The thread is lost until it comes back, and so is the
//! guest's deadline: nothing can be done about it from outside but to tell, with the function's name.

use std::collections::HashMap;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use wambda_model::clock;

use crate::executor::Inner;
use crate::meter::since_origin;

/// What a thread runs now.
#[derive(Debug, Default)]
struct Desk {
    /// When its guest's poll began, in nanoseconds since the process began; 0 while it runs none.
    since: AtomicU64,
    /// The number of the guest's version.
    version: AtomicU64,
}

/// Those of all threads that ever ran a guest and are still there.
static DESKS: Mutex<Vec<Weak<Desk>>> = Mutex::new(Vec::new());

thread_local! {
    static DESK: Arc<Desk> = {
        let desk = Arc::new(Desk::default());
        let mut desks = DESKS.lock().unwrap_or_else(PoisonError::into_inner);
        desks.retain(|desk| desk.strong_count() > 0);
        desks.push(Arc::downgrade(&desk));
        desk
    };
}

/// A guest of `version` is polled on this thread from `since` on. Whoever finds the ticker parked after this has to
/// rouse it: sequentially consistent with [`runs_any`].
pub(crate) fn begin(since: u64, version: u64) {
    let _ = DESK.try_with(|desk| {
        desk.version.store(version, Relaxed);
        desk.since.store(since.max(1), SeqCst);
    });
}

/// Whether a guest is polled now, on any thread.
pub(crate) fn runs_any() -> bool {
    let desks = DESKS.lock().unwrap_or_else(PoisonError::into_inner);
    desks.iter().filter_map(Weak::upgrade).any(|desk| desk.since.load(SeqCst) > 0)
}

/// Its poll has come back.
pub(crate) fn end() {
    let _ = DESK.try_with(|desk| desk.since.store(0, Release));
}

/// Polls that began longer than `patience` ago: when, and of which version.
fn stuck(patience: Duration) -> Vec<(u64, u64)> {
    let now = since_origin(clock::now());
    let desks = DESKS.lock().unwrap_or_else(PoisonError::into_inner);
    let running = desks.iter().filter_map(Weak::upgrade);
    let stuck = running.filter_map(|desk| {
        let poll = (desk.since.load(Acquire), desk.version.load(Acquire));
        // Read again: the version may be of another poll by now.
        let is_one = desk.since.load(Acquire) == poll.0;
        (is_one && poll.0 > 0 && ago(now, poll.0) > patience).then_some(poll)
    });
    stuck.collect()
}

fn ago(now: u64, since: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(since))
}

/// Starts the thread that looks. It ends with the executor.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn start(executor: Weak<Inner>, patience: Duration) -> std::io::Result<()> {
    let pause = (patience / 4).clamp(Duration::from_millis(5), Duration::from_secs(1));
    let watch = move || {
        let mut told = HashMap::new();
        while let Some(inner) = executor.upgrade() {
            tell(&inner, &stuck(patience), &mut told);
            drop(inner);
            std::thread::sleep(pause);
        }
    };
    std::thread::Builder::new().name("wambda-watchdog".into()).spawn(watch).map(drop)
}

/// Tells of each once when it is noticed, and once when it has come back.
fn tell(inner: &Inner, stuck: &[(u64, u64)], told: &mut HashMap<(u64, u64), String>) {
    inner.show_stuck(stuck.len());
    let now = since_origin(clock::now());
    for poll @ (since, version) in stuck {
        told.entry(*poll).or_insert_with(|| {
            let function = inner.name_of(*version);
            let seconds = ago(now, *since).as_secs_f64();
            tracing::error!(
                function,
                seconds,
                "a call does not come back from one operation, past its deadline and any interruption: its thread is lost \
                 until it does"
            );
            function
        });
    }
    told.retain(|poll, function| {
        let is_stuck = stuck.contains(poll);
        if !is_stuck {
            let seconds = ago(now, poll.0).as_secs_f64();
            tracing::warn!(function, seconds, "the call that did not come back has come back");
        }
        is_stuck
    });
}
