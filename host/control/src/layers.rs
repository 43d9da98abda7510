//! Layers: read-only file trees, by name and number. The zip of a version is the blob
//! `layer/DIGEST`; what is known of it is in one record a layer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use wambda_model::Digest;
use wambda_policy::ResourcePolicy;
use wambda_store::{Blobs, Expect, Records, StoreError};

use crate::to_the_end;

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

type Snapshot = BTreeMap<String, Arc<LayerRecord>>;

/// The layers of this server.
pub struct Layers {
    records: Arc<dyn Records>,
    blobs: Arc<dyn Blobs>,
    current: ArcSwap<Snapshot>,
    commit: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layers").field("count", &self.current.load().len()).finish_non_exhaustive()
    }
}

const PREFIX: &str = "layer/";

/// The key of a layer's zip.
fn blob_key(digest: &Digest) -> String {
    format!("{PREFIX}{digest}")
}

impl Layers {
    /// Reads the layers, and removes zips that neither they nor `used` name.
    ///
    /// # Errors
    /// When storage fails or a record is damaged.
    pub async fn load(
        records: Arc<dyn Records>,
        blobs: Arc<dyn Blobs>,
        used: &BTreeSet<Digest>,
    ) -> Result<Arc<Self>, StoreError> {
        let mut all = Snapshot::new();
        for (key, stored) in records.list(PREFIX, None, usize::MAX).await? {
            let read = serde_json::from_slice::<LayerRecord>(&stored.value);
            let read = read.map_err(|error| StoreError::Failed(format!("{key}: {error}")))?;
            let name = key.strip_prefix(PREFIX).unwrap_or(&key).to_owned();
            all.insert(name, Arc::new(read));
        }
        let versions = all.values().flat_map(|layer| layer.versions.values());
        let mut kept: BTreeSet<Digest> = versions.map(|version| version.digest).collect();
        kept.extend(used);
        for key in blobs.list("layer").await? {
            let digest = key.strip_prefix(PREFIX).map(Digest::parse);
            if let Some(Ok(digest)) = digest
                && !kept.contains(&digest)
            {
                blobs.delete(&key).await?;
            }
        }
        let (current, commit) = (ArcSwap::from_pointee(all), Arc::default());
        Ok(Arc::new(Self { records, blobs, current, commit }))
    }

    /// All of them now, by name.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Adds a version, and returns its number.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn publish(
        self: &Arc<Self>,
        name: &str,
        zip: Bytes,
        version: LayerVersion,
    ) -> Result<u64, StoreError> {
        self.blobs.put(&blob_key(&version.digest), zip).await?;
        self.edit(name, |layer| {
            layer.last += 1;
            layer.versions.insert(layer.last, version);
            Ok(layer.last)
        })
        .await
    }

    /// Changes a layer. One without versions is kept for its number.
    ///
    /// # Errors
    /// What `change` says, or that storage failed.
    pub async fn edit<T, E: From<StoreError>>(
        self: &Arc<Self>,
        name: &str,
        change: impl FnOnce(&mut LayerRecord) -> Result<T, E>,
    ) -> Result<T, E> {
        let commit = Arc::clone(&self.commit).lock_owned().await;
        let mut all = (*self.current()).clone();
        let mut layer = all.get(name).map(|layer| (**layer).clone()).unwrap_or_default();
        let value = change(&mut layer)?;
        let text = serde_json::to_vec(&layer).map_err(|e| StoreError::Failed(e.to_string()))?;
        all.insert(name.to_owned(), Arc::new(layer));
        let (this, key) = (Arc::clone(self), format!("{PREFIX}{name}"));
        let write = async move {
            this.records.put(&key, text.into(), Expect::Any).await?;
            this.current.store(Arc::new(all));
            Ok(())
        };
        to_the_end(commit, write).await?;
        Ok(value)
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
        checked.ok_or_else(|| format!("the layer {digest} is damaged"))
    }

    /// The zip of a version.
    ///
    /// # Errors
    /// As [`Self::zip`].
    pub async fn content(&self, version: &LayerVersion) -> Result<Bytes, String> {
        Self::zip(&*self.blobs, version.digest).await
    }
}
