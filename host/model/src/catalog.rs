//! The catalog: an immutable snapshot of every function, swapped whole behind one atomic load.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use wambda_policy::Grants;

use crate::config::{Attributes, FunctionConfig, Kind, Reuse};
use crate::function::{Alias, Details, LATEST};
use crate::gate::Share;
use crate::ids::{Digest, FunctionName};
use crate::logs::{LogRing, LogRoom};
use crate::metrics::FunctionMetrics;

/// One immutable version of a function: code and configuration.
#[derive(Debug)]
pub struct Version {
    /// Tells versions apart within this process; never reused.
    pub uid: u64,
    /// The function.
    pub name: FunctionName,
    /// What users call it: `$LATEST`, or a number.
    pub label: Arc<str>,
    /// Its number; none for `$LATEST`.
    pub number: Option<u64>,
    /// Counts the changes of `$LATEST`, from 1; a published version has that of its making.
    pub revision: u64,
    /// Names this version's state; of `$LATEST`, see [`Details::revision_id`].
    pub revision_id: String,
    /// What the upload turned out to be.
    pub kind: Kind,
    /// Whether it is a component (or else a core module).
    pub component: bool,
    /// Whether it needs WASI 0.3.
    pub wasi03: bool,
    /// SHA-256 of the wasm binary.
    pub digest: Digest,
    /// Bytes of the wasm binary.
    pub code_bytes: u64,
    /// SHA-256 of what was uploaded: the binary, or a zip around it.
    pub upload: Digest,
    /// Bytes of what was uploaded.
    pub upload_bytes: u64,
    /// Imports, for people.
    pub imports: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub published_ms: u64,
    /// Milliseconds the compilation took; 0 when the artifact was there.
    pub compile_ms: u64,
    /// Configuration.
    pub config: FunctionConfig,
    /// What AWS's clients know besides.
    pub attributes: Attributes,
    /// Reuse in force.
    pub reuse: Reuse,
    /// What it calls itself: the function's ARN, qualified when it is a published version.
    pub arn: Arc<str>,
    /// `/aws/lambda/NAME`, unless the function has another one.
    pub log_group: Arc<str>,
    /// Where its instances log: `YYYY/MM/DD/[LABEL]` and 32 hex digits. One a version and process.
    pub log_stream: Arc<str>,
    /// The function's log, shared by its versions.
    pub logs: Arc<LogRing>,
    /// The function's metrics, shared by its versions.
    pub metrics: Arc<FunctionMetrics>,
    /// The function's concurrency, shared by its versions.
    pub share: Arc<Share>,
    /// Instances that are kept for it. Changes while it lives.
    pub provisioned: AtomicU32,
    /// What its instances may reach. Changes with its execution role's policies.
    pub grants: ArcSwap<Grants>,
}

impl Version {
    /// A number no other version of this process has.
    #[must_use]
    pub fn next_uid() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// A version without code, for tests and benchmarks to fill in.
    #[doc(hidden)]
    #[must_use]
    pub fn blank(name: FunctionName, metrics: Arc<FunctionMetrics>, share: Arc<Share>) -> Self {
        Self {
            uid: Self::next_uid(),
            name,
            label: LATEST.into(),
            number: None,
            revision: 1,
            revision_id: String::new(),
            kind: Kind::Core,
            component: false,
            wasi03: false,
            digest: Digest::of(b""),
            code_bytes: 0,
            upload: Digest::of(b""),
            upload_bytes: 0,
            imports: Vec::new(),
            published_ms: 0,
            compile_ms: 0,
            config: FunctionConfig::default(),
            attributes: Attributes::default(),
            reuse: Reuse::Warm,
            arn: "arn".into(),
            log_group: "group".into(),
            log_stream: "stream".into(),
            logs: Arc::new(LogRing::new(&LogRoom::new(1 << 30))),
            metrics,
            share,
            provisioned: AtomicU32::new(0),
            grants: ArcSwap::default(),
        }
    }
}

/// A function: its versions, and what stands around them.
#[derive(Debug, Clone)]
pub struct Function {
    /// What an unqualified invocation runs.
    pub latest: Arc<Version>,
    /// Published versions, by number.
    pub versions: BTreeMap<u64, Arc<Version>>,
    /// Aliases, permissions, URLs and the like.
    pub details: Details,
}

impl Function {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &FunctionName {
        &self.latest.name
    }

