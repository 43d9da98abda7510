//! Publishing and deleting functions. A publish is code first, record last: whatever is killed
//! when, a function is absent or complete.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, Notify};
use wambda_model::catalog::Catalog;
use wambda_model::config::InvalidConfig;
use wambda_model::limits::TIMEOUT_MS_MAX;
use wambda_model::{
    Build, BuildError, CatalogCell, Clock, Digest, Function, FunctionConfig, FunctionName,
    Inspection, Metrics, Version,
};
use wambda_store::{Blobs, Expect, Records, StoreError};

use crate::record::{self, FunctionRecord, SCHEMA};

/// Period of looking whether a replaced version is still held.
const SWEEP_POLL: std::time::Duration = std::time::Duration::from_millis(250);
/// Longer than an invocation can wait and run.
const SWEEP_PATIENCE: std::time::Duration =
    std::time::Duration::from_millis(TIMEOUT_MS_MAX + 120_000);
/// Records of one read while loading.
const LOAD_PAGE: usize = 1_000;

/// Whose functions these are; part of every ARN.
#[derive(Debug, Clone)]
pub struct Identity {
    /// For example `us-east-1`.
    pub region: Arc<str>,
    /// Twelve digits.
    pub account: Arc<str>,
}

/// Why a publish failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A configuration value is out of its range.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The upload was not taken.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A successful publish.
#[derive(Debug)]
pub struct Published {
    /// The version that runs from now on.
    pub version: Arc<Version>,
    /// Whether the function is new.
    pub created: bool,
}

/// The functions of this server.
pub struct Functions {
    records: Arc<dyn Records>,
    blobs: Arc<dyn Blobs>,
    build: Arc<dyn Build>,
    catalog: CatalogCell,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    identity: Identity,
    /// One commit at a time: record, catalog and cleaning agree.
    commit: Mutex<()>,
    /// Code that is being published, and how often: nobody may remove it.
    in_flight: std::sync::Mutex<HashMap<Digest, u32>>,
    changed: Arc<Notify>,
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Functions").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What [`Functions`] is made from.
pub struct Parts {
    /// Small values.
    pub records: Arc<dyn Records>,
    /// Code.
    pub blobs: Arc<dyn Blobs>,
    /// The compiler.
    pub build: Arc<dyn Build>,
    /// What readers see.
    pub catalog: CatalogCell,
    /// Measurements.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Whose functions these are.
    pub identity: Identity,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Functions {
    /// No functions yet: call [`Self::load`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { records, blobs, build, catalog, metrics, clock, identity } = parts;
        let (commit, changed) = (Mutex::new(()), Arc::new(Notify::new()));
        let in_flight = std::sync::Mutex::default();
        Self {
            records,
            blobs,
            build,
            catalog,
            metrics,
            clock,
            identity,
            commit,
            in_flight,
            changed,
        }
    }

    /// The catalog that readers see.
    #[must_use]
    pub fn catalog(&self) -> &CatalogCell {
        &self.catalog
    }

    /// Notified after every change of the catalog.
    #[must_use]
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Reads every function from the records, and removes code that none of them has: what a
    /// publish left behind when it was killed. A record that cannot be read is reported and left
    /// alone.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn load(&self) -> Result<usize, StoreError> {
        let _commit = self.commit.lock().await;
        let mut functions = Vec::new();
        let mut unreadable = false;
        let mut after: Option<String> = None;
        loop {
            let page = self.records.list(record::PREFIX, after.as_deref(), LOAD_PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, stored) in page {
                match serde_json::from_slice::<FunctionRecord>(&stored.value) {
                    Ok(found) if found.schema <= SCHEMA => functions.push(self.function(found)),
                    Ok(found) => {
                        unreadable = true;
                        tracing::error!(key, schema = found.schema, "made by a newer Wambda");
                    }
                    Err(error) => {
                        unreadable = true;
                        tracing::error!(key, %error, "damaged record");
                    }
                }
            }
        }
        let count = functions.len();
        self.catalog.store(functions.into_iter().collect());
        self.changed.notify_one();
        if !unreadable {
            self.sweep().await?;
        }
        Ok(count)
    }

