//! Wiring, and nothing else: configuration, building the parts, listening, telemetry, shutdown.
//! The only crate that names implementations.

pub mod build;
pub mod config;
mod framing;
mod inside;
pub mod listen;
mod patient;
mod places;
mod polls;
mod readers;
mod serving;
pub mod telemetry;
pub mod wall;

pub use build::serve;
pub use config::{ServeArgs, Settings};
pub use places::Connections;
