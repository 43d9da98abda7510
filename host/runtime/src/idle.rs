//! The idle instances of one version, on shelves: one for each core, so that an instance, and what of it is in that
//! core's caches, stays where it last ran. A core that has none takes from others.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu};
use wambda_model::limits::INSTANCE_AGE_MAX;

use crate::instance::{Instance, Kept};

/// Shelves at most: cores beyond it share them.
const SHELVES_MAX: usize = 16;

/// Times that somebody goes round the shelves for an instance that is said to be there.
const WALKS_MAX: usize = 4;

/// Which of the two kinds of idle instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stack {
    /// They have served.
    Warm,
    /// They have not.
    Virgin,
}

/// What is idle on one core. Cache lines of its own, or others would take them away.
#[derive(Default)]
#[repr(align(128))]
struct Shelf {
    stacks: Mutex<Stacks>,
    /// Whether this core makes instances ahead of time now.
    refilling: AtomicBool,
}

/// Least recently used first.
#[derive(Default)]
struct Stacks {
    warm: VecDeque<Kept>,
    virgin: VecDeque<Kept>,
}

/// All of them.
pub(crate) struct Idle {
    shelves: Box<[Shelf]>,
    /// How many there are of each kind; changed under the lock of the shelf that has one more or less.
    warm: AtomicU32,
    virgin: AtomicU32,
    closed: AtomicBool,
}

/// The right to make instances ahead of time on a core, one holder at a time.
pub(crate) struct Refilling<'a>(&'a AtomicBool);

impl Drop for Refilling<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Stacks> {
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stacks {
    fn get(&mut self, stack: Stack) -> &mut VecDeque<Kept> {
        match stack {
            Stack::Warm => &mut self.warm,
            Stack::Virgin => &mut self.virgin,
        }
    }
}

/// One for each core up to the last that this process may run on.
fn shelf_count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let cores = sched_getaffinity(None).ok();
        let last = cores.and_then(|cores| (0..CpuSet::MAX_CPU).rfind(|core| cores.is_set(*core)));
        last.map_or(1, |last| last + 1).min(SHELVES_MAX)
    })
}

