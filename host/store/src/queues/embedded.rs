//! Queues in a redb file. One thread writes: it takes what has come in meanwhile, does it in one
//! transaction, syncs once, and then answers all of it (group commit). Readers never wait for a sync.
//!
//! When the medium fails, what was under way is refused, and the file is opened again for the next
//! transaction: nobody has to restart the server when a disk has room again.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};
use tokio::sync::{Notify, mpsc, oneshot};
use wambda_model::{BoxFuture, Clock, RequestId};

use super::browse;
use super::engine::{self, Engine};
use super::infos::{self, Infos};
use super::tables::{Entries, Table, Tx, View};
use super::{
    Appended, Found, Keep, LeaseOrder, Message, NewMessage, QueueError, QueueInfo, Queues, Redrive,
    Settled, Settlement, upgrade,
};
use crate::damage::{self, Store};
use crate::file::{RedbFile, admit};
use crate::{Claim, StoreError};

/// Operations of one transaction.
const BATCH_MAX: usize = 1_024;
/// Operations that wait for a transaction; more wait to be taken.
const WAITING_MAX: usize = 16_384;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

/// Answers whoever waits for an operation. Dropped when the transaction fails.
type Answer = Box<dyn FnOnce() + Send>;
/// An operation.
type Job = Box<dyn FnOnce(&mut Engine, &mut dyn Tx, u64) -> Result<Answer, StoreError> + Send>;

/// Where a database is, for tests that make it fail.
pub type Backend = Arc<dyn Fn() -> Result<Box<dyn StorageBackend>, StoreError> + Send + Sync>;

/// Queues in a file.
pub struct EmbeddedQueues {
    shared: Arc<Shared>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    file: RedbFile,
    infos: Infos,
    /// The last transaction whose numbers are shown.
    shown: AtomicU64,
    changed: Arc<Notify>,
    time: Time,
    /// Why the last transaction failed.
    trouble: Mutex<String>,
}

/// Time that goes on evenly from where it was.
#[derive(Debug)]
struct Time {
    clock: Arc<dyn Clock>,
    since: Instant,
    from_ms: u64,
}

impl Time {
    fn now_ms(&self) -> u64 {
        let passed = self.clock.now().saturating_duration_since(self.since).as_millis();
        self.from_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

impl fmt::Debug for EmbeddedQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedQueues").field("file", &self.shared.file).finish_non_exhaustive()
    }
}

impl EmbeddedQueues {
    /// Opens the file, or makes it, as its directory says. What was leased when it was closed is lost, and
    /// counted so.
    ///
    /// # Errors
    /// When the file is in use, missing, damaged, another directory's, of a newer version, or cannot be
    /// written.
    pub fn open(path: &Path, claim: &Claim, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let started = Self::start(RedbFile::at(path, claim), claim, clock);
        started.map_err(|error| error.about(path.display()))
    }

    /// On a medium of the caller's.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn on(backend: Backend, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::start(RedbFile::on(backend), &Claim::alone(), clock)
    }

    fn start(file: RedbFile, claim: &Claim, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let (since, unix_ms) = (clock.now(), clock.unix_ms());
        let (engine, shown, from_ms) = damage::guarded(|| begin_with(&file, claim, unix_ms))?;
        let infos = Infos::default();
        infos::publish(&infos, shown);
        let time = Time { clock, since, from_ms };
        let (changed, trouble) = (Arc::default(), Mutex::default());
        let last = AtomicU64::new(engine.commits);
        let shared = Arc::new(Shared { file, infos, shown: last, changed, time, trouble });
        let (jobs, queue) = mpsc::channel(WAITING_MAX);
        let writing = Arc::clone(&shared);
        let writer = std::thread::Builder::new().name("wambda-queues".to_owned());
        let writer = writer.spawn(move || writing.write(engine, queue));
        let writer = writer.map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(Self { shared, jobs: Some(jobs), writer: Some(writer) })
    }

    /// Hands an operation to the writer, and waits for its transaction.
    fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine, &mut dyn Tx, u64) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, QueueError>> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |engine, tx, now| {
            let done = work(engine, tx, now)?;
            Ok(Box::new(move || drop(answer.send(done))))
        });
        Box::pin(async move {
            if let Some(jobs) = &self.jobs {
                // Refused only when the writer is gone, and the answer with it.
                let _ = jobs.send(job).await;
            }
            answered.await.map_err(|_| QueueError::Failed(self.shared.trouble()))
        })
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadTables) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, QueueError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || {
                let look = || {
                    let tables = shared.tables()?;
                    Ok((work(&tables)?, engine::commits(&tables)?))
                };
                let (found, commits) = damage::guarded(look)?;
                shared.wait_until_shown(commits);
                Ok::<_, StoreError>(found)
            });
            let reading = reading.await;
            Ok(reading.map_err(|lost| QueueError::Failed(lost.to_string()))??)
        })
    }
}

