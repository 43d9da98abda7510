//! One event's attempt, from its lease to its settlement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wambda_control::events::{config_of, history_of};
use wambda_model::event::{Attempt, Ending, Envelope, History, Status, async_owner};
use wambda_model::{
    Function, Invocation, InvokeError, LATEST, Outcome, Payload, Reply, Target, Version, clock,
};
use wambda_store::queues::{Message, QueueError, Settled, Settlement, Verdict};

use super::ends::{DAMAGED, Ended, Over};
use super::rules::{End, Facts, Next, admit, judge};
use super::{Deferred, Leased, Line, lock};

/// Waits between attempts to settle while the medium fails.
const SETTLE_WAIT: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// What a guest of the http kinds answers to an event is read before; anything else is a fault.
const STREAMED: &str = "a streamed reply to an event";

/// What came of an attempt.
struct Tried {
    end: End,
    reply: Option<(Bytes, bool)>,
    attempt: Attempt,
}

impl Deferred {
    /// Takes a leased event: into its line, or to its end.
    pub(super) fn receive(self: &Arc<Self>, message: Message) {
        let line = lock(&self.lines).get(&message.queue).cloned();
        let expired = message.expires_ms <= self.queues.now_ms();
        let leased = Leased::new(message, &self.in_flight);
        let may_run = !expired && !leased.message.is_damaged;
        match line.filter(|line| may_run && self.runs(line).is_some()) {
            Some(line) => line.put(leased, self.clock.now()),
            None => {
                let this = Arc::clone(self);
                drop(self.workers.spawn(async move { this.give_up(leased).await }));
            }
        }
    }

    /// Has somebody work on what a line has leased.
    pub(super) fn employ(self: &Arc<Self>, line: &Arc<Line>, version: &Arc<Version>) {
        for _ in 0..line.hire(self.invoke.room(version)) {
            let worker = Worker { line: Arc::clone(line), deferred: Arc::clone(self) };
            drop(self.workers.spawn(worker.work()));
        }
    }

    /// Gives back what has waited too long for a worker.
    pub(super) fn give_back(self: &Arc<Self>, line: &Line, age: Duration) {
        for leased in line.take_old(age, self.clock.now()) {
            let this = Arc::clone(self);
            drop(self.workers.spawn(async move {
                this.settle(&leased, Verdict::Release).await;
            }));
        }
    }

    /// Runs one event. False when there is no permit for it: it is back in the line then.
    async fn attempt(self: &Arc<Self>, line: &Arc<Line>, leased: Leased, since: Instant) -> bool {
        let message = &leased.message;
        if message.due_ms <= self.queues.now_ms() {
            // It waited here for so long that it is somebody else's by now.
            return true;
        }
        let Some(envelope) = self.envelope(&leased).await else { return true };
        let function = self.place.catalog.get(&envelope.function);
        let qualifier = envelope.qualifier.as_deref();
        let target = function
            .as_ref()
            .and_then(|function| function.resolve(qualifier.unwrap_or(LATEST), fastrand::f64));
        let (Some(function), Some(target)) = (function, target) else {
            self.give_up(leased).await;
            return true;
        };
        let history = history_of(message);
        let facts = self.facts(message, &function, qualifier);
        if let Some(Next::Over(status, condition)) = admit(&history, &facts) {
            self.over(leased, &envelope, history, (status, condition), None, "").await;
            return true;
        }
        let Some(permit) = self.invoke.permit(&target.version) else {
            line.put_back(leased, since);
            return false;
        };
        let invocation = Invocation {
            id: message.id,
            payload: Payload::Event(message.body.clone()),
            caller: envelope.caller(),
            attempt: message.attempt,
        };
        let began = self.clock.now();
        let started_ms = self.queues.now_ms();
        let outcome = (self.run)(Arc::clone(&target.version), invocation, permit).await;
        let cpu_ns = outcome
            .as_ref()
            .map_or(0, |outcome| u64::try_from(outcome.report.cpu.as_nanos()).unwrap_or(u64::MAX));
        let seconds = self.clock.now().saturating_duration_since(began).as_secs_f64();
        let tried = tried(outcome, message, &target, (started_ms, self.queues.now_ms()));
        line.note(cpu_ns, seconds, tried.end != End::Success);
        let this = Arc::clone(self);
        // Whoever runs does not wait for the disk.
        drop(self.workers.spawn(async move {
            this.conclude(leased, &envelope, history, tried, &function).await;
        }));
        true
    }

