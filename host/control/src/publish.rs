//! Code and versions: publish, reconfigure, number.
//!
//! `/v1` publishes in one step: nothing changes before the code is compiled. AWS's API takes two, see
//! `staging.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wambda_model::config::InvalidConfig;
use wambda_model::event::EventConfig;
use wambda_model::function::{LastUpdate, Provisioned, State};
use wambda_model::limits::VERSIONS_MAX;
use wambda_model::{
    BuildError, Details, Digest, Draft, Function, FunctionName, Inspection, LATEST, Version,
};
use wambda_store::{Expect, StoreError};

use crate::functions::{Functions, PublishError, records_of};
use crate::record::{self, VersionRecord};
use crate::sweep::Pinned;

/// What a publish does to a function's configuration.
pub type Change = Arc<dyn Fn(&mut Draft) -> Result<(), InvalidConfig> + Send + Sync>;

/// A successful publish.
#[derive(Debug)]
pub struct Published {
    /// The version that runs from now on.
    pub version: Arc<Version>,
    /// Whether the function is new.
    pub created: bool,
}

/// New code.
#[derive(Debug)]
pub struct Upload {
    /// What was uploaded.
    pub bytes: Bytes,
    /// Whether a version is to be published of it, and its description.
    pub publish: Option<String>,
    /// The state that the caller thinks the function is in.
    pub revision_id: Option<String>,
    /// Who uploads: they take turns at the compiler.
    pub by: String,
}

/// Another name for the present state.
pub(crate) fn revision_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The configuration of a function as it is.
fn draft_of(function: Option<&Function>) -> Draft {
    function.map_or_else(Draft::default, |function| Draft {
        config: function.latest.config.clone(),
        attributes: function.latest.attributes.clone(),
        reserved: function.details.reserved,
        provisioned: function.details.provisioned.get(LATEST).map_or(0, |kept| kept.count),
        events: function.details.events.get(LATEST).cloned().unwrap_or_default(),
    })
}

pub(crate) fn drafted(
    function: Option<&Function>,
    change: &Change,
) -> Result<Draft, InvalidConfig> {
    let mut draft = draft_of(function);
    change(&mut draft)?;
    draft.check()?;
    Ok(draft)
}

pub(crate) fn check_memory(inspection: &Inspection, draft: &Draft) -> Result<(), BuildError> {
    let (starts, limit) = (inspection.memory_min_bytes, draft.config.memory_bytes);
    if starts <= limit {
        return Ok(());
    }
    Err(BuildError::Invalid(format!(
        "its memories start with {starts} bytes, which is more than its memory limit of {limit} bytes"
    )))
}

pub(crate) fn version_record(
    inspection: &Inspection,
    (upload, upload_bytes): (Digest, u64),
    draft: &Draft,
    revision: u64,
    published_ms: u64,
) -> VersionRecord {
    VersionRecord {
        number: None,
        revision,
        revision_id: String::new(),
        kind: inspection.kind,
        component: inspection.component,
        wasi03: inspection.wasi03,
        digest: inspection.digest,
        code_bytes: inspection.wasm.len() as u64,
        upload,
        upload_bytes,
        imports: inspection.imports.clone(),
        published_ms,
        compile_ms: 0,
        config: draft.config.clone(),
        attributes: draft.attributes.clone(),
    }
}

impl Functions {
    /// Creates or replaces a function's code. `change` is applied to its configuration: the present
    /// one, or the default for a new function. What has been inspected is compiled and committed
    /// even when the caller goes away.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was changed then.
    pub async fn publish(
        self: &Arc<Self>,
        name: &FunctionName,
        upload: Upload,
        change: Change,
    ) -> Result<Published, PublishError> {
        // Before the work, so that a bad value costs nothing; again under the lock, where the
        // present configuration stands still.
        let known = self.catalog().get(name);
        self.check_draft(known.as_deref(), &drafted(known.as_deref(), &change)?)?;
        let Upload { bytes: upload, by, .. } = upload;
        self.storage().check(upload.len() as u64)?;
        let inspection = self.build.inspect(upload.clone(), &by).await?;
        check_memory(&inspection, &drafted(self.catalog().get(name).as_deref(), &change)?)?;
        let digest = self.digest(&upload, &inspection).await?;
        let pinned = Pinned::new(self, inspection.digest, digest);
        let (this, name) = (Arc::clone(self), name.clone());
        let commit = async move {
            let done = async {
                let took = this.build.build(&inspection, &by).await?;
                let upload = (digest, upload);
                this.commit_publish(&name, &inspection, upload, took, &change).await
            };
            let done = done.await;
            drop(pinned);
            if done.is_err() {
                this.sweep_refused(inspection.digest, digest).await;
            }
            done
        };
        let done = tokio::spawn(commit).await;
        done.map_err(|lost| StoreError::Failed(lost.to_string()))?
    }

