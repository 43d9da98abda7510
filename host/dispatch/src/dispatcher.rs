//! The one door into functions, and the tick that keeps their instances.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use papaya::HashMap;
use rustc_hash::FxBuildHasher;
use wambda_model::invocation::InstanceCounts;
use wambda_model::scaling::ScalingReport;
use wambda_model::{
    Backlog, BoxFuture, Budget, CatalogCell, Clock, Execute, FunctionMetrics, Invocation, Invoke,
    InvokeError, Outcome, Payload, Permit, Version,
};

use crate::lane::{Admission, Lane};
use crate::plan::{ScaleLimits, plan};

/// Period of the plan.
pub const TICK: Duration = Duration::from_millis(100);
/// What an instance is taken to hold before one has been seen.
const INSTANCE_BYTES_GUESS: u64 = 2 << 20;
/// What an instance is taken to hold at least: a page, and what the host has of it.
const INSTANCE_BYTES_MIN: u64 = 64 << 10;

/// Admits invocations and scales functions.
pub struct Dispatcher {
    execute: Arc<dyn Execute>,
    /// By the number of their version.
    lanes: HashMap<u64, Arc<Lane>, FxBuildHasher>,
    /// Functions whose gauges were shown in the last round.
    shown: Mutex<BTreeMap<usize, Shown>>,
    /// Second of the last sample.
    sampled: AtomicU64,
    catalog: CatalogCell,
    budget: Arc<Budget>,
    clock: Arc<dyn Clock>,
    cores: u32,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// A dispatcher for the functions of `catalog`; `cores` permits per function are never queued.
    #[must_use]
    pub fn new(
        execute: Arc<dyn Execute>,
        catalog: CatalogCell,
        budget: Arc<Budget>,
        clock: Arc<dyn Clock>,
        cores: u32,
    ) -> Self {
        Self {
            execute,
            // The numbers are our own.
            lanes: HashMap::with_hasher(FxBuildHasher),
            shown: Mutex::default(),
            sampled: AtomicU64::new(0),
            catalog,
            budget,
            clock,
            cores,
        }
    }

    fn lane(&self, version: &Arc<Version>) -> Arc<Lane> {
        let lanes = self.lanes.pin();
        if let Some(lane) = lanes.get(&version.uid) {
            return Arc::clone(lane);
        }
        let make = || {
            let clock = Arc::clone(&self.clock);
            Lane::new(Arc::clone(version), clock, self.cores, Arc::clone(&self.budget))
        };
        Arc::clone(lanes.get_or_insert_with(version.uid, make))
    }

    /// Brings the lanes in line with the catalog: new versions, and versions that are gone.
    /// Idempotent; run after a publish and on a period.
    pub fn reconcile(&self) {
        let catalog = self.catalog.load();
        let mut live = HashSet::new();
        let lanes = self.lanes.pin();
        for function in catalog.iter() {
            for version in function.all_versions() {
                live.insert(version.uid);
                if version.provisioned.load(Relaxed) > 0 {
                    self.lane(version).wake();
                }
            }
        }
        for (uid, lane) in &lanes {
            if live.contains(uid) {
                continue;
            }
            let version = lane.version();
            let successor = catalog.get(&version.name).filter(|_| version.number.is_none());
            if let Some(function) = successor
                && lane.is_active()
            {
                self.lane(&function.latest).succeed(lane);
            }
            if lane.is_quiet() {
                lanes.remove(uid);
            }
        }
        self.execute.retain(&|version| live.contains(&version.uid));
    }

    /// One round of the plan.
    pub fn tick(&self) {
        // Not at admission: each one would evict everybody while a single guest holds the memory.
        self.budget.relieve();
        let mut lanes: Vec<Arc<Lane>> = Vec::new();
        let catalog = self.catalog.load();
        let is_live = |version: &Version| {
            let function = catalog.get(&version.name);
            function.and_then(|f| f.version(&version.label)).is_some_and(|v| v.uid == version.uid)
        };
        for lane in self.lanes.pin().values() {
            if lane.is_active() && is_live(lane.version()) {
                lanes.push(Arc::clone(lane));
            } else if !lane.is_quiet() {
                // Of a version that is gone: those who wait are still served.
                lane.nudge();
                let _ = lane.tick(0);
            }
        }
        let mut stats = Vec::with_capacity(lanes.len());
        lanes.retain(|lane| {
            lane.nudge();
            let bytes = self.execute.instance_bytes(lane.version());
            let seen = lane.tick(bytes.unwrap_or(INSTANCE_BYTES_GUESS).max(INSTANCE_BYTES_MIN));
            stats.extend(seen);
            seen.is_some()
        });
        let limits = ScaleLimits { memory_bytes: self.budget.limit() };
        for (lane, target) in lanes.iter().zip(plan(&stats, &limits)) {
            lane.decide(target);
            self.execute.keep_warm(lane.version(), target.desired);
        }
        self.show();
    }

