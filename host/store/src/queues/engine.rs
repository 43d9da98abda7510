//! The queues' rules over ordered tables: what an append, a lease and a settlement change. Deterministic:
//! time and ids come in. Several operations share a transaction; [`Engine::flush`] ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wambda_model::{Digest, RequestId};

use super::infos::Shown;
use super::pick::{due, members};
use super::rescue::{self, scheduled};
use super::tables::{
    LEASED, RETRYING, Reader, SUSPECT, State, Table, Tx, View, WAITING, damaged, digest, ended_key,
    id_key, look_up, member_key, read, schedule_key, schedule_parts, seal, unseal,
};
use super::{
    Appended, LeaseOrder, Message, NewMessage, Pick, QueueError, Settled, Settlement, Verdict,
};
use crate::StoreError;
use crate::damage::{self, Store};

/// Longest wait before a message is leased again that has lost its workers.
const LOST_DELAY_MAX: Duration = Duration::from_secs(300);
/// Numbers in the meta table.
const NEXT_QUEUE: &[u8] = b"next_queue";
const OUTCOMES: &[u8] = b"outcomes";
const OUTCOME_BYTES: &[u8] = b"outcome_bytes";
const TIME: &[u8] = b"time";
const COMMITS: &[u8] = b"commits";

#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    pub(super) id: u32,
    pub(super) paused: bool,
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) leased: u64,
    pub(super) retrying: u64,
    /// Messages that were leased so far: tells whose turn it is, fresh or aged.
    pub(super) turn: u64,
    /// Those that have lost a worker and are leased now, and how many. Few at a time, and the fewer the more
    /// often they were lost: one of them may be what kills the workers, and those leased with it are taken
    /// for the same.
    pub(super) suspects: BTreeMap<u128, u32>,
}

/// The queues' numbers, in step with the tables.
#[derive(Debug, Default)]
pub(super) struct Engine {
    pub(super) queues: BTreeMap<String, Queue>,
    pub(super) names: BTreeMap<u32, String>,
    next_queue: u32,
    pub(super) outcomes: u64,
    pub(super) outcome_bytes: u64,
    /// Transactions so far, the one under way included once it is flushed.
    pub(super) commits: u64,
    /// Queues that the transaction has changed.
    pub(super) touched: BTreeSet<String>,
    /// Whether somebody may have something to lease now.
    pub(super) has_news: bool,
}

impl Queue {
    fn counter(&mut self, class: u8) -> Option<&mut u64> {
        match class {
            LEASED => Some(&mut self.leased),
            RETRYING | SUSPECT => Some(&mut self.retrying),
            _ => None,
        }
    }

    fn enters(&mut self, class: u8) {
        if let Some(counter) = self.counter(class) {
            *counter += 1;
        }
    }

    fn leaves(&mut self, class: u8) {
        if let Some(counter) = self.counter(class) {
            *counter = counter.saturating_sub(1);
        }
    }
}

pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn number(tx: &dyn View, name: &[u8]) -> Result<u64, StoreError> {
    look_up(tx, Table::Meta, name)?.map_or(Ok(0), |value| Reader(&value).u64())
}

/// The last time that was written, so that time goes on where it was.
pub(super) fn last_time(tx: &dyn View) -> Result<u64, StoreError> {
    number(tx, TIME)
}

/// How many transactions a view has seen.
pub(super) fn commits(tx: &dyn View) -> Result<u64, StoreError> {
    number(tx, COMMITS)
}

/// The state of a message: as it was written, or what can be known of it.
pub(super) fn state_of(tx: &dyn View, id: RequestId) -> Result<Option<State>, StoreError> {
    let key = id_key(id);
    let Some(sealed) = tx.get(Table::States, &key)? else { return Ok(None) };
    let value = unseal(Table::States, &key, &sealed);
    match value.and_then(|value| State::decode(value).ok()) {
        Some(state) => Ok(Some(state)),
        None => rescue::state(tx, id, &sealed),
    }
}

/// When a message was appended: as its state says, or its id, which costs no search.
pub(super) fn enqueued_ms(tx: &dyn View, id: RequestId) -> Result<u64, StoreError> {
    let key = id_key(id);
    let Some(sealed) = tx.get(Table::States, &key)? else { return Ok(u64::MAX) };
    let value = unseal(Table::States, &key, &sealed);
    let state = value.and_then(|value| State::decode(value).ok());
    Ok(state.map_or_else(|| rescue::made_ms(id), |state| state.enqueued))
}

