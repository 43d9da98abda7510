//! The cleaning of code that no function has any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use wambda_model::limits::TIMEOUT_MS_MAX;
use wambda_model::{Digest, Version};
use wambda_store::StoreError;
use wambda_store::damage::{self, Store};

use crate::functions::Functions;
use crate::record;

/// Period of looking whether a replaced version is still held.
const SWEEP_POLL: std::time::Duration = std::time::Duration::from_millis(250);
/// Longer than an invocation can wait and run.
const SWEEP_PATIENCE: std::time::Duration =
    std::time::Duration::from_millis(TIMEOUT_MS_MAX + 120_000);
impl Functions {
    /// Digests that functions have, or that are being published.
    fn used(&self) -> HashSet<Digest> {
        let in_flight = self.pins();
        let published = self.catalog().load();
        let published = published.iter().flat_map(|function| function.all_versions());
        let published = published.flat_map(|version| [version.digest, version.upload]);
        published.chain(in_flight.keys().copied()).collect()
    }

    fn pins(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, u32>> {
        self.in_flight.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// As [`Self::sweep_later`], for what was `$LATEST`, when it is not any more.
    pub(crate) fn sweep_replaced(self: &Arc<Self>, before: &Arc<Version>) {
        let now = self.catalog().get(&before.name);
        if now.is_none_or(|function| !Arc::ptr_eq(&function.latest, before)) {
            self.sweep_later(Arc::clone(before));
        }
    }

    /// Removes a version's code once nobody holds the version: an invocation that was admitted
    /// before the publish still needs it.
    pub(crate) fn sweep_later(self: &Arc<Self>, version: Arc<Version>) {
        let this = Arc::clone(self);
        drop(tokio::spawn(async move {
            let held = async {
                while Arc::strong_count(&version) > 1 {
                    tokio::time::sleep(SWEEP_POLL).await;
                }
            };
            // No invocation is that old.
            let _ = tokio::time::timeout(SWEEP_PATIENCE, held).await;
            let _commit = this.lock().await;
            this.sweep_one(version.digest, version.upload).await;
        }));
    }

    /// Removes code that no function has any more. Failing to only costs space until the next start.
    pub(crate) async fn sweep_one(&self, digest: Digest, upload: Digest) {
        let is_used = |digest| self.totals().has(digest) || self.pins().contains_key(digest);
        let mut keys = Vec::new();
        if !is_used(&digest) {
            keys.push(record::code_key(&digest));
            self.build.forget(&digest);
        }
        if upload != digest && !is_used(&upload) {
            keys.push(record::upload_key(&upload));
        }
        for key in keys {
            if let Err(error) = self.blobs.delete(&key).await {
                tracing::warn!(key, %error, "cannot remove code that is not used any more");
            }
        }
    }

    /// As [`Self::sweep_one`], for what was refused: nothing of it stays. What others publish at the same
    /// time, or have, does.
    pub(crate) async fn sweep_refused(&self, digest: Digest, upload: Digest) {
        let _commit = self.lock().await;
        self.sweep_one(digest, upload).await;
    }

    /// Puts code into the trash that no function has: what a publish left behind when it was killed. Tells
    /// of code that a function has and that is lost. To be called once all records are read.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        let _commit = self.lock().await;
        let used = self.used();
        for (prefix, place) in [("code", "code/"), ("upload", "upload/")] {
            for key in self.blobs.list(prefix).await? {
                let digest = key.strip_prefix(place).map(Digest::parse);
                if let Some(Ok(digest)) = digest
                    && !used.contains(&digest)
                {
                    tracing::warn!(key, "no function has this code: it goes to the trash");
                    // One that cannot be moved does not keep the others.
                    if let Err(error) = self.blobs.discard(&key).await {
                        tracing::warn!(key, %error, "cannot be put into the trash");
                    }
                }
            }
        }
        self.build.sweep(&|digest| used.contains(digest));
        Ok(())
    }

    /// Tells of code that a function has and that is lost.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn tell_lost_code(&self) -> Result<(), StoreError> {
        let mut there: HashSet<String> = self.blobs.list("code").await?.into_iter().collect();
        there.extend(self.blobs.list("upload").await?);
        for version in self.catalog().load().iter().flat_map(|function| function.all_versions()) {
            let mut keys = vec![record::code_key(&version.digest)];
            if version.upload != version.digest {
                keys.push(record::upload_key(&version.upload));
            }
            for key in keys.iter().filter(|key| !there.contains(*key)) {
                let (name, label) = (&version.name, &version.label);
                damage::tell(Store::Blobs, &format!("{key} of {name}:{label} is not there"));
            }
        }
        Ok(())
    }
}

/// Keeps code from being removed while it is being published.
pub(crate) struct Pinned {
    functions: Arc<Functions>,
    digests: [Digest; 2],
}

impl Pinned {
    pub(crate) fn new(functions: &Arc<Functions>, digest: Digest, upload: Digest) -> Self {
        let digests = [digest, upload];
        let mut pins = functions.pins();
        for digest in digests {
            *pins.entry(digest).or_default() += 1;
        }
        drop(pins);
        Self { functions: Arc::clone(functions), digests }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self.functions.pins();
        for digest in self.digests {
            if let Some(count) = pins.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(&digest);
                }
            }
        }
    }
}
