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
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use wambda_control::{Events, Identity};
use wambda_model::event::async_owner;
use wambda_model::limits::{LEASE_BYTES_MAX, LEASED_BYTES_MAX, OUTCOMES_BYTES_MAX, OUTCOMES_MAX};
use wambda_model::{
    Backlog, BoxFuture, CatalogCell, Clock, Function, Invocation, Invoke, InvokeError, LATEST,
    Metrics, Outcome, Permit, Version,
};
use wambda_store::Queues;
use wambda_store::queues::{Keep, LeaseOrder, Message, Pick, QueueInfo};

use ends::Place;
use fair::Fair;
use line::Line;

/// Longest time between two looks around.
const LOOK: Duration = Duration::from_millis(1_000);
/// Time until the next look while somebody waits for room.
const SOON: Duration = Duration::from_millis(10);
/// The same while its workers are at work: they say when they are done, and the plan may allow more.
const LATER: Duration = Duration::from_millis(100);
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
    in_flight: Arc<InFlight>,
    /// When the accounts of CPU time were looked at last.
    looked: Mutex<Instant>,
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

/// The longest timeout of a function's versions: a lease outlasts whichever runs.
fn longest(function: &Function) -> Duration {
    function.all_versions().map(|version| version.config.timeout()).max().unwrap_or_default()
}

/// Invocations of a version at once.
fn limit_of(version: &Version) -> u32 {
    let kept = version.provisioned.load(Relaxed);
    version.share.current().limit().saturating_add(kept)
}

/// Who has something due.
struct Ready {
    line: Arc<Line>,
    function: Arc<Function>,
    /// What the qualifier means, mostly: an alias may mean a second version as well.
    version: Arc<Version>,
}

/// Leased events, and their bytes.
#[derive(Debug, Default)]
struct InFlight {
    count: AtomicUsize,
    bytes: AtomicU64,
}

impl InFlight {
    fn is_full(&self) -> bool {
        self.count.load(Relaxed) >= IN_FLIGHT_MAX || self.bytes.load(Relaxed) >= LEASED_BYTES_MAX
    }
}

/// A leased event; it is in flight until this is dropped.
struct Leased {
    message: Message,
    in_flight: Arc<InFlight>,
}

impl Leased {
    fn new(message: Message, in_flight: &Arc<InFlight>) -> Self {
        in_flight.count.fetch_add(1, Relaxed);
        in_flight.bytes.fetch_add(message.body_bytes, Relaxed);
        Self { message, in_flight: Arc::clone(in_flight) }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.in_flight.count.fetch_sub(1, Relaxed);
        self.in_flight.bytes.fetch_sub(self.message.body_bytes, Relaxed);
    }
}

