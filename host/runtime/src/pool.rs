//! The instances of one version: how many there are, how many there shall be, and what is learned from those that served.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::OnceCell;
use wambda_model::invocation::InstanceCounts;
use wambda_model::limits::{INLINE_MEMORY_BYTES_MAX, INSTANCE_AGE_MAX, INSTANCE_USES_MAX};
use wambda_model::{InvokeError, Reuse, StartKind, Version, clock};

use crate::counted::Counted;
use crate::engine::EngineKind;
use crate::idle::{Idle, Refilling, Stack};
use crate::instance::{Instance, Kept};
use crate::layer::Tree;
use crate::link::Prepared;
use crate::meter::Length;

/// Traps in reused instances, without one in a fresh instance, after which reuse is switched off.
const REUSE_TRAPS_MAX: u32 = 3;
/// One trap in this many reuses is often.
const REUSE_TRAPS_OFTEN: u32 = 4;

/// What a loaded version is.
pub(crate) struct Ready {
    pub(crate) prepared: Prepared,
    pub(crate) engine: EngineKind,
    /// Slots of the pool that an instance takes.
    pub(crate) slots: u32,
    /// Bytes of the largest memory that an instance begins with.
    pub(crate) first_bytes: u64,
    /// What its instances find at `/opt`.
    pub(crate) opt: Option<Arc<Tree>>,
}

/// One version and its instances.
pub(crate) struct Unit {
    pub(crate) version: Arc<Version>,
    /// Loaded at the first use, and then kept until [`Self::unload`].
    ready: ArcSwap<OnceCell<Arc<Ready>>>,
    idle: Idle,
    busy: AtomicU32,
    /// Instances wanted in all.
    target: AtomicU32,
    reuse_off: AtomicBool,
    traps_reused: AtomicU32,
    traps_fresh: AtomicU32,
    uses_reused: AtomicU32,
    /// Consecutive failures to make an instance ahead of time, and when to try again.
    stillborn: AtomicU32,
    not_before_ms: AtomicU64,
    /// Instances that are made ahead of time now.
    making: AtomicU32,
    /// Calls that start on the long-run threads, because the last ones belonged there.
    long_calls: AtomicU32,
    /// Calls that are measured exactly, because one before them may have been long.
    in_doubt: AtomicU32,
    /// Bytes that the last instances took at most, forgotten slowly.
    expected_bytes: AtomicU64,
}

/// Why an instance could not be made ahead of time.
pub(crate) enum Fault {
    /// Its own code failed.
    Guest,
    /// There is no room for it now.
    Platform,
}

/// First pause after a failure to make an instance ahead of time.
const STILLBORN_PAUSE_MS: u64 = 1_000;
/// Longest pause after failures to make an instance ahead of time.
const STILLBORN_PAUSE_MAX_MS: u64 = 60_000;

/// One part in so many of what instances took is forgotten with each call that took less.
const EXPECTED_DECAY: u64 = 16;

/// Calls after a long one that are expected to be long as well.
const LONG_CALLS: u32 = 8;
/// Calls that are measured exactly: the first ones of a version, and those after one that may have been long. Long ones may
/// come now and then only.
const CALLS_IN_DOUBT: u32 = 64;

fn one_less(count: &AtomicU32) {
    if count.load(Relaxed) > 0 {
        let _ = count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
    }
}

impl Unit {
    pub(crate) fn new(version: &Arc<Version>) -> Self {
        Self {
            version: Arc::clone(version),
            ready: ArcSwap::default(),
            idle: Idle::new(),
            busy: AtomicU32::new(0),
            target: AtomicU32::new(0),
            reuse_off: AtomicBool::new(false),
            traps_reused: AtomicU32::new(0),
            traps_fresh: AtomicU32::new(0),
            uses_reused: AtomicU32::new(0),
            stillborn: AtomicU32::new(0),
            not_before_ms: AtomicU64::new(0),
            making: AtomicU32::new(0),
            long_calls: AtomicU32::new(0),
            // Nothing is known of it.
            in_doubt: AtomicU32::new(CALLS_IN_DOUBT),
            expected_bytes: AtomicU64::new(0),
        }
    }

    /// The code, by `load` when it is not there.
    pub(crate) async fn ready<F>(&self, load: impl FnOnce() -> F) -> Result<Arc<Ready>, InvokeError>
    where
        F: Future<Output = Result<Ready, InvokeError>>,
    {
        let cell = self.ready.load_full();
        let ready = cell.get_or_try_init(|| async { load().await.map(Arc::new) }).await?;
        Ok(Arc::clone(ready))
    }

