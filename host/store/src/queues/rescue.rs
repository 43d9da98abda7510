//! What can be known of a message whose state is damaged: the other tables tell where it is, and it ends
//! as a dead letter. It neither runs nor holds up its queue.

use bytes::Bytes;
use wambda_model::RequestId;

use super::engine::state_of;
use super::tables::{
    Reader, State, Table, Tx, View, id_key, member_parts, schedule_key, schedule_parts,
};
use crate::StoreError;
use crate::damage::{self, Store};

/// Entries of one read.
const PAGE: usize = 1_000;

/// When an id was made, in milliseconds since the Unix epoch (RFC 9562, version 7).
pub(super) fn made_ms(id: RequestId) -> u64 {
    (id.as_u128() >> 80) as u64
}

/// The first entry of a range that is wanted.
fn search<T>(
    tx: &dyn View,
    (table, from, to): (Table, Vec<u8>, Vec<u8>),
    wanted: impl Fn(&[u8]) -> Result<Option<T>, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut from = from;
    loop {
        let page = tx.range(table, &from, &to, PAGE)?;
        for (key, _) in &page {
            if let Some(found) = wanted(key)? {
                return Ok(Some(found));
            }
        }
        let Some((last, _)) = page.last() else { return Ok(None) };
        // The least key that is greater.
        from = [&last[..], &[0]].concat();
    }
}

/// The state of a message that an entry of the schedule names. Keys have no digest: an entry that is
/// not the message's own was damaged. It is removed, so that no other queue's lease takes the message
/// and nothing meets the entry again; none then.
pub(super) fn scheduled(
    tx: &mut dyn Tx,
    id: RequestId,
    key: &[u8],
) -> Result<Option<State>, StoreError> {
    let found = match state_of(tx, id)? {
        Some(found) => Some(found),
        // Its state is gone, or under another key.
        None => state(tx, id, &[])?,
    };
    let own = found.as_ref().map(|state| state.entry(id));
    if own.as_deref() == Some(key) {
        return Ok(found);
    }
    damage::tell(Store::Queues, &format!("an entry of the schedule with the message {id}"));
    tx.remove(Table::Schedule, key)?;
    if let Some(own) = own {
        tx.put(Table::Schedule, &own, &[])?;
    }
    Ok(None)
}

/// The state of a message as the other tables have it, marked as damaged; none when they do not name it.
/// Takes time in proportion to what waits: damage is rare.
pub(super) fn state(
    tx: &dyn View,
    id: RequestId,
    damaged: &[u8],
) -> Result<Option<State>, StoreError> {
    damage::tell(Store::Queues, &format!("the state of the message {id}"));
    let is_it = |found: RequestId| found == id;
    let everything = (Table::Members, Vec::new(), vec![0xff; 28]);
    let member = search(tx, everything, |key| {
        let (expires, found) = member_parts(key)?;
        let queue = Reader(key).u32()?;
        Ok(is_it(found).then_some((queue, expires)))
    })?;
    let Some((queue, expires)) = member else { return Ok(None) };
    let (from, to) =
        (schedule_key(queue, 0, 0, 0), schedule_key(queue, u8::MAX, u64::MAX, u128::MAX));
    let place = search(tx, (Table::Schedule, from, to), |key| {
        let (due, found) = schedule_parts(key)?;
        let class = key.get(4).copied().unwrap_or_default();
        Ok(is_it(found).then_some((class, due)))
    })?;
    let (class, due) = place.unwrap_or_default();
    let body = tx.get(Table::Bodies, &id_key(id))?.unwrap_or_default();
    // What it says of attempts may be wrong, and is the best that there is; what it carries is not believed.
    let said = State::decode(damaged).ok();
    let attempts = said.as_ref().map_or(1, |said| said.attempts);
    Ok(Some(State {
        queue,
        class,
        due,
        enqueued: made_ms(id),
        expires,
        attempts,
        lost: 0,
        bytes: body.len() as u64,
        is_damaged: true,
        body_digest: 0,
        attributes: said.map(|said| said.attributes).unwrap_or_default(),
        note: Bytes::new(),
    }))
}
