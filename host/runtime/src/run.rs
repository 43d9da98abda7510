//! One invocation from instance to outcome. The functions here run on whichever thread [`Drive`]
//! chose, and to their end even when the caller has gone.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use wambda_model::invocation::{Caller, Ran};
use wambda_model::limits::LOG_LINE_BYTES_MAX;
use wambda_model::{
    Body, FunctionError, InvokeError, KillReason, Kind, Outcome, Permit, Reply, Report, RequestId,
    StartKind, Version, clock,
};

use crate::call::{self, Answer};
use crate::drive::{Drive, Guarded, Panicked, TimedOut};
use crate::executor::{Inner, panicked};
use crate::http::{self, End, Guest, Head, Left, OnWhole, Streaming};
use crate::instance::{Instance, Kept};
use crate::making::Order;
use crate::meter::{Meter, now_ns, since_origin};
use crate::pool::Unit;
use crate::sink::Sink;
use crate::transit::{Transit, UnderWay, Whose};

/// An invocation without its payload.
pub(crate) struct Ticket {
    pub(crate) id: RequestId,
    pub(crate) caller: Option<Box<Caller>>,
    pub(crate) attempt: u32,
}

impl Ticket {
    /// The ARN that was called.
    pub(crate) fn invoked_arn<'a>(&'a self, version: &'a Version) -> &'a str {
        let caller = self.caller.as_deref();
        caller.and_then(|caller| caller.invoked_arn.as_deref()).unwrap_or(&version.arn)
    }
}

/// An invocation that has been admitted, with the instance that waits for it, if one does.
pub(crate) struct Run {
    inner: Arc<Inner>,
    unit: Arc<Unit>,
    meter: Arc<Meter>,
    taken: Option<(Box<Instance>, StartKind)>,
    ticket: Ticket,
    /// Counted among the busy ones.
    busy: bool,
    /// Begins on the long-run threads, after those who are before it there.
    queued: bool,
    /// Counted among those that want a core and have none.
    starved: bool,
    /// Given back last: whoever gets it next finds this instance idle again.
    permit: Permit,
}

/// What is known of an HTTP call before its guest ends.
#[derive(Default)]
struct Progress {
    /// As it is at the head of the response.
    at_head: OnceLock<Report>,
    /// As it is when the guest has ended.
    at_end: OnceLock<Report>,
    /// Bytes that its instance holds.
    memory: OnceLock<Arc<AtomicU64>>,
    /// Its caller has all of the response: as it sees it, the call is over.
    whole: OnceLock<UnderWay>,
}

impl Progress {
    /// What the call took: until its head when that is the answer, and all of it when its end is. A guest may give a
    /// head, and fail long afterwards, before either is looked at.
    fn report(&self, failed: bool) -> Report {
        let [first, other] =
            if failed { [&self.at_end, &self.at_head] } else { [&self.at_head, &self.at_end] };
        first.get().or(other.get()).copied().unwrap_or(NOTHING_RAN)
    }

    /// The next call may come now. It finds what this one has taken by now to be reserved for it, and waits for that.
    fn whole(&self, transit: &Arc<Transit>, unit: &Unit) {
        if let Some(memory) = self.memory.get() {
            unit.note_least_bytes(memory.load(Relaxed));
        }
        let _ = self.whole.set(transit.lingers(&unit.version));
    }
}

/// What became of the guest's call.
type Called<T> = Result<wasmtime::Result<T>, TimedOut>;

/// An instance at work, and what its report needs.
struct Shift {
    instance: Box<Instance>,
    start: StartKind,
    init: Option<Duration>,
    /// Nanoseconds since the process began.
    began: u64,
}

impl Run {
    /// Takes an idle instance, if there is one, and counts as busy from here on. One that `queues` for the
    /// long-run threads has no core until it starts.
    pub(crate) fn new(
        inner: Arc<Inner>,
        unit: Arc<Unit>,
        permit: Permit,
        ticket: Ticket,
        queues: bool,
    ) -> Self {
        let taken = unit.take();
        unit.busy_begin();
        if queues {
            unit.version.share.starved.fetch_add(1, Relaxed);
        }
        let meter = match &taken {
            Some((instance, _)) => Arc::clone(&instance.meter),
            None => Arc::new(Meter::new()),
        };
        Self {
            inner,
            unit,
            meter,
            taken,
            ticket,
            busy: true,
            queued: queues,
            starved: queues,
            permit,
        }
    }

