//! One call into an instance that takes an event and gives a result, and what its failures mean.

use std::time::{Duration, Instant};

use bytes::Bytes;
use wambda_model::limits::{ERROR_BYTES_MAX, PAYLOAD_BYTES_MAX, RESPONSE_BYTES_EXTRA};
use wambda_model::{FunctionError, KillReason, RequestId, Short, Version, clock};
use wasmtime::{Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::contract::Context;
use crate::instance::{Entry, Instance};
use crate::limiter::Denied;
use crate::meter::Meter;
use crate::run::Ticket;
use crate::state::State;

/// Characters of a function's name in a stack trace.
const STACK_NAME_CHARS_MAX: usize = 200;

/// A result, or the error that the function returned.
pub(crate) type Answer = Result<Bytes, FunctionError>;

/// The bit of a core handler's length that marks the result as an error.
const CORE_ERROR_BIT: u64 = 1 << 31;

/// Hands `event` to the guest.
pub(crate) async fn event(
    instance: &mut Instance,
    version: &Version,
    ticket: &Ticket,
    event: Bytes,
) -> wasmtime::Result<Answer> {
    let Instance { store, entry, .. } = instance;
    match entry {
        Entry::Core { memory, alloc, handle } => {
            let length = u32::try_from(event.len())?;
            let at = alloc.call_async(&mut *store, length).await?;
            memory.write(&mut *store, at as usize, &event)?;
            // The guest has it now; its answer may be as large.
            drop(event);
            let packed = handle.call_async(&mut *store, (at, length)).await?;
            core_answer(memory.data(&*store), packed, version.config.payload_bytes)
        }
        Entry::Event(handler) => {
            let mut id = [0; 36];
            let (id, time) = (ticket.id.encode(&mut id), store.data().meter.timeout());
            let caller = ticket.caller.as_deref();
            let context = Context {
                request_id: id,
                function_name: version.name.as_str(),
                function_version: &version.label,
                invoked_function_arn: ticket.invoked_arn(version),
                memory_limit_bytes: version.config.memory_bytes,
                deadline_unix_ms: deadline_after(time),
                log_group_name: &version.log_group,
                log_stream_name: &version.log_stream,
                identity: caller.and_then(|c| c.identity.as_deref()),
                client_context: caller.and_then(|c| c.client_context.as_deref()),
                trace_header: caller.and_then(|c| c.trace.as_deref()),
                attempt: ticket.attempt,
            };
            let handler = handler.wambda_function_event_handler();
            let result = handler.call_handle(&mut *store, &event, context).await?;
            Ok(result.map(Bytes::from).map_err(|e| {
                let frames: usize = e.stack_trace.iter().map(String::len).sum();
                let size = e.error_type.len() + e.error_message.len() + frames;
                match exceeded(size as u64, version) {
                    Some(limit) => FunctionError::response_too_large(limit),
                    None => FunctionError::returned(&e.error_type, e.error_message, e.stack_trace),
                }
            }))
        }
        Entry::CoreCommand(start) => {
            let ended = start.call_async(&mut *store, ()).await;
            command_answer(store, exit_status(ended)?, ticket.id, version)
        }
        Entry::Command(command) => {
            let ended = command.wasi_cli_run().call_run(&mut *store).await;
            let status = match ended {
                Ok(Ok(())) => 0,
                Ok(Err(())) => 1,
                Err(error) => exit_status(Err(error))?,
            };
            command_answer(store, status, ticket.id, version)
        }
        Entry::Http(_) | Entry::Http3(_) => wasmtime::bail!("an http function takes no event"),
    }
}

/// Reads `ptr << 32 | len` of a core handler.
pub(crate) fn core_answer(memory: &[u8], packed: u64, limit: u64) -> wasmtime::Result<Answer> {
    let at = usize::try_from(packed >> 32)?;
    let is_error = packed & CORE_ERROR_BIT != 0;
    let length = packed & (CORE_ERROR_BIT - 1);
    if let Some(limit) = beyond(length, limit) {
        return Ok(Err(FunctionError::response_too_large(limit)));
    }
    let end = at.saturating_add(usize::try_from(length)?);
    let Some(bytes) = memory.get(at..end) else {
        wasmtime::bail!(
            "wambda_handle returned {at}+{length}, beyond its memory of {} bytes",
            memory.len()
        );
    };
    if is_error {
        // What is beyond would be cut, and may become three times as much as text.
        let kept = bytes.get(..ERROR_BYTES_MAX + 1).unwrap_or(bytes);
        let message = String::from_utf8_lossy(kept).into_owned();
        return Ok(Err(FunctionError::returned("Error", message, Vec::new())));
    }
    Ok(Ok(Bytes::copy_from_slice(bytes)))
}

/// The limit that a result of `length` bytes exceeds.
pub(crate) fn exceeded(length: u64, version: &Version) -> Option<u64> {
    beyond(length, version.config.payload_bytes)
}

fn beyond(length: u64, limit: u64) -> Option<u64> {
    let limit = if limit == PAYLOAD_BYTES_MAX { limit + RESPONSE_BYTES_EXTRA } else { limit };
    (length > limit).then_some(limit)
}

fn exit_status(ended: wasmtime::Result<()>) -> wasmtime::Result<i32> {
    match ended {
        Ok(()) => Ok(0),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => Ok(exit.0),
            None => Err(error),
        },
    }
}

