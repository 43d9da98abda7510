//! What can go wrong for a caller: the function failed ([`FunctionError`]), or the platform
//! refused or failed ([`InvokeError`]).

use std::time::Duration;

use bytes::Bytes;

use crate::ids::RequestId;
use crate::limits::{ERROR_BYTES_MAX, ERROR_TYPE_BYTES_MAX};

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

/// What a frame of a stack takes besides its text.
const FRAME_BYTES: usize = size_of::<String>();
/// Stands where a text was cut.
const CUT: &str = "… [cut]";

/// The beginning of a text of more than `most` bytes, and a mark; none when the text is no longer.
#[must_use]
pub fn cut(text: &str, most: usize) -> Option<String> {
    if text.len() <= most {
        return None;
    }
    let (kept, _) = text.split_at(text.floor_char_boundary(most.saturating_sub(CUT.len())));
    Some([kept, CUT].concat())
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
        let killed = Self::killed(KillReason::Trap, "Runtime.ExitError", id, &what);
        let returned = Self::returned(&killed.error_type, killed.message, stack);
        Self { kill: killed.kill, ..returned }
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

    /// The function answered with an error of its own. Of one beyond [`ERROR_BYTES_MAX`] the
    /// beginning is kept, and a mark: the error is escaped, logged and recorded again and again on
    /// its way.
    #[must_use]
    pub fn returned(error_type: &str, message: String, mut stack: Vec<String>) -> Self {
        let error_type = cut(error_type, ERROR_TYPE_BYTES_MAX).unwrap_or(error_type.to_owned());
        let mut room = ERROR_BYTES_MAX.saturating_sub(error_type.len());
        let message = cut(&message, room).unwrap_or(message);
        room = room.saturating_sub(message.len());
        let mut kept = 0;
        for frame in &stack {
            let Some(left) = room.checked_sub(frame.len() + FRAME_BYTES) else { break };
            (room, kept) = (left, kept + 1);
        }
        stack.truncate(kept);
        stack.shrink_to_fit();
        Self { error_type, message, stack, kill: None }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_cut_before_it_is_escaped() {
        let id = RequestId::random();
        let nuls = |bytes: usize| "\0".repeat(bytes);
        let frames = || vec![nuls(600_000), "b".to_owned()];
        let many = vec![String::new(); 200_000];
        for (kind, message, stack) in [
            ("E".to_owned(), nuls(600_000), Vec::new()),
            (nuls(600_000), "m".to_owned(), Vec::new()),
            ("E".to_owned(), "m".to_owned(), frames()),
            ("E".to_owned(), "é".repeat(300_000), frames()),
            ("E".to_owned(), "m".to_owned(), many),
        ] {
            let error = FunctionError::returned(&kind, message.clone(), stack.clone());
            let held = error.message.capacity() + error.error_type.capacity();
            let held = held + error.stack.iter().map(|f| f.capacity() + FRAME_BYTES).sum::<usize>();
            assert!(held <= ERROR_BYTES_MAX, "{held}");
            let json = error.to_json(id).len();
            assert!(json <= 6 * ERROR_BYTES_MAX + 1_024, "{json}");
            let trap = FunctionError::trap(id, &message, stack).to_json(id).len();
            assert!(trap <= 6 * ERROR_BYTES_MAX + 1_024, "{trap}");
        }
    }

    #[test]
    fn a_cut_is_marked_and_what_fits_stays() {
        let whole = "é".repeat(ERROR_BYTES_MAX / 2 - 1);
        let error = FunctionError::returned("E", whole.clone(), vec!["f".to_owned()]);
        assert_eq!((error.message, error.stack.len()), (whole.clone(), 0), "no room for a frame");
        let error = FunctionError::returned("E", whole + "éé", Vec::new());
        assert!(error.message.ends_with("é… [cut]"));
        let stack = vec!["f".to_owned(); 32];
        assert_eq!(FunctionError::returned("E", "m".to_owned(), stack.clone()).stack, stack);
    }
}
