//! Admits invocations, lets them wait, and decides how many instances each function has.
//!
//! - [`plan`] is the rule book: pure functions from statistics to numbers, tested from data.
//! - [`lane`] is one function's permits and bounded queue.
//! - [`dispatcher`] is the door ([`Invoke`](wambda_model::Invoke)) and the tick.
//!
//! Knows instances only through [`Execute`](wambda_model::Execute): no wasm here, and no HTTP.

pub mod dispatcher;
pub mod keep;
pub mod lane;
pub mod plan;

pub use dispatcher::Dispatcher;
