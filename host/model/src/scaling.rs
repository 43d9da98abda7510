//! What the scheduler tells about itself.

use crate::invocation::InstanceCounts;

/// Why the number of instances wanted changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleReason {
    /// Arrivals and service time ask for it.
    Arrivals,
    /// Waiting invocations ask for it.
    Backlog,
    /// The provisioned minimum.
    Provisioned,
    /// The function's concurrency stopped it.
    Concurrency,
    /// The memory budget stopped it.
    Memory,
    /// The window passed without need.
    Idle,
}

impl ScaleReason {
    /// The name in the API and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrivals => "arrivals",
            Self::Backlog => "backlog",
            Self::Provisioned => "provisioned",
            Self::Concurrency => "concurrency",
            Self::Memory => "memory",
            Self::Idle => "idle",
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
    /// Age of the oldest one waiting, in milliseconds.
    pub oldest_ms: u64,
    /// Arrivals per second.
    pub arrival_rate: f64,
    /// Mean time of one invocation in milliseconds, when one has run.
    pub service_ms: Option<f64>,
    /// The last decisions, newest last.
    pub decisions: Vec<Decision>,
}
