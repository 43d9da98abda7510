//! Memory for request bodies that are on their way: so much in all, and of that three quarters for any one subscriber.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use wambda_model::limits::BODY_ROOM_PATIENCE;

use crate::ApiError;
use crate::rates::subscriber;

/// Kilobytes that a share grows by.
const STEP: usize = 256;

/// The room that there is.
#[derive(Debug)]
pub struct Room {
    /// Kilobytes.
    all: Arc<Semaphore>,
    /// Kilobytes of one subscriber.
    each: usize,
    by: Mutex<Subscribers>,
}

#[derive(Debug, Default)]
struct Subscribers {
    /// Gone when the last of the shares is.
    free: HashMap<IpAddr, Weak<Semaphore>>,
    /// How many there may be before those that are gone are looked for.
    look_at: usize,
}

impl Room {
    /// Room for bodies of so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let all =
            usize::try_from(bytes >> 10).unwrap_or(usize::MAX).clamp(STEP, Semaphore::MAX_PERMITS);
        let each = (all / 4 * 3).max(STEP);
        Self { all: Arc::new(Semaphore::new(all)), each, by: Mutex::default() }
    }

    /// A share for a body of this peer, of nothing yet.
    pub(crate) fn share(&self, peer: IpAddr) -> Share {
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
pub(crate) struct Share {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    held: Option<[OwnedSemaphorePermit; 2]>,
}

impl Share {
    /// Grows to so many bytes.
    ///
    /// # Errors
    /// 429 when there is no room for this subscriber for a while, 503 when there is none for anybody.
    pub(crate) async fn cover(&mut self, bytes: usize) -> Result<(), ApiError> {
        let wanted = bytes.div_ceil(1024).next_multiple_of(STEP);
        let held = self.held.as_ref().map_or(0, |[own, _]| own.num_permits());
        let Ok(more) = u32::try_from(wanted.saturating_sub(held)) else {
            return Err(ApiError::busy("the body is too large"));
        };
        if more == 0 {
            return Ok(());
        }
        let own = timeout(BODY_ROOM_PATIENCE, Arc::clone(&self.own).acquire_many_owned(more)).await;
        let Ok(Ok(own)) = own else {
            let message =
                "too many request bodies are on their way from your address: try again later";
            return Err(ApiError::too_much(message));
        };
        let all = timeout(BODY_ROOM_PATIENCE, Arc::clone(&self.all).acquire_many_owned(more)).await;
        let Ok(Ok(all)) = all else {
            return Err(ApiError::busy(
                "too many request bodies are on their way: try again later",
            ));
        };
        match &mut self.held {
            Some([held_own, held_all]) => {
                held_own.merge(own);
                held_all.merge(all);
            }
            None => self.held = Some([own, all]),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[tokio::test(start_paused = true)]
    async fn nobody_gets_all_of_it() {
        let room = Room::new(4 << 20);
        let mut shares = Vec::new();
        for _ in 0..3 {
            let mut share = room.share(ONE);
            share.cover(1 << 20).await.unwrap();
            share.cover(1000).await.unwrap();
            shares.push(share);
        }
        let error = room.share(ONE).cover(1).await.unwrap_err();
        assert!(error.message().contains("from your address"), "{}", error.message());
        let mut last = room.share(OTHER);
        last.cover(1 << 20).await.unwrap();
        let error = room.share(OTHER).cover(1).await.unwrap_err();
        assert!(!error.message().contains("your address"), "{}", error.message());
        drop(shares);
        last.cover(2 << 20).await.unwrap();
        room.share(ONE).cover(2 << 20).await.unwrap();
    }

    #[tokio::test]
    async fn those_who_are_gone_are_forgotten() {
        let room = Room::new(4 << 20);
        let kept = room.share(ONE);
        for i in 0..1000_u32 {
            drop(room.share(IpAddr::V4((0x0b00_0000 + i).into())));
        }
        let by = room.by.lock().unwrap();
        assert!(by.free.len() < 130 && by.free.contains_key(&ONE), "{}", by.free.len());
        drop(kept);
    }
}