/// What a look around has found.
#[derive(Default)]
struct Look {
    orders: Vec<LeaseOrder>,
    /// Lines that may get something, when it is their turn.
    ready: Vec<Ready>,
    /// Queues' time of the next thing that is due.
    next_ms: Option<u64>,
    /// Whether somebody waits for room, and nobody works there.
    is_held_up: bool,
    /// Whether somebody waits behind others of theirs.
    is_waiting: bool,
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
            looked: Mutex::new(clock.now()),
            clock,
            lines: Mutex::default(),
            fair: Mutex::default(),
            in_flight: Arc::default(),
            wake: Notify::new(),
        })
    }

    /// Runs events until `ready` is false; then gives back what has not begun, and waits for what has.
    pub async fn pump(self: Arc<Self>, mut ready: watch::Receiver<bool>) {
        let changed = self.queues.changed();
        while *ready.borrow() {
            // Counted where it happened.
            let looked = AssertUnwindSafe(self.look()).catch_unwind().await;
            let pause = looked.unwrap_or(LOOK);
            tokio::select! {
                biased;
                () = changed.notified() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                _ = ready.changed() => {}
            }
        }
        while self.in_flight.count.load(Relaxed) > 0 {
            let lines: Vec<Arc<Line>> = lock(&self.lines).values().cloned().collect();
            for line in lines {
                self.give_back(&line, Duration::ZERO);
            }
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
            async_owner(name).is_none() && info.expires_ms() <= now
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
                // Older versions took any text for a qualifier.
                let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic());
                let name = if is_plain { name } else { name.escape_default().to_string() };
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
            _ if look.is_waiting => LATER,
            Some(at) => Duration::from_millis(at.saturating_sub(self.queues.now_ms())).min(LOOK),
            None => LOOK,
        };
        let pause = if look.orders.is_empty() {
            pause
        } else {
            match self.queues.lease(look.orders).await {
                Ok(leased) => {
                    let got = leased.len();
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
        for Ready { line, version, .. } in &look.ready {
            self.employ(line, version);
        }
        pause
    }

    /// Which queues have something to do, and which events are over by themselves.
    fn survey(self: &Arc<Self>) -> Look {
        let (now, mut look) = (self.queues.now_ms(), Look::default());
        let mut known = BTreeMap::new();
        for (queue, info) in self.queues.infos() {
            let Some((name, qualifier)) = async_owner(&queue) else { continue };
            let line = lock(&self.lines).get(&queue).cloned();
            // A lease that is over, and that nobody has settled, is something to do as well.
            let has_due = info.waiting() > 0 || info.next_ms() <= now;
            if !has_due && line.as_ref().is_none_or(|line| line.is_idle()) {
                continue;
            }
            let new = || Arc::new(Line::new((name, qualifier), queue.clone()));
            let line = line.unwrap_or_else(new);
            known.insert(queue.clone(), Arc::clone(&line));
            let order = |pick, max| {
                let visibility = self.events.settings().lease_slack;
                LeaseOrder { queue: queue.clone(), max, bytes: LEASE_BYTES_MAX, visibility, pick }
            };
            let is_full = self.in_flight.is_full();
            look.is_held_up |= is_full;
            if info.expires_ms() <= now {
                if !is_full {
                    look.orders.push(order(Pick::Expired, OVER_MAX));
                }
            } else {
                look.due_at(info.expires_ms());
            }
            if !info.is_paused() && info.next_ms() > now {
                look.due_at(info.next_ms());
            }
            let Some((function, version)) = self.runs(&line) else {
                self.give_back(&line, Duration::ZERO);
                if info.next_ms() <= now && !is_full {
                    look.orders.push(order(Pick::Due, OVER_MAX));
                }
                continue;
            };
            if info.is_paused() {
                self.give_back(&line, Duration::ZERO);
            }
            self.tell(&version, &line, &info, now);
            if !info.is_paused() && (info.next_ms() <= now || line.has_buffered()) {
                look.ready.push(Ready { line, function, version });
            }
        }
        let before = std::mem::replace(&mut *lock(&self.lines), known);
        let lines = lock(&self.lines);
        for (queue, line) in before.iter().filter(|(queue, _)| !lines.contains_key(*queue)) {
            tracing::debug!(queue, "nothing left");
            if let Some((_, version)) = self.runs(line) {
                self.invoke.set_backlog(&version, Backlog::default());
            }
        }
        lock(&self.fair).retain(|queue| lines.contains_key(queue));
        look
    }

    /// The function and the version that a line's events run on; none when they cannot.
    fn runs(&self, line: &Line) -> Option<(Arc<Function>, Arc<Version>)> {
        let function = self.place.catalog.get(&line.name)?;
        let target = function.resolve(line.qualifier.as_deref().unwrap_or(LATEST), || 1.0)?;
        (function.details.reserved != Some(0)).then_some((function, target.version))
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
        let mut in_flight = self.in_flight.count.load(Relaxed);
        let is_full = self.in_flight.is_full();
        let slack = self.events.settings().lease_slack;
        let mut asking = Vec::new();
        for Ready { line, function, version } in &look.ready {
            fair.charge(&line.queue, line.take_spent());
            let room = self.invoke.room(version);
            let wish = line.wish(room);
            if line.has_buffered() {
                self.give_back(line, line::BUFFER_AGE);
            }
            look.is_held_up |= line.is_starving() && (wish == 0 || line.has_buffered());
            look.is_waiting |= wish == 0;
            if wish > 0 {
                asking.push((Arc::clone(line), longest(function), wish));
            }
        }
        let names: Vec<&str> = asking.iter().map(|(line, ..)| line.queue.as_str()).collect();
        let now = self.clock.now();
        let passed =
            now.saturating_duration_since(std::mem::replace(&mut *lock(&self.looked), now));
        let may = fair.turn(&names, passed);
        for ((line, timeout, wish), may) in asking.iter().zip(may) {
            let afford = line.record().affords(fair.left(&line.queue));
            let left = u32::try_from(IN_FLIGHT_MAX.saturating_sub(in_flight)).unwrap_or(u32::MAX);
            let max = (*wish).min(afford).min(LEASE_MAX).min(left);
            look.is_held_up |= !may || max == 0;
            if may && max > 0 && !is_full {
                in_flight += max as usize;
                let (queue, visibility) = (line.queue.clone(), *timeout + slack);
                let (bytes, pick) = (LEASE_BYTES_MAX, Pick::Due);
                look.orders.push(LeaseOrder { queue, max, bytes, visibility, pick });
            }
        }
    }
}
