//! Memory for bodies that are on their way, of requests or of responses: so much in all, and of that three quarters for
//! any one subscriber.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use wambda_model::limits::{
    BODY_ROOM_PATIENCE, RESPONSE_COUNTED_BYTES_MIN, RESPONSE_ROOM_PATIENCE,
};
use wambda_model::{Body, FunctionError};

use crate::rates::subscriber;
use crate::{ApiError, Response};

/// Between two looks of one who waits for room.
const LOOK_PERIOD_MIN: Duration = Duration::from_millis(10);
const LOOK_PERIOD_MAX: Duration = Duration::from_millis(100);
/// Kilobytes that a share grows by.
const STEP: usize = 256;

/// The room that there is.
#[derive(Debug)]
pub struct Room {
    /// What it is for, in words for clients.
    what: &'static str,
    /// Longest wait for some of it.
    patience: Duration,
    /// Kilobytes that are free.
    all: Arc<Semaphore>,
    /// Kilobytes that there are.
    limit: usize,
    /// Kilobytes of one subscriber.
    each: usize,
    by: Mutex<Subscribers>,
}

/// Whose part of a room is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// The subscriber's.
    Own,
    /// That of all together.
    All,
}

#[derive(Debug, Default)]
struct Subscribers {
    /// Gone when the last of the shares is.
    free: HashMap<IpAddr, Weak<Semaphore>>,
    /// How many there may be before those that are gone are looked for.
    look_at: usize,
}

impl Room {
    /// Room for bodies of requests, of so many bytes.
    #[must_use]
    pub fn for_requests(bytes: u64) -> Self {
        Self::new(bytes, "request bodies", BODY_ROOM_PATIENCE)
    }

    /// Room for responses that wait to be written, of so many bytes.
    #[must_use]
    pub fn for_responses(bytes: u64) -> Self {
        Self::new(bytes, "responses", RESPONSE_ROOM_PATIENCE)
    }

    fn new(bytes: u64, what: &'static str, patience: Duration) -> Self {
        let limit =
            usize::try_from(bytes >> 10).unwrap_or(usize::MAX).clamp(STEP, Semaphore::MAX_PERMITS);
        let each = (limit / 4 * 3).max(STEP);
        let all = Arc::new(Semaphore::new(limit));
        Self { what, patience, all, limit, each, by: Mutex::default() }
    }

    /// Bytes that are in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        (self.limit.saturating_sub(self.all.available_permits()) as u64) << 10
    }

    /// Bytes that there are.
    #[must_use]
    pub fn limit(&self) -> u64 {
        (self.limit as u64) << 10
    }

    /// Whether there is not even room for so many bytes more, for this peer or for anybody.
    #[must_use]
    pub fn lacks(&self, bytes: u64, peer: IpAddr) -> Option<Short> {
        let wanted = usize::try_from(bytes >> 10).unwrap_or(usize::MAX);
        let free = self.all.available_permits();
        if free < wanted {
            return Some(Short::All);
        }
        // One subscriber has more than half only when all have.
        if free > self.limit - self.each + wanted {
            return None;
        }
        let by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        let own = by.free.get(&subscriber(peer)).and_then(Weak::upgrade);
        own.is_some_and(|own| own.available_permits() < wanted).then_some(Short::Own)
    }

    /// The error for one who finds no room.
    #[must_use]
    pub fn refusal(&self, short: Short) -> ApiError {
        let what = self.what;
        let limit = self.limit() >> 20;
        match short {
            Short::Own => ApiError::too_much(format!(
                "too many {what} are on their way {} your address: try again later",
                if what == "responses" { "to" } else { "from" }
            )),
            Short::All => ApiError::busy(format!(
                "too many {what} are on their way (limit {limit} MB): try again later"
            )),
        }
    }

    /// A share for a body of this peer, of nothing yet.
    pub fn share(&self, peer: IpAddr) -> Share {
        let peer = subscriber(peer);
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        if by.free.len() >= by.look_at {
            by.free.retain(|_, free| free.strong_count() > 0);
            by.look_at = (2 * by.free.len()).max(64);
        }
        let own = by.free.get(&peer).and_then(Weak::upgrade).unwrap_or_else(|| {
            let own = Arc::new(Semaphore::new(self.each));
            by.free.insert(peer, Arc::downgrade(&own));
            own
        });
        Share { own, all: Arc::clone(&self.all), held: None }
    }
}

