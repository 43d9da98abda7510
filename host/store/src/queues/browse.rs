//! Looking into the queues without taking anything.

use bytes::Bytes;
use wambda_model::RequestId;

use super::engine::{message, state_of};
use super::tables::{Reader, Table, View, id_key, member_key, member_parts};
use super::{Found, Message, PEEK_BODY_MAX};
use crate::StoreError;

fn queue_name(tx: &dyn View, id: u32) -> Result<String, StoreError> {
    for (name, value) in tx.range(Table::Queues, &[], &[0xff; 1], usize::MAX)? {
        if Reader(&value).u32()? == id {
            return Ok(String::from_utf8_lossy(&name).into_owned());
        }
    }
    Err(StoreError::Failed(format!("damaged: no queue {id}")))
}

/// What is known of an id.
pub(super) fn find(tx: &dyn View, id: RequestId) -> Result<Option<Found>, StoreError> {
    if let Some(value) = tx.get(Table::Outcomes, &id_key(id))? {
        let mut reader = Reader(&value);
        let ended_ms = reader.u64()?;
        return Ok(Some(Found::Ended { ended_ms, outcome: Bytes::copy_from_slice(reader.0) }));
    }
    let Some(state) = state_of(tx, id)? else { return Ok(None) };
    let body = tx.get(Table::Bodies, &id_key(id))?.unwrap_or_default();
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
    let Some(value) = tx.get(Table::Queues, name.as_bytes())? else { return Ok(Vec::new()) };
    let queue = Reader(&value).u32()?;
    let (expires, id) = after.map_or((0, 0), |(at, id)| (at, id.as_u128().saturating_add(1)));
    let from = member_key(queue, expires, id);
    let to = member_key(queue, u64::MAX, u128::MAX);
    let mut found = Vec::new();
    for (key, _) in tx.range(Table::Members, &from, &to, limit)? {
        let (_, id) = member_parts(&key)?;
        if let Some(state) = state_of(tx, id)? {
            let body = tx.get(Table::Bodies, &id_key(id))?.unwrap_or_default();
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
