//! From the form of a file that an older version wrote to this one: values get a seal, states the digest of
//! their body. It is part of the transaction that opens the file: all of it happens, or nothing.

use redb::{ReadableTable, TableDefinition, TableHandle, WriteTransaction};

use super::tables::{State, Table, digest, seal};
use crate::StoreError;

type Definition<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

fn failed(error: impl Into<redb::Error>) -> StoreError {
    error.into().into()
}

/// A table with a name of the older form and values of another type. An older version, which reads no
/// manifest, cannot open it, and so refuses the file rather than begin anew beside what is in it.
const GUARD: TableDefinition<'_, &[u8], u64> = TableDefinition::new("queues.v1");

/// The name that a table had before its values were sealed.
fn name_v1(table: Table) -> String {
    table.name().replace(".v2", ".v1")
}

/// Names of the tables that this version reads.
pub(super) fn known() -> Vec<String> {
    Table::ALL.iter().flat_map(|table| [table.name().to_owned(), name_v1(*table)]).collect()
}

/// Brings the tables of a file to this form. Returns whether there was anything to do.
pub(super) fn run(write: &WriteTransaction) -> Result<bool, StoreError> {
    let there: Vec<String> =
        write.list_tables().map_err(failed)?.map(|table| table.name().to_owned()).collect();
    let has = |name: &str| there.iter().any(|table| table == name);
    let is_guarded = has(GUARD.name()) && write.open_table(GUARD).is_ok();
    let sealed = Table::ALL.into_iter().filter(|table| table.is_sealed());
    let old: Vec<(Table, String)> = sealed
        .map(|table| (table, name_v1(table)))
        .filter(|(table, old)| has(old) && !(is_guarded && *table == Table::Queues))
        .collect();
    if !old.is_empty() && has(Table::Meta.name()) {
        return Err(StoreError::Damaged(
            "it has tables of this form and of an older one: an older version was run on it after \
             it had been brought to this form; restore a backup, or keep what the older version \
             wrote by going on with that"
                .to_owned(),
        ));
    }
    for (table, old) in &old {
        copy(write, *table, old)?;
        write.delete_table(Definition::new(old)).map_err(failed)?;
    }
    if !is_guarded {
        write.open_table(GUARD).map_err(failed)?;
    }
    Ok(!old.is_empty())
}

fn copy(write: &WriteTransaction, table: Table, old: &str) -> Result<(), StoreError> {
    let from = write.open_table(Definition::new(old)).map_err(failed)?;
    let mut to = write.open_table(Definition::new(table.name())).map_err(failed)?;
    let bodies = write.open_table(Definition::new(Table::Bodies.name())).map_err(failed)?;
    for entry in from.iter().map_err(failed)? {
        let (key, value) = entry.map_err(failed)?;
        let (key, mut value) = (key.value(), value.value().to_vec());
        if table == Table::States {
            let mut state = State::decode_v1(&value).map_err(|error| {
                error.about(format_args!("the state of {}", key.escape_ascii()))
            })?;
            let body = bodies.get(key).map_err(failed)?;
            let body = body.as_ref().map_or(&[][..], |body| body.value());
            state.body_digest = digest(Table::Bodies, key, body);
            value = state.encode();
        }
        to.insert(key, &seal(table, key, value)[..]).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use redb::Database;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::queues::tables::unseal;

    fn definition(name: &str) -> Definition<'_> {
        Definition::new(name)
    }

    #[test]
    fn what_an_older_version_wrote_is_sealed_once() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let write = database.begin_write().unwrap();
        let state = State {
            queue: 1,
            class: 0,
            due: 2,
            enqueued: 3,
            expires: 4,
            attempts: 5,
            lost: 6,
            bytes: 7,
            is_damaged: false,
            body_digest: 0,
            attributes: bytes::Bytes::from_static(b"attributes"),
            note: bytes::Bytes::from_static(b"note"),
        };
        let now = state.encode();
        // Up to the fields that the older form lacks, and from there on.
        let old = [&now[..45], &now[54..]].concat();
        let put = |name: &str, value: &[u8]| {
            write.open_table(definition(name)).unwrap().insert(&b"k"[..], value).unwrap();
        };
        put("states.v1", &old);
        put("bodies.v1", b"body");
        put("outcomes.v1", b"outcome");
        put("meta.v1", &[9; 8]);
        assert!(run(&write).unwrap());
        assert!(!run(&write).unwrap());
        let get = |table: Table| {
            let found = write.open_table(definition(table.name())).unwrap();
            let found = found.get(&b"k"[..]).unwrap().unwrap().value().to_vec();
            unseal(table, b"k", &found).unwrap().to_vec()
        };
        assert_eq!(get(Table::Outcomes), b"outcome");
        assert_eq!(get(Table::Meta), [9; 8]);
        let body_digest = digest(Table::Bodies, b"k", b"body");
        assert_eq!(State::decode(&get(Table::States)).unwrap(), State { body_digest, ..state });
        let left: Vec<String> =
            write.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
        assert!(!left.iter().any(|name| name == "states.v1"), "{left:?}");
        // An older version cannot open it.
        let opened = write.open_table(definition("queues.v1"));
        assert!(matches!(opened, Err(redb::TableError::TableTypeMismatch { .. })), "{opened:?}");
        // One that ran on it all the same is not taken for an old file.
        put("meta.v1", &[0; 8]);
        let refused = run(&write).unwrap_err().to_string();
        assert!(refused.contains("an older version was run on it"), "{refused}");
    }

    #[test]
    fn a_state_that_cannot_be_read_is_refused() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let write = database.begin_write().unwrap();
        let mut states = write.open_table(definition("states.v1")).unwrap();
        states.insert(&b"k"[..], &b"short"[..]).unwrap();
        drop(states);
        assert!(matches!(run(&write), Err(StoreError::Damaged(_))));
    }
}