/// Of the room, as much as there is of one body: what is only announced takes nothing until part of it has come.
#[derive(Debug)]
pub struct Share {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    held: Option<[OwnedSemaphorePermit; 2]>,
}

impl Share {
    /// Kilobytes that it lacks for so many bytes.
    fn lacks(&self, bytes: usize) -> u32 {
        let wanted = bytes.div_ceil(1024).next_multiple_of(STEP);
        let held = self.held.as_ref().map_or(0, |[own, _]| own.num_permits());
        // More than any body may have; the room has less.
        u32::try_from(wanted.saturating_sub(held)).unwrap_or(u32::MAX)
    }

    fn take(&mut self, own: OwnedSemaphorePermit, all: OwnedSemaphorePermit) {
        match &mut self.held {
            Some([held_own, held_all]) => {
                held_own.merge(own);
                held_all.merge(all);
            }
            None => self.held = Some([own, all]),
        }
    }

    /// Grows to so many bytes, if there is room now.
    ///
    /// # Errors
    /// Whose room is used up.
    pub fn try_cover(&mut self, bytes: usize) -> Result<(), Short> {
        let more = self.lacks(bytes);
        if more == 0 {
            return Ok(());
        }
        let own = Arc::clone(&self.own).try_acquire_many_owned(more).map_err(|_| Short::Own)?;
        let all = Arc::clone(&self.all).try_acquire_many_owned(more).map_err(|_| Short::All)?;
        self.take(own, all);
        Ok(())
    }

    /// Gives back what it has beyond so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let keep = bytes.div_ceil(1024).next_multiple_of(STEP);
        let Some([own, all]) = &mut self.held else { return };
        let spare = own.num_permits().saturating_sub(keep);
        drop((own.split(spare), all.split(spare)));
        if keep == 0 {
            self.held = None;
        }
    }

    /// The response that it was taken for, as large as that turned out, with its part until it is written.
    pub(crate) fn go_with(mut self, mut response: Response) -> Response {
        let size = response.body().size_hint().exact().unwrap_or(0);
        self.shrink(usize::try_from(size).unwrap_or(usize::MAX));
        response.extensions_mut().insert(Arc::new(self));
        response
    }

    /// Grows to so many bytes; waits for a while until there is room.
    ///
    /// # Errors
    /// 429 when there is no room for this subscriber, 503 when there is none for anybody.
    pub async fn cover(&mut self, room: &Room, bytes: usize) -> Result<(), ApiError> {
        let Err(mut short) = self.try_cover(bytes) else { return Ok(()) };
        // Not in the semaphore's line: a waiter for much is given there what comes free, part by part,
        // and no other request gets any meanwhile.
        let until = Instant::now() + room.patience;
        let mut pause = LOOK_PERIOD_MIN;
        while Instant::now() < until {
            sleep(pause).await;
            match self.try_cover(bytes) {
                Ok(()) => return Ok(()),
                Err(which) => short = which,
            }
            pause = (pause * 2).min(LOOK_PERIOD_MAX);
        }
        Err(room.refusal(short))
    }
}

/// Why a function's response is not there as a whole.
#[derive(Debug)]
pub enum NotWhole {
    /// It is the function's doing.
    Function(FunctionError),
    /// There is no room for it.
    Room(ApiError),
}

impl From<FunctionError> for NotWhole {
    fn from(error: FunctionError) -> Self {
        Self::Function(error)
    }
}