    /// Lets go of the code, with its memory and files: whoever holds the unit may do so for a while.
    pub(crate) fn unload(&self) {
        self.ready.store(Arc::default());
    }

    /// Whether instances serve again.
    pub(crate) fn reuses(&self) -> bool {
        self.version.reuse == Reuse::Warm && !self.reuse_off.load(Relaxed)
    }

    /// An idle instance: the most recently used one, of this core if there is one, or else a virgin one.
    pub(crate) fn take(&self) -> Option<(Box<Instance>, StartKind)> {
        if let Some(instance) = self.idle.take(Stack::Warm) {
            self.uses_reused.fetch_add(1, Relaxed);
            return Some((instance, StartKind::Warm));
        }
        self.idle.take(Stack::Virgin).map(|instance| (instance, StartKind::Prewarmed))
    }

    /// Whether the next call is expected to be long, or could hold up the thread that answers: nothing interrupts a bulk
    /// operation over an instance's memory, and how much of it there will be is not known before the first call.
    pub(crate) fn expects_long(&self) -> bool {
        let bytes = match self.expected_bytes.load(Relaxed) {
            0 => self.version.config.memory_bytes,
            known => known,
        };
        self.long_calls.load(Relaxed) > 0 || bytes > INLINE_MEMORY_BYTES_MAX
    }

    /// Bytes that an instance is likely to take, and is given before it is made.
    pub(crate) fn reserved_bytes(&self, ready: &Ready) -> u64 {
        self.expected_bytes().max(ready.first_bytes).min(self.version.config.memory_bytes)
    }

    /// Bytes that an instance is likely to take.
    pub(crate) fn expected_bytes(&self) -> u64 {
        self.expected_bytes.load(Relaxed).min(self.version.config.memory_bytes)
    }

    /// Learns from an instance that has just been made: it has not taken yet what it will take.
    pub(crate) fn note_least_bytes(&self, bytes: u64) {
        if bytes > self.expected_bytes.load(Relaxed) {
            self.expected_bytes.fetch_max(bytes, Relaxed);
        }
    }

    /// Learns from an instance that has served.
    pub(crate) fn note_bytes(&self, bytes: u64) {
        let before = self.expected_bytes.load(Relaxed);
        let less = before - before / EXPECTED_DECAY;
        if bytes != before {
            self.expected_bytes.store(bytes.max(less), Relaxed);
        }
    }

    /// Learns from a call.
    pub(crate) fn note_length(&self, length: Length) {
        match length {
            Length::Long => {
                self.long_calls.store(LONG_CALLS, Relaxed);
                self.in_doubt.store(CALLS_IN_DOUBT, Relaxed);
            }
            Length::Unclear => self.in_doubt.store(CALLS_IN_DOUBT, Relaxed),
            Length::Short => {
                one_less(&self.long_calls);
                one_less(&self.in_doubt);
            }
        }
    }

    /// Whether all of the next call's CPU time is to be measured: it is limited more than time is, or one of the last calls
    /// may have been long.
    pub(crate) fn is_measured(&self) -> bool {
        self.version.config.cpu_ms.is_some() || self.in_doubt.load(Relaxed) > 0
    }

    /// Takes an instance back after a good invocation. Returns it when it is not to be kept.
    pub(crate) fn give_back(
        &self,
        mut instance: Box<Instance>,
        now: Instant,
    ) -> Option<Box<Instance>> {
        let worn = instance.uses >= INSTANCE_USES_MAX || now - instance.born >= INSTANCE_AGE_MAX;
        if !self.reuses() || worn {
            return Some(instance);
        }
        instance.last_used = now;
        self.idle.put(Stack::Warm, instance)
    }

    /// Adds an instance made ahead of time. Returns it when none is kept any more.
    pub(crate) fn add_virgin(&self, instance: Box<Instance>) -> Option<Box<Instance>> {
        self.stillborn.store(0, Relaxed);
        self.not_before_ms.store(0, Relaxed);
        self.idle.put(Stack::Virgin, instance)
    }

