//! Layers: zips of plain files, unpacked once into a directory that functions see at `/opt`,
//! read-only. Several layers are laid over each other, the last one on top.
//!
//! A directory is made at the first use, and goes with the last instance that sees it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{Cursor, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use wambda_model::limits::{
    LAYER_FILES_MAX, LAYER_NAME_BYTES_MAX, LAYER_PATH_BYTES_MAX, LAYER_PATH_DEPTH_MAX,
    LAYERS_BYTES_MAX, LAYERS_UNPACKING_MAX, LAYERS_UNPACKING_PATIENCE, LISTINGS_BYTES_MAX,
    LISTINGS_MAX, ZIP_RATIO_MAX,
};
use wambda_model::{BoxFuture, BuildError, Digest, LayerUse};

use crate::upload::directory_entries;
use zip::ZipArchive;

/// Layers together of which it is remembered what is in them.
const SEEN_MAX: usize = 1_000;

/// Fetches the zip of a layer.
pub type LayerSource =
    Arc<dyn Fn(Digest) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// Where layers are unpacked.
pub struct LayerDirs {
    dir: PathBuf,
    /// Bytes that all of them may take.
    limit: u64,
    source: LayerSource,
    /// Those with the lower priority: unpacking takes seconds of a core.
    threads: Handle,
    /// What is unpacked, by its layers in their order.
    trees: Mutex<HashMap<Vec<Digest>, Weak<Tree>>>,
    turns: Semaphore,
    /// What unpacking has shown, whether it is still there or not: nothing is unpacked to be refused again.
    seen: Mutex<HashMap<Vec<Digest>, Result<u64, String>>>,
}

/// Unpacked layers. The directory is removed with it.
#[derive(Debug)]
pub(crate) struct Tree {
    path: PathBuf,
    /// Bytes that a listing of its largest directory takes.
    listing_bytes: u64,
    /// Inflated bytes, of all files and of the largest.
    bytes: u64,
    largest: u64,
}

impl Tree {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of its largest file.
    pub(crate) fn largest(&self) -> u64 {
        self.largest
    }