    pub(crate) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    fn version(&self) -> &Arc<Version> {
        &self.unit.version
    }

    /// Hands the guest an event.
    pub(crate) async fn event(mut self, event: Bytes) -> Result<Outcome, InvokeError> {
        let version = Arc::clone(self.version());
        let capture = version.kind == Kind::Command;
        let mut shift = match self.start(capture).await? {
            Ok(shift) => shift,
            Err((error, report)) => return Ok(Outcome { result: Err(error), version, report }),
        };
        if capture {
            let env = command_env(&version, &self.ticket, self.meter.timeout());
            shift.instance.data().feed(event.clone(), env);
        }
        let called: Called<Answer> = {
            let call = pin!(call::event(&mut shift.instance, &version, &self.ticket, event));
            let (meter, ticker) = (&*self.meter, self.inner.ticker());
            Guarded::new(call, meter, ticker, &self.unit.version).from(shift.began).await
        };
        let (result, report) = self.settle(&shift, called);
        let result = result.and_then(|answer| {
            let bytes = answer?;
            match call::exceeded(bytes.len() as u64, &version) {
                Some(limit) => Err(FunctionError::response_too_large(limit)),
                None => Ok(Reply::Event(bytes)),
            }
        });
        self.finish(shift, result.as_ref().err(), report);
        Ok(Outcome { result, version, report })
    }

    /// Hands the guest an HTTP request; the outcome is there with the head of its response.
    pub(crate) async fn http(
        self,
        request: ::http::Request<Body>,
        long_run: Handle,
        long: bool,
    ) -> Result<Outcome, InvokeError> {
        let version = Arc::clone(self.version());
        let meter = self.meter();
        let is_head = request.method() == ::http::Method::HEAD;
        let (head, received) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let (transit, unit) = (Arc::clone(&self.inner.transit), Arc::clone(&self.unit));
        let guest = Box::pin(self.http_guest(request, head, Arc::clone(&progress)));
        let drive = Drive::new(guest, meter, long_run, long);
        let (head, guest) = head_or_end(drive, received).await;
        let result = match (head, guest) {
            // It failed before anything was sent: there is still time to say so.
            (_, Guest::Ended(Ok(Err(HttpEnd::Failed(error))))) => Err(error),
            (Some(Ok(response)), Guest::Ended(Ok(Ok(())))) => left(response, is_head),
            (Some(Ok(response)), guest) => {
                let (head, body) = response.into_parts();
                let on_whole = matches!(guest, Guest::Running(_)).then(|| {
                    let progress = Arc::clone(&progress);
                    Box::new(move || progress.whole(&transit, &unit)) as OnWhole
                });
                let body = Streaming::new(&head, is_head, body, guest, on_whole).boxed_unsync();
                Ok(Reply::Http(::http::Response::from_parts(head, body)))
            }
            (Some(Err(why)), _) => {
                Err(FunctionError::returned("Runtime.InvalidResponse", why, Vec::new()))
            }
            (None, Guest::Ended(Ok(Err(HttpEnd::Refused(error))))) => return Err(error),
            (None, Guest::Ended(Err(Panicked))) => return Err(panicked()),
            (None, _) => Err(no_response()),
        };
        let report = progress.report(result.is_err());
        Ok(Outcome { result, version, report })
    }

