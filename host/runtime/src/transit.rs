//! Instances on their way out. They hold memory and slots, and nobody can have them to make room, but soon: who finds no
//! room waits for them before it is refused. It waits as well for those of its own version that are made ahead of time,
//! which are idle then, and make room.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use wambda_model::clock;
use wambda_model::limits::ROOM_WAIT_MAX;

/// Pauses after arrivals that were of no use, each twice as long as the last. There may be very many arrivals.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(64);

/// Counts them. Everyone with an instance for each call counts here: a line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Transit {
    /// All that ever set out, and those of them that have arrived.
    set_out: AtomicU64,
    arrived: AtomicU64,
    /// Those who wait for an arrival.
    waiting: AtomicU32,
    arrival: Notify,
}

/// Some that are on their way, while this lives.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Transit>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.arrive();
    }
}

/// One of those who wait, while this lives.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Transit {
    /// Some set out.
    pub(crate) fn set_out(self: &Arc<Self>) -> UnderWay {
        self.set_out.fetch_add(1, SeqCst);
        UnderWay(Arc::clone(self))
    }

    fn arrive(&self) {
        self.arrived.fetch_add(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.arrival.notify_waiters();
        }
    }

    /// One that was made ahead of time is there, or will not be.
    pub(crate) fn made(&self) {
        if self.waiting.load(SeqCst) > 0 {
            self.set_out.fetch_add(1, SeqCst);
            self.arrive();
        }
    }

    /// Whoever wants room, until `until` at most. Begins before it is known that there is none: what arrives after that is
    /// not missed.
    pub(crate) fn patience(&self, until: Option<Instant>) -> Patience<'_> {
        let deadline = clock::now() + ROOM_WAIT_MAX;
        Patience {
            transit: self,
            seen: self.arrived.load(SeqCst),
            pause: Duration::ZERO,
            deadline: until.map_or(deadline, |until| until.min(deadline)),
            waited: Duration::ZERO,
            is_over: false,
        }
    }
}

/// Waits for arrivals, as long as there are some to come, for [`ROOM_WAIT_MAX`] in all.
pub(crate) struct Patience<'a> {
    transit: &'a Transit,
    /// Arrivals that it has seen.
    seen: u64,
    pause: Duration,
    deadline: Instant,
    waited: Duration,
    is_over: bool,
}

impl Patience<'_> {
    /// How long it has waited in all.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Waits until something has arrived since it was last asked, or is no longer being made. True as well, once, when there is nothing more to wait
    /// for: what has arrived just now may have woken nobody. False after that.
    pub(crate) async fn wait(&mut self, is_making: impl Fn() -> bool) -> bool {
        if self.is_over {
            return false;
        }
        let began = clock::now();
        let deadline = self.deadline.into();
        let came = {
            let _waiting = Waiting::new(&self.transit.waiting);
            let arrival = pin!(self.arrival(is_making));
            tokio::time::timeout_at(deadline, arrival).await
        };
        self.is_over = came != Ok(true);
        self.waited += clock::now() - began;
        true
    }

    async fn arrival(&mut self, is_making: impl Fn() -> bool) -> bool {
        // Who waited in vain once does not look at each arrival.
        let pause = self.pause;
        self.pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        loop {
            let mut arrival = pin!(self.transit.arrival.notified());
            arrival.as_mut().enable();
            let arrived = self.transit.arrived.load(SeqCst);
            if arrived != self.seen {
                self.seen = arrived;
                return true;
            }
            // What has set out and arrived since the line before is seen as under way, and wakes this.
            if self.transit.set_out.load(SeqCst) == arrived && !is_making() {
                return false;
            }
            arrival.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn none() -> bool {
        false
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_by_arrivals_while_there_are_some_to_come() {
        let transit = Arc::new(Transit::default());
        let mut patience = transit.patience(None);
        assert!(patience.wait(none).await && !patience.wait(none).await, "one look more");
        let (first, second) = (transit.set_out(), transit.set_out());
        let mut patience = transit.patience(None);
        drop(first);
        assert!(patience.wait(none).await, "it arrived before it was waited for");
        let arrives = async {
            tokio::time::sleep(PAUSE_MIN * 2).await;
            drop(second);
        };
        let (second, ()) = tokio::join!(patience.wait(none), arrives);
        assert!(second && !patience.is_over);
        assert!(patience.wait(none).await && !patience.wait(none).await);
        assert_eq!(transit.waiting.load(SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let transit = Arc::new(Transit::default());
        let _never = transit.set_out();
        let soon = clock::now() + ROOM_WAIT_MAX / 10;
        for (until, most) in [(Some(soon), ROOM_WAIT_MAX / 10), (None, ROOM_WAIT_MAX)] {
            let began = tokio::time::Instant::now();
            let mut patience = transit.patience(until);
            while patience.wait(none).await {}
            let waited = began.elapsed();
            assert!(waited > most / 2 && waited < most * 11 / 10, "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_looks_less_and_less_often() {
        let transit = Arc::new(Transit::default());
        let churn = async {
            loop {
                drop(transit.set_out());
                tokio::time::sleep(PAUSE_MIN / 4).await;
            }
        };
        let looks = async {
            let _never = transit.set_out();
            let (mut patience, mut looks) = (transit.patience(None), 0);
            while patience.wait(none).await {
                looks += 1;
            }
            looks
        };
        tokio::select! {
            () = churn => {}
            looks = looks => assert!((5..=30).contains(&looks), "{looks}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn its_own_that_are_made_ahead_of_time_are_waited_for() {
        let transit = Arc::new(Transit::default());
        let making = AtomicBool::new(true);
        let mut patience = transit.patience(None);
        let made = async {
            tokio::time::sleep(PAUSE_MIN).await;
            making.store(false, SeqCst);
            transit.made();
        };
        let began = tokio::time::Instant::now();
        let (came, ()) = tokio::join!(patience.wait(|| making.load(SeqCst)), made);
        assert!(came && began.elapsed() < PAUSE_MAX, "{:?}", began.elapsed());
    }
}
