//! Builds the parts, in the order of their need, and runs them until the end.

use std::collections::BTreeSet;
use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::FutureExt;
use rustix::process::{Resource, Rlimit, getrlimit};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wambda_api::{Api, Auth, Hosts, Offload, Parts, Rates, Room};
use wambda_confine::Wall;
use wambda_control::functions::Parts as ControlParts;
use wambda_control::{Directories, Events, Functions, Groups, Layers, Mappings};
use wambda_dispatch::{Dispatcher, dispatcher::TICK};
use wambda_egress::{Egress, Services};
use wambda_model::limits::{BLOCKING_THREADS_MAX, SWEEP_DELAY, SWEEP_PERIOD};
use wambda_model::{Budget, CatalogCell, Clock, Digest, Metrics, clock};
use wambda_runtime::executor::CodeSource;
use wambda_runtime::layer::{LayerDirs, LayerSource};
use wambda_runtime::{Executor, RuntimeConfig, artifact::Artifacts, child};
use wambda_sources::{Deferred, deferred};
use wambda_store::damage::{self, Store};
use wambda_store::home::{Home, QUEUES, RECORDS};
use wambda_store::trash::Trash;
use wambda_store::{
    Blobs, EmbeddedQueues, EmbeddedRecords, ObjectBlobs, Queues, Records, SealedRecords,
};

use crate::config::Settings;
use crate::inside::Inside;
use crate::serving::Open;
use crate::{listen, polls, telemetry, wall};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Ticks between two rounds of reconciling that nothing asked for.
const RECONCILE_TICKS: u32 = 10;
/// Open files for which there is no connection: queues, listeners, artifacts, outgoing requests.
const FILES_BESIDE_CONNECTIONS: u64 = 2_048;
/// Larger than what the allocator puts together with others, or keeps.
const PAGE_OF_ITS_OWN: usize = 1 << 20;
/// Period of forgetting callers.
const FORGET_PERIOD: Duration = Duration::from_secs(60);
/// Niceness of the threads for long calls and other work: short calls go first.
const LONG_RUN_NICE: i32 = 10;
/// Tasks that a thread runs before it looks for what has arrived.
const EVENT_INTERVAL: u32 = 4;
/// Pause before what has panicked goes on.
const AFTER_A_PANIC: Duration = Duration::from_secs(1);
/// Period of trying whether a full disk has room again.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// Period of judging rollback rules.
const JUDGE: Duration = Duration::from_millis(500);
/// File with the account's own credentials, in the data directory.
pub const ROOT_KEY: &str = "root-key.json";

