//! What is refused leaves nothing: each point at which an upload can fail, and what is on disk and counted
//! afterwards.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use wambda_model::{
    BoxFuture, Build, BuildError, CatalogCell, Details, Digest, FunctionName, Inspection, Kind,
    Metrics, SystemClock,
};
use wambda_store::{Blobs, Expect, MemoryRecords, ObjectBlobs, Record, Records, StoreError};

use crate::functions::{Functions, Identity, Parts, PublishError};
use crate::layers::{LayerVersion, Layers};
use crate::publish::{Change, Upload};

/// Where something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Inspect,
    Compile,
    Link,
    Configuration,
    /// The configuration of before is good, and under the lock it is not any more.
    LateConfiguration,
    Memory,
    Quota,
    BlobWrite,
    RecordWrite,
    Nowhere,
}

const ALL: [At; 9] = [
    At::Inspect,
    At::Compile,
    At::Link,
    At::Configuration,
    At::LateConfiguration,
    At::Memory,
    At::Quota,
    At::BlobWrite,
    At::RecordWrite,
];

/// A compiler whose uploads are one byte around their code.
#[derive(Debug, Default)]
struct Compiler {
    fails: Mutex<Option<At>>,
    artifacts: Mutex<HashMap<Digest, u64>>,
}

impl Compiler {
    fn fails(&self, at: At) -> Result<(), BuildError> {
        let fails = *self.fails.lock().unwrap() == Some(at);
        if fails { Err(BuildError::Invalid(format!("{at:?}"))) } else { Ok(()) }
    }
}

impl Build for Compiler {
    fn inspect<'a>(
        &'a self,
        upload: Bytes,
        _by: &'a str,
    ) -> BoxFuture<'a, Result<Inspection, BuildError>> {
        Box::pin(async move {
            self.fails(At::Inspect)?;
            let wasm = upload.slice(1..);
            Ok(Inspection {
                digest: Digest::of(&wasm),
                wasm,
                kind: Kind::Core,
                component: false,
                wasi03: false,
                imports: Vec::new(),
                memory_min_bytes: if self.fails(At::Memory).is_err() { u64::MAX } else { 0 },
            })
        })
    }

    fn check_layer<'a>(&'a self, _: Bytes, _: &'a str) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(async { Ok(()) })
    }

    fn build<'a>(
        &'a self,
        inspection: &'a Inspection,
        _by: &'a str,
    ) -> BoxFuture<'a, Result<Duration, BuildError>> {
        Box::pin(async move {
            self.fails(At::Compile)?;
            self.artifacts.lock().unwrap().insert(inspection.digest, 1_000);
            self.fails(At::Link)?;
            Ok(Duration::ZERO)
        })
    }

    fn unpacked(&self) -> u64 {
        0
    }

    fn stored(&self) -> u64 {
        self.artifacts.lock().unwrap().values().sum()
    }

    fn forget(&self, digest: &Digest) {
        self.artifacts.lock().unwrap().remove(digest);
    }

    fn sweep(&self, is_used: &(dyn Fn(&Digest) -> bool + Sync)) {
        self.artifacts.lock().unwrap().retain(|digest, _| is_used(digest));
    }
}

/// Stores whose writes fail when they are told to; what was put before fails as well leaves no trace.
struct Failing<T> {
    inner: T,
    fails: AtomicBool,
}

impl<T> Failing<T> {
    fn over(inner: T) -> Arc<Self> {
        Arc::new(Self { inner, fails: AtomicBool::new(false) })
    }

    fn check(&self) -> Result<(), StoreError> {
        let full = || StoreError::Full("as it was told".to_owned());
        if self.fails.load(SeqCst) { Err(full()) } else { Ok(()) }
    }
}

impl Records for Failing<MemoryRecords> {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.inner.get(key)
    }
    fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        match self.check() {
            Ok(()) => self.inner.put(key, value, expect),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }
    fn delete(&self, key: &str, expect: Expect) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.delete(key, expect)
    }
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(String, Record)>, StoreError>> {
        self.inner.list(prefix, after, limit)
    }
}

