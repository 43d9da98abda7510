//! Event sources: what pulls events from where they wait, and runs functions on them.
//!
//! - [`deferred`]: asynchronous invocations, from their own queues.
//!
//! Knows functions only through [`Invoke`](wambda_model::Invoke), and queues only through
//! [`Queues`](wambda_store::Queues): no wasm here, and no HTTP.

pub mod deferred;

pub use deferred::Deferred;
