//! Signing keys: one a day, region and service, and a cache of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ring::hmac::{self, HMAC_SHA256};

use crate::claim::Scope;

/// Signers whose keys are kept.
const SIGNERS_MAX: usize = 1_024;
/// Keys of one signer: for a few services, and a change of the day.
const KEYS_MAX: usize = 16;

/// The signing key of a scope.
pub(crate) fn derive(secret: &str, scope: &Scope) -> hmac::Key {
    let first = hmac::Key::new(HMAC_SHA256, format!("AWS4{secret}").as_bytes());
    let parts = [scope.date.as_str(), &scope.region, &scope.service, "aws4_request"];
    parts.iter().fold(first, |key, part| {
        hmac::Key::new(HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref())
    })
}

/// What is signed in the end.
pub(crate) fn string_to_sign(time: &str, scope: &Scope, canonical: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes());
    let Scope { date, region, service } = scope;
    let mut out = String::with_capacity(192);
    for part in
        ["AWS4-HMAC-SHA256\n", time, "\n", date, "/", region, "/", service, "/aws4_request\n"]
    {
        out.push_str(part);
    }
    out.push_str(&hex::encode(digest));
    out
}

/// Keys of the last signers: deriving one takes longer than all the rest of a verification.
#[derive(Debug, Default)]
pub struct KeyCache(Mutex<HashMap<String, Vec<Derived>>>);

/// A key, and what it was derived from.
struct Derived {
    secret: String,
    scope: Scope,
    key: hmac::Key,
}

impl std::fmt::Debug for Derived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Derived").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl KeyCache {
    /// The key of a scope, for a signer and its secret.
    pub(crate) fn get(&self, signer: &str, secret: &str, scope: &Scope) -> hmac::Key {
        let mut signers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A signer's new secret must not find the old one's key.
        let known = signers.get(signer).and_then(|keys| {
            keys.iter().find(|derived| derived.scope == *scope && derived.secret == secret)
        });
        if let Some(known) = known {
            return known.key.clone();
        }
        drop(signers);
        let key = derive(secret, scope);
        signers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if signers.len() >= SIGNERS_MAX {
            signers.clear();
        }
        let keys = signers.entry(signer.to_owned()).or_default();
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        keys.push(Derived { secret: secret.to_owned(), scope: scope.clone(), key: key.clone() });
        key
    }
}
