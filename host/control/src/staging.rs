//! Code by AWS's API, in two steps: it is accepted, and a new function is there, pending, or an old one has an update in
//! progress; compiled, it is active or failed. What is killed in between goes on at the next start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use wambda_model::function::{LastUpdate, State};
use wambda_model::limits::PENDING_PATIENCE;
use wambda_model::{BuildError, Details, Digest, Function, FunctionName, Inspection};
use wambda_store::StoreError;

use crate::functions::{Committed, Functions, PublishError, records_of};
use crate::publish::{
    Change, Upload, check_memory, drafted, handle_latest, keep_latest, revision_id, version_record,
};
use crate::record::Staged;
use crate::sweep::Pinned;

/// Between attempts to write what has been compiled.
const COMMIT_RETRY_MIN: Duration = Duration::from_secs(1);
const COMMIT_RETRY_MAX: Duration = Duration::from_secs(60);

impl Functions {
    /// Creates a function by AWS's API. `details` are what stands around it from the beginning.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was changed then.
    pub async fn create(
        self: &Arc<Self>,
        name: &FunctionName,
        upload: Upload,
        change: Change,
        details: Details,
    ) -> Result<Arc<Function>, PublishError> {
        if self.catalog().get(name).is_some() {
            return Err(PublishError::Exists);
        }
        self.stage(name, upload, change, Some(details)).await
    }

    /// Gives a function new code by AWS's API.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was changed then.
    pub async fn update_code(
        self: &Arc<Self>,
        name: &FunctionName,
        upload: Upload,
        change: Change,
    ) -> Result<Arc<Function>, PublishError> {
        if self.catalog().get(name).is_none() {
            return Err(PublishError::Missing);
        }
        self.stage(name, upload, change, None).await
    }

    /// Accepts code, and waits for a while until it has been compiled.
    async fn stage(
        self: &Arc<Self>,
        name: &FunctionName,
        upload: Upload,
        change: Change,
        new: Option<Details>,
    ) -> Result<Arc<Function>, PublishError> {
        drafted(self.catalog().get(name).as_deref(), &change)?;
        self.storage().check(upload.bytes.len() as u64)?;
        let inspection = self.build.inspect(upload.bytes.clone(), &upload.by).await?;
        let digest = self.digest(&upload.bytes, &inspection).await?;
        let pinned = Pinned::new(self, inspection.digest, digest);
        let (this, task_name) = (Arc::clone(self), name.clone());
        let staged = tokio::spawn(async move {
            let done =
                this.commit_stage(&task_name, &inspection, digest, upload, &change, new).await;
            drop(pinned);
            if done.is_err() {
                this.sweep_refused(inspection.digest, digest).await;
            }
            done
        });
        let finishing = staged.await.map_err(|lost| StoreError::Failed(lost.to_string()))??;
        // It goes on in any case.
        let _ = tokio::time::timeout(PENDING_PATIENCE, finishing).await;
        self.catalog().get(name).ok_or(PublishError::Missing)
    }

    async fn commit_stage(
        self: &Arc<Self>,
        name: &FunctionName,
        inspection: &Inspection,
        digest: Digest,
        upload: Upload,
        change: &Change,
        new: Option<Details>,
    ) -> Result<JoinHandle<()>, PublishError> {
        let mut commit = self.lock().await;
        let known = self.catalog().get(name);
        match (&known, &new) {
            (Some(_), Some(_)) => return Err(PublishError::Exists),
            (None, None) => return Err(PublishError::Missing),
            _ => {}
        }
        if commit.staged.contains_key(name) {
            return Err(PublishError::InProgress);
        }
        let draft = drafted(known.as_deref(), change)?;
        check_memory(inspection, &draft)?;
        let now = self.clock.unix_ms();
        let size = upload.bytes.len() as u64;
        let revision = known.as_ref().map_or(1, |function| function.latest.revision + 1);
        let version = version_record(inspection, (digest, size), &draft, revision, now);
        let (latest, versions, mut details) = match (&known, new) {
            (Some(function), _) => {
                if upload.revision_id.is_some_and(|id| id != function.details.revision_id) {
                    return Err(PublishError::Stale);
                }
                let mut details = function.details.clone();
                details.last_update = LastUpdate::InProgress;
                let (latest, versions) = records_of(function);
                (latest, versions, details)
            }
            (None, new) => {
                let mut details = new.unwrap_or_default();
                details.state = State::Pending;
                details.reserved = draft.reserved;
                keep_latest(&mut details, draft.provisioned, now);
                handle_latest(&mut details, &draft, now);
                (version.clone(), BTreeMap::new(), details)
            }
        };
        details.revision_id = revision_id();
        self.keep(inspection, (digest, upload.bytes)).await?;
        commit
            .staged
            .insert(name.clone(), Staged { version, publish: upload.publish, by: upload.by });
        if let Err(error) = self.write(name, latest, versions, details, &commit).await {
            commit.staged.remove(name);
            return Err(error.into());
        }
        Ok(self.finish(name, &commit))
    }

