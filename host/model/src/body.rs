//! The one HTTP body type that crosses crate borders, so that no border needs a type parameter.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// A body that broke off, with what made it. A type of its own, because a boxed error is not
/// `Error` itself, which HTTP libraries ask for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(Box<dyn std::error::Error + Send + Sync>);

impl BodyError {
    /// Wraps any error, or a text.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// The function's error, when that is what broke the body off.
    #[must_use]
    pub fn function_error(&self) -> Option<&crate::error::FunctionError> {
        self.0.downcast_ref()
    }
}

/// A streamed HTTP body of either direction.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body whose bytes are all here already.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without bytes.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