    /// How many of its directories may be listed at once.
    pub(crate) fn listings(&self) -> u32 {
        let fit = LISTINGS_BYTES_MAX / self.listing_bytes.max(1);
        u32::try_from(fit).unwrap_or(u32::MAX).clamp(1, LISTINGS_MAX)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove unpacked layers");
            }
        };
        // Thousands of files take a while.
        match Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl std::fmt::Debug for LayerDirs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerDirs").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl LayerDirs {
    /// A cache below `data_dir`, empty, for `limit` bytes; `threads` unpack.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(
        data_dir: &Path,
        limit: u64,
        (source, threads): (LayerSource, Handle),
    ) -> std::io::Result<Self> {
        let dir = data_dir.join("layers");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        // Trees are numbered. What has another name is not ours.
        for entry in fs::read_dir(&dir)?.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.parse::<u64>().is_ok()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let turns = Semaphore::new(LAYERS_UNPACKING_MAX);
        let (trees, seen) = Default::default();
        Ok(Self { dir, limit, source, threads, trees, turns, seen })
    }

    /// The directory of these layers; none when there are none.
    pub(crate) async fn get(&self, layers: &[LayerUse]) -> Result<Option<Arc<Tree>>, String> {
        if layers.is_empty() {
            return Ok(None);
        }
        let key = key_of(layers);
        if let Some(known) = self.lock().get(&key).and_then(Weak::upgrade) {
            return Ok(Some(known));
        }
        // Few at a time, and nobody for long: each takes seconds of a core at most, and what is in use counts for the next.
        let turn = tokio::time::timeout(LAYERS_UNPACKING_PATIENCE, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err("too many layers are being unpacked: try again".to_owned());
        };
        if let Some(known) = self.lock().get(&key).and_then(Weak::upgrade) {
            return Ok(Some(known));
        }
        let (limit, taken) = (self.limit, self.stored());
        if taken >= limit {
            return Err(format!(
                "layers may take {limit} bytes unpacked, those in use take {taken} already"
            ));
        }
        let mut zips = Vec::new();
        for layer in layers {
            zips.push((self.source)(layer.digest).await?);
        }
        let dir = self.dir.clone();
        let unpacked = self.threads.spawn_blocking(move || unpack_all(&dir, &zips)).await;
        let unpacked = unpacked.map_err(|lost| lost.to_string())?;
        let verdict = match &unpacked {
            Ok(tree) => Some(Ok(tree.largest)),
            Err(BuildError::Invalid(why)) => Some(Err(why.clone())),
            // The machine may do better next time.
            Err(_) => None,
        };
        if let Some(verdict) = verdict {
            self.remember(&key, verdict);
        }
        let tree = unpacked.map_err(|error| error.to_string())?;
        let mut trees = self.lock();
        trees.retain(|_, tree| tree.strong_count() > 0);
        // Somebody else may have been quicker; what is not needed goes again.
        if let Some(known) = trees.get(&key).and_then(Weak::upgrade) {
            return Ok(Some(known));
        }
        let tree = Arc::new(tree);
        trees.insert(key, Arc::downgrade(&tree));
        Ok(Some(tree))
    }

    /// Bytes of the largest file in these layers, or why they cannot be unpacked; none when they have not been.
    pub(crate) fn seen(&self, layers: &[LayerUse]) -> Option<Result<u64, String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&key_of(layers)).cloned()
    }

    fn remember(&self, key: &[Digest], verdict: Result<u64, String>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN_MAX {
            seen.clear();
        }
        seen.insert(key.to_vec(), verdict);
    }

    /// Bytes of what is unpacked.
    pub(crate) fn stored(&self) -> u64 {
        self.lock().values().filter_map(Weak::upgrade).map(|tree| tree.bytes).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<Digest>, Weak<Tree>>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Layers in their order.
fn key_of(layers: &[LayerUse]) -> Vec<Digest> {
    layers.iter().map(|layer| layer.digest).collect()
}

fn failed(error: &std::io::Error) -> BuildError {
    use std::io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory};
    match error.kind() {
        // Each passes alone.
        AlreadyExists | IsADirectory | NotADirectory => BuildError::Invalid(format!(
            "a layer has a file where another one has a directory: {error}"
        )),
        _ => BuildError::Internal(format!("cannot unpack a layer: {error}")),
    }
}

/// Unpacks into a directory of its own. What is not complete is removed.
pub(crate) fn unpack_all(dir: &Path, zips: &[Bytes]) -> Result<Tree, BuildError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path = dir.join(NEXT.fetch_add(1, Relaxed).to_string());
    DirBuilder::new().mode(0o700).create(&path).map_err(|error| failed(&error))?;
    let mut tree = Tree { path, listing_bytes: 0, bytes: 0, largest: 0 };
    let mut walk = Walk::new(Some(tree.path.clone()));
    zips.iter().try_for_each(|zip| walk.unpack(zip))?;
    tree.listing_bytes = walk.listings.values().copied().max().unwrap_or(0);
    (tree.bytes, tree.largest) = (LAYERS_BYTES_MAX - walk.left, walk.largest);
    Ok(tree)
}

/// Checks that a zip can be unpacked.
pub(crate) fn check(zip: &Bytes) -> Result<(), BuildError> {
    Walk::new(None).unpack(zip)
}

/// Bytes that an entry of a listing takes besides its name.
const ENTRY_BYTES: u64 = 64;

/// The way through one zip after another.
struct Walk {
    /// Bytes that files may still have.
    left: u64,
    /// Where files are written, if they are.
    target: Option<PathBuf>,
    /// Bytes of the largest file so far.
    largest: u64,
    /// What a listing of each directory takes.
    listings: HashMap<PathBuf, u64>,
}

impl Walk {
    fn new(target: Option<PathBuf>) -> Self {
        Self { left: LAYERS_BYTES_MAX, target, largest: 0, listings: HashMap::new() }
    }