impl Drop for EmbeddedQueues {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The first transaction: the file is what it should be, of this form, and nothing in it is leased.
fn begin_with(file: &RedbFile, claim: &Claim, unix_ms: u64) -> Result<Begun, StoreError> {
    let database = file.get()?;
    let write = begin(&database)?;
    let known = upgrade::known();
    admit(&write, &known.iter().map(String::as_str).collect::<Vec<_>>(), claim)?;
    if upgrade::run(&write)? {
        tracing::info!(
            "the queues were written by an older version: their values have digests now"
        );
    }
    let (engine, shown, from_ms) = {
        let mut tx = WriteTables::open(|table| write.open_table(table).map_err(failed))?;
        let from_ms = unix_ms.max(engine::last_time(&tx)?);
        let mut engine = Engine::load(&tx)?;
        engine.recover(&mut tx, from_ms)?;
        let shown = engine.flush(&mut tx, from_ms)?;
        (engine, shown, from_ms)
    };
    write.commit().map_err(failed)?;
    Ok((engine, shown, from_ms))
}

/// The engine, the queues' numbers, and the time.
type Begun = (Engine, Vec<(String, Option<infos::Shown>)>, u64);

fn failed(error: impl Into<redb::Error>) -> StoreError {
    error.into().into()
}

fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut write = database.begin_write().map_err(failed)?;
    write.set_quick_repair(true);
    Ok(write)
}

impl Shared {
    fn trouble(&self) -> String {
        let why = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if why.is_empty() { "the writer has ended".to_owned() } else { why }
    }

    fn tables(&self) -> Result<ReadTables, StoreError> {
        let read = self.file.get()?.begin_read().map_err(failed)?;
        Tables::open(|table| read.open_table(table).map_err(failed))
    }

    /// Who has read what became of a message finds the queues' numbers to be of that time, or later: they are shown
    /// right after the commit.
    fn wait_until_shown(&self, commits: u64) {
        for _ in 0..SHOWN_TRIES {
            if self.shown.load(Ordering::Acquire) >= commits {
                break;
            }
            std::thread::sleep(SHOWN_PAUSE);
        }
    }

