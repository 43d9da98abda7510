//! Compiled artifacts on disk: a cache that is derived from the code and local to this node.
//!
//! Only our compiling child writes them. Each has a MAC under a key in the data directory, checked
//! before it is mapped; an artifact that is missing, damaged or made by another build is compiled
//! again, never trusted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ring::hmac;
use wambda_model::Digest;
use wambda_model::limits::STORE_MEMORIES_MAX;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, ResourcesRequired};

use crate::engine::{EngineKind, TABLES_A_SLOT, compatibility};

/// The directory of artifacts.
#[derive(Debug)]
pub struct Artifacts {
    dir: PathBuf,
    key: hmac::Key,
    /// Bytes of what is kept.
    stored: AtomicU64,
}

/// A page of memory.
const PAGE_BYTES: u64 = 64 << 10;

/// A loaded artifact.
pub(crate) enum Loaded {
    Module(Module),
    Component(Component),
}

impl Loaded {
    fn needed(&self) -> Option<ResourcesRequired> {
        match self {
            Self::Module(module) => Some(module.resources_required()),
            Self::Component(component) => component.resources_required(),
        }
    }

    /// Bytes of the largest memory that an instance begins with.
    pub(crate) fn first_bytes(&self) -> u64 {
        let pages = self.needed().and_then(|needed| needed.max_initial_memory_size);
        pages.map_or(0, |pages| pages.saturating_mul(PAGE_BYTES))
    }

    /// Slots of the pool that an instance takes: of memories, or of tables, of which there are [`TABLES_A_SLOT`] as many.
    /// Of instances within instances there are enough for all.
    pub(crate) fn slots(&self) -> u32 {
        let needed = self
            .needed()
            .map(|needed| needed.num_memories.max(needed.num_tables.div_ceil(TABLES_A_SLOT)));
        needed.unwrap_or(u32::MAX).clamp(1, STORE_MEMORIES_MAX as u32)
    }
}

/// Bytes of a file; none when it is not there.
fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}

fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Artifacts {
    /// Opens the artifacts below a data directory, making directory and key as needed. What an
    /// earlier process left half-written is removed.
    ///
    /// # Errors
    /// When the directory cannot be made or the key cannot be read or written.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("artifacts");
        private_dir(&dir)?;
        let key = load_or_make_key(&data_dir.join("artifact.key"))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let this = Self { dir, key, stored: AtomicU64::new(0) };
        let _ = std::fs::remove_dir_all(this.tmp());
        private_dir(&this.tmp())?;
        this.measure();
        Ok(this)
    }

    /// Bytes of what is kept.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored.load(Relaxed)
    }

    fn measure(&self) {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let artifacts = entries.map(|entry| entry.path());
        let artifacts = artifacts.filter(|path| path.extension().is_some_and(|it| it == "cwasm"));
        self.stored.store(artifacts.map(|path| length(&path)).sum(), Relaxed);
    }

    fn less(&self, bytes: u64) {
        let less = |stored: u64| Some(stored.saturating_sub(bytes));
        let _ = self.stored.fetch_update(Relaxed, Relaxed, less);
    }

    /// Where the compiler puts what is not finished.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    fn path(&self, digest: &Digest, kind: EngineKind, engine: &Engine) -> PathBuf {
        self.dir.join(format!("{digest}-{}-{}.cwasm", kind.as_str(), compatibility(engine)))
    }

    /// Takes a finished artifact in: sync, authenticate, rename. What a crash of the machine leaves of it is told by its
    /// MAC, and compiled again; it is synced so that a disk which fails says so before anything is mapped.
    ///
    /// # Errors
    /// When the disk refuses; nothing is taken then.
    pub fn keep(
        &self,
        finished: &Path,
        digest: &Digest,
        kind: EngineKind,
        engine: &Engine,
    ) -> io::Result<()> {
        let path = self.path(digest, kind, engine);
        let mac = self.mac(finished, &path)?;
        File::open(finished)?.sync_data()?;
        let unsealed = finished.with_extension("mac");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unsealed)?;
        file.write_all(mac.as_ref())?;
        std::fs::rename(&unsealed, path.with_extension("mac"))?;
        let (before, now) = (length(&path), length(finished));
        std::fs::rename(finished, &path)?;
        self.stored.fetch_add(now, Relaxed);
        self.less(before);
        Ok(())
    }

    /// Of what is in `file`, as the artifact of that name: one is not taken for another.
    fn mac(&self, file: &Path, artifact: &Path) -> io::Result<hmac::Tag> {
        let mut file = File::open(file)?;
        let mut mac = hmac::Context::with_key(&self.key);
        mac.update(artifact.file_name().unwrap_or_default().as_encoded_bytes());
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(mac.sign()),
                n => mac.update(buffer.get(..n).unwrap_or_default()),
            }
        }
    }

    /// Whether an authentic artifact is there.
    #[must_use]
    pub fn holds(&self, digest: &Digest, kind: EngineKind, engine: &Engine) -> bool {
        self.is_authentic(&self.path(digest, kind, engine))
    }

    fn is_authentic(&self, path: &Path) -> bool {
        let Ok(wanted) = std::fs::read(path.with_extension("mac")) else {
            return false;
        };
        let Ok(found) = self.mac(path, path) else {
            return false;
        };
        ring_eq(found.as_ref(), &wanted)
    }

    /// Maps an artifact; none when there is no authentic one.
    pub(crate) fn load(
        &self,
        digest: &Digest,
        kind: EngineKind,
        engine: &Engine,
        component: bool,
    ) -> wasmtime::Result<Option<Loaded>> {
        if !self.holds(digest, kind, engine) {
            return Ok(None);
        }
        let path = self.path(digest, kind, engine);
        // SAFETY: the file was written by our own compiling child in a directory that only we can
        // write, its MAC under our own key was checked just now, and its name says that it was
        // compiled for an engine of this very configuration.
        #[allow(unsafe_code)]
        let loaded = unsafe {
            if component {
                Loaded::Component(Component::deserialize_file(engine, &path)?)
            } else {
                Loaded::Module(Module::deserialize_file(engine, &path)?)
            }
        };
        Ok(Some(loaded))
    }

    /// Removes one artifact.
    pub(crate) fn forget(&self, digest: &Digest, kind: EngineKind, engine: &Engine) {
        let path = self.path(digest, kind, engine);
        let _ = std::fs::remove_file(path.with_extension("mac"));
        let bytes = length(&path);
        if std::fs::remove_file(path).is_ok() {
            self.less(bytes);
        }
    }

    /// Removes the artifacts of digests that `is_used` denies. Other names are not ours.
    pub fn sweep(&self, is_used: impl Fn(&Digest) -> bool) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if let Some(digest) = name.to_str().and_then(digest_of)
                && !is_used(&digest)
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        self.measure();
    }
}

/// The digest in the name of an artifact, or of its MAC.
fn digest_of(name: &str) -> Option<Digest> {
    let stem = name.strip_suffix(".cwasm").or_else(|| name.strip_suffix(".mac"))?;
    let (digest, rest) = stem.split_once('-')?;
    rest.split_once('-').and_then(|(kind, _)| EngineKind::parse(kind))?;
    Digest::parse(digest).ok()
}

/// Artifacts of a data directory that are not what the server made: they would be made again. Nothing is
/// changed. The names of files that are none follow.
#[must_use]
pub fn examine(data_dir: &Path) -> (Vec<String>, Vec<String>) {
    let (mut damaged, mut unknown) = (Vec::new(), Vec::new());
    let key = std::fs::read(data_dir.join("artifact.key")).unwrap_or_default();
    let this = Artifacts {
        dir: data_dir.join("artifacts"),
        key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        stored: AtomicU64::new(0),
    };
    for entry in std::fs::read_dir(&this.dir).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if path == this.tmp() {
            continue;
        }
        if digest_of(&name).is_none() {
            unknown.push(name);
        } else if path.extension().is_some_and(|it| it == "cwasm") && !this.is_authentic(&path) {
            damaged.push(name);
        }
    }
    (damaged, unknown)
}

fn ring_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

fn load_or_make_key(path: &Path) -> io::Result<[u8; 32]> {
    use ring::rand::SecureRandom;
    let mut key = [0; 32];
    match std::fs::read(path) {
        Ok(found) if found.len() == key.len() => {
            key.copy_from_slice(&found);
            return Ok(key);
        }
        Ok(_) => {} // cut short by a crash: a new key only costs recompiling
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    ring::rand::SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| io::Error::other("no randomness"))?;
    let temporary = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    Ok(key)
}