/// The body of a message, and whether it is what was appended.
pub(super) fn body_of(
    tx: &dyn View,
    id: RequestId,
    state: &State,
) -> Result<(Vec<u8>, bool), StoreError> {
    let key = id_key(id);
    let body = tx.get(Table::Bodies, &key)?.unwrap_or_default();
    let is_whole = !state.is_damaged && digest(Table::Bodies, &key, &body) == state.body_digest;
    if !is_whole && !state.is_damaged {
        damage::tell(Store::Queues, &format!("the body of the message {id}"));
    }
    Ok((body, is_whole))
}

/// What a lost lease costs: the first one nothing, more than one ever more. Up to half as long again, by the
/// id: those that were lost together do not come back together.
pub(super) fn lost_delay(lost: u32, id: RequestId) -> u64 {
    match lost {
        0 | 1 => 0,
        lost => {
            let whole = ms(Duration::from_secs(1 << (lost - 2).min(16)).min(LOST_DELAY_MAX));
            whole + whole / 2 * (id.as_u128() as u64 % 1_024) / 1_024
        }
    }
}

impl Engine {
    /// Reads the numbers.
    pub(super) fn load(tx: &dyn View) -> Result<Self, StoreError> {
        let mut engine = Self {
            next_queue: u32::try_from(number(tx, NEXT_QUEUE)?).unwrap_or(u32::MAX),
            outcomes: number(tx, OUTCOMES)?,
            outcome_bytes: number(tx, OUTCOME_BYTES)?,
            commits: commits(tx)?,
            ..Self::default()
        };
        for (name, value) in tx.range(Table::Queues, &[], &[0xff; 1], usize::MAX)? {
            let mut reader = Reader(read(Table::Queues, &name, &value)?);
            let queue = Queue {
                id: reader.u32()?,
                paused: reader.u8()? != 0,
                count: reader.u64()?,
                bytes: reader.u64()?,
                leased: reader.u64()?,
                retrying: reader.u64()?,
                ..Queue::default()
            };
            let name = String::from_utf8(name);
            let name = name.map_err(|e| damaged(&format!("a queue's name: {e}")))?;
            engine.names.insert(queue.id, name.clone());
            engine.touched.insert(name.clone());
            engine.queues.insert(name, queue);
        }
        Ok(engine)
    }

    /// The numbers of all queues, to be shown of a view.
    pub(super) fn shown(&self, tx: &dyn View) -> Result<Vec<(String, Shown)>, StoreError> {
        let all = self.queues.iter();
        all.map(|(name, queue)| Ok((name.clone(), Shown::of(queue, tx)?))).collect()
    }

    /// Whether a queue's numbers have changed.
    pub(super) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Gives back what was leased when the last process ended: those leases are lost.
    pub(super) fn recover(&mut self, tx: &mut dyn Tx, now: u64) -> Result<(), StoreError> {
        for name in self.queues.keys().cloned().collect::<Vec<_>>() {
            while self.reclaim(&name, tx, now, u64::MAX)? > 0 {}
        }
        Ok(())
    }

    fn queue(&mut self, name: &str) -> &mut Queue {
        self.touched.insert(name.to_owned());
        let (next, names) = (&mut self.next_queue, &mut self.names);
        self.queues.entry(name.to_owned()).or_insert_with(|| {
            let id = *next;
            *next += 1;
            names.insert(id, name.to_owned());
            Queue { id, ..Queue::default() }
        })
    }

    fn name(&self, id: u32) -> Result<String, StoreError> {
        let name = self.names.get(&id).cloned();
        name.ok_or_else(|| damaged(&format!("there is no queue {id}")))
    }

