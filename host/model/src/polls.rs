//! What each thread that answers does now: whether it polls a connection, and whether a guest's
//! code runs within that poll. `server/polls.rs` looks at it every few milliseconds, so that a
//! short poll costs some stores and no clock.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Whose code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The server's.
    Host,
    /// A function's.
    Guest,
}

impl Kind {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
        }
    }
}

/// The last bits of [`Desk::stretch`].
const IDLE: u64 = 0;
const HOST: u64 = 1;
const GUEST: u64 = 2;
const KIND_BITS: u32 = 2;

/// What one thread does. Only that thread writes here.
#[derive(Debug, Default)]
pub struct Desk {
    /// Its number for the kernel.
    thread: i32,
    /// The number of what it does now, and whose code that is: another word for each stretch of
    /// work.
    stretch: AtomicU64,
    /// What its last request was about, as [`about`] was told.
    about: AtomicU8,
}

/// What a thread was seen doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch(u64);

impl Stretch {
    /// Whose code runs; none while the thread polls no connection.
    #[must_use]
    pub fn kind(self) -> Option<Kind> {
        match self.0 & ((1 << KIND_BITS) - 1) {
            HOST => Some(Kind::Host),
            GUEST => Some(Kind::Guest),
            _ => None,
        }
    }
}

impl Desk {
    /// The thread's number for the kernel.
    #[must_use]
    pub fn thread(&self) -> i32 {
        self.thread
    }

    /// What it does now. It is the same stretch of work for as long as this is the same.
    #[must_use]
    pub fn now(&self) -> Stretch {
        Stretch(self.stretch.load(Relaxed))
    }

    /// What its last request was about.
    #[must_use]
    pub fn about(&self) -> u8 {
        self.about.load(Relaxed)
    }

    fn begin(&self, kind: u64) {
        let number = (self.stretch.load(Relaxed) >> KIND_BITS).wrapping_add(1);
        self.stretch.store((number << KIND_BITS) | kind, Relaxed);
    }
}

/// Those of all threads that ever polled a connection and are still there.
static DESKS: Mutex<Vec<Weak<Desk>>> = Mutex::new(Vec::new());

thread_local! {
    static DESK: OnceCell<Arc<Desk>> = const { OnceCell::new() };
}

fn new_desk() -> Arc<Desk> {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    let desk = Arc::new(Desk { thread, ..Desk::default() });
    let mut desks = DESKS.lock().unwrap_or_else(PoisonError::into_inner);
    desks.retain(|desk| desk.strong_count() > 0);
    desks.push(Arc::downgrade(&desk));
    desk
}

/// The threads that poll connections.
#[must_use]
pub fn desks() -> Vec<Arc<Desk>> {
    let desks = DESKS.lock().unwrap_or_else(PoisonError::into_inner);
    desks.iter().filter_map(Weak::upgrade).collect()
}

/// Until it is dropped, this thread does what it was begun for.
#[derive(Debug)]
pub struct During {
    /// What it does afterwards; none when it is no thread that answers.
    after: Option<u64>,
}

impl Drop for During {
    fn drop(&mut self) {
        if let Some(after) = self.after {
            let _ = DESK.try_with(|desk| desk.get().map(|desk| desk.begin(after)));
        }
    }
}

/// A connection is polled on this thread, which is one that answers from here on.
#[must_use]
pub fn connection() -> During {
    let begun = DESK.try_with(|desk| desk.get_or_init(new_desk).begin(HOST));
    During { after: begun.is_ok().then_some(IDLE) }
}

/// A guest's code runs on this thread; it counts as such within the poll of a connection.
#[must_use]
pub fn guest() -> During {
    let begin = |desk: &OnceCell<Arc<Desk>>| {
        let desk = desk.get().filter(|desk| desk.now().kind() == Some(Kind::Host))?;
        desk.begin(GUEST);
        Some(HOST)
    };
    During { after: DESK.try_with(begin).ok().flatten() }
}

/// What the request is about that this thread answers now.
pub fn about(what: u8) {
    let _ = DESK.try_with(|desk| desk.get().map(|desk| desk.about.store(what, Relaxed)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stretch_of_work_is_told_apart() {
        // On a thread that answers nobody, a guest is nobody's business.
        drop(guest());
        let mine = || DESK.with(|desk| desk.get().cloned());
        assert!(mine().is_none());
        let poll = connection();
        about(3);
        let desk = mine().unwrap();
        assert!(desks().iter().any(|other| Arc::ptr_eq(other, &desk)));
        let before = desk.now();
        let within = guest();
        let during = desk.now();
        // A guest that calls the host, which polls it again.
        drop(guest());
        assert_eq!(desk.now(), during);
        drop(within);
        let after = desk.now();
        drop(poll);
        let kinds = [before, during, after, desk.now()].map(Stretch::kind);
        assert_eq!(kinds, [Some(Kind::Host), Some(Kind::Guest), Some(Kind::Host), None]);
        assert!(before != after && desk.about() == 3);
        let thrown = std::thread::spawn(|| {
            let broken = std::panic::catch_unwind(|| {
                let _poll = connection();
                panic!("on purpose");
            });
            broken.is_err() && DESK.with(|desk| desk.get().unwrap().now().kind().is_none())
        });
        assert!(thrown.join().unwrap());
    }
}
