//! The words every other crate uses: ids, limits, configuration, the catalog, one invocation and
//! its outcome, metrics, logs, time.
//!
//! No I/O lives here, and no wire format: HTTP shapes are in `api`, storage in `store`.
//! Read next: [`invocation`] (what flows) and [`catalog`] (what it flows through).

pub mod body;
pub mod budget;
pub mod build;
pub mod canary;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod error;
pub mod event;
pub mod function;
pub mod gate;
pub mod ids;
pub mod invocation;
pub mod limits;
pub mod lineage;
pub mod logs;
pub mod metrics;
pub mod polls;
pub mod scaling;
pub mod series;

pub use body::{Body, BodyError};
pub use budget::{Budget, Charge, Short};
pub use build::{Build, BuildError, Inspection};
pub use catalog::{Catalog, CatalogCell, Function, Target, Version};
pub use clock::{Clock, SystemClock};
pub use config::{Attributes, Draft, FunctionConfig, Kind, LayerUse, Reuse};
pub use error::{FunctionError, InvokeError, KillReason, ThrottleReason};
pub use function::{Alias, Details, LATEST};
pub use gate::{Gate, Leaving, Share};
pub use ids::{Digest, FunctionName, RequestId};
pub use invocation::{
    Backlog, BoxFuture, Caller, Execute, Invocation, Invoke, Outcome, Payload, Permit, Release,
    Reply, Report, StartKind,
};
pub use logs::{Ending, LogEntry, LogLine, LogRing, LogRoom, Stream};
pub use metrics::{FunctionMetrics, Metrics};
