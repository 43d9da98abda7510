//! How many invocations may run at once: a function's reserved concurrency, or the account's pool of
//! what nobody has reserved.

use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::limits::UNRESERVED_MIN;

/// Somebody who found a gate closed.
pub trait Turn: Send + Sync {
    /// It may be open now.
    fn turn(self: Arc<Self>);
}

/// A counted limit. Never blocks: whoever finds it closed is called when it opens, those first that have the fewest
/// places, and in turn among those that have as many. So functions that all want more have as many each in the end
/// (max-min fairness), however long their invocations take.
///
/// Who leaves looks for those who wait, and who begins to wait looks for places that were left: `running` and
/// `is_awaited` are sequentially consistent, or both could look past each other.
#[derive(Debug)]
pub struct Gate {
    limit: AtomicU32,
    running: AtomicU32,
    waiting: Mutex<VecDeque<Waiting>>,
    /// Whether somebody is in the queue; so that nobody locks it for nothing.
    is_awaited: AtomicBool,
    /// Whether the last places are for functions that have none.
    keeps_some: bool,
}

/// A place in a gate's queue.
#[derive(Debug)]
struct Waiting {
    who: Weak<dyn Turn>,
    /// Places that it, and who shares with it, has.
    taken: Arc<AtomicU32>,
}

/// Calls of one opening: who is called may find that it does not want to pass any more.
const CALLS_MAX: usize = 64;
/// Those longest in the queue are compared when it opens, and so many of them.
const COMPARED_MAX: usize = 64;
/// One in so many of the account's places is for functions of which nothing runs: calls that do nothing for long would
/// take every place otherwise, until they end.
const NEWCOMERS: u32 = 16;

impl Gate {
    /// A gate that lets `limit` through at once.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit: AtomicU32::new(limit),
            running: AtomicU32::new(0),
            waiting: Mutex::default(),
            is_awaited: AtomicBool::new(false),
            keeps_some: false,
        }
    }

    /// A gate for many functions, of which none gets all of its places: of sixteen the last one is for functions that
    /// have none.
    #[must_use]
    pub fn shared(limit: u32) -> Self {
        Self { keeps_some: true, ..Self::new(limit) }
    }

    /// How many it lets through at once.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Changes the limit. Those that are through stay.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    /// How many are through.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running.load(SeqCst)
    }

    /// Whether somebody waits for it to open.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.is_awaited.load(SeqCst)
    }

    /// How many it lets through at once of those that have `taken` places.
    fn limit_of(&self, taken: u32) -> u32 {
        let limit = self.limit();
        let kept = if self.keeps_some && taken > 0 { limit / NEWCOMERS } else { 0 };
        limit - kept
    }

    /// Whether one more may pass now, who has `taken` places.
    fn is_open(&self, taken: u32) -> bool {
        self.running() < self.limit_of(taken)
    }

    /// Passes, when the gate is open for one who has `taken` places.
    fn try_enter(&self, taken: u32) -> bool {
        let limit = self.limit_of(taken);
        let one_more = |running: u32| (running < limit).then_some(running + 1);
        self.running.fetch_update(SeqCst, Relaxed, one_more).is_ok()
    }

    /// Passes in any case: for those that came through another gate.
    fn force(&self, count: u32) {
        self.running.fetch_add(count, SeqCst);
    }

    /// Takes a place in the queue of those who are called when it opens. It may have opened meanwhile: see
    /// [`Self::call`].
    fn wait(&self, waiting: Waiting) {
        let mut all = self.lock();
        all.push_back(waiting);
        self.is_awaited.store(true, SeqCst);
    }

    /// Calls those who wait, while it is open: after leaving, and after taking a place in the queue.
    pub fn call(&self) {
        for _ in 0..CALLS_MAX {
            if !self.is_awaited() || !self.is_open(0) {
                return;
            }
            let mut waiting = self.lock();
            let compared = waiting.iter().map(|waiting| waiting.taken.load(Relaxed));
            let least = compared.take(COMPARED_MAX).enumerate().min_by_key(|(_, taken)| *taken);
            let passes = least.filter(|(_, taken)| self.is_open(*taken)).map(|(at, _)| at);
            // What is kept for newcomers is for those as well who stand far behind.
            let is_new = |waiting: &Waiting| waiting.taken.load(Relaxed) == 0;
            let Some(at) = passes.or_else(|| waiting.iter().position(is_new)) else { return };
            let next = waiting.remove(at);
            self.is_awaited.store(!waiting.is_empty(), SeqCst);
            drop(waiting);
            if let Some(next) = next.and_then(|next| next.who.upgrade()) {
                next.turn();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, count: u32) {
        let less = |running: u32| Some(running.saturating_sub(count));
        let _ = self.running.fetch_update(SeqCst, Relaxed, less);
    }
}

/// What the versions of one function share of the concurrency.
#[derive(Debug)]
pub struct Share {
    /// Counts when the function has reserved concurrency.
    own: Gate,
    reserved: AtomicBool,
    /// Counts otherwise.
    account: Arc<Gate>,
    /// Places that the function has in either.
    taken: Arc<AtomicU32>,
    /// Invocations of the function that want a core and have none.
    pub starved: AtomicU32,
    /// Bytes that its instances hold of the memory budget.
    pub memory: Arc<AtomicU64>,
    /// Slots that its instances hold, of the pool for most and of that for WASI 0.3.
    pub slots: [Arc<AtomicU32>; 2],
    /// Its instances that are on their way out, and hold both still.
    pub leaving: Leaving,
}

/// Instances on their way out.
#[derive(Debug, Default)]
pub struct Leaving {
    began: AtomicU64,
    ended: AtomicU64,
}

impl Leaving {
    /// Some have set out.
    pub fn begin(&self) {
        self.began.fetch_add(1, SeqCst);
    }

    /// Some are gone.
    pub fn end(&self) {
        self.ended.fetch_add(1, SeqCst);
    }

    /// How often some were gone.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.ended.load(SeqCst)
    }

    /// Whether more have set out than these.
    #[must_use]
    pub fn is_more_than(&self, ended: u64) -> bool {
        self.began.load(SeqCst) != ended
    }
}