    /// The digest of an upload; a large one takes a while.
    pub(crate) async fn digest(
        &self,
        upload: &Bytes,
        inspection: &Inspection,
    ) -> Result<Digest, StoreError> {
        if upload.len() == inspection.wasm.len() {
            return Ok(inspection.digest);
        }
        let upload = upload.clone();
        let hashed = tokio::task::spawn_blocking(move || Digest::of(&upload)).await;
        hashed.map_err(|lost| StoreError::Failed(lost.to_string()))
    }

    /// Writes code and upload, when there is room for them.
    pub(crate) async fn keep(
        &self,
        inspection: &Inspection,
        (digest, upload): (Digest, Bytes),
    ) -> Result<(), PublishError> {
        let (code, zip) = (inspection.wasm.len(), upload.len());
        let around = if digest == inspection.digest { 0 } else { zip };
        self.storage().check((code + around) as u64)?;
        if digest != inspection.digest {
            self.blobs.put(&record::upload_key(&digest), upload).await?;
        }
        self.blobs.put(&record::code_key(&inspection.digest), inspection.wasm.clone()).await?;
        Ok(())
    }

    async fn commit_publish(
        self: &Arc<Self>,
        name: &FunctionName,
        inspection: &Inspection,
        (digest, upload): (Digest, Bytes),
        took: Duration,
        change: &Change,
    ) -> Result<Published, PublishError> {
        let mut commit = self.lock().await;
        let known = self.catalog().get(name);
        let draft = drafted(known.as_deref(), change)?;
        check_memory(inspection, &draft)?;
        self.check_draft(known.as_deref(), &draft)?;
        let revision = known.as_ref().map_or(1, |f| f.latest.revision + 1);
        let now = self.clock.unix_ms();
        let size = upload.len() as u64;
        let mut latest = version_record(inspection, (digest, size), &draft, revision, now);
        latest.compile_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.keep(inspection, (digest, upload)).await?;
        let mut details = known.as_ref().map(|f| f.details.clone()).unwrap_or_default();
        details.revision_id = revision_id();
        (details.state, details.last_update) = (State::Active, LastUpdate::Successful);
        details.reserved = draft.reserved;
        keep_latest(&mut details, draft.provisioned, now);
        handle_latest(&mut details, &draft, now);
        // Whatever was being compiled for it is overtaken.
        let overtaken = commit.staged.remove(name);
        let versions = known.as_ref().map(|f| records_of(f).1).unwrap_or_default();
        let function = match self.write(name, latest, versions, details, &commit).await {
            Ok(function) => function,
            Err(error) => {
                commit.staged.extend(overtaken.map(|staged| (name.clone(), staged)));
                return Err(error.into());
            }
        };
        let created = known.is_none();
        if let Some(before) = known {
            self.sweep_replaced(&before.latest);
        }
        Ok(Published { version: Arc::clone(&function.latest), created })
    }