    async fn http_guest(
        mut self,
        request: ::http::Request<Body>,
        head: oneshot::Sender<Head>,
        progress: Arc<Progress>,
    ) -> Result<(), HttpEnd> {
        let mut shift = match self.start(false).await.map_err(HttpEnd::Refused)? {
            Ok(shift) => shift,
            Err((error, report)) => {
                let _ = progress.at_end.set(report);
                return Err(HttpEnd::Failed(error));
            }
        };
        let (start, init, began, meter) = (shift.start, shift.init, shift.began, self.meter());
        let memory = shift.instance.store.data().limiter.gauge();
        let _ = progress.memory.set(Arc::clone(&memory));
        let good = Arc::new(OnceLock::new());
        let (at_head, relay_good) = (Arc::clone(&progress), Arc::clone(&good));
        let relay = http::Relay::new(head, move |given| {
            let duration = Duration::from_nanos(now_ns().saturating_sub(began));
            let memory_bytes = memory.load(Relaxed);
            let report = Report { duration, init, cpu: meter.cpu(), memory_bytes, start };
            let _ = at_head.at_head.set(report);
            let _ = relay_good.set(given.as_ref().err().cloned());
        });
        let called: Called<()> = {
            let call = pin!(http::request(&mut shift.instance, request, relay));
            Guarded::new(call, &self.meter, self.inner.ticker(), &self.unit.version).await
        };
        let (result, report) = self.settle(&shift, called);
        let result = result.and_then(|()| match good.get() {
            Some(None) => Ok(()),
            Some(Some(why)) => {
                Err(FunctionError::returned("Runtime.InvalidResponse", why.clone(), Vec::new()))
            }
            None => Err(no_response()),
        });
        let _ = progress.at_end.set(report);
        self.finish(shift, result.as_ref().err(), report);
        // Until here, where the instance is idle or on its way out.
        drop(progress);
        result.map_err(HttpEnd::Failed)
    }

    /// When its caller's time is over.
    fn until(&self) -> Option<Instant> {
        self.ticket.caller.as_deref().and_then(|caller| caller.deadline)
    }

    /// Makes sure that there is an instance, with its meter armed, whose output belongs to this
    /// invocation from here on. The inner error is the guest's, logged and counted already.
    async fn start(
        &mut self,
        capture: bool,
    ) -> Result<Result<Shift, (FunctionError, Report)>, InvokeError> {
        self.end_starved();
        let (id, cpu) = (self.ticket.id, self.version().config.cpu());
        let trace = self.ticket.caller.as_deref().and_then(|caller| caller.trace.clone());
        if let Some((mut instance, start)) = self.taken.take() {
            let bytes = self.unit.expected_bytes();
            if start == StartKind::Prewarmed && instance.data().limiter.reserve(bytes).is_err() {
                Box::pin(self.wait_with(&mut instance, bytes)).await;
            }
            // What waited for a core has waited; the others have just got their permit.
            let began = if self.queued { clock::now() } else { self.permit.taken() };
            let timeout = call::time_left(self.version(), self.until(), began);
            let began = since_origin(began);
            self.meter.arm(began, timeout, cpu, self.unit.is_measured());
            instance.data().begin(id, capture);
            instance.data().follow(trace);
            instance.store.set_epoch_deadline(1);
            return Ok(Ok(Shift { instance, start, init: None, began }));
        }
        // Its state is large, and would be copied with every call's.
        Box::pin(self.start_cold(capture, trace)).await
    }

    /// There is less room than its call is likely to take. It waits for more while some is on its way, and then does with what
    /// there is: it may not need it.
    async fn wait_with(&mut self, instance: &mut Kept, bytes: u64) {
        let unit = Arc::clone(&self.unit);
        let inner = Arc::clone(&self.inner);
        let mut patience = inner.transit.patience(&unit.version.share, self.until());
        while let Err(short) = instance.data().limiter.reserve(bytes)
            && patience.wait(Whose::of(short), || unit.is_making()).await
        {}
        self.note_wait(patience.waited());
    }

    /// It has waited for room: as if in the queue.
    fn note_wait(&mut self, waited: Duration) {
        if !waited.is_zero() {
            self.version().metrics.queue_wait.observe(waited.as_secs_f64());
            self.permit.postpone(waited);
        }
    }

    /// The same without an instance: loads the code, if need be, and makes one.
    async fn start_cold(
        &mut self,
        capture: bool,
        trace: Option<Arc<str>>,
    ) -> Result<Result<Shift, (FunctionError, Report)>, InvokeError> {
        let (inner, unit) = (Arc::clone(&self.inner), Arc::clone(&self.unit));
        let (version, id) = (&unit.version, self.ticket.id);
        let asked = clock::now();
        // Loading is the platform's work, and not on the function's clock.
        let ready = inner.ready(&unit).await?;
        let sink = Sink::new(version);
        sink.begin(id, capture);
        let until = self.until();
        let patience = Some(inner.transit.patience(&version.share, until));
        let mut order = Order { id, meter: self.meter(), sink, until, patience };
        let made = inner.instantiate(&unit, &ready, &mut order).await?;
        let began = clock::now();
        let waited = order.patience.map_or(Duration::ZERO, |patience| patience.waited());
        self.note_wait(waited);
        let init = Some((began - asked).saturating_sub(waited));
        match made {
            Ok(mut instance) => {
                instance.data().follow(trace);
                let began = since_origin(began);
                Ok(Ok(Shift { instance, start: StartKind::Cold, init, began }))
            }
            Err(error) => {
                let report = Report { init, cpu: self.meter.cpu(), ..NOTHING_RAN };
                order.sink.end(Some(note(&error)), report, began);
                self.count(Some(&error), report);
                Ok(Err((error, report)))
            }
        }
    }

