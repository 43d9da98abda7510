//! Every metric, in one place. Children are resolved once per function, so that the hot path only
//! adds to atomics. Names are final: people build dashboards on them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec,
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::clock;
use crate::error::{KillReason, ThrottleReason};
use crate::event::Status;
use crate::ids::FunctionName;
use crate::invocation::{InstanceCounts, StartKind};
use crate::limits::METRIC_FUNCTIONS_MAX;
use crate::polls;
use crate::scaling::ScaleReason;
use crate::series::{Durations, Series, Totals};

/// The label of functions past the cardinality bound.
pub const OTHER: &str = "_other";

const OUTCOMES: [&str; 6] = ["success", "error", "timeout", "cpu", "memory", "trap"];
const EVENT_OUTCOMES: [&str; 5] = ["received", "retried", "succeeded", "dead", "expired"];
/// How an outgoing request went: sent, or why not.
const EGRESS_OUTCOMES: [&str; 8] =
    ["sent", "denied", "forbidden", "dns", "connect", "limit", "timeout", "protocol"];
const DURATION_BUCKETS: &[f64] = &[0.0001, 0.001, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];
const POLL_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
const COMPILE_BUCKETS: &[f64] = &[0.05, 0.25, 1.0, 5.0, 25.0, 120.0];

/// The process's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    named: Mutex<HashSet<FunctionName>>,
    invocations: IntCounterVec,
    duration: HistogramVec,
    queue_wait: HistogramVec,
    init: HistogramVec,
    starts: IntCounterVec,
    instances: IntGaugeVec,
    desired: IntGaugeVec,
    scale_decisions: IntCounterVec,
    queue_depth: IntGaugeVec,
    queue_oldest: GaugeVec,
    throttles: IntCounterVec,
    kills: IntCounterVec,
    reuse_switched: IntCounterVec,
    rollbacks: IntCounterVec,
    async_events: IntCounterVec,
    dead_letters: IntCounterVec,
    destination_failures: IntCounterVec,
    egress: IntCounterVec,
    /// Queues whose gauges were shown last.
    queues_shown: Mutex<HashSet<String>>,
    cpu: CounterVec,
    memory_peak: IntGaugeVec,
    /// Seconds of one compilation.
    pub compile: Histogram,
    pool_slots: IntGaugeVec,
    http_requests: IntCounterVec,
    damaged_records: IntCounterVec,
    /// Panics caught at the task border; anything but 0 is a bug.
    pub host_panics: IntCounter,
    /// Guests' polls that have not come back for long; anything but 0 is a thread lost.
    pub stuck_polls: IntGauge,
    poll_seconds: [Histogram; 2],
    /// Pieces of the server's own work that held a thread that answers for too long; anything but 0
    /// is a bug.
    pub long_polls: IntCounter,
    /// Bytes that guests hold, against `wambda_memory_budget_bytes`.
    pub memory_used: IntGauge,
    /// The process-wide memory budget.
    pub memory_budget: IntGauge,
    held: IntGaugeVec,
    held_limit: IntGaugeVec,
}

/// The name of the queue that callers of a function wait in; others are named as in the API.
fn sync_queue(function: &str) -> String {
    format!("sync:{function}")
}

struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counters(&self, name: &str, help: &str, by: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), by))
    }

    fn gauges(&self, name: &str, help: &str, by: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), by))
    }

    fn polls(&self) -> prometheus::Result<[Histogram; 2]> {
        let help = "CPU time for which one piece of work held a thread that answers, if it lasted for 2 ms or more.";
        let opts = HistogramOpts::new("wambda_poll_seconds", help).buckets(POLL_BUCKETS.to_vec());
        let by = self.add(HistogramVec::new(opts, &["kind"]))?;
        Ok([polls::Kind::Host, polls::Kind::Guest]
            .map(|kind| by.with_label_values(&[kind.as_str()])))
    }

    fn histograms(&self, name: &str, help: &str) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
        self.add(HistogramVec::new(opts, &["function"]))
    }
}

impl Metrics {
    /// CPU time for which one piece of work held a thread that answers, of those that lasted for a
    /// tick or more.
    #[must_use]
    pub fn poll_seconds(&self, kind: polls::Kind) -> &Histogram {
        let [host, guest] = &self.poll_seconds;
        match kind {
            polls::Kind::Host => host,
            polls::Kind::Guest => guest,
        }
    }