/// A body of at most `limit` bytes as a whole, and its part of the room, which grows with what is
/// there: a function may take its time.
///
/// # Errors
/// [`NotWhole`].
pub(crate) async fn collect(
    (room, peer): (&Room, IpAddr),
    mut body: Body,
    limit: u64,
) -> Result<(Bytes, Share), NotWhole> {
    let (mut whole, mut share) = (BytesMut::new(), room.share(peer));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.function_error() {
            Some(own) => own.clone(),
            None => {
                let message = format!("the response broke off: {error}");
                FunctionError::returned("Runtime.InvalidResponse", message, Vec::new())
            }
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let size = whole.len() + data.len();
        if size as u64 > limit {
            return Err(FunctionError::response_too_large(limit).into());
        }
        if size > RESPONSE_COUNTED_BYTES_MIN {
            // Growing takes as much again.
            let doubled = size.next_power_of_two();
            share.cover(room, doubled).await.map_err(NotWhole::Room)?;
            whole.reserve(doubled.saturating_sub(whole.len()));
        }
        whole.extend_from_slice(&data);
    }
    Ok((whole.freeze(), share))
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

/// The bytes, which hold their share until the last copy of them is dropped.
#[must_use]
pub fn held(bytes: Bytes, share: &Arc<Share>) -> Bytes {
    Bytes::from_owner(Held { bytes, _share: Arc::clone(share) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[tokio::test(start_paused = true)]
    async fn nobody_gets_all_of_it() {
        let room = Room::for_requests(4 << 20);
        let mut shares = Vec::new();
        for _ in 0..3 {
            let mut share = room.share(ONE);
            share.cover(&room, 1 << 20).await.unwrap();
            share.cover(&room, 1000).await.unwrap();
            shares.push(share);
        }
        let error = room.share(ONE).cover(&room, 1).await.unwrap_err();
        assert!(error.message().contains("from your address"), "{}", error.message());
        let mut last = room.share(OTHER);
        last.cover(&room, 1 << 20).await.unwrap();
        let error = room.share(OTHER).cover(&room, 1).await.unwrap_err();
        assert!(!error.message().contains("your address"), "{}", error.message());
        drop(shares);
        last.cover(&room, 2 << 20).await.unwrap();
        room.share(ONE).cover(&room, 2 << 20).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_for_much_leaves_the_rest_to_others() {
        let room = Arc::new(Room::for_responses(8 << 20));
        let mut most = room.share(ONE);
        most.try_cover(5 << 20).unwrap();
        let large = Arc::clone(&room);
        let large = tokio::spawn(async move {
            let mut share = large.share(OTHER);
            share.cover(&large, 6 << 20).await.map(|()| share)
        });
        sleep(Duration::from_millis(50)).await;
        assert_eq!(room.used(), 5 << 20);
        room.share(ONE).try_cover(1 << 20).unwrap();
        drop(most);
        assert!(large.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_share_gives_back_what_it_does_not_keep() {
        let room = Room::for_responses(4 << 20);
        let mut share = room.share(ONE);
        share.try_cover(3 << 20).unwrap();
        assert_eq!(room.used(), 3 << 20);
        share.shrink(300 << 10);
        assert_eq!(room.used(), 512 << 10);
        share.shrink(3 << 20);
        assert_eq!(room.used(), 512 << 10, "it does not grow");
        let bytes = held(Bytes::from_static(b"x"), &Arc::new(share));
        let copy = bytes.clone();
        drop(bytes);
        assert_eq!(room.used(), 512 << 10);
        drop(copy);
        assert_eq!(room.used(), 0);
        let mut share = room.share(ONE);
        share.try_cover(1).unwrap();
        share.shrink(0);
        assert_eq!(room.used(), 0);
    }

    #[tokio::test]
    async fn those_who_are_gone_are_forgotten() {
        let room = Room::for_requests(4 << 20);
        let kept = room.share(ONE);
        for i in 0..1000_u32 {
            drop(room.share(IpAddr::V4((0x0b00_0000 + i).into())));
        }
        let by = room.by.lock().unwrap();
        assert!(by.free.len() < 130 && by.free.contains_key(&ONE), "{}", by.free.len());
        drop(kept);
    }
}