    /// Compiles what is staged for a function, on a task of its own. The caller holds the lock.
    pub(crate) fn finish(
        self: &Arc<Self>,
        name: &FunctionName,
        commit: &Committed,
    ) -> JoinHandle<()> {
        let (this, name) = (Arc::clone(self), name.clone());
        let staged = commit.staged.get(&name).cloned();
        let pinned = staged.as_ref().map(|s| Pinned::new(self, s.version.digest, s.version.upload));
        tokio::spawn(async move {
            let Some(staged) = staged else { return };
            let built = this.compile(&staged).await;
            // The record says what is to be done; while it cannot be written, nothing else can.
            let mut pause = COMMIT_RETRY_MIN;
            while let Err(error) = this.commit_finish(&name, &staged, &built).await {
                tracing::error!(function = %name, %error, "cannot commit compiled code: trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(COMMIT_RETRY_MAX);
            }
            drop(pinned);
            // What was not taken goes again; what was is in use.
            let _commit = this.lock().await;
            this.sweep_one(staged.version.digest, staged.version.upload).await;
        })
    }

    async fn compile(&self, Staged { version, by, .. }: &Staged) -> Result<Duration, String> {
        let wasm = Self::code(&*self.blobs, version.digest).await?;
        let inspection = Inspection {
            wasm,
            digest: version.digest,
            kind: version.kind,
            component: version.component,
            wasi03: version.wasi03,
            imports: version.imports.clone(),
            memory_min_bytes: 0,
        };
        loop {
            match self.build.build(&inspection, by).await {
                Ok(took) => return Ok(took),
                // It was accepted: there is time.
                Err(BuildError::Busy(_) | BuildError::Full(_)) => {
                    tokio::time::sleep(Duration::from_millis(500)).await
                }
                Err(BuildError::Internal(why)) => {
                    tracing::error!(why, "an upload cannot be compiled");
                    return Err("internal error; the server's log has the details".to_owned());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    async fn commit_finish(
        self: &Arc<Self>,
        name: &FunctionName,
        staged: &Staged,
        built: &Result<Duration, String>,
    ) -> Result<(), StoreError> {
        let mut commit = self.lock().await;
        let function = self.catalog().get(name);
        // Deleted, or overtaken, meanwhile.
        let (Some(function), true) = (function, commit.staged.get(name) == Some(staged)) else {
            return Ok(());
        };
        let (mut latest, mut versions) = records_of(&function);
        let mut details = function.details.clone();
        details.revision_id = revision_id();
        match built {
            Ok(took) => {
                latest = staged.version.clone();
                latest.compile_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                (details.state, details.last_update) = (State::Active, LastUpdate::Successful);
                if let Some(description) = &staged.publish {
                    let description = Some(description.as_str());
                    let number =
                        self.number(name, &latest, &mut versions, &mut details, description);
                    match number.await {
                        Err(PublishError::Store(error)) => return Err(error),
                        // The code is in place; that there is no version of it is told.
                        Err(why) => details.last_update = LastUpdate::Failed(why.to_string()),
                        Ok(_) => {}
                    }
                }
            }
            Err(why) if details.state == State::Pending => {
                details.state = State::Failed(why.clone());
            }
            Err(why) => details.last_update = LastUpdate::Failed(why.clone()),
        }
        commit.staged.remove(name);
        let function = match self.write(name, latest, versions, details, &commit).await {
            Ok(_) => function,
            Err(error) => {
                commit.staged.insert(name.clone(), staged.clone());
                return Err(error);
            }
        };
        self.sweep_replaced(&function.latest);
        Ok(())
    }
}