    /// What a call's end means, and what it took.
    fn settle<T>(&self, shift: &Shift, called: Called<T>) -> (Result<T, FunctionError>, Report) {
        let (id, version) = (self.ticket.id, self.version());
        let state = shift.instance.store.data();
        let result = match called {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(call::failure(&error, state, id, version)),
            Err(TimedOut) => Err(call::clocked(KillReason::Timeout, id, version, &self.meter)),
        };
        let report = Report {
            duration: self.meter.since(shift.began),
            init: shift.init,
            cpu: self.meter.cpu(),
            memory_bytes: state.limiter.bytes(),
            start: shift.start,
        };
        (result, report)
    }

    /// Logs and counts the end, and keeps the instance or lets it go.
    fn finish(&mut self, shift: Shift, error: Option<&FunctionError>, report: Report) {
        let Shift { mut instance, start, .. } = shift;
        let ended = self.meter.ended();
        instance.store.data().sink.end(error.map(note), report, ended);
        self.count(error, report);
        self.unit.note_length(self.meter.length());
        self.unit.note_bytes(report.memory_bytes);
        instance.store.data_mut().limiter.settle();
        self.end_busy();
        instance.uses += 1;
        let gone = match error.and_then(|e| e.kill) {
            None => self.unit.give_back(instance, ended),
            Some(kill) => {
                if kill == KillReason::Trap {
                    self.blame(start);
                }
                Some(instance)
            }
        };
        let Some(instance) = gone else { return };
        let under_way = self.inner.transit.set_out(&self.unit.version);
        let replace = Arc::clone(&self.inner).replace(Arc::clone(&self.unit), instance, under_way);
        // After the answer: this task runs when the one that answers has flushed.
        drop(tokio::spawn(replace));
    }

    /// A trap; perhaps it is the reuse that is at fault.
    fn blame(&self, start: StartKind) {
        let Some(idle) = self.unit.note_trap(start) else { return };
        self.inner.dispose(&self.unit, idle);
        self.version().metrics.reuse_switched();
        tracing::warn!(
            function = %self.version().name,
            "its reused instances trap, its fresh ones do not: reuse is switched off"
        );
    }

    /// It has come to a core.
    fn end_starved(&mut self) {
        if std::mem::take(&mut self.starved) {
            self.version().share.starved.fetch_sub(1, Relaxed);
            self.permit.begun();
        }
    }

    /// Its instance is not busy any more, from the moment on that it may be idle.
    fn end_busy(&mut self) {
        if std::mem::take(&mut self.busy) {
            self.unit.busy_end();
        }
    }

