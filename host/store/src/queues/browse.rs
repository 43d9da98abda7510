//! Looking into the queues without taking anything.

use bytes::Bytes;
use wambda_model::RequestId;

use super::engine::{body_of, message, state_of};
use super::tables::{
    Reader, State, Table, View, damaged, id_key, look_up, member_key, member_parts, read,
};
use super::{Found, Message, PEEK_BODY_MAX};
use crate::StoreError;
use crate::damage::{self, Store};

fn queue_name(tx: &dyn View, id: u32) -> Result<String, StoreError> {
    for (name, value) in tx.range(Table::Queues, &[], &[0xff; 1], usize::MAX)? {
        if Reader(read(Table::Queues, &name, &value)?).u32()? == id {
            return Ok(String::from_utf8_lossy(&name).into_owned());
        }
    }
    Err(damaged(&format!("there is no queue {id}")))
}

/// The outcome of an id, with the time before it.
fn outcome_of(tx: &dyn View, id: RequestId) -> Result<Option<Vec<u8>>, StoreError> {
    let outcome = look_up(tx, Table::Outcomes, &id_key(id));
    outcome.inspect_err(|_| damage::tell(Store::Queues, &format!("the outcome of {id}")))
}

/// A state that knows of its body, and that.
fn with_body(
    tx: &dyn View,
    id: RequestId,
    mut state: State,
) -> Result<(State, Vec<u8>), StoreError> {
    let (body, is_whole) = body_of(tx, id, &state)?;
    state.is_damaged |= !is_whole;
    Ok((state, body))
}

/// What is known of an id.
pub(super) fn find(tx: &dyn View, id: RequestId) -> Result<Option<Found>, StoreError> {
    if let Some(value) = outcome_of(tx, id)? {
        let mut reader = Reader(&value);
        let ended_ms = reader.u64()?;
        return Ok(Some(Found::Ended { ended_ms, outcome: Bytes::copy_from_slice(reader.0) }));
    }
    let Some(state) = state_of(tx, id)? else { return Ok(None) };
    let (state, body) = with_body(tx, id, state)?;
    let queue = queue_name(tx, state.queue)?;
    Ok(Some(Found::Message(Box::new(message(id, &queue, state, body)))))
}

/// Messages after that place, those first whose lifetime ends first.
pub(super) fn peek(
    tx: &dyn View,
    name: &str,
    after: Option<(u64, RequestId)>,
    limit: usize,
) -> Result<Vec<Message>, StoreError> {
    let value = look_up(tx, Table::Queues, name.as_bytes())?;
    let Some(value) = value else { return Ok(Vec::new()) };
    let queue = Reader(&value).u32()?;
    let (expires, id) = after.map_or((0, 0), |(at, id)| (at, id.as_u128().saturating_add(1)));
    let from = member_key(queue, expires, id);
    let to = member_key(queue, u64::MAX, u128::MAX);
    let mut found = Vec::new();
    for (key, _) in tx.range(Table::Members, &from, &to, limit)? {
        let (_, id) = member_parts(&key)?;
        if let Some(state) = state_of(tx, id)? {
            let (state, body) = with_body(tx, id, state)?;
            let mut message = message(id, name, state, body);
            if message.body.len() > PEEK_BODY_MAX {
                // A copy: the rest of it is given back.
                let shown = message.body.get(..PEEK_BODY_MAX).unwrap_or_default();
                message.body = Bytes::copy_from_slice(shown);
            }
            found.push(message);
        }
    }
    Ok(found)
}
