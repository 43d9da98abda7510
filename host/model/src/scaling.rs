//! What the scheduler tells about itself.

use crate::invocation::InstanceCounts;

/// Why the number of instances wanted changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleReason {
    /// Arrivals and service time ask for it.
    Arrivals,
    /// Waiting invocations ask for it.
    Backlog,
    /// More would not come to a core.
    Cores,
    /// The provisioned minimum.
    Provisioned,
    /// The function's concurrency stopped it.
    Concurrency,
    /// The memory budget stopped it.
    Memory,
    /// The window passed without need.
    Idle,
    /// Deferred work is held back because the function mostly fails.
    Failing,
    /// The function's pattern says that it will be called soon.
    Pattern,
}

impl ScaleReason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Arrivals,
        Self::Backlog,
        Self::Cores,
        Self::Provisioned,
        Self::Concurrency,
        Self::Memory,
        Self::Idle,
        Self::Failing,
        Self::Pattern,
    ];

    /// The name in the API and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrivals => "arrivals",
            Self::Backlog => "backlog",
            Self::Cores => "cores",
            Self::Provisioned => "provisioned",
            Self::Concurrency => "concurrency",
            Self::Memory => "memory",
            Self::Idle => "idle",
            Self::Failing => "failing",
            Self::Pattern => "pattern",
        }
    }
}

/// One change of the number of instances wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Instances wanted before.
    pub from: u32,
    /// Instances wanted from then on.
    pub to: u32,
    /// Why.
    pub reason: ScaleReason,
}

/// A function's scheduler state, for people.
#[derive(Debug, Clone, Default)]
pub struct ScalingReport {
    /// Instances by state.
    pub instances: InstanceCounts,
    /// Instances wanted.
    pub desired: u32,
    /// Invocations running.
    pub running: u32,
    /// Invocations waiting.
    pub queued: u32,
    /// Payload bytes waiting.
    pub queued_bytes: u64,
    /// Events that wait in the function's queue for asynchronous invocations.
    pub deferred: u64,
    /// Share of the last deferred events that failed.
    pub error_ratio: f64,
    /// How long an idle instance is kept, in milliseconds.
    pub keep_alive_ms: u64,
    /// Age of the oldest one waiting, in milliseconds.
    pub oldest_ms: u64,
    /// Arrivals per second.
    pub arrival_rate: f64,
    /// Mean time of one invocation in milliseconds, when one has run.
    pub service_ms: Option<f64>,
    /// Mean CPU time of one invocation in milliseconds, when one has run.
    pub cpu_ms: Option<f64>,
    /// Of those running, those that want a core and have none.
    pub starved: u32,
    /// The last decisions, newest last.
    pub decisions: Vec<Decision>,
}
