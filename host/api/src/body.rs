//! Reading request bodies: capped before they are buffered, and never waited for in vain.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use wambda_model::clock;
use wambda_model::limits::{
    BODY_PACE_MIN, CLIENT_PATIENCE_DEFAULT, DISCARD_BYTES_MAX, DISCARD_TIME_MAX,
    INLINE_WORK_BYTES_MAX,
};

use crate::ApiError;
use crate::room::{self, Room, Share};

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

impl Whole {
    /// The bytes, with their share, for as long as anybody has them: a call goes on when its caller has gone.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let Self { bytes, share } = self;
        match share {
            Some(share) => room::held(bytes, &Arc::new(share)),
            None => bytes,
        }
    }

    /// The bytes, and their share.
    #[must_use]
    pub fn apart(self) -> (Bytes, Option<Share>) {
        (self.bytes, self.share)
    }

    /// What was made of the bytes, with their share. They are let go of.
    ///
    /// # Errors
    /// When it could not be made.
    pub fn made_into<E>(self, made: impl FnOnce(&Bytes) -> Result<Bytes, E>) -> Result<Self, E> {
        let Self { bytes, share } = self;
        let made = made(&bytes)?;
        Ok(Self { bytes: made, share })
    }

    /// The same, with as much of the memory as it has grown to.
    ///
    /// # Errors
    /// 429 or 503 when there is none.
    pub async fn covered(mut self, room: &Room, peer: SocketAddr) -> Result<Self, ApiError> {
        let size = self.bytes.len();
        if size > INLINE_WORK_BYTES_MAX {
            let share = self.share.get_or_insert_with(|| room.share(peer.ip()));
            Box::pin(share.cover(room, size)).await?;
        }
        Ok(self)
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
    peer: SocketAddr,
    mut incoming: Rest,
    limit: u64,
) -> Result<Whole, ApiError> {
    let said = incoming.size_hint();
    if said.lower() > limit {
        return Err(ApiError::too_large(limit, said.lower()));
    }
    // Who waits to be asked for it is not asked while there is no room.
    let mut share = incoming.waits.then(|| room.share(peer.ip()));
    if let Some(share) = &mut share {
        share.cover(room, 1).await?;
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
        share.cover(room, whole.len() + bytes.len() + believed).await?;
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

/// A connection, told when the body of a request is over: all of it is here, or nobody takes it any more.
pub trait Source: Send + Sync {
    /// One more is over.
    fn over(&self);

    /// Whether its reader waits for more of it now.
    fn waits(&self, waits: bool);
}

/// A request's body that, when it is left unread, is still taken off the wire for a while: closing
/// on a client that is sending would reset its connection before it has seen the answer.
pub struct Rest {
    coming: Option<Coming>,
    /// The client sends only when it is asked to, or not at all: nothing needs to be taken.
    waits: bool,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rest").field("waits", &self.waits).finish_non_exhaustive()
    }
}

/// What has not come yet, and whose it is.
struct Coming {
    incoming: Incoming,
    source: Arc<dyn Source>,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.source.over();
    }
}

impl Rest {
    /// The body of a request with these headers; `source` gives who sends it, if there is one at all, and is told of
    /// its end.
    pub fn new<S: Source + 'static>(
        headers: &HeaderMap,
        incoming: Incoming,
        source: impl FnOnce() -> Arc<S>,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self { coming: None, waits: false };
        }
        let coming = Coming { incoming, source: source() };
        Self { coming: Some(coming), waits: headers.contains_key(EXPECT) }
    }

    /// Nothing more is taken of it.
    pub(crate) fn leave(mut self) {
        self.waits = true;
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
        let Some(coming) = self.coming.as_mut() else { return Poll::Ready(None) };
        // hyper does not end a body of a known length while its connection lasts, when the answer to it was whole first.
        if coming.incoming.is_end_stream() {
            self.coming = None;
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut coming.incoming).poll_frame(cx);
        coming.source.waits(polled.is_pending());
        self.waits = false;
        let goes_on = match &polled {
            Poll::Pending => true,
            // Behind trailers there is nothing, and hyper may not say so either.
            Poll::Ready(Some(Ok(frame))) => !frame.is_trailers(),
            Poll::Ready(_) => false,
        };
        if !goes_on {
            self.coming = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.coming.as_ref().is_none_or(|coming| coming.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let hint = |coming: &Coming| coming.incoming.size_hint();
        self.coming.as_ref().map_or(SizeHint::with_exact(0), hint)
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let Some(coming) = self.coming.take() else { return };
        if self.waits || coming.incoming.is_end_stream() {
            return;
        }
        // Outside of a runtime there is nobody left to answer either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(tokio::time::timeout(DISCARD_TIME_MAX, discard(coming))));
        }
    }
}

async fn discard(mut coming: Coming) {
    coming.source.waits(true);
    let mut taken = 0;
    while !coming.incoming.is_end_stream()
        && let Some(Ok(frame)) = coming.incoming.frame().await
    {
        taken += frame.data_ref().map_or(0, |data| data.len() as u64);
        if taken > DISCARD_BYTES_MAX || frame.is_trailers() {
            break;
        }
    }
}
