//! Responses that wait to be written: what they may take in memory, and the readers that make them wait.
//!
//! A response is counted from when it is there until the kernel has all of it: large ones by their size, others only
//! while their reader makes them wait. When there is no room, the slowest readers are cut off.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::body::Bytes;
use wambda_api::room::{Share, Short};
use wambda_api::{Api, ApiError};
use wambda_model::limits::{READER_GRACE, RESPONSE_STALLED_BYTES, RESPONSE_WAITING_BYTES_MAX};

use crate::serving::Open;

/// What is known of a connection's reader. Only its own thread writes here, but for `held`.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Since when it makes its response wait, in milliseconds as connections tell the time; 0 when it does not.
    since: AtomicU64,
    /// Bytes that it has taken since.
    taken: AtomicU64,
    /// Bytes that are held for it.
    held: AtomicU64,
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
    open.shed(bytes as u64, short, peer);
    let size = bytes as u64;
    let waiting = open.waiting.0.fetch_add(size, Relaxed);
    let _waits = Waits(&open.waiting.0, size);
    if waiting + size > RESPONSE_WAITING_BYTES_MAX.max(size) {
        return Err(api.responses.refusal(short));
    }
    share.cover(&api.responses, bytes).await?;
    Ok(Arc::new(share))
}

/// Room for what a connection holds while its reader makes it wait; none when there is none, and nobody slower.
pub(crate) fn stalled(open: &Open, api: &Api, peer: IpAddr) -> Result<Share, Short> {
    let mut share = api.responses.share(peer);
    for _ in 0..2 {
        match share.try_cover(RESPONSE_STALLED_BYTES) {
            Ok(()) => return Ok(share),
            Err(short) if open.shed(RESPONSE_STALLED_BYTES as u64, short, peer) == 0 => {
                return Err(short);
            }
            // Those that are cut off give back what they hold when they are polled.
            Err(_) => {}
        }
    }
    Ok(share)
}

/// Bytes that take their share of the room with them.
struct Held {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes, which hold their share until the kernel has them.
pub(crate) fn held(bytes: Bytes, share: &Arc<Share>) -> Bytes {
    Bytes::from_owner(Held { bytes, _share: Arc::clone(share) })
}
