//! From bytes to a handler and back; what `#[handler]` calls.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Context, Error};

/// Runs `handler` on an event of JSON; nothing counts as `null`.
///
/// # Errors
/// The handler's, or `InvalidEvent` and `InvalidResult` when JSON and types do not fit.
pub fn handle<E, R>(
    event: &[u8],
    context: Context,
    handler: impl FnOnce(E, Context) -> Result<R, Error>,
) -> Result<Vec<u8>, Error>
where
    E: DeserializeOwned,
    R: Serialize,
{
    let event = if event.is_empty() { b"null" } else { event };
    let event = serde_json::from_slice(event).map_err(|e| Error::new("InvalidEvent", e))?;
    let result = handler(event, context)?;
    serde_json::to_vec(&result).map_err(|e| Error::new("InvalidResult", e))
}

/// The contract, generated from `wit/function.wit`.
#[cfg(target_arch = "wasm32")]
#[allow(missing_docs)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "handler",
        pub_export_macro: true,
        default_bindings_module: "wambda::__private::bindings",
        export_macro_name: "export",
    });

    pub use exports::wambda::function::event_handler::{Context, FunctionError, Guest};

    impl From<Context> for crate::Context {
        fn from(c: Context) -> Self {
            Self {
                request_id: c.request_id,
                function_name: c.function_name,
                function_version: c.function_version,
                invoked_function_arn: c.invoked_function_arn,
                memory_limit_bytes: c.memory_limit_bytes,
                deadline_unix_ms: c.deadline_unix_ms,
                log_group_name: c.log_group_name,
                log_stream_name: c.log_stream_name,
                identity: c.identity,
                client_context: c.client_context,
                trace_header: c.trace_header,
                attempt: c.attempt,
            }
        }
    }

    impl From<crate::Error> for FunctionError {
        fn from(e: crate::Error) -> Self {
            Self { error_type: e.error_type, error_message: e.message, stack_trace: e.stack }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(event: &[u8]) -> Result<Vec<u8>, Error> {
        handle(event, Context::default(), |n: Option<u32>, _| {
            n.map(|n| n * 2).ok_or_else(|| Error::new("Nothing", "no number"))
        })
    }

    #[test]
    fn events_and_results_are_json() {
        assert_eq!(double(b"21").unwrap(), b"42");
        assert_eq!(double(b"").unwrap_err().error_type, "Nothing");
        assert_eq!(double(b"{").unwrap_err().error_type, "InvalidEvent");
    }
}