impl Blobs for Failing<ObjectBlobs> {
    fn put(&self, key: &str, value: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        // The upload is written, and the code is not.
        let check = if key.starts_with("upload/") { Ok(()) } else { self.check() };
        match check {
            Ok(()) => self.inner.put(key, value),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        self.inner.get(key)
    }
    fn delete(&self, key: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.delete(key)
    }
    fn discard(&self, key: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.discard(key)
    }
    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        self.inner.list(prefix)
    }
}

/// Functions over stores and a compiler that fail.
struct Stage {
    functions: Arc<Functions>,
    records: Arc<Failing<MemoryRecords>>,
    blobs: Arc<Failing<ObjectBlobs>>,
    compiler: Arc<Compiler>,
}

fn name(text: &str) -> FunctionName {
    FunctionName::new(text).unwrap()
}

fn upload(code: &str) -> Upload {
    let bytes = Bytes::from(format!("+{code}"));
    Upload { bytes, publish: None, revision_id: None, by: "u".to_owned() }
}

impl Stage {
    fn new(code_storage: u64) -> Self {
        let records = Failing::over(MemoryRecords::default());
        let blobs = Failing::over(ObjectBlobs::memory());
        let compiler = Arc::new(Compiler::default());
        let functions = Arc::new(Functions::new(Parts {
            records: records.clone(),
            blobs: blobs.clone(),
            build: compiler.clone(),
            catalog: CatalogCell::default(),
            metrics: Metrics::new("0").unwrap(),
            clock: Arc::new(SystemClock),
            identity: Identity { region: "r".into(), account: "000000000000".into() },
            concurrency: 10,
            code_storage,
            log_memory: 1 << 20,
        }));
        Self { functions, records, blobs, compiler }
    }

    /// Has the next upload fail there; its change of the configuration.
    fn fail(&self, at: At) -> Change {
        self.fail_after(at, 1)
    }

    /// The same, where the configuration is looked at so many times before the lock is held.
    fn fail_after(&self, at: At, looks: u32) -> Change {
        *self.compiler.fails.lock().unwrap() = Some(at);
        self.records.fails.store(at == At::RecordWrite, SeqCst);
        self.blobs.fails.store(at == At::BlobWrite, SeqCst);
        let calls = std::sync::atomic::AtomicU32::new(0);
        Arc::new(move |draft| {
            let late = at == At::LateConfiguration && calls.fetch_add(1, SeqCst) >= looks;
            if at == At::Configuration || late {
                draft.config.memory_bytes = 1;
            }
            Ok(())
        })
    }

