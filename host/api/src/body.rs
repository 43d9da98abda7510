//! Reading request bodies: capped before they are buffered, and never waited for in vain.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use wambda_model::limits::BODY_IDLE_TIMEOUT;

use crate::ApiError;

/// Slowest body that is waited for, after the first [`GRACE`].
const BYTES_PER_SECOND_MIN: u64 = 128 << 10;
const GRACE: Duration = Duration::from_secs(30);

/// The whole body.
///
/// # Errors
/// 413 when it is, or says it is, larger than `limit`; 408 when it is too slow; 400 when it breaks.
pub async fn read(headers: &HeaderMap, incoming: Incoming, limit: u64) -> Result<Bytes, ApiError> {
    let mut incoming = Rest::new(headers, incoming);
    let said = incoming.size_hint();
    if said.lower() > limit {
        return Err(ApiError::too_large(limit, said.lower()));
    }
    let first = incoming.next().await?.unwrap_or_default();
    if incoming.is_end_stream() {
        return within(first, limit);
    }
    // More than one frame: from here on this is no longer the hot path.
    let patience =
        GRACE + Duration::from_secs(said.upper().unwrap_or(limit) / BYTES_PER_SECOND_MIN);
    let rest = async {
        let mut whole = BytesMut::from(within(first, limit)?);
        while let Some(bytes) = incoming.next().await? {
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

/// A request's body that, when it is left unread, is still taken off the wire for a while: closing
/// on a client that is sending would reset its connection before it has seen the answer.
#[derive(Debug)]
pub struct Rest {
    incoming: Option<Incoming>,
    /// The client sends only when it is asked to, so that nothing needs to be taken.
    waits: bool,
}

/// How much of an unread body is taken, and for how long.
const DISCARD_BYTES_MAX: usize = 64 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);

impl Rest {
    /// The body of a request with these headers.
    #[must_use]
    pub fn new(headers: &HeaderMap, incoming: Incoming) -> Self {
        Self { incoming: Some(incoming), waits: headers.contains_key(EXPECT) }
    }

    /// The next bytes of the body; trailers are ignored.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let Ok(frame) = tokio::time::timeout(BODY_IDLE_TIMEOUT, self.frame()).await else {
                let seconds = BODY_IDLE_TIMEOUT.as_secs();
                let message = format!("no byte of the body came for {seconds} seconds");
                return Err(ApiError::slow_body(message));
            };
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    let message = format!("the body broke off: {error}");
                    return Err(ApiError::invalid_content(message));
                }
            }
        }
    }
}

impl hyper::body::Body for Rest {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = self.incoming.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(incoming).poll_frame(cx);
        self.waits = false;
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.incoming = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take() else { return };
        if self.waits || incoming.is_end_stream() {
            return;
        }
        // Outside of a runtime there is nobody left to answer either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let rest = Limited::new(incoming, DISCARD_BYTES_MAX);
            drop(runtime.spawn(tokio::time::timeout(DISCARD_TIME_MAX, discard(rest))));
        }
    }
}

async fn discard(mut rest: Limited<Incoming>) {
    while let Some(Ok(frame)) = rest.frame().await {
        drop(frame);
    }
}
