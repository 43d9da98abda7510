//! Asynchronous invocations: each function has a queue, and this runs what is in it.
//!
//! One task looks around ([`Deferred::pump`]): whose turn it is ([`fair`]), how much there is room for,
//! and leases that much of all queues in one commit. Workers run what was leased, each as long as there is
//! a permit; what an attempt leads to is decided by [`rules`]; how an event ends is in `ends`.
//!
//! The count of attempts is durable before a run: it is part of the lease. An event that kills its worker
//! comes back as a lost attempt, and ends as a dead letter.

mod ends;
pub mod fair;
mod line;
pub mod rules;
mod run;
#[cfg(test)]
mod simulation;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use wambda_control::events::function_of;
use wambda_control::{Events, Identity};
use wambda_model::limits::{OUTCOMES_BYTES_MAX, OUTCOMES_MAX};
use wambda_model::{
    Backlog, BoxFuture, CatalogCell, Clock, Function, Invocation, Invoke, InvokeError, Metrics,
    Outcome, Permit, Version,
};
use wambda_store::Queues;
use wambda_store::queues::{Keep, LeaseOrder, Pick, QueueInfo};

use ends::Place;
use fair::Fair;
use line::Line;

/// Longest time between two looks around.
const LOOK: Duration = Duration::from_millis(1_000);
/// Time until the next look while somebody waits for room.
const SOON: Duration = Duration::from_millis(10);
/// Events of one lease for one function.
const LEASE_MAX: u32 = 512;
/// Events that are over by themselves, of one lease.
const OVER_MAX: u32 = 256;
/// Leased events of all functions together.
const IN_FLIGHT_MAX: usize = 8_192;
/// Period of showing the queues and of forgetting what is old.
const UPKEEP: Duration = Duration::from_secs(1);
/// Removals of one sweep.
const SWEEP_MAX: usize = 2_000;

/// Runs an invocation on a permit, whatever the function's kind.
pub type Runner = Arc<
    dyn Fn(Arc<Version>, Invocation, Permit) -> BoxFuture<'static, Result<Outcome, InvokeError>>
        + Send
        + Sync,
>;

/// What [`Deferred`] is made from.
pub struct Parts {
    /// Where events are.
    pub events: Arc<Events>,
    /// What there is to run.
    pub catalog: CatalogCell,
    /// Permits.
    pub invoke: Arc<dyn Invoke>,
    /// Running.
    pub run: Runner,
    /// Region and account.
    pub identity: Identity,
    /// Whether execution roles decide what destinations a function reaches.
    pub keys: bool,
    /// Threads for workers: events come after whoever waits for an answer.
    pub workers: Handle,
    /// Measurements.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Runs asynchronous invocations.
pub struct Deferred {
    queues: Arc<dyn Queues>,
    events: Arc<Events>,
    invoke: Arc<dyn Invoke>,
    run: Runner,
    place: Place,
    workers: Handle,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    lines: Mutex<BTreeMap<String, Arc<Line>>>,
    fair: Mutex<Fair>,
    /// Leased events.
    in_flight: AtomicUsize,
    /// Somebody may have something to do.
    wake: Notify,
}

impl std::fmt::Debug for Deferred {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deferred").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Invocations of a version at once.
fn limit_of(version: &Version) -> u32 {
    let kept = version.provisioned.load(Relaxed);
    version.share.current().limit().saturating_add(kept)
}

/// What a look around has found.
#[derive(Default)]
struct Look {
    orders: Vec<LeaseOrder>,
    /// Lines that may get something, when it is their turn.
    ready: Vec<(Arc<Line>, Arc<Function>)>,
    /// Queues' time of the next thing that is due.
    next_ms: Option<u64>,
    /// Whether somebody waits for room.
    is_held_up: bool,
}

impl Look {
    fn due_at(&mut self, at_ms: u64) {
        self.next_ms = Some(self.next_ms.map_or(at_ms, |next| next.min(at_ms)));
    }
}

impl Deferred {
    /// Nothing runs before [`Self::pump`] does.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { events, catalog, invoke, run, identity, keys, .. } = parts;
        let Parts { workers, metrics, clock, .. } = parts;
        let Identity { region, account } = identity;
        Arc::new(Self {
            queues: Arc::clone(events.queues()),
            events,
            invoke,
            run,
            place: Place { catalog, region, account, keys },
            workers,
            metrics,
            clock,
            lines: Mutex::default(),
            fair: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            wake: Notify::new(),
        })
    }

