//! The one door into functions, and the tick that keeps their instances.

use std::sync::Arc;
use std::time::Duration;

use papaya::HashMap;
use wambda_model::scaling::ScalingReport;
use wambda_model::{
    BoxFuture, Budget, CatalogCell, Clock, Execute, FunctionName, Invocation, Invoke, InvokeError,
    Outcome, Payload, Version,
};

use crate::lane::{Admission, Lane};
use crate::plan::{ScaleLimits, plan};

/// Period of the plan.
pub const TICK: Duration = Duration::from_millis(100);
/// What an instance is taken to hold before one has been seen.
const INSTANCE_BYTES_GUESS: u64 = 2 << 20;

/// Admits invocations and scales functions.
pub struct Dispatcher {
    execute: Arc<dyn Execute>,
    lanes: HashMap<FunctionName, Arc<Lane>>,
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
        Self { execute, lanes: HashMap::new(), catalog, budget, clock, cores }
    }

    fn lane(&self, version: &Arc<Version>) -> Arc<Lane> {
        let lanes = self.lanes.pin();
        if let Some(lane) = lanes.get(&version.name) {
            return Arc::clone(lane);
        }
        let make = || {
            let clock = Arc::clone(&self.clock);
            Lane::new(Arc::clone(version), clock, self.cores, Arc::clone(&self.budget))
        };
        Arc::clone(lanes.get_or_insert_with(version.name.clone(), make))
    }

    /// Brings the lanes in line with the catalog: new versions, and functions that are gone.
    /// Idempotent; run after a publish and on a period.
    pub fn reconcile(&self) {
        let catalog = self.catalog.load();
        for function in catalog.iter() {
            let (known, latest) =
                (self.lanes.pin().get(&function.latest.name).cloned(), &function.latest);
            match known {
                Some(lane) if lane.version().uid != latest.uid => lane.set_version(latest),
                None if latest.config.provisioned > 0 => drop(self.lane(latest)),
                _ => {}
            }
        }
        let lanes = self.lanes.pin();
        for (name, lane) in &lanes {
            if catalog.get(name).is_none() && lane.is_quiet() {
                lanes.remove(name);
            }
        }
        self.execute.retain(&|version| {
            catalog.get(&version.name).is_some_and(|function| function.latest.uid == version.uid)
        });
    }

    /// One round of the plan.
    pub fn tick(&self) {
        // Not at admission: each one would evict everybody while a single guest holds the memory.
        self.budget.relieve();
        let mut lanes: Vec<Arc<Lane>> = Vec::new();
        let catalog = self.catalog.load();
        for (name, lane) in &self.lanes.pin() {
            if lane.is_active() && catalog.get(name).is_some() {
                lanes.push(Arc::clone(lane));
            }
        }
        let live: u32 = lanes.iter().map(|l| self.execute.counts(&l.version()).total()).sum();
        let mean = self.budget.used().checked_div(u64::from(live)).unwrap_or(INSTANCE_BYTES_GUESS);
        let mut stats = Vec::with_capacity(lanes.len());
        lanes.retain(|lane| {
            lane.nudge();
            let seen = lane.tick(mean.max(64 << 10));
            stats.extend(seen);
            seen.is_some()
        });
        let limits = ScaleLimits { memory_bytes: self.budget.limit() };
        for (lane, target) in lanes.iter().zip(plan(&stats, &limits)) {
            let version = lane.decide(target);
            self.execute.keep_warm(&version, target.desired);
            version.metrics.show_instances(self.execute.counts(&version));
        }
    }
}

impl Invoke for Dispatcher {
    fn invoke(
        &self,
        version: &Arc<Version>,
        invocation: Invocation,
    ) -> BoxFuture<'_, Result<Outcome, InvokeError>> {
        let limit = version.config.payload_bytes;
        if let Payload::Event(event) = &invocation.payload
            && event.len() as u64 > limit
        {
            let size = event.len() as u64;
            return Box::pin(async move { Err(InvokeError::PayloadTooLarge { limit, size }) });
        }
        match self.lane(version).admit(version, invocation.payload.waiting_bytes()) {
            Ok(Admission::Granted(permit)) => self.execute.execute(version, invocation, permit),
            Ok(Admission::Waiting(waiting)) => {
                let version = Arc::clone(version);
                Box::pin(async move {
                    let permit = waiting.permit(&version).await?;
                    self.execute.execute(&version, invocation, permit).await
                })
            }
            Err(refused) => Box::pin(async move { Err(refused) }),
        }
    }

    fn running(&self) -> u64 {
        self.lanes.pin().values().map(|lane| u64::from(lane.running())).sum()
    }

    fn scaling(&self, version: &Arc<Version>) -> ScalingReport {
        let lane = self.lanes.pin().get(&version.name).cloned();
        let mut report = lane.map(|lane| lane.report()).unwrap_or_default();
        report.instances = self.execute.counts(version);
        report
    }
}
