//! The functions of this server: load, commit, and the cleaning of what no function has any more.
//! Every change is one commit: blobs first, then the record, then the catalog. Whatever is killed
//! when, a function is absent or complete.
//!
//! What changes are there is in [`crate::publish`] (code and versions) and, through
//! [`Functions::edit`], in whoever calls it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard, Notify};
use wambda_model::config::InvalidConfig;
use wambda_model::gate::unreserved;
use wambda_model::limits::LOG_RING_BYTES;
use wambda_model::{
    Build, BuildError, CatalogCell, Clock, Details, Digest, Function, FunctionName, Gate, LATEST,
    LogRing, LogRoom, Metrics, Share, Version,
};
use wambda_policy::Grants;
use wambda_store::damage::{self, Store};
use wambda_store::{Blobs, Expect, Records, StoreError};

use crate::concurrency::Refused;
use crate::record::{self, FunctionRecord, SCHEMA, Staged, VersionRecord};
use crate::storage::{Full, Storage};
use crate::totals::{self, Totals};

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

/// Why a change failed. Nothing was changed.
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
    /// There is such a function already.
    #[error("there is a function of that name already")]
    Exists,
    /// There is no such function.
    #[error("there is no function of that name")]
    Missing,
    /// Its code is being compiled.
    #[error("an update of the function is in progress")]
    InProgress,
    /// It is in another state than the caller thought.
    #[error("the function has changed meanwhile")]
    Stale,
    /// It would have too much of the account's concurrency.
    #[error(transparent)]
    Concurrency(#[from] Refused),
    /// Too many of something.
    #[error("{0}")]
    Limit(String),
}

/// There is no such function.
#[derive(Debug)]
pub struct Missing;

impl From<Full> for PublishError {
    fn from(full: Full) -> Self {
        Self::Limit(full.to_string())
    }
}

impl From<Missing> for PublishError {
    fn from(_: Missing) -> Self {
        Self::Missing
    }
}

/// What a function may do with an execution role.
pub type Roles = Arc<dyn Fn(&str, &FunctionName) -> Grants + Send + Sync>;

/// What only a commit may touch.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Code that is being compiled, by function.
    pub(crate) staged: HashMap<FunctionName, Staged>,
}

