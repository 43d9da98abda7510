//! Signs requests for a server with `--auth keys`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;
use wambda_sigv4::{Credentials, Request, sha256_hex, sign};

/// The account's own key.
pub(crate) struct Signer(Credentials);

impl Signer {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let key: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        let part = |name: &str| key.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(Self(Credentials {
            access_key: part("access_key_id").context("no id")?,
            secret_key: part("secret_access_key").context("no secret")?,
            token: None,
        }))
    }

    pub(crate) fn headers(
        &self,
        address: SocketAddr,
        method: &str,
        target: &str,
        body: &[u8],
    ) -> [(&'static str, String); 2] {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (host, hash) = (address.to_string(), sha256_hex(body));
        let request = Request {
            method,
            path,
            query,
            headers: &[("host", &host)],
            body_sha256: &hash,
            encodes_twice: true,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs());
        let now = i64::try_from(now).unwrap_or_default();
        let signature = sign(&request, &self.0, ("us-east-1", "lambda"), now);
        [("authorization", signature.authorization), ("x-amz-date", signature.date)]
    }
}
