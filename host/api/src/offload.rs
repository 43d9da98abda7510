//! Work whose length strangers decide, away from the threads that answer: escaping, parsing,
//! decoding, hashing of what is large, and all operations that are no invocation.
//! docs/answering-threads.md lists every such place.
//!
//! The work threads have a lower priority than the threads that answer, so that these come first on
//! a busy machine. They are as many as there are cores. Guests run on threads of their own and keep
//! no work waiting.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle};
use wambda_model::limits::{INLINE_WORK_BYTES_MAX, READ_BESIDE_BYTES_MAX, WORK_EACH_MAX};

use crate::ApiError;
use crate::rates::subscriber;
use crate::within::is_within;

/// The way to the work threads.
#[derive(Debug)]
pub struct Offload {
    threads: Handle,
    turns: Mutex<Turns>,
    /// One large body is read into values at a time.
    reader: Arc<Semaphore>,
    /// Bytes of it.
    read: Arc<AtomicU64>,
}

/// The turn of a large body to be read into values, which take as much again as it has.
#[derive(Debug)]
pub(crate) struct Reading {
    read: Arc<AtomicU64>,
    bytes: u64,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.read.fetch_sub(self.bytes, Relaxed);
    }
}

/// Of one subscriber's turns, one, and with it that of a large body.
#[derive(Debug)]
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _reading: Option<Reading>,
}

/// Who has work there, and how much more of it may run now.
#[derive(Debug, Default)]
struct Turns {
    /// Gone when the last piece of work is.
    of: HashMap<IpAddr, Weak<Semaphore>>,
    /// How many there may be before those that are gone are looked for.
    look_at: usize,
}

/// A task that ends when its caller does not wait for it any more.
struct Awaited<T>(JoinHandle<T>);

impl<T> Drop for Awaited<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Offload {
    /// To these threads.
    #[must_use]
    pub fn new(threads: Handle) -> Self {
        Self {
            threads,
            turns: Mutex::default(),
            reader: Arc::new(Semaphore::new(1)),
            read: Arc::default(),
        }
    }

    /// Waits for the turn of a peer's body of so many bytes to be read into values; none is needed
    /// when they are few. A peer's next bodies wait for its own turns, and not before those of others.
    pub(crate) async fn reading(&self, peer: SocketAddr, bytes: usize) -> Option<Turn> {
        if bytes <= READ_BESIDE_BYTES_MAX {
            return None;
        }
        let own = self.turns(peer.ip()).acquire_owned().await.ok()?;
        Some(Turn { _own: own, _reading: self.turn_of_large(bytes).await })
    }

    async fn turn_of_large(&self, bytes: usize) -> Option<Reading> {
        if bytes <= READ_BESIDE_BYTES_MAX {
            return None;
        }
        // It is never closed.
        let turn = Arc::clone(&self.reader).acquire_owned().await.ok()?;
        let bytes = bytes as u64;
        self.read.fetch_add(bytes, Relaxed);
        Some(Reading { read: Arc::clone(&self.read), bytes, _turn: turn })
    }

    /// As [`Offload::work`], for what reads JSON into values.
    ///
    /// # Errors
    /// 500 when it panics.
    pub(crate) async fn read_values<T: Send + 'static>(
        &self,
        peer: SocketAddr,
        bytes: usize,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        if bytes <= INLINE_WORK_BYTES_MAX {
            return Ok(read());
        }
        Box::pin(self.away(peer, bytes, read)).await
    }

    /// Bytes of values that large bodies are being read into.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Does work over so many bytes of a peer: here when they are few, otherwise on the work
    /// threads. One peer has [`WORK_EACH_MAX`] pieces of work there at once, so that another one's
    /// waits for few of them.
    ///
    /// # Errors
    /// 500 when it panics.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        peer: SocketAddr,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        if bytes <= INLINE_WORK_BYTES_MAX {
            return Ok(work());
        }
        // Boxed: it is rare, and would be copied with every request's future.
        Box::pin(self.away(peer, 0, work)).await
    }

    async fn away<T: Send + 'static>(
        &self,
        peer: SocketAddr,
        values: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turns = self.turns(peer.ip());
        let turn =
            turns.acquire_owned().await.map_err(|lost| ApiError::internal(&lost.to_string()))?;
        let reading = self.turn_of_large(values).await;
        let task = async move {
            let done = work();
            drop((turn, reading));
            done
        };
        self.run(task).await
    }

    /// Runs an operation on the work threads, to its end or until its caller has gone.
    ///
    /// # Errors
    /// 500 when it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        operation: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let mut task = Awaited(self.threads.spawn(operation));
        let failed = |lost: JoinError| ApiError::internal(&format!("on a work thread: {lost}"));
        (&mut task.0).await.map_err(failed)
    }

    /// Runs on the work threads what ends by itself.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.threads.spawn(task));
    }

    fn turns(&self, peer: IpAddr) -> Arc<Semaphore> {
        // Functions are told apart, and not taken for one subscriber.
        let peer = if is_within(peer) { peer } else { subscriber(peer) };
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.of.len() >= turns.look_at {
            turns.of.retain(|_, own| own.strong_count() > 0);
            turns.look_at = (2 * turns.of.len()).max(64);
        }
        let known = turns.of.get(&peer).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let own = Arc::new(Semaphore::new(WORK_EACH_MAX));
            turns.of.insert(peer, Arc::downgrade(&own));
            own
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::current;

    use super::*;

    fn peer(last: u8) -> SocketAddr {
        ([127, 0, 0, last], 1).into()
    }

    fn threads() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(WORK_EACH_MAX + 1).enable_all().build().unwrap()
    }

    #[tokio::test]
    async fn only_what_is_large_goes_away() {
        let threads = threads();
        let offload = Offload::new(threads.handle().clone());
        let here = current().id();
        let small = offload.work(peer(1), INLINE_WORK_BYTES_MAX, || current().id()).await.unwrap();
        let large = offload.work(peer(1), INLINE_WORK_BYTES_MAX + 1, || current().id());
        assert_eq!((small, large.await.unwrap() == here), (here, false));
        let lost = offload.work(peer(1), usize::MAX, || panic!("on purpose")).await;
        assert!(lost.is_err_and(|error: ApiError| error.aws_code() == "ServiceException"));
        threads.shutdown_background();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_peer_leaves_room_for_another() {
        let threads = threads();
        let offload = Arc::new(Offload::new(threads.handle().clone()));
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let greedy: Vec<_> = (0..20)
            .map(|_| {
                let (offload, gate) = (Arc::clone(&offload), Arc::clone(&gate));
                let wait = move || gate.lock().unwrap().recv().is_err();
                tokio::spawn(async move { offload.work(peer(1), usize::MAX, wait).await.is_ok() })
            })
            .collect();
        // It is done while the other one's hold all that they may have.
        assert_eq!(offload.work(peer(2), usize::MAX, || 7).await.unwrap(), 7);
        drop(go);
        for done in greedy {
            assert!(done.await.unwrap());
        }
        drop(offload.turns(peer(3).ip()));
        let turns = offload.turns.lock().unwrap();
        assert!(turns.of.values().all(|own| own.strong_count() == 0));
        threads.shutdown_background();
    }
}