    fn function(&self, found: FunctionRecord) -> Function {
        let name = found.name.clone();
        let known = self.catalog.latest(&name);
        let Identity { region, account } = &self.identity;
        let version = Version {
            uid: Version::next_uid(),
            label: "$LATEST".into(),
            revision: found.revision,
            kind: found.kind,
            component: found.component,
            wasi03: found.wasi03,
            digest: found.digest,
            code_bytes: found.code_bytes,
            imports: found.imports,
            published_ms: found.published_ms,
            compile_ms: found.compile_ms,
            reuse: found.config.reuse_for(found.kind),
            config: found.config,
            arn: format!("arn:aws:lambda:{region}:{account}:function:{name}").into(),
            log_group: format!("/aws/lambda/{name}").into(),
            logs: known.as_ref().map_or_else(Arc::default, |v| Arc::clone(&v.logs)),
            metrics: known
                .as_ref()
                .map_or_else(|| self.metrics.function(&name), |v| Arc::clone(&v.metrics)),
            name,
        };
        Function { latest: Arc::new(version) }
    }

    /// Creates or replaces a function's code. `change` is applied to its configuration: the present
    /// one, or the default for a new function. What has been inspected is compiled and committed
    /// even when the caller goes away.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was changed then.
    pub async fn publish(
        self: &Arc<Self>,
        name: &FunctionName,
        upload: Bytes,
        change: Change,
    ) -> Result<Published, PublishError> {
        // Before the work, so that a bad value costs nothing; again under the lock, where the
        // present configuration stands still.
        self.configured(name, &change)?;
        let inspection = self.build.inspect(upload).await?;
        check_memory(&inspection, &self.configured(name, &change)?)?;
        let pinned = Pinned::new(self, inspection.digest);
        let (this, name) = (Arc::clone(self), name.clone());
        let commit = async move {
            let took = this.build.build(&inspection).await?;
            let done = this.commit_publish(&name, inspection, took, &change).await;
            drop(pinned);
            done
        };
        let done = tokio::spawn(commit).await;
        done.map_err(|lost| StoreError::Failed(lost.to_string()))?
    }

    async fn commit_publish(
        self: &Arc<Self>,
        name: &FunctionName,
        inspection: Inspection,
        took: std::time::Duration,
        change: &Change,
    ) -> Result<Published, PublishError> {
        let _commit = self.commit.lock().await;
        let config = self.configured(name, change)?;
        check_memory(&inspection, &config)?;
        let Inspection { wasm, digest, kind, component, wasi03, imports, .. } = inspection;
        let known = self.catalog.latest(name);
        let record = FunctionRecord {
            schema: SCHEMA,
            name: name.clone(),
            revision: known.as_ref().map_or(1, |v| v.revision + 1),
            kind,
            component,
            wasi03,
            digest,
            code_bytes: wasm.len() as u64,
            imports,
            published_ms: self.clock.unix_ms(),
            compile_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            config,
        };
        self.blobs.put(&record::code_key(&digest), wasm).await?;
        let value = serde_json::to_vec(&record).map_err(|e| StoreError::Failed(e.to_string()))?;
        self.records.put(&record::key(name), value.into(), Expect::Any).await?;
        let function = self.function(record);
        let version = Arc::clone(&function.latest);
        self.swap(|catalog| catalog.with(function));
        let created = known.is_none();
        if let Some(before) = known {
            self.sweep_later(before);
        }
        Ok(Published { version, created })
    }

    fn configured(
        &self,
        name: &FunctionName,
        change: &Change,
    ) -> Result<FunctionConfig, InvalidConfig> {
        let known = self.catalog.latest(name);
        let mut config = known.map(|v| v.config.clone()).unwrap_or_default();
        change(&mut config)?;
        config.check()?;
        Ok(config)
    }

    /// Removes a function. Returns whether there was one. Goes on when the caller goes away.
    ///
    /// # Errors
    /// When storage fails; the function is still there then.
    pub async fn delete(self: &Arc<Self>, name: &FunctionName) -> Result<bool, StoreError> {
        let (this, name) = (Arc::clone(self), name.clone());
        let done = tokio::spawn(async move { this.commit_delete(&name).await }).await;
        done.map_err(|lost| StoreError::Failed(lost.to_string()))?
    }