    /// Inflates every file.
    fn unpack(&mut self, zip: &Bytes) -> Result<(), BuildError> {
        let bad = |e: zip::result::ZipError| {
            BuildError::Invalid(format!(
                "Could not unzip uploaded file. Please check your file, then try to upload again: {e}"
            ))
        };
        let mut archive = ZipArchive::new(Cursor::new(zip)).map_err(bad)?;
        if archive.len() > LAYER_FILES_MAX {
            let found = archive.len();
            return Err(BuildError::Invalid(format!(
                "a layer may have {LAYER_FILES_MAX} files, got {found}"
            )));
        }
        if directory_entries(zip).is_some_and(|listed| listed != archive.len()) {
            return Err(BuildError::Invalid("the layer has two entries of one name".to_owned()));
        }
        let (mut dirs, mut files) = (HashSet::new(), HashSet::new());
        for at in 0..archive.len() {
            let mut entry = archive.by_index(at).map_err(bad)?;
            let shown = entry.name().map_err(bad)?.into_owned();
            let inner = plain_path(&entry, &shown)?;
            self.note(&inner, entry.is_dir(), &mut dirs)?;
            if !entry.is_dir() {
                files.insert(inner.clone());
            }
            if entry.is_dir() {
                make_dir(self.target.as_ref().map(|target| target.join(&inner)).as_deref())?;
            } else {
                let packed = entry.compressed_size().max(1);
                let most = self.left.min(packed.saturating_mul(ZIP_RATIO_MAX).max(64 << 10));
                let bytes = self.inflate(&mut entry, &inner, (&shown, most))?;
                self.left -= bytes;
                self.largest = self.largest.max(bytes);
            }
        }
        match files.iter().find(|file| dirs.contains(*file)) {
            Some(both) => Err(BuildError::Invalid(format!(
                "{} is a file in the layer, and a directory",
                both.display()
            ))),
            None => Ok(()),
        }
    }

    /// Counts a file, and the directories that it makes: they take space as well, and nobody has to name them.
    fn note(
        &mut self,
        inner: &Path,
        is_dir: bool,
        dirs: &mut HashSet<PathBuf>,
    ) -> Result<(), BuildError> {
        let mut list = |path: &Path| {
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                *self.listings.entry(parent.to_owned()).or_default() +=
                    name.len() as u64 + ENTRY_BYTES;
            }
        };
        if !is_dir {
            list(inner);
        }
        for dir in inner.ancestors().skip(usize::from(!is_dir)) {
            if !dirs.contains(dir) {
                list(dir);
                dirs.insert(dir.to_owned());
            }
        }
        if dirs.len() > LAYER_FILES_MAX {
            return Err(BuildError::Invalid(format!(
                "a layer may have {LAYER_FILES_MAX} directories"
            )));
        }
        Ok(())
    }

    /// Inflates one file, of `most` bytes at most; how many it has.
    fn inflate(
        &self,
        entry: &mut impl Read,
        inner: &Path,
        (shown, most): (&str, u64),
    ) -> Result<u64, BuildError> {
        let path = self.target.as_ref().map(|target| target.join(inner));
        make_dir(path.as_deref().and_then(Path::parent))?;
        let mut limited = entry.take(most + 1);
        let written = match &path {
            Some(path) => copy(&mut limited, path),
            None => std::io::copy(&mut limited, &mut std::io::sink()),
        };
        let written = written.map_err(|error| match path {
            Some(_) => failed(&error),
            None => BuildError::Invalid(format!("zip entry {shown:?} is damaged: {error}")),
        })?;
        if written > most {
            return Err(invalid(
                shown,
                &format!(
                    "inflates beyond {most} bytes: {LAYERS_BYTES_MAX} in all, {ZIP_RATIO_MAX} times its packed size"
                ),
            ));
        }
        Ok(written)
    }
}

fn invalid(shown: &str, why: &str) -> BuildError {
    BuildError::Invalid(format!("zip entry {shown:?} {why}"))
}

/// The path of an entry, which leads nowhere else.
fn plain_path<R: Read>(
    entry: &zip::read::ZipFile<'_, R>,
    shown: &str,
) -> Result<PathBuf, BuildError> {
    if entry.encrypted() {
        return Err(invalid(shown, "is encrypted"));
    }
    let inner = entry.enclosed_name().filter(|_| !shown.starts_with('/') && !entry.is_symlink());
    let inner = inner.ok_or_else(|| invalid(shown, "is a link or leaves the archive"))?;
    if !entry.is_dir() && inner.as_os_str().is_empty() {
        return Err(invalid(shown, "names no file"));
    }
    if inner.as_os_str().len() > LAYER_PATH_BYTES_MAX
        || inner.components().count() > LAYER_PATH_DEPTH_MAX
    {
        return Err(BuildError::Invalid(format!(
            "the path of a layer's file may have {LAYER_PATH_BYTES_MAX} bytes and {LAYER_PATH_DEPTH_MAX} parts"
        )));
    }
    match inner.iter().find(|part| part.len() > LAYER_NAME_BYTES_MAX) {
        Some(long) => Err(BuildError::Invalid(format!(
            "a name in a layer may have {LAYER_NAME_BYTES_MAX} bytes, got {}",
            long.len()
        ))),
        None => Ok(inner),
    }
}

