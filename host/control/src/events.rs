//! Asynchronous invocations as their senders and owners see them: accept one, look one up, look into
//! queues, and move what is in them. Who runs them is in `sources`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use wambda_model::event::{
    Ending, Envelope, EventConfig, EventSettings, History, Status, async_owner, async_queue,
    dead_owner,
};
use wambda_model::invocation::Caller;
use wambda_model::limits::{
    EVENT_BYTES_MAX, EVENTS_BYTES_MAX, EVENTS_MAX, IDEMPOTENCY_WINDOW, LETTER_AGE,
    LETTERS_BYTES_MAX, LETTERS_MAX, REDRIVE_MAX,
};
use wambda_model::{CatalogCell, Function, LATEST, RequestId};
use wambda_store::Queues;
use wambda_store::queues::{
    Appended, Caps, Dedup, Found, Message, NewMessage, QueueError, Redrive,
};

/// What the queue of a function's events may hold.
pub const EVENT_CAPS: Caps = Caps { count: EVENTS_MAX, bytes: EVENTS_BYTES_MAX };
/// What any other queue may hold.
pub const LETTER_CAPS: Caps = Caps { count: LETTERS_MAX, bytes: LETTERS_BYTES_MAX };
/// Messages of one transaction of a purge or a redrive.
const CHUNK: usize = 1_000;

/// Why an event, or a wish about a queue, was not taken. Nothing was kept.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// It is too large.
    #[error("an asynchronous event must be at most {limit} bytes, got {size}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// What was sent.
        size: u64,
    },
    /// The queue is full.
    #[error("{0}")]
    Full(String),
    /// The medium failed, while something was written or read.
    #[error("{0}")]
    Failed(String),
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl From<QueueError> for EventError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Full { .. } => Self::Full(error.to_string()),
            QueueError::Failed(_) => Self::Failed(error.to_string()),
        }
    }
}

/// What is known of an asynchronous invocation.
#[derive(Debug)]
pub enum Known {
    /// It waits, or runs.
    Live(Box<Live>),
    /// It has ended.
    Ended {
        /// Milliseconds since the Unix epoch.
        ended_ms: u64,
        /// How.
        ending: Box<Ending>,
    },
}

/// An event that has not ended.
#[derive(Debug)]
pub struct Live {
    /// As it is kept.
    pub message: Message,
    /// Whom it is for.
    pub envelope: Envelope,
    /// What has been tried.
    pub history: History,
}

/// A redrive, as its sender wants it.
#[derive(Debug, Clone, Default)]
pub struct RedriveOrder {
    /// These, or all of them.
    pub ids: Option<Vec<RequestId>>,
    /// Messages a second; none for all at once.
    pub rate: Option<f64>,
}

/// Asynchronous invocations.
pub struct Events {
    queues: Arc<dyn Queues>,
    catalog: CatalogCell,
    settings: EventSettings,
    /// Bytes of all queues as of some second, with what was taken since, and that second.
    stored: (AtomicU64, AtomicU64),
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What is said about a qualifier's asynchronous invocations.
#[must_use]
pub fn config_of(function: &Function, qualifier: Option<&str>) -> EventConfig {
    let configs = &function.details.events;
    configs.get(qualifier.unwrap_or(LATEST)).cloned().unwrap_or_default()
}

/// An event for a function, as a message.
#[must_use]
pub fn event_message(
    function: &Function,
    envelope: &Envelope,
    body: Bytes,
    now: u64,
) -> NewMessage {
    let config = config_of(function, envelope.qualifier.as_deref());
    NewMessage {
        id: RequestId::ordered(now),
        queue: async_queue(function.name(), envelope.qualifier.as_deref()),
        body,
        attributes: serde_json::to_vec(envelope).unwrap_or_default().into(),
        note: Bytes::new(),
        delay: Duration::ZERO,
        lifetime: Duration::from_secs(config.max_age_s()),
        is_damaged: false,
        dedup: None,
        caps: EVENT_CAPS,
    }
}

/// A message for a queue that nobody runs.
#[must_use]
pub fn letter(
    queue: String,
    id: RequestId,
    body: Bytes,
    attributes: Bytes,
    note: Bytes,
) -> NewMessage {
    NewMessage {
        id,
        queue,
        body,
        attributes,
        note,
        delay: Duration::ZERO,
        lifetime: LETTER_AGE,
        is_damaged: false,
        dedup: None,
        caps: LETTER_CAPS,
    }
}

impl Events {
    /// Over these queues.
    #[must_use]
    pub fn new(queues: Arc<dyn Queues>, catalog: CatalogCell, settings: EventSettings) -> Self {
        Self { queues, catalog, settings, stored: Default::default() }
    }

