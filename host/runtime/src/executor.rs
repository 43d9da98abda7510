//! Runs invocations: the implementation of [`Execute`] and [`Build`], and what each version needs for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use papaya::HashMap;
use rustc_hash::FxBuildHasher;
use tokio::runtime::Handle;
use wambda_egress::Egress;
use wambda_model::invocation::InstanceCounts;
use wambda_model::limits::PREVIEW_1_FILE_BYTES_MAX;
use wambda_model::{
    BoxFuture, Budget, Build, BuildError, Digest, Execute, Inspection, Invocation, InvokeError,
    Kind, Metrics, Outcome, Payload, Permit, Version, clock,
};

use crate::artifact::Artifacts;
use crate::child;
use crate::compiler::Compiler;
use crate::drive::{Drive, Driven};
use crate::engine::{EngineKind, Engines, Room, Ticker};
use crate::helper::Helper;
use crate::inspector::Inspector;
use crate::layer::{LayerDirs, Tree};
use crate::link::Linkers;
use crate::pool::{Ready, Unit};
use crate::run::{Run, Ticket};
use crate::transit::Transit;
use crate::watchdog;

/// Fetches the code of a digest, when its artifact has to be made again.
pub type CodeSource =
    Arc<dyn Fn(Digest) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// What the runtime needs to start.
pub struct RuntimeConfig {
    /// The program whose `compile` command compiles: this one.
    pub program: PathBuf,
    /// Where artifacts are kept.
    pub artifacts: Artifacts,
    /// Whether WASI 0.3 is allowed.
    pub wasi03: bool,
    /// What functions find in `AWS_REGION`.
    pub region: Arc<str>,
    /// Memory of all guests together.
    pub budget: Arc<Budget>,
    /// Where calls go that are not short.
    pub long_run: Handle,
    /// Where code comes from when an artifact has to be made again.
    pub code: CodeSource,
    /// File trees of functions.
    pub layers: LayerDirs,
    /// Instances alive at once.
    pub slots: u32,
    /// What compiling one upload may take.
    pub compiling: child::Limits,
    /// The way out.
    pub egress: Arc<Egress>,
    /// After which a poll of a guest that has not come back is told of.
    pub stuck_after: Duration,
    /// Where measurements go.
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for RuntimeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeConfig").field("program", &self.program).finish_non_exhaustive()
    }
}

/// Runs invocations. Cheap to clone.
#[derive(Clone)]
pub struct Executor(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) engines: Engines,
    linkers: Linkers,
    artifacts: Arc<Artifacts>,
    inspector: Inspector,
    compiler: Compiler,
    pub(crate) units: HashMap<u64, Arc<Unit>, FxBuildHasher>,
    pub(crate) region: Arc<str>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) transit: Arc<Transit>,
    pub(crate) long_run: Handle,
    code: CodeSource,
    layers: LayerDirs,
    pub(crate) egress: Arc<Egress>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("units", &self.0.units.len()).finish_non_exhaustive()
    }
}

impl Executor {
    /// Makes the engines and links what the platform offers.
    ///
    /// # Errors
    /// When wasmtime refuses, for want of address space for example.
    pub fn new(config: RuntimeConfig) -> wasmtime::Result<Self> {
        let engines = Engines::new(
            config.wasi03,
            Room { slots: config.slots, budget: config.budget.limit() },
        )?;
        let artifacts = Arc::new(config.artifacts);
        let helper =
            Helper { program: config.program, limits: config.compiling, dir: artifacts.tmp() };
        let (allowed, threads) = ((engines.features(), engines.wasi03()), config.long_run.clone());
        let inspector = Inspector::new(helper.clone(), allowed, threads);
        let compiler = Compiler::new(
            helper,
            Arc::clone(&artifacts),
            engines.clone(),
            Arc::clone(&config.metrics),
        );
        let this = Self(Arc::new(Inner {
            linkers: Linkers::new(&engines)?,
            inspector,
            compiler,
            artifacts,
            engines,
            // The numbers are our own.
            units: HashMap::with_hasher(FxBuildHasher),
            region: config.region,
            budget: config.budget,
            transit: Arc::default(),
            long_run: config.long_run,
            code: config.code,
            layers: config.layers,
            egress: config.egress,
            metrics: config.metrics,
        }));
        let weak = Arc::downgrade(&this.0);
        let shed = move |own: Option<&Arc<AtomicU64>>| {
            weak.upgrade().is_some_and(|inner| inner.shed_one(own))
        };
        this.0.budget.set_reliever(Box::new(shed));
        watchdog::start(Arc::downgrade(&this.0), config.stuck_after)?;
        Ok(this)
    }