    /// Once a second, shows each function's lanes in its gauges, and samples its counters.
    fn show(&self) {
        let unix_ms = self.clock.unix_ms();
        if self.sampled.swap(unix_ms / 1_000, Relaxed) == unix_ms / 1_000 {
            return;
        }
        // Versions of a function share their metrics.
        let mut all: BTreeMap<usize, Shown> = BTreeMap::new();
        for lane in self.lanes.pin().values().filter(|lane| lane.is_active()) {
            let version = lane.version();
            let (depth, oldest) = lane.queue();
            let counts = self.execute.counts(version);
            let key = Arc::as_ptr(&version.metrics) as usize;
            let shown = all.entry(key).or_insert_with(|| Shown {
                metrics: Arc::clone(&version.metrics),
                instances: InstanceCounts::default(),
                depth: 0,
                oldest: Duration::ZERO,
                running: 0,
                desired: 0,
            });
            shown.instances.busy += counts.busy;
            shown.instances.warm += counts.warm;
            shown.instances.prewarmed += counts.prewarmed;
            shown.depth += depth;
            shown.oldest = shown.oldest.max(oldest);
            shown.running += lane.take_peak();
            shown.desired += lane.desired();
        }
        let mut before = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, gone) in before.iter().filter(|(key, _)| !all.contains_key(*key)) {
            gone.metrics.show_instances(InstanceCounts::default(), 0);
            gone.metrics.show_queue(0, Duration::ZERO);
            gone.metrics.sample(unix_ms, 0);
        }
        for shown in all.values() {
            shown.metrics.show_instances(shown.instances, shown.desired);
            shown.metrics.show_queue(shown.depth, shown.oldest);
            shown.metrics.sample(unix_ms, shown.running);
        }
        *before = all;
    }
}

/// What the gauges of a function show: the sum over its versions.
struct Shown {
    metrics: Arc<FunctionMetrics>,
    instances: InstanceCounts,
    depth: usize,
    oldest: Duration,
    running: u32,
    desired: u32,
}

/// Whether the event is larger than the version takes.
fn too_large(version: &Version, invocation: &Invocation) -> Option<InvokeError> {
    let limit = version.config.payload_bytes;
    let Payload::Event(event) = &invocation.payload else { return None };
    let size = event.len() as u64;
    (size > limit).then_some(InvokeError::PayloadTooLarge { limit, size })
}

impl Invoke for Dispatcher {
    fn invoke(
        &self,
        version: &Arc<Version>,
        invocation: Invocation,
    ) -> BoxFuture<'_, Result<Outcome, InvokeError>> {
        if let Some(error) = too_large(version, &invocation) {
            return Box::pin(async move { Err(error) });
        }
        match self.lane(version).admit(invocation.payload.waiting_bytes()) {
            Ok(Admission::Granted(permit)) => self.execute.execute(version, invocation, permit),
            Ok(Admission::Waiting(waiting)) => {
                let version = Arc::clone(version);
                Box::pin(async move {
                    let permit = waiting.permit().await?;
                    self.execute.execute(&version, invocation, permit).await
                })
            }
            Err(refused) => Box::pin(async move { Err(refused) }),
        }
    }

    fn room(&self, version: &Arc<Version>) -> u32 {
        self.lane(version).room()
    }

    fn permit(&self, version: &Arc<Version>) -> Option<Permit> {
        self.lane(version).permit()
    }

    fn run(
        &self,
        version: &Arc<Version>,
        invocation: Invocation,
        permit: Permit,
    ) -> BoxFuture<'static, Result<Outcome, InvokeError>> {
        if let Some(error) = too_large(version, &invocation) {
            drop(permit);
            return Box::pin(async move { Err(error) });
        }
        self.execute.execute(version, invocation, permit.begin(self.clock.now()))
    }

    fn set_backlog(&self, version: &Arc<Version>, backlog: Backlog) {
        // Who has nothing waiting, and never had, needs no lane for it.
        let lane = self.lanes.pin().get(&version.uid).cloned();
        match lane {
            Some(lane) => lane.set_backlog(backlog),
            None if backlog.count > 0 => self.lane(version).set_backlog(backlog),
            None => {}
        }
    }

    fn running(&self) -> u64 {
        self.lanes.pin().values().map(|lane| u64::from(lane.running())).sum()
    }

    fn scaling(&self, version: &Arc<Version>) -> ScalingReport {
        let lane = self.lanes.pin().get(&version.uid).cloned();
        let mut report = lane.map(|lane| lane.report()).unwrap_or_default();
        report.instances = self.execute.counts(version);
        report
    }
}