    /// Registers every metric; `version` labels `wambda_build_info`.
    ///
    /// # Errors
    /// When two metrics share a name, which the tests exclude.
    #[expect(clippy::too_many_lines, reason = "a table, one metric a row")]
    pub fn new(version: &str) -> prometheus::Result<Arc<Self>> {
        let registry = Registry::new();
        let make = Maker(&registry);
        make.add(Ok(Process(prometheus::process_collector::ProcessCollector::for_self())))?;
        make.gauges("wambda_build_info", "Always 1; the labels tell the build.", &["version"])?
            .with_label_values(&[version])
            .set(1);
        let by_function = ["function"];
        let compile = HistogramOpts::new("wambda_compile_seconds", "Time to compile an upload.")
            .buckets(COMPILE_BUCKETS.to_vec());
        let metrics = Self {
            named: Mutex::default(),
            invocations: make.counters(
                "wambda_invocations_total",
                "Invocations that ran, by how they ended.",
                &["function", "outcome"],
            )?,
            duration: make
                .histograms("wambda_invocation_duration_seconds", "Time in the handler.")?,
            queue_wait: make.histograms(
                "wambda_queue_wait_seconds",
                "Time an invocation waited for an instance.",
            )?,
            init: make.histograms(
                "wambda_init_seconds",
                "Time to load and instantiate, paid by cold starts.",
            )?,
            starts: make.counters(
                "wambda_starts_total",
                "Invocations by where their instance came from.",
                &["function", "start"],
            )?,
            instances: make.gauges(
                "wambda_instances",
                "Instances by state.",
                &["function", "state"],
            )?,
            desired: make.gauges(
                "wambda_desired_instances",
                "Instances the scheduler wants.",
                &by_function,
            )?,
            scale_decisions: make.counters(
                "wambda_scale_decisions_total",
                "Changes of the number of instances wanted.",
                &["function", "direction", "reason"],
            )?,
            queue_depth: make.gauges("wambda_queue_depth", "Invocations waiting.", &["queue"])?,
            queue_oldest: make.add(GaugeVec::new(
                Opts::new("wambda_queue_oldest_seconds", "Age of the oldest invocation waiting."),
                &["queue"],
            ))?,
            throttles: make.counters(
                "wambda_throttles_total",
                "Invocations refused.",
                &["function", "reason"],
            )?,
            kills: make.counters(
                "wambda_kills_total",
                "Instances stopped, by why.",
                &["function", "reason"],
            )?,
            reuse_switched: make.counters(
                "wambda_reuse_switched_total",
                "Versions whose reuse was switched off because reused instances trapped.",
                &by_function,
            )?,
            rollbacks: make.counters(
                "wambda_alias_rollbacks_total",
                "Versions that an alias's rollback rule took out of service.",
                &by_function,
            )?,
            async_events: make.counters(
                "wambda_async_events_total",
                "Asynchronous events: received, retried, and how they ended.",
                &["function", "outcome"],
            )?,
            dead_letters: make.counters(
                "wambda_dead_letters_total",
                "Events that were given up or got too old.",
                &by_function,
            )?,
            destination_failures: make.counters(
                "wambda_destination_failures_total",
                "Records and dead letters that a destination did not take.",
                &by_function,
            )?,
            egress: make.counters(
                "wambda_egress_requests_total",
                "Outgoing requests of functions: sent, or why they failed.",
                &["function", "outcome"],
            )?,
            queues_shown: Mutex::default(),
            cpu: make.add(CounterVec::new(
                Opts::new("wambda_cpu_seconds_total", "CPU time of guests."),
                &by_function,
            ))?,
            memory_peak: make.gauges(
                "wambda_memory_peak_bytes",
                "Largest memory of one instance so far.",
                &by_function,
            )?,
            compile: make.add(Histogram::with_opts(compile))?,
            pool_slots: make.gauges(
                "wambda_pool_slots",
                "Slots of the instance pool in use.",
                &["engine", "state"],
            )?,
            http_requests: make.counters(
                "wambda_http_requests_total",
                "HTTP requests answered.",
                &["surface", "code"],
            )?,
            damaged_records: make.counters(
                "wambda_damaged_records_total",
                "Stored values that were read and were not what was written; anything but 0 is a damaged disk.",
                &["store"],
            )?,
            host_panics: make.add(IntCounter::new(
                "wambda_host_panics_total",
                "Panics caught; anything but 0 is a bug.",
            ))?,
            poll_seconds: make.polls()?,
            long_polls: make.add(IntCounter::new(
                "wambda_long_polls_total",
                "Pieces of the server's own work that held a thread that answers for too long; anything but 0 is a bug.",
            ))?,
            stuck_polls: make.add(IntGauge::new(
                "wambda_stuck_polls",
                "Calls that have not come back from one operation for longer than --stuck-after.",
            ))?,
            memory_used: make
                .add(IntGauge::new("wambda_memory_used_bytes", "Bytes that guests hold."))?,
            memory_budget: make.add(IntGauge::new(
                "wambda_memory_budget_bytes",
                "Bytes that guests may hold together.",
            ))?,
            held: make.gauges(
                "wambda_held_bytes",
                "Bytes that the server holds for others.",
                &["kind"],
            )?,
            held_limit: make.gauges(
                "wambda_held_limit_bytes",
                "Bytes that the server may hold for others.",
                &["kind"],
            )?,
            registry,
        };
        Ok(Arc::new(metrics))
    }

