//! The only crate that sees wasmtime. From an upload to a running instance:
//!
//! 1. [`upload`] unpacks it (wasm, WAT, zip), [`detect`] says what kind it is and whether the
//!    platform satisfies its imports, before anything is compiled.
//! 2. [`compiler`] compiles it in a child process with hard limits ([`child`] is that process);
//!    [`artifact`] keeps the result, authenticated.
//! 3. [`link`] resolves it once per version; [`pool`] builds instances; [`executor`] runs one
//!    invocation on one of them, with the limits of [`limiter`] and [`meter`].
//!
//!    What is in layers is unpacked by [`layer`].
//!
//! Knows no HTTP status and no scheduling policy: those are `api` and `dispatch`.

pub mod artifact;
mod call;
pub mod child;
pub mod compiler;
mod contract;
mod counted;
pub mod detect;
mod drive;
pub mod engine;
pub mod executor;
mod failures;
pub mod helper;
mod http;
mod idle;
mod inspector;
mod instance;
pub mod layer;
mod limiter;
mod link;
mod making;
mod meter;
mod outbound;
mod pool;
mod precheck;
#[doc(hidden)]
pub mod probe;
mod run;
mod sink;
mod state;
mod transit;
mod turns;
mod upkeep;
pub mod upload;
mod watchdog;

pub use engine::{EngineKind, Engines};
pub use executor::{Executor, RuntimeConfig};

/// What `/version` tells: this build, the engine under it, and what the machine lets it use.
#[must_use]
pub fn about(version: &str, wasi03: bool) -> serde_json::Value {
    serde_json::json!({
        "version": version,
        "wasmtime": wasmtime_version(),
        "wasi03": wasi03,
        "pagemap_scan": engine::uses_pagemap_scan(),
    })
}

/// The version of wasmtime in the lock file this was built with.
fn wasmtime_version() -> &'static str {
    let lock = include_str!("../../../Cargo.lock");
    let after_name = lock.split_once("name = \"wasmtime\"\nversion = \"").map(|(_, rest)| rest);
    after_name.and_then(|rest| rest.split('"').next()).unwrap_or("unknown")
}