    /// What is on disk, and what is counted.
    async fn kept(&self) -> (Vec<String>, u64, u64) {
        let mut keys = self.blobs.list("code").await.unwrap();
        keys.extend(self.blobs.list("upload").await.unwrap());
        keys.extend(self.blobs.list("layer").await.unwrap());
        (keys, self.compiler.stored(), self.functions.storage().used())
    }
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_at_each_point_of_failure() {
    for at in ALL {
        let stage = Stage::new(if at == At::Quota { 4_100 } else { 1 << 20 });
        let functions = &stage.functions;
        let works = stage.fail(At::Nowhere);
        functions.publish(&name("other"), upload("other"), works.clone()).await.unwrap();
        functions.publish(&name("f"), upload("before"), works).await.unwrap();
        let before = stage.kept().await;
        assert_eq!((before.0.len(), before.1), (4, 2_000));
        // As new code, and as code that another function has, which stays.
        let large = "x".repeat(if at == At::Quota { 1_050 } else { 10 });
        for code in [large.as_str(), "other"] {
            if at == At::Quota && code == "other" {
                continue;
            }
            let change = stage.fail_after(at, 2);
            let refused = functions.publish(&name("f"), upload(code), change).await;
            assert!(refused.is_err(), "{at:?}");
            assert_eq!(stage.kept().await, before, "{at:?}: publish of {code:.9}");
            let change = stage.fail(at);
            let updated = functions.update_code(&name("f"), upload(code), change).await;
            // Compiled after it was accepted: it is told later.
            let is_told_later = [At::Compile, At::Link].contains(&at);
            assert_eq!(updated.is_err(), !is_told_later, "{at:?}");
            assert_eq!(stage.kept().await, before, "{at:?}: update to {code:.9}");
            let (change, details) = (stage.fail(at), Details::default());
            let created = functions.create(&name("g"), upload(code), change, details).await;
            assert_eq!(created.is_err(), !is_told_later, "{at:?}");
            stage.fail(At::Nowhere);
            if is_told_later {
                assert!(functions.delete(&name("g")).await.unwrap());
            }
            // What was told later is removed once nothing holds the version.
            drop(created);
            for _ in 0..1_000 {
                if stage.kept().await == before {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(stage.kept().await, before, "{at:?}: create of {code:.9}");
        }
        // An honest upload is taken.
        let works = stage.fail(At::Nowhere);
        functions.publish(&name("f"), upload("after"), works).await.unwrap();
    }
}

#[tokio::test]
async fn a_layer_that_is_refused_leaves_nothing() {
    let stage = Stage::new(1 << 20);
    let (records, blobs) = (stage.records.clone(), stage.blobs.clone());
    let layers = Layers::load(records, blobs, stage.functions.storage()).await.unwrap();
    let version = |zip: &Bytes| LayerVersion {
        digest: Digest::of(zip),
        bytes: zip.len() as u64,
        description: String::new(),
        license: String::new(),
        runtimes: Vec::new(),
        architectures: Vec::new(),
        created_ms: 0,
        policy: wambda_policy::ResourcePolicy::default(),
        revision_id: String::new(),
    };
    let zip = Bytes::from_static(b"zip");
    layers.publish("l", zip.clone(), version(&zip)).await.unwrap();
    let before = stage.kept().await;
    for at in [At::RecordWrite, At::BlobWrite] {
        for zip in [Bytes::from_static(b"another"), zip.clone()] {
            stage.fail(at);
            let refused = layers.publish("l", zip.clone(), version(&zip)).await;
            assert!(matches!(refused, Err(PublishError::Store(_))), "{at:?}");
            assert_eq!(stage.kept().await, before, "{at:?}");
        }
    }
    let huge = LayerVersion { bytes: 2 << 20, ..version(&zip) };
    stage.fail(At::Nowhere);
    assert!(layers.publish("l", zip, huge).await.is_err());
    assert_eq!(stage.kept().await, before);
}

#[tokio::test]
async fn what_nothing_refers_to_goes_once_all_records_are_read() {
    let stage = Stage::new(1 << 20);
    let works = stage.fail(At::Nowhere);
    stage.functions.publish(&name("f"), upload("code"), works).await.unwrap();
    let before = stage.kept().await;
    let orphan = format!("code/{}", Digest::of(b"orphan"));
    for key in [orphan.as_str(), "code/notes", "upload/README"] {
        stage.blobs.put(key, Bytes::from_static(b"orphan")).await.unwrap();
    }
    stage.functions.sweep().await.unwrap();
    let mut after = stage.kept().await.0;
    after.retain(|key| !before.0.contains(key));
    assert_eq!(after, ["code/notes", "upload/README"], "what is not understood stays");
}

#[tokio::test]
async fn a_record_that_is_newer_or_damaged_stops_the_start() {
    for (key, value, words) in [
        ("function/f", r#"{"schema":3,"name":"f"}"#, "schema 3, and this version knows 2"),
        ("function/f", "{", "is damaged"),
        ("function/f", "", "is damaged"),
    ] {
        let stage = Stage::new(1 << 20);
        stage.records.put(key, value.into(), Expect::Any).await.unwrap();
        let refused = stage.functions.load().await.unwrap_err().to_string();
        assert!(refused.contains(key) && refused.contains(words), "{refused}");
        // It is as it was.
        assert_eq!(stage.records.get(key).await.unwrap().unwrap().value, value);
    }
}