    /// Counts `more` bytes among what all queues hold, if they may hold so many. Once a second it is looked at what that
    /// is: queues are many.
    fn take(&self, more: u64) -> Result<(), EventError> {
        let (bytes, second) = &self.stored;
        let now_s = self.queues.now_ms() / 1_000;
        if second.swap(now_s, Relaxed) != now_s {
            let all = self.queues.infos();
            bytes.store(all.iter().map(|(_, info)| info.bytes()).sum(), Relaxed);
        }
        let limit = self.settings.storage_bytes;
        let fits = |held: u64| held.checked_add(more).filter(|sum| *sum <= limit);
        let taken = bytes.fetch_update(Relaxed, Relaxed, fits).map(drop);
        taken.map_err(|held| {
            EventError::Full(format!(
                "all queues together may hold {limit} bytes, and hold {held}: try again later"
            ))
        })
    }

    /// Where they are kept.
    #[must_use]
    pub fn queues(&self) -> &Arc<dyn Queues> {
        &self.queues
    }

    /// How long what is held.
    #[must_use]
    pub fn settings(&self) -> &EventSettings {
        &self.settings
    }

    /// Keeps an event for a function. Durable when it returns. With a key, an event of the same function
    /// and key is the same event.
    ///
    /// # Errors
    /// When it is too large, the queue is full, or the medium fails.
    pub async fn accept(
        &self,
        function: &Function,
        qualifier: Option<String>,
        event: Bytes,
        caller: Option<&Caller>,
        key: Option<String>,
    ) -> Result<RequestId, EventError> {
        let (limit, size) = (EVENT_BYTES_MAX, event.len() as u64);
        if size > limit {
            return Err(EventError::TooLarge { limit, size });
        }
        self.take(size)?;
        let envelope = Envelope::new(function.name().clone(), qualifier, caller);
        let mut message = event_message(function, &envelope, event, self.queues.now_ms());
        message.dedup = key.map(|key| Dedup { key, window: IDEMPOTENCY_WINDOW });
        let appended = self.queues.append(message).await?;
        if let Appended::Kept(_) = appended {
            function.latest.metrics.event_received();
        }
        Ok(appended.id())
    }

    /// What is known of an id.
    ///
    /// # Errors
    /// When the medium fails.
    pub async fn find(&self, id: RequestId) -> Result<Option<Known>, EventError> {
        let damaged = |error: serde_json::Error| EventError::Failed(format!("{id}: {error}"));
        Ok(match self.queues.find(id).await? {
            None => None,
            Some(Found::Ended { ended_ms, outcome }) => {
                let ending = Box::new(serde_json::from_slice(&outcome).map_err(damaged)?);
                Some(Known::Ended { ended_ms, ending })
            }
            // A message of somebody else's queue is no invocation.
            Some(Found::Message(message)) if async_owner(&message.queue).is_none() => None,
            Some(Found::Message(message)) => {
                let envelope = serde_json::from_slice(&message.attributes).map_err(damaged)?;
                let history = history_of(&message);
                Some(Known::Live(Box::new(Live { message: *message, envelope, history })))
            }
        })
    }

