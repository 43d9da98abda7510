//! The tables behind the queues, their keys and values. Numbers are big-endian, so that keys sort as
//! they count.

use bytes::Bytes;
use twox_hash::XxHash3_64;
use wambda_model::RequestId;

use super::Standing;
use crate::StoreError;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// Name → id, numbers.
    Queues,
    /// Id → [`State`].
    States,
    /// Id → body.
    Bodies,
    /// Queue, class, due, id → nothing.
    Schedule,
    /// Queue, expiry, id → nothing.
    Members,
    /// Id → end, outcome.
    Outcomes,
    /// End, id → nothing.
    Ended,
    /// Digest of queue and key → id, expiry.
    Keys,
    /// Expiry, digest → nothing.
    KeyEnds,
    /// Name → number.
    Meta,
}

impl Table {
    pub(super) const ALL: [Self; 10] = [
        Self::Queues,
        Self::States,
        Self::Bodies,
        Self::Schedule,
        Self::Members,
        Self::Outcomes,
        Self::Ended,
        Self::Keys,
        Self::KeyEnds,
        Self::Meta,
    ];

    /// Whether its values carry a [`seal`]. Bodies do not: their digest is in the state, so that they are
    /// neither copied nor read twice; the others have no values.
    pub(super) fn is_sealed(self) -> bool {
        matches!(self, Self::Queues | Self::States | Self::Outcomes | Self::Keys | Self::Meta)
    }

    /// Its name in a file. The number is that of its format.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Queues => "queues.v2",
            Self::States => "states.v2",
            Self::Bodies => "bodies.v1",
            Self::Schedule => "schedule.v1",
            Self::Members => "members.v1",
            Self::Outcomes => "outcomes.v2",
            Self::Ended => "ended.v1",
            Self::Keys => "keys.v2",
            Self::KeyEnds => "key_ends.v1",
            Self::Meta => "meta.v2",
        }
    }
}

/// Bytes of a seal.
const SEAL: usize = 8;

/// XXH3 of a value of a table under a key: one that was damaged, or belongs elsewhere, has another.
pub(super) fn digest(table: Table, key: &[u8], value: &[u8]) -> u64 {
    let place = XxHash3_64::oneshot_with_seed(table as u64, key);
    XxHash3_64::oneshot_with_seed(place, value)
}

/// A value with its digest behind it.
pub(super) fn seal(table: Table, key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let digest = digest(table, key, &value);
    value.extend(digest.to_be_bytes());
    value
}

/// A sealed value without its digest; none when that is not the value's.
pub(super) fn unseal<'a>(table: Table, key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (value, found) = sealed.split_last_chunk::<SEAL>()?;
    (digest(table, key, value) == u64::from_be_bytes(*found)).then_some(value)
}

/// Reads a value of a sealed table.
pub(super) fn read<'a>(table: Table, key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], StoreError> {
    unseal(table, key, sealed).ok_or_else(|| {
        let (table, key) = (table.name(), key.escape_ascii());
        damaged(&format!("the value of {key} in {table} has another digest than was written"))
    })
}

/// Looks up a value of a sealed table.
pub(super) fn look_up(
    tx: &dyn View,
    table: Table,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(mut sealed) = tx.get(table, key)? else { return Ok(None) };
    let length = read(table, key, &sealed)?.len();
    sealed.truncate(length);
    Ok(Some(sealed))
}

/// Keys and values.
pub(super) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// A view of the tables.
pub(super) trait View {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Up to `limit` entries from `from` on and below `to`.
    fn range(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Entries, StoreError>;
}

/// A transaction: it sees its own writes.
pub(super) trait Tx: View {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError>;
}

/// Classes of the schedule.
pub(super) const WAITING: u8 = 0;
pub(super) const RETRYING: u8 = 1;
pub(super) const LEASED: u8 = 2;
/// Waits for another attempt, and has lost a worker: leased alone.
pub(super) const SUSPECT: u8 = 3;

/// What is kept of a message besides its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) queue: u32,
    pub(super) class: u8,
    pub(super) due: u64,
    pub(super) enqueued: u64,
    pub(super) expires: u64,
    pub(super) attempts: u32,
    pub(super) lost: u32,
    /// Of body, attributes and first note.
    pub(super) bytes: u64,
    /// Whether it, or its body, was found damaged: it is never run.
    pub(super) is_damaged: bool,
    /// [`digest`] of the body.
    pub(super) body_digest: u64,
    pub(super) attributes: Bytes,
    pub(super) note: Bytes,
}

pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}

/// Reads numbers off a value.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| damaged("too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        self.take(N)?.try_into().map_err(|_| damaged("too short"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, StoreError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, StoreError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, StoreError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(super) fn id(&mut self) -> Result<RequestId, StoreError> {
        Ok(RequestId::from_u128(u128::from_be_bytes(self.array()?)))
    }
}

