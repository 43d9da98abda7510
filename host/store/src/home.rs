//! The data directory as a whole: its manifest says which format it has and which identity; every store
//! in it carries that identity. What is missing, empty, foreign or newer is refused at the start with
//! words, before anything is written: a server that starts anew where something is lost loses the rest.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::{StoreError, file};

/// The manifest's file.
pub const MANIFEST: &str = "wambda.json";
/// The manifest of a directory that is being made, or brought to this format.
const UNFINISHED: &str = "wambda.json.new";
/// The newest format that this build knows.
pub const FORMAT: u32 = 1;
/// The file of the records.
pub const RECORDS: &str = "records.redb";
/// The file of the queues.
pub const QUEUES: &str = "queues.redb";
/// The directory of the blobs.
pub const BLOBS: &str = "blobs";
/// The file in it with the identity.
pub const BLOBS_IDENTITY: &str = "identity";

/// What a data directory says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of the directory.
    pub format: u32,
    /// 32 hex digits, which every store of the directory carries.
    pub identity: String,
    /// The version of Wambda that made it, or brought it to this format.
    pub created_by: String,
    /// Whether stores were there before the manifest was.
    #[serde(default)]
    pub adopted: bool,
}

/// What a manifest of any format says.
#[derive(Deserialize)]
struct Head {
    format: u32,
    created_by: Option<String>,
}

/// What a store of a data directory has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The identity that it carries.
    pub identity: String,
    /// Whether it may lack one, and gets it then.
    pub may_mark: bool,
    /// Whether it may not be there, and is made then.
    pub may_make: bool,
}

impl Claim {
    /// Of a store on its own, for tests.
    #[must_use]
    pub fn alone() -> Self {
        Self { identity: "0".repeat(32), may_mark: true, may_make: true }
    }

    /// Compares what a store carries. Returns whether it has to be marked.
    ///
    /// # Errors
    /// When it is another directory's, or has lost its identity.
    pub fn check(&self, found: Option<&str>) -> Result<bool, StoreError> {
        match found {
            Some(found) if found == self.identity => Ok(false),
            None if self.may_mark => Ok(true),
            found => Err(StoreError::Damaged(format!(
                "it has the identity {}, and {MANIFEST} says {}: it belongs to another data \
                 directory, or was written by another version; restore the one that belongs here",
                found.unwrap_or("(none)").escape_debug(),
                self.identity
            ))),
        }
    }
}

/// A data directory.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    manifest: Manifest,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Every part is there, or something is lost.
    Whole,
    /// As [`State::Whole`], but for the manifest.
    Unlisted,
    /// Parts are being made.
    Making,
}

/// Makes a directory for the server's user only, and what is above it.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a small file whole: nothing else is ever seen under its name.
pub(crate) fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn random_identity() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| StoreError::Failed("no randomness".to_owned()))?;
    Ok(hex::encode(bytes))
}

/// Whether something is at a path; what cannot be looked at is taken to be there.
fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// Reads a manifest; none when there is none.
///
/// # Errors
/// When it is damaged, or newer than this build.
pub fn read_manifest(path: &Path) -> Result<Option<Manifest>, StoreError> {
    let shown = path.display();
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io(shown, &error)),
    };
    let damaged = |why: &dyn std::fmt::Display| {
        StoreError::Damaged(format!(
            "{shown} is damaged: format and identity as JSON expected, {} bytes found ({why}); restore it \
             from a backup",
            text.len()
        ))
    };
    // Of another format it may have another shape.
    let head: Head = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
    if head.format > FORMAT {
        return Err(StoreError::Damaged(format!(
            "{shown} has format {}, and this version knows {FORMAT}: the directory was made by version {}; \
             run that one, or a newer one",
            head.format,
            head.created_by.as_deref().unwrap_or("(unknown)")
        )));
    }
    if head.format == 0 {
        return Err(damaged(&"there is no format 0"));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| damaged(&error))
}