    async fn commit_delete(self: &Arc<Self>, name: &FunctionName) -> Result<bool, StoreError> {
        let _commit = self.commit.lock().await;
        let Some(version) = self.catalog.latest(name) else {
            return Ok(false);
        };
        self.records.delete(&record::key(name), Expect::Any).await?;
        self.swap(|catalog| catalog.without(name));
        self.metrics.forget(name, &version.metrics);
        self.sweep_later(version);
        Ok(true)
    }

    /// The code of a digest.
    ///
    /// # Errors
    /// A text for the log, when it is not there, damaged, or cannot be read.
    pub async fn code(blobs: &dyn Blobs, digest: Digest) -> Result<Bytes, String> {
        let found = blobs.get(&record::code_key(&digest)).await.map_err(|e| e.to_string())?;
        let code = found.ok_or_else(|| format!("the code {digest} is not there"))?;
        // A large one takes a while to hash.
        let check =
            tokio::task::spawn_blocking(move || (Digest::of(&code) == digest).then_some(code));
        let checked = check.await.map_err(|e| e.to_string())?;
        checked.ok_or_else(|| format!("the code {digest} is damaged"))
    }

    fn swap(&self, change: impl FnOnce(&Catalog) -> Catalog) {
        let next = change(&self.catalog.load());
        self.catalog.store(next);
        self.changed.notify_one();
    }

    fn used(&self) -> HashSet<Digest> {
        let in_flight = self.pins();
        let published = self.catalog.load();
        let published = published.iter().map(|f| f.latest.digest);
        published.chain(in_flight.keys().copied()).collect()
    }

    fn pins(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, u32>> {
        self.in_flight.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Removes a version's code once nobody holds the version: an invocation that was admitted
    /// before the publish still needs it.
    fn sweep_later(self: &Arc<Self>, version: Arc<Version>) {
        let this = Arc::clone(self);
        drop(tokio::spawn(async move {
            let held = async {
                while Arc::strong_count(&version) > 1 {
                    tokio::time::sleep(SWEEP_POLL).await;
                }
            };
            // No invocation is that old.
            let _ = tokio::time::timeout(SWEEP_PATIENCE, held).await;
            let _commit = this.commit.lock().await;
            this.sweep_one(version.digest).await;
        }));
    }

    /// Removes code that no function has any more. Failing to only costs space until the next start.
    async fn sweep_one(&self, digest: Digest) {
        let used = self.used();
        if used.contains(&digest) {
            return;
        }
        if let Err(error) = self.blobs.delete(&record::code_key(&digest)).await {
            tracing::warn!(%digest, %error, "cannot remove code that is not used any more");
        }
        self.build.forget(&digest);
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        let used = self.used();
        for key in self.blobs.list("code").await? {
            let digest = key.strip_prefix("code/").map(Digest::parse);
            if let Some(Ok(digest)) = digest
                && !used.contains(&digest)
            {
                self.blobs.delete(&key).await?;
            }
        }
        self.build.sweep(&|digest| used.contains(digest));
        Ok(())
    }
}

/// What a publish does to a function's configuration.
pub type Change = Arc<dyn Fn(&mut FunctionConfig) -> Result<(), InvalidConfig> + Send + Sync>;

/// Keeps code from being removed while it is being published.
struct Pinned {
    functions: Arc<Functions>,
    digest: Digest,
}

impl Pinned {
    fn new(functions: &Arc<Functions>, digest: Digest) -> Self {
        *functions.pins().entry(digest).or_default() += 1;
        Self { functions: Arc::clone(functions), digest }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self.functions.pins();
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

fn check_memory(inspection: &Inspection, config: &FunctionConfig) -> Result<(), BuildError> {
    let (starts, limit) = (inspection.memory_min_bytes, config.memory_bytes);
    if starts <= limit {
        return Ok(());
    }
    Err(BuildError::Invalid(format!(
        "its memories start with {starts} bytes, which is more than its memory limit of {limit} bytes"
    )))
}