impl State {
    /// The key of its entry in the schedule.
    pub(super) fn entry(&self, id: RequestId) -> Vec<u8> {
        schedule_key(self.queue, self.class, self.due, id.as_u128())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(70 + self.attributes.len() + self.note.len());
        out.extend(self.queue.to_be_bytes());
        out.push(self.class);
        for number in [self.due, self.enqueued, self.expires, self.bytes] {
            out.extend(number.to_be_bytes());
        }
        out.extend(self.attempts.to_be_bytes());
        out.extend(self.lost.to_be_bytes());
        out.push(u8::from(self.is_damaged));
        out.extend(self.body_digest.to_be_bytes());
        out.extend(u32::try_from(self.attributes.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&self.attributes);
        out.extend_from_slice(&self.note);
        out
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        Self::decode_as(value, true)
    }

    /// Of a file that an older version wrote, where states tell nothing of damage.
    pub(super) fn decode_v1(value: &[u8]) -> Result<Self, StoreError> {
        Self::decode_as(value, false)
    }

    fn decode_as(value: &[u8], tells_damage: bool) -> Result<Self, StoreError> {
        let mut reader = Reader(value);
        let (queue, class) = (reader.u32()?, reader.u8()?);
        let (due, enqueued, expires) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (bytes, attempts, lost) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let (is_damaged, body_digest) =
            if tells_damage { (reader.u8()? != 0, reader.u64()?) } else { (false, 0) };
        let length = reader.u32()? as usize;
        let attributes = Bytes::copy_from_slice(reader.take(length)?);
        let note = Bytes::copy_from_slice(reader.0);
        if class > SUSPECT {
            return Err(damaged("an unknown class"));
        }
        Ok(Self {
            queue,
            class,
            due,
            enqueued,
            expires,
            attempts,
            lost,
            bytes,
            is_damaged,
            body_digest,
            attributes,
            note,
        })
    }

    pub(super) fn standing(&self) -> Standing {
        match self.class {
            LEASED => Standing::Leased,
            // One that was delayed from the start is none that is tried again.
            _ if self.attempts == 0 => Standing::Waiting,
            _ => Standing::Retrying,
        }
    }
}

pub(super) fn id_key(id: RequestId) -> [u8; 16] {
    id.as_u128().to_be_bytes()
}

pub(super) fn schedule_key(queue: u32, class: u8, due: u64, id: u128) -> Vec<u8> {
    [&queue.to_be_bytes()[..], &[class], &due.to_be_bytes(), &id.to_be_bytes()].concat()
}

/// Due and id of a key of the schedule.
pub(super) fn schedule_parts(key: &[u8]) -> Result<(u64, RequestId), StoreError> {
    let mut reader = Reader(key);
    reader.take(5)?;
    Ok((reader.u64()?, reader.id()?))
}

/// Keys of members, and of ends of keys by time: two numbers and an id.
pub(super) fn member_key(queue: u32, expires: u64, id: u128) -> Vec<u8> {
    [&queue.to_be_bytes()[..], &expires.to_be_bytes(), &id.to_be_bytes()].concat()
}

/// Expiry and id of a key of the members.
pub(super) fn member_parts(key: &[u8]) -> Result<(u64, RequestId), StoreError> {
    let mut reader = Reader(key);
    reader.take(4)?;
    Ok((reader.u64()?, reader.id()?))
}

pub(super) fn ended_key(ended: u64, id: u128) -> Vec<u8> {
    [&ended.to_be_bytes()[..], &id.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_as_they_were_written_and_damage_is_seen() {
        let state = State {
            queue: 7,
            class: RETRYING,
            due: 1,
            enqueued: 2,
            expires: u64::MAX,
            attempts: 3,
            lost: 4,
            bytes: 5,
            is_damaged: true,
            body_digest: 6,
            attributes: Bytes::from_static(b"{}"),
            note: Bytes::from_static(b"note"),
        };
        let written = state.encode();
        assert_eq!(State::decode(&written).unwrap(), state);
        for length in 0..written.len() - b"note".len() {
            assert!(State::decode(&written[..length]).is_err(), "{length} bytes were taken");
        }
        let mut wrong = written;
        wrong[4] = 9;
        assert!(State::decode(&wrong).is_err());
    }

    #[test]
    fn a_seal_holds_for_one_value_in_one_place() {
        let sealed = seal(Table::States, b"key", b"value".to_vec());
        assert_eq!(unseal(Table::States, b"key", &sealed), Some(&b"value"[..]));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(Table::States, b"key", &flipped), None, "bit {bit}");
        }
        assert_eq!(unseal(Table::States, b"kez", &sealed), None);
        assert_eq!(unseal(Table::Outcomes, b"key", &sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(unseal(Table::States, b"key", &sealed[..length]), None);
        }
    }
}