    /// An instance could not be made ahead of time: not again for a while.
    pub(crate) fn note_stillborn(&self, fault: Fault) {
        let now = clock::unix_ms();
        let (before, failures) = (self.not_before_ms.load(Relaxed), self.stillborn.load(Relaxed));
        let pause = match fault {
            Fault::Platform => STILLBORN_PAUSE_MS,
            Fault::Guest => (STILLBORN_PAUSE_MS << failures.min(16)).min(STILLBORN_PAUSE_MAX_MS),
        };
        // Those of other cores that were made at the same time have failed for the same: they count once.
        let is_first = now >= before
            && self.not_before_ms.compare_exchange(before, now + pause, Relaxed, Relaxed).is_ok();
        if is_first && matches!(fault, Fault::Guest) {
            self.stillborn.store(failures + 1, Relaxed);
        }
    }

    /// A guest trapped. When reused instances trap often and fresh ones never did, reuse is switched
    /// off; returns what was idle and used then.
    pub(crate) fn note_trap(&self, start: StartKind) -> Option<Vec<Kept>> {
        if start != StartKind::Warm {
            self.traps_fresh.fetch_add(1, Relaxed);
            return None;
        }
        let traps = self.traps_reused.fetch_add(1, Relaxed) + 1;
        let often = traps.saturating_mul(REUSE_TRAPS_OFTEN) >= self.uses_reused.load(Relaxed);
        let blame = traps >= REUSE_TRAPS_MAX && often && self.traps_fresh.load(Relaxed) == 0;
        if !blame || self.reuse_off.swap(true, Relaxed) {
            return None;
        }
        Some(self.idle.take_warm())
    }

    pub(crate) fn counts(&self) -> InstanceCounts {
        let (warm, prewarmed) = self.idle.counts();
        InstanceCounts {
            busy: self.busy.load(Relaxed),
            warm,
            prewarmed,
            stillborn: self.stillborn.load(Relaxed) > 0,
        }
    }

    /// Sets the number of instances wanted in all. Returns the idle ones beyond it, least recently
    /// used first, and those that have grown old.
    pub(crate) fn aim(&self, target: u32) -> Vec<Kept> {
        self.target.store(target, Relaxed);
        let mut out = self.idle.take_aged(clock::now());
        let surplus = self.counts().total().saturating_sub(target);
        let oldest = || {
            let warm = self.idle.take_oldest(Stack::Warm);
            warm.or_else(|| self.idle.take_oldest(Stack::Virgin))
        };
        out.extend((0..surplus).map_while(|_| oldest()));
        out
    }

    /// Whether one more instance is to be made ahead of time now, besides `making`.
    fn is_short(&self, making: u32) -> bool {
        !self.idle.is_closed()
            && self.counts().total().saturating_add(making) < self.target.load(Relaxed)
            && clock::unix_ms() >= self.not_before_ms.load(Relaxed)
    }

    /// Whether somebody shall make instances ahead of time.
    pub(crate) fn wants_more(&self) -> bool {
        self.is_short(self.making.load(Relaxed))
    }

    /// One more instance is to be made ahead of time now, by whoever holds this.
    pub(crate) fn make_one(&self) -> Option<Counted<'_>> {
        let one_more = |making| self.is_short(making).then_some(making + 1);
        self.making.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Counted::already(&self.making))
    }

    /// Whether some are being made ahead of time now.
    pub(crate) fn is_making(&self) -> bool {
        self.making.load(SeqCst) > 0
    }

    /// The right to make instances ahead of time on this core; none while somebody else has it.
    pub(crate) fn refilling(&self) -> Option<Refilling<'_>> {
        self.idle.refilling()
    }

    /// One more instance serves. From here on at least one is wanted, until the plan says otherwise:
    /// the next event shall not find nothing ready.
    pub(crate) fn busy_begin(&self) {
        self.target.fetch_max(1, Relaxed);
        self.busy.fetch_add(1, Relaxed);
    }

    pub(crate) fn busy_end(&self) {
        self.busy.fetch_sub(1, Relaxed);
    }

    /// Nothing is kept from now on. Returns what was idle.
    pub(crate) fn retire(&self) -> Vec<Kept> {
        self.idle.close()
    }

    /// When the least recently used idle instance was used.
    pub(crate) fn oldest_idle(&self) -> Option<Instant> {
        self.idle.oldest_use()
    }

    /// Removes one idle instance, the least recently used one.
    pub(crate) fn shed(&self) -> Option<Box<Instance>> {
        self.idle.shed()
    }
}
