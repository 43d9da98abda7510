//! Records that are encrypted at rest: environments, access keys and all else that is kept by name. A
//! copy of the disk without the key file tells nothing but names and sizes.
//!
//! Each value is sealed by AES-256-GCM (NIST SP 800-38D) under a nonce of its own and bound to its key,
//! so that no value passes for another record's.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use wambda_model::BoxFuture;

use crate::{Expect, Record, Records, StoreError};

/// Bytes of a key.
const KEY_LEN: usize = 32;
/// The first byte of a sealed value. Values themselves are JSON, which never begins with it.
const SEALED: u8 = 1;
/// Records that are sealed in one go.
const PAGE: usize = 500;

/// A key that seals records.
pub(crate) struct SealingKey {
    key: LessSafeKey,
    random: SystemRandom,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

impl SealingKey {
    /// Reads a key from its file, or makes both. The file is its owner's only. [`SealedRecords::open`] decides
    /// whether one may be made.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is not a key. A key is never replaced: what it
    /// sealed would be lost.
    fn load_or_make(path: &Path) -> io::Result<Self> {
        let random = SystemRandom::new();
        let bytes = match std::fs::read(path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => make(path, &random)?,
            Err(e) => return Err(e),
        };
        Self::of(&bytes, path, random)
    }

    /// Reads a key, and makes none.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a key.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        Self::of(&std::fs::read(path)?, path, SystemRandom::new())
    }

    fn of(bytes: &[u8], path: &Path, random: SystemRandom) -> io::Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| {
            let what = format!("{} must have {KEY_LEN} bytes, has {}", path.display(), bytes.len());
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        Ok(Self { key: LessSafeKey::new(key), random })
    }

    fn seal(&self, name: &str, value: &[u8]) -> Result<Bytes, StoreError> {
        let failed = |_| StoreError::Failed(format!("cannot seal {name:?}"));
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(failed)?;
        let mut sealed = value.to_vec();
        let (nonce, bound) = (Nonce::assume_unique_for_key(nonce), Aad::from(name.as_bytes()));
        let head = [&[SEALED][..], nonce.as_ref()].concat();
        self.key.seal_in_place_append_tag(nonce, bound, &mut sealed).map_err(failed)?;
        Ok([head, sealed].concat().into())
    }

    pub(crate) fn open(&self, name: &str, value: Bytes) -> Result<Bytes, StoreError> {
        let failed = || {
            StoreError::Damaged(format!(
                "record {name:?} cannot be decrypted: it is damaged, or {KEY_FILE} is not the one it was \
                 written with"
            ))
        };
        let (nonce, sealed) =
            value.get(1..).and_then(|v| v.split_at_checked(NONCE_LEN)).ok_or_else(failed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| failed())?;
        let mut opened = sealed.to_vec();
        let length = self
            .key
            .open_in_place(nonce, Aad::from(name.as_bytes()), &mut opened)
            .map_err(|_| failed())?
            .len();
        opened.truncate(length);
        Ok(opened.into())
    }
}

/// The key's file in the data directory.
pub(crate) const KEY_FILE: &str = "records.key";

fn make(path: &Path, random: &SystemRandom) -> io::Result<Vec<u8>> {
    let mut key = vec![0; KEY_LEN];
    random.fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
    let temporary = path.with_extension("tmp");
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(key)
}

/// Records in another store, sealed.
#[derive(Clone)]
pub struct SealedRecords {
    inner: Arc<dyn Records>,
    key: Arc<SealingKey>,
}

impl std::fmt::Debug for SealedRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedRecords")
    }
}

impl SealedRecords {
    /// The records of a data directory. Where there is no key yet, one is made, and what an older version
    /// wrote in the clear is sealed; from then on nothing in the clear is believed.
    ///
    /// # Errors
    /// When there are sealed records and no key: a new one would open none of them.
    pub async fn open(inner: Arc<dyn Records>, data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(KEY_FILE);
        let failed = |e: io::Error| StoreError::Failed(format!("{}: {e}", path.display()));
        if path.exists() {
            return Ok(Self::new(inner, SealingKey::load_or_make(&path).map_err(failed)?));
        }
        // Its final name it gets when all is sealed, so that being killed meanwhile loses nothing.
        let unfinished = path.with_extension("unfinished");
        let resumed = unfinished.exists();
        let key = SealingKey::load_or_make(&unfinished).map_err(failed)?;
        let this = Self::new(inner, key);
        let mut after: Option<String> = None;
        loop {
            let page = this.inner.list("", after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (name, record) in page {
                if record.value.first() != Some(&SEALED) {
                    this.put(&name, record.value, Expect::Revision(record.revision)).await?;
                } else if !resumed {
                    std::fs::remove_file(&unfinished).map_err(failed)?;
                    let path = path.display();
                    let what =
                        format!("{path} is missing, and there are records that only it opens");
                    return Err(StoreError::Damaged(what));
                }
            }
        }
        std::fs::rename(&unfinished, &path).map_err(failed)?;
        Ok(this)
    }

    fn new(inner: Arc<dyn Records>, key: SealingKey) -> Self {
        Self { inner, key: Arc::new(key) }
    }

    fn unseal(&self, name: &str, record: Record) -> Result<Record, StoreError> {
        let Record { value, revision } = record;
        Ok(Record { value: self.key.open(name, value)?, revision })
    }
}

impl Records for SealedRecords {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        let name = key.to_owned();
        Box::pin(async move {
            let found = self.inner.get(&name).await?;
            found.map(|record| self.unseal(&name, record)).transpose()
        })
    }

    fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        match self.key.seal(key, &value) {
            Ok(sealed) => self.inner.put(key, sealed, expect),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn delete(&self, key: &str, expect: Expect) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.delete(key, expect)
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(String, Record)>, StoreError>> {
        let listed = self.inner.list(prefix, after, limit);
        Box::pin(async move {
            let opened = listed.await?.into_iter().map(|(name, record)| {
                let record = self.unseal(&name, record)?;
                Ok((name, record))
            });
            opened.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryRecords, conformance};

    fn key(dir: &Path) -> SealingKey {
        SealingKey::load_or_make(&dir.join(KEY_FILE)).unwrap()
    }

    #[tokio::test]
    async fn sealed_records_are_records() {
        let dir = tempfile::tempdir().unwrap();
        conformance::records(&SealedRecords::new(
            Arc::new(MemoryRecords::default()),
            key(dir.path()),
        ))
        .await;
    }

    #[tokio::test]
    async fn nothing_is_readable_without_the_key_or_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let inner: Arc<dyn Records> = Arc::new(MemoryRecords::default());
        let sealed = SealedRecords::new(Arc::clone(&inner), key(dir.path()));
        let value = Bytes::from_static(b"{\"secret\":\"canary\"}");
        sealed.put("a", value.clone(), Expect::Any).await.unwrap();
        sealed.put("b", value.clone(), Expect::Any).await.unwrap();
        let (a, b) =
            (inner.get("a").await.unwrap().unwrap(), inner.get("b").await.unwrap().unwrap());
        assert!(!a.value.windows(6).any(|part| part == b"canary"));
        assert_ne!(a.value, b.value, "a nonce each");
        let again = SealedRecords::new(Arc::clone(&inner), key(dir.path()));
        assert_eq!(again.get("a").await.unwrap().unwrap().value, value);
        // Another record's value, a flipped bit, a cut, another key.
        inner.put("b", a.value.clone(), Expect::Any).await.unwrap();
        assert!(
            sealed.get("b").await.unwrap_err().to_string().contains("\"b\" cannot be decrypted")
        );
        let mut flipped = a.value.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        for bad in [flipped, a.value[..9].to_vec(), vec![SEALED]] {
            inner.put("a", bad.into(), Expect::Any).await.unwrap();
            assert!(sealed.get("a").await.is_err() && sealed.list("", None, 9).await.is_err());
        }
        inner.put("a", a.value, Expect::Any).await.unwrap();
        let other = tempfile::tempdir().unwrap();
        assert!(SealedRecords::new(Arc::clone(&inner), key(other.path())).get("a").await.is_err());
    }

    #[tokio::test]
    async fn what_an_older_version_wrote_is_sealed_and_then_nothing_in_the_clear_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let inner: Arc<dyn Records> = Arc::new(MemoryRecords::default());
        let value = Bytes::from_static(b"{}");
        for n in 0..PAGE + 7 {
            inner.put(&format!("old/{n}"), value.clone(), Expect::Any).await.unwrap();
        }
        let sealed = SealedRecords::open(Arc::clone(&inner), dir.path()).await.unwrap();
        assert_eq!(sealed.get("old/506").await.unwrap().unwrap().value, value);
        assert_eq!(inner.get("old/506").await.unwrap().unwrap().value.first(), Some(&SEALED));
        drop(SealedRecords::open(Arc::clone(&inner), dir.path()).await.unwrap());
        inner.put("forged", value, Expect::Any).await.unwrap();
        assert!(sealed.get("forged").await.is_err());
        // Without its key the rest is lost, and told so; no new key is made.
        std::fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        let lost = SealedRecords::open(Arc::clone(&inner), dir.path()).await.unwrap_err();
        assert!(lost.to_string().contains("is missing"), "{lost}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_key_is_private_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let _ = key(dir.path());
        let path = dir.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"short").unwrap();
        assert!(
            SealingKey::load_or_make(&path)
                .unwrap_err()
                .to_string()
                .contains("must have 32 bytes, has 5")
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }
}
