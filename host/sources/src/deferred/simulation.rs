//! The whole of it under virtual time: queues, leases, retries, scheduling and scaling as they are, on a
//! clock that jumps, with functions that take their time, fail, hang and cost, and a server that dies.
//! Every seed is another story; one that goes wrong prints itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use bytes::Bytes;
use wambda_control::events::config_of;
use wambda_dispatch::Dispatcher;
use wambda_model::event::{Ending, EventConfig, EventSettings, Status};
use wambda_model::invocation::InstanceCounts;
use wambda_model::limits::LOST_MAX;
use wambda_model::{
    Budget, Catalog, Details, Execute, FunctionConfig, FunctionError, FunctionName, Gate, LATEST,
    Reply, Report, RequestId, Share, StartKind,
};
use wambda_store::MemoryQueues;
use wambda_store::queues::Found;

use super::*;

/// Virtual time that goes on from one life of the server to the next; the wall clock jumps.
#[derive(Debug)]
struct SimClock {
    state: Mutex<(Instant, Option<tokio::time::Instant>, u64)>,
}

impl SimClock {
    fn begin_life(&self) {
        self.state.lock().unwrap().1 = Some(tokio::time::Instant::now());
    }

    fn end_life(&self) {
        let now = self.now();
        let mut state = self.state.lock().unwrap();
        (state.0, state.1) = (now, None);
    }

    fn jump(&self, ms: i64) {
        let mut state = self.state.lock().unwrap();
        state.2 = state.2.saturating_add_signed(ms);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        let state = self.state.lock().unwrap();
        let lived = state.1.map_or(Duration::ZERO, |since| since.elapsed());
        state.0 + lived
    }

    fn unix_ms(&self) -> u64 {
        self.state.lock().unwrap().2
    }
}

/// How a function behaves.
#[derive(Debug, Clone, Copy)]
struct Habits {
    service_ms: u64,
    cpu_share: f64,
    /// Shares of 100.
    errors: u32,
    faults: u32,
    hangs: u32,
}

/// What was seen of the functions.
#[derive(Debug, Default)]
struct Seen {
    runs: Mutex<HashMap<RequestId, u32>>,
    running: AtomicU32,
    most: AtomicU32,
    /// Events that began to run after they had ended.
    ghosts: AtomicU32,
}

/// The outcome of an event.
fn has_ended(queues: &MemoryQueues, id: RequestId) -> Option<Ending> {
    match queues.find(id).now_or_never().unwrap().unwrap() {
        Some(Found::Ended { outcome, .. }) => serde_json::from_slice(&outcome).unwrap(),
        _ => None,
    }
}

/// Functions that only pretend.
struct Pretend {
    habits: HashMap<String, Habits>,
    seen: Arc<Seen>,
    random: Mutex<fastrand::Rng>,
    queues: Arc<MemoryQueues>,
}

struct Busy(Arc<Seen>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

impl Execute for Pretend {
    fn execute(
        &self,
        version: &Arc<Version>,
        invocation: Invocation,
        permit: Permit,
    ) -> BoxFuture<'static, Result<Outcome, InvokeError>> {
        let habits = self.habits[version.name.as_str()];
        let (draw, ms) = {
            let mut random = self.random.lock().unwrap();
            (random.u32(0..100), random.u64(0..=habits.service_ms * 2))
        };
        let (seen, version) = (Arc::clone(&self.seen), Arc::clone(version));
        let queues = Arc::clone(&self.queues);
        Box::pin(async move {
            let _permit = permit;
            let running = seen.running.fetch_add(1, Relaxed) + 1;
            let _busy = Busy(Arc::clone(&seen));
            seen.most.fetch_max(running, Relaxed);
            if draw < habits.faults {
                return Err(InvokeError::Unavailable("no room".to_owned()));
            }
            if has_ended(&queues, invocation.id).is_some() {
                seen.ghosts.fetch_add(1, Relaxed);
            }
            *seen.runs.lock().unwrap().entry(invocation.id).or_insert(0) += 1;
            let hangs = draw < habits.faults + habits.hangs;
            let duration = if hangs { version.config.timeout() } else { Duration::from_millis(ms) };
            tokio::time::sleep(duration).await;
            let failed = hangs || draw < habits.faults + habits.hangs + habits.errors;
            let report = Report {
                duration,
                init: None,
                cpu: duration.mul_f64(habits.cpu_share),
                memory_bytes: 1,
                start: StartKind::Warm,
            };
            let result = if failed {
                Err(FunctionError::returned("Wanted", "as it is".to_owned(), Vec::new()))
            } else {
                Ok(Reply::Event(Bytes::from_static(b"1")))
            };
            Ok(Outcome { result, version, report })
        })
    }

    fn keep_warm(&self, _: &Arc<Version>, _: u32) {}

    fn counts(&self, _: &Version) -> InstanceCounts {
        InstanceCounts::default()
    }

    fn instance_bytes(&self, _: &Version) -> Option<u64> {
        None
    }

    fn retain(&self, _: &dyn Fn(&Version) -> bool) {}
}