impl Idle {
    pub(crate) fn new() -> Self {
        Self {
            shelves: (0..shelf_count()).map(|_| Shelf::default()).collect(),
            warm: AtomicU32::new(0),
            virgin: AtomicU32::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// The shelves, those of this core first.
    fn nearest(&self) -> impl Iterator<Item = &Shelf> {
        let (before, from) = self.shelves.split_at(sched_getcpu() % self.shelves.len().max(1));
        from.iter().chain(before)
    }

    fn count(&self, stack: Stack) -> &AtomicU32 {
        match stack {
            Stack::Warm => &self.warm,
            Stack::Virgin => &self.virgin,
        }
    }

    /// How many there are, used ones and virgins.
    pub(crate) fn counts(&self) -> (u32, u32) {
        (self.warm.load(Relaxed), self.virgin.load(Relaxed))
    }

    /// The most recently used one of this core, or else of another one.
    pub(crate) fn take(&self, stack: Stack) -> Option<Kept> {
        for _ in 0..WALKS_MAX {
            // Most have one kind only, and nobody shall go round for the other.
            if self.count(stack).load(Relaxed) == 0 {
                break;
            }
            for shelf in self.nearest() {
                let mut stacks = shelf.lock();
                if let Some(taken) = stacks.get(stack).pop_back() {
                    self.note_gone(stack, 1);
                    return Some(taken);
                }
            }
            // One that was put where this has looked already is found by going round once more.
        }
        None
    }

    /// Adds one on this core. Returns it when none is kept any more.
    pub(crate) fn put(&self, stack: Stack, instance: Kept) -> Option<Kept> {
        let Some(shelf) = self.nearest().next() else { return Some(instance) };
        let mut stacks = shelf.lock();
        // Under the lock, which whoever closes takes afterwards.
        if self.closed.load(Relaxed) {
            return Some(instance);
        }
        // Counted before anybody can take it.
        self.count(stack).fetch_add(1, Relaxed);
        stacks.get(stack).push_back(instance);
        None
    }

    fn note_gone(&self, stack: Stack, count: usize) {
        self.count(stack).fetch_sub(u32::try_from(count).unwrap_or(u32::MAX), Relaxed);
    }

    /// All that have served.
    pub(crate) fn take_warm(&self) -> Vec<Kept> {
        self.drain(Stack::Warm, |_| true)
    }

    /// Those that have grown old.
    pub(crate) fn take_aged(&self, now: Instant) -> Vec<Kept> {
        self.drain(Stack::Warm, |instance| now - instance.born >= INSTANCE_AGE_MAX)
    }

    /// All of a kind that are chosen.
    fn drain(&self, stack: Stack, choose: impl Fn(&Instance) -> bool) -> Vec<Kept> {
        let mut out = Vec::new();
        for shelf in &self.shelves {
            let mut stacks = shelf.lock();
            let list = stacks.get(stack);
            if list.iter().any(|kept| choose(kept)) {
                let all = std::mem::take(list).into_iter();
                let (gone, kept): (VecDeque<_>, VecDeque<_>) = all.partition(|kept| choose(kept));
                *list = kept;
                self.note_gone(stack, gone.len());
                out.extend(gone);
            }
        }
        out
    }

    /// When the least recently used one of a kind was used, and where it is.
    fn oldest(&self, stack: Stack) -> Option<(Instant, &Shelf)> {
        if self.count(stack).load(Relaxed) == 0 {
            return None;
        }
        let first = |shelf: &Shelf| shelf.lock().get(stack).front().map(|kept| kept.last_used);
        let all = self.shelves.iter().filter_map(|shelf| Some((first(shelf)?, shelf)));
        all.min_by_key(|(at, _)| *at)
    }

    /// Takes the least recently used one of a kind.
    pub(crate) fn take_oldest(&self, stack: Stack) -> Option<Kept> {
        // It may be gone by now, and then there is another one.
        while let Some((_, shelf)) = self.oldest(stack) {
            let mut stacks = shelf.lock();
            if let Some(taken) = stacks.get(stack).pop_front() {
                self.note_gone(stack, 1);
                return Some(taken);
            }
        }
        None
    }

    /// When the least recently used one was used.
    pub(crate) fn oldest_use(&self) -> Option<Instant> {
        let at = |stack| self.oldest(stack).map(|(at, _)| at);
        at(Stack::Warm).into_iter().chain(at(Stack::Virgin)).min()
    }

    /// Removes the least recently used one of both kinds.
    pub(crate) fn shed(&self) -> Option<Box<Instance>> {
        let at = |stack| self.oldest(stack).map(|(at, _)| at);
        let [first, second] = match (at(Stack::Warm), at(Stack::Virgin)) {
            (Some(warm), Some(virgin)) if warm > virgin => [Stack::Virgin, Stack::Warm],
            (None, _) => [Stack::Virgin, Stack::Warm],
            _ => [Stack::Warm, Stack::Virgin],
        };
        self.take_oldest(first).or_else(|| self.take_oldest(second))
    }

    /// The right to make instances ahead of time on this core; none while somebody has it.
    pub(crate) fn refilling(&self) -> Option<Refilling<'_>> {
        let refilling = &self.nearest().next()?.refilling;
        (!refilling.swap(true, Relaxed)).then_some(Refilling(refilling))
    }

    /// Whether none is kept any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Nothing is kept from now on. Returns what was.
    pub(crate) fn close(&self) -> Vec<Kept> {
        self.closed.store(true, Relaxed);
        // Whoever has a shelf's lock after this sees that it is closed.
        let all = [Stack::Warm, Stack::Virgin].map(|stack| self.drain(stack, |_| true));
        all.into_iter().flatten().collect()
    }
}
