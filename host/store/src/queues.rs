//! Durable queues: append, lease, settle, at least once.
//!
//! One engine (`engine`) keeps them in ordered tables; a back end gives it transactions: in memory for
//! tests, in a redb file with group commit for one machine. What a message means, how often it is tried
//! and where it ends is decided above; the engine stores, leases, delays, and keeps one outcome for each
//! message that ended.
//!
//! Not here: who runs what when (`sources`), and what users see (`api`).

mod browse;
mod embedded;
mod engine;
mod examine;
mod infos;
mod memory;
mod pick;
mod rescue;
mod tables;
#[cfg(test)]
mod tests;
mod upgrade;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use wambda_model::{BoxFuture, RequestId};

use crate::StoreError;

pub(crate) use examine::database as examine;

pub use embedded::{Backend, EmbeddedQueues};
pub use memory::MemoryQueues;

/// Age below which a message that has not been tried counts as fresh: fresh ones go first.
pub const FRESH_AGE: Duration = Duration::from_secs(30);
/// Of so many leased at once while there are both, all but one are fresh: aged ones are not starved.
pub const FRESH_OF: u32 = 4;

/// Bytes of a body that a peek shows.
pub const PEEK_BODY_MAX: usize = 16 << 10;

/// How much a queue may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Messages.
    pub count: u64,
    /// Bytes of bodies, attributes and first notes.
    pub bytes: u64,
}

/// A message that is to be kept.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its name from now on; made by [`RequestId::ordered`], so that ids grow with time.
    pub id: RequestId,
    /// The queue; made when it is not there.
    pub queue: String,
    /// What it carries.
    pub body: Bytes,
    /// What its owner has to know about it; never changes.
    pub attributes: Bytes,
    /// What its owner has learned about it so far.
    pub note: Bytes,
    /// Time before it can be leased.
    pub delay: Duration,
    /// Time after which it is of no use.
    pub lifetime: Duration,
    /// Whether what it carries is known to be damaged: it is kept to be looked at.
    pub is_damaged: bool,
    /// Messages of the same key within the window are the same message.
    pub dedup: Option<Dedup>,
    /// What the queue may hold with it.
    pub caps: Caps,
}

/// A key that tells a message from a copy of it.
#[derive(Debug, Clone)]
pub struct Dedup {
    /// Chosen by the sender.
    pub key: String,
    /// How long it is remembered.
    pub window: Duration,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is kept, durably.
    Kept(RequestId),
    /// It was kept before, under this id.
    Duplicate(RequestId),
}

impl Appended {
    /// The message's id.
    #[must_use]
    pub fn id(self) -> RequestId {
        match self {
            Self::Kept(id) | Self::Duplicate(id) => id,
        }
    }
}

/// Which messages are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Those whose time has come; fresh ones first, within [`FRESH_OF`].
    Due,
    /// Those whose lifetime is over, due or not.
    Expired,
}

/// A wish to work.
#[derive(Debug, Clone)]
pub struct LeaseOrder {
    /// From which queue. A paused one gives nothing but what is expired.
    pub queue: String,
    /// At most so many.
    pub max: u32,
    /// At most so many bytes, if it is more than one.
    pub bytes: u64,
    /// Time after which a message that was not settled is leased again.
    pub visibility: Duration,
    /// Which ones.
    pub pick: Pick,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It waits for its first attempt.
    Waiting,
    /// It waits for another one.
    Retrying,
    /// It is leased.
    Leased,
}

/// A message as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its name.
    pub id: RequestId,
    /// Where it is.
    pub queue: String,
    /// Where it stands.
    pub standing: Standing,
    /// Leases so far, this one included. Durable before a lease is handed out; tells leases apart.
    pub attempt: u32,
    /// Leases that ended without being settled: whoever had them was killed, or hung.
    pub lost: u32,
    /// Milliseconds since the Unix epoch.
    pub enqueued_ms: u64,
    /// When it can be leased next, or when its lease ends.
    pub due_ms: u64,
    /// When its lifetime is over.
    pub expires_ms: u64,
    /// As it was appended.
    pub attributes: Bytes,
    /// As it was settled last.
    pub note: Bytes,
    /// Whether body or attributes are not what was appended: it is not to be run.
    pub is_damaged: bool,
    /// As it was appended; cut to [`PEEK_BODY_MAX`] by a peek.
    pub body: Bytes,
    /// Bytes of the whole body.
    pub body_bytes: u64,
}

