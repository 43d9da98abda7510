//! Instances on their way out. They hold memory and slots, and nobody can have them to make room, but soon: who finds no
//! room waits for them before it is refused: for those of its own function when that has had its part, or else for all. It
//! waits as well for those of its own version that are made ahead of time, which are idle then, and make room.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use wambda_model::limits::ROOM_WAIT_MAX;
use wambda_model::{Leaving, Share, Short, Version, clock};

use crate::counted::Counted;

/// Pauses after arrivals that were of no use, each twice as long as the last. There may be very many arrivals.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(64);

/// Counts them. Everyone with an instance for each call counts here: a line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Transit {
    all: Leaving,
    /// Those who wait for an arrival.
    waiting: AtomicU32,
    arrival: Notify,
}

/// Some of a function that are on their way, while this lives.
#[derive(Debug)]
pub(crate) struct UnderWay {
    transit: Arc<Transit>,
    version: Arc<Version>,
    whose: Whose,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.transit.arrive(&self.version.share, self.whose);
    }
}

impl Transit {
    /// Some of a function set out.
    pub(crate) fn set_out(self: &Arc<Self>, version: &Arc<Version>) -> UnderWay {
        version.share.leaving.begin();
        self.all.begin();
        let (transit, version) = (Arc::clone(self), Arc::clone(version));
        UnderWay { transit, version, whose: Whose::All }
    }

    /// One of a function will set out some time: its own callers wait for it.
    pub(crate) fn lingers(self: &Arc<Self>, version: &Arc<Version>) -> UnderWay {
        version.share.leaving.begin();
        let (transit, version) = (Arc::clone(self), Arc::clone(version));
        UnderWay { transit, version, whose: Whose::Own }
    }

    fn arrive(&self, share: &Share, whose: Whose) {
        share.leaving.end();
        if whose == Whose::All {
            self.all.end();
        }
        if self.waiting.load(SeqCst) > 0 {
            self.arrival.notify_waiters();
        }
    }

    /// One of a function that was made ahead of time is there, or will not be.
    pub(crate) fn made(&self, share: &Share) {
        if self.waiting.load(SeqCst) > 0 {
            share.leaving.begin();
            self.all.begin();
            self.arrive(share, Whose::All);
        }
    }

    /// Whoever wants room for an instance of a function, until `until` at most. Begins before it is known that there is none:
    /// what arrives after that is not missed.
    pub(crate) fn patience<'a>(&'a self, share: &'a Share, until: Option<Instant>) -> Patience<'a> {
        let deadline = clock::now() + ROOM_WAIT_MAX;
        let way = |leaving: &'a Leaving| Way { leaving, seen: leaving.ended() };
        Patience {
            transit: self,
            own: way(&share.leaving),
            all: way(&self.all),
            pause: Duration::ZERO,
            deadline: until.map_or(deadline, |until| until.min(deadline)),
            waited: Duration::ZERO,
            is_over: false,
        }
    }
}

/// Whose instances could make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The function's own: it has had its part.
    Own,
    All,
}

impl Whose {
    /// Whose memory is short.
    pub(crate) fn of(short: Short) -> Self {
        if short == Short::All { Self::All } else { Self::Own }
    }
}

/// Arrivals, and how many of them are known.
struct Way<'a> {
    leaving: &'a Leaving,
    seen: u64,
}

impl Way<'_> {
    /// Whether there were arrivals that were not known.
    fn look(&mut self) -> bool {
        let before = std::mem::replace(&mut self.seen, self.leaving.ended());
        before != self.seen
    }
}