/// The functions of this server.
pub struct Functions {
    pub(crate) records: Arc<dyn Records>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) build: Arc<dyn Build>,
    storage: Arc<Storage>,
    logs: Arc<LogRoom>,
    catalog: CatalogCell,
    metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    identity: Identity,
    account: Arc<Gate>,
    concurrency: u32,
    roles: std::sync::RwLock<Roles>,
    /// One commit at a time: record, catalog and cleaning agree.
    commit: Mutex<Committed>,
    /// Code that is being published, and how often: nobody may remove it.
    pub(crate) in_flight: std::sync::Mutex<HashMap<Digest, u32>>,
    totals: std::sync::Mutex<Totals>,
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
    /// Invocations at once, of all functions together.
    pub concurrency: u32,
    /// Bytes of uploads, of what they are unpacked and compiled to, and of layers.
    pub code_storage: u64,
    /// Bytes of logs in memory.
    pub log_memory: u64,
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
        let Parts {
            records,
            blobs,
            build,
            catalog,
            metrics,
            clock,
            identity,
            concurrency,
            code_storage,
            log_memory,
        } = parts;
        Self {
            logs: LogRoom::new(log_memory),
            storage: Storage::new(code_storage, Arc::clone(&build)),
            records,
            blobs,
            build,
            catalog,
            metrics,
            clock,
            identity,
            account: Arc::new(Gate::shared(concurrency)),
            concurrency,
            roles: std::sync::RwLock::new(Arc::new(|_, _| Grants::default())),
            commit: Mutex::default(),
            in_flight: std::sync::Mutex::default(),
            totals: std::sync::Mutex::default(),
            changed: Arc::new(Notify::new()),
        }
    }

    /// The catalog that readers see.
    #[must_use]
    pub fn catalog(&self) -> &CatalogCell {
        &self.catalog
    }

    /// Whose functions these are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where their code and what clients uploaded is kept.
    #[must_use]
    pub fn blobs(&self) -> &Arc<dyn Blobs> {
        &self.blobs
    }

    /// The quota of what is kept for them, and for layers.
    #[must_use]
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// Bytes of logs in memory, and how many there may be.
    #[must_use]
    pub fn logs_held(&self) -> (u64, u64) {
        let catalog = self.catalog.load();
        let held = catalog.iter().map(|function| function.latest.logs.bytes() as u64).sum();
        (held, self.logs.limit())
    }

    /// Bytes in memory of wasm that was unpacked from uploads.
    #[must_use]
    pub fn unpacked(&self) -> u64 {
        self.build.unpacked()
    }

    /// Has functions give up what is not their part of the room for logs any more.
    pub fn trim_logs(&self) {
        if self.logs.each() < LOG_RING_BYTES {
            self.catalog.load().iter().for_each(|function| function.latest.logs.trim());
        }
    }

    /// Invocations at once, of all functions together; and what is left to those without a
    /// reservation.
    #[must_use]
    pub fn concurrency(&self) -> (u32, u32) {
        (self.concurrency, self.account.limit())
    }

    /// Notified after every change of the catalog.
    #[must_use]
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Says what execution roles may reach, from now on.
    pub fn set_roles(&self, roles: Roles) {
        *self.roles.write().unwrap_or_else(std::sync::PoisonError::into_inner) = roles;
        self.regrant();
    }

    /// Works out anew what every version may reach: roles have changed.
    pub fn regrant(&self) {
        let catalog = self.catalog.load();
        for version in catalog.iter().flat_map(|function| function.all_versions()) {
            self.grant(version);
        }
    }

    fn grant(&self, version: &Version) {
        let roles = self.roles.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        version.grants.store(Arc::new(roles(&version.attributes.role, &version.name)));
    }

    /// Reads every function from the records. What was being compiled is compiled.
    ///
    /// # Errors
    /// When storage fails, or a record is damaged or of a newer version: a function that is left out loses its
    /// events, and its name to whatever is published next.
    pub async fn load(self: &Arc<Self>) -> Result<usize, StoreError> {
        let mut commit = self.commit.lock().await;
        let mut functions = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.records.list(record::PREFIX, after.as_deref(), LOAD_PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, stored) in page {
                let found = record::read(&key, &stored.value)?;
                let versions = self.load_versions(&found).await?;
                let FunctionRecord { name, latest, staged, details, .. } = found;
                functions.push(self.assemble(&name, latest, versions, details));
                commit.staged.extend(staged.map(|staged| (name, staged)));
            }
        }
        let count = functions.len();
        let mut totals = Totals::default();
        for function in &functions {
            Self::share_out(function);
            totals.add(function);
            tell_missing_versions(function);
        }
        self.settle(&totals);
        *self.totals() = totals;
        self.catalog.store(functions.into_iter().collect());
        self.changed.notify_one();
        for name in commit.staged.keys() {
            drop(self.finish(name, &commit));
        }
        Ok(count)
    }

    /// The published versions of a function. Of one that its record does not know of yet, the
    /// publish was killed: it was never acknowledged.
    async fn load_versions(
        &self,
        found: &FunctionRecord,
    ) -> Result<BTreeMap<u64, VersionRecord>, StoreError> {
        let mut versions = BTreeMap::new();
        if found.details.last_number == 0 {
            return Ok(versions);
        }
        let prefix = record::version_prefix(&found.name);
        for (_, version) in crate::table::read_all::<VersionRecord>(&*self.records, &prefix).await?
        {
            let number = version.number.unwrap_or_default();
            if (1..=found.details.last_number).contains(&number) {
                versions.insert(number, version);
            }
        }
        Ok(versions)
    }

    /// A function of these parts. Versions that are there already are taken as they are.
    fn assemble(
        &self,
        name: &FunctionName,
        latest: VersionRecord,
        versions: BTreeMap<u64, VersionRecord>,
        details: Details,
    ) -> Function {
        let known = self.catalog.get(name);
        let known = known.as_deref();
        let latest = self.version(name, latest, known);
        let kin = alone(&latest, known);
        let version = |(number, record)| (number, self.version(name, record, Some(&kin)));
        let versions = versions.into_iter().map(version).collect();
        Function { latest, versions, details }
    }

    /// The version of a record; the one that is there when it is the same.
    fn version(
        &self,
        name: &FunctionName,
        found: VersionRecord,
        known: Option<&Function>,
    ) -> Arc<Version> {
        let label = found.number.map_or_else(|| LATEST.to_owned(), |number| number.to_string());
        let same = known.and_then(|function| function.version(&label));
        if let Some(same) = same.filter(|version| version.revision == found.revision) {
            return Arc::clone(same);
        }
        let Identity { region, account } = &self.identity;
        let arn = format!("arn:aws:lambda:{region}:{account}:function:{name}");
        let group = match found.attributes.log_group.as_str() {
            "" => format!("/aws/lambda/{name}"),
            group => group.to_owned(),
        };
        let kin = known.map(|function| &function.latest);
        let version = Version {
            uid: Version::next_uid(),
            arn: if found.number.is_some() { format!("{arn}:{label}") } else { arn }.into(),
            label: label.as_str().into(),
            number: found.number,
            revision: found.revision,
            revision_id: found.revision_id,
            kind: found.kind,
            component: found.component,
            wasi03: found.wasi03,
            digest: found.digest,
            code_bytes: found.code_bytes,
            upload: found.upload,
            upload_bytes: found.upload_bytes,
            imports: found.imports,
            published_ms: found.published_ms,
            compile_ms: found.compile_ms,
            reuse: found.config.reuse_for(found.kind),
            config: found.config,
            attributes: found.attributes,
            log_group: group.into(),
            log_stream: self.log_stream(&label).into(),
            logs: kin.map_or_else(|| Arc::new(LogRing::new(&self.logs)), |v| Arc::clone(&v.logs)),
            metrics: kin.map_or_else(|| self.metrics.function(name), |v| Arc::clone(&v.metrics)),
            share: kin.map_or_else(|| Arc::new(Share::of(&self.account)), |v| Arc::clone(&v.share)),
            provisioned: AtomicU32::new(0),
            grants: ArcSwap::default(),
            name: name.clone(),
        };
        self.grant(&version);
        Arc::new(version)
    }

    /// A new log stream, as Lambda names them.
    fn log_stream(&self, label: &str) -> String {
        let at = i64::try_from(self.clock.unix_ms()).ok();
        let at = at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
        format!("{}/[{label}]{}", at.strftime("%Y/%m/%d"), uuid::Uuid::new_v4().simple())
    }

    /// Gives each of the function's versions what it has provisioned, and the function what it has reserved.
    fn share_out(function: &Function) {
        let kept = totals::provisioned(function);
        for version in function.all_versions() {
            let count = kept.get(&version.uid).copied().unwrap_or_default();
            version.provisioned.store(count, Relaxed);
        }
        let (reserved, all_kept) = (function.details.reserved, totals::sum(&kept));
        function.latest.share.reserve(reserved.map(|own| own.saturating_sub(all_kept)));
    }

    /// Brings the account's concurrency and the quota in line with what functions have.
    fn settle(&self, totals: &Totals) {
        self.account.set_limit(unreserved(self.concurrency, totals.reserved()));
        self.storage.set_code(totals.bytes());
    }

    /// Counts what is kept for updates that are being compiled.
    fn count_staged(&self, commit: &Committed) {
        let totals = self.totals();
        let versions = commit.staged.values().map(|staged| &staged.version);
        let kept: HashMap<Digest, u64> = versions
            .flat_map(|of| [(of.digest, of.code_bytes), (of.upload, of.upload_bytes)])
            .filter(|(digest, _)| !totals.has(digest))
            .collect();
        self.storage.set_staged(kept.values().sum());
    }

    pub(crate) fn totals(&self) -> std::sync::MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) async fn lock(&self) -> MutexGuard<'_, Committed> {
        self.commit.lock().await
    }

    /// Writes a function's record and shows it to readers. The caller has written its blobs and
    /// versions, and holds the lock.
    pub(crate) async fn write(
        &self,
        name: &FunctionName,
        latest: VersionRecord,
        versions: BTreeMap<u64, VersionRecord>,
        details: Details,
        commit: &Committed,
    ) -> Result<Arc<Function>, StoreError> {
        let staged = commit.staged.get(name).cloned();
        let record = FunctionRecord { schema: SCHEMA, name: name.clone(), latest, staged, details };
        // It says its form itself.
        let text = serde_json::to_vec(&record).map_err(|e| StoreError::Failed(e.to_string()))?;
        self.records.put(&record::key(name), text.into(), Expect::Any).await?;
        let function = self.assemble(name, record.latest, versions, record.details);
        self.show(name, Some(function));
        self.count_staged(commit);
        self.catalog.get(name).ok_or_else(|| StoreError::Failed("lost".to_owned()))
    }

    pub(crate) async fn put(
        &self,
        key: &str,
        record: &(impl serde::Serialize + Sync),
    ) -> Result<(), StoreError> {
        crate::table::write(&*self.records, key, record).await
    }

    /// Changes what stands around a function's versions: `change` gets the function as it is and the
    /// details to change. Goes on when the caller goes away.
    ///
    /// # Errors
    /// What `change` says, [`Missing`], or that storage failed; nothing was changed then.
    pub async fn edit<T, E>(
        self: &Arc<Self>,
        name: &FunctionName,
        change: impl FnOnce(&Function, &mut Details) -> Result<T, E> + Send + 'static,
    ) -> Result<(T, Arc<Function>), E>
    where
        T: Send + 'static,
        E: From<StoreError> + From<Missing> + Send + 'static,
    {
        let (this, name) = (Arc::clone(self), name.clone());
        let done = tokio::spawn(async move {
            let commit = this.lock().await;
            let function = this.catalog.get(&name).ok_or(Missing)?;
            let mut details = function.details.clone();
            let value = change(&function, &mut details)?;
            let (latest, versions) = records_of(&function);
            let function = this.write(&name, latest, versions, details, &commit).await?;
            Ok((value, function))
        });
        done.await.map_err(|lost| StoreError::Failed(lost.to_string()))?
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
        let mut commit = self.lock().await;
        let Some(function) = self.catalog.get(name) else {
            return Ok(false);
        };
        self.records.delete(&record::key(name), Expect::Any).await?;
        commit.staged.remove(name);
        self.show(name, None);
        self.count_staged(&commit);
        self.metrics.forget(name, &function.latest.metrics);
        // Its lane may stay in memory for a while.
        function.latest.logs.clear();
        // Without the function's record nobody looks at these; what remains is written over.
        for number in function.versions.keys() {
            self.records.delete(&record::version_key(name, *number), Expect::Any).await?;
        }
        for version in function.all_versions() {
            self.sweep_later(Arc::clone(version));
        }
        Ok(true)
    }

    /// The code of a digest.
    ///
    /// # Errors
    /// A text for the log, when it is not there, damaged, or cannot be read.
    pub async fn code(blobs: &dyn Blobs, digest: Digest) -> Result<Bytes, String> {
        checked(blobs, &record::code_key(&digest), digest).await
    }

    /// What was uploaded for a version: its code, or a zip around it.
    ///
    /// # Errors
    /// As [`Self::code`].
    pub async fn upload(&self, version: &Version) -> Result<Bytes, String> {
        let key = match version.upload == version.digest {
            true => record::code_key(&version.digest),
            false => record::upload_key(&version.upload),
        };
        checked(&*self.blobs, &key, version.upload).await
    }

    /// Shows readers the function of that name as it is from now on, or that there is none.
    fn show(&self, name: &FunctionName, function: Option<Function>) {
        let catalog = self.catalog.load();
        let before = catalog.get(name).cloned();
        if let Some(function) = &function {
            Self::share_out(function);
        }
        {
            let mut totals = self.totals();
            // What both have is not gone for a moment.
            function.iter().for_each(|function| totals.add(function));
            before.iter().for_each(|before| totals.remove(before));
            self.settle(&totals);
        }
        let latest = function.as_ref().map(|function| Arc::clone(&function.latest));
        let next = match function {
            Some(function) => catalog.with(function),
            None => catalog.without(name),
        };
        self.catalog.store(next);
        // Its role may have changed since it was made, when nobody saw it here.
        latest.iter().for_each(|latest| self.grant(latest));
        self.changed.notify_one();
    }
}

