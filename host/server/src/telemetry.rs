//! The server's own log, on standard error.

use std::io::IsTerminal;

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Who is not heard, unless the filter speaks of them.
const QUIET: &str = "wasmtime=error,wasmtime_wasi=off,wasmtime_wasi_http=off,wasmtime_wasi_io=off";

/// Starts logging.
///
/// # Errors
/// When the filter is not valid, or logging was started before.
pub fn start(format: LogFormat, filter: &str) -> Result<()> {
    // What WASI's host code has to say is about guests, who could fill the log with it.
    let asked =
        if filter.contains("wasmtime") { filter.to_owned() } else { format!("{filter},{QUIET}") };
    let filter =
        EnvFilter::try_new(asked).with_context(|| format!("--log {filter:?} is not a filter"))?;
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => base.with_target(false).try_init(),
        LogFormat::Json => base.json().try_init(),
    };
    started.map_err(|e| anyhow!("cannot start logging: {e}"))
}
