//! Records in memory: for tests, and the executable form of the contract.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use wambda_model::BoxFuture;

use crate::{Expect, Record, Records, StoreError};

/// Records that end with the process.
#[derive(Debug, Default)]
pub struct MemoryRecords(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<String, Record>,
    revision: u64,
}

impl MemoryRecords {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_now(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64, StoreError> {
        let mut state = self.lock();
        expect.check(key, state.records.get(key).map(|r| r.revision))?;
        state.revision += 1;
        let revision = state.revision;
        state.records.insert(key.to_owned(), Record { value, revision });
        Ok(revision)
    }

    fn delete_now(&self, key: &str, expect: Expect) -> Result<(), StoreError> {
        let mut state = self.lock();
        expect.check(key, state.records.get(key).map(|r| r.revision))?;
        state.records.remove(key);
        Ok(())
    }

    fn list_now(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(String, Record)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.lock()
            .records
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect()
    }
}

impl Records for MemoryRecords {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        let found = self.lock().records.get(key).cloned();
        Box::pin(async { Ok(found) })
    }

    fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        let done = self.put_now(key, value, expect);
        Box::pin(async { done })
    }

    fn delete(&self, key: &str, expect: Expect) -> BoxFuture<'_, Result<(), StoreError>> {
        let done = self.delete_now(key, expect);
        Box::pin(async { done })
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(String, Record)>, StoreError>> {
        let found = self.list_now(prefix, after, limit);
        Box::pin(async { Ok(found) })
    }
}
