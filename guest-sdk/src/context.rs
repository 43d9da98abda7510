//! What a function is told about its invocation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a function is told about the invocation besides the event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// Identifies the invocation; a version 4 UUID.
    pub request_id: String,
    /// The function's name.
    pub function_name: String,
    /// `$LATEST` or a version number.
    pub function_version: String,
    /// The function's ARN as it was invoked.
    pub invoked_function_arn: String,
    /// Limit for linear memories and tables together, in bytes.
    pub memory_limit_bytes: u64,
    /// When the invocation is stopped, in milliseconds since the Unix epoch.
    pub deadline_unix_ms: u64,
    /// The function's log group.
    pub log_group_name: String,
    /// The stream within the log group.
    pub log_stream_name: String,
    /// The caller's ARN, when callers are authenticated.
    pub identity: Option<String>,
    /// The client context that the caller passed, as JSON.
    pub client_context: Option<String>,
    /// The `X-Amzn-Trace-Id` header.
    pub trace_header: Option<String>,
    /// 1 for the first attempt of an event.
    pub attempt: u32,
}

impl Context {
    /// Time left until the invocation is stopped; nothing when it is over.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // a guest has no other clock
    pub fn remaining(&self) -> Duration {
        let deadline = UNIX_EPOCH + Duration::from_millis(self.deadline_unix_ms);
        deadline.duration_since(SystemTime::now()).unwrap_or_default()
    }
}