/// Waits for arrivals, as long as there are some to come, for [`ROOM_WAIT_MAX`] in all.
pub(crate) struct Patience<'a> {
    transit: &'a Transit,
    own: Way<'a>,
    all: Way<'a>,
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

    /// Waits until something that may help has arrived since it was last asked, or is no longer being made. True as well,
    /// once, when there is nothing more to wait for: what has arrived just now may have woken nobody. False after that.
    pub(crate) async fn wait(&mut self, whose: Whose, is_making: impl Fn() -> bool) -> bool {
        if self.is_over {
            return false;
        }
        let began = clock::now();
        let deadline = self.deadline.into();
        let came = {
            let _waiting = Counted::new(&self.transit.waiting);
            let arrival = pin!(self.arrival(whose, is_making));
            tokio::time::timeout_at(deadline, arrival).await
        };
        self.is_over = came != Ok(true);
        self.waited += clock::now() - began;
        true
    }

    async fn arrival(&mut self, whose: Whose, is_making: impl Fn() -> bool) -> bool {
        // Who waited in vain once does not look at each arrival.
        let pause = self.pause;
        self.pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        // Its own count for all, too: among them are those that linger.
        let mut ways = [Some(&mut self.own), (whose == Whose::All).then_some(&mut self.all)];
        loop {
            let mut arrival = pin!(self.transit.arrival.notified());
            arrival.as_mut().enable();
            if ways.iter_mut().flatten().any(|way| way.look()) {
                return true;
            }
            // What has set out and arrived since the line before is seen as under way, and wakes this.
            if !ways.iter().flatten().any(|way| way.leaving.is_more_than(way.seen)) && !is_making()
            {
                return false;
            }
            arrival.await;
            // Others' arrivals wake as well, and there may be very many of them.
            if ways.iter().flatten().all(|way| way.leaving.ended() == way.seen) {
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use wambda_model::{FunctionName, Gate, Metrics};

    use super::*;

    fn none() -> bool {
        false
    }

    fn stage() -> (Arc<Transit>, Arc<Version>) {
        let metrics = Metrics::new("test").unwrap();
        let name = FunctionName::new("f").unwrap();
        let function = metrics.function(&name);
        let share = Arc::new(Share::of(&Arc::new(Gate::new(1))));
        (Arc::default(), Arc::new(Version::blank(name, function, share)))
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_by_arrivals_while_there_are_some_to_come() {
        let (transit, version) = stage();
        let mut patience = transit.patience(&version.share, None);
        assert!(
            patience.wait(Whose::Own, none).await && !patience.wait(Whose::Own, none).await,
            "one look more"
        );
        let (first, second) = (transit.set_out(&version), transit.set_out(&version));
        let mut patience = transit.patience(&version.share, None);
        drop(first);
        assert!(patience.wait(Whose::Own, none).await, "it arrived before it was waited for");
        let arrives = async {
            tokio::time::sleep(PAUSE_MIN * 2).await;
            drop(second);
        };
        let (second, ()) = tokio::join!(patience.wait(Whose::Own, none), arrives);
        assert!(second && !patience.is_over);
        assert!(patience.wait(Whose::Own, none).await && !patience.wait(Whose::Own, none).await);
        assert_eq!(transit.waiting.load(SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let (transit, version) = stage();
        let _never = transit.set_out(&version);
        let soon = clock::now() + ROOM_WAIT_MAX / 10;
        for (until, most) in [(Some(soon), ROOM_WAIT_MAX / 10), (None, ROOM_WAIT_MAX)] {
            let began = tokio::time::Instant::now();
            let mut patience = transit.patience(&version.share, until);
            while patience.wait(Whose::Own, none).await {}
            let waited = began.elapsed();
            assert!(waited > most / 2 && waited < most * 11 / 10, "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_looks_less_and_less_often() {
        let (transit, version) = stage();
        let churn = async {
            loop {
                drop(transit.set_out(&version));
                tokio::time::sleep(PAUSE_MIN / 4).await;
            }
        };
        let looks = async {
            let _never = transit.set_out(&version);
            let (mut patience, mut looks) = (transit.patience(&version.share, None), 0);
            while patience.wait(Whose::Own, none).await {
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
        let (transit, version) = stage();
        let making = AtomicBool::new(true);
        let mut patience = transit.patience(&version.share, None);
        let made = async {
            tokio::time::sleep(PAUSE_MIN).await;
            making.store(false, SeqCst);
            transit.made(&version.share);
        };
        let began = tokio::time::Instant::now();
        let (came, ()) = tokio::join!(patience.wait(Whose::Own, || making.load(SeqCst)), made);
        assert!(came && began.elapsed() < PAUSE_MAX, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_lingers_is_waited_for_by_its_own_only() {
        let (transit, version) = stage();
        let lingers = transit.lingers(&version);
        let began = tokio::time::Instant::now();
        let other = stage().1;
        let mut patience = transit.patience(&other.share, None);
        while patience.wait(Whose::All, none).await {}
        assert!(began.elapsed() < ROOM_WAIT_MAX / 10);
        let mut patience = transit.patience(&version.share, None);
        let ends = async {
            tokio::time::sleep(ROOM_WAIT_MAX / 4).await;
            drop(lingers);
        };
        // Others come and go meanwhile.
        let churn = async {
            loop {
                drop(transit.set_out(&stage().1));
                tokio::time::sleep(PAUSE_MIN / 4).await;
            }
        };
        tokio::select! {
            () = churn => {}
            (came, ()) = async { tokio::join!(patience.wait(Whose::Own, none), ends) } => assert!(came),
        }
        assert!(began.elapsed() > ROOM_WAIT_MAX / 4 && began.elapsed() < ROOM_WAIT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn its_own_that_lingers_is_waited_for_whoever_has_the_memory() {
        let (transit, version) = stage();
        let lingers = transit.lingers(&version);
        let mut patience = transit.patience(&version.share, None);
        let ends = async {
            tokio::time::sleep(ROOM_WAIT_MAX / 4).await;
            drop(lingers);
        };
        let began = tokio::time::Instant::now();
        let (came, ()) = tokio::join!(patience.wait(Whose::All, none), ends);
        assert!(came && !patience.is_over && began.elapsed() < ROOM_WAIT_MAX / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_had_its_part_does_not_wait_for_others() {
        let ((transit, own), (_, other)) = (stage(), stage());
        let _others = transit.set_out(&other);
        let began = tokio::time::Instant::now();
        let mut patience = transit.patience(&own.share, None);
        while patience.wait(Whose::Own, none).await {}
        assert!(began.elapsed() < ROOM_WAIT_MAX / 10);
        let mut patience = transit.patience(&own.share, None);
        while patience.wait(Whose::All, none).await {}
        assert!(began.elapsed() > ROOM_WAIT_MAX / 2);
    }
}
