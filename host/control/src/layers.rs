//! Layers: read-only file trees, by name and number. The zip of a version is the blob
//! `layer/DIGEST`; what is known of it is in one record a layer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use wambda_model::Digest;
use wambda_policy::ResourcePolicy;
use wambda_store::damage::{self, Store};
use wambda_store::{Blobs, Records, StoreError};

use crate::functions::PublishError;
use crate::storage::Storage;
use crate::table::{Row, Snapshot, Table};

/// A layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The number of its newest version, kept when that is deleted.
    pub last: u64,
    /// Its versions, by number.
    pub versions: BTreeMap<u64, LayerVersion>,
}

/// A version of a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerVersion {
    /// SHA-256 of its zip.
    pub digest: Digest,
    /// Bytes of its zip.
    pub bytes: u64,
    /// For people.
    pub description: String,
    /// For people.
    pub license: String,
    /// Runtimes it is said to be for.
    pub runtimes: Vec<String>,
    /// Architectures it is said to be for.
    pub architectures: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Who may use it.
    #[serde(default)]
    pub policy: ResourcePolicy,
    /// Another one with every change of the policy.
    #[serde(default)]
    pub revision_id: String,
}

impl Row for LayerRecord {
    const PREFIX: &'static str = "layer/";
}

/// The layers of this server, by name.
pub struct Layers {
    table: Arc<Table<LayerRecord>>,
    blobs: Arc<dyn Blobs>,
    storage: Arc<Storage>,
    /// One at a time: a zip is no leftover before its record is there.
    publishing: Mutex<()>,
    /// Zips of versions that were deleted, with their bytes: they count until they are swept away.
    deleted: std::sync::Mutex<BTreeMap<Digest, u64>>,
}

impl std::fmt::Debug for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layers").field("table", &self.table).finish_non_exhaustive()
    }
}

/// Where the zips are.
const BLOBS: &str = "layer/";

/// The key of a layer's zip.
fn blob_key(digest: &Digest) -> String {
    format!("{BLOBS}{digest}")
}

impl Layers {
    /// Reads the layers.
    ///
    /// # Errors
    /// When storage fails, or a record is damaged or of a newer version.
    pub async fn load(
        records: Arc<dyn Records>,
        blobs: Arc<dyn Blobs>,
        storage: &Arc<Storage>,
    ) -> Result<Arc<Self>, StoreError> {
        let table = Table::<LayerRecord>::load(records).await?;
        let (storage, publishing, deleted) =
            (Arc::clone(storage), Mutex::default(), std::sync::Mutex::default());
        let this = Self { table, blobs, storage, publishing, deleted };
        this.measure();
        Ok(Arc::new(this))
    }

