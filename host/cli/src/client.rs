//! A small HTTP client for the native API.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, RequestBuilder, SendBody};
use wambda_sigv4::EMPTY_SHA256;

use crate::credentials::{self, Signer, Unsigned};

/// Talks to one server.
pub(crate) struct Client {
    agent: Agent,
    base: String,
    signer: Option<Signer>,
}

/// Longest answer that is read into memory.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

impl Client {
    pub(crate) fn new(base: &str, signer: Option<Signer>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .build();
        Self { agent: config.into(), base: base.trim_end_matches('/').to_owned(), signer }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn reached<T>(&self, result: Result<T, ureq::Error>) -> Result<T> {
        result.map_err(|error| {
            let hint = match &error {
                ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                    ": is the server running? start it with `wambda serve`"
                }
                _ => "",
            };
            anyhow!("{}: {error}{hint}", self.base)
        })
    }

    /// The request with the headers that sign it, when there is somebody to sign.
    fn signed<T>(
        &self,
        mut request: RequestBuilder<T>,
        (method, path): (&str, &str),
        body_sha256: &str,
        service: &str,
    ) -> RequestBuilder<T> {
        let url = self.url(path);
        let unsigned = Unsigned { method, url: &url, body_sha256, service };
        for (name, value) in self.signer.iter().flat_map(|signer| signer.headers(&unsigned)) {
            request = request.header(name, value);
        }
        request
    }

    pub(crate) fn get(&self, path: &str) -> Result<Response<Body>> {
        let request = self.agent.get(self.url(path));
        self.reached(self.signed(request, ("GET", path), EMPTY_SHA256, "lambda").call())
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Response<Body>> {
        let request = self.agent.delete(self.url(path));
        self.reached(self.signed(request, ("DELETE", path), EMPTY_SHA256, "lambda").call())
    }

    /// Posts a form, to IAM.
    pub(crate) fn form(&self, form: &str) -> Result<Response<Body>> {
        let request = self.agent.post(self.url("/"));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let digest = credentials::digest(form.as_bytes());
        self.reached(self.signed(request, ("POST", "/"), &digest, "iam").send(form.as_bytes()))
    }

    pub(crate) fn put(
        &self,
        path: &str,
        length: u64,
        digest: &str,
        body: &mut dyn Read,
    ) -> Result<Response<Body>> {
        let request = self.agent.put(self.url(path)).header("content-length", length.to_string());
        let request = self.signed(request, ("PUT", path), digest, "lambda");
        self.reached(request.send(SendBody::from_reader(&mut { body })))
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Result<Response<Body>> {
        let request = self.agent.post(self.url(path)).header("content-type", "application/json");
        let digest = credentials::digest(body);
        self.reached(self.signed(request, ("POST", path), &digest, "lambda").send(body))
    }
}

/// The whole body of an answer.
pub(crate) fn bytes(response: &mut Response<Body>) -> Result<Vec<u8>> {
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    body.read_to_vec().context("the answer broke off")
}

/// The JSON of a good answer, or the server's error.
pub(crate) fn json(response: Response<Body>) -> Result<Value> {
    let bytes = good(response)?;
    serde_json::from_slice(&bytes).context("the server's answer is no JSON")
}

/// The body of a good answer, or the server's error.
pub(crate) fn good(mut response: Response<Body>) -> Result<Vec<u8>> {
    let status = response.status();
    let bytes = bytes(&mut response)?;
    if !status.is_success() {
        bail!(message(status, &bytes));
    }
    Ok(bytes)
}

/// What an error answer says.
pub(crate) fn message(status: StatusCode, bytes: &[u8]) -> String {
    let parsed: Option<Value> = serde_json::from_slice(bytes).ok();
    let text = parsed.as_ref().and_then(|v| v.pointer("/error/message")).and_then(Value::as_str);
    match text {
        Some(text) => text.to_owned(),
        None => format!("{status}: {}", String::from_utf8_lossy(bytes)),
    }
}

/// One part of a path or query, escaped.
pub(crate) fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().fold(String::new(), |mut out, b| {
        if plain(b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    })
}