/// Runs a server until it is told to stop, by this clock.
///
/// # Errors
/// When it cannot start; never for what a request or a function does.
pub fn serve(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<()> {
    telemetry::start(settings.log_format, &settings.log)?;
    small_pages();
    let socket = listen::bind(settings.listen)?;
    let inside = Arc::new(Inside::new(&Open::new(settings.client_patience)));
    let egress = Arc::new(egress(settings, socket.local_addr()?, &inside)?);
    // Before the first thread: it holds for the threads that are started after it.
    let wall = wall::raise(settings)?;
    wambda_api::body::set_patience(settings.client_patience);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let main = Builder::new_multi_thread()
        .worker_threads(cores)
        .thread_name("wambda")
        // Between so many calls it looks for requests: each may take half a millisecond, and who is to be refused
        // waits for them.
        .event_interval(EVENT_INTERVAL)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()?;
    let (long_run, work) =
        (after_others("wambda-long", cores)?, after_others("wambda-work", cores)?);
    let (ways, clock) = ((egress, inside), Arc::clone(clock));
    let threads = (long_run.handle().clone(), work.handle().clone());
    let done = main.block_on(run(settings, socket, ways, (wall, clock), threads, cores));
    // What still runs was given its time: it ends with the process.
    main.shutdown_background();
    long_run.shutdown_background();
    work.shutdown_background();
    done
}

/// The way out for functions.
fn egress(settings: &Settings, own: SocketAddr, inside: &Arc<Inside>) -> Result<Egress> {
    let [allow, deny] = settings.egress.clone();
    let (dns, patience) = (settings.dns.clone(), settings.egress_patience);
    let settings = wambda_egress::Settings { allow, deny, dns, patience, own };
    let inside: Arc<dyn Services> = Arc::clone(inside) as _;
    Egress::new(&settings, inside).context("cannot speak TLS")
}

/// What `/version` tells.
fn about(settings: &Settings, wall: Wall) -> serde_json::Value {
    let mut about = wambda_runtime::about(VERSION, settings.wasi03);
    if let Some(about) = about.as_object_mut() {
        let confined = serde_json::json!({ "landlock": wall.landlock, "seccomp": wall.seccomp });
        about.insert("confined".to_owned(), confined);
    }
    about
}

/// Threads for what is not short, calls or the platform's own work: the threads that answer go
/// first.
fn after_others(name: &str, cores: usize) -> Result<Runtime> {
    let lower = || {
        if let Err(error) = rustix::process::setpriority_process(None, LONG_RUN_NICE) {
            tracing::warn!(%error, "cannot lower the priority of what is not short");
        }
    };
    Ok(Builder::new_multi_thread()
        .worker_threads(cores)
        .thread_name(name)
        .on_thread_start(lower)
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?)
}

/// Where state is kept, in the data directory.
struct Stores {
    records: Arc<dyn Records>,
    blobs: Arc<dyn Blobs>,
    queues: Arc<dyn Queues>,
    trash: Trash,
}

/// Opens all stores, or none: each has to be this directory's, whole, and of a form that is known.
async fn storage(data_dir: &Path, clock: &Arc<dyn Clock>) -> Result<Stores> {
    let stores = open_stores(data_dir, clock).await;
    stores.with_context(|| format!("cannot use the data directory {}", data_dir.display()))
}

async fn open_stores(data_dir: &Path, clock: &Arc<dyn Clock>) -> Result<Stores> {
    let mut home = Home::open(data_dir, VERSION)?;
    let claim = home.claim();
    let path = data_dir.join(RECORDS);
    let records = EmbeddedRecords::open(&path, &claim)?;
    // It has secrets in it, and the directory may have been made by somebody else.
    keep_private(&path)?;
    let records = SealedRecords::open(Arc::new(records), data_dir).await?;
    let path = data_dir.join(QUEUES);
    let queues = EmbeddedQueues::open(&path, &claim, Arc::clone(clock))?;
    keep_private(&path)?;
    let trash = Trash::of(data_dir);
    let blobs = ObjectBlobs::files(&home.blobs()?, trash.clone())?;
    home.finish()?;
    Ok(Stores {
        records: Arc::new(records),
        blobs: Arc::new(blobs),
        queues: Arc::new(queues),
        trash,
    })
}

fn keep_private(path: &Path) -> Result<()> {
    let private = std::fs::set_permissions(path, Permissions::from_mode(0o600));
    private.with_context(|| format!("cannot keep {} from others", path.display()))
}

/// Runs events on functions of any kind.
fn runner(dispatcher: &Arc<Dispatcher>) -> deferred::Runner {
    let invoke = Arc::clone(dispatcher) as Arc<dyn wambda_model::Invoke>;
    Arc::new(move |version, invocation, permit| {
        Box::pin(wambda_api::native::run_deferred(Arc::clone(&invoke), version, invocation, permit))
    })
}

/// Users and roles; what functions may reach follows them.
async fn roles(
    records: &Arc<dyn Records>,
    clock: &Arc<dyn Clock>,
    settings: &Settings,
    functions: &Arc<Functions>,
) -> Result<Arc<Directories>> {
    let (records, clock) = (Arc::clone(records), Arc::clone(clock));
    let directories = Directories::load(records, clock, settings.identity.clone()).await;
    let directories = directories.context("cannot load users and roles")?;
    let roles = Arc::clone(&directories);
    functions.set_roles(Arc::new(move |role, function| roles.grants(role, function)));
    let granting = Arc::clone(functions);
    directories.on_change(move || granting.regrant());
    Ok(directories)
}

/// Tells people and scripts where the server is; and, with keys, those that may read the data directory the account's own.
fn announce(address: SocketAddr, keys: Option<(&PathBuf, &Arc<Directories>)>) -> Result<()> {
    if let Some((data_dir, directories)) = keys {
        write_root_key(data_dir, directories).context("cannot write the root key")?;
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "wambda listening on http://{address}")?;
    stdout.flush()?;
    drop(stdout);
    if keys.is_some() {
        tracing::info!(%address, "requests must be signed (--auth keys)");
    } else {
        tracing::info!(%address, "no authentication (--auth off): whoever reaches this address can run code on it");
    }
    Ok(())
}

async fn run(
    settings: &Settings,
    socket: TcpSocket,
    (egress, inside): (Arc<Egress>, Arc<Inside>),
    (wall, clock): (Wall, Arc<dyn Clock>),
    (long_run, work): (Handle, Handle),
    cores: usize,
) -> Result<()> {
    let data_dir = &settings.data_dir;
    let metrics = measure()?;
    let Stores { records, blobs, queues, trash } = storage(data_dir, &clock).await?;
    let budget = Budget::new(settings.memory_budget);
    let executor = executor((settings, wall), long_run.clone(), &blobs, &metrics, &budget, egress)?;

    let catalog = CatalogCell::default();
    let functions = Arc::new(Functions::new(ControlParts {
        records: Arc::clone(&records),
        blobs: Arc::clone(&blobs),
        build: Arc::new(executor.clone()),
        catalog: catalog.clone(),
        metrics: Arc::clone(&metrics),
        clock: Arc::clone(&clock),
        identity: settings.identity.clone(),
        concurrency: settings.concurrency,
        code_storage: settings.code_storage,
        log_memory: settings.log_memory,
    }));
    let directories = roles(&records, &clock, settings, &functions).await?;
    let (cores, execute) = (u32::try_from(cores).unwrap_or(1), Arc::new(executor.clone()));
    let (tick_clock, shared) = (Arc::clone(&clock), catalog.clone());
    let dispatcher =
        Arc::new(Dispatcher::new(execute, shared, Arc::clone(&budget), tick_clock, cores));
    let count = functions.load().await.context("cannot load the functions")?;
    let (layers, mappings, groups) = rows(&records, &blobs, &functions).await?;
    let disk = (Arc::clone(&layers), trash, data_dir.clone());
    let events = Arc::new(Events::new(queues, catalog.clone(), settings.events));
    let deferred = Deferred::new(deferred::Parts {
        events: Arc::clone(&events),
        catalog,
        invoke: Arc::clone(&dispatcher) as Arc<dyn wambda_model::Invoke>,
        run: runner(&dispatcher),
        identity: settings.identity.clone(),
        keys: settings.keys,
        workers: long_run,
        metrics: Arc::clone(&metrics),
        clock,
    });
    tracing::info!(functions = count, data_dir = %data_dir.display(), "loaded");
    warn_about_the_machine(settings.connections.all);

    let (listener, address) = listen::listen(socket)?;
    let (set_ready, ready) = watch::channel(true);
    let api = Arc::new(Api::new(Parts {
        functions: Arc::clone(&functions),
        layers,
        mappings,
        groups,
        events,
        auth: Auth::new(Arc::clone(&directories), settings.keys),
        hosts: Hosts::new(address.ip(), settings.allowed_hosts.clone()),
        rates: Rates::new(settings.peer_rate),
        room: Room::for_requests(settings.body_memory),
        responses: Room::for_responses(settings.response_memory),
        offload: Offload::new(work),
        invoke: Arc::clone(&dispatcher) as Arc<dyn wambda_model::Invoke>,
        metrics: Arc::clone(&metrics),
        identity: settings.identity.clone(),
        about: about(settings, wall),
        before_metrics: before_metrics(executor, &metrics, &budget, &deferred),
        ready: ready.clone(),
    }));
    inside.answer(&api, Handle::current());
    let pump = tokio::spawn(Arc::clone(&deferred).pump(ready));
    let _chores = chores(&api, dispatcher, functions, deferred, disk);
    announce(address, settings.keys.then_some((data_dir, &directories)))?;
    let served = (Arc::clone(inside.open()), pump);
    listen::accept(listener, api, set_ready, settings.into(), served).await
}

/// What is done again and again, until they are dropped.
fn chores(
    api: &Arc<Api>,
    dispatcher: Arc<Dispatcher>,
    functions: Arc<Functions>,
    deferred: Arc<Deferred>,
    (layers, trash, data_dir): (Arc<Layers>, Trash, PathBuf),
) -> JoinSet<()> {
    let mut chores = JoinSet::new();
    let sweeping = (Arc::clone(&functions), layers, trash);
    chores.spawn(again(move || sweep(sweeping.clone())));
    chores.spawn(again(move || probe(data_dir.clone())));
    let own = Arc::clone(api);
    chores.spawn(again(move || forget(Arc::clone(&own))));
    chores.spawn(upkeep(dispatcher, functions));
    chores.spawn(judge(Arc::clone(api)));
    chores.spawn(again(move || Arc::clone(&deferred).upkeep()));
    chores
}

/// Does what has no end, and begins anew when it panics, which is counted where it happens.
pub(crate) async fn again<F: Future<Output = ()>>(chore: impl Fn() -> F) {
    while AssertUnwindSafe(chore()).catch_unwind().await.is_err() {
        tokio::time::sleep(AFTER_A_PANIC).await;
    }
}

/// While the disk is full, tries whether it has room again: nothing else may write meanwhile.
async fn probe(data_dir: PathBuf) {
    let mut tick = tokio::time::interval(PROBE_PERIOD);
    loop {
        tick.tick().await;
        if damage::is_disk_full() {
            let dir = data_dir.clone();
            let _ = tokio::task::spawn_blocking(move || damage::probe(&dir)).await;
        }
    }
}

/// Looks now and then for what nothing refers to, and empties the trash of what has been there for long.
/// Not at once: an operator who has started the server on the wrong files has a moment.
async fn sweep((functions, layers, trash): (Arc<Functions>, Arc<Layers>, Trash)) {
    let mut pause = SWEEP_DELAY;
    loop {
        tokio::time::sleep(pause).await;
        pause = SWEEP_PERIOD;
        let swept = async {
            functions.sweep().await?;
            layers.sweep(|| layers_in_use(functions.catalog())).await
        };
        if let Err(error) = swept.await {
            tracing::warn!(%error, "cannot look for what nothing refers to");
        }
        let trash = trash.clone();
        let emptied = tokio::task::spawn_blocking(move || trash.empty(clock::unix_ms())).await;
        if let Ok(Err(error)) = emptied {
            tracing::warn!(%error, "cannot empty the trash");
        }
    }
}

/// What is kept by name.
async fn rows(
    records: &Arc<dyn Records>,
    blobs: &Arc<dyn Blobs>,
    functions: &Functions,
) -> Result<(Arc<Layers>, Arc<Mappings>, Arc<Groups>)> {
    let layers = Layers::load(Arc::clone(records), Arc::clone(blobs), functions.storage()).await;
    let layers = layers.context("cannot load the layers")?;
    functions.tell_lost_code().await.context("cannot list the code")?;
    layers.tell_lost().await.context("cannot list the layers")?;
    let mappings = Mappings::load(Arc::clone(records)).await;
    let groups = Groups::load(Arc::clone(records)).await;
    Ok((
        layers,
        mappings.context("cannot load the mappings")?,
        groups.context("cannot load the log groups")?,
    ))
}

/// Shows what nobody counts as it happens.
fn before_metrics(
    executor: Executor,
    metrics: &Arc<Metrics>,
    budget: &Arc<Budget>,
    deferred: &Arc<Deferred>,
) -> Box<dyn Fn() + Send + Sync> {
    let (metrics, budget, deferred) =
        (Arc::clone(metrics), Arc::clone(budget), Arc::clone(deferred));
    Box::new(move || {
        executor.show_slots();
        deferred.show();
        let show = |gauge: &prometheus::IntGauge, bytes| {
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        };
        metrics.show_damage(Store::ALL.map(|store| (store.as_str(), store.met())));
        show(&metrics.memory_used, budget.used());
        show(&metrics.memory_budget, budget.limit());
    })
}

/// Layers that versions use, whether or not they are still listed.
fn layers_in_use(catalog: &CatalogCell) -> BTreeSet<Digest> {
    let catalog = catalog.load();
    let versions = catalog.iter().flat_map(|function| function.all_versions());
    versions
        .flat_map(|version| version.attributes.layers.iter().map(|layer| layer.digest))
        .collect()
}

/// The account's own credentials, for whoever may read the data directory.
fn write_root_key(data_dir: &Path, directories: &Directories) -> Result<()> {
    let path = data_dir.join(ROOT_KEY);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    let key = directories.root();
    let text = serde_json::json!({
        "access_key_id": key.access_key_id,
        "secret_access_key": key.secret_access_key,
    });
    writeln!(file, "{text:#}")?;
    tracing::info!(path = %path.display(), "the account's own access key is here");
    Ok(())
}

/// Judges rollback rules. A panic is counted and survived.
async fn judge(api: Arc<Api>) {
    let mut tick = tokio::time::interval(JUDGE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let _ = AssertUnwindSafe(wambda_api::rollback::judge(&api)).catch_unwind().await;
    }
}

fn executor(
    (settings, wall): (&Settings, Wall),
    long_run: Handle,
    blobs: &Arc<dyn Blobs>,
    metrics: &Arc<Metrics>,
    budget: &Arc<Budget>,
    egress: Arc<Egress>,
) -> Result<Executor> {
    let code_blobs = Arc::clone(blobs);
    let code: CodeSource = Arc::new(move |digest| {
        let blobs = Arc::clone(&code_blobs);
        Box::pin(async move { Functions::code(&*blobs, digest).await })
    });
    let layer_blobs = Arc::clone(blobs);
    let layers: LayerSource = Arc::new(move |digest| {
        let blobs = Arc::clone(&layer_blobs);
        Box::pin(async move { Layers::zip(&*blobs, digest).await })
    });
    let config = RuntimeConfig {
        layers: LayerDirs::open(
            &settings.data_dir,
            settings.code_storage,
            (layers, long_run.clone()),
        )
        .context("cannot open the layers")?,
        // This very file, whatever is at its path by then.
        program: PathBuf::from("/proc/self/exe"),
        artifacts: Artifacts::open(&settings.data_dir).context("cannot open the artifacts")?,
        wasi03: settings.wasi03,
        region: Arc::clone(&settings.identity.region),
        budget: Arc::clone(budget),
        slots: settings.slots,
        stuck_after: settings.stuck_after,
        compiling: child::Limits { wall, ..settings.compiling },
        egress,
        long_run,
        code,
        metrics: Arc::clone(metrics),
    };
    Executor::new(config).map_err(|e| anyhow::anyhow!("cannot start the runtime: {e:#}"))
}

/// Reconciles after changes, and plans on every tick. A panic in either is counted and survived.
async fn upkeep(dispatcher: Arc<Dispatcher>, functions: Arc<Functions>) {
    let changed = functions.changed();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0;
    // At once after a change, and not for each of many: it looks at all functions.
    let mut rested = true;
    loop {
        let asked = tokio::select! {
            () = changed.notified(), if rested => true,
            _ = tick.tick() => !rested && changed.notified().now_or_never().is_some(),
        };
        rested = !asked;
        ticks = if asked { 0 } else { (ticks + 1) % RECONCILE_TICKS };
        let round = || {
            if asked || ticks == 0 {
                dispatcher.reconcile();
                functions.trim_logs();
            }
            dispatcher.tick();
            clock::adjust();
            give_back();
        };
        // Counted where it happened.
        let _ = catch_unwind(AssertUnwindSafe(round));
    }
}

/// Has memory come in small pages: the allocator asks for huge ones, of which a few bytes in use keep all 2 MiB.
/// Measured: 23 MB instead of 37 at start and 50 instead of 80 after large uploads, and not slower.
fn small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "memory may come in huge pages");
    }
}