    /// Shows what the server holds for others of one kind, and what it may hold.
    pub fn show_held(&self, kind: &str, bytes: u64, limit: u64) {
        let number = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.held.with_label_values(&[kind]).set(number(bytes));
        self.held_limit.with_label_values(&[kind]).set(number(limit));
    }

    /// The metrics of one function. Past [`METRIC_FUNCTIONS_MAX`] names they share [`OTHER`].
    #[must_use]
    pub fn function(&self, name: &FunctionName) -> Arc<FunctionMetrics> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let own = named.contains(name) || named.len() < METRIC_FUNCTIONS_MAX;
        if own {
            named.insert(name.clone());
        }
        let label = if own { name.as_str() } else { OTHER };
        Arc::new(FunctionMetrics::new(self, label))
    }

    /// Drops the series of a deleted function. What still runs of it is not counted any more.
    pub fn forget(&self, name: &FunctionName, function: &FunctionMetrics) {
        function.forgotten.store(true, Relaxed);
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if !named.remove(name) {
            return;
        }
        let label = name.as_str();
        let _ = self.duration.remove_label_values(&[label]);
        let _ = self.queue_wait.remove_label_values(&[label]);
        let _ = self.init.remove_label_values(&[label]);
        let _ = self.desired.remove_label_values(&[label]);
        let _ = self.queue_depth.remove_label_values(&[&sync_queue(label)]);
        let _ = self.queue_oldest.remove_label_values(&[&sync_queue(label)]);
        let _ = self.cpu.remove_label_values(&[label]);
        let _ = self.reuse_switched.remove_label_values(&[label]);
        let _ = self.rollbacks.remove_label_values(&[label]);
        let _ = self.dead_letters.remove_label_values(&[label]);
        let _ = self.destination_failures.remove_label_values(&[label]);
        for outcome in EVENT_OUTCOMES {
            let _ = self.async_events.remove_label_values(&[label, outcome]);
        }
        for outcome in EGRESS_OUTCOMES {
            let _ = self.egress.remove_label_values(&[label, outcome]);
        }
        let _ = self.memory_peak.remove_label_values(&[label]);
        for outcome in OUTCOMES {
            let _ = self.invocations.remove_label_values(&[label, outcome]);
            let _ = self.kills.remove_label_values(&[label, outcome]);
        }
        for start in ["cold", "prewarmed", "warm", "busy"] {
            let _ = self.starts.remove_label_values(&[label, start]);
            let _ = self.instances.remove_label_values(&[label, start]);
        }
        for reason in
            ["queue_count", "queue_bytes", "queue_age", "concurrency", "memory", "instances"]
        {
            let _ = self.throttles.remove_label_values(&[label, reason]);
        }
        for reason in ScaleReason::ALL.map(ScaleReason::as_str) {
            let _ = self.scale_decisions.remove_label_values(&[label, "up", reason]);
            let _ = self.scale_decisions.remove_label_values(&[label, "down", reason]);
        }
    }

    /// Shows depth and age in seconds of queues that outlast the process. Those that are gone are not
    /// shown any more; past [`METRIC_FUNCTIONS_MAX`] they share [`OTHER`].
    pub fn show_queues(&self, queues: &[(String, u64, f64)]) {
        let mut shown = HashSet::new();
        let (mut others, mut oldest) = (0, 0.0f64);
        for (at, (name, depth, age)) in queues.iter().enumerate() {
            if at >= METRIC_FUNCTIONS_MAX {
                others += depth;
                oldest = oldest.max(*age);
                continue;
            }
            self.show_queue(name, *depth, *age);
            shown.insert(name.clone());
        }
        if others > 0 {
            self.show_queue(OTHER, others, oldest);
            shown.insert(OTHER.to_owned());
        }
        let mut before = self.queues_shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in before.difference(&shown) {
            let _ = self.queue_depth.remove_label_values(&[gone]);
            let _ = self.queue_oldest.remove_label_values(&[gone]);
        }
        *before = shown;
    }

    fn show_queue(&self, name: &str, depth: u64, age: f64) {
        let depth = i64::try_from(depth).unwrap_or(i64::MAX);
        self.queue_depth.with_label_values(&[name]).set(depth);
        self.queue_oldest.with_label_values(&[name]).set(age);
    }

    /// Shows how many damaged values were met, by store.
    pub fn show_damage(&self, met: impl IntoIterator<Item = (&'static str, u64)>) {
        for (store, met) in met {
            let counter = self.damaged_records.with_label_values(&[store]);
            counter.inc_by(met.saturating_sub(counter.get()));
        }
    }

    /// Counts one answered HTTP request.
    #[must_use]
    pub fn http_requests(&self, surface: &str, code: &str) -> IntCounter {
        self.http_requests.with_label_values(&[surface, code])
    }

    /// The gauge of one kind of pool slot.
    #[must_use]
    pub fn pool_slots(&self, engine: &str, state: &str) -> IntGauge {
        self.pool_slots.with_label_values(&[engine, state])
    }

    /// Everything, in the Prometheus text format.
    ///
    /// # Errors
    /// When a collector misbehaves.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(64 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}

/// CPU time of the process.
const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// `ProcessCollector` is not `Clone`; registration here is once and final.
struct Process(prometheus::process_collector::ProcessCollector);

impl Clone for Process {
    fn clone(&self) -> Self {
        Self(prometheus::process_collector::ProcessCollector::for_self())
    }
}

impl prometheus::core::Collector for Process {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.0.desc()
    }
    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        let mut families = self.0.collect();
        for family in &mut families {
            // The collector counts whole seconds, of which no rate over some seconds can be made.
            if family.name() == CPU_SECONDS {
                let mut exact = prometheus::proto::Counter::default();
                exact.set_value(clock::process_cpu().as_secs_f64());
                family.mut_metric().iter_mut().for_each(|metric| metric.set_counter(exact.clone()));
            }
        }
        families
    }
}