    /// Removes what waits in a queue; what runs, goes on. Events get an outcome that says so. Returns how
    /// many there were.
    ///
    /// # Errors
    /// When the medium fails; some may be gone then.
    pub async fn purge(&self, queue: &str) -> Result<usize, EventError> {
        let outcome = async_owner(queue).map(|(function, qualifier)| {
            let ending = Ending {
                function,
                qualifier,
                status: Status::Dead,
                condition: "Purged".to_owned(),
                enqueued_ms: 0,
                attempts: Vec::new(),
                invoked: 0,
                result: None,
                result_bytes: 0,
                undelivered: Vec::new(),
            };
            Bytes::from(serde_json::to_vec(&ending).unwrap_or_default())
        });
        let there = self.queues.info(queue).map_or(0, |info| info.waiting());
        let mut purged = 0;
        // What comes meanwhile stays.
        while (purged as u64) < there {
            let limit = CHUNK.min(usize::try_from(there).unwrap_or(CHUNK) - purged);
            match self.queues.purge(queue, outcome.clone(), limit).await? {
                0 => break,
                count => purged += count,
            }
        }
        Ok(purged)
    }

    /// Sends dead letters to their function again, as new events: the old and the new id of each.
    ///
    /// # Errors
    /// When the queue is none of dead letters, its function is gone, or the medium fails; some may have
    /// been sent then.
    pub async fn redrive(
        &self,
        queue: &str,
        order: RedriveOrder,
    ) -> Result<Vec<(RequestId, RequestId)>, EventError> {
        let invalid = |what: String| EventError::Invalid(what);
        let (name, qualifier) = dead_owner(queue).ok_or_else(|| {
            invalid(format!("{queue:?} is no queue of dead letters: those are dead:FUNCTION"))
        })?;
        let qualifier = qualifier.as_deref();
        let function = self.catalog.get(&name);
        let function = function.ok_or_else(|| invalid(format!("there is no function {name}")))?;
        let rate = order.rate.unwrap_or(f64::INFINITY);
        if rate.is_nan() || rate <= 0.0 {
            return Err(invalid(format!("rate must be more than 0 messages a second, got {rate}")));
        }
        let spacing = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX);
        let lifetime = Duration::from_secs(config_of(&function, qualifier).max_age_s());
        let wanted = match &order.ids {
            Some(ids) => ids.len(),
            None => self.queues.info(queue).map_or(0, |info| info.count()) as usize,
        };
        let wanted = wanted.min(REDRIVE_MAX);
        let (mut moved, mut ids) = (Vec::new(), order.ids);
        while moved.len() < wanted {
            let limit = CHUNK.min(wanted - moved.len());
            let these: Option<Vec<RequestId>> =
                ids.as_mut().map(|ids| ids.drain(..limit.min(ids.len())).collect());
            if these.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
            let before = u32::try_from(moved.len()).unwrap_or(u32::MAX);
            let redrive = Redrive {
                from: queue.to_owned(),
                to: async_queue(&name, qualifier),
                ids: these,
                limit,
                delay: spacing.saturating_mul(before),
                spacing,
                lifetime,
                caps: EVENT_CAPS,
            };
            let some = match self.queues.redrive(redrive).await {
                Ok(some) => some,
                // What went before has gone: it is told, and not the error.
                Err(_) if !moved.is_empty() => break,
                Err(error) => return Err(error.into()),
            };
            if some.is_empty() && ids.is_none() {
                break;
            }
            moved.extend(some);
        }
        Ok(moved)
    }
}

/// What has been tried of an event, lost attempts included.
#[must_use]
pub fn history_of(message: &Message) -> History {
    let mut history: History = serde_json::from_slice(&message.note).unwrap_or_default();
    while history.lost < message.lost {
        history.lost += 1;
        let what = "the server ended while it ran, or hung".to_owned();
        let error = Some(("Wambda.WorkerLost".to_owned(), what));
        history.add(wambda_model::event::Attempt {
            started_ms: 0,
            ended_ms: 0,
            version: String::new(),
            error,
        });
    }
    history
}
