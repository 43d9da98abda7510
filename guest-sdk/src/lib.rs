//! Write functions for [Wambda](https://github.com/wambda/wambda), the serverless platform that you
//! run yourself.
//!
//! ```ignore
//! use serde::{Deserialize, Serialize};
//! use wambda::{Context, Error};
//!
//! #[derive(Deserialize)]
//! struct Greet {
//!     name: String,
//! }
//!
//! #[derive(Serialize)]
//! struct Greeting {
//!     message: String,
//! }
//!
//! #[wambda::handler]
//! fn handle(event: Greet, _ctx: Context) -> Result<Greeting, Error> {
//!     Ok(Greeting { message: format!("Hello, {}!", event.name) })
//! }
//! ```
//!
//! Build it as a `cdylib` with `cargo build --release --target wasm32-wasip2` and upload the
//! `.wasm`. What is printed goes to the function's log. A panic ends the instance; an [`Error`]
//! does not.
//!
//! For the least overhead there is [`core_handler!`], which makes a core module that takes bytes.

mod context;
mod core;
mod error;
#[doc(hidden)]
pub mod run;

pub use context::Context;
pub use error::Error;
pub use wambda_macros::handler;

/// What the macros expand to. Not part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::core::{alloc, finish, take};
    #[cfg(target_arch = "wasm32")]
    pub use crate::run::bindings;
    pub use crate::run::handle;
}