    /// Runs events until `ready` is false; then gives back what has not begun, and waits for what has.
    pub async fn pump(self: Arc<Self>, mut ready: watch::Receiver<bool>) {
        let changed = self.queues.changed();
        while *ready.borrow() {
            let pause = self.look().await;
            tokio::select! {
                biased;
                () = changed.notified() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                _ = ready.changed() => {}
            }
        }
        let lines: Vec<Arc<Line>> = lock(&self.lines).values().cloned().collect();
        for line in lines {
            self.give_back(&line, Duration::ZERO);
        }
        while self.in_flight.load(Relaxed) > 0 {
            tokio::time::sleep(SOON).await;
        }
    }

    /// Shows the queues, and forgets what is old, until it is dropped.
    pub async fn upkeep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(UPKEEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.show();
            // A failing medium is reported by whoever writes something that matters.
            while self.sweep().await.is_ok_and(|removed| removed >= SWEEP_MAX) {}
        }
    }

    async fn sweep(&self) -> Result<usize, wambda_store::queues::QueueError> {
        let now = self.queues.now_ms();
        let infos = self.queues.infos();
        let old = |(name, info): &(String, Arc<QueueInfo>)| {
            function_of(name).is_none() && info.expires_ms() <= now
        };
        let keep = Keep {
            outcome_age: self.events.settings().outcome_age,
            outcomes: OUTCOMES_MAX,
            outcome_bytes: OUTCOMES_BYTES_MAX,
            trim: infos.iter().filter(|entry| old(entry)).map(|(name, _)| name.clone()).collect(),
            limit: SWEEP_MAX,
        };
        self.queues.sweep(keep).await
    }

    /// Shows depth and age of every queue.
    pub fn show(&self) {
        let now = self.queues.now_ms();
        let shown: Vec<(String, u64, f64)> = self
            .queues
            .infos()
            .into_iter()
            .map(|(name, info)| {
                let age = info.oldest_ms().map_or(0, |oldest| now.saturating_sub(oldest));
                (name, info.count(), age as f64 / 1e3)
            })
            .collect();
        self.metrics.show_queues(&shown);
    }

    /// Looks who has something to do, leases it, and has it run. Returns when to look again.
    async fn look(self: &Arc<Self>) -> Duration {
        let mut look = self.survey();
        self.allot(&mut look);
        let pause = match look.next_ms {
            _ if look.is_held_up => SOON,
            Some(at) => Duration::from_millis(at.saturating_sub(self.queues.now_ms())).min(LOOK),
            None => LOOK,
        };
        let pause = if look.orders.is_empty() {
            pause
        } else {
            match self.queues.lease(look.orders).await {
                Ok(leased) => {
                    let got = leased.len();
                    self.in_flight.fetch_add(got, Relaxed);
                    leased.into_iter().for_each(|message| self.receive(message));
                    // More may be there: look again as soon as there is room.
                    if got > 0 { SOON.min(pause) } else { pause }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot lease events");
                    SOON * 10
                }
            }
        };
        for (line, _) in &look.ready {
            self.employ(line);
        }
        pause
    }