/// The resolved children of one function.
#[derive(Debug)]
pub struct FunctionMetrics {
    label: String,
    /// Set when the function is deleted: nothing may bring its series back.
    forgotten: AtomicBool,
    outcomes: [IntCounter; OUTCOMES.len()],
    duration: Histogram,
    /// Time an invocation waited for an instance, in seconds; waits of nothing are not observed.
    pub queue_wait: Histogram,
    init: Histogram,
    starts: [IntCounter; 3],
    instances: [IntGauge; 3],
    /// Instances wanted.
    pub desired: IntGauge,
    scale_decisions: IntCounterVec,
    /// Invocations waiting.
    pub queue_depth: IntGauge,
    /// Age of the oldest one, in seconds.
    pub queue_oldest: Gauge,
    throttles: IntCounterVec,
    kills: IntCounterVec,
    reuse_switched: IntCounterVec,
    rollbacks: IntCounterVec,
    async_events: IntCounterVec,
    /// Resolved: an event pays for additions only.
    received: IntCounter,
    event_successes: IntCounter,
    dead_letters: IntCounterVec,
    destination_failures: IntCounterVec,
    egress: IntCounterVec,
    cpu: Counter,
    /// The last hours, minute by minute.
    pub series: Series,
    durations: Durations,
    event_ages: Durations,
    /// Invocations that ran, that failed, and that were refused.
    totals: [AtomicU64; 3],
    /// Events that were received, that were given up, and deliveries that failed.
    event_totals: [AtomicU64; 3],
    memory_peak: IntGauge,
}

