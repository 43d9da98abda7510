//! The server's own log, on standard error.

use std::io::IsTerminal;

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging.
///
/// # Errors
/// When the filter is not valid, or logging was started before.
pub fn start(format: LogFormat, filter: &str) -> Result<()> {
    let filter =
        EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is not a filter"))?;
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
