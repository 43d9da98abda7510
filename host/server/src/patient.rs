//! A connection that gives up on a peer which does not read, or hardly: hyper has no timeout for writing, and a
//! response that nobody takes would hold its connection, and its memory, for ever.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use wambda_api::Api;
use wambda_api::room::Share;
use wambda_model::limits::{READER_BYTES_MIN, RESPONSE_STALLED_BYTES};

use crate::readers;
use crate::serving::Watched;

/// How long, and how often, the end of a peer's side is kept from hyper while the body before it is not taken whole.
const KEPT_PERIOD: Duration = Duration::from_millis(20);
const KEPT_MAX: u32 = 50;
/// How often room is looked for, for what a peer holds that makes us wait.
const ASKED_MAX: u32 = 3;
const ASK_PERIOD: Duration = Duration::from_millis(300);

/// A stream whose writes fail when the peer takes nothing for a while.
pub(crate) struct Patient<S> {
    stream: S,
    longest: Duration,
    /// Runs while writes wait; a peer that keeps up costs no timer.
    patience: Option<Pin<Box<Sleep>>>,
    /// Bytes that were taken since it runs.
    taken: u64,
    /// What is held while it runs.
    share: Option<Share>,
    /// How often room for that was looked for, and when it is again.
    asked: u32,
    again: Option<Pin<Box<Sleep>>>,
    /// How often the end of the peer's side was kept from hyper since the last answer, and until when it is.
    kept: u32,
    keeps: Option<Pin<Box<Sleep>>>,
    watched: Arc<Watched>,
    api: Arc<Api>,
}

impl<S> Patient<S> {
    /// Writes to `stream` fail when nothing of them was taken for `longest`; `watched` hears when all is written.
    pub(crate) fn new(stream: S, longest: Duration, watched: Arc<Watched>, api: Arc<Api>) -> Self {
        let (patience, share, keeps, again) = (None, None, None, None);
        let (taken, kept, asked) = (0, 0, 0);
        Self { stream, longest, patience, taken, share, asked, again, kept, keeps, watched, api }
    }

    /// The peer has ended its side. Whether hyper, which takes it for gone, hears of that now. It reads on before it hands a
    /// request over, and the last part of a body before anybody takes it: that is waited for.
    fn ends(&mut self, cx: &mut Context<'_>) -> bool {
        if self.watched.half_closes() {
            return false;
        }
        if self.kept == 0 {
            self.kept = 1;
            cx.waker().wake_by_ref();
            return false;
        }
        while self.watched.reads_body() && self.kept < KEPT_MAX {
            let keeps = self.keeps.get_or_insert_with(|| Box::pin(tokio::time::sleep(KEPT_PERIOD)));
            if keeps.as_mut().poll(cx).is_pending() {
                return false;
            }
            // A function may read its request late, or not at all: only a body that is waited for can
            // turn out to be cut short.
            (self.keeps, self.kept) = (None, self.kept + u32::from(self.watched.starves()));
        }
        true
    }

    /// Looks for room for what a peer that makes us wait holds: again and again for a while, as long
    /// as slower ones are cut off for it.
    fn finds_room(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            if let Some(again) = &mut self.again
                && again.as_mut().poll(cx).is_pending()
            {
                return true;
            }
            let Watched { open, peer, .. } = &*self.watched;
            match readers::stalled(open, &self.api, *peer) {
                Ok(Some(share)) => {
                    (self.share, self.again) = (Some(share), None);
                    self.watched.stalls(RESPONSE_STALLED_BYTES);
                    return true;
                }
                Ok(None) if self.asked < ASKED_MAX => {
                    self.asked += 1;
                    self.watched.stalls(0);
                    self.again = Some(Box::pin(tokio::time::sleep(ASK_PERIOD)));
                }
                _ => return false,
            }
        }
    }

    /// A peer has `longest` for each [`READER_BYTES_MIN`], from the first time that it makes us wait until
    /// all is written.
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.taken += *bytes as u64;
            self.watched.reader.takes(*bytes);
        }
        if self.taken >= READER_BYTES_MIN {
            (self.patience, self.taken) = (None, 0);
        }
        if polled.is_ready() {
            return polled;
        }
        if self.share.is_none() && !self.finds_room(cx) {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let longest = self.longest;
        let new = || Box::pin(tokio::time::sleep(longest));
        ready!(self.patience.get_or_insert_with(new).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let is_end = buffer.filled().len() == before && buffer.remaining() > 0;
        if is_end && !self.ends(cx) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // All is written: what is asked for next has its own time.
        (self.patience, self.taken, self.share) = (None, 0, None);
        (self.asked, self.again) = (0, None);
        self.watched.reader.is_done();
        if self.watched.flushed() {
            self.kept = 0;
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
