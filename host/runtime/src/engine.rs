//! The two engines, and the thread that ticks their epochs. docs/decisions/0002 says why two.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::Thread;
use std::time::Duration;

use wambda_model::limits;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy,
};

use crate::watchdog;

/// Tables that there are for each slot.
pub(crate) const TABLES_A_SLOT: u32 = 4;

/// What there is room for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Instances alive at once; each reserves 4 GiB of address space for each of its memories.
    pub slots: u32,
    /// Bytes that they may hold together.
    pub budget: u64,
}

/// Which engine runs a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// Core modules, commands and everything on WASI 0.2: without concurrency support, because host
    /// calls into components cost less than half without it.
    Main,
    /// Components on WASI 0.3, which need it.
    Concurrent,
}

impl EngineKind {
    /// The name in file names, arguments and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Concurrent => "wasi03",
        }
    }

    /// The engine of a version that needs WASI 0.3, or does not.
    #[must_use]
    pub fn of(wasi03: bool) -> Self {
        if wasi03 { Self::Concurrent } else { Self::Main }
    }

    /// Reads [`Self::as_str`] back.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Main, Self::Concurrent].into_iter().find(|kind| kind.as_str() == name)
    }

    /// Slots of this engine, when the main one has `slots`.
    fn slots(self, slots: u32) -> u32 {
        match self {
            Self::Main => slots,
            Self::Concurrent => slots.min(limits::CONCURRENT_SLOTS_MAX),
        }
    }
}

/// What decides about generated code: the same in the compiling child and in the server, so that
/// the child's artifacts load here.
fn base_config(kind: EngineKind) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .epoch_interruption(true)
        .concurrency_support(kind == EngineKind::Concurrent)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(32))
        .max_wasm_stack(limits::WASM_STACK_BYTES)
        .async_stack_size(limits::FIBER_STACK_BYTES)
        .memory_init_cow(true)
        .memory_guaranteed_dense_image_size(128 << 20)
        .memory_may_move(false)
        .memory_reservation(4 << 30)
        .native_unwind_info(false);
    config
}

/// The engine of the compiling child: it never instantiates, so it reserves nothing.
///
/// # Errors
/// When wasmtime refuses the configuration.
pub fn compiling_engine(kind: EngineKind) -> wasmtime::Result<Engine> {
    Engine::new(&base_config(kind))
}

fn features_of(main: &Engine) -> wasmparser::WasmFeatures {
    main.get_wasm_features() | wasmparser::WasmFeatures::CM_ASYNC
}

/// The features that uploads may use, without the server's engines.
///
/// # Errors
/// When this machine cannot have such an engine.
pub fn features() -> wasmtime::Result<wasmparser::WasmFeatures> {
    Ok(features_of(&compiling_engine(EngineKind::Main)?))
}

/// Bytes of a free slot that stay in memory for its next instance, so that resetting it costs no page
/// faults. They are in nobody's budget: all slots together hold half of the guests' budget at most.
fn resident_bytes(room: Room) -> usize {
    let slots = EngineKind::Main.slots(room.slots) + EngineKind::Concurrent.slots(room.slots);
    let each = room.budget / 2 / u64::from(slots.max(1));
    usize::try_from(each.clamp(limits::SLOT_RESIDENT_BYTES_MIN, limits::SLOT_RESIDENT_BYTES_MAX))
        .unwrap_or(0)
        & !0xffff
}

fn pool(kind: EngineKind, room: Room) -> PoolingAllocationConfig {
    let slots = kind.slots(room.slots);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_memories(slots)
        .total_component_instances(slots)
        // They are counted, and nothing is kept for them.
        .total_core_instances(
            slots.saturating_mul(u32::try_from(limits::STORE_INSTANCES_MAX).unwrap_or(64)),
        )
        .total_tables(slots * TABLES_A_SLOT)
        .total_stacks(slots)
        .max_unused_warm_slots(slots)
        .table_elements(200_000)
        .max_memory_size(4 << 30)
        .max_core_instances_per_component(u32::try_from(limits::STORE_INSTANCES_MAX).unwrap_or(64))
        .max_memories_per_component(u32::try_from(limits::STORE_MEMORIES_MAX).unwrap_or(8))
        .max_tables_per_component(u32::try_from(limits::STORE_TABLES_MAX).unwrap_or(32))
        .max_memories_per_module(u32::try_from(limits::STORE_MEMORIES_MAX).unwrap_or(8))
        .max_tables_per_module(8)
        // At once: a slot that waits to be reset still holds its guest's memory, and one that is reset
        // after its module was dropped holds the module's file and pages for ever.
        .decommit_batch_size(1);
    if uses_pagemap_scan() {
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(resident_bytes(room))
            .table_keep_resident(512 << 10);
    }
    pool
}

/// Whether slots are reset by scanning for their dirty pages. Not with swap on: a page that was
/// swapped out is neither reset nor decommitted by the scan, so the next tenant could read it.
#[must_use]
pub fn uses_pagemap_scan() -> bool {
    PoolingAllocationConfig::is_pagemap_scan_available() && !swap_is_on()
}

/// Whether the machine swaps; when that cannot be read, yes.
fn swap_is_on() -> bool {
    std::fs::read_to_string("/proc/swaps").map_or(true, |text| text.lines().count() > 1)
}