    /// Looks at an upload, and changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn inspect(&self, upload: Bytes, by: &str) -> Result<Inspection, PublishError> {
        Ok(self.build.inspect(upload, by).await?)
    }

    /// Checks that a layer can be unpacked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn check_layer(&self, zip: Bytes, by: &str) -> Result<(), PublishError> {
        Ok(self.build.check_layer(zip, by).await?)
    }

    /// Changes a function's configuration; its code stays.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was changed then.
    pub async fn reconfigure(
        self: &Arc<Self>,
        name: &FunctionName,
        change: Change,
        expected: Option<String>,
    ) -> Result<Arc<Function>, PublishError> {
        let (this, name) = (Arc::clone(self), name.clone());
        let done = tokio::spawn(async move {
            let commit = this.lock().await;
            let function = this.catalog().get(&name).ok_or(PublishError::Missing)?;
            if commit.staged.contains_key(&name) {
                return Err(PublishError::InProgress);
            }
            if expected.is_some_and(|id| id != function.details.revision_id) {
                return Err(PublishError::Stale);
            }
            let draft = drafted(Some(&function), &change)?;
            let (mut latest, versions) = records_of(&function);
            let same = latest.config == draft.config && latest.attributes == draft.attributes;
            (latest.config, latest.attributes) = (draft.config, draft.attributes);
            latest.published_ms = this.clock.unix_ms();
            latest.revision += u64::from(!same);
            let mut details = function.details.clone();
            details.revision_id = revision_id();
            details.last_update = LastUpdate::Successful;
            Ok(this.write(&name, latest, versions, details, &commit).await?)
        });
        done.await.map_err(|lost| StoreError::Failed(lost.to_string()))?
    }

    /// Publishes a version of what `$LATEST` is; the newest one when that is the same.
    /// `check` sees the function first.
    ///
    /// # Errors
    /// What `check` says, or [`PublishError`].
    pub async fn publish_version<E>(
        self: &Arc<Self>,
        name: &FunctionName,
        description: Option<String>,
        check: impl FnOnce(&Function) -> Result<(), E> + Send + 'static,
    ) -> Result<(Arc<Version>, Arc<Function>), E>
    where
        E: From<PublishError> + Send + 'static,
    {
        let (this, name) = (Arc::clone(self), name.clone());
        let done = tokio::spawn(async move {
            let commit = this.lock().await;
            let function = this.catalog().get(&name).ok_or(PublishError::Missing)?;
            if commit.staged.contains_key(&name) {
                return Err(PublishError::InProgress.into());
            }
            check(&function)?;
            let (latest, mut versions) = records_of(&function);
            let mut details = function.details.clone();
            let description = description.as_deref();
            let number =
                this.number(&name, &latest, &mut versions, &mut details, description).await?;
            let function = this
                .write(&name, latest, versions, details, &commit)
                .await
                .map_err(PublishError::from)?;
            let version = function.versions.get(&number).cloned().ok_or(PublishError::Missing)?;
            Ok((version, function))
        });
        done.await.map_err(|lost| PublishError::from(StoreError::Failed(lost.to_string())))?
    }

    /// Adds a numbered version of `latest`, and writes it; the newest one's number when that is the
    /// same. The function's record comes after it.
    pub(crate) async fn number(
        &self,
        name: &FunctionName,
        latest: &VersionRecord,
        versions: &mut BTreeMap<u64, VersionRecord>,
        details: &mut Details,
        description: Option<&str>,
    ) -> Result<u64, PublishError> {
        let newest = versions.get(&details.last_number);
        if newest.is_some_and(|newest| newest.is_same(latest)) {
            return Ok(details.last_number);
        }
        if versions.len() >= VERSIONS_MAX {
            let count = versions.len();
            let what = format!("a function may have {VERSIONS_MAX} versions, it has {count}");
            return Err(PublishError::Limit(what));
        }
        let number = details.last_number + 1;
        let mut version = VersionRecord {
            number: Some(number),
            revision_id: revision_id(),
            published_ms: self.clock.unix_ms(),
            ..latest.clone()
        };
        if let Some(description) = description.filter(|text| !text.is_empty()) {
            version.attributes.description = description.to_owned();
        }
        self.put(&record::version_key(name, number), &version).await?;
        versions.insert(number, version);
        details.last_number = number;
        Ok(number)
    }

    /// Removes a published version. Returns whether there was one; `check` sees the function first.
    ///
    /// # Errors
    /// What `check` says, or [`PublishError`].
    pub async fn delete_version<E>(
        self: &Arc<Self>,
        name: &FunctionName,
        number: u64,
        check: impl FnOnce(&Function) -> Result<(), E> + Send + 'static,
    ) -> Result<bool, E>
    where
        E: From<PublishError> + Send + 'static,
    {
        let (this, name) = (Arc::clone(self), name.clone());
        let done = tokio::spawn(async move {
            let commit = this.lock().await;
            let function = this.catalog().get(&name).ok_or(PublishError::Missing)?;
            check(&function)?;
            let Some(gone) = function.versions.get(&number).cloned() else { return Ok(false) };
            let key = record::version_key(&name, number);
            this.records.delete(&key, Expect::Any).await.map_err(PublishError::from)?;
            let (latest, mut versions) = records_of(&function);
            versions.remove(&number);
            let mut details = function.details.clone();
            let label = number.to_string();
            details.policies.remove(&label);
            details.provisioned.remove(&label);
            details.events.remove(&label);
            this.write(&name, latest, versions, details, &commit)
                .await
                .map_err(PublishError::from)?;
            this.sweep_later(gone);
            Ok(true)
        });
        done.await.map_err(|lost| PublishError::from(StoreError::Failed(lost.to_string())))?
    }
}

/// How asynchronous invocations of `$LATEST` are handled, as `/v1` sets it.
pub(crate) fn handle_latest(details: &mut Details, draft: &Draft, modified_ms: u64) {
    let known = details.events.get(LATEST).cloned().unwrap_or_default();
    if known != draft.events {
        details
            .events
            .insert(LATEST.to_owned(), EventConfig { modified_ms, ..draft.events.clone() });
    }
}

/// Instances kept for `$LATEST`, as `/v1` sets them.
pub(crate) fn keep_latest(details: &mut Details, count: u32, modified_ms: u64) {
    if count == 0 {
        details.provisioned.remove(LATEST);
    } else {
        details.provisioned.insert(LATEST.to_owned(), Provisioned { count, modified_ms });
    }
}