fn command_answer(
    store: &Store<State>,
    status: i32,
    id: RequestId,
    version: &Version,
) -> wasmtime::Result<Answer> {
    if status != 0 {
        return Ok(Err(FunctionError { kill: None, ..FunctionError::exit(id, status) }));
    }
    let too_large = || FunctionError::response_too_large(version.config.payload_bytes);
    Ok(store.data().sink.take_reply().ok_or_else(too_large))
}

/// What a failed call means to the caller.
pub(crate) fn failure(
    error: &wasmtime::Error,
    state: &State,
    id: RequestId,
    version: &Version,
) -> FunctionError {
    if let Some(reason) = state.meter.killed() {
        return clocked(reason, id, version, &state.meter);
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return FunctionError::exit(id, exit.0);
    }
    let limit = version.config.memory_bytes;
    match state.limiter.denied() {
        Some(Denied::Limit(wanted)) => return FunctionError::memory(id, limit, wanted),
        Some(Denied::Budget(short)) => {
            let what = match short {
                Short::All => "the server's memory budget is used up".to_owned(),
                Short::Own(wanted) => {
                    format!(
                        "the function's part of the server's memory is used up, at {wanted} bytes"
                    )
                }
            };
            let killed = FunctionError::memory(id, limit, state.limiter.bytes());
            return FunctionError { message: format!("RequestId: {id} Error: {what}"), ..killed };
        }
        None => {}
    }
    let cause = error.root_cause().to_string();
    if cause.contains("fuel allocated for hostcalls") {
        // Far beyond any payload: it did not even get across.
        let limit = exceeded(u64::MAX, version).unwrap_or_default();
        let too_large = FunctionError::response_too_large(limit);
        return FunctionError { kill: Some(KillReason::Trap), ..too_large };
    }
    let frames = error.downcast_ref::<WasmBacktrace>().map(stack).unwrap_or_default();
    match error.downcast_ref::<Trap>() {
        Some(trap) => FunctionError::trap(id, &trap.to_string(), frames),
        None => FunctionError::trap(id, &cause, frames),
    }
}

/// The error of a guest that a clock stopped.
pub(crate) fn clocked(
    reason: KillReason,
    id: RequestId,
    version: &Version,
    meter: &Meter,
) -> FunctionError {
    match reason {
        KillReason::Cpu => FunctionError::cpu(id, version.config.cpu()),
        _ => FunctionError::timeout(id, meter.timeout()),
    }
}

/// A function's timeout, or what is left of its caller's time, which ends at `until`.
pub(crate) fn time_left(version: &Version, until: Option<Instant>, now: Instant) -> Duration {
    let own = version.config.timeout();
    until.map_or(own, |at| own.min(at.saturating_duration_since(now)))
}

/// As functions are told of it, in milliseconds since the Unix epoch.
pub(crate) fn deadline_after(time: Duration) -> u64 {
    let now = clock::wall_ms(clock::now());
    now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn stack(backtrace: &WasmBacktrace) -> Vec<String> {
    let name = |frame: &wasmtime::FrameInfo| match frame.func_name() {
        Some(name) => {
            let name = format!("{:#}", rustc_demangle::demangle(name));
            name.chars().take(STACK_NAME_CHARS_MAX).collect()
        }
        None => format!("wasm function {}", frame.func_index()),
    };
    backtrace.frames().iter().map(name).collect()
}