fn make_dir(path: Option<&Path>) -> Result<(), BuildError> {
    let Some(path) = path else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed(&error))
}

/// An upper layer's file takes the place of a lower one's.
fn copy(from: &mut impl Read, path: &Path) -> std::io::Result<u64> {
    if path.exists() && !path.is_dir() {
        fs::remove_file(path)?;
    }
    let mut file = File::create(path)?;
    let written = std::io::copy(from, &mut file)?;
    file.flush()?;
    fs::set_permissions(path, Permissions::from_mode(0o400))?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zip_of(entries: &[(&str, &[u8])]) -> Bytes {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner().into()
    }

    #[tokio::test]
    async fn layers_are_laid_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let lower = zip_of(&[("lib/a.txt", b"lower"), ("lib/b.txt", b"b")]);
        let upper = zip_of(&[("lib/a.txt", b"upper")]);
        let zips = [lower.clone(), upper.clone()];
        let source: LayerSource = Arc::new(move |digest| {
            let found = zips.iter().find(|zip| Digest::of(zip) == digest).cloned();
            Box::pin(async move { found.ok_or_else(|| "missing".to_owned()) })
        });
        let threads = Handle::current();
        let dirs = LayerDirs::open(dir.path(), 1 << 20, (source, threads)).unwrap();
        let used = |zip: &Bytes| LayerUse {
            arn: String::new(),
            digest: Digest::of(zip),
            bytes: zip.len() as u64,
        };
        assert!(dirs.get(&[]).await.unwrap().is_none());
        let both = dirs.get(&[used(&lower), used(&upper)]).await.unwrap().unwrap();
        assert_eq!(fs::read(both.path().join("lib/a.txt")).unwrap(), b"upper");
        assert_eq!(fs::read(both.path().join("lib/b.txt")).unwrap(), b"b");
        let again = dirs.get(&[used(&lower), used(&upper)]).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&again, &both));
        assert_ne!(dirs.get(&[used(&lower)]).await.unwrap().unwrap().path(), both.path());
        let path = both.path().to_owned();
        drop((again, both));
        while path.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!(dirs.get(&[used(&zip_of(&[("x", b"")]))]).await.is_err());
    }

    #[test]
    fn hostile_zips_are_refused() {
        let said = |zip: Bytes| check(&zip).unwrap_err().to_string();
        assert!(said("no zip".into()).contains("unzip"));
        assert!(said(zip_of(&[("../x", b"1")])).contains("leaves"));
        assert!(said(zip_of(&[("x", &vec![0; 40 << 20])])).contains("inflates"));
        assert!(said(zip_of(&[("x", b"1")]).slice(..30)).contains("unzip"));
        let many: Vec<String> = (0..=LAYER_FILES_MAX).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|n| (n.as_str(), &b""[..])).collect();
        assert!(said(zip_of(&many)).contains("10001"));
        let deep = format!("{}x", "d/".repeat(LAYER_PATH_DEPTH_MAX));
        assert!(said(zip_of(&[(&deep, b"")])).contains("parts"));
        assert!(said(zip_of(&[(&"x".repeat(LAYER_PATH_BYTES_MAX + 1), b"")])).contains("bytes"));
        let wide: Vec<String> = (0..400).map(|n| format!("{n}{}", "/d".repeat(30))).collect();
        let wide: Vec<(&str, &[u8])> = wide.iter().map(|n| (n.as_str(), &b""[..])).collect();
        assert!(said(zip_of(&wide)).contains("directories"));
        check(&zip_of(&[("a/b", b"1")])).unwrap();
    }
}