fn function(
    name: &str,
    account: &Arc<Gate>,
    metrics: &Metrics,
    events: EventConfig,
    reserved: Option<u32>,
) -> Function {
    let name = FunctionName::new(name).unwrap();
    let share = Share::of(account);
    share.reserve(reserved);
    let (share, metrics) = (Arc::new(share), metrics.function(&name));
    let version = |number: Option<u64>, timeout_ms| Version {
        label: number.map_or(LATEST.to_owned(), |n| n.to_string()).into(),
        number,
        config: FunctionConfig { timeout_ms, ..FunctionConfig::default() },
        ..Version::blank(name.clone(), Arc::clone(&metrics), Arc::clone(&share))
    };
    let details = Details {
        events: BTreeMap::from([(LATEST.to_owned(), events)]),
        reserved,
        ..Details::default()
    };
    let versions = BTreeMap::from([(1, Arc::new(version(Some(1), 90_000)))]);
    Function { latest: Arc::new(version(None, 2_000)), versions, details }
}

/// One story.
struct World {
    random: fastrand::Rng,
    clock: Arc<SimClock>,
    queues: Arc<MemoryQueues>,
    catalog: CatalogCell,
    metrics: Arc<Metrics>,
    habits: HashMap<String, Habits>,
    seen: Arc<Seen>,
    concurrency: u32,
    settings: EventSettings,
    /// Whether it was stopped for longer than a lease: then an event may be run by two workers, and one of
    /// them may begin when the other has ended it.
    slept: bool,
    /// Whether reservations have changed.
    reserves: bool,
    /// What functions have reserved, in the order of their names.
    reserved: Vec<Option<u32>>,
    /// Accepted events, and the retries of their function.
    accepted: HashMap<RequestId, u32>,
    crashes: u32,
}

const NAMES: [&str; 3] = ["quick", "slow", "bad"];

impl World {
    fn new(seed: u64, metrics: &Arc<Metrics>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        fastrand::seed(seed);
        let state = Mutex::new((wambda_model::clock::now(), None, 1_800_000_000_000));
        let clock = Arc::new(SimClock { state });
        let queues = Arc::new(MemoryQueues::new(Arc::clone(&clock) as Arc<dyn Clock>));
        let concurrency = random.u32(2..30);
        let account = Arc::new(Gate::new(concurrency));
        let (mut habits, mut functions) = (HashMap::new(), Vec::new());
        for name in NAMES {
            let is_bad = name == "bad";
            let habit = Habits {
                service_ms: if name == "slow" { random.u64(50..900) } else { random.u64(0..20) },
                cpu_share: random.f64(),
                errors: if is_bad { random.u32(30..90) } else { random.u32(0..20) },
                faults: random.u32(0..10),
                hangs: if is_bad { random.u32(0..10) } else { 0 },
            };
            habits.insert(name.to_owned(), habit);
            let events = EventConfig { retries: Some(random.u32(0..3)), ..EventConfig::default() };
            let reserved = random.bool().then(|| random.u32(1..6));
            functions.push(function(name, &account, metrics, events, reserved));
        }
        let catalog = CatalogCell::default();
        catalog.store(functions.into_iter().collect::<Catalog>());
        let reserved = catalog.load().iter().map(|f| f.details.reserved).collect();
        let settings = EventSettings {
            retry_delays: [Duration::from_millis(700), Duration::from_millis(1_500)],
            backoff: [Duration::from_millis(100), Duration::from_secs(3)],
            ..EventSettings::default()
        };
        Self {
            random,
            clock,
            queues,
            catalog,
            metrics: Arc::clone(metrics),
            habits,
            seen: Arc::default(),
            concurrency,
            settings,
            slept: false,
            reserves: false,
            reserved,
            accepted: HashMap::new(),
            crashes: 0,
        }
    }

