//! The words every other crate uses: ids, limits, configuration, the catalog, one invocation and
//! its outcome, metrics, logs, time.
//!
//! No I/O lives here, and no wire format: HTTP shapes are in `api`, storage in `store`.
//! Read next: [`invocation`] (what flows) and [`catalog`] (what it flows through).

pub mod body;
pub mod budget;
pub mod build;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod error;
pub mod ids;
pub mod invocation;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod scaling;

pub use body::{Body, BodyError};
pub use budget::{Budget, Charge};
pub use build::{Build, BuildError, Inspection};
pub use catalog::{Catalog, CatalogCell, Function, Version};
pub use clock::{Clock, SystemClock};
pub use config::{FunctionConfig, Kind, Reuse};
pub use error::{FunctionError, InvokeError, KillReason, ThrottleReason};
pub use ids::{Digest, FunctionName, RequestId};
pub use invocation::{
    BoxFuture, Caller, Execute, Invocation, Invoke, Outcome, Payload, Permit, Release, Reply,
    Report, StartKind,
};
pub use logs::{LogEntry, LogLine, LogRing, Stream};
pub use metrics::{FunctionMetrics, Metrics};
