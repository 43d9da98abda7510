//! AWS Signature Version 4, both ways: the command line signs, the server verifies, and both share
//! one canonical form. Pure: time and keys come in.
//!
//! Source: "Signature Version 4 signing process", AWS General Reference. Not here: S3's chunked
//! bodies, and the asymmetric variant.

mod canonical;
mod claim;
mod key;
mod sign;

pub use canonical::{EMPTY_SHA256, Request, UNSIGNED, sha256_hex};
pub use claim::{Claim, Scope};
pub use key::KeyCache;
pub use sign::{Credentials, Signature, presign, sign};

/// Seconds that a client's clock may differ.
pub const SKEW_SECONDS: i64 = 300;
/// Longest life of a presigned request, in seconds.
pub const EXPIRES_MAX: i64 = 604_800;

/// Why a request is not taken for its signer's. The texts are AWS's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no signature.
    #[error("Missing Authentication Token")]
    Missing,
    /// The signature does not have its form.
    #[error("{0}")]
    Incomplete(String),
    /// The signature is not that of the request, or not for here and now.
    #[error("{0}")]
    Invalid(String),
}

impl AuthError {
    /// The signature is another one.
    #[must_use]
    pub fn mismatch() -> Self {
        Self::Invalid(
            "The request signature we calculated does not match the signature you provided. Check \
             your AWS Secret Access Key and signing method. Consult the service documentation for \
             details."
                .to_owned(),
        )
    }
}