impl Home {
    /// Looks at a data directory, and begins one in an empty directory. Nothing but the mark that it has
    /// begun is written.
    ///
    /// # Errors
    /// When a part is missing, empty, damaged, foreign or newer.
    pub fn open(dir: &Path, version: &str) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        if let Some(manifest) = read_manifest(&dir.join(MANIFEST))? {
            let home = Self { dir, manifest, state: State::Whole };
            home.check_parts()?;
            // Killed between the two: it would allow parts to be made anew.
            home.forget_unfinished()?;
            return Ok(home);
        }
        if let Some(manifest) = read_manifest(&dir.join(UNFINISHED))? {
            let home = Self { dir, manifest, state: State::Making };
            home.check_parts()?;
            return Ok(home);
        }
        let created_by = version.to_owned();
        let has_records = is_there(&dir.join(RECORDS));
        let adopted = has_records;
        if has_records {
            let records = dir.join(RECORDS);
            file::check_length(&records)?;
            if let Some(identity) =
                file::identity_at(&records).map_err(|e| e.about(records.display()))?
            {
                let manifest = Manifest { format: FORMAT, identity, created_by, adopted };
                let home = Self { dir, manifest, state: State::Unlisted };
                home.check_parts()?;
                return Ok(home);
            }
        } else if let Some(left) =
            [QUEUES, BLOBS, "records.key"].iter().find(|part| is_there(&dir.join(part)))
        {
            return Err(lost(&dir, &dir.join(RECORDS), &format!("{left} is there")));
        }
        let manifest =
            Manifest { format: FORMAT, identity: random_identity()?, created_by, adopted };
        let home = Self { dir, manifest, state: State::Making };
        home.check_parts()?;
        home.write(UNFINISHED)?;
        Ok(home)
    }

    /// Whether all parts are there that have to be.
    fn check_parts(&self) -> Result<(), StoreError> {
        if self.state == State::Making && !self.manifest.adopted {
            return Ok(());
        }
        let why = match self.state {
            State::Making => "the directory was in use before",
            State::Unlisted => "records.redb is there",
            State::Whole => "wambda.json says that the directory is whole",
        };
        for part in [RECORDS, QUEUES, BLOBS] {
            let path = self.dir.join(part);
            if !is_there(&path) {
                return Err(lost(&self.dir, &path, why));
            }
            if part != BLOBS {
                file::check_length(&path)?;
            }
        }
        Ok(())
    }

    /// What its stores have to be.
    #[must_use]
    pub fn claim(&self) -> Claim {
        let is_making = self.state == State::Making;
        Claim {
            identity: self.manifest.identity.clone(),
            may_mark: is_making,
            may_make: is_making && !self.manifest.adopted,
        }
    }

    /// The directory of the blobs, made or checked.
    ///
    /// # Errors
    /// When it is another directory's, or cannot be made.
    pub fn blobs(&self) -> Result<PathBuf, StoreError> {
        let dir = self.dir.join(BLOBS);
        let path = dir.join(BLOBS_IDENTITY);
        let failed = |error: &io::Error| StoreError::io(path.display(), error);
        private_dir(&dir).map_err(|error| failed(&error))?;
        let found = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // Not text: it is shown as what it is not.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Some("(no text)".to_owned())
            }
            Err(error) => return Err(failed(&error)),
        };
        let checked = self.claim().check(found.as_deref().map(str::trim));
        if checked.map_err(|error| error.about(path.display()))? {
            let text = format!("{}\n", self.manifest.identity);
            write_whole(&path, text.as_bytes()).map_err(|error| failed(&error))?;
        }
        Ok(dir)
    }

    /// All parts are made: from now on none may be missing.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn finish(&mut self) -> Result<(), StoreError> {
        if self.state == State::Whole {
            return Ok(());
        }
        if self.state == State::Unlisted {
            let path = self.dir.join(MANIFEST);
            tracing::warn!(path = %path.display(), "was missing, and is made again: every store has one identity");
        }
        self.write(MANIFEST)?;
        self.state = State::Whole;
        self.forget_unfinished()
    }

    /// Removes what allows parts to be made, for good.
    fn forget_unfinished(&self) -> Result<(), StoreError> {
        let failed = |error: &io::Error| StoreError::io(UNFINISHED, error);
        match std::fs::remove_file(self.dir.join(UNFINISHED)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&error)),
            Ok(()) => {}
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(&error))
    }

    fn write(&self, name: &str) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        let text = serde_json::to_string_pretty(&self.manifest);
        let text = text.map_err(|error| StoreError::Failed(error.to_string()))?;
        write_whole(&path, format!("{text}\n").as_bytes())
            .map_err(|error| StoreError::io(path.display(), &error))
    }
}

