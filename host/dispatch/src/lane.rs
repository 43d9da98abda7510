//! One version's permits, and the bounded queue of those who wait for one.
//!
//! Beyond what is provisioned for the version, a permit takes a place in the function's reserved
//! concurrency, or else in the account's pool.
//!
//! A permit is granted at once while fewer run than there are cores or than the plan's formula asks
//! for; otherwise the invocation waits. One that has waited for the target wait is granted what the
//! limits allow, so that slow calls which wait for something never hold up the rest. Neither is granted while so many of the
//! function's invocations want a core already that one more would only make the others slower.

mod deferred;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use wambda_model::gate::Turn;
use wambda_model::invocation::Ran;
use wambda_model::limits::{QUEUE_AGE_MAX, QUEUE_BYTES_MAX};
use wambda_model::scaling::{Decision, ScalingReport};
use wambda_model::{Backlog, Budget, Clock, InvokeError, Permit, Release, ThrottleReason, Version};

use crate::keep::{IdleTimes, Keep};
use crate::plan::{ArrivalRate, LaneStats, TARGET_WAIT, WarmTarget, WindowMax, need, starved_most};

/// Decisions kept for people.
const DECISIONS_KEPT: usize = 32;
/// Shortest time without a call that counts as idle.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// Weight of the newest service time in the mean.
const SERVICE_WEIGHT: f64 = 0.1;

/// One version's permits and queue.
pub struct Lane {
    version: Arc<Version>,
    /// Whether the tick has anything to do here. Written under the lock.
    active: AtomicBool,
    /// Whether a newer version's lane has taken over what this one has learned.
    succeeded: AtomicBool,
    /// Most that ran at once since somebody asked.
    peak: AtomicU32,
    /// Permits on their way to those who waited for them.
    handed: AtomicU32,
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    /// Permits that are always worth having: one per core.
    cores: u32,
    budget: Arc<Budget>,
}

struct State {
    running: u32,
    /// Places taken in a gate of the share: of the function's own, or of the account's.
    pooled: u32,
    own: bool,
    /// Whether it waits for its turn at the gate.
    at_gate: bool,
    waiters: VecDeque<Waiter>,
    waiting_bytes: u64,
    next_waiter: u64,
    arrivals: u64,
    /// What waits elsewhere.
    backlog: Backlog,
    /// When the last one ended; none while something runs.
    idle_since: Option<Instant>,
    idle_times: IdleTimes,
    keep: Keep,
    ticked: Instant,
    rate: ArrivalRate,
    service_s: Option<f64>,
    cpu_s: Option<f64>,
    window: WindowMax,
    desired: u32,
    decisions: VecDeque<Decision>,
}

struct Waiter {
    id: u64,
    grant: oneshot::Sender<Handed>,
    bytes: u64,
    since: Instant,
}

/// How one comes to a gate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coming {
    /// Called by it.
    Called,
    /// To pass, or else to wait for a call.
    Waits,
    /// To pass, or not.
    Tries,
}

/// What became of a request for a permit.
pub enum Admission {
    /// Go.
    Granted(Permit),
    /// Wait.
    Waiting(Waiting),
}

/// A place in the queue; leaving it early is dropping it.
pub struct Waiting {
    lane: Arc<Lane>,
    id: u64,
    granted: oneshot::Receiver<Handed>,
    since: Instant,
}

/// A permit on its way: who has it does not run yet, and is counted among those that want a core.
struct Handed {
    lane: Arc<Lane>,
    permit: Option<Permit>,
}