impl Share {
    /// A share of the account's pool.
    #[must_use]
    pub fn of(account: &Arc<Gate>) -> Self {
        Self {
            own: Gate::new(0),
            reserved: AtomicBool::new(false),
            account: Arc::clone(account),
            taken: Arc::default(),
            starved: AtomicU32::new(0),
            memory: Arc::default(),
            slots: Default::default(),
            leaving: Leaving::default(),
        }
    }

    /// Sets what the function has for itself, beyond what is provisioned; none is the pool.
    pub fn reserve(&self, limit: Option<u32>) {
        match limit {
            Some(limit) => {
                self.own.set_limit(limit);
                self.reserved.store(true, Relaxed);
            }
            None => {
                self.reserved.store(false, Relaxed);
                self.own.set_limit(0);
            }
        }
    }

    /// Whether the function has concurrency for itself.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.reserved.load(Relaxed)
    }

    /// The gate that counts; of the function itself when `own`.
    #[must_use]
    pub fn gate(&self, own: bool) -> &Gate {
        if own { &self.own } else { &self.account }
    }

    /// Passes the gate, of the function itself when `own`, if it is open. Whoever was not `called` stands behind those
    /// who wait to be.
    #[must_use]
    pub fn try_enter(&self, own: bool, called: bool) -> bool {
        let gate = self.gate(own);
        if !called && gate.is_awaited() {
            return false;
        }
        // Counted first: of two that come at once, only one is a newcomer.
        let passes = gate.try_enter(self.taken.fetch_add(1, Relaxed));
        if !passes {
            self.taken.fetch_sub(1, Relaxed);
        }
        passes
    }

    /// Takes a place in the gate's queue; to be followed by [`Gate::call`], outside of any lock.
    pub fn wait(&self, own: bool, who: Weak<dyn Turn>) {
        self.gate(own).wait(Waiting { who, taken: Arc::clone(&self.taken) });
    }

    /// Gives `count` places back.
    pub fn leave(&self, own: bool, count: u32) {
        self.taken.fetch_sub(count, Relaxed);
        self.gate(own).leave(count);
    }

    /// Takes `count` places from one gate to the other: to the function's own when `own`.
    pub fn move_to(&self, own: bool, count: u32) {
        self.gate(!own).leave(count);
        self.gate(own).force(count);
    }

    /// The gate that counts now.
    #[must_use]
    pub fn current(&self) -> &Gate {
        self.gate(self.is_reserved())
    }
}

/// What functions must leave of an account's limit to those that have nothing for themselves: a
/// tenth, and no more than Lambda wants.
#[must_use]
pub fn unreserved_min(account_limit: u32) -> u32 {
    (account_limit / 10).clamp(1, UNRESERVED_MIN)
}

/// What the pool has when functions have reserved and provisioned so much of an account's limit.
#[must_use]
pub fn unreserved(account_limit: u32, taken: u64) -> u32 {
    let left = u64::from(account_limit).saturating_sub(taken);
    u32::try_from(left).unwrap_or(u32::MAX).max(unreserved_min(account_limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_counts() {
        let gate = Gate::new(2);
        assert!(gate.try_enter(0) && gate.try_enter(1) && !gate.try_enter(0));
        gate.leave(1);
        assert!(gate.is_open(1));
        gate.force(5);
        gate.set_limit(3);
        assert!(!gate.try_enter(0));
        gate.leave(100);
        assert_eq!(gate.running(), 0);
    }

    #[test]
    fn nobody_gets_all_of_the_accounts_places() {
        let gate = Gate::shared(32);
        let mut sleepers = 0;
        while gate.try_enter(sleepers) {
            sleepers += 1;
        }
        assert_eq!(sleepers, 30);
        assert!(gate.try_enter(0) && gate.try_enter(0) && !gate.try_enter(0));
        // Who waits and has some is not called for what is kept.
        struct Called(AtomicU32);
        impl Turn for Called {
            fn turn(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let who = Arc::new(Called(AtomicU32::new(0)));
        let turn: Arc<dyn Turn> = Arc::clone(&who) as Arc<dyn Turn>;
        gate.wait(Waiting { who: Arc::downgrade(&turn), taken: Arc::new(AtomicU32::new(30)) });
        gate.leave(1);
        gate.call();
        assert_eq!(who.0.load(Relaxed), 0);
        gate.leave(2);
        gate.call();
        assert_eq!(who.0.load(Relaxed), 1);
        // A newcomer is, wherever it stands.
        assert!(gate.try_enter(29));
        for taken in (0..COMPARED_MAX).map(|_| 30).chain([0]) {
            let taken = Arc::new(AtomicU32::new(taken));
            gate.wait(Waiting { who: Arc::downgrade(&turn), taken });
        }
        gate.call();
        assert_eq!(who.0.load(Relaxed), 2);
        assert_eq!(Gate::shared(8).limit_of(7), 8, "small ones keep nothing");
    }

    #[test]
    fn the_pool_never_runs_dry() {
        assert_eq!(unreserved(1_000, 0), 1_000);
        assert_eq!(unreserved(1_000, 400), 600);
        assert_eq!(unreserved(1_000, 100_000), UNRESERVED_MIN);
        assert_eq!(unreserved(10, 5), 5);
        assert_eq!([unreserved(10, 10), unreserved(1, 1), unreserved_min(4_000)], [1, 1, 100]);
    }
}
