//! Which messages a lease takes, and which have expired.

use wambda_model::RequestId;

use super::engine::{Queue, ms, state_of};
use super::tables::{
    LEASED, RETRYING, SUSPECT, State, Table, View, WAITING, member_key, member_parts, schedule_key,
    schedule_parts,
};
use super::{FRESH_AGE, FRESH_OF};
use crate::StoreError;

/// Messages that have lost one worker each and are leased together, at most.
const SUSPECTS_MAX: usize = 32;

/// Whether messages that have lost so many workers each may be leased together: a group of those that lost
/// one, a small one of those that lost two, and any other alone. Whatever kills its worker is alone at its
/// fourth attempt, and its neighbours have lost three then, and live.
pub(super) fn may_be_together(lost: &[u32]) -> bool {
    let most = match lost.iter().max() {
        None | Some(0 | 1) => SUSPECTS_MAX,
        Some(2) => 4,
        Some(_) => 1,
    };
    lost.len() <= most
}

/// An entry of the schedule: the message, and the entry's key.
pub(super) type Entry = (RequestId, Vec<u8>);

/// Messages whose time has come: fresh ones first, and of every [`FRESH_OF`] one that is not, counted over
/// all leases of the queue. Of those that have lost a worker a few, see [`may_be_together`].
pub(super) fn due(
    queue: &Queue,
    tx: &dyn View,
    now: u64,
    max: usize,
) -> Result<Vec<Entry>, StoreError> {
    let fresh_from = now.saturating_sub(ms(FRESH_AGE));
    let scan = |class, from, to, max| -> Result<Vec<(u64, Entry)>, StoreError> {
        let (from, to) =
            (schedule_key(queue.id, class, from, 0), schedule_key(queue.id, class, to, 0));
        let found = tx.range(Table::Schedule, &from, &to, max)?;
        let entry = |(key, _): (Vec<u8>, _)| {
            let (due, id) = schedule_parts(&key)?;
            Ok((due, (id, key)))
        };
        found.into_iter().map(entry).collect()
    };
    let next = now.saturating_add(1);
    let fresh = scan(WAITING, fresh_from, next, max)?;
    let mut aged = scan(WAITING, 0, fresh_from, max)?;
    aged.extend(scan(RETRYING, 0, next, max)?);
    let mut leased: Vec<u32> = queue.suspects.values().copied().collect();
    for (due, entry) in scan(SUSPECT, 0, next, max.min(SUSPECTS_MAX))? {
        leased.push(state_of(tx, entry.0)?.map_or(u32::MAX, |state| state.lost));
        if !may_be_together(&leased) {
            break;
        }
        aged.push((due, entry));
    }
    aged.sort_unstable_by_key(|(due, (id, _))| (*due, id.as_u128()));
    let (mut fresh, mut aged) = (fresh.into_iter(), aged.into_iter());
    let mut picked = Vec::with_capacity(max);
    for taken in 1..=max as u64 {
        let old_first = queue.turn.wrapping_add(taken).is_multiple_of(u64::from(FRESH_OF));
        let one = if old_first {
            aged.next().or_else(|| fresh.next())
        } else {
            fresh.next().or_else(|| aged.next())
        };
        let Some((_, entry)) = one else { break };
        picked.push(entry);
    }
    Ok(picked)
}

/// Messages that are not leased and whose lifetime ends by `until`.
pub(super) fn members(
    queue: &Queue,
    tx: &dyn View,
    until: u64,
    max: usize,
) -> Result<Vec<(RequestId, State)>, StoreError> {
    let (from, to) = (member_key(queue.id, 0, 0), member_key(queue.id, until, u128::MAX));
    // Those that are leased are in between, and not many.
    let leased = usize::try_from(queue.leased).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for (key, _) in tx.range(Table::Members, &from, &to, max.saturating_add(leased))? {
        let (_, id) = member_parts(&key)?;
        if let Some(state) = state_of(tx, id)?.filter(|state| state.class != LEASED) {
            found.push((id, state));
        }
    }
    found.truncate(max);
    Ok(found)
}
