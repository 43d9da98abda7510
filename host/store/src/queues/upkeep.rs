//! What is done to many messages at once: purging, moving, forgetting.

use bytes::Bytes;
use wambda_model::RequestId;

use super::engine::{Engine, Queue, body_of, forget_key, ms, state_of};
use super::pick::members;
use super::tables::{LEASED, Reader, State, Table, Tx, View, id_key};
use super::{Keep, NewMessage, QueueError, Redrive};
use crate::StoreError;

/// Old and new ids.
pub(super) type Redriven = Vec<(RequestId, RequestId)>;

impl Engine {
    /// Removes messages that nobody has leased.
    pub(super) fn purge(
        &mut self,
        name: &str,
        outcome: Option<&Bytes>,
        limit: usize,
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<usize, StoreError> {
        self.drop_members(name, u64::MAX, outcome, limit, tx, now)
    }

    fn drop_members(
        &mut self,
        name: &str,
        until: u64,
        outcome: Option<&Bytes>,
        limit: usize,
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<usize, StoreError> {
        let mut dropped = 0;
        for (id, state) in self.members(name, until, limit, tx)? {
            self.remove(id, &state, name, tx)?;
            if let Some(outcome) = outcome {
                self.end(id, outcome, tx, now)?;
            }
            dropped += 1;
        }
        Ok(dropped)
    }

    fn members(
        &self,
        name: &str,
        until: u64,
        limit: usize,
        tx: &dyn View,
    ) -> Result<Vec<(RequestId, State)>, StoreError> {
        self.queues.get(name).map_or(Ok(Vec::new()), |queue| members(queue, tx, until, limit))
    }

    /// Moves messages to another queue.
    pub(super) fn redrive(
        &mut self,
        order: &Redrive,
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<Result<Redriven, QueueError>, StoreError> {
        let Some(from) = self.queues.get(&order.from).map(|queue| queue.id) else {
            return Ok(Ok(Vec::new()));
        };
        let found = match &order.ids {
            None => self.members(&order.from, u64::MAX, order.limit, tx)?,
            Some(ids) => {
                let mut found = Vec::new();
                for id in ids.iter().take(order.limit) {
                    let state = state_of(tx, *id)?;
                    let movable = |s: &State| s.queue == from && s.class != LEASED;
                    found.extend(state.filter(movable).map(|state| (*id, state)));
                }
                found
            }
        };
        let mut moved = Vec::with_capacity(found.len());
        for (at, (id, state)) in found.into_iter().enumerate() {
            let spread = order.spacing.saturating_mul(u32::try_from(at).unwrap_or(u32::MAX));
            let (body, is_whole) = body_of(tx, id, &state)?;
            if !is_whole {
                // It stays where it is: it would run.
                continue;
            }
            let new = NewMessage {
                id: RequestId::ordered(now),
                queue: order.to.clone(),
                body: body.into(),
                attributes: state.attributes.clone(),
                note: Bytes::new(),
                delay: order.delay.saturating_add(spread),
                lifetime: order.lifetime.saturating_add(spread),
                is_damaged: false,
                dedup: None,
                caps: order.caps,
            };
            match self.append(&new, tx, now)? {
                Ok(_) => {}
                Err(error) if moved.is_empty() => return Ok(Err(error)),
                // What fits has moved; whoever asks for the rest is told.
                Err(_) => break,
            }
            self.remove(id, &state, &order.from, tx)?;
            moved.push((id, new.id));
        }
        Ok(Ok(moved))
    }

    /// Forgets what is too old, or too much.
    pub(super) fn sweep(
        &mut self,
        keep: &Keep,
        tx: &mut dyn Tx,
        now: u64,
    ) -> Result<usize, StoreError> {
        let mut removed = 0;
        for name in &keep.trim {
            let limit = keep.limit.saturating_sub(removed);
            removed += self.drop_members(name, now, None, limit, tx, now)?;
        }
        let oldest = now.saturating_sub(ms(keep.outcome_age));
        let limit = keep.limit.saturating_sub(removed);
        for (key, _) in tx.range(Table::Ended, &[], &[0xff; 24], limit)? {
            let mut reader = Reader(&key);
            let (ended, id) = (reader.u64()?, reader.id()?);
            let fits = self.outcomes <= keep.outcomes && self.outcome_bytes <= keep.outcome_bytes;
            if fits && ended >= oldest {
                break;
            }
            let value = tx.get(Table::Outcomes, &id_key(id))?.unwrap_or_default();
            tx.remove(Table::Outcomes, &id_key(id))?;
            tx.remove(Table::Ended, &key)?;
            self.outcomes = self.outcomes.saturating_sub(1);
            self.outcome_bytes = self.outcome_bytes.saturating_sub(value.len() as u64);
            removed += 1;
        }
        let limit = keep.limit.saturating_sub(removed);
        for (end, _) in tx.range(Table::KeyEnds, &[], &now.to_be_bytes(), limit)? {
            if let Some((expires, key)) = end.split_first_chunk::<8>() {
                forget_key(tx, key, u64::from_be_bytes(*expires))?;
                removed += 1;
            }
        }
        self.forget_queues(tx)?;
        Ok(removed)
    }

    /// Queues with nothing in them and nothing to remember.
    fn forget_queues(&mut self, tx: &mut dyn Tx) -> Result<(), StoreError> {
        let idle = |queue: &Queue| queue.count == 0 && !queue.paused;
        let gone: Vec<String> =
            self.queues.iter().filter(|(_, q)| idle(q)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            tx.remove(Table::Queues, name.as_bytes())?;
            if let Some(queue) = self.queues.remove(&name) {
                self.names.remove(&queue.id);
            }
            self.touched.insert(name);
        }
        Ok(())
    }
}
