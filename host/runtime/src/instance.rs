//! One live instance of one version, of whichever kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use wambda_egress::Egress;
use wambda_model::limits::{HANDLES_MAX, HOSTCALL_BYTES_MAX};
use wambda_model::{Charge, Version, clock};
use wasmtime::{Engine, Extern, Memory, ModuleExport, Store, TypedFunc};
use wasmtime_wasi::p2::bindings::Command;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p3::bindings::Service;

use crate::contract::Handler;
use crate::layer::Tree;
use crate::link::{CorePre, Prepared};
use crate::meter::Meter;
use crate::sink::Sink;
use crate::state::State;

/// What is called on an instance.
pub(crate) enum Entry {
    Core { memory: Memory, alloc: TypedFunc<u32, u32>, handle: TypedFunc<(u32, u32), u64> },
    CoreCommand(TypedFunc<(), ()>),
    Event(Handler),
    Command(Command),
    Http(Proxy),
    Http3(Service),
}

/// Slots of the pool that an instance takes of those that its function may have; given back when dropped.
pub(crate) struct Seats {
    taken: Arc<AtomicU32>,
    count: u32,
}

impl Seats {
    /// Takes `count` more, if they are the first or the function has `limit` at most then; or else how many it would have.
    pub(crate) fn take(taken: &Arc<AtomicU32>, count: u32, limit: u32) -> Result<Self, u32> {
        let more = |taken: u32| taken.checked_add(count).filter(|sum| taken == 0 || *sum <= limit);
        match taken.fetch_update(Relaxed, Relaxed, more) {
            Ok(_) => Ok(Self { taken: Arc::clone(taken), count }),
            Err(taken) => Err(taken.saturating_add(count)),
        }
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.count, Relaxed);
    }
}

/// A live instance.
pub(crate) struct Instance {
    pub(crate) store: Store<State>,
    pub(crate) entry: Entry,
    pub(crate) meter: Arc<Meter>,
    /// Invocations served.
    pub(crate) uses: u32,
    pub(crate) born: Instant,
    pub(crate) last_used: Instant,
    /// After the store, whose slots they are.
    _seats: Seats,
}

/// An instance that goes from hand to hand: boxed, since each hand would copy it.
pub(crate) type Kept = Box<Instance>;

/// What an instance is made from.
pub(crate) struct Mold<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) prepared: &'a Prepared,
    /// What it finds at `/opt`.
    pub(crate) opt: Option<&'a Arc<Tree>>,
    pub(crate) version: &'a Arc<Version>,
    pub(crate) region: &'a Arc<str>,
    pub(crate) egress: &'a Arc<Egress>,
    /// Where output goes; it belongs to nobody when nobody waits for the instance.
    pub(crate) sink: &'a Arc<Sink>,
    /// Made before anybody needs it.
    pub(crate) ahead: bool,
}

/// An instantiation that failed, with the store that knows why.
pub(crate) struct Stillborn {
    pub(crate) error: wasmtime::Error,
    pub(crate) store: Store<State>,
}

impl Mold<'_> {
    /// Instantiates. `meter` is armed already, since a start function is guest code like any other; `charge` has
    /// what the instance is expected to take.
    pub(crate) async fn cast(
        &self,
        meter: Arc<Meter>,
        charge: Charge,
        seats: Seats,
    ) -> Result<Instance, Stillborn> {
        let state = State::new(self, Arc::clone(&meter), charge);
        let mut store = Store::new(self.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| Ok(context.data().meter.slice_end()));
        match enter(self.prepared, &mut store).await {
            Ok(entry) => {
                let born = clock::now();
                let (uses, last_used) = (0, born);
                Ok(Instance { store, entry, meter, uses, born, last_used, _seats: seats })
            }
            Err(error) => Err(Stillborn { error, store }),
        }
    }
}

async fn enter(prepared: &Prepared, store: &mut Store<State>) -> wasmtime::Result<Entry> {
    match prepared {
        Prepared::Core(core) => enter_core(core, store).await,
        Prepared::CoreCommand(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            Ok(Entry::CoreCommand(instance.get_typed_func(&mut *store, "_start")?))
        }
        Prepared::Event(pre) => Ok(Entry::Event(pre.instantiate_async(&mut *store).await?)),
        Prepared::Command(pre) => Ok(Entry::Command(pre.instantiate_async(&mut *store).await?)),
        Prepared::Http(pre) => Ok(Entry::Http(pre.instantiate_async(&mut *store).await?)),
        Prepared::Http3(pre) => Ok(Entry::Http3(pre.instantiate_async(&mut *store).await?)),
    }
}

async fn enter_core(core: &CorePre, store: &mut Store<State>) -> wasmtime::Result<Entry> {
    let instance = core.pre.instantiate_async(&mut *store).await?;
    let mut export = |export: &ModuleExport| {
        let found = instance.get_module_export(&mut *store, export);
        found.ok_or_else(|| wasmtime::format_err!("an export is missing"))
    };
    let function = |found: Extern| {
        found.into_func().ok_or_else(|| wasmtime::format_err!("an export is no function"))
    };
    let memory = export(&core.memory)?.into_memory();
    let memory = memory.ok_or_else(|| wasmtime::format_err!("`memory` is no memory"))?;
    let (alloc, handle) = (function(export(&core.alloc)?)?, function(export(&core.handle)?)?);
    let initialize = core.initialize.as_ref().map(export).transpose()?;
    if let Some(initialize) = initialize.and_then(Extern::into_func)
        && let Ok(initialize) = initialize.typed::<(), ()>(&*store)
    {
        initialize.call_async(&mut *store, ()).await?;
    }
    let (alloc, handle) = (alloc.typed(&*store)?, handle.typed(&*store)?);
    Ok(Entry::Core { memory, alloc, handle })
}

impl Instance {
    pub(crate) fn data(&mut self) -> &mut State {
        self.store.data_mut()
    }
}
