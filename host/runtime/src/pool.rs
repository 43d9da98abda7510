//! The instances of one version: idle ones, used or virgin, and how many there are.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::OnceCell;
use wambda_model::invocation::InstanceCounts;
use wambda_model::limits::{INSTANCE_AGE_MAX, INSTANCE_USES_MAX};
use wambda_model::{Reuse, StartKind, Version};

use crate::engine::EngineKind;
use crate::instance::Instance;
use crate::link::Prepared;

/// Traps in reused instances, without one in a fresh instance, after which reuse is switched off.
const REUSE_TRAPS_MAX: u32 = 3;

/// What a loaded version is.
pub(crate) struct Ready {
    pub(crate) prepared: Prepared,
    pub(crate) engine: EngineKind,
}

/// One version and its instances.
pub(crate) struct Unit {
    pub(crate) version: Arc<Version>,
    /// Loaded at the first use, and then kept.
    pub(crate) ready: OnceCell<Ready>,
    idle: Mutex<Idle>,
    busy: AtomicU32,
    /// Instances being made ahead of time.
    making: AtomicU32,
    /// Instances wanted in all.
    target: AtomicU32,
    retired: AtomicBool,
    reuse_off: AtomicBool,
    traps_reused: AtomicU32,
    traps_fresh: AtomicU32,
    /// Consecutive failures to make an instance ahead of time.
    stillborn: AtomicU32,
}

#[derive(Default)]
struct Idle {
    /// Least recently used first.
    warm: Vec<Instance>,
    virgin: Vec<Instance>,
}

/// Failures after which nothing is made ahead of time until an invocation succeeds.
const STILLBORN_MAX: u32 = 3;

impl Unit {
    pub(crate) fn new(version: &Arc<Version>) -> Self {
        Self {
            version: Arc::clone(version),
            ready: OnceCell::new(),
            idle: Mutex::default(),
            busy: AtomicU32::new(0),
            making: AtomicU32::new(0),
            target: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            reuse_off: AtomicBool::new(false),
            traps_reused: AtomicU32::new(0),
            traps_fresh: AtomicU32::new(0),
            stillborn: AtomicU32::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether instances serve again.
    pub(crate) fn reuses(&self) -> bool {
        self.version.reuse == Reuse::Warm && !self.reuse_off.load(Relaxed)
    }

    /// An idle instance: the most recently used one, or else a virgin one.
    pub(crate) fn take(&self) -> Option<(Instance, StartKind)> {
        let mut idle = self.lock();
        if let Some(instance) = idle.warm.pop() {
            return Some((instance, StartKind::Warm));
        }
        idle.virgin.pop().map(|instance| (instance, StartKind::Prewarmed))
    }

    /// Takes an instance back after a good invocation. Returns it when it is not to be kept.
    pub(crate) fn give_back(&self, mut instance: Instance, now: Instant) -> Option<Instance> {
        self.stillborn.store(0, Relaxed);
        let worn = instance.uses >= INSTANCE_USES_MAX || now - instance.born >= INSTANCE_AGE_MAX;
        if !self.reuses() || worn || self.retired.load(Relaxed) {
            return Some(instance);
        }
        instance.last_used = now;
        self.lock().warm.push(instance);
        None
    }

    /// Adds an instance made ahead of time. Returns it when it is not wanted any more.
    pub(crate) fn add_virgin(&self, instance: Instance) -> Option<Instance> {
        self.stillborn.store(0, Relaxed);
        if self.retired.load(Relaxed) {
            return Some(instance);
        }
        self.lock().virgin.push(instance);
        None
    }

    /// An instance could not be made ahead of time.
    pub(crate) fn note_stillborn(&self) {
        self.stillborn.fetch_add(1, Relaxed);
    }

    /// A guest trapped. Returns whether that switched reuse off just now.
    pub(crate) fn note_trap(&self, start: StartKind) -> bool {
        if start != StartKind::Warm {
            self.traps_fresh.fetch_add(1, Relaxed);
            return false;
        }
        let reused = self.traps_reused.fetch_add(1, Relaxed) + 1;
        reused >= REUSE_TRAPS_MAX
            && self.traps_fresh.load(Relaxed) == 0
            && !self.reuse_off.swap(true, Relaxed)
    }

    pub(crate) fn counts(&self) -> InstanceCounts {
        let (warm, prewarmed) = {
            let idle = self.lock();
            (idle.warm.len(), idle.virgin.len())
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        InstanceCounts {
            busy: self.busy.load(Relaxed),
            warm: count(warm),
            prewarmed: count(prewarmed),
        }
    }

    /// Sets the number of instances wanted in all. Returns the idle ones beyond it, least recently
    /// used first.
    pub(crate) fn aim(&self, target: u32) -> Vec<Instance> {
        self.target.store(target, Relaxed);
        let surplus = self.counts().total().saturating_sub(target) as usize;
        let mut idle = self.lock();
        let from_warm = surplus.min(idle.warm.len());
        let mut out: Vec<_> = idle.warm.drain(..from_warm).collect();
        let from_virgin = (surplus - from_warm).min(idle.virgin.len());
        out.extend(idle.virgin.drain(..from_virgin));
        out
    }

    /// Whether fewer instances are there, or being made, than wanted.
    pub(crate) fn is_short(&self) -> bool {
        let there = self.counts().total() + self.making.load(Relaxed);
        there < self.target.load(Relaxed) && self.stillborn.load(Relaxed) < STILLBORN_MAX
    }

    /// Whether one more instance is to be made ahead of time; if so, it counts as being made.
    pub(crate) fn wants_one(&self) -> bool {
        if self.retired.load(Relaxed) || self.stillborn.load(Relaxed) >= STILLBORN_MAX {
            return false;
        }
        let making = self.making.fetch_add(1, Relaxed);
        let wants = self.counts().total() + making < self.target.load(Relaxed);
        if !wants {
            self.making.fetch_sub(1, Relaxed);
        }
        wants
    }

    /// The one that [`Self::wants_one`] announced is made, or failed.
    pub(crate) fn made(&self) {
        self.making.fetch_sub(1, Relaxed);
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
    pub(crate) fn retire(&self) -> Vec<Instance> {
        self.retired.store(true, Relaxed);
        self.aim(0)
    }

    /// When the least recently used idle instance was used.
    pub(crate) fn oldest_idle(&self) -> Option<Instant> {
        let idle = self.lock();
        let oldest = |list: &Vec<Instance>| list.iter().map(|i| i.last_used).min();
        oldest(&idle.warm).into_iter().chain(oldest(&idle.virgin)).min()
    }

    /// Removes one idle instance, the least recently used one.
    pub(crate) fn shed(&self) -> Option<Instance> {
        let mut idle = self.lock();
        if !idle.virgin.is_empty() {
            return Some(idle.virgin.remove(0));
        }
        (!idle.warm.is_empty()).then(|| idle.warm.remove(0))
    }
}