impl FunctionMetrics {
    fn new(all: &Metrics, label: &str) -> Self {
        let start = |kind: StartKind| all.starts.with_label_values(&[label, kind.as_str()]);
        let state = |state: &str| all.instances.with_label_values(&[label, state]);
        Self {
            label: label.to_owned(),
            forgotten: AtomicBool::new(false),
            outcomes: OUTCOMES.map(|o| all.invocations.with_label_values(&[label, o])),
            duration: all.duration.with_label_values(&[label]),
            queue_wait: all.queue_wait.with_label_values(&[label]),
            init: all.init.with_label_values(&[label]),
            starts: [start(StartKind::Cold), start(StartKind::Prewarmed), start(StartKind::Warm)],
            instances: [state("busy"), state("warm"), state("prewarmed")],
            desired: all.desired.with_label_values(&[label]),
            scale_decisions: all.scale_decisions.clone(),
            queue_depth: all.queue_depth.with_label_values(&[&sync_queue(label)]),
            queue_oldest: all.queue_oldest.with_label_values(&[&sync_queue(label)]),
            throttles: all.throttles.clone(),
            kills: all.kills.clone(),
            reuse_switched: all.reuse_switched.clone(),
            rollbacks: all.rollbacks.clone(),
            async_events: all.async_events.clone(),
            received: all.async_events.with_label_values(&[label, "received"]),
            event_successes: all.async_events.with_label_values(&[label, "succeeded"]),
            dead_letters: all.dead_letters.clone(),
            destination_failures: all.destination_failures.clone(),
            egress: all.egress.clone(),
            event_ages: Durations::default(),
            series: Series::default(),
            durations: Durations::default(),
            totals: Default::default(),
            event_totals: Default::default(),
            cpu: all.cpu.with_label_values(&[label]),
            memory_peak: all.memory_peak.with_label_values(&[label]),
        }
    }

    /// Counts one invocation that ran: its outcome label, start and costs.
    pub fn ran(&self, outcome: &str, report: &crate::invocation::Report) {
        if let Some(at) = OUTCOMES.iter().position(|o| *o == outcome)
            && let Some(counter) = self.outcomes.get(at)
        {
            counter.inc();
        }
        let [cold, prewarmed, warm] = &self.starts;
        match report.start {
            StartKind::Cold => cold.inc(),
            StartKind::Prewarmed => prewarmed.inc(),
            StartKind::Warm => warm.inc(),
        }
        self.duration.observe(report.duration.as_secs_f64());
        self.durations.note(report.duration);
        let [ran, failed, _] = &self.totals;
        ran.fetch_add(1, Relaxed);
        if outcome != "success" {
            failed.fetch_add(1, Relaxed);
        }
        if let Some(init) = report.init {
            self.init.observe(init.as_secs_f64());
        }
        self.cpu.inc_by(report.cpu.as_secs_f64());
        let peak = i64::try_from(report.memory_bytes).unwrap_or(i64::MAX);
        if peak > self.memory_peak.get() {
            self.memory_peak.set(peak);
        }
    }

    /// Counts in a series of this function that is looked up, and made when it is not there; not for
    /// a function that was deleted.
    fn count(&self, counters: &IntCounterVec, labels: &[&str]) {
        if !self.forgotten.load(Relaxed) {
            let labels = [&[self.label.as_str()], labels].concat();
            counters.with_label_values(&labels).inc();
        }
    }

    /// Counts one instance that was stopped.
    pub fn killed(&self, reason: KillReason) {
        self.count(&self.kills, &[reason.as_str()]);
    }

    /// Counts one version whose reuse was switched off.
    pub fn reuse_switched(&self) {
        self.count(&self.reuse_switched, &[]);
    }

    /// Counts one version that an alias took out of service.
    pub fn rolled_back(&self) {
        self.count(&self.rollbacks, &[]);
    }