    /// Shows the pool's slots in the metrics.
    pub fn show_slots(&self) {
        for (kind, engine) in self.0.engines.iter() {
            let Some(pool) = engine.pooling_allocator_metrics() else {
                continue;
            };
            let show = |state, count: u64| {
                let gauge = self.0.metrics.pool_slots(kind.as_str(), state);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            };
            show("core_instances", pool.core_instances());
            show("component_instances", pool.component_instances());
            show("memories", pool.memories() as u64);
            show("tables", pool.tables() as u64);
            show("stacks", pool.stacks() as u64);
            show("unused_warm_memories", u64::from(pool.unused_warm_memories()));
        }
    }
}

impl Inner {
    pub(crate) fn unit(&self, version: &Arc<Version>) -> Arc<Unit> {
        let units = self.units.pin();
        Arc::clone(units.get_or_insert_with(version.uid, || Arc::new(Unit::new(version))))
    }

    /// The function of a version, by the version's number.
    pub(crate) fn name_of(&self, uid: u64) -> String {
        self.units.pin().get(&uid).map(|unit| unit.version.name.to_string()).unwrap_or_default()
    }

    /// Shows how many polls do not come back.
    pub(crate) fn show_stuck(&self, count: usize) {
        self.metrics.stuck_polls.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn ticker(&self) -> &Ticker {
        self.engines.ticker()
    }

    fn load(
        &self,
        digest: &Digest,
        kind: Kind,
        engine_kind: EngineKind,
        component: bool,
    ) -> wasmtime::Result<Option<Ready>> {
        let Some(engine) = self.engines.get(engine_kind) else {
            wasmtime::bail!("this needs WASI 0.3: start the server with --wasi03");
        };
        let Some(loaded) = self.artifacts.load(digest, engine_kind, engine, component)? else {
            return Ok(None);
        };
        let prepared = self.linkers.prepare(kind, engine_kind, &loaded)?;
        let (slots, first_bytes) = (loaded.slots(), loaded.first_bytes());
        Ok(Some(Ready { prepared, engine: engine_kind, slots, first_bytes, opt: None }))
    }

    /// The version's code, loaded at its first use.
    pub(crate) async fn ready(self: &Arc<Self>, unit: &Unit) -> Result<Arc<Ready>, InvokeError> {
        unit.ready(|| self.load_or_compile(&unit.version)).await
    }

    /// Loads an artifact, and compiles again when it is gone or damaged.
    async fn load_or_compile(self: &Arc<Self>, version: &Version) -> Result<Ready, InvokeError> {
        let internal = |what: String| InvokeError::Internal(format!("{}: {what}", version.name));
        let (digest, kind, component) = (version.digest, version.kind, version.component);
        let engine = EngineKind::of(version.wasi03);
        for attempt in 0..2 {
            let this = Arc::clone(self);
            let load = move || this.load(&digest, kind, engine, component);
            let loaded =
                tokio::task::spawn_blocking(load).await.map_err(|e| internal(e.to_string()))?;
            if let Some(ready) = loaded.map_err(|e| internal(format!("{e:#}")))? {
                let layers = &version.attributes.layers;
                let seen =
                    self.layers.seen(layers).transpose().map_err(InvokeError::Unavailable)?;
                check_files(seen, version)?;
                let opt = self.layers.get(layers).await.map_err(InvokeError::Unavailable)?;
                check_files(opt.as_deref().map(Tree::largest), version)?;
                return Ok(Ready { opt, ..ready });
            }
            if attempt == 0 {
                tracing::warn!(function = %version.name, "artifact missing or damaged: compiling again");
                let wasm = (self.code)(digest).await.map_err(internal)?;
                let made = self.compiler.ensure(&wasm, digest, engine, version.name.as_str()).await;
                made.map_err(|error| match error {
                    BuildError::Busy(what) => InvokeError::Unavailable(what),
                    BuildError::Full(_) => {
                        InvokeError::Unavailable("the server's disk is full".to_owned())
                    }
                    other => internal(other.to_string()),
                })?;
            }
        }
        Err(internal("the artifact cannot be kept".to_owned()))
    }
}

/// WASI preview 1 reads a file by way of as much of the host's memory as the guest asks for.
fn check_files(largest: Option<u64>, version: &Version) -> Result<(), InvokeError> {
    match largest {
        Some(largest) if !version.component && largest > PREVIEW_1_FILE_BYTES_MAX => {
            Err(InvokeError::InvalidRequest(format!(
                "a core module may have layers with files of {PREVIEW_1_FILE_BYTES_MAX} bytes, these have one of \
                 {largest}: make it a component"
            )))
        }
        _ => Ok(()),
    }
}

/// The answer when host code panicked; the panic itself was counted and logged where it happened.
pub(crate) fn panicked() -> InvokeError {
    InvokeError::Internal("a panic while running a function".to_owned())
}

impl Build for Executor {
    fn inspect<'a>(
        &'a self,
        upload: Bytes,
        by: &'a str,
    ) -> BoxFuture<'a, Result<Inspection, BuildError>> {
        Box::pin(self.0.inspector.look(upload, by))
    }

    fn check_layer<'a>(&'a self, zip: Bytes, by: &'a str) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(self.0.inspector.check_layer(zip, by))
    }

    fn build<'a>(
        &'a self,
        upload: &'a Inspection,
        by: &'a str,
    ) -> BoxFuture<'a, Result<Duration, BuildError>> {
        Box::pin(async move {
            let Inspection { digest, kind, component, .. } = *upload;
            let engine = EngineKind::of(upload.wasi03);
            let took = self.0.compiler.ensure(&upload.wasm, digest, engine, by).await?;
            let this = Arc::clone(&self.0);
            let link = move || {
                let linked = this.load(&digest, kind, engine, component);
                if linked.is_err()
                    && let Some(engine_of) = this.engines.get(engine)
                {
                    // Nobody can run it, and it would count as kept.
                    this.artifacts.forget(&digest, engine, engine_of);
                }
                linked.map(|ready| ready.is_some())
            };
            match tokio::task::spawn_blocking(link).await {
                Ok(Ok(true)) => Ok(took.unwrap_or_default()),
                Ok(Ok(false)) => Err(BuildError::Internal("the artifact vanished".to_owned())),
                Ok(Err(e)) => Err(BuildError::Invalid(format!("the code does not link: {e:#}"))),
                Err(lost) => Err(BuildError::Internal(lost.to_string())),
            }
        })
    }

    fn unpacked(&self) -> u64 {
        self.0.inspector.unpacked()
    }

    fn stored(&self) -> u64 {
        self.0.artifacts.stored() + self.0.layers.stored()
    }

    fn forget(&self, digest: &Digest) {
        for (kind, engine) in self.0.engines.iter() {
            self.0.artifacts.forget(digest, kind, engine);
        }
    }

    fn sweep(&self, is_used: &(dyn Fn(&Digest) -> bool + Sync)) {
        self.0.artifacts.sweep(is_used);
    }
}

