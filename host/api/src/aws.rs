//! The AWS protocols: from an HTTP request to a typed one and back, by the tables that `cargo xtask
//! codegen` makes from the public service models.
//!
//! - [`shape`]: what the tables are made of.
//! - [`bind`]: request → JSON value, by operation and protocol; [`check`]: its constraints.
//! - [`render`]: typed response → HTTP, by protocol.
//! - `generated`: one module a service.
//!
//! What an operation does is not here: see [`crate::lambda`], [`crate::iam`], [`crate::cloudwatch`].

use serde::Serialize;

pub mod bind;
pub mod cbor;
pub mod check;
pub mod render;
pub mod shape;
pub mod xml;

/// An answer without anything.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Nothing {}

#[rustfmt::skip]
pub mod generated {
    //! Made by `cargo xtask codegen`.
    #![allow(clippy::all, unused_imports)]
    pub mod cloudwatch;
    pub mod iam;
    pub mod lambda;
    pub mod logs;
    pub mod sts;
}