/// What is to become of a leased message.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is over, with this outcome, and these messages come of it. All of it happens, or nothing.
    Done {
        /// Kept under the message's id; the first one counts.
        outcome: Bytes,
        /// Appended in the same transaction. One that is refused does not hold the others up.
        sends: Vec<NewMessage>,
        /// Appended when none of them is.
        fallback: Option<Box<NewMessage>>,
    },
    /// It is tried again.
    Retry {
        /// Not before.
        after: Duration,
        /// What its owner has learned.
        note: Bytes,
    },
    /// It was not tried: as if it had not been leased.
    Release,
}

/// The end of a lease.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The message.
    pub id: RequestId,
    /// Which lease: [`Message::attempt`].
    pub attempt: u32,
    /// What is to become of it.
    pub verdict: Verdict,
}

/// What became of a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It is in force. The indexes of sends that were refused, and why; the fallback counts as the last.
    Done(Vec<(usize, String)>),
    /// The lease was over, and somebody else has the message now, or has ended it. Nothing changed. A
    /// `Done` is taken from an older lease as well, while the message is there: the work was done.
    Stale,
}

/// What is known of an id.
#[derive(Debug, Clone)]
pub enum Found {
    /// It is in a queue.
    Message(Box<Message>),
    /// It has ended; the outcome as it was given.
    Ended {
        /// Milliseconds since the Unix epoch.
        ended_ms: u64,
        /// As it was settled.
        outcome: Bytes,
    },
}

/// Messages that go to another queue, as new ones.
#[derive(Debug, Clone)]
pub struct Redrive {
    /// From there.
    pub from: String,
    /// To there.
    pub to: String,
    /// These, or the oldest ones.
    pub ids: Option<Vec<RequestId>>,
    /// At most so many.
    pub limit: usize,
    /// Time before the first can be leased.
    pub delay: Duration,
    /// Time between two of them.
    pub spacing: Duration,
    /// From now on.
    pub lifetime: Duration,
    /// What the queue may hold with them.
    pub caps: Caps,
}

/// What is kept of the past.
#[derive(Debug, Clone)]
pub struct Keep {
    /// How long an outcome is kept.
    pub outcome_age: Duration,
    /// Most outcomes.
    pub outcomes: u64,
    /// Bytes of outcomes.
    pub outcome_bytes: u64,
    /// Queues that nobody leases from: what is expired in them is dropped.
    pub trim: Vec<String>,
    /// Most removals of one call.
    pub limit: usize,
}

/// Why a queue did not do something. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// It holds what it may.
    #[error("the queue {queue} is full: {what} (limit {limit}, now {value})")]
    Full {
        /// Which queue.
        queue: String,
        /// `count` or `bytes`.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// What is there.
        value: u64,
    },
    /// The medium failed. A write may have happened or not; it was not acknowledged.
    #[error("the queues cannot be written: {0}")]
    Failed(String),
}

impl From<StoreError> for QueueError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A queue's numbers, as of the last commit. Read without waiting for anybody.
#[derive(Debug, Default)]
pub struct QueueInfo {
    pub(crate) count: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) leased: AtomicU64,
    pub(crate) retrying: AtomicU64,
    pub(crate) oldest_ms: AtomicU64,
    pub(crate) next_ms: AtomicU64,
    pub(crate) expires_ms: AtomicU64,
    pub(crate) paused: AtomicBool,
}

