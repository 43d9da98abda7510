//! Layers: read-only file trees, by name and number. The zip of a version is the blob
//! `layer/DIGEST`; what is known of it is in one record a layer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wambda_model::Digest;
use wambda_policy::ResourcePolicy;
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
    /// Reads the layers, and removes zips that neither they nor `used` name.
    ///
    /// # Errors
    /// When storage fails or a record is damaged.
    pub async fn load(
        records: Arc<dyn Records>,
        blobs: Arc<dyn Blobs>,
        used: &BTreeSet<Digest>,
        storage: &Arc<Storage>,
    ) -> Result<Arc<Self>, StoreError> {
        let table = Table::<LayerRecord>::load(records).await?;
        let all = table.current();
        let versions = all.values().flat_map(|layer| layer.versions.values());
        let mut kept: BTreeSet<Digest> = versions.map(|version| version.digest).collect();
        kept.extend(used);
        for key in blobs.list("layer").await? {
            let digest = key.strip_prefix(BLOBS).map(Digest::parse);
            if let Some(Ok(digest)) = digest
                && !kept.contains(&digest)
            {
                blobs.delete(&key).await?;
            }
        }
        let this = Self { table, blobs, storage: Arc::clone(storage) };
        this.measure();
        Ok(Arc::new(this))
    }

    /// Brings the quota in line with what there is.
    fn measure(&self) {
        let all = self.current();
        let versions = all.values().flat_map(|layer| layer.versions.values());
        let distinct: BTreeMap<Digest, u64> = versions.map(|v| (v.digest, v.bytes)).collect();
        self.storage.set_layers(distinct.values().sum());
    }

    /// All of them now, by name.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot<LayerRecord>> {
        self.table.current()
    }

    /// Adds a version, and returns its number.
    ///
    /// # Errors
    /// When there is no room for it, or storage fails.
    pub async fn publish(
        &self,
        name: &str,
        zip: Bytes,
        version: LayerVersion,
    ) -> Result<u64, PublishError> {
        self.storage.check(version.bytes)?;
        self.blobs.put(&blob_key(&version.digest), zip).await?;
        let add = |layer: &mut LayerRecord| {
            layer.last += 1;
            layer.versions.insert(layer.last, version);
            Ok::<_, PublishError>(())
        };
        Ok(self.edit(name, add).await?.last)
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
        let put = self.table.put(name, change).await;
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