    /// A server, from its start to its death. `work` says what happens meanwhile.
    fn live(&mut self, work: impl AsyncFnOnce(&mut Self, Arc<Events>)) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            self.clock.begin_life();
            let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
            let pretend: Arc<dyn Execute> = Arc::new(Pretend {
                habits: self.habits.clone(),
                seen: Arc::clone(&self.seen),
                random: Mutex::new(self.random.fork()),
                queues: Arc::clone(&self.queues),
            });
            let budget = Budget::new(1 << 30);
            let dispatcher = Arc::new(Dispatcher::new(
                pretend,
                self.catalog.clone(),
                budget,
                Arc::clone(&clock),
                2,
            ));
            let queues = Arc::clone(&self.queues) as Arc<dyn Queues>;
            let events = Arc::new(Events::new(queues, self.catalog.clone(), self.settings));
            let invoke = Arc::clone(&dispatcher) as Arc<dyn Invoke>;
            let runner = Arc::clone(&invoke);
            let deferred = Deferred::new(Parts {
                events: Arc::clone(&events),
                catalog: self.catalog.clone(),
                invoke,
                run: Arc::new(move |version, invocation, permit| {
                    runner.run(&version, invocation, permit)
                }),
                identity: Identity { region: "r".into(), account: "a".into() },
                keys: false,
                workers: Handle::current(),
                metrics: Arc::clone(&self.metrics),
                clock,
            });
            let (ready, is_ready) = watch::channel(true);
            let pump = tokio::spawn(deferred.pump(is_ready));
            let ticking = tokio::spawn(async move {
                loop {
                    dispatcher.tick();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
            work(self, events).await;
            if self.random.bool() {
                // An orderly end, this time.
                let _ = ready.send(false);
                let _ = tokio::time::timeout(Duration::from_secs(5), pump).await;
            }
            ticking.abort();
            self.clock.end_life();
        });
        // Whatever ran is gone, wherever it was.
        drop(runtime);
        self.crashes += 1;
        self.queues.restart().unwrap();
        self.seen.running.store(0, Relaxed);
    }

    async fn send(&mut self, events: &Events) {
        let name = NAMES[self.random.usize(0..NAMES.len())];
        let function = self.catalog.get(&FunctionName::new(name).unwrap()).unwrap();
        let qualifier = self.random.bool().then(|| "1".to_owned());
        let retries = config_of(&function, qualifier.as_deref()).retries();
        let id = events.accept(&function, qualifier, Bytes::from_static(b"{}"), None, None).await;
        self.accepted.insert(id.unwrap(), retries);
    }

    async fn pause_or_resume(&mut self) {
        let queues = self.queues.infos();
        if let Some((name, info)) = self.random.choice(queues.iter()) {
            self.queues.pause(name, !info.is_paused()).await.unwrap();
        }
    }

    /// Lets nothing of a function run, or gives all of them back what they had.
    fn reserve(&mut self, nothing: Option<u32>) {
        let at = self.random.usize(0..NAMES.len());
        let change = |(n, function): (usize, &Arc<Function>)| {
            let mut function = (**function).clone();
            if nothing.is_none() || n == at {
                let now = nothing.or(self.reserved[n]);
                function.details.reserved = now;
                function.latest.share.reserve(now);
            }
            function
        };
        let changed: Catalog = self.catalog.load().iter().enumerate().map(change).collect();
        self.catalog.store(changed);
    }

