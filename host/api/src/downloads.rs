//! Links by which whoever has one may fetch code or a layer for a while: what Lambda's API answers
//! where AWS has presigned S3 URLs. A link is good until the server stops, and ten minutes at most.

use std::net::SocketAddr;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use ring::hmac::{self, HMAC_SHA256};
use wambda_control::session::random;
use wambda_model::{FunctionName, clock};

use crate::{Api, ApiError, Response, reply};

/// Milliseconds that a link is good for.
const LIFE_MS: u64 = 600_000;

/// Makes links and checks them.
pub struct Downloads(hmac::Key);

impl std::fmt::Debug for Downloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Downloads")
    }
}

impl Default for Downloads {
    fn default() -> Self {
        Self(hmac::Key::new(HMAC_SHA256, &random::<32>()))
    }
}

impl Downloads {
    /// A link to what `path` names.
    #[must_use]
    pub fn url(&self, host: &str, path: &str) -> String {
        let expires = clock::unix_ms() + LIFE_MS;
        let signature = hex::encode(hmac::sign(&self.0, format!("{expires} {path}").as_bytes()));
        format!("http://{host}/v1/downloads/{path}?expires={expires}&signature={signature}")
    }

    fn check(&self, path: &str, query: &str) -> Result<(), ApiError> {
        let denied =
            || ApiError::aws(403, "AccessDenied", "the link is not valid, or not any more");
        let value = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let expires = value("expires").and_then(|text| text.parse().ok()).unwrap_or(0u64);
        let signature = value("signature").and_then(|text| hex::decode(text).ok());
        let signed = format!("{expires} {path}");
        let valid = hmac::verify(&self.0, signed.as_bytes(), &signature.unwrap_or_default());
        if valid.is_err() || expires < clock::unix_ms() {
            return Err(denied());
        }
        Ok(())
    }
}

/// `GET /v1/downloads/{code|layer}/NAME/VERSION?expires=…&signature=…`
pub(crate) async fn serve(
    api: &Api,
    path: &str,
    query: &str,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    api.downloads.check(path, query)?;
    let missing = || ApiError::no_route(path);
    let parts: Vec<&str> = path.split('/').collect();
    // There is room for it before it is read.
    let (share, content) = match parts.as_slice() {
        ["code", name, label] => {
            let name = FunctionName::new(name).map_err(|_| missing())?;
            let function = api.catalog.get(&name).ok_or_else(missing)?;
            let version = function.version(label).ok_or_else(missing)?;
            let share = api.room_for(peer, version.upload_bytes).await?;
            (share, api.functions.upload(version).await)
        }
        ["layer", name, number] => {
            let number: u64 = number.parse().map_err(|_| missing())?;
            let layers = api.layers.current();
            let version = layers.get(*name).and_then(|layer| layer.versions.get(&number));
            let version = version.ok_or_else(missing)?;
            let share = api.room_for(peer, version.bytes).await?;
            (share, api.layers.content(version).await)
        }
        _ => return Err(missing()),
    };
    let content = content.map_err(|error| ApiError::internal(&error))?;
    Ok(share.go_with(answer(content)))
}

fn answer(content: Bytes) -> Response {
    let zipped = content.starts_with(b"PK");
    let mut response = reply::bytes(StatusCode::OK, content);
    let kind = if zipped { "application/zip" } else { "application/wasm" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
