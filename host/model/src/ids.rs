//! Ids as newtypes: a function name, a request id, a content digest.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::NAME_LEN_MAX;

/// A function's name: 1–64 of letters, digits, `-` and `_`, as Lambda has it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName(Arc<str>);

/// A name that is no function name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "function name {shown:?} is not valid: 1 to {NAME_LEN_MAX} of letters, digits, '-' and '_', got {len} characters"
)]
pub struct InvalidName {
    shown: String,
    len: usize,
}

impl FunctionName {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// [`InvalidName`] when it is empty, too long or has another character.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let ok = !name.is_empty()
            && name.len() <= NAME_LEN_MAX
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if ok {
            return Ok(Self(name.into()));
        }
        Err(InvalidName {
            shown: name.chars().take(NAME_LEN_MAX + 1).collect(),
            len: name.chars().count(),
        })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// By its text: they hash and compare alike.
impl std::borrow::Borrow<str> for FunctionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl TryFrom<String> for FunctionName {
    type Error = InvalidName;
    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::new(&name)
    }
}

impl From<FunctionName> for String {
    fn from(name: FunctionName) -> Self {
        name.as_str().to_owned()
    }
}

/// One invocation's id: a version 4 UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(uuid::Uuid);

impl RequestId {
    /// A new id. Ids are unique, not secret: the generator is fast, not cryptographic.
    #[must_use]
    pub fn random() -> Self {
        let bytes = fastrand::u128(..).to_le_bytes();
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// A new id that sorts after those of earlier milliseconds: a version 7 UUID.
    #[must_use]
    pub fn ordered(unix_ms: u64) -> Self {
        let mut random = [0; 10];
        // Whoever knows it may ask for a result: not to be guessed.
        if ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random).is_err() {
            fastrand::fill(&mut random);
        }
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
    }

    /// Reads the 36-character form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 36).then(|| uuid::Uuid::try_parse(text).ok())?.map(Self)
    }

    /// As a number, which sorts as the id does.
    #[must_use]
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// The id of a number.
    #[must_use]
    pub fn from_u128(number: u128) -> Self {
        Self(uuid::Uuid::from_u128(number))
    }

    /// The 36-character form, written into `buffer`.
    pub fn encode(self, buffer: &mut [u8; 36]) -> &str {
        self.0.hyphenated().encode_lower(buffer)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; 36]))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A SHA-256 digest: the identity of uploaded code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Text that is no SHA-256 digest in hex.
#[derive(Debug, thiserror::Error)]
#[error("not a sha-256 digest: 64 hex digits expected")]
pub struct InvalidDigest;

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
        Self(out)
    }

    /// The raw 32 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hex digits.
    ///
    /// # Errors
    /// [`InvalidDigest`] for anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).map_err(|_| InvalidDigest)?;
        Ok(Self(out))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "hello-1_B", &"x".repeat(64)] {
            assert_eq!(FunctionName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "..", "a.b", "é", &"x".repeat(65), "a\n", "$LATEST"] {
            assert!(FunctionName::new(bad).is_err(), "{bad:?} was taken");
        }
        let message = FunctionName::new(&"x".repeat(70)).unwrap_err().to_string();
        assert!(message.contains("64") && message.contains("70"), "{message}");
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        let text = RequestId::random().to_string();
        assert_eq!((text.len(), text.as_bytes()[14]), (36, b'4'));
        let (first, second) = (RequestId::ordered(1_000), RequestId::ordered(1_001));
        assert!(first.as_u128() < second.as_u128());
        assert_eq!(RequestId::parse(&first.to_string()), Some(first));
        assert_eq!(RequestId::parse("{0199c0de}"), None);
    }

    #[test]
    fn digest_of_nothing_is_the_published_one() {
        let digest = Digest::of(b"").to_string();
        assert_eq!(digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(Digest::parse(&digest).unwrap(), Digest::of(b""));
        assert!(Digest::parse("abc").is_err());
    }
}