impl QueueInfo {
    /// Messages, leased ones included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Messages that nobody has leased.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.count().saturating_sub(self.leased())
    }

    /// Bytes of bodies and attributes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Messages that somebody has leased.
    #[must_use]
    pub fn leased(&self) -> u64 {
        self.leased.load(Relaxed)
    }

    /// Messages that wait for another attempt.
    #[must_use]
    pub fn retrying(&self) -> u64 {
        self.retrying.load(Relaxed)
    }

    /// When the oldest one was appended, in milliseconds since the Unix epoch; none when there is none.
    /// The oldest is the one whose lifetime ends first.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        Some(self.oldest_ms.load(Relaxed)).filter(|ms| *ms != u64::MAX && self.count() > 0)
    }

    /// When the next one can be leased, or a lease is over; `u64::MAX` for never.
    #[must_use]
    pub fn next_ms(&self) -> u64 {
        self.next_ms.load(Relaxed)
    }

    /// When the next lifetime is over; `u64::MAX` for never.
    #[must_use]
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms.load(Relaxed)
    }

    /// Whether nobody gets anything from it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }
}

/// Queues, at least once.
///
/// - What is acknowledged is durable, in back ends that have a disk.
/// - A message that is leased and not settled in time is leased again, and so is everything that was
///   leased when the process ended. `attempt` and `lost` count that.
/// - One that has lost a worker is leased alone: it may be what kills them.
/// - An id has one outcome at most, and none while it is in a queue that it has not ended in.
/// - Order is no promise: due ones before later ones, fresh ones before aged ones, mostly.
/// - What is damaged on the medium is leased like the rest, and marked.
/// - Time is [`Queues::now_ms`]: it does not jump when the machine's clock does.
pub trait Queues: Send + Sync {
    /// Keeps a message. Several at once share a commit.
    fn append(&self, message: NewMessage) -> BoxFuture<'_, Result<Appended, QueueError>>;

    /// Leases messages of several queues in one commit.
    fn lease(&self, orders: Vec<LeaseOrder>) -> BoxFuture<'_, Result<Vec<Message>, QueueError>>;

    /// Ends a lease.
    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<Settled, QueueError>>;

    /// What is known of an id: the outcome, when there is one.
    fn find(&self, id: RequestId) -> BoxFuture<'_, Result<Option<Found>, QueueError>>;

    /// Up to `limit` messages after that place (expiry and id), those first whose lifetime ends first.
    fn peek(
        &self,
        queue: &str,
        after: Option<(u64, RequestId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Message>, QueueError>>;

    /// Removes up to `limit` messages that are not leased; each gets the outcome, if there is one.
    fn purge(
        &self,
        queue: &str,
        outcome: Option<Bytes>,
        limit: usize,
    ) -> BoxFuture<'_, Result<usize, QueueError>>;

    /// Moves messages that are not leased. They get new ids, and their attempts begin anew: old and new
    /// id of each. Fewer than asked for when the other queue gets full; refused when nothing fits.
    fn redrive(
        &self,
        order: Redrive,
    ) -> BoxFuture<'_, Result<Vec<(RequestId, RequestId)>, QueueError>>;

    /// Stops or lets go of a queue; made when it is not there.
    fn pause(&self, queue: &str, paused: bool) -> BoxFuture<'_, Result<(), QueueError>>;

    /// Forgets outcomes and keys whose time is over. Returns how many removals that took.
    fn sweep(&self, keep: Keep) -> BoxFuture<'_, Result<usize, QueueError>>;

    /// A queue's numbers.
    fn info(&self, queue: &str) -> Option<Arc<QueueInfo>>;

    /// All queues, by name.
    fn infos(&self) -> Vec<(String, Arc<QueueInfo>)>;

    /// Notified after every commit that appended something, or put something back.
    fn changed(&self) -> Arc<Notify>;

    /// The queues' time, in milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// Whether these bytes are an entry of a queue: for fuzzing, which has no other way in.
#[doc(hidden)]
#[must_use]
pub fn is_entry(value: &[u8]) -> bool {
    tables::State::decode(value).is_ok()
}