/// Has the allocator give back what has been free for a second. It looks for that only when it takes or frees a page of
/// its own, which a server at rest does not: so here is one.
fn give_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(PAGE_OF_ITS_OWN)));
}

/// Forgets callers who have not called for a while.
async fn forget(api: Arc<Api>) {
    let mut tick = tokio::time::interval(FORGET_PERIOD);
    loop {
        tick.tick().await;
        api.rates.forget();
    }
}

/// Begins to measure.
fn measure() -> Result<Arc<Metrics>> {
    let metrics = Metrics::new(VERSION)?;
    count_panics(&metrics);
    polls::watch(&metrics).context("cannot start a thread")?;
    Ok(metrics)
}

/// Counts every panic, wherever it is caught, and lets it be printed as ever.
fn count_panics(metrics: &Arc<Metrics>) {
    let (metrics, print) = (Arc::clone(metrics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        // A damaged file is none of the program: it is told where it is met.
        if damage::is_redb(panic) {
            return;
        }
        metrics.host_panics.inc();
        print(panic);
    }));
}

/// Says what this machine limits.
fn warn_about_the_machine(connections: usize) {
    let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let maps = maps.and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(maps) = maps.filter(|maps| *maps < 65_530) {
        tracing::warn!(maps, "vm.max_map_count is low: it limits the number of warm instances");
    }
    let Rlimit { current, .. } = getrlimit(Resource::Nofile);
    let wanted = connections as u64 + FILES_BESIDE_CONNECTIONS;
    if let Some(files) = current.filter(|files| *files < wanted) {
        tracing::warn!(
            files,
            wanted,
            "the limit of open files is below --connections: connections will be refused before"
        );
    }
}