impl Execute for Executor {
    fn execute(
        &self,
        version: &Arc<Version>,
        invocation: Invocation,
        permit: Permit,
    ) -> BoxFuture<'static, Result<Outcome, InvokeError>> {
        if invocation.deadline().is_some_and(|at| at <= clock::now()) {
            return Box::pin(async { Err(InvokeError::Expired) });
        }
        let inner = Arc::clone(&self.0);
        let unit = inner.unit(version);
        let (long_run, long) = (inner.long_run.clone(), unit.expects_long());
        let Invocation { id, payload, caller, attempt } = invocation;
        let run = Run::new(inner, unit, permit, Ticket { id, caller, attempt }, long);
        let meter = run.meter();
        match payload {
            Payload::Event(event) if !version.kind.is_http() => {
                Box::pin(Driven(Drive::new(Box::pin(run.event(event)), meter, long_run, long)))
            }
            Payload::Http(request) if version.kind.is_http() => {
                Box::pin(run.http(request, long_run, long))
            }
            _ => {
                let kind = version.kind.as_str();
                let what = format!("a function of kind {kind} does not take this payload");
                Box::pin(async move { Err(InvokeError::InvalidRequest(what)) })
            }
        }
    }

    fn keep_warm(&self, version: &Arc<Version>, count: u32) {
        let unit = self.0.unit(version);
        let surplus = unit.aim(count);
        self.0.dispose(&unit, surplus);
        if unit.wants_more() {
            drop(tokio::spawn(Arc::clone(&self.0).refill(unit)));
        }
    }

    fn counts(&self, version: &Version) -> InstanceCounts {
        let units = self.0.units.pin();
        units.get(&version.uid).map(|unit| unit.counts()).unwrap_or_default()
    }

    fn instance_bytes(&self, version: &Version) -> Option<u64> {
        let units = self.0.units.pin();
        units.get(&version.uid).map(|unit| unit.expected_bytes()).filter(|bytes| *bytes > 0)
    }

    fn retain(&self, is_live: &dyn Fn(&Version) -> bool) {
        let units = self.0.units.pin();
        for (uid, unit) in &units {
            if is_live(&unit.version) {
                continue;
            }
            self.0.dispose(unit, unit.retire());
            // Whoever was admitted before the publish and comes only now loads the code again.
            if unit.counts().busy == 0 {
                unit.unload();
                units.remove(uid);
            }
        }
    }
}