    /// Puts zips into the trash that neither layers nor `used` name.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn sweep(&self, used: impl Fn() -> BTreeSet<Digest>) -> Result<(), StoreError> {
        let _publishing = self.publishing.lock().await;
        let mut kept = used();
        kept.extend(self.digests());
        for key in self.blobs.list("layer").await? {
            let digest = key.strip_prefix(BLOBS).map(Digest::parse);
            if let Some(Ok(digest)) = digest
                && !kept.contains(&digest)
            {
                tracing::warn!(key, "no layer is made of this zip: it goes to the trash");
                // One that cannot be moved does not keep the others.
                match self.blobs.discard(&key).await {
                    Ok(()) => drop(self.deleted().remove(&digest)),
                    Err(error) => tracing::warn!(key, %error, "cannot be put into the trash"),
                }
            }
        }
        self.measure();
        Ok(())
    }

    /// Tells of zips that a layer has and that are lost.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn tell_lost(&self) -> Result<(), StoreError> {
        let there = self.blobs.list("layer").await?;
        for key in self.digests().iter().map(blob_key).filter(|key| !there.contains(key)) {
            damage::tell(Store::Blobs, &format!("{key} is not there"));
        }
        Ok(())
    }

    /// Digests of the zips of all versions.
    fn digests(&self) -> BTreeSet<Digest> {
        let all = self.current();
        let versions = all.values().flat_map(|layer| layer.versions.values());
        versions.map(|version| version.digest).collect()
    }

    /// Brings the quota in line with what there is.
    fn measure(&self) {
        let all = self.current();
        let versions = all.values().flat_map(|layer| layer.versions.values());
        let mut distinct = self.deleted().clone();
        distinct.extend(versions.map(|version| (version.digest, version.bytes)));
        self.storage.set_layers(distinct.values().sum());
    }

    fn deleted(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, u64>> {
        self.deleted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// All of them now, by name.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot<LayerRecord>> {
        self.table.current()
    }

    /// Adds a version, and returns its number. Goes on when the caller goes away. Of a version that is
    /// refused nothing stays.
    ///
    /// # Errors
    /// When there is no room for it, or storage fails.
    pub async fn publish(
        self: &Arc<Self>,
        name: &str,
        zip: Bytes,
        version: LayerVersion,
    ) -> Result<u64, PublishError> {
        let (this, name) = (Arc::clone(self), name.to_owned());
        let done =
            tokio::spawn(async move { this.commit_publish(&name, zip, version).await }).await;
        done.map_err(|lost| StoreError::Failed(lost.to_string()))?
    }

    async fn commit_publish(
        &self,
        name: &str,
        zip: Bytes,
        version: LayerVersion,
    ) -> Result<u64, PublishError> {
        let _publishing = self.publishing.lock().await;
        self.storage.check(version.bytes)?;
        let key = blob_key(&version.digest);
        // A function may have it although no layer does any more.
        let is_new = !self.blobs.list("layer").await?.contains(&key);
        let add = |layer: &mut LayerRecord| {
            layer.last += 1;
            layer.versions.insert(layer.last, version);
            Ok::<_, PublishError>(())
        };
        let written = self.blobs.put(&key, zip).await.map_err(PublishError::from);
        let done = match written {
            Ok(()) => self.edit(name, add).await.map(|layer| layer.last),
            Err(error) => Err(error),
        };
        if done.is_err()
            && is_new
            && let Err(error) = self.blobs.delete(&key).await
        {
            tracing::warn!(key, %error, "cannot remove a layer that was refused");
        }
        done
    }

    /// Changes a layer. One without versions is kept for its number.
    ///
    /// # Errors
    /// What `change` says, or that storage failed.
    pub async fn edit<E: From<StoreError>>(
        &self,
        name: &str,
        change: impl FnOnce(&mut LayerRecord) -> Result<(), E>,
    ) -> Result<Arc<LayerRecord>, E> {
        let change = |all: &Snapshot<LayerRecord>| {
            let mut layer = all.get(name).map(|layer| (**layer).clone()).unwrap_or_default();
            change(&mut layer).map(|()| layer)
        };
        let before = self.current().get(name).cloned();
        let put = self.table.put(name, change).await;
        if let (Some(before), Ok(after)) = (before, &put) {
            let gone =
                before.versions.iter().filter(|(number, _)| !after.versions.contains_key(number));
            self.deleted().extend(gone.map(|(_, version)| (version.digest, version.bytes)));
        }
        self.measure();
        put
    }

    /// The zip of a digest.
    ///
    /// # Errors
    /// A text for the log, when it is not there, damaged, or cannot be read.
    pub async fn zip(blobs: &dyn Blobs, digest: Digest) -> Result<Bytes, String> {
        let found = blobs.get(&blob_key(&digest)).await.map_err(|error| error.to_string())?;
        let zip = found.ok_or_else(|| format!("the layer {digest} is not there"))?;
        let check =
            tokio::task::spawn_blocking(move || (Digest::of(&zip) == digest).then_some(zip));
        let checked = check.await.map_err(|error| error.to_string())?;
        checked.ok_or_else(|| {
            damage::tell(Store::Blobs, &blob_key(&digest));
            format!("the layer {digest} is damaged")
        })
    }

    /// The zip of a version.
    ///
    /// # Errors
    /// As [`Self::zip`].
    pub async fn content(&self, version: &LayerVersion) -> Result<Bytes, String> {
        Self::zip(&*self.blobs, version.digest).await
    }
}
