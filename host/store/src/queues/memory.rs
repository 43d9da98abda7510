//! Queues in memory, for tests: every operation is a transaction of its own, at once.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use wambda_model::{BoxFuture, Clock, RequestId};

use super::browse;
use super::engine::Engine;
use super::infos::{self, Infos};
use super::tables::{Entries, Table, Tx, View};
use super::{
    Appended, Found, Keep, LeaseOrder, Message, NewMessage, QueueError, QueueInfo, Queues, Redrive,
    Settled, Settlement,
};
use crate::StoreError;

/// Queues that end with the process; or with the last handle to them, for one that is "killed".
pub struct MemoryQueues {
    inner: Mutex<Inner>,
    infos: Infos,
    changed: Arc<Notify>,
    clock: Arc<dyn Clock>,
    began: (std::time::Instant, u64),
}

impl std::fmt::Debug for MemoryQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryQueues").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Inner {
    engine: Engine,
    tables: Tables,
}

#[derive(Debug, Default)]
struct Tables(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl View for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Entries, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let bounds =
            (Bound::Included((table, from.to_vec())), Bound::Excluded((table, to.to_vec())));
        let found = self.0.range(bounds).take(limit);
        Ok(found.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

impl Tx for Tables {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.0.insert((table, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.0.remove(&(table, key.to_vec()));
        Ok(())
    }
}

impl MemoryQueues {
    /// Empty queues.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let began = (clock.now(), clock.unix_ms());
        let (inner, infos) = (Mutex::default(), Infos::default());
        Self { inner, infos, changed: Arc::default(), clock, began }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a restart does: nobody has anything any more.
    ///
    /// # Errors
    /// When a state is damaged.
    pub fn restart(&self) -> Result<(), QueueError> {
        self.run(|engine, tx, now| {
            *engine = Engine::load(tx)?;
            engine.recover(tx, now)
        })
    }

    /// Changes stored values behind the queues' back.
    #[cfg(test)]
    pub(super) fn damage(&self, table: Table, mut change: impl FnMut(&mut Vec<u8>)) {
        for ((of, _), value) in &mut self.lock().tables.0 {
            if *of == table {
                change(value);
            }
        }
    }

    /// Changes stored keys behind the queues' back.
    #[cfg(test)]
    pub(super) fn misplace(&self, table: Table, mut change: impl FnMut(&mut Vec<u8>)) {
        let tables = &mut self.lock().tables.0;
        let keys: Vec<_> = tables.keys().filter(|(of, _)| *of == table).cloned().collect();
        for key in keys {
            if let Some(value) = tables.remove(&key) {
                let mut moved = key.1;
                change(&mut moved);
                tables.insert((table, moved), value);
            }
        }
    }

    fn run<T>(
        &self,
        work: impl FnOnce(&mut Engine, &mut dyn Tx, u64) -> Result<T, StoreError>,
    ) -> Result<T, QueueError> {
        let now = self.now_ms();
        let mut inner = self.lock();
        let Inner { engine, tables } = &mut *inner;
        let done = work(engine, tables, now)?;
        let shown = engine.flush(tables, now)?;
        infos::publish(&self.infos, shown);
        if std::mem::take(&mut engine.has_news) {
            self.changed.notify_one();
        }
        Ok(done)
    }
}

impl Queues for MemoryQueues {
    fn append(&self, message: NewMessage) -> BoxFuture<'_, Result<Appended, QueueError>> {
        let done = self.run(|engine, tx, now| engine.append(&message, tx, now));
        Box::pin(async { done? })
    }

    fn lease(&self, orders: Vec<LeaseOrder>) -> BoxFuture<'_, Result<Vec<Message>, QueueError>> {
        let done = self.run(|engine, tx, now| engine.lease(&orders, tx, now));
        Box::pin(async { done })
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<Settled, QueueError>> {
        let done = self.run(|engine, tx, now| engine.settle(&settlement, tx, now));
        Box::pin(async { done })
    }

    fn find(&self, id: RequestId) -> BoxFuture<'_, Result<Option<Found>, QueueError>> {
        let found = browse::find(&self.lock().tables, id);
        Box::pin(async { Ok(found?) })
    }

    fn peek(
        &self,
        queue: &str,
        after: Option<(u64, RequestId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Message>, QueueError>> {
        let found = browse::peek(&self.lock().tables, queue, after, limit);
        Box::pin(async { Ok(found?) })
    }

    fn purge(
        &self,
        queue: &str,
        outcome: Option<Bytes>,
        limit: usize,
    ) -> BoxFuture<'_, Result<usize, QueueError>> {
        let done =
            self.run(|engine, tx, now| engine.purge(queue, outcome.as_ref(), limit, tx, now));
        Box::pin(async { done })
    }

    fn redrive(
        &self,
        order: Redrive,
    ) -> BoxFuture<'_, Result<Vec<(RequestId, RequestId)>, QueueError>> {
        let done = self.run(|engine, tx, now| engine.redrive(&order, tx, now));
        Box::pin(async { done? })
    }

    fn pause(&self, queue: &str, paused: bool) -> BoxFuture<'_, Result<(), QueueError>> {
        let done = self.run(|engine, _, _| {
            engine.pause(queue, paused);
            Ok(())
        });
        Box::pin(async { done })
    }

    fn sweep(&self, keep: Keep) -> BoxFuture<'_, Result<usize, QueueError>> {
        let done = self.run(|engine, tx, now| engine.sweep(&keep, tx, now));
        Box::pin(async { done })
    }

    fn info(&self, queue: &str) -> Option<Arc<QueueInfo>> {
        infos::read(&self.infos).get(queue).cloned()
    }

    fn infos(&self) -> Vec<(String, Arc<QueueInfo>)> {
        let all = infos::read(&self.infos);
        all.iter().map(|(name, info)| (name.clone(), Arc::clone(info))).collect()
    }

    fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    fn now_ms(&self) -> u64 {
        let (since, unix_ms) = self.began;
        let passed = self.clock.now().saturating_duration_since(since).as_millis();
        unix_ms + u64::try_from(passed).unwrap_or(u64::MAX)
    }
}
