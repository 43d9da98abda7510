//! Temporary credentials without a table of them: the token says whose they are, and is signed; the
//! secret follows from the token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

/// Whose credentials they are, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Access key id.
    #[serde(rename = "k")]
    pub access_key: String,
    /// ARN of the role.
    #[serde(rename = "r")]
    pub role: String,
    /// Unique id of the role.
    #[serde(rename = "i")]
    pub role_id: String,
    /// Name of the session.
    #[serde(rename = "n")]
    pub name: String,
    /// When it was issued: milliseconds since the Unix epoch. A token that does not say is as old
    /// as can be.
    #[serde(rename = "b", default)]
    pub issued_ms: u64,
    /// Milliseconds since the Unix epoch.
    #[serde(rename = "e")]
    pub expires_ms: u64,
}

/// What tokens are signed with.
#[derive(Serialize, Deserialize)]
pub struct SessionKey(String);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey")
    }
}

impl SessionKey {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(BASE64.encode(random::<32>()))
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(HMAC_SHA256, self.0.as_bytes())
    }

    /// The token of a session.
    #[must_use]
    pub fn write(&self, session: &Session) -> String {
        let said = BASE64.encode(serde_json::to_vec(session).unwrap_or_default());
        let signature = hmac::sign(&self.key(), format!("token {said}").as_bytes());
        format!("{said}.{}", BASE64.encode(signature))
    }

    /// The session of a token; none when it was not made here.
    #[must_use]
    pub fn read(&self, token: &str) -> Option<Session> {
        let (said, signature) = token.split_once('.')?;
        let signature = BASE64.decode(signature).ok()?;
        hmac::verify(&self.key(), format!("token {said}").as_bytes(), &signature).ok()?;
        serde_json::from_slice(&BASE64.decode(said).ok()?).ok()
    }

    /// What a session signs with.
    #[must_use]
    pub fn secret(&self, session: &Session) -> String {
        let named = format!("secret {} {}", session.access_key, session.expires_ms);
        BASE64.encode(hmac::sign(&self.key(), named.as_bytes())).chars().take(40).collect()
    }
}

/// Bytes that nobody can guess.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    loop {
        // Fails only while the machine's own generator does.
        if SystemRandom::new().fill(&mut bytes).is_ok() {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cannot_be_changed() {
        let key = SessionKey::generate();
        let session = Session {
            access_key: "ASIAX".into(),
            role: "arn:aws:iam::123456789012:role/r".into(),
            role_id: "AROAX".into(),
            name: "s".into(),
            issued_ms: 1,
            expires_ms: 5,
        };
        let token = key.write(&session);
        assert_eq!(key.read(&token).as_ref(), Some(&session));
        assert_eq!(key.secret(&session).len(), 40);
        assert!(SessionKey::generate().read(&token).is_none());
        let later = key.write(&Session { expires_ms: 6, ..session });
        let (said, _) = later.split_once('.').unwrap();
        let (_, signature) = token.split_once('.').unwrap();
        assert!(key.read(&format!("{said}.{signature}")).is_none());
        for wrong in ["", ".", "a.b", "....", &"x".repeat(10_000)] {
            assert!(key.read(wrong).is_none());
        }
    }
}
