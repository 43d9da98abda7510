//! Responses that wait to be written: what they may take in memory, and the readers that make them wait.
//!
//! A response is counted from when it is there until the kernel has all of it: large ones by their size, others only
//! while their reader makes them wait. When there is no room, the slowest readers are cut off.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;
use wambda_api::room::{Share, Short};
use wambda_api::{Api, ApiError};
use wambda_model::clock;
use wambda_model::limits::{
    READER_GRACE, RESPONSE_ROOM_MIN, RESPONSE_ROOM_PATIENCE, RESPONSE_STALLED_BYTES,
    RESPONSE_WAITING_BYTES_MAX,
};

use crate::serving::Open;

/// Between two looks whether there is room.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// What is known of a connection's reader. Only its own thread writes here, but for `held`.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Since when it makes its response wait, in milliseconds as connections tell the time; 0 when it does not.
    since: AtomicU64,
    /// Bytes that it has taken since.
    taken: AtomicU64,
    /// Bytes that are held for it.
    held: AtomicU64,
    /// It has taken all.
    done: Notify,
}

impl Reader {
    /// It makes its response wait at `now`; it holds so much more for that.
    pub(crate) fn stalls(&self, now: u64, bytes: usize) {
        if self.since.load(Relaxed) == 0 {
            self.since.store(now.max(1), Relaxed);
        }
        self.holds(bytes);
    }

    pub(crate) fn holds(&self, bytes: usize) {
        self.held.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn takes(&self, bytes: usize) {
        if self.since.load(Relaxed) != 0 {
            self.taken.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// It has taken all.
    pub(crate) fn is_done(&self) {
        if self.held.load(Relaxed) != 0 || self.since.load(Relaxed) != 0 {
            self.since.store(0, Relaxed);
            self.taken.store(0, Relaxed);
            self.held.store(0, Relaxed);
            self.done.notify_waiters();
        }
    }

    /// Whether it makes a response wait.
    pub(crate) fn is_stalled(&self) -> bool {
        self.since.load(Relaxed) != 0
    }

    /// Waits until it has taken all.
    pub(crate) async fn caught_up(&self) {
        loop {
            let done = self.done.notified();
            if !self.is_stalled() {
                return;
            }
            done.await;
        }
    }

    /// Bytes a second that it takes, and bytes that are held for it; none when it keeps up, or has not been waited for
    /// long.
    pub(crate) fn pace(&self, now: u64) -> Option<(u64, u64)> {
        let since = self.since.load(Relaxed);
        let waited = now.saturating_sub(since);
        if since == 0 || u128::from(waited) < READER_GRACE.as_millis() {
            return None;
        }
        let held = self.held.load(Relaxed);
        (held > 0).then(|| (self.taken.load(Relaxed) * 1_000 / waited.max(1), held))
    }
}

/// Bytes of responses that wait for room: they are held without being counted.
#[derive(Debug, Default)]
pub(crate) struct Waiting(AtomicU64);

struct Waits<'a>(&'a AtomicU64, u64);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Relaxed);
    }
}

/// Room for a whole response of so many bytes to this peer.
///
/// # Errors
/// When there is none, although the slowest readers were cut off.
pub(crate) async fn room(
    open: &Open,
    api: &Api,
    peer: IpAddr,
    bytes: usize,
) -> Result<Arc<Share>, ApiError> {
    let mut share = api.responses.share(peer);
    let Err(short) = share.try_cover(bytes) else { return Ok(Arc::new(share)) };
    let size = bytes as u64;
    let waiting = open.waiting.0.fetch_add(size, Relaxed);
    let _waits = Waits(&open.waiting.0, size);
    if waiting + size > RESPONSE_WAITING_BYTES_MAX.max(size) {
        return Err(api.responses.refusal(short));
    }
    match shed_until(open, (size, peer), short, || share.try_cover(bytes).err()).await {
        None => Ok(Arc::new(share)),
        Some(short) => Err(api.responses.refusal(short)),
    }
}

/// Cuts off the slowest readers for so many bytes of a peer, until `look` finds nothing short; what still is at the end.
async fn shed_until(
    open: &Open,
    (bytes, peer): (u64, IpAddr),
    short: Short,
    mut look: impl FnMut() -> Option<Short>,
) -> Option<Short> {
    let mut short = Some(short);
    let until = clock::now() + RESPONSE_ROOM_PATIENCE;
    while let Some(which) = short
        && clock::now() < until
    {
        open.shed(bytes, which, peer);
        tokio::time::sleep(LOOK_PERIOD).await;
        short = look();
    }
    short
}

/// Waits until there is room for what a function may answer, while the slowest readers are cut off; what is short if it
/// still is.
pub(crate) async fn made(open: &Open, api: &Api, peer: IpAddr, short: Short) -> Option<Short> {
    let look = || api.responses.lacks(RESPONSE_ROOM_MIN, peer);
    shed_until(open, (RESPONSE_ROOM_MIN, peer), short, look).await
}

/// Room for what a connection holds while its reader makes it wait; none yet when slower readers are being cut off for it.
///
/// # Errors
/// When there is none, and no reader is slower.
pub(crate) fn stalled(open: &Open, api: &Api, peer: IpAddr) -> Result<Option<Share>, Short> {
    let mut share = api.responses.share(peer);
    match share.try_cover(RESPONSE_STALLED_BYTES) {
        Ok(()) => Ok(Some(share)),
        // They give back what they hold when they are polled.
        Err(short) => match open.shed(RESPONSE_STALLED_BYTES as u64, short, peer) {
            0 => Err(short),
            _ => Ok(None),
        },
    }
}