    /// The writer's life.
    fn write(&self, mut engine: Engine, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        let mut before = 0;
        while queue.blocking_recv_many(&mut jobs, BATCH_MAX) > 0 {
            // Others were with it the last time: those who were answered then are on their way again.
            if jobs.len() * 2 <= before {
                std::thread::sleep(GATHER);
                while jobs.len() < BATCH_MAX
                    && let Ok(job) = queue.try_recv()
                {
                    jobs.push(job);
                }
            }
            before = jobs.len();
            let mut answers = Vec::with_capacity(jobs.len());
            let done =
                damage::guarded(|| self.transaction(&mut engine, jobs.drain(..), &mut answers));
            damage::note_write(&done);
            jobs.clear();
            match done {
                Ok(()) => answers.into_iter().for_each(|answer| answer()),
                Err(error) => {
                    match &error {
                        StoreError::Damaged(why) => damage::tell(Store::Queues, why),
                        error => tracing::error!(%error, "the queues cannot be written"),
                    }
                    self.fault(&error);
                    // What is in memory may be ahead of the file: read it again, when that works.
                    while let Err(error) = damage::guarded(|| self.reload(&mut engine)) {
                        self.fault(&error);
                        drop(answers);
                        answers = Vec::new();
                        // Whoever asks meanwhile is told so, and does not wait.
                        std::thread::sleep(RETRY);
                        refuse(&mut queue);
                        if queue.is_closed() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// The medium has failed: the file is opened anew, and whoever waited is told why.
    fn fault(&self, error: &StoreError) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
        self.file.fault();
    }

    fn reload(&self, engine: &mut Engine) -> Result<(), StoreError> {
        let tables = self.tables()?;
        *engine = Engine::load(&tables)?;
        // A commit may be there although it was said to have failed.
        infos::publish_all(&self.infos, engine.shown(&tables)?);
        self.changed.notify_one();
        self.shown.store(engine.commits, Ordering::Release);
        Ok(())
    }

    fn transaction(
        &self,
        engine: &mut Engine,
        jobs: impl Iterator<Item = Job>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), StoreError> {
        let database = self.file.get()?;
        let write = begin(&database)?;
        let now = self.time.now_ms();
        let shown = {
            let mut tx = WriteTables::open(|table| write.open_table(table).map_err(failed))?;
            for job in jobs {
                answers.push(job(engine, &mut tx, now)?);
            }
            if !tx.is_dirty && !engine.is_touched() {
                // Nothing to sync: dropping the transaction ends it.
                return Ok(());
            }
            engine.flush(&mut tx, now)?
        };
        write.commit().map_err(failed)?;
        infos::publish(&self.infos, shown);
        self.shown.store(engine.commits, Ordering::Release);
        if std::mem::take(&mut engine.has_news) {
            self.changed.notify_one();
        }
        Ok(())
    }
}

/// Time that a commit waits for those who shared the last one.
const GATHER: Duration = Duration::from_micros(300);
/// Time between two attempts to open a file that has failed.
const RETRY: Duration = Duration::from_millis(100);
/// Between two looks of a reader for the numbers of what it has read, and how often it looks at most.
const SHOWN_PAUSE: Duration = Duration::from_micros(50);
const SHOWN_TRIES: u32 = 20_000;

/// Refuses what waits: dropping a job tells who sent it.
fn refuse(queue: &mut mpsc::Receiver<Job>) {
    while let Ok(job) = queue.try_recv() {
        drop(job);
    }
}

/// The tables, open in one transaction.
struct Tables<T> {
    all: Vec<T>,
    /// Whether anything was written.
    is_dirty: bool,
}

type ReadTables = Tables<ReadOnlyTable<&'static [u8], &'static [u8]>>;
type WriteTables<'a> = Tables<redb::Table<'a, &'static [u8], &'static [u8]>>;

impl<T> Tables<T> {
    fn open(open: impl Fn(Definition) -> Result<T, StoreError>) -> Result<Self, StoreError> {
        let all = Table::ALL.into_iter().map(|table| open(definition(table)));
        Ok(Self { all: all.collect::<Result<_, _>>()?, is_dirty: false })
    }

    fn table(&self, table: Table) -> Result<&T, StoreError> {
        self.all.get(table as usize).ok_or_else(|| no_table(table))
    }

    fn table_mut(&mut self, table: Table) -> Result<&mut T, StoreError> {
        self.is_dirty = true;
        self.all.get_mut(table as usize).ok_or_else(|| no_table(table))
    }
}

fn no_table(table: Table) -> StoreError {
    StoreError::Failed(format!("no table {}", table.name()))
}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> View for Tables<T> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.table(table)?.get(key).map_err(failed)?;
        Ok(found.map(|value| value.value().to_vec()))
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Entries, StoreError> {
        let mut found = Vec::new();
        if from >= to {
            return Ok(found);
        }
        let entries = self.table(table)?.range::<&[u8]>(from..to).map_err(failed)?;
        for entry in entries.take(limit) {
            let (key, value) = entry.map_err(failed)?;
            found.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(found)
    }
}

impl Tx for WriteTables<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.table_mut(table)?.insert(key, value).map_err(failed)?;
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.table_mut(table)?.remove(key).map_err(failed)?;
        Ok(())
    }
}

impl Queues for EmbeddedQueues {
    fn append(&self, message: NewMessage) -> BoxFuture<'_, Result<Appended, QueueError>> {
        let done = self.submit(move |engine, tx, now| engine.append(&message, tx, now));
        Box::pin(async { done.await? })
    }

    fn lease(&self, orders: Vec<LeaseOrder>) -> BoxFuture<'_, Result<Vec<Message>, QueueError>> {
        self.submit(move |engine, tx, now| engine.lease(&orders, tx, now))
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<Settled, QueueError>> {
        self.submit(move |engine, tx, now| engine.settle(&settlement, tx, now))
    }

    fn find(&self, id: RequestId) -> BoxFuture<'_, Result<Option<Found>, QueueError>> {
        self.read(move |tables| browse::find(tables, id))
    }

    fn peek(
        &self,
        queue: &str,
        after: Option<(u64, RequestId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Message>, QueueError>> {
        let queue = queue.to_owned();
        self.read(move |tables| browse::peek(tables, &queue, after, limit))
    }

    fn purge(
        &self,
        queue: &str,
        outcome: Option<Bytes>,
        limit: usize,
    ) -> BoxFuture<'_, Result<usize, QueueError>> {
        let queue = queue.to_owned();
        self.submit(move |engine, tx, now| engine.purge(&queue, outcome.as_ref(), limit, tx, now))
    }

    fn redrive(
        &self,
        order: Redrive,
    ) -> BoxFuture<'_, Result<Vec<(RequestId, RequestId)>, QueueError>> {
        let done = self.submit(move |engine, tx, now| engine.redrive(&order, tx, now));
        Box::pin(async { done.await? })
    }

    fn pause(&self, queue: &str, paused: bool) -> BoxFuture<'_, Result<(), QueueError>> {
        let queue = queue.to_owned();
        self.submit(move |engine, _, _| {
            engine.pause(&queue, paused);
            Ok(())
        })
    }

    fn sweep(&self, keep: Keep) -> BoxFuture<'_, Result<usize, QueueError>> {
        self.submit(move |engine, tx, now| engine.sweep(&keep, tx, now))
    }

    fn info(&self, queue: &str) -> Option<Arc<QueueInfo>> {
        infos::read(&self.shared.infos).get(queue).cloned()
    }

    fn infos(&self) -> Vec<(String, Arc<QueueInfo>)> {
        let all = infos::read(&self.shared.infos);
        all.iter().map(|(name, info)| (name.clone(), Arc::clone(info))).collect()
    }

    fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.changed)
    }

    fn now_ms(&self) -> u64 {
        self.shared.time.now_ms()
    }
}
