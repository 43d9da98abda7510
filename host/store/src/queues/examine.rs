//! Every stored value of the queues, against its digest: for `wambda doctor`.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use wambda_model::RequestId;

use super::tables::{State, Table, digest, member_key, schedule_key, unseal};
use crate::{StoreError, check};

/// How many values are whole, and which are not, and why.
pub(crate) type Examined = (usize, Vec<(String, String)>);

fn failed(error: impl Into<redb::Error>) -> StoreError {
    error.into().into()
}

fn id_of(key: &[u8]) -> String {
    let number = key.try_into().map(u128::from_be_bytes);
    number.map_or_else(|_| key.escape_ascii().to_string(), |n| RequestId::from_u128(n).to_string())
}

/// Looks at all of it.
pub(crate) fn database(database: &Database) -> Result<Examined, StoreError> {
    let there = check::tables(database)?;
    let read = database.begin_read().map_err(failed)?;
    let open = |table: Table| {
        let definition = TableDefinition::<&[u8], &[u8]>::new(table.name());
        read.open_table(definition).map_err(failed)
    };
    let (mut whole, mut damaged) = (0, Vec::new());
    for table in Table::ALL.into_iter().filter(|table| table.is_sealed()) {
        // An older version's file has not got it yet: its values have no digests.
        if !there.iter().any(|name| name == table.name()) {
            continue;
        }
        for entry in open(table)?.iter().map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            let (key, value) = (key.value(), value.value());
            let name = || format!("{} in {}", id_of(key), table.name());
            let Some(value) = unseal(table, key, value) else {
                damaged.push((name(), "it has another digest than was written".to_owned()));
                continue;
            };
            if table == Table::States {
                let state = State::decode(value)?;
                let number = key.try_into().map_or(0, u128::from_be_bytes);
                let body = open(Table::Bodies)?.get(key).map_err(failed)?;
                let body = body.as_ref().map_or(&[][..], |body| body.value());
                let member = member_key(state.queue, state.expires, number);
                let place = schedule_key(state.queue, state.class, state.due, number);
                let is_listed = open(Table::Members)?.get(&member[..]).map_err(failed)?.is_some()
                    && open(Table::Schedule)?.get(&place[..]).map_err(failed)?.is_some();
                let why = match is_listed {
                    _ if state.is_damaged => "it was found damaged before",
                    _ if digest(Table::Bodies, key, body) != state.body_digest => {
                        "its body has another digest than was written"
                    }
                    false => "its queue does not list it",
                    true => {
                        whole += 1;
                        continue;
                    }
                };
                damaged.push((name(), why.to_owned()));
            } else if table == Table::Outcomes {
                whole += 1;
            }
        }
    }
    if there.iter().any(|name| name == Table::States.name()) {
        damaged.extend(strays(&open)?);
    }
    Ok((whole, damaged))
}

/// Entries of other tables that no state has, or has otherwise: keys have no digest.
fn strays(
    open: &impl Fn(Table) -> Result<redb::ReadOnlyTable<&'static [u8], &'static [u8]>, StoreError>,
) -> Result<Vec<(String, String)>, StoreError> {
    let states = open(Table::States)?;
    let mut found = Vec::new();
    for table in [Table::Schedule, Table::Members, Table::Bodies] {
        for entry in open(table)?.iter().map_err(failed)? {
            let (key, _) = entry.map_err(failed)?;
            let key = key.value();
            let id = key.get(key.len().saturating_sub(16)..).unwrap_or_default();
            let sealed = states.get(id).map_err(failed)?;
            let state = sealed.as_ref().map(|sealed| unseal(Table::States, id, sealed.value()));
            let number = id.try_into().map_or(0, u128::from_be_bytes);
            let is_its_own = match state.map(|value| value.map(State::decode)) {
                None => false,
                Some(Some(Ok(state))) if table == Table::Schedule => {
                    schedule_key(state.queue, state.class, state.due, number) == key
                }
                Some(Some(Ok(state))) if table == Table::Members => {
                    member_key(state.queue, state.expires, number) == key
                }
                // Bodies have no other key; a damaged state is told already.
                _ => true,
            };
            if !is_its_own {
                let place = format!("{} in {}", id_of(id), table.name());
                found.push((place, "no message has this entry".to_owned()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::super::upgrade;
    use super::*;

    #[test]
    fn entries_that_no_message_has_are_told() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let write = database.begin_write().unwrap();
        upgrade::run(&write).unwrap();
        for table in Table::ALL {
            let definition = TableDefinition::<&[u8], &[u8]>::new(table.name());
            let mut table_there = write.open_table(definition).unwrap();
            let id = 7u128;
            match table {
                Table::Schedule => {
                    table_there.insert(&schedule_key(1, 0, 2, id)[..], &b""[..]).unwrap();
                }
                Table::Members => {
                    table_there.insert(&member_key(1, 3, id)[..], &b""[..]).unwrap();
                }
                Table::Bodies => drop(table_there.insert(&id.to_be_bytes()[..], &b"x"[..])),
                _ => {}
            }
        }
        write.commit().unwrap();
        let (whole, damaged) = super::database(&database).unwrap();
        assert_eq!(whole, 0);
        let places: Vec<&str> = damaged.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places.len(), 3, "{places:?}");
        for table in ["schedule.v1", "members.v1", "bodies.v1"] {
            assert!(places.iter().any(|place| place.ends_with(table)), "{places:?}");
        }
    }
}