/// The function as far as a new version of it needs it: its kin, and itself.
fn alone(latest: &Arc<Version>, known: Option<&Function>) -> Function {
    Function {
        latest: Arc::clone(latest),
        versions: known.map(|function| function.versions.clone()).unwrap_or_default(),
        details: Details::default(),
    }
}

/// The stored form of a function's versions.
pub(crate) fn records_of(function: &Function) -> (VersionRecord, BTreeMap<u64, VersionRecord>) {
    let versions = function.versions.iter();
    let versions = versions.map(|(number, version)| (*number, VersionRecord::of(version)));
    (VersionRecord::of(&function.latest), versions.collect())
}

/// Tells of versions that aliases name and that are not there: their records are lost.
fn tell_missing_versions(function: &Function) {
    for (alias, version) in function.missing_versions() {
        let name = function.name();
        let what =
            format!("the alias {alias} of {name} is of version {version}, which is not there");
        damage::tell(Store::Records, &what);
    }
}

async fn checked(blobs: &dyn Blobs, key: &str, digest: Digest) -> Result<Bytes, String> {
    let found = blobs.get(key).await.map_err(|e| e.to_string())?;
    let code = found.ok_or_else(|| format!("{key} is not there"))?;
    // A large one takes a while to hash.
    let check = tokio::task::spawn_blocking(move || (Digest::of(&code) == digest).then_some(code));
    let checked = check.await.map_err(|e| e.to_string())?;
    checked.ok_or_else(|| {
        damage::tell(Store::Blobs, key);
        format!("{key} is damaged")
    })
}
