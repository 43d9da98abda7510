//! How a function fails on its own account.

use std::fmt::Display;

/// A function's error: a type for programs, a message for people.
///
/// Every `std` error converts into one with `?`; its type is then the error's Rust type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// `errorType` of the answer.
    pub error_type: String,
    /// `errorMessage` of the answer.
    pub message: String,
    /// `stackTrace` of the answer: the error's sources, outermost first.
    pub stack: Vec<String>,
}

impl Error {
    /// An error of a type and a message.
    pub fn new(error_type: impl Into<String>, message: impl Display) -> Self {
        Self { error_type: error_type.into(), message: message.to_string(), stack: Vec::new() }
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut stack = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            stack.push(cause.to_string());
            source = cause.source();
        }
        let name = std::any::type_name::<E>();
        // `a::b::Error<c::D>` reads best as `Error`.
        let plain = name.split('<').next().unwrap_or(name).rsplit("::").next().unwrap_or(name);
        Self { error_type: plain.to_owned(), message: error.to_string(), stack }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_convert_with_their_type_and_sources() {
        fn parse() -> Result<u8, Error> {
            Ok("x".parse()?)
        }
        let error = parse().unwrap_err();
        assert_eq!(error.error_type, "ParseIntError");
        assert_eq!(error.message, "invalid digit found in string");
        assert_eq!(Error::new("NotFound", "no such thing").error_type, "NotFound");
    }
}
