//! The catalog: an immutable snapshot of every function, swapped whole behind one atomic load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::config::{FunctionConfig, Kind, Reuse};
use crate::ids::{Digest, FunctionName};
use crate::logs::LogRing;
use crate::metrics::FunctionMetrics;

/// One immutable version of a function: code and configuration.
#[derive(Debug)]
pub struct Version {
    /// Tells versions apart within this process; never reused.
    pub uid: u64,
    /// The function.
    pub name: FunctionName,
    /// What users call it: `$LATEST`.
    pub label: Arc<str>,
    /// Counts publishes of this function, from 1.
    pub revision: u64,
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
    /// Imports, for people.
    pub imports: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub published_ms: u64,
    /// Milliseconds the compilation took; 0 when the artifact was there.
    pub compile_ms: u64,
    /// Configuration.
    pub config: FunctionConfig,
    /// Reuse in force.
    pub reuse: Reuse,
    /// The function's ARN.
    pub arn: Arc<str>,
    /// Today's log stream is this prefix's; the log group is `/aws/lambda/NAME`.
    pub log_group: Arc<str>,
    /// The function's log, shared by its versions.
    pub logs: Arc<LogRing>,
    /// The function's metrics, shared by its versions.
    pub metrics: Arc<FunctionMetrics>,
}

impl Version {
    /// A number no other version of this process has.
    #[must_use]
    pub fn next_uid() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

/// A function: today one version, `$LATEST`.
#[derive(Debug, Clone)]
pub struct Function {
    /// What an unqualified invocation runs.
    pub latest: Arc<Version>,
}

/// Every function, by name.
#[derive(Debug, Default, Clone)]
pub struct Catalog {
    functions: BTreeMap<FunctionName, Function>,
}

impl Catalog {
    /// The function of that name.
    #[must_use]
    pub fn get(&self, name: &FunctionName) -> Option<&Function> {
        self.functions.get(name)
    }

    /// All functions, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Function> {
        self.functions.values()
    }

    /// Up to `limit` functions whose names follow `after`.
    pub fn page<'a>(
        &'a self,
        after: Option<&'a FunctionName>,
        limit: usize,
    ) -> impl Iterator<Item = &'a Function> {
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
        let mut next = self.clone();
        next.functions.insert(function.latest.name.clone(), function);
        next
    }

    /// This catalog without the function of that name.
    #[must_use]
    pub fn without(&self, name: &FunctionName) -> Self {
        let mut next = self.clone();
        next.functions.remove(name);
        next
    }
}

impl FromIterator<Function> for Catalog {
    fn from_iter<I: IntoIterator<Item = Function>>(functions: I) -> Self {
        let by_name = |f: Function| (f.latest.name.clone(), f);
        Self { functions: functions.into_iter().map(by_name).collect() }
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