fn lost(dir: &Path, path: &Path, why: &str) -> StoreError {
    let (dir, path) = (dir.display(), path.display());
    StoreError::Damaged(format!(
        "{path} is missing, although {why}: restore it from a backup. `wambda doctor --data-dir {dir}` says \
         what can be saved. To begin anew, move everything out of {dir}"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wambda_model::SystemClock;

    use super::*;
    use crate::{EmbeddedQueues, EmbeddedRecords};

    /// What a server does at its start; `until` is the step before which it is killed.
    fn start_until(dir: &Path, until: u32) -> Result<Home, StoreError> {
        let mut home = Home::open(dir, "0.0.0")?;
        let claim = home.claim();
        if until > 0 {
            drop(EmbeddedRecords::open(&dir.join(RECORDS), &claim)?);
        }
        if until > 1 {
            drop(EmbeddedQueues::open(&dir.join(QUEUES), &claim, Arc::new(SystemClock))?);
        }
        if until > 2 {
            home.blobs()?;
        }
        if until > 3 {
            home.finish()?;
        }
        Ok(home)
    }

    fn start(dir: &Path) -> Result<Home, StoreError> {
        start_until(dir, 4)
    }

    fn refused(dir: &Path) -> String {
        start(dir).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_is_made_once_whatever_is_killed_when() {
        for killed in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            let identity = start_until(dir.path(), killed).unwrap().manifest.identity;
            let home = start(dir.path()).unwrap();
            assert_eq!(home.manifest.identity, identity, "killed before step {killed}");
            assert_eq!(start(dir.path()).unwrap().manifest, home.manifest);
            assert!(!dir.path().join(UNFINISHED).exists());
        }
    }

    #[test]
    fn a_mark_that_was_left_allows_nothing_to_be_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        start(dir.path()).unwrap();
        // Killed within the last step.
        std::fs::copy(dir.path().join(MANIFEST), dir.path().join(UNFINISHED)).unwrap();
        start(dir.path()).unwrap();
        assert!(!dir.path().join(UNFINISHED).exists());
        std::fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        std::fs::remove_file(dir.path().join(QUEUES)).unwrap();
        assert!(refused(dir.path()).contains("queues.redb is missing"));
    }

    #[test]
    fn a_file_that_was_never_made_whole_is_made_again() {
        for part in [RECORDS, QUEUES] {
            let dir = tempfile::tempdir().unwrap();
            start_until(dir.path(), 0).unwrap();
            // As redb leaves it when it is killed, or finds the disk full, before the magic number.
            std::fs::write(dir.path().join(part), vec![0; 1 << 16]).unwrap();
            start(dir.path()).unwrap();
            // Later it is damage.
            std::fs::write(dir.path().join(part), vec![0; 1 << 16]).unwrap();
            assert!(refused(dir.path()).contains("damaged"));
        }
    }

    #[test]
    fn what_is_missing_or_empty_is_refused_by_name() {
        for part in [RECORDS, QUEUES, BLOBS, "blobs/identity"] {
            let dir = tempfile::tempdir().unwrap();
            start(dir.path()).unwrap();
            let (path, aside) = (dir.path().join(part), dir.path().join("aside"));
            std::fs::rename(&path, &aside).unwrap();
            let why = refused(dir.path());
            let is_identity = part == "blobs/identity";
            let words = if is_identity { "has the identity (none)" } else { "is missing" };
            assert!(why.contains(part) && why.contains(words), "{part}: {why}");
            assert!(!path.exists(), "nothing was made in its place");
            if part != BLOBS {
                std::fs::write(&path, b"").unwrap();
                let why = refused(dir.path());
                assert!(why.contains(part), "{part}: {why}");
                assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
                std::fs::remove_file(&path).unwrap();
            }
            std::fs::rename(&aside, &path).unwrap();
            start(dir.path()).unwrap();
        }
    }

    #[test]
    fn what_belongs_to_another_directory_is_refused() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let theirs = start(other.path()).unwrap().manifest.identity;
        let ours = start(own.path()).unwrap().manifest.identity;
        for part in [RECORDS, QUEUES, "blobs/identity", MANIFEST] {
            let (path, kept) = (own.path().join(part), own.path().join("kept"));
            std::fs::rename(&path, &kept).unwrap();
            std::fs::copy(other.path().join(part), &path).unwrap();
            let why = refused(own.path());
            assert!(why.contains(&theirs) && why.contains(&ours), "{part}: {why}");
            std::fs::rename(&kept, &path).unwrap();
        }
        start(own.path()).unwrap();
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = start(dir.path()).unwrap();
        let newer =
            Manifest { format: FORMAT + 1, created_by: "9.9.9".to_owned(), ..home.manifest };
        let path = dir.path().join(MANIFEST);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, serde_json::to_vec(&newer).unwrap()).unwrap();
        let why = refused(dir.path());
        assert!(why.contains("format 2") && why.contains("version 9.9.9"), "{why}");
        std::fs::write(&path, b"{\"format\": 7, \"stores\": []}").unwrap();
        let why = refused(dir.path());
        assert!(why.contains("format 7") && why.contains("newer"), "{why}");
        for damaged in [&b""[..], b"{", b"{\"format\": 1}", b"{\"format\": 0}", b"\0\0\0"] {
            std::fs::write(&path, damaged).unwrap();
            let why = refused(dir.path());
            assert!(why.contains("wambda.json is damaged"), "{why}");
        }
        std::fs::write(&path, text).unwrap();
        for part in [RECORDS, QUEUES] {
            let path = dir.path().join(part);
            let kept = std::fs::read(&path).unwrap();
            {
                let database = redb::Database::open(&path).unwrap();
                let write = database.begin_write().unwrap();
                let newer = redb::TableDefinition::<&str, u64>::new("states.v9");
                drop(write.open_table(newer).unwrap());
                write.commit().unwrap();
            }
            let why = refused(dir.path());
            assert!(why.contains(part) && why.contains("\"states.v9\""), "{part}: {why}");
            std::fs::write(&path, kept).unwrap();
        }
        start(dir.path()).unwrap();
    }

    /// A directory as it was before there were manifests.
    fn old(dir: &Path) {
        start(dir).unwrap();
        for part in [RECORDS, QUEUES] {
            let database = redb::Database::open(dir.join(part)).unwrap();
            let write = database.begin_write().unwrap();
            let identity = redb::TableDefinition::<&str, &str>::new("identity.v1");
            write.delete_table(identity).unwrap();
            write.commit().unwrap();
        }
        std::fs::remove_file(dir.join(MANIFEST)).unwrap();
        std::fs::remove_file(dir.join("blobs/identity")).unwrap();
    }

    #[test]
    fn a_directory_of_an_older_version_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        old(dir.path());
        // Killed on the way, it is taken over by the next start.
        for until in 0..4 {
            drop(start_until(dir.path(), until).unwrap());
        }
        let home = start(dir.path()).unwrap();
        assert!(home.manifest.adopted);
        assert_eq!(start(dir.path()).unwrap().manifest, home.manifest);
        // But not when a part of it is lost.
        for (part, words) in [(RECORDS, "is there"), (QUEUES, "in use before")] {
            let dir = tempfile::tempdir().unwrap();
            old(dir.path());
            std::fs::remove_file(dir.path().join(part)).unwrap();
            let why = refused(dir.path());
            assert!(why.contains(part) && why.contains(words), "{why}");
        }
    }

    #[test]
    fn a_lost_manifest_is_made_again_when_all_parts_agree() {
        let dir = tempfile::tempdir().unwrap();
        let identity = start(dir.path()).unwrap().manifest.identity;
        std::fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        assert_eq!(start(dir.path()).unwrap().manifest.identity, identity);
        std::fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        std::fs::remove_file(dir.path().join(QUEUES)).unwrap();
        assert!(refused(dir.path()).contains("queues.redb is missing"));
    }

    #[test]
    fn damaged_pages_are_told_in_words() {
        let dir = tempfile::tempdir().unwrap();
        start(dir.path()).unwrap();
        for part in [RECORDS, QUEUES] {
            let path = dir.path().join(part);
            let good = std::fs::read(&path).unwrap();
            let mut refusals = 0;
            // Pages that nothing was ever on are zero.
            let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
            for at in used.iter().copied().step_by(used.len() / 40) {
                let mut bad = good.clone();
                bad[at] ^= 1;
                std::fs::write(&path, &bad).unwrap();
                // Pages that nothing is on may be anything.
                if let Err(error) = start(dir.path()) {
                    let why = error.to_string();
                    assert!(why.contains(part) && why.contains("damaged"), "{at}: {why}");
                    refusals += 1;
                }
            }
            assert!(refusals > 3, "{part}: {refusals} refusals");
            std::fs::write(&path, &good[..good.len() / 2]).unwrap();
            let why = refused(dir.path());
            assert!(why.contains(part) && why.contains("damaged"), "{why}");
            std::fs::write(&path, good).unwrap();
        }
        start(dir.path()).unwrap();
    }
}
