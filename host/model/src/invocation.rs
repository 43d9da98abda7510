//! One invocation, its outcome, and the traits at the two borders it crosses: [`Invoke`] (the one
//! door into functions, implemented by `dispatch`) and [`Execute`] (the seam to wasm, implemented
//! by `runtime`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::body::Body;
use crate::catalog::Version;
use crate::error::{FunctionError, InvokeError};
use crate::ids::RequestId;
use crate::scaling::ScalingReport;

/// A boxed future, the currency of object-safe async traits.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a function is handed.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once; a box would cost more")]
pub enum Payload {
    /// An event: JSON by convention, passed through unparsed.
    Event(Bytes),
    /// An HTTP request, for the http kinds.
    Http(http::Request<Body>),
}

impl Payload {
    /// Bytes that wait with the invocation when it queues.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        match self {
            Self::Event(bytes) => bytes.len() as u64,
            Self::Http(_) => 0,
        }
    }
}

/// Who calls, and what they pass along; all of it reaches the function's context.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The caller's ARN, when callers are authenticated.
    pub identity: Option<Arc<str>>,
    /// Lambda's client context, base64-decoded JSON.
    pub client_context: Option<Arc<str>>,
    /// The `X-Amzn-Trace-Id` header.
    pub trace: Option<Arc<str>>,
    /// When the function that calls has to have ended: this one ends by then.
    pub deadline: Option<Instant>,
    /// The ARN that was called, when it is not the version's own.
    pub invoked_arn: Option<Arc<str>>,
}

/// One event on its way to one function.
#[derive(Debug)]
pub struct Invocation {
    /// Identifies the invocation in answers, logs and traces.
    pub id: RequestId,
    /// What the function is handed.
    pub payload: Payload,
    /// Who calls. None for the plain case, which is also the hot one.
    pub caller: Option<Box<Caller>>,
    /// 1 for the first attempt.
    pub attempt: u32,
}

impl Invocation {
    /// A first attempt by nobody in particular.
    #[must_use]
    pub fn new(payload: Payload) -> Self {
        Self { id: RequestId::random(), payload, caller: None, attempt: 1 }
    }

    /// When the function that calls has to have ended.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.caller.as_deref()?.deadline
    }
}

/// What a function answered.
#[derive(Debug)]
pub enum Reply {
    /// A result, unparsed.
    Event(Bytes),
    /// An HTTP response; its body may still be streaming out of the function.
    Http(http::Response<Body>),
}

/// Where the instance came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartKind {
    /// Instantiated while the invocation waited.
    Cold,
    /// Instantiated ahead of time, never used before.
    Prewarmed,
    /// Had served before.
    Warm,
}

impl StartKind {
    /// The name in headers, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Prewarmed => "prewarmed",
            Self::Warm => "warm",
        }
    }
}

/// What an invocation took.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Wall-clock time of the handler.
    pub duration: Duration,
    /// Wall-clock time of loading and instantiation, when a cold start paid it.
    pub init: Option<Duration>,
    /// CPU time of the guest, instantiation included when it was cold.
    pub cpu: Duration,
    /// Peak of linear memories and tables.
    pub memory_bytes: u64,
    /// Where the instance came from.
    pub start: StartKind,
}

/// The function ran. For a streamed HTTP reply the report covers the time up to the head.
#[derive(Debug)]
pub struct Outcome {
    /// What it answered, or how it failed.
    pub result: Result<Reply, FunctionError>,
    /// The version that ran.
    pub version: Arc<Version>,
    /// What it took.
    pub report: Report,
}

/// The right to run one invocation of one function; gives itself back when dropped.
pub struct Permit {
    /// None only while it is being dropped.
    owner: Option<Arc<dyn Release>>,
    taken: Instant,
    ran: Option<Ran>,
}

/// What ran under a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// When it ended.
    pub ended: Instant,
    /// CPU time that it took.
    pub cpu: Duration,
}

/// Takes permits back.
pub trait Release: Send + Sync {
    /// What runs under one that had to wait for a core has come to it.
    fn begun(self: Arc<Self>) {}