    /// Which queues have something to do, and which events are over by themselves.
    fn survey(self: &Arc<Self>) -> Look {
        let (now, mut look) = (self.queues.now_ms(), Look::default());
        let mut known = BTreeMap::new();
        for (queue, info) in self.queues.infos() {
            let Some(name) = function_of(&queue) else { continue };
            let line = lock(&self.lines).get(&queue).cloned();
            if info.waiting() == 0 && line.as_ref().is_none_or(|line| line.is_idle()) {
                continue;
            }
            let line = line.unwrap_or_else(|| Arc::new(Line::new(name, queue.clone())));
            known.insert(queue.clone(), Arc::clone(&line));
            let function = self.place.catalog.get(&line.name);
            let order = |pick, max| {
                let visibility = self.events.settings().lease_slack;
                LeaseOrder { queue: queue.clone(), max, visibility, pick }
            };
            if info.expires_ms() <= now {
                look.orders.push(order(Pick::Expired, OVER_MAX));
            } else {
                look.due_at(info.expires_ms());
            }
            if !info.is_paused() {
                look.due_at(info.next_ms().max(now + 1));
            }
            let can_run = function.filter(|f| f.details.reserved != Some(0));
            let Some(function) = can_run else {
                if info.next_ms() <= now {
                    look.orders.push(order(Pick::Due, OVER_MAX));
                }
                continue;
            };
            if info.is_paused() {
                self.give_back(&line, Duration::ZERO);
            }
            self.tell(&function.latest, &line, &info, now);
            if !info.is_paused() && (info.next_ms() <= now || line.has_buffered()) {
                look.ready.push((line, function));
            }
        }
        let before = std::mem::replace(&mut *lock(&self.lines), known);
        let lines = lock(&self.lines);
        for (queue, line) in before.iter().filter(|(queue, _)| !lines.contains_key(*queue)) {
            tracing::debug!(queue, "nothing left");
            if let Some(version) = self.place.catalog.latest(&line.name) {
                self.invoke.set_backlog(&version, Backlog::default());
            }
        }
        lock(&self.fair).retain(|queue| lines.contains_key(queue));
        look
    }

    /// Tells the plan what waits for a version.
    fn tell(&self, version: &Arc<Version>, line: &Line, info: &QueueInfo, now: u64) {
        let due = info.next_ms() <= now && !info.is_paused();
        let fresh = info.waiting().saturating_sub(info.retrying());
        // Of those that wait for another attempt, few are due at a time.
        let count = if due { fresh + info.retrying().min(u64::from(LEASE_MAX)) } else { 0 };
        let record = line.record();
        let backlog = Backlog {
            count: count + line.buffered() as u64,
            error_ratio: record.error_ratio(),
            most: record.brake(limit_of(version)),
        };
        self.invoke.set_backlog(version, backlog);
    }

    /// Orders for those whose turn it is, as much as there is room for.
    fn allot(self: &Arc<Self>, look: &mut Look) {
        // Names in turn, not always the same one first.
        let start = fastrand::usize(..look.ready.len().max(1));
        look.ready.rotate_left(start);
        let mut fair = lock(&self.fair);
        let mut in_flight = self.in_flight.load(Relaxed);
        let slack = self.events.settings().lease_slack;
        let mut asking = Vec::new();
        for (line, function) in &look.ready {
            fair.charge(&line.queue, line.take_spent());
            let room = self.invoke.room(&function.latest);
            let wish = line.wish(room);
            if line.has_buffered() {
                self.give_back(line, line::BUFFER_AGE);
            }
            look.is_held_up |= line.is_starving() && (wish == 0 || line.has_buffered());
            if wish > 0 {
                asking.push((Arc::clone(line), function.latest.config.timeout(), wish));
            }
        }
        let names: Vec<&str> = asking.iter().map(|(line, ..)| line.queue.as_str()).collect();
        let may = fair.turn(&names);
        for ((line, timeout, wish), may) in asking.iter().zip(may) {
            let afford = line.record().affords(fair.left(&line.queue));
            let left = u32::try_from(IN_FLIGHT_MAX.saturating_sub(in_flight)).unwrap_or(u32::MAX);
            let max = (*wish).min(afford).min(LEASE_MAX).min(left);
            look.is_held_up |= !may || max == 0;
            if may && max > 0 {
                in_flight += max as usize;
                let (queue, visibility) = (line.queue.clone(), *timeout + slack);
                look.orders.push(LeaseOrder { queue, max, visibility, pick: Pick::Due });
            }
        }
    }
}
