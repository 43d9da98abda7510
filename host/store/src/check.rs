//! Looks at every stored value of a stopped data directory, and changes nothing: for `wambda doctor`.

use std::path::Path;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableHandle};
use wambda_model::Digest;

use crate::home::{BLOBS, BLOBS_IDENTITY, Claim, MANIFEST, QUEUES, RECORDS, read_manifest};
use crate::sealed::SealingKey;
use crate::{StoreError, damage, embedded, file, queues};

/// Something that is not as it was written, or is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, and what in it.
    pub place: String,
    /// What is wrong.
    pub why: String,
    /// What is left of it, and what to do.
    pub rest: String,
}

/// What was found, and how much was looked at.
#[derive(Debug, Default)]
pub struct Checked {
    /// Records, by key, opened.
    pub records: Vec<(String, Bytes)>,
    /// Keys of the blobs that are whole.
    pub blobs: Vec<String>,
    /// Messages and outcomes that are whole.
    pub queued: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Files that no version of Wambda that this one knows has made.
    pub unknown: Vec<String>,
    /// Files in the trash.
    pub trash: Vec<String>,
}

/// Names in a data directory that are understood.
const KNOWN: [&str; 10] = [
    MANIFEST,
    RECORDS,
    QUEUES,
    BLOBS,
    "records.key",
    "root-key.json",
    "artifact.key",
    "artifacts",
    "layers",
    crate::trash::TRASH,
];

/// Checks a directory that no server has.
///
/// # Errors
/// When a server has it, or it is none.
pub fn directory(dir: &Path) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    let entries = std::fs::read_dir(dir).map_err(|error| StoreError::io(dir.display(), &error))?;
    for name in entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        if !KNOWN.contains(&name.as_str()) && name != ".probe" {
            checked.unknown.push(name);
        }
    }
    let identity = checked.manifest(dir);
    checked.records(dir, identity.as_deref())?;
    checked.queues(dir, identity.as_deref())?;
    checked.blobs(dir, identity.as_deref());
    walk(&dir.join(crate::trash::TRASH), "", &mut checked.trash);
    Ok(checked)
}

/// Files below a directory, by their paths in it.
fn walk(dir: &Path, above: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{name}/"), found);
        } else {
            found.push(name);
        }
    }
    found.sort();
}

impl Checked {
    fn find(&mut self, place: impl Into<String>, why: impl ToString, rest: &str) {
        let (place, why, rest) = (place.into(), why.to_string(), rest.to_owned());
        self.findings.push(Finding { place, why, rest });
    }

    /// The identity that the manifest says.
    fn manifest(&mut self, dir: &Path) -> Option<String> {
        let again = "nothing is lost: without the file, the next start makes it again when all stores agree";
        match read_manifest(&dir.join(MANIFEST)) {
            Ok(Some(manifest)) => return Some(manifest.identity),
            Ok(None) => self.find(MANIFEST, "it is missing", again),
            Err(error) => self.find(MANIFEST, error, again),
        }
        None
    }

    /// Opens a database whole, or as far as that goes; none when it cannot be.
    fn open(
        &mut self,
        dir: &Path,
        (name, identity, rest): (&str, Option<&str>, &str),
    ) -> Result<Option<Database>, StoreError> {
        let path = dir.join(name);
        if !path.exists() {
            self.find(name, "it is missing", rest);
            return Ok(None);
        }
        let opened = file::check_length(&path).and_then(|()| file::copy(&path, true));
        let database = match opened {
            Ok(database) => database,
            Err(StoreError::InUse(_)) => return Err(StoreError::InUse(path.display().to_string())),
            Err(error) => {
                self.find(name, error, rest);
                let Ok(database) =
                    file::check_length(&path).and_then(|()| file::copy(&path, false))
                else {
                    return Ok(None);
                };
                database
            }
        };
        if let Some(identity) = identity {
            let claim = Claim { identity: identity.to_owned(), may_mark: false, may_make: false };
            let found = damage::guarded(|| file::read_identity(&database));
            if let Err(error) = found.and_then(|found| claim.check(found.as_deref())) {
                self.find(name, error, "restore the file that belongs here");
            }
        }
        Ok(Some(database))
    }