    /// One permit is free again, taken at `taken`; `ran` is what ran under it, if something did.
    fn release(self: Arc<Self>, taken: Instant, ran: Option<Ran>);
}

impl Permit {
    /// A permit of `owner`, taken at `taken`.
    #[must_use]
    pub fn new(owner: Arc<dyn Release>, taken: Instant) -> Self {
        Self { owner: Some(owner), taken, ran: None }
    }

    /// The same, but what runs under it begins only now.
    #[must_use]
    pub fn begin(mut self, now: Instant) -> Self {
        self.taken = now;
        self
    }

    /// What runs under it begins only so much later.
    pub fn postpone(&mut self, by: Duration) {
        self.taken += by;
    }

    /// When it was taken, and what runs under it begins.
    #[must_use]
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// What runs under it has come to a core, for which it had to wait.
    pub fn begun(&self) {
        if let Some(owner) = &self.owner {
            Arc::clone(owner).begun();
        }
    }

    /// Tells what ran under it.
    pub fn note(&mut self, ran: Ran) {
        self.ran = Some(ran);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.release(self.taken, self.ran);
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// The one door into functions.
pub trait Invoke: Send + Sync {
    /// Runs `invocation` on `version` when there is room, waits for room, or refuses.
    fn invoke(
        &self,
        version: &Arc<Version>,
        invocation: Invocation,
    ) -> BoxFuture<'_, Result<Outcome, InvokeError>>;

    /// How many permits [`Self::permit`] would give now.
    fn room(&self, version: &Arc<Version>) -> u32;

    /// A permit for work that can wait: none while others wait for one, or while enough runs.
    fn permit(&self, version: &Arc<Version>) -> Option<Permit>;

    /// Runs `invocation` on a permit for `version`.
    fn run(
        &self,
        version: &Arc<Version>,
        invocation: Invocation,
        permit: Permit,
    ) -> BoxFuture<'static, Result<Outcome, InvokeError>>;

    /// Says what waits elsewhere for `version`: the plan counts it as well.
    fn set_backlog(&self, version: &Arc<Version>, backlog: Backlog);

    /// Invocations that run now, those included whose caller has gone.
    fn running(&self) -> u64;

    /// Instances, queue and the last decisions of a function.
    fn scaling(&self, version: &Arc<Version>) -> ScalingReport;
}

/// Work for a version that waits outside of its lane.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Backlog {
    /// Events.
    pub count: u64,
    /// Share of the last ones that failed, from 0 to 1.
    pub error_ratio: f64,
    /// Most of them that may run at once; `u32::MAX` for any number.
    pub most: u32,
}

/// Instances of one version, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceCounts {
    /// Serving an invocation.
    pub busy: u32,
    /// Idle, having served.
    pub warm: u32,
    /// Idle, never used.
    pub prewarmed: u32,
    /// Whether the last instance that was made ahead of time failed by its own code.
    pub stillborn: bool,
}

impl InstanceCounts {
    /// All of them.
    #[must_use]
    pub fn total(self) -> u32 {
        self.busy + self.warm + self.prewarmed
    }
}

/// The seam to wasm.
pub trait Execute: Send + Sync {
    /// Runs one invocation on an instance of `version`. The permit lives as long as the guest does,
    /// which for a streamed reply is longer than this future.
    fn execute(
        &self,
        version: &Arc<Version>,
        invocation: Invocation,
        permit: Permit,
    ) -> BoxFuture<'static, Result<Outcome, InvokeError>>;

    /// Brings the idle instances of `version` to what makes `count` instances in all: makes the
    /// missing ones, retires surplus ones. Idempotent; returns before it is done.
    fn keep_warm(&self, version: &Arc<Version>, count: u32);

    /// Instances of `version` now.
    fn counts(&self, version: &Version) -> InstanceCounts;

    /// Bytes that an instance of `version` is likely to hold, by those that have served; none before the first one.
    fn instance_bytes(&self, version: &Version) -> Option<u64>;

    /// Forgets every version that `is_live` denies; what runs, ends. Idempotent.
    fn retain(&self, is_live: &dyn Fn(&Version) -> bool);
}