    /// Whom an event is for. One that does not say is ended.
    async fn envelope(&self, leased: &Leased) -> Option<Envelope> {
        let message = &leased.message;
        match serde_json::from_slice(&message.attributes) {
            // Whom it is for, its queue says.
            _ if message.is_damaged => {
                let (function, qualifier) = async_owner(&message.queue)?;
                Some(Envelope::new(function, qualifier, None))
            }
            Ok(envelope) => Some(envelope),
            Err(error) => {
                tracing::error!(id = %message.id, %error, "an event with a damaged envelope");
                let (name, qualifier) = async_owner(&message.queue)?;
                let ending = Ending {
                    function: name,
                    qualifier,
                    status: Status::Dead,
                    condition: "InvalidEvent".to_owned(),
                    enqueued_ms: message.enqueued_ms,
                    attempts: Vec::new(),
                    invoked: 0,
                    result: None,
                    result_bytes: 0,
                    undelivered: vec![format!("its envelope is damaged: {error}")],
                };
                let outcome = serde_json::to_vec(&ending).unwrap_or_default().into();
                let done = Verdict::Done { outcome, sends: Vec::new(), fallback: None };
                self.settle(leased, done).await;
                None
            }
        }
    }

    fn facts(&self, message: &Message, function: &Function, qualifier: Option<&str>) -> Facts {
        let left = message.expires_ms.saturating_sub(self.queues.now_ms());
        let retries = config_of(function, qualifier).retries();
        Facts { retries, left: Duration::from_millis(left), draw: fastrand::f64() }
    }

    /// After an attempt.
    async fn conclude(
        self: &Arc<Self>,
        leased: Leased,
        envelope: &Envelope,
        mut history: History,
        tried: Tried,
        function: &Function,
    ) {
        match tried.end {
            End::Success => {}
            End::FunctionError | End::Invalid => {
                history.failures += 1;
                history.faults = 0;
            }
            End::Fault => history.faults = history.faults.saturating_add(1),
        }
        let version = tried.attempt.version.clone();
        history.add(tried.attempt);
        let facts = self.facts(&leased.message, function, envelope.qualifier.as_deref());
        match judge(&tried.end, &history, &facts, self.events.settings()) {
            Next::Over(status, condition) => {
                let how = (status, condition);
                self.over(leased, envelope, history, how, tried.reply, &version).await;
            }
            Next::Retry(after) => {
                let note = serde_json::to_vec(&history).unwrap_or_default().into();
                function.latest.metrics.event_retried();
                self.settle(&leased, Verdict::Retry { after, note }).await;
            }
        }
    }

    /// Ends an event that is not to be run.
    async fn give_up(self: &Arc<Self>, leased: Leased) {
        let history = history_of(&leased.message);
        let Some(envelope) = self.envelope(&leased).await else { return };
        let function = self.place.catalog.get(&envelope.function);
        let how = match function {
            _ if leased.message.is_damaged => (Status::Dead, DAMAGED),
            None => (Status::Dead, "ResourceNotFound"),
            Some(_) if leased.message.expires_ms <= self.queues.now_ms() => {
                (Status::Expired, "EventAgeExceeded")
            }
            Some(function) if function.details.reserved == Some(0) => {
                (Status::Dead, "ZeroReservedConcurrency")
            }
            // Its version or alias is gone.
            Some(_) => (Status::Dead, "ResourceNotFound"),
        };
        self.over(leased, &envelope, history, how, None, "").await;
    }