    fn count(&mut self, error: Option<&FunctionError>, report: Report) {
        // One that was stopped by a clock would have taken more.
        let stopped = error.and_then(|error| error.kill);
        let clocked = matches!(stopped, Some(KillReason::Timeout | KillReason::Cpu));
        let cpu = if clocked { report.cpu * 2 } else { report.cpu };
        self.permit.note(Ran { ended: self.meter.ended(), cpu });
        let metrics = &self.version().metrics;
        metrics.ran(error.map_or("success", FunctionError::outcome), &report);
        if let Some(reason) = error.and_then(|e| e.kill) {
            metrics.killed(reason);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.end_starved();
        self.end_busy();
    }
}

/// How a guest that answers HTTP failed.
pub(crate) enum HttpEnd {
    /// By its own fault.
    Failed(FunctionError),
    /// By the platform's.
    Refused(InvokeError),
}

/// The report of an invocation that did not come to run.
const NOTHING_RAN: Report = Report {
    duration: Duration::ZERO,
    init: None,
    cpu: Duration::ZERO,
    memory_bytes: 0,
    start: StartKind::Cold,
};

/// Drives the guest until it gives a head, or ends. One that still runs then gets a task of its own:
/// its deadline must not depend on whether somebody reads its response.
async fn head_or_end(
    mut drive: Drive<End>,
    mut received: oneshot::Receiver<Head>,
) -> (Option<Head>, Guest) {
    // A guest may drop its way to answer and go on: nothing is received then, and not asked again.
    let mut open = true;
    let first = poll_fn(|cx| {
        let ended = Pin::new(&mut drive).poll(cx);
        let mut head = None;
        if open && let Poll::Ready(given) = Pin::new(&mut received).poll(cx) {
            open = false;
            head = given.ok();
        }
        match (head, ended) {
            (head, Poll::Ready(end)) => Poll::Ready((head, Some(end))),
            (Some(head), Poll::Pending) => Poll::Ready((Some(head), None)),
            (None, Poll::Pending) => Poll::Pending,
        }
    });
    match first.await {
        (head, Some(end)) => (head, Guest::Ended(end)),
        (head, None) => (head, Guest::Running(tokio::spawn(drive))),
    }
}

/// The reply of a guest that gave its head and ended well before either was looked at.
fn left(response: ::http::Response<Body>, is_head: bool) -> Result<Reply, FunctionError> {
    let (head, body) = response.into_parts();
    let body = match http::collect(&head, is_head, body) {
        Left::Whole(bytes) => wambda_model::body::full(bytes),
        Left::Wrong(why) => {
            return Err(FunctionError::returned("Runtime.InvalidResponse", why, Vec::new()));
        }
        Left::Streams(ahead, body) => {
            let guest = Guest::Ended(Ok(Ok(())));
            Streaming::new(&head, is_head, body, guest, None).after(ahead).boxed_unsync()
        }
    };
    Ok(Reply::Http(::http::Response::from_parts(head, body)))
}

fn no_response() -> FunctionError {
    let why = "the handler returned without a response".to_owned();
    FunctionError::returned("Runtime.NoResponse", why, Vec::new())
}

/// The line of the log that tells an error.
fn note(error: &FunctionError) -> String {
    let mut text = format!("{}: {}", error.error_type, error.message);
    for frame in &error.stack {
        text.push_str("\n    at ");
        text.push_str(frame);
    }
    if text.len() > LOG_LINE_BYTES_MAX {
        let cut = (0..=LOG_LINE_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(cut.unwrap_or_default());
    }
    text
}

/// The context of an invocation, as a command finds it.
fn command_env(version: &Version, ticket: &Ticket, time: Duration) -> Vec<(&'static str, String)> {
    let deadline = call::deadline_after(time);
    let mut env = vec![
        ("WAMBDA_REQUEST_ID", ticket.id.to_string()),
        ("WAMBDA_INVOKED_ARN", ticket.invoked_arn(version).to_owned()),
        ("WAMBDA_DEADLINE_UNIX_MS", deadline.to_string()),
        ("WAMBDA_ATTEMPT", ticket.attempt.to_string()),
    ];
    let caller = ticket.caller.as_deref();
    let mut add = |key, value: Option<&Arc<str>>| env.extend(value.map(|v| (key, v.to_string())));
    add("WAMBDA_CLIENT_CONTEXT", caller.and_then(|c| c.client_context.as_ref()));
    add("WAMBDA_IDENTITY", caller.and_then(|c| c.identity.as_ref()));
    add("_X_AMZN_TRACE_ID", caller.and_then(|c| c.trace.as_ref()));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest gives its head after half a millisecond and runs into its timeout; a busy machine looks at both at once.
    #[test]
    fn the_report_of_a_failure_tells_all_of_the_call() {
        let report = |micros| Report { duration: Duration::from_micros(micros), ..NOTHING_RAN };
        let progress = Progress::default();
        let told = |failed| progress.report(failed).duration.as_micros();
        assert_eq!(told(true), 0);
        progress.at_head.set(report(422)).unwrap();
        assert_eq!((told(false), told(true)), (422, 422));
        progress.at_end.set(report(200_000)).unwrap();
        assert_eq!((told(false), told(true)), (422, 200_000));
    }
}
