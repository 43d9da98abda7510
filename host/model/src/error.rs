//! What can go wrong for a caller: the function failed ([`FunctionError`]), or the platform
//! refused or failed ([`InvokeError`]).

use std::time::Duration;

use bytes::Bytes;

use crate::ids::RequestId;

/// A function that ran and failed. The texts are AWS's, so that clients that match on them work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error_type}: {message}")]
pub struct FunctionError {
    /// For example `Sandbox.Timedout` or the type that the handler named.
    pub error_type: String,
    /// For people; names the limit and the value where there is one.
    pub message: String,
    /// Innermost frame first; empty when there is none.
    pub stack: Vec<String>,
    /// Set when the platform stopped the function.
    pub kill: Option<KillReason>,
}

/// Why the platform stopped a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KillReason {
    /// Wall-clock limit.
    Timeout,
    /// CPU limit.
    Cpu,
    /// Memory limit.
    Memory,
    /// A trap, an exit, or a broken contract.
    Trap,
}

impl KillReason {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Trap => "trap",
        }
    }
}

impl FunctionError {
    fn killed(kill: KillReason, error_type: &str, id: RequestId, what: &str) -> Self {
        Self {
            error_type: error_type.to_owned(),
            message: format!("RequestId: {id} Error: {what}"),
            stack: Vec::new(),
            kill: Some(kill),
        }
    }

    /// The wall-clock limit was reached.
    #[must_use]
    pub fn timeout(id: RequestId, limit: Duration) -> Self {
        let what = format!("Task timed out after {:.2} seconds", limit.as_secs_f64());
        Self::killed(KillReason::Timeout, "Sandbox.Timedout", id, &what)
    }

    /// The CPU limit was reached. Lambda has no such limit; the type follows its pattern.
    #[must_use]
    pub fn cpu(id: RequestId, limit: Duration) -> Self {
        let what = format!("Task used up its CPU time of {:.3} seconds", limit.as_secs_f64());
        Self::killed(KillReason::Cpu, "Sandbox.CpuExceeded", id, &what)
    }

    /// The memory limit was reached, and the guest did not survive it.
    #[must_use]
    pub fn memory(id: RequestId, limit: u64, wanted: u64) -> Self {
        let what = format!(
            "Runtime exited with error: signal: killed (memory limit {limit} bytes, wanted {wanted})"
        );
        Self::killed(KillReason::Memory, "Runtime.OutOfMemory", id, &what)
    }

    /// The guest trapped or broke its contract.
    #[must_use]
    pub fn trap(id: RequestId, what: &str, stack: Vec<String>) -> Self {
        let what = format!("Runtime exited with error: {what}");
        Self { stack, ..Self::killed(KillReason::Trap, "Runtime.ExitError", id, &what) }
    }

    /// The guest exited on its own.
    #[must_use]
    pub fn exit(id: RequestId, status: i32) -> Self {
        let what = match status {
            0 => "Runtime exited without providing a reason".to_owned(),
            n => format!("Runtime exited with error: exit status {n}"),
        };
        Self::killed(KillReason::Trap, "Runtime.ExitError", id, &what)
    }

    /// The result is larger than the payload limit; the instance stays usable.
    #[must_use]
    pub fn response_too_large(limit: u64) -> Self {
        Self {
            error_type: "Function.ResponseSizeTooLarge".to_owned(),
            message: format!(
                "Response payload size exceeded maximum allowed payload size ({limit} bytes)."
            ),
            stack: Vec::new(),
            kill: None,
        }
    }

    /// The function answered with an error of its own.
    #[must_use]
    pub fn returned(error_type: &str, message: String, stack: Vec<String>) -> Self {
        Self { error_type: error_type.to_owned(), message, stack, kill: None }
    }

    /// As AWS writes it.
    #[must_use]
    pub fn to_json(&self, id: RequestId) -> Bytes {
        let mut shape =
            serde_json::json!({"errorType": self.error_type, "errorMessage": self.message});
        if let Some(shape) = shape.as_object_mut() {
            if self.kill.is_none() {
                shape.insert("requestId".to_owned(), id.to_string().into());
            }
            if self.kill.is_none() || !self.stack.is_empty() {
                shape.insert("stackTrace".to_owned(), self.stack.clone().into());
            }
        }
        shape.to_string().into()
    }

    /// The metric label of an invocation that ended like this.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        self.kill.map_or("error", KillReason::as_str)
    }
}

/// Why an invocation was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThrottleReason {
    /// The function's queue holds as many invocations as it may.
    QueueCount,
    /// The function's queue holds as many bytes as it may.
    QueueBytes,
    /// The invocation waited as long as it may.
    QueueAge,
    /// The function's concurrency is 0.
    Concurrency,
    /// The function's instances hold as much memory as those of one function may.
    Memory,
    /// The function's instances hold as many slots as those of one function may.
    Instances,
}

impl ThrottleReason {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueCount => "queue_count",
            Self::QueueBytes => "queue_bytes",
            Self::QueueAge => "queue_age",
            Self::Concurrency => "concurrency",
            Self::Memory => "memory",
            Self::Instances => "instances",
        }
    }
}

/// The platform refused an invocation, or failed at it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvokeError {
    /// Too much at once for this function.
    #[error("rate exceeded: {} (limit {limit}, now {value})", reason.as_str())]
    Throttled {
        /// Which limit.
        reason: ThrottleReason,
        /// Its value.
        limit: u64,
        /// What was there.
        value: u64,
        /// Whether the function has concurrency of its own, which was used up.
        reserved: bool,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The event is too large.
    #[error("request must be smaller than {limit} bytes, got {size}")]
    PayloadTooLarge {
        /// The function's payload limit.
        limit: u64,
        /// What was sent; at least this many bytes.
        size: u64,
    },
    /// The event is not what this kind of function takes.
    #[error("{0}")]
    InvalidRequest(String),
    /// Nobody waits for it any more.
    #[error("the function that calls has run out of time")]
    Expired,
    /// The platform has no room now: memory or instances.
    #[error("service unavailable: {0}")]
    Unavailable(String),
    /// A fault of the platform; the text is for its log.
    #[error("internal error: {0}")]
    Internal(String),
}
