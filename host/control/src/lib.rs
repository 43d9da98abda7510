//! Functions, their configuration and code: publish, delete, load at start. Knows no HTTP and no
//! wasm: uploads go through [`Build`](wambda_model::Build), storage through the traits of
//! `wambda-store`, and readers see the result as the catalog.

pub mod functions;
pub mod record;

pub use functions::{Functions, Identity, PublishError, Published};