impl Drop for Handed {
    fn drop(&mut self) {
        self.lane.handed.fetch_sub(1, Relaxed);
        // Outside of the lane's lock, or not at all: the permit may go back to it.
        drop(self.permit.take());
        self.lane.nudge();
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        f.debug_struct("Lane").field("running", &state.running).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Granted(_)) { "Granted" } else { "Waiting" })
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Lane {
    /// A lane for `version`.
    #[must_use]
    pub fn new(
        version: Arc<Version>,
        clock: Arc<dyn Clock>,
        cores: u32,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        let state = State {
            running: 0,
            pooled: 0,
            own: version.share.is_reserved(),
            at_gate: false,
            waiters: VecDeque::new(),
            waiting_bytes: 0,
            next_waiter: 0,
            arrivals: 0,
            backlog: Backlog::default(),
            idle_since: None,
            idle_times: IdleTimes::default(),
            keep: Keep::default(),
            ticked: clock.now(),
            rate: ArrivalRate::default(),
            service_s: None,
            cpu_s: None,
            window: WindowMax::default(),
            desired: 0,
            decisions: VecDeque::new(),
        };
        let active = AtomicBool::new(true);
        let succeeded = AtomicBool::new(false);
        let (peak, handed) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Self {
            version,
            active,
            succeeded,
            peak,
            handed,
            state: Mutex::new(state),
            clock,
            cores,
            budget,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version that instances are kept for.
    #[must_use]
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// Whether the tick has anything to do here.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed)
    }

    /// Invocations that run.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.lock().running
    }

    /// Whether nothing runs and nothing waits.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.running == 0 && state.waiters.is_empty()
    }

    /// Takes over what a replaced version's lane has learned: the new one is wanted as much. Once: what
    /// the old one learns while its last calls end says nothing.
    pub fn succeed(&self, before: &Self) {
        if before.succeeded.swap(true, Relaxed) {
            return;
        }
        let (rate, window, desired, idle_times, cpu_s) = {
            let mut before = before.lock();
            let desired = std::mem::take(&mut before.desired);
            let idle_times = std::mem::take(&mut before.idle_times);
            let (rate, window) =
                (std::mem::take(&mut before.rate), std::mem::take(&mut before.window));
            (rate, window, desired, idle_times, before.cpu_s)
        };
        let mut state = self.lock();
        (state.rate, state.window, state.desired) = (rate, window, desired);
        state.cpu_s = state.cpu_s.or(cpu_s);
        (state.keep, state.idle_times) = (idle_times.advice(), idle_times);
        self.active.store(true, Relaxed);
    }

    /// Asks for a permit for an invocation of `bytes`.
    ///
    /// # Errors
    /// [`InvokeError::Throttled`] when there is neither a permit nor a place in the queue.
    pub fn admit(self: &Arc<Self>, bytes: u64) -> Result<Admission, InvokeError> {
        let version = &self.version;
        let now = self.clock.now();
        let mut state = self.lock();
        state.arrivals += 1;
        self.rouse(&mut state, now);
        self.note_arrival(&mut state, now);
        self.move_gate(&mut state);
        let config = &version.config;
        let throttled = |reason, limit, value| {
            version.metrics.throttled(reason);
            let (retry_after, reserved) = (Duration::from_secs(1), version.share.is_reserved());
            Err(InvokeError::Throttled { reason, limit, value, reserved, retry_after })
        };
        if self.most() == 0 {
            return throttled(ThrottleReason::Concurrency, 0, 0);
        }
        let head = state.waiters.is_empty();
        if head && self.is_worth_it(&state, 1) && self.enter(&mut state, Coming::Waits) {
            drop(state);
            return Ok(Admission::Granted(Permit::new(Arc::clone(self) as Arc<dyn Release>, now)));
        }
        let waiting = state.waiters.len() as u64;
        if waiting >= u64::from(config.queue) {
            return throttled(ThrottleReason::QueueCount, u64::from(config.queue), waiting);
        }
        if state.waiting_bytes + bytes > QUEUE_BYTES_MAX {
            return throttled(ThrottleReason::QueueBytes, QUEUE_BYTES_MAX, state.waiting_bytes);
        }
        let (grant, granted) = oneshot::channel();
        let id = state.next_waiter;
        state.next_waiter += 1;
        state.waiting_bytes += bytes;
        state.waiters.push_back(Waiter { id, grant, bytes, since: now });
        let (at_gate, own) = (state.at_gate, state.own);
        drop(state);
        if at_gate {
            version.share.gate(own).call();
        }
        Ok(Admission::Waiting(Waiting { lane: Arc::clone(self), id, granted, since: now }))
    }

    /// The tick has something to do here again.
    fn rouse(&self, state: &mut State, now: Instant) {
        if !self.active.load(Relaxed) {
            self.active.store(true, Relaxed);
            // Nobody ticked it meanwhile: spread over its sleep, this arrival would count as none.
            state.ticked = now;
        }
    }

    /// An idle time has ended.
    fn note_arrival(&self, state: &mut State, now: Instant) {
        if let Some(since) = state.idle_since.take() {
            let idle = now.saturating_duration_since(since);
            // Shorter ones are no idle times but the pace of a busy function.
            if idle >= IDLE_MIN {
                state.idle_times.note(idle);
                state.keep = state.idle_times.advice();
            }
        }
    }

    /// Instances that the version may have in all.
    fn most(&self) -> u32 {
        let kept = self.version.provisioned.load(Relaxed);
        self.version.share.current().limit().saturating_add(kept)
    }

    /// Whether one more should run now, with `extra` more waiting than the queue shows.
    fn is_worth_it(&self, state: &State, extra: u32) -> bool {
        let wanted = || {
            let mut stats = self.stats(state, 0, 0);
            stats.queued = stats.queued.saturating_add(extra);
            need(&stats)
        };
        let worth_it = state.running < self.cores || state.running < wanted();
        worth_it && self.has_room(state)
    }

    /// How many may run for each to come to a core before long, as far as that is known.
    fn useful(&self, state: &State) -> u32 {
        let handed = self.handed.load(Relaxed);
        let starved = self.version.share.starved.load(Relaxed) + handed;
        if starved == 0 {
            return u32::MAX;
        }
        // Those who have been let in begin before others are: they may share a thread with who asks next.
        if handed >= self.cores {
            return state.running.max(self.cores);
        }
        let most = starved_most(self.cores, state.cpu_s, self.version.config.timeout());
        state.running.saturating_add(most).saturating_sub(starved).max(self.cores)
    }

    /// Begins to run, when there is a place: one that is provisioned, or one of the share.
    fn enter(self: &Arc<Self>, state: &mut State, coming: Coming) -> bool {
        let free = self.version.provisioned.load(Relaxed).saturating_add(state.pooled);
        if state.running >= free {
            let share = &self.version.share;
            if !share.try_enter(state.own, coming == Coming::Called) {
                if coming != Coming::Tries && !state.at_gate {
                    state.at_gate = true;
                    let weak = Arc::downgrade(self);
                    share.wait(state.own, weak);
                }
                return false;
            }
            state.pooled += 1;
        }
        state.running += 1;
        // Under the lock: nobody else writes it but whoever takes it.
        if state.running > self.peak.load(Relaxed) {
            self.peak.store(state.running, Relaxed);
        }
        true
    }

    /// Instances that the plan wants.
    #[must_use]
    pub fn desired(&self) -> u32 {
        self.lock().desired
    }

    /// Most invocations that ran at once since the last call.
    pub fn take_peak(&self) -> u32 {
        let state = self.lock();
        self.peak.swap(state.running, Relaxed).max(state.running)
    }

    /// Gives places back that nobody runs on any more.
    fn give_back(&self, state: &mut State) {
        let kept = self.version.provisioned.load(Relaxed);
        let needed = state.running.saturating_sub(kept);
        let surplus = state.pooled.saturating_sub(needed);
        if surplus > 0 {
            state.pooled -= surplus;
            self.version.share.leave(state.own, surplus);
        }
    }

    /// Moves to the gate that counts now.
    fn move_gate(&self, state: &mut State) {
        let own = self.version.share.is_reserved();
        if own != state.own {
            self.version.share.move_to(own, state.pooled);
            (state.own, state.at_gate) = (own, false);
        }
    }

    /// One runs in any case; more while the memory budget is not tight.
    fn has_room(&self, state: &State) -> bool {
        state.running == 0 || !self.budget.is_tight()
    }

    /// Grants permits to those at the head of the queue.
    fn serve(
        self: &Arc<Self>,
        state: &mut State,
        now: Instant,
        mut coming: Coming,
    ) -> Vec<(oneshot::Sender<Handed>, Handed)> {
        self.move_gate(state);
        let mut grants = Vec::new();
        while let Some(head) = state.waiters.front() {
            let overdue = now.saturating_duration_since(head.since) >= TARGET_WAIT;
            let should = match overdue {
                true => self.has_room(state) && state.running < self.useful(state),
                false => self.is_worth_it(state, 0),
            };
            // A call is for one.
            let came = std::mem::replace(&mut coming, Coming::Waits);
            if !should || !self.enter(state, came) {
                break;
            }
            let Some(head) = state.waiters.pop_front() else {
                break;
            };
            state.waiting_bytes -= head.bytes;
            self.handed.fetch_add(1, Relaxed);
            let permit = Some(Permit::new(Arc::clone(self) as Arc<dyn Release>, now));
            grants.push((head.grant, Handed { lane: Arc::clone(self), permit }));
        }
        grants
    }

    /// Invocations waiting, and the age of the oldest.
    #[must_use]
    pub fn queue(&self) -> (usize, Duration) {
        let now = self.clock.now();
        let state = self.lock();
        let oldest = state.waiters.front().map(|w| now.saturating_duration_since(w.since));
        (state.waiters.len(), oldest.unwrap_or_default())
    }

    /// Serves whom it can. Permits are handed over outside the lock: one that is not taken any more
    /// comes back through [`Release`] at once.
    pub fn nudge(self: &Arc<Self>) {
        if !self.lock().waiters.is_empty() {
            self.grant(Coming::Waits);
        }
    }

    fn grant(self: &Arc<Self>, coming: Coming) {
        let now = self.clock.now();
        let mut state = self.lock();
        if coming == Coming::Called {
            state.at_gate = false;
        }
        let grants = self.serve(&mut state, now, coming);
        let (at_gate, own) = (state.at_gate, state.own);
        drop(state);
        for (grant, handed) in grants {
            drop(grant.send(handed));
        }
        // The gate goes on by itself with those whom it calls.
        if at_gate && coming != Coming::Called {
            self.version.share.gate(own).call();
        }
    }

    /// Statistics for the plan; none when nothing has happened for so long that nothing changes.
    #[must_use]
    pub fn tick(&self, instance_bytes: u64) -> Option<LaneStats> {
        let now = self.clock.now();
        let mut state = self.lock();
        let passed = now.saturating_duration_since(state.ticked);
        state.ticked = now;
        let arrivals = std::mem::take(&mut state.arrivals);
        state.rate.tick(arrivals, passed);
        self.move_gate(&mut state);
        self.give_back(&mut state);
        let now_needed = need(&self.stats(&state, 0, instance_bytes));
        state.window.push(now, now_needed);
        let alive = state.keep.alive;
        let window_max = state.window.max(now, alive);
        let kept = self.version.provisioned.load(Relaxed);
        let idle = state.idle_since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let expected = state.keep.again.is_some_and(|(from, until)| idle >= from && idle < until);
        let quiet = window_max == 0 && state.desired == 0 && kept == 0 && state.backlog.count == 0;
        // One that is expected again is ticked until then.
        let again = state.keep.again.is_some_and(|(_, until)| idle < until);
        self.active.store(!quiet || again, Relaxed);
        let stats = LaneStats { expected, ..self.stats(&state, window_max, instance_bytes) };
        (!quiet || again).then_some(stats)
    }

    /// The tick has something to do here again.
    pub fn wake(&self) {
        self.active.store(true, Relaxed);
    }

    /// Takes the plan's word.
    pub fn decide(&self, target: WarmTarget) {
        let mut state = self.lock();
        if target.desired != state.desired {
            let (from, to, reason) = (state.desired, target.desired, target.reason);
            self.version.metrics.scaled(from, to, reason);
            if state.decisions.len() >= DECISIONS_KEPT {
                state.decisions.pop_front();
            }
            let unix_ms = self.clock.unix_ms();
            state.decisions.push_back(Decision { unix_ms, from, to, reason });
            state.desired = to;
        }
    }

    /// The lane's state, for people; instances are filled in by the caller.
    #[must_use]
    pub fn report(&self) -> ScalingReport {
        let now = self.clock.now();
        let state = self.lock();
        let oldest = state.waiters.front().map(|w| now.saturating_duration_since(w.since));
        ScalingReport {
            instances: wambda_model::invocation::InstanceCounts::default(),
            desired: state.desired,
            running: state.running,
            queued: u32::try_from(state.waiters.len()).unwrap_or(u32::MAX),
            deferred: state.backlog.count,
            error_ratio: state.backlog.error_ratio,
            keep_alive_ms: u64::try_from(state.keep.alive.as_millis()).unwrap_or(u64::MAX),
            queued_bytes: state.waiting_bytes,
            oldest_ms: oldest.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            arrival_rate: state.rate.per_second(),
            service_ms: state.service_s.map(|s| s * 1e3),
            cpu_ms: state.cpu_s.map(|s| s * 1e3),
            starved: self.version.share.starved.load(Relaxed),
            decisions: state.decisions.iter().copied().collect(),
        }
    }
}

