//! Signing: what the command line does, and the tests of the server.

use ring::hmac;

use crate::canonical::{EMPTY_SHA256, Request, encode};
use crate::claim::{ALGORITHM, Scope, basic};
use crate::key::{derive, string_to_sign};

/// A signer.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The session token, of temporary credentials.
    pub token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// Headers to add to a signed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// `authorization`
    pub authorization: String,
    /// `x-amz-date`
    pub date: String,
    /// `x-amz-security-token`
    pub token: Option<String>,
}

fn scope(region: &str, service: &str, time: &str) -> Scope {
    let date = time.get(..8).unwrap_or_default().to_owned();
    Scope { date, region: region.to_owned(), service: service.to_owned() }
}

/// Signs a request with all of its headers, `host` among them.
#[must_use]
pub fn sign(
    request: &Request<'_>,
    who: &Credentials,
    (region, service): (&str, &str),
    now_s: i64,
) -> Signature {
    let time = basic(now_s);
    let scope = scope(region, service, &time);
    let mut headers = request.headers.to_vec();
    headers.push(("x-amz-date", &time));
    if let Some(token) = &who.token {
        headers.push(("x-amz-security-token", token));
    }
    let mut signed: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    signed.sort_unstable();
    signed.dedup();
    let canonical = Request { headers: &headers, ..*request }.canonical(&signed);
    let text = string_to_sign(&time, &scope, &canonical);
    let signature = hex::encode(hmac::sign(&derive(&who.secret_key, &scope), text.as_bytes()));
    let authorization = format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
        who.access_key,
        signed.join(";")
    );
    Signature { authorization, date: time, token: who.token.clone() }
}

/// The query of a presigned `GET` of `path`, for whoever reaches `host` within `expires` seconds.
#[must_use]
pub fn presign(
    (host, path): (&str, &str),
    who: &Credentials,
    (region, service): (&str, &str),
    now_s: i64,
    expires: i64,
) -> String {
    let time = basic(now_s);
    let scope = scope(region, service, &time);
    let credential = encode(&format!("{}/{scope}", who.access_key));
    let mut query = format!(
        "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={credential}&X-Amz-Date={time}\
         &X-Amz-Expires={expires}&X-Amz-SignedHeaders=host"
    );
    if let Some(token) = &who.token {
        query += &format!("&X-Amz-Security-Token={}", encode(token));
    }
    let request = Request {
        method: "GET",
        path,
        query: &query,
        headers: &[("host", host)],
        body_sha256: EMPTY_SHA256,
        encodes_twice: true,
    };
    let text = string_to_sign(&time, &scope, &request.canonical(&["host"]));
    let signature = hex::encode(hmac::sign(&derive(&who.secret_key, &scope), text.as_bytes()));
    query + "&X-Amz-Signature=" + &signature
}
