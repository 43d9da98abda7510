//! Who may connect: so many in all, so many from one subscriber, and a few more, for whoever looks after the
//! server while others hold every place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wambda_api::rates::subscriber;
use wambda_model::limits::{CONNECTIONS_RESERVED, CONNECTIONS_RESERVED_EACH};

/// How many connections may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// In all.
    pub all: usize,
    /// From one subscriber.
    pub each: usize,
}

/// What is open.
#[derive(Debug)]
pub(crate) struct Places {
    limits: Connections,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: Held,
    by: HashMap<IpAddr, Held>,
}

/// How many places are held.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    ordinary: usize,
    reserved: usize,
}

/// The place of one connection.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    subscriber: IpAddr,
    /// Whether it is beyond those that there may be, and one of the few more.
    pub(crate) is_reserved: bool,
}

impl Places {
    pub(crate) fn new(limits: Connections) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection; none when there is none.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let subscriber = subscriber(peer);
        let mut open = self.lock();
        let held = open.by.get(&subscriber).copied().unwrap_or_default();
        let is_reserved = held.ordinary >= self.limits.each || open.all.ordinary >= self.limits.all;
        if is_reserved
            && (held.reserved >= CONNECTIONS_RESERVED_EACH
                || open.all.reserved >= CONNECTIONS_RESERVED)
        {
            return None;
        }
        *open.all.count(is_reserved) += 1;
        *open.by.entry(subscriber).or_default().count(is_reserved) += 1;
        drop(open);
        Some(Place { places: Arc::clone(self), subscriber, is_reserved })
    }
}

impl Held {
    fn count(&mut self, is_reserved: bool) -> &mut usize {
        if is_reserved { &mut self.reserved } else { &mut self.ordinary }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        *open.all.count(self.is_reserved) -= 1;
        if let Some(held) = open.by.get_mut(&self.subscriber) {
            *held.count(self.is_reserved) -= 1;
            if held.ordinary + held.reserved == 0 {
                open.by.remove(&self.subscriber);
            }
        }
    }
}
