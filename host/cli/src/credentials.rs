//! What the client signs with: the environment's AWS credentials, or the account's own key in the
//! server's data directory.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use wambda_model::clock;
use wambda_sigv4::{Credentials, Request, sha256_hex, sign};

/// A signer, for one region.
#[derive(Debug)]
pub(crate) struct Signer {
    who: Credentials,
    region: String,
}

/// What is signed.
pub(crate) struct Unsigned<'a> {
    pub(crate) method: &'a str,
    /// `http://HOST[:PORT]/PATH[?QUERY]`
    pub(crate) url: &'a str,
    pub(crate) body_sha256: &'a str,
    /// `lambda` or `iam`
    pub(crate) service: &'a str,
}

impl Signer {
    /// By `--root-key`, or the environment; none when neither is there.
    pub(crate) fn find(root_key: Option<&Path>) -> Result<Option<Self>> {
        #[expect(clippy::disallowed_methods, reason = "the names that AWS's clients read")]
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        if let Some(path) = root_key {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let key: Value = serde_json::from_str(&text)
                .with_context(|| format!("{} is no root key", path.display()))?;
            let part = |name: &str| key.get(name).and_then(Value::as_str).map(str::to_owned);
            let access_key = part("access_key_id").context("the root key has no id")?;
            let secret_key = part("secret_access_key").context("the root key has no secret")?;
            let who = Credentials { access_key, secret_key, token: None };
            return Ok(Some(Self { who, region }));
        }
        let pair = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
        Ok(pair.map(|(access_key, secret_key)| {
            let who = Credentials { access_key, secret_key, token: variable("AWS_SESSION_TOKEN") };
            Self { who, region }
        }))
    }

    /// The headers that sign a request.
    pub(crate) fn headers(&self, unsigned: &Unsigned<'_>) -> Vec<(&'static str, String)> {
        let rest = unsigned.url.split_once("://").map_or(unsigned.url, |(_, rest)| rest);
        let (host, rest) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let request = Request {
            method: unsigned.method,
            path,
            query,
            headers: &[("host", host)],
            body_sha256: unsigned.body_sha256,
            encodes_twice: true,
        };
        let now = i64::try_from(clock::unix_ms() / 1_000).unwrap_or(i64::MAX);
        // IAM is global, and signed for the first region.
        let region = if unsigned.service == "iam" { "us-east-1" } else { &self.region };
        let signature = sign(&request, &self.who, (region, unsigned.service), now);
        let mut headers =
            vec![("authorization", signature.authorization), ("x-amz-date", signature.date)];
        headers.extend(signature.token.map(|token| ("x-amz-security-token", token)));
        headers
    }
}

/// The digest of a body.
pub(crate) fn digest(body: &[u8]) -> String {
    sha256_hex(body)
}