    fn records(&mut self, dir: &Path, identity: Option<&str>) -> Result<(), StoreError> {
        let rest = "restore it from a backup; the code of functions is in blobs/";
        let Some(database) = self.open(dir, (RECORDS, identity, rest))? else { return Ok(()) };
        let key = SealingKey::load(&dir.join(crate::sealed::KEY_FILE));
        if let Err(error) = &key {
            self.find(
                "records.key",
                error,
                "without it no record can be read: restore it from a backup",
            );
        }
        let stored = damage::guarded(|| {
            let mut all = Vec::new();
            let read = database.begin_read().map_err(redb::Error::from)?;
            let table = read.open_table(embedded::RECORDS).map_err(redb::Error::from)?;
            for entry in table.iter().map_err(redb::Error::from)? {
                let (key, value) = entry.map_err(redb::Error::from)?;
                all.push((key.value().to_owned(), Bytes::copy_from_slice(value.value().1)));
            }
            Ok(all)
        });
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                self.find(RECORDS, error, rest);
                return Ok(());
            }
        };
        let Ok(key) = key else { return Ok(()) };
        for (name, value) in stored {
            match key.open(&name, value) {
                Ok(value) => self.records.push((name, value)),
                Err(error) => self.find(format!("{RECORDS}, {name}"), error, rest),
            }
        }
        Ok(())
    }

    fn queues(&mut self, dir: &Path, identity: Option<&str>) -> Result<(), StoreError> {
        let rest = "restore it from a backup";
        let Some(database) = self.open(dir, (QUEUES, identity, rest))? else { return Ok(()) };
        let looked = damage::guarded(|| queues::examine(&database));
        match looked {
            Ok((whole, damaged)) => {
                self.queued = whole;
                for (what, why) in damaged {
                    let rest =
                        "it ends in the dead letters with what is left of it when its turn comes";
                    self.find(format!("{QUEUES}, {what}"), why, rest);
                }
            }
            Err(error) => self.find(QUEUES, error, rest),
        }
        Ok(())
    }

    fn blobs(&mut self, dir: &Path, identity: Option<&str>) {
        let root = dir.join(BLOBS);
        if !root.exists() {
            self.find(
                BLOBS,
                "it is missing",
                "restore it from a backup; functions run while artifacts/ is there",
            );
            return;
        }
        let found = std::fs::read_to_string(root.join(BLOBS_IDENTITY)).unwrap_or_default();
        if let Some(identity) = identity.filter(|identity| found.trim() != *identity) {
            let why = format!("{:?} found, {identity} expected", found.trim());
            self.find("blobs/identity", why, "restore the blobs that belong here");
        }
        let mut keys = Vec::new();
        walk(&root, "", &mut keys);
        for key in keys.into_iter().filter(|key| key != BLOBS_IDENTITY) {
            let digest = key
                .split_once('/')
                .filter(|(place, _)| ["code", "upload", "layer"].contains(place))
                .and_then(|(_, name)| Digest::parse(name).ok());
            let Some(digest) = digest else {
                self.unknown.push(format!("{BLOBS}/{key}"));
                continue;
            };
            let rest =
                "upload it again, or restore it; functions run while their artifact is there";
            match std::fs::read(root.join(&key)) {
                Ok(bytes) if Digest::of(&bytes) == digest => self.blobs.push(key),
                Ok(bytes) => {
                    let why = format!(
                        "its {} bytes have the SHA-256 {}",
                        bytes.len(),
                        Digest::of(&bytes)
                    );
                    self.find(format!("{BLOBS}/{key}"), why, rest);
                }
                Err(error) => self.find(format!("{BLOBS}/{key}"), error, rest),
            }
        }
    }
}

/// Names of the tables of a database.
pub(crate) fn tables(database: &Database) -> Result<Vec<String>, StoreError> {
    let read = database.begin_read().map_err(redb::Error::from)?;
    let tables = read.list_tables().map_err(redb::Error::from)?;
    Ok(tables.map(|table| table.name().to_owned()).collect())
}