impl Lane {
    fn stats(&self, state: &State, window_max: u32, instance_bytes: u64) -> LaneStats {
        LaneStats {
            arrival_rate: state.rate.per_second(),
            service_s: state.service_s,
            queued: u32::try_from(state.waiters.len()).unwrap_or(u32::MAX),
            running: state.running,
            deferred: u32::try_from(state.backlog.count).unwrap_or(u32::MAX),
            deferred_most: state.backlog.most,
            expected: false,
            min: self.version.provisioned.load(Relaxed),
            max: self.most(),
            useful: self.useful(state),
            window_max,
            instance_bytes,
            owner: Arc::as_ptr(&self.version.share) as usize,
            held_bytes: self.version.share.memory.load(Relaxed),
            desired: state.desired,
        }
    }
}

/// Adds one more to a mean in seconds.
fn learn(mean: &mut Option<f64>, took: Duration) {
    let took = took.as_secs_f64();
    *mean = Some(mean.map_or(took, |mean| mean + SERVICE_WEIGHT * (took - mean)));
}

/// `Release` needs the lane's own `Arc` to grant the next permit.
impl Release for Lane {
    fn begun(self: Arc<Self>) {
        self.nudge();
    }

    fn release(self: Arc<Self>, taken: Instant, ran: Option<Ran>) {
        let now = ran.map_or_else(|| self.clock.now(), |ran| ran.ended);
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        if state.running == 0 {
            state.idle_since = Some(now);
        }
        self.give_back(&mut state);
        let own = state.own;
        if let Some(ran) = ran {
            learn(&mut state.service_s, now.saturating_duration_since(taken));
            learn(&mut state.cpu_s, ran.cpu);
        }
        let waiting = !state.waiters.is_empty();
        drop(state);
        // Others first: with a queue of its own this lane would take every place that it leaves.
        self.version.share.gate(own).call();
        if waiting {
            self.grant(Coming::Waits);
        }
    }
}