    /// The end of an event: outcome, destinations and dead letters in one commit.
    async fn over(
        self: &Arc<Self>,
        leased: Leased,
        envelope: &Envelope,
        history: History,
        (status, condition): (Status, &'static str),
        reply: Option<(Bytes, bool)>,
        version: &str,
    ) {
        let function = self.place.catalog.get(&envelope.function);
        let succeeded = u32::from(status == Status::Succeeded);
        let message = &leased.message;
        let over = Over {
            message,
            envelope,
            history: &history,
            status,
            condition,
            reply,
            version,
            invoked: history.invoked() + succeeded,
        };
        let now = self.queues.now_ms();
        let Ended { outcome, sends, undelivered, fallback } =
            self.place.end(&over, function.as_deref(), now);
        let done = Verdict::Done { outcome, sends, fallback };
        let Some(Settled::Done(refused)) = self.settle(&leased, done).await else { return };
        if let Some(metrics) = function.as_ref().map(|function| &function.latest.metrics) {
            let age = now.saturating_sub(message.enqueued_ms);
            metrics.event_ended(status, Duration::from_millis(age));
            for _ in 0..undelivered.len() + refused.len() {
                metrics.destination_failed();
            }
            if status != Status::Succeeded {
                metrics.dead_lettered();
            }
        }
        let why: Vec<&String> =
            undelivered.iter().chain(refused.iter().map(|(_, why)| why)).collect();
        if !why.is_empty() {
            // Its owner sees it in the outcome, and the operator in a metric: it is not for the log, which owners of
            // functions could fill with it.
            tracing::debug!(id = %message.id, function = %envelope.function, ?why, "not delivered");
        }
    }

    /// Settles, and goes on trying while the medium fails: what has run, has run. An event that is given
    /// back is not: it is leased again when its lease is over.
    async fn settle(&self, leased: &Leased, verdict: Verdict) -> Option<Settled> {
        let [mut wait, longest] = SETTLE_WAIT;
        let (id, attempt) = (leased.message.id, leased.message.attempt);
        loop {
            let settlement = Settlement { id, attempt, verdict: verdict.clone() };
            match self.queues.settle(settlement).await {
                Ok(settled) => return Some(settled),
                Err(QueueError::Failed(_)) if !matches!(verdict, Verdict::Release) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(longest);
                }
                Err(error) => {
                    tracing::warn!(%id, %error, "an event cannot be settled");
                    return None;
                }
            }
        }
    }
}

/// One worker of a line; it leaves when it is dropped, whatever happens to it.
struct Worker {
    line: Arc<Line>,
    deferred: Arc<Deferred>,
}

impl Worker {
    /// Runs events as long as there are some, and a permit for each.
    async fn work(self) {
        let (line, deferred) = (&self.line, &self.deferred);
        while let Some((leased, since, is_low)) = line.next() {
            if is_low {
                deferred.wake.notify_one();
            }
            if !deferred.attempt(line, leased, since).await {
                // No permit: the pump looks again in a while, not at once.
                return;
            }
            if line.is_crowded() {
                break;
            }
            // A short call may not have waited for anything.
            tokio::task::yield_now().await;
        }
        deferred.wake.notify_one();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.line.leave();
    }
}

/// What an outcome means.
fn tried(
    outcome: Result<Outcome, InvokeError>,
    message: &Message,
    target: &Target,
    (started_ms, ended_ms): (u64, u64),
) -> Tried {
    let attempt = |version: &str, error: Option<(String, String)>| Attempt {
        started_ms,
        ended_ms,
        version: version.to_owned(),
        error,
    };
    match outcome {
        Ok(Outcome { result, version, .. }) => {
            if let Some(alias) = target.alias.as_deref().filter(|alias| alias.rollback.is_some()) {
                let took = Duration::from_millis(ended_ms.saturating_sub(started_ms));
                alias.watch.note(&version.label, clock::unix_ms(), result.is_err(), took);
            }
            match result {
                Ok(Reply::Event(bytes)) => Tried {
                    end: End::Success,
                    reply: Some((bytes, false)),
                    attempt: attempt(&version.label, None),
                },
                Ok(Reply::Http(_)) => fault(STREAMED.to_owned(), attempt),
                Err(error) => Tried {
                    end: End::FunctionError,
                    reply: Some((error.to_json(message.id), true)),
                    attempt: attempt(&version.label, Some((error.error_type, error.message))),
                },
            }
        }
        Err(error @ (InvokeError::InvalidRequest(_) | InvokeError::PayloadTooLarge { .. })) => {
            let error = ("InvalidEvent".to_owned(), error.to_string());
            Tried { end: End::Invalid, reply: None, attempt: attempt("", Some(error)) }
        }
        Err(error) => fault(error.to_string(), attempt),
    }
}

fn fault(what: String, attempt: impl Fn(&str, Option<(String, String)>) -> Attempt) -> Tried {
    let error = Some(("ServiceException".to_owned(), what));
    Tried { end: End::Fault, reply: None, attempt: attempt("", error) }
}
