//! Reading request bodies: capped before they are buffered, and never waited for in vain.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use wambda_model::limits::BODY_IDLE_TIMEOUT;

use crate::ApiError;

/// Slowest body that is waited for, after the first [`GRACE`].
const BYTES_PER_SECOND_MIN: u64 = 16 << 10;
const GRACE: Duration = Duration::from_secs(30);

/// The whole body.
///
/// # Errors
/// 413 when it is, or says it is, larger than `limit`; 408 when it is too slow; 400 when it breaks.
pub async fn read(mut incoming: Incoming, limit: u64) -> Result<Bytes, ApiError> {
    let said = incoming.size_hint();
    if said.lower() > limit {
        return Err(ApiError::too_large(limit, said.lower()));
    }
    let first = next(&mut incoming).await?.unwrap_or_default();
    if incoming.is_end_stream() {
        return within(first, limit);
    }
    // More than one frame: from here on this is no longer the hot path.
    let patience =
        GRACE + Duration::from_secs(said.upper().unwrap_or(limit) / BYTES_PER_SECOND_MIN);
    let rest = async {
        let mut whole = BytesMut::from(within(first, limit)?);
        while let Some(bytes) = next(&mut incoming).await? {
            let size = (whole.len() + bytes.len()) as u64;
            if size > limit {
                return Err(ApiError::too_large(limit, size));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    };
    tokio::time::timeout(patience, rest).await.unwrap_or_else(|_| {
        let seconds = patience.as_secs();
        Err(ApiError::slow_body(format!("the body did not arrive within {seconds} seconds")))
    })
}

fn within(bytes: Bytes, limit: u64) -> Result<Bytes, ApiError> {
    let size = bytes.len() as u64;
    if size > limit { Err(ApiError::too_large(limit, size)) } else { Ok(bytes) }
}

/// The next bytes of the body; trailers are ignored.
async fn next(incoming: &mut Incoming) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = tokio::time::timeout(BODY_IDLE_TIMEOUT, incoming.frame()).await;
        let Ok(frame) = frame else {
            let seconds = BODY_IDLE_TIMEOUT.as_secs();
            return Err(ApiError::slow_body(format!(
                "no byte of the body came for {seconds} seconds"
            )));
        };
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                return Err(ApiError::invalid_content(format!("the body broke off: {error}")));
            }
        }
    }
}
