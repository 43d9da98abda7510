//! The canonical form of a request.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::digest::{SHA256, digest};

/// RFC 3986's unreserved characters stay.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// In paths, slashes stay as well.
const PATH: &AsciiSet = &ENCODED.remove(b'/');

/// The digest of nothing.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// In place of a digest: the body is not covered by the signature.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The SHA-256 digest of a body, in hex.
#[must_use]
pub fn sha256_hex(body: &[u8]) -> String {
    hex::encode(digest(&SHA256, body))
}

/// A request, as it is on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, encoded as it was sent.
    pub path: &'a str,
    /// Its query, encoded as it was sent; empty for none.
    pub query: &'a str,
    /// Its headers: names in lower case, values as they were sent.
    pub headers: &'a [(&'a str, &'a str)],
    /// The digest of its body in hex, or [`UNSIGNED`].
    pub body_sha256: &'a str,
    /// Whether the path is encoded once more, as every service but S3 has it.
    pub encodes_twice: bool,
}

impl Request<'_> {
    /// The canonical request; `signed` are the headers that count, sorted.
    pub(crate) fn canonical(&self, signed: &[&str]) -> String {
        let mut out = String::with_capacity(1_024);
        for part in [self.method, "\n", &self.canonical_path(), "\n"] {
            out.push_str(part);
        }
        canonical_query(self.query, &mut out);
        out.push('\n');
        for name in signed {
            out.push_str(name);
            out.push(':');
            let values = self.headers.iter().filter(|(known, _)| known == name);
            for (at, (_, value)) in values.enumerate() {
                if at > 0 {
                    out.push(',');
                }
                for (at, word) in value.split_ascii_whitespace().enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    out.push_str(word);
                }
            }
            out.push('\n');
        }
        out.push('\n');
        for (at, name) in signed.iter().enumerate() {
            if at > 0 {
                out.push(';');
            }
            out.push_str(name);
        }
        out.push('\n');
        out.push_str(self.body_sha256);
        out
    }

    fn canonical_path(&self) -> Cow<'_, str> {
        let path = if self.path.is_empty() { "/" } else { self.path };
        // Most paths are as they should be.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~' | b'/');
        if path.bytes().all(plain) && path.starts_with('/') && !path.contains("//") {
            return Cow::Borrowed(path);
        }
        if self.encodes_twice {
            return utf8_percent_encode(&without_dots(path), PATH).to_string().into();
        }
        let decoded = percent_decode_str(path).collect::<Vec<u8>>();
        percent_encoding::percent_encode(&decoded, PATH).to_string().into()
    }
}

/// Without `.`, `..` and empty segments (RFC 3986, 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    let ends_open = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    let tail = if ends_open && !kept.is_empty() { "/" } else { "" };
    format!("/{}{tail}", kept.join("/"))
}

/// Pairs, encoded in the one right way, sorted; without the signature itself.
fn canonical_query(query: &str, out: &mut String) {
    if query.is_empty() {
        return;
    }
    let encoded = |text: &str| {
        let decoded = percent_decode_str(text).collect::<Vec<u8>>();
        percent_encoding::percent_encode(&decoded, ENCODED).to_string()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(key, _)| *key != "X-Amz-Signature")
        .map(|(key, value)| (encoded(key), encoded(value)))
        .collect();
    pairs.sort();
    for (at, (key, value)) in pairs.iter().enumerate() {
        let and = if at > 0 { "&" } else { "" };
        let _ = write!(out, "{and}{key}={value}");
    }
}

/// Encodes a value for a query.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}
