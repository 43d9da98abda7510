//! Signing keys: one a day, region and service, and a cache of them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use ring::hmac::{self, HMAC_SHA256};

use crate::claim::Scope;

/// Keys that are kept.
const KEYS_MAX: usize = 1_024;

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
    let mut out = String::with_capacity(160);
    let _ = write!(out, "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(digest));
    out
}

/// Keys of the last signers: deriving one takes longer than all the rest of a verification.
#[derive(Debug, Default)]
pub struct KeyCache(Mutex<HashMap<(String, String), hmac::Key>>);

impl KeyCache {
    /// The key of a scope, for a signer and its secret.
    pub(crate) fn get(&self, signer: &str, secret: &str, scope: &Scope) -> hmac::Key {
        // The secret is part of the name: a signer's new one must not find the old one's key.
        let name = (format!("{signer}\n{secret}"), scope.to_string());
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(&name) {
            return key.clone();
        }
        drop(keys);
        let key = derive(secret, scope);
        keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        keys.insert(name, key.clone());
        key
    }
}