    /// Counts one event that was accepted.
    pub fn event_received(&self) {
        let [received, ..] = &self.event_totals;
        received.fetch_add(1, Relaxed);
        self.received.inc();
    }

    /// Counts one event that is to be tried again.
    pub fn event_retried(&self) {
        self.count(&self.async_events, &["retried"]);
    }

    /// Counts one event that has ended, `age` after it was accepted.
    pub fn event_ended(&self, status: Status, age: Duration) {
        self.event_ages.note(age);
        match status {
            Status::Succeeded => self.event_successes.inc(),
            Status::Dead | Status::Expired => {
                let [_, dropped, _] = &self.event_totals;
                dropped.fetch_add(1, Relaxed);
                self.count(&self.async_events, &[status.as_str()]);
            }
        }
    }

    /// Counts one event that became a dead letter.
    pub fn dead_lettered(&self) {
        self.count(&self.dead_letters, &[]);
    }

    /// Counts one record or dead letter that a destination did not take.
    pub fn destination_failed(&self) {
        let [.., failed] = &self.event_totals;
        failed.fetch_add(1, Relaxed);
        self.count(&self.destination_failures, &[]);
    }

    /// Counts one outgoing request: `sent`, or why it failed.
    pub fn egress(&self, outcome: &str) {
        self.count(&self.egress, &[outcome]);
    }

    /// Adds what happened since the last time to the present minute of the series.
    pub fn sample(&self, unix_ms: u64, running: u32) {
        let [ran, failed, refused] = &self.totals;
        let [received, dropped, undelivered] = &self.event_totals;
        let totals = Totals {
            invocations: ran.load(Relaxed),
            errors: failed.load(Relaxed),
            throttles: refused.load(Relaxed),
            events_received: received.load(Relaxed),
            events_dropped: dropped.load(Relaxed),
            destination_failures: undelivered.load(Relaxed),
        };
        let durations = [&self.durations, &self.event_ages];
        self.series.sample(unix_ms / 1_000, totals, running, durations);
    }

    /// Counts one invocation that was refused.
    pub fn throttled(&self, reason: ThrottleReason) {
        let [_, _, refused] = &self.totals;
        refused.fetch_add(1, Relaxed);
        self.count(&self.throttles, &[reason.as_str()]);
    }

    /// Counts one change of the number of instances wanted.
    pub fn scaled(&self, from: u32, to: u32, reason: ScaleReason) {
        let direction = if to > from { "up" } else { "down" };
        self.count(&self.scale_decisions, &[direction, reason.as_str()]);
    }

    /// Functions that share a label would overwrite each other's gauges.
    fn has_gauges(&self) -> bool {
        self.label != OTHER
    }

    /// Shows the instances by state, and how many are wanted.
    pub fn show_instances(&self, counts: InstanceCounts, desired: u32) {
        if !self.has_gauges() {
            return;
        }
        self.desired.set(i64::from(desired));
        let [busy, warm, prewarmed] = &self.instances;
        busy.set(i64::from(counts.busy));
        warm.set(i64::from(counts.warm));
        prewarmed.set(i64::from(counts.prewarmed));
    }

    /// Shows the queue.
    pub fn show_queue(&self, depth: usize, oldest: Duration) {
        if !self.has_gauges() {
            return;
        }
        self.queue_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
        self.queue_oldest.set(oldest.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cardinality_is_bounded_and_deletes_make_room() {
        let metrics = Metrics::new("test").unwrap();
        let name = |n: usize| FunctionName::new(&format!("f{n}")).unwrap();
        for n in 0..METRIC_FUNCTIONS_MAX + 5 {
            metrics.function(&name(n)).throttled(ThrottleReason::QueueAge);
        }
        let shown =
            |text: &str| String::from_utf8(metrics.render().unwrap()).unwrap().contains(text);
        assert!(shown("wambda_throttles_total{function=\"_other\",reason=\"queue_age\"} 5"));
        assert!(shown("function=\"f7\""));
        let seventh = metrics.function(&name(7));
        metrics.forget(&name(7), &seventh);
        seventh.throttled(ThrottleReason::QueueAge);
        assert!(!shown("function=\"f7\""));
        drop(metrics.function(&name(9_999)));
        assert!(shown("function=\"f9999\""));
    }
}
