//! Reading request bodies: capped before they are buffered, and never waited for in vain.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use wambda_model::clock;
use wambda_model::limits::{BODY_PACE_MIN, CLIENT_PATIENCE_DEFAULT};

use crate::ApiError;
use crate::room::{Room, Share};

/// Longest silence within a body; a body that takes longer has to come at a pace.
static PATIENCE: OnceLock<Duration> = OnceLock::new();

/// Sets how long a body is waited for, once, before the first request.
pub fn set_patience(patience: Duration) {
    let _ = PATIENCE.set(patience);
}

fn patience() -> Duration {
    *PATIENCE.get_or_init(|| CLIENT_PATIENCE_DEFAULT)
}

/// A whole body, and its share of the memory for bodies.
#[derive(Debug)]
pub struct Whole {
    /// The body. Who keeps these longer than `Whole` asks for [`Whole::into_bytes`].
    pub bytes: Bytes,
    share: Option<Share>,
}

/// Bytes that take their share with them: whoever holds them last gives it back.
struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Whole {
    /// The bytes, with their share, for as long as anybody has them: a call goes on when its caller has gone.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let Self { bytes, share } = self;
        match share {
            Some(share) => Bytes::from_owner(Held { bytes, _share: share }),
            None => bytes,
        }
    }

    /// What was made of the bytes, with their share. They are let go of.
    #[must_use]
    pub fn made_into(self, made: impl FnOnce(&Bytes) -> Bytes) -> Bytes {
        let Self { bytes, share } = self;
        let made = made(&bytes);
        Self { bytes: made, share }.into_bytes()
    }
}

/// Of a body that says how long it is, such a part has to come before there is room made for all of it; growing
/// by and by takes up to three times as much.
const BELIEVED_PART: usize = 8;

/// The whole body.
///
/// # Errors
/// 413 when it is, or says it is, larger than `limit`; 408 when it is too slow; 400 when it breaks
/// off; 429 or 503 when too many bodies are on their way, of this peer or of all.
pub async fn read(
    room: &Room,
    (headers, peer): (&HeaderMap, SocketAddr),
    incoming: Incoming,
    limit: u64,
) -> Result<Whole, ApiError> {
    let mut incoming = Rest::new(headers, incoming);
    let said = incoming.size_hint();
    if said.lower() > limit {
        return Err(ApiError::too_large(limit, said.lower()));
    }
    // Who waits to be asked for it is not asked while there is no room.
    let mut share = incoming.waits.then(|| room.share(peer.ip()));
    if let Some(share) = &mut share {
        share.cover(1).await?;
    }
    // A small one is here with its head: no share, no clock.
    let first = incoming.next().await?.unwrap_or_default();
    within(first.len(), limit)?;
    if incoming.is_end_stream() {
        return Ok(Whole { bytes: first, share: None });
    }
    let mut share = share.unwrap_or_else(|| room.share(peer.ip()));
    let mut began = clock::now();
    let mut whole = BytesMut::from(first);
    while let Some(bytes) = incoming.next().await? {
        within(whole.len() + bytes.len(), limit)?;
        // Beyond these bytes, what the body says is still to come.
        let announced = usize::try_from(incoming.size_hint().lower()).unwrap_or(0);
        let believed = if announced / BELIEVED_PART <= whole.len() { announced } else { 0 };
        let asked = clock::now();
        share.cover(whole.len() + bytes.len() + believed).await?;
        // The client is not slow while it waits for room.
        let now = clock::now();
        began += now - asked;
        whole.reserve(bytes.len() + believed);
        whole.extend_from_slice(&bytes);
        let allowed = patience() + Duration::from_secs(whole.len() as u64 / BODY_PACE_MIN);
        if now - began > allowed {
            incoming.waits = true;
            let (got, seconds) = (whole.len(), allowed.as_secs_f64());
            let message = format!("the body is too slow: {got} bytes in {seconds} seconds");
            return Err(ApiError::slow_body(message));
        }
    }
    Ok(Whole { bytes: whole.freeze(), share: Some(share) })
}

fn within(size: usize, limit: u64) -> Result<(), ApiError> {
    let size = size as u64;
    if size > limit { Err(ApiError::too_large(limit, size)) } else { Ok(()) }
}

/// A request's body that, when it is left unread, is still taken off the wire for a while: closing
/// on a client that is sending would reset its connection before it has seen the answer.
#[derive(Debug)]
pub struct Rest {
    incoming: Option<Incoming>,
    /// The client sends only when it is asked to, or not at all: nothing needs to be taken.
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
            // Most bodies are here with their heads: no timer for them.
            let frame = match self.frame().now_or_never() {
                Some(frame) => Ok(frame),
                None => tokio::time::timeout(patience(), self.frame()).await,
            };
            let Ok(frame) = frame else {
                // Who is silent is not waited for again, to take the rest.
                self.waits = true;
                let seconds = patience().as_secs_f64();
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
