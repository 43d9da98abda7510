//! Bodies on their way, counted and timed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use wambda_model::limits::EGRESS_BYTES_MAX;

use crate::Session;
use crate::error::Error;

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// With a request.
    Sent,
    /// With a response.
    Received,
}

/// A body that ends with an error when its invocation has had its bytes, or when nothing comes for
/// too long. Trailers are dropped.
pub struct Counted<B> {
    body: Pin<Box<B>>,
    direction: Direction,
    session: Arc<Session>,
    patience: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    progress: Option<Arc<Progress>>,
}

/// How far a request's body is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Frames since somebody looked.
    pub moved: AtomicU64,
    /// Whether all of it was sent.
    pub ended: AtomicBool,
}

impl<B> std::fmt::Debug for Counted<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counted").field("direction", &self.direction).finish_non_exhaustive()
    }
}

impl<B> Counted<B> {
    /// Counts `body` against what `session` may send or receive.
    pub fn new(body: B, direction: Direction, session: Arc<Session>, patience: Duration) -> Self {
        Self { body: Box::pin(body), direction, session, patience, silence: None, progress: None }
    }

    /// Says how far it is.
    #[must_use]
    pub fn telling(mut self, progress: &Arc<Progress>) -> Self {
        self.progress = Some(Arc::clone(progress));
        self
    }

    fn count(&self, bytes: usize) -> Result<(), Error> {
        let before = self.session.counter(self.direction).fetch_add(bytes as u64, Relaxed);
        let limit = EGRESS_BYTES_MAX;
        if before + bytes as u64 <= limit {
            return Ok(());
        }
        let verb = if self.direction == Direction::Sent { "send" } else { "receive" };
        Err(Error::Bytes { verb, limit })
    }
}

/// Whoever sends it lets go of it when all is sent.
impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        if let Some(progress) = &self.progress {
            progress.ended.store(true, Relaxed);
        }
    }
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = match this.body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                // A guest that takes its time over a request's body has its deadline.
                if this.direction == Direction::Sent {
                    return Poll::Pending;
                }
                let patience = this.patience;
                let silence =
                    this.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                return silence
                    .as_mut()
                    .poll(cx)
                    .map(|()| Some(Err(Error::BodyTime(patience.as_millis()))));
            }
        };
        this.silence = None;
        if let Some(progress) = &this.progress {
            progress.moved.fetch_add(1, Relaxed);
        }
        Poll::Ready(match frame.map(|frame| frame.map(Frame::into_data)) {
            None | Some(Ok(Err(_))) => None,
            Some(Ok(Ok(data))) => Some(this.count(data.len()).map(|()| Frame::data(data))),
            Some(Err(error)) => Some(Err(Error::Protocol(error.to_string()))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