/// The engines of a server.
#[derive(Debug, Clone)]
pub struct Engines {
    main: Engine,
    concurrent: Option<Engine>,
    slots: u32,
    ticker: Arc<Ticker>,
}

impl Engines {
    /// Makes the engines for as many guests as there is room for, the concurrent one only when the
    /// operator allows WASI 0.3, and starts the ticker.
    ///
    /// # Errors
    /// When the address space cannot be reserved or the thread cannot start.
    pub fn new(wasi03: bool, room: Room) -> wasmtime::Result<Self> {
        let make = |kind| {
            let mut config = base_config(kind);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(kind, room)));
            Engine::new(&config)
        };
        let main = make(EngineKind::Main)?;
        let concurrent = wasi03.then(|| make(EngineKind::Concurrent)).transpose()?;
        let ticked = std::iter::once(main.clone()).chain(concurrent.clone()).collect();
        Ok(Self { main, concurrent, slots: room.slots, ticker: Ticker::start(ticked)? })
    }

    /// Slots of the engine of that kind.
    pub(crate) fn slots(&self, kind: EngineKind) -> u32 {
        kind.slots(self.slots)
    }

    /// The engine of that kind, when it is there.
    #[must_use]
    pub fn get(&self, kind: EngineKind) -> Option<&Engine> {
        match kind {
            EngineKind::Main => Some(&self.main),
            EngineKind::Concurrent => self.concurrent.as_ref(),
        }
    }

    /// Whether WASI 0.3 is allowed.
    #[must_use]
    pub fn wasi03(&self) -> bool {
        self.concurrent.is_some()
    }

    /// The wasm features an upload may use. Those of WASI 0.3 are among them even when it is not
    /// allowed, so that an upload that needs it is told so, and not that it is damaged.
    #[must_use]
    pub fn features(&self) -> wasmparser::WasmFeatures {
        features_of(&self.main)
    }

    pub(crate) fn ticker(&self) -> &Arc<Ticker> {
        &self.ticker
    }

    /// Each engine with its name.
    pub fn iter(&self) -> impl Iterator<Item = (EngineKind, &Engine)> {
        let concurrent = self.concurrent.iter().map(|engine| (EngineKind::Concurrent, engine));
        std::iter::once((EngineKind::Main, &self.main)).chain(concurrent)
    }
}

/// What an artifact must match to be loaded by `engine`: 16 hex digits.
#[must_use]
pub fn compatibility(engine: &Engine) -> String {
    struct Sha(ring::digest::Context);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let digest = self.0.clone().finish();
            let head = digest.as_ref().first_chunk().copied().unwrap_or_default();
            u64::from_be_bytes(head)
        }
    }
    let mut sha = Sha(ring::digest::Context::new(&ring::digest::SHA256));
    engine.precompile_compatibility_hash().hash(&mut sha);
    format!("{:016x}", sha.finish())
}

/// Advances the engines' epochs while guests run, and sleeps while none does.
#[derive(Debug)]
pub(crate) struct Ticker {
    parked: AtomicBool,
    thread: std::sync::OnceLock<Thread>,
}

/// Ticks without a running guest before the ticker parks.
const IDLE_TICKS: u32 = 100;

impl Ticker {
    fn start(engines: Vec<Engine>) -> std::io::Result<Arc<Self>> {
        let this =
            Arc::new(Self { parked: AtomicBool::new(false), thread: std::sync::OnceLock::new() });
        let weak = Arc::downgrade(&this);
        let run = move || {
            let mut idle = 0;
            while let Some(ticker) = weak.upgrade() {
                idle = if watchdog::runs_any() { 0 } else { idle + 1 };
                if idle > IDLE_TICKS {
                    ticker.park();
                    idle = IDLE_TICKS;
                }
                drop(ticker);
                std::thread::sleep(limits::EPOCH_TICK);
                engines.iter().for_each(Engine::increment_epoch);
            }
        };
        let thread = std::thread::Builder::new().name("wambda-epoch".into()).spawn(run)?;
        let _ = this.thread.set(thread.thread().clone());
        Ok(this)
    }

    /// Sleeps until a guest runs. The timeout is for the end of the process' last engine.
    fn park(&self) {
        self.parked.store(true, SeqCst);
        // A guest that began before the line above did not unpark: look once more.
        if !watchdog::runs_any() {
            std::thread::park_timeout(Duration::from_secs(1));
        }
        self.parked.store(false, SeqCst);
    }

    /// A guest runs, as the watchdog knows by now.
    pub(crate) fn rouse(&self) {
        if self.parked.load(SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_compiles_for_the_servers_engines() {
        let engines = Engines::new(true, Room { slots: 64, budget: 1 << 30 }).unwrap();
        for (kind, engine) in engines.iter() {
            assert_eq!(compatibility(engine), compatibility(&compiling_engine(kind).unwrap()));
        }
        let resident = |budget| resident_bytes(Room { slots: 4_096, budget });
        assert_eq!(resident(0), 64 << 10);
        assert_eq!(resident(12 << 30), (1_398_101 >> 16) << 16);
        assert_eq!(resident(u64::MAX), 4 << 20);
        let mut seen: Vec<_> = engines.iter().map(|(_, e)| compatibility(e)).collect();
        seen.dedup();
        assert_eq!(seen.len(), 2, "the engines' artifacts do not mix");
    }
}