    fn story(&mut self) {
        let lives = self.random.usize(1..5);
        for _ in 0..lives {
            self.live(async |world, events| {
                for _ in 0..world.random.usize(1..12) {
                    for _ in 0..world.random.usize(0..6) {
                        world.send(&events).await;
                    }
                    match world.random.u32(0..20) {
                        0 => world.clock.jump(world.random.i64(-10_000_000..10_000_000)),
                        // The process is stopped for a while.
                        1 => {
                            let stopped = Duration::from_secs(world.random.u64(1..200));
                            world.slept |= stopped > Duration::from_secs(60);
                            tokio::time::advance(stopped).await;
                        }
                        2 => world.pause_or_resume().await,
                        3 => {
                            world.reserves = true;
                            world.reserve(Some(0));
                        }
                        4 | 5 => world.reserve(None),
                        _ => {}
                    }
                    tokio::time::sleep(Duration::from_millis(world.random.u64(0..600))).await;
                }
            });
        }
        // The last life is as long as it takes.
        self.live(async |world, _| {
            world.reserve(None);
            for (name, info) in world.queues.infos() {
                if info.is_paused() {
                    world.queues.pause(&name, false).await.unwrap();
                }
            }
            let began = tokio::time::Instant::now();
            while world
                .queues
                .infos()
                .iter()
                .any(|(name, info)| async_owner(name).is_some() && info.count() > 0)
            {
                assert!(began.elapsed() < Duration::from_secs(7_200), "it does not come to an end");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }

    /// What must be true at the end of every story.
    fn check(&self) {
        let runs = self.seen.runs.lock().unwrap();
        let ghosts = self.seen.ghosts.load(Relaxed);
        assert!(ghosts == 0 || self.slept, "{ghosts} ran after their end");
        assert!(
            runs.keys().all(|id| self.accepted.contains_key(id)),
            "something ran that nobody sent"
        );
        let most = self.seen.most.load(Relaxed);
        let reserved: u32 = self.reserved.iter().flatten().sum();
        // What runs while a reservation is made or ended goes on, beside what may run then.
        assert!(self.reserves || most <= self.concurrency + reserved, "{most} ran at once");
        for (id, retries) in &self.accepted {
            let Some(ending) = has_ended(&self.queues, *id) else {
                panic!("{id} was accepted, and has no outcome");
            };
            let ran = runs.get(id).copied().unwrap_or(0);
            assert!(ran <= retries + 1 + self.crashes, "{id} ran {ran} times: {ending:?}");
            match ending.status {
                Status::Succeeded => assert!(ran > 0, "{id} succeeded without running"),
                Status::Dead if ending.condition == "ZeroReservedConcurrency" => {}
                Status::Dead => assert!(
                    ending.invoked > *retries || ending.invoked >= LOST_MAX,
                    "{id} was given up too early: {ending:?}"
                ),
                Status::Expired => panic!("{id} had six hours: {ending:?}"),
            }
        }
        let dead: u64 = self
            .queues
            .infos()
            .iter()
            .filter(|(name, _)| name.starts_with("dead:"))
            .map(|(_, info)| info.count())
            .sum();
        let endings = self.accepted.keys().filter_map(|id| has_ended(&self.queues, *id));
        let given_up = endings.filter(|ending| ending.status == Status::Dead).count() as u64;
        assert_eq!(dead, given_up, "each that was given up is a dead letter");
    }
}

/// Stories of one run.
const STORIES: u64 = 2_000;

#[test]
#[allow(clippy::disallowed_methods)] // a seed to tell again
fn thousands_of_stories_end_well() {
    let only = std::env::var("WAMBDA_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    let (first, count) = match only {
        Some(seed) => (seed, 1),
        None => (fastrand::u64(0..1 << 40), STORIES),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let metrics = Metrics::new("simulation").unwrap();
                for seed in (first..first + count).filter(|seed| seed % threads == thread) {
                    let story = std::panic::AssertUnwindSafe(|| {
                        let mut world = World::new(seed, &metrics);
                        world.story();
                        world.check();
                        world.accepted.len()
                    });
                    let told = std::panic::catch_unwind(story);
                    assert!(told.is_ok(), "again: WAMBDA_SIMULATION_SEED={seed}");
                }
            });
        }
    });
}