    /// Keeps a message.
    pub(super) fn append(
        &mut self,
        new: &NewMessage,
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<Result<Appended, QueueError>, StoreError> {
        let bytes = (new.body.len() + new.attributes.len() + new.note.len()) as u64;
        // Not touched before it is changed: a refusal costs no commit.
        let queue = match self.queues.get(&new.queue) {
            Some(queue) => queue.clone(),
            None => self.queue(&new.queue).clone(),
        };
        let key = new.dedup.as_ref().map(|dedup| dedup_key(&new.queue, &dedup.key));
        if let Some(key) = &key
            && let Some(known) = tx.get(Table::Keys, key)?
        {
            // A damaged one is none: what comes twice runs twice, and nothing is lost.
            let known = unseal(Table::Keys, key, &known).unwrap_or(&[0; 24]);
            let mut reader = Reader(known);
            let (id, expires) = (reader.id()?, reader.u64()?);
            if expires > now {
                return Ok(Ok(Appended::Duplicate(id)));
            }
            forget_key(tx, key, expires)?;
        }
        let full = |what, limit, value| {
            let queue = new.queue.clone();
            Ok(Err(QueueError::Full { queue, what, limit, value }))
        };
        if queue.count >= new.caps.count {
            return full("count", new.caps.count, queue.count);
        }
        if queue.bytes.saturating_add(bytes) > new.caps.bytes {
            return full("bytes", new.caps.bytes, queue.bytes);
        }
        let state = State {
            queue: queue.id,
            class: if new.delay.is_zero() { WAITING } else { RETRYING },
            due: now.saturating_add(ms(new.delay)),
            enqueued: now,
            expires: now.saturating_add(ms(new.lifetime)),
            attempts: 0,
            lost: 0,
            bytes,
            is_damaged: new.is_damaged,
            body_digest: digest(Table::Bodies, &id_key(new.id), &new.body),
            attributes: new.attributes.clone(),
            note: new.note.clone(),
        };
        insert(tx, new.id, &state, &new.body)?;
        if let (Some(key), Some(dedup)) = (&key, &new.dedup) {
            let expires = now.saturating_add(ms(dedup.window));
            let value = [&id_key(new.id)[..], &expires.to_be_bytes()].concat();
            tx.put(Table::Keys, key, &seal(Table::Keys, key, value))?;
            tx.put(Table::KeyEnds, &[&expires.to_be_bytes()[..], key].concat(), &[])?;
        }
        let queue = self.queue(&new.queue);
        queue.count += 1;
        queue.bytes += bytes;
        queue.enters(state.class);
        self.has_news = true;
        Ok(Ok(Appended::Kept(new.id)))
    }

    /// Leases what is wanted.
    pub(super) fn lease(
        &mut self,
        orders: &[LeaseOrder],
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<Vec<Message>, StoreError> {
        let mut leased = Vec::new();
        for order in orders {
            leased.append(&mut self.lease_of(order, tx, now)?);
        }
        Ok(leased)
    }

    /// Leases what is wanted of one queue.
    fn lease_of(
        &mut self,
        order: &LeaseOrder,
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<Vec<Message>, StoreError> {
        self.reclaim(&order.queue, tx, now, now)?;
        let Some(queue) = self.queues.get(&order.queue).cloned() else { return Ok(Vec::new()) };
        let max = order.max as usize;
        let picked = match order.pick {
            Pick::Due if queue.paused => Vec::new(),
            Pick::Due => due(&queue, tx, now, max)?,
            Pick::Expired => {
                let over = members(&queue, tx, now, max)?;
                over.into_iter().map(|(id, state)| (id, state.entry(id))).collect()
            }
        };
        let mut leased = Vec::with_capacity(picked.len());
        let mut bytes = 0u64;
        for (id, key) in picked {
            let Some(mut state) = scheduled(tx, id, &key)? else { continue };
            bytes = bytes.saturating_add(state.bytes);
            if bytes > order.bytes && !leased.is_empty() {
                break;
            }
            // What is expired is not run.
            let is_suspect = state.class == SUSPECT && order.pick == Pick::Due;
            let (body, is_whole) = body_of(tx, id, &state)?;
            state.is_damaged |= !is_whole;
            state.attempts = state.attempts.saturating_add(1);
            let until = now.saturating_add(ms(order.visibility));
            self.reschedule(&order.queue, tx, id, &mut state, (LEASED, until))?;
            let queue = self.queue(&order.queue);
            queue.turn = queue.turn.wrapping_add(1);
            if is_suspect {
                queue.suspects.insert(id.as_u128(), state.lost);
            }
            leased.push(message(id, &order.queue, state, body));
        }
        Ok(leased)
    }

    /// Gives back leases that are over by `until`, some at a time.
    fn reclaim(
        &mut self,
        name: &str,
        tx: &mut dyn Tx,
        now: u64,
        until: u64,
    ) -> Result<usize, StoreError> {
        let Some(queue) = self.queues.get(name).filter(|queue| queue.leased > 0) else {
            return Ok(0);
        };
        let from = schedule_key(queue.id, LEASED, 0, 0);
        let to = schedule_key(queue.id, LEASED, until, u128::MAX);
        let over = tx.range(Table::Schedule, &from, &to, 256)?;
        for (key, _) in &over {
            let (_, id) = schedule_parts(key)?;
            let Some(mut state) = scheduled(tx, id, key)? else { continue };
            state.lost = state.lost.saturating_add(1);
            let due = now.saturating_add(lost_delay(state.lost, id));
            self.reschedule(name, tx, id, &mut state, (SUSPECT, due))?;
        }
        self.has_news |= !over.is_empty();
        Ok(over.len())
    }

    /// Ends a lease.
    pub(super) fn settle(
        &mut self,
        settlement: &Settlement,
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<Settled, StoreError> {
        let id = settlement.id;
        let Some(mut state) = state_of(tx, id)? else { return Ok(Settled::Stale) };
        let current = state.class == LEASED && state.attempts == settlement.attempt;
        let name = self.name(state.queue)?;
        match &settlement.verdict {
            Verdict::Done { outcome, sends, fallback } => {
                // A message in a queue where it goes on after its end is another one.
                if settlement.attempt == 0 || settlement.attempt > state.attempts {
                    return Ok(Settled::Stale);
                }
                self.remove(id, &state, &name, tx)?;
                self.end(id, outcome, tx, now)?;
                let mut refused = Vec::new();
                for (at, send) in sends.iter().enumerate() {
                    if let Err(error) = self.append(send, tx, now)? {
                        refused.push((at, error.to_string()));
                    }
                }
                if let Some(letter) = fallback.as_deref().filter(|_| refused.len() == sends.len())
                    && let Err(error) = self.append(letter, tx, now)?
                {
                    refused.push((sends.len(), error.to_string()));
                }
                return Ok(Settled::Done(refused));
            }
            _ if !current => return Ok(Settled::Stale),
            Verdict::Retry { after, note } => {
                state.note = note.clone();
                let due = now.saturating_add(ms(*after));
                self.reschedule(&name, tx, id, &mut state, (RETRYING, due))?;
            }
            Verdict::Release => {
                state.attempts -= 1;
                let tried = state.attempts > 0;
                let class = if tried { RETRYING } else { WAITING };
                let due = if tried { now } else { state.enqueued.min(now) };
                self.reschedule(&name, tx, id, &mut state, (class, due))?;
            }
        }
        self.has_news = true;
        Ok(Settled::Done(Vec::new()))
    }

    /// Moves a message in the schedule, and writes its state.
    fn reschedule(
        &mut self,
        name: &str,
        tx: &mut dyn Tx,
        id: RequestId,
        state: &mut State,
        (class, due): (u8, u64),
    ) -> Result<(), StoreError> {
        let number = id.as_u128();
        tx.remove(Table::Schedule, &schedule_key(state.queue, state.class, state.due, number))?;
        let queue = self.queue(name);
        queue.leaves(state.class);
        queue.enters(class);
        queue.suspects.remove(&id.as_u128());
        (state.class, state.due) = (class, due);
        tx.put(Table::Schedule, &schedule_key(state.queue, class, due, number), &[])?;
        put_state(tx, id, state)
    }

    pub(super) fn remove(
        &mut self,
        id: RequestId,
        state: &State,
        name: &str,
        tx: &mut dyn Tx,
    ) -> Result<(), StoreError> {
        let number = id.as_u128();
        let schedule = schedule_key(state.queue, state.class, state.due, number);
        tx.remove(Table::Schedule, &schedule)?;
        tx.remove(Table::Members, &member_key(state.queue, state.expires, number))?;
        tx.remove(Table::States, &id_key(id))?;
        tx.remove(Table::Bodies, &id_key(id))?;
        let queue = self.queue(name);
        queue.count = queue.count.saturating_sub(1);
        queue.bytes = queue.bytes.saturating_sub(state.bytes);
        queue.leaves(state.class);
        queue.suspects.remove(&id.as_u128());
        Ok(())
    }

    /// Writes an outcome, when there is none.
    pub(super) fn end(
        &mut self,
        id: RequestId,
        outcome: &[u8],
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<(), StoreError> {
        if tx.get(Table::Outcomes, &id_key(id))?.is_some() {
            return Ok(());
        }
        let value = [&now.to_be_bytes()[..], outcome].concat();
        let value = seal(Table::Outcomes, &id_key(id), value);
        tx.put(Table::Outcomes, &id_key(id), &value)?;
        tx.put(Table::Ended, &ended_key(now, id.as_u128()), &[])?;
        self.outcomes += 1;
        self.outcome_bytes += value.len() as u64;
        Ok(())
    }

    /// Stops or lets go of a queue.
    pub(super) fn pause(&mut self, name: &str, paused: bool) {
        self.queue(name).paused = paused;
        self.has_news |= !paused;
    }

    /// Writes the numbers of what has changed, and returns what is to be shown of it.
    pub(super) fn flush(
        &mut self,
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<Vec<(String, Option<Shown>)>, StoreError> {
        let mut shown = Vec::with_capacity(self.touched.len());
        for name in std::mem::take(&mut self.touched) {
            let Some(queue) = self.queues.get(&name) else {
                shown.push((name, None));
                continue;
            };
            let mut value = queue.id.to_be_bytes().to_vec();
            value.push(u8::from(queue.paused));
            for number in [queue.count, queue.bytes, queue.leased, queue.retrying] {
                value.extend(number.to_be_bytes());
            }
            let value = seal(Table::Queues, name.as_bytes(), value);
            tx.put(Table::Queues, name.as_bytes(), &value)?;
            shown.push((name, Some(Shown::of(queue, tx)?)));
        }
        self.commits += 1;
        let numbers = [
            (NEXT_QUEUE, u64::from(self.next_queue)),
            (OUTCOMES, self.outcomes),
            (OUTCOME_BYTES, self.outcome_bytes),
            (TIME, now),
            (COMMITS, self.commits),
        ];
        for (name, number) in numbers {
            tx.put(Table::Meta, name, &seal(Table::Meta, name, number.to_be_bytes().to_vec()))?;
        }
        Ok(shown)
    }
}

/// By name: a queue may be forgotten, and made again, within a key's window.
fn dedup_key(queue: &str, key: &str) -> [u8; 32] {
    *Digest::of(format!("{queue}\0{key}").as_bytes()).bytes()
}

pub(super) fn forget_key(tx: &mut dyn Tx, key: &[u8], expires: u64) -> Result<(), StoreError> {
    tx.remove(Table::Keys, key)?;
    tx.remove(Table::KeyEnds, &[&expires.to_be_bytes()[..], key].concat())
}

fn put_state(tx: &mut dyn Tx, id: RequestId, state: &State) -> Result<(), StoreError> {
    let key = id_key(id);
    tx.put(Table::States, &key, &seal(Table::States, &key, state.encode()))
}

fn insert(tx: &mut dyn Tx, id: RequestId, state: &State, body: &[u8]) -> Result<(), StoreError> {
    let number = id.as_u128();
    put_state(tx, id, state)?;
    tx.put(Table::Bodies, &id_key(id), body)?;
    tx.put(Table::Schedule, &schedule_key(state.queue, state.class, state.due, number), &[])?;
    tx.put(Table::Members, &member_key(state.queue, state.expires, number), &[])
}

pub(super) fn message(id: RequestId, queue: &str, state: State, body: Vec<u8>) -> Message {
    Message {
        id,
        queue: queue.to_owned(),
        standing: state.standing(),
        attempt: state.attempts,
        lost: state.lost,
        enqueued_ms: state.enqueued,
        due_ms: state.due,
        expires_ms: state.expires,
        attributes: state.attributes,
        note: state.note,
        is_damaged: state.is_damaged,
        body_bytes: body.len() as u64,
        body: body.into(),
    }
}