    /// Every version, `$LATEST` first, then by number.
    pub fn all_versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        std::iter::once(&self.latest).chain(self.versions.values())
    }

    /// The version of that label.
    #[must_use]
    pub fn version(&self, label: &str) -> Option<&Arc<Version>> {
        if label == LATEST {
            return Some(&self.latest);
        }
        // One spelling each: `01` is no other name of version 1.
        let number: u64 = label.parse().ok().filter(|number: &u64| number.to_string() == label)?;
        self.versions.get(&number)
    }

    /// Aliases of versions that are not there, each with that version.
    pub fn missing_versions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.details.aliases.iter().flat_map(|(name, alias)| {
            let second = alias.canary.as_ref().map(|(version, _)| version);
            let named = std::iter::once(&alias.version).chain(second);
            let missing = named.filter(|version| self.version(version).is_none());
            missing.map(|version| (name.as_str(), version.as_str()))
        })
    }

    /// What a qualifier means: a version, or an alias and the version that it chooses. `draw` is
    /// uniform in `[0, 1)`.
    #[must_use]
    pub fn resolve(&self, qualifier: &str, draw: impl FnOnce() -> f64) -> Option<Target> {
        if let Some(alias) = self.details.aliases.get(qualifier) {
            let version = Arc::clone(self.version(alias.choose(draw))?);
            return Some(Target { version, alias: Some(Arc::clone(alias)) });
        }
        let version = Arc::clone(self.version(qualifier)?);
        Some(Target { version, alias: None })
    }
}

/// What an invocation runs.
#[derive(Debug, Clone)]
pub struct Target {
    /// The version.
    pub version: Arc<Version>,
    /// The alias by which it was called.
    pub alias: Option<Arc<Alias>>,
}

/// Every function, by name.
#[derive(Debug, Default, Clone)]
pub struct Catalog {
    functions: BTreeMap<FunctionName, Arc<Function>>,
    /// Functions and qualifiers by the id of their URL.
    urls: HashMap<String, (FunctionName, String)>,
}

impl Catalog {
    /// The function of that name.
    #[must_use]
    pub fn get(&self, name: &FunctionName) -> Option<&Arc<Function>> {
        self.find(name.as_str())
    }

    /// The function of that name, which may be none.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Function>> {
        self.functions.get(name)
    }

    /// All functions, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Function>> {
        self.functions.values()
    }

    /// Up to `limit` functions whose names follow `after`.
    pub fn page<'a>(
        &'a self,
        after: Option<&'a FunctionName>,
        limit: usize,
    ) -> impl Iterator<Item = &'a Arc<Function>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.functions.range::<FunctionName, _>((from, Unbounded)).map(|(_, f)| f).take(limit)
    }

    /// Number of functions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// This catalog with `function` in place of any of its name.
    #[must_use]
    pub fn with(&self, function: Function) -> Self {
        let mut next = self.without(function.name());
        next.add(function);
        next
    }

    /// This catalog without the function of that name.
    #[must_use]
    pub fn without(&self, name: &FunctionName) -> Self {
        let mut next = self.clone();
        if let Some(gone) = next.functions.remove(name) {
            for config in gone.details.urls.values() {
                next.urls.remove(&config.id);
            }
        }
        next
    }

    fn add(&mut self, function: Function) {
        let name = function.name().clone();
        for (qualifier, config) in &function.details.urls {
            self.urls.insert(config.id.clone(), (name.clone(), qualifier.clone()));
        }
        self.functions.insert(name, Arc::new(function));
    }

    /// The function and qualifier that a URL's id stands for.
    #[must_use]
    pub fn url(&self, id: &str) -> Option<&(FunctionName, String)> {
        self.urls.get(id)
    }
}

impl FromIterator<Function> for Catalog {
    fn from_iter<I: IntoIterator<Item = Function>>(functions: I) -> Self {
        let mut all = Self::default();
        functions.into_iter().for_each(|function| all.add(function));
        all
    }
}

/// The current catalog. One writer (`control`), any number of readers, none of which waits.
#[derive(Debug, Clone, Default)]
pub struct CatalogCell(Arc<ArcSwap<Catalog>>);

impl CatalogCell {
    /// The current snapshot.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Catalog>> {
        self.0.load()
    }

    /// The function of that name.
    #[must_use]
    pub fn get(&self, name: &FunctionName) -> Option<Arc<Function>> {
        self.0.load().get(name).map(Arc::clone)
    }

    /// The function of that name, which may be none.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Function>> {
        self.0.load().find(name).map(Arc::clone)
    }

    /// The version that an unqualified invocation of `name` runs.
    #[must_use]
    pub fn latest(&self, name: &FunctionName) -> Option<Arc<Version>> {
        self.0.load().get(name).map(|f| Arc::clone(&f.latest))
    }

    /// Replaces the snapshot.
    pub fn store(&self, catalog: Catalog) {
        self.0.store(Arc::new(catalog));
    }
}
