//! What is shown of the queues: their numbers as of the last commit.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};

use super::QueueInfo;
use super::engine::{Queue, enqueued_ms};
use super::tables::{
    LEASED, RETRYING, SUSPECT, Table, View, WAITING, member_key, member_parts, schedule_key,
    schedule_parts,
};
use crate::StoreError;

/// What is shown of the queues, by name.
pub(super) type Infos = RwLock<BTreeMap<String, Arc<QueueInfo>>>;

/// The numbers of a queue.
#[derive(Debug)]
pub(super) struct Shown {
    queue: Queue,
    oldest_ms: u64,
    next_ms: u64,
    expires_ms: u64,
}

impl Shown {
    pub(super) fn of(queue: &Queue, tx: &dyn View) -> Result<Self, StoreError> {
        let id = queue.id;
        let (mut next_ms, mut oldest_ms, mut expires_ms) = (u64::MAX, u64::MAX, u64::MAX);
        for class in [WAITING, RETRYING, LEASED, SUSPECT] {
            if class == SUSPECT && !queue.suspects.is_empty() {
                // Some of them wait for those that are leased; whoever settles one looks again.
                continue;
            }
            let (from, to) =
                (schedule_key(id, class, 0, 0), schedule_key(id, class, u64::MAX, u128::MAX));
            if let Some((key, _)) = tx.range(Table::Schedule, &from, &to, 1)?.first() {
                next_ms = next_ms.min(schedule_parts(key)?.0);
            }
        }
        let (from, to) = (member_key(id, 0, 0), member_key(id, u64::MAX, u128::MAX));
        if let Some((key, _)) = tx.range(Table::Members, &from, &to, 1)?.first() {
            let (expires, first) = member_parts(key)?;
            expires_ms = expires;
            oldest_ms = enqueued_ms(tx, first)?;
        }
        Ok(Self { queue: queue.clone(), oldest_ms, next_ms, expires_ms })
    }

    fn show(&self, info: &QueueInfo) {
        info.count.store(self.queue.count, Relaxed);
        info.bytes.store(self.queue.bytes, Relaxed);
        info.leased.store(self.queue.leased, Relaxed);
        info.retrying.store(self.queue.retrying, Relaxed);
        info.paused.store(self.queue.paused, Relaxed);
        info.oldest_ms.store(self.oldest_ms, Relaxed);
        info.next_ms.store(self.next_ms, Relaxed);
        info.expires_ms.store(self.expires_ms, Relaxed);
    }
}

/// Shows what a commit has changed.
pub(super) fn publish(infos: &Infos, shown: Vec<(String, Option<Shown>)>) {
    for (name, shown) in shown {
        match shown {
            Some(shown) => {
                let known = read(infos).get(&name).cloned();
                let info = known.unwrap_or_else(|| {
                    let mut all = infos.write().unwrap_or_else(PoisonError::into_inner);
                    Arc::clone(all.entry(name).or_default())
                });
                shown.show(&info);
            }
            None => {
                let gone = infos.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
                if let Some(info) = gone {
                    info.count.store(0, Relaxed);
                    info.next_ms.store(u64::MAX, Relaxed);
                }
            }
        }
    }
}

/// Shows these and no others.
pub(super) fn publish_all(infos: &Infos, shown: Vec<(String, Shown)>) {
    let mut changes: BTreeMap<_, _> = read(infos).keys().map(|name| (name.clone(), None)).collect();
    changes.extend(shown.into_iter().map(|(name, shown)| (name, Some(shown))));
    publish(infos, changes.into_iter().collect());
}

pub(super) fn read(
    infos: &Infos,
) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<QueueInfo>>> {
    infos.read().unwrap_or_else(PoisonError::into_inner)
}