impl Turn for Lane {
    fn turn(self: Arc<Self>) {
        self.grant(Coming::Called);
    }
}

impl Waiting {
    /// Waits for the permit.
    ///
    /// # Errors
    /// [`InvokeError::Throttled`] after [`QUEUE_AGE_MAX`].
    pub async fn permit(mut self) -> Result<Permit, InvokeError> {
        let version = Arc::clone(&self.lane.version);
        let give_up = self.since + QUEUE_AGE_MAX;
        let mut wake = self.since + TARGET_WAIT;
        loop {
            let until = tokio::time::Instant::from_std(wake.min(give_up));
            tokio::select! {
                biased;
                granted = &mut self.granted => {
                    let now = self.lane.clock.now();
                    let waited = now.saturating_duration_since(self.since);
                    version.metrics.queue_wait.observe(waited.as_secs_f64());
                    let permit = granted.ok().and_then(|mut handed| handed.permit.take());
                    return permit.map(|permit| permit.begin(now)).ok_or_else(|| InvokeError::Unavailable("the queue is gone".to_owned()));
                }
                () = tokio::time::sleep_until(until) => {
                    self.lane.nudge();
                    let now = self.lane.clock.now();
                    if now >= give_up && self.granted.is_empty() {
                        break;
                    }
                    // From here on whoever ends, and the tick, serve the queue.
                    wake = give_up;
                }
            }
        }
        version.metrics.throttled(ThrottleReason::QueueAge);
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Err(InvokeError::Throttled {
            reason: ThrottleReason::QueueAge,
            limit: ms(QUEUE_AGE_MAX),
            value: ms(self.lane.clock.now().saturating_duration_since(self.since)),
            reserved: version.share.is_reserved(),
            retry_after: Duration::from_secs(1),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        // Ids grow along the queue. One that was granted is no longer in it.
        if let Ok(at) = state.waiters.binary_search_by_key(&self.id, |w| w.id)
            && let Some(left) = state.waiters.remove(at)
        {
            state.waiting_bytes -= left.bytes;
        }
    }
}

#[cfg(test)]
mod tests;
