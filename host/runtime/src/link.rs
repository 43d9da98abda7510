//! Linking: once per engine ([`Linkers`]), resolved once per version ([`Prepared`]), so that an
//! instance costs neither name look-ups nor type checks.

use wambda_model::Kind;
use wasmtime::component::{self, Component, FutureReader, Resource, ResourceType, StreamReader};
use wasmtime::{Linker, Module, ModuleExport, StoreContextMut};
use wasmtime_wasi::filesystem::WasiFilesystemView;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Descriptor, DirectoryEntryStream, ErrorCode, Host, HostDescriptor, HostDirectoryEntryStream,
};
use wasmtime_wasi::p3::bindings::filesystem::types::{DirectoryEntry, ErrorCode as ErrorCode03};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::artifact::Loaded;
use crate::contract::HandlerPre;
use crate::engine::{EngineKind, Engines};
use crate::state::State;

/// What the platform offers, per engine and binary format.
pub(crate) struct Linkers {
    core: Linker<State>,
    main: component::Linker<State>,
    concurrent: Option<component::Linker<State>>,
}

/// A version, ready to be instantiated.
pub(crate) enum Prepared {
    Core(CorePre),
    CoreCommand(wasmtime::InstancePre<State>),
    Event(HandlerPre<State>),
    Command(CommandPre<State>),
    Http(ProxyPre<State>),
    Http3(ServicePre<State>),
}

/// A core handler, with its exports found: they are looked up by their places in each instance, not by their names.
pub(crate) struct CorePre {
    pub(crate) pre: wasmtime::InstancePre<State>,
    pub(crate) memory: ModuleExport,
    pub(crate) alloc: ModuleExport,
    pub(crate) handle: ModuleExport,
    pub(crate) initialize: Option<ModuleExport>,
}

impl CorePre {
    fn new(module: &Module, pre: wasmtime::InstancePre<State>) -> wasmtime::Result<Self> {
        let found = |name: &str| {
            let export = module.get_export_index(name);
            export.ok_or_else(|| wasmtime::format_err!("export `{name}` is missing"))
        };
        Ok(Self {
            pre,
            memory: found("memory")?,
            alloc: found("wambda_alloc")?,
            handle: found("wambda_handle")?,
            initialize: module.get_export_index("_initialize"),
        })
    }
}

impl Linkers {
    pub(crate) fn new(engines: &Engines) -> wasmtime::Result<Self> {
        let none = || wasmtime::format_err!("the main engine is missing");
        let main_engine = engines.get(EngineKind::Main).ok_or_else(none)?;
        let mut core = Linker::new(main_engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut core, State::p1)?;
        let main = Self::component(main_engine)?;
        let concurrent = match engines.get(EngineKind::Concurrent) {
            Some(engine) => {
                let mut linker = Self::component(engine)?;
                wasmtime_wasi::p3::add_to_linker(&mut linker)?;
                wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
                refuse_streamed_listings(&mut linker)?;
                Some(linker)
            }
            None => None,
        };
        Ok(Self { core, main, concurrent })
    }

    fn component(engine: &wasmtime::Engine) -> wasmtime::Result<component::Linker<State>> {
        let mut linker = component::Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        bound_listings(&mut linker)?;
        Ok(linker)
    }

    /// Resolves loaded code against what the platform offers.
    pub(crate) fn prepare(
        &self,
        kind: Kind,
        engine: EngineKind,
        loaded: &Loaded,
    ) -> wasmtime::Result<Prepared> {
        match loaded {
            Loaded::Module(module) => self.prepare_module(kind, module),
            Loaded::Component(component) => self.prepare_component(kind, engine, component),
        }
    }

    fn prepare_module(&self, kind: Kind, module: &Module) -> wasmtime::Result<Prepared> {
        let pre = self.core.instantiate_pre(module)?;
        match kind {
            Kind::Core => Ok(Prepared::Core(CorePre::new(module, pre)?)),
            Kind::Command => Ok(Prepared::CoreCommand(pre)),
            other => wasmtime::bail!("a core module cannot be of kind {}", other.as_str()),
        }
    }

    fn prepare_component(
        &self,
        kind: Kind,
        engine: EngineKind,
        component: &Component,
    ) -> wasmtime::Result<Prepared> {
        let linker = match engine {
            EngineKind::Main => &self.main,
            EngineKind::Concurrent => self.concurrent.as_ref().ok_or_else(|| {
                wasmtime::format_err!("this needs WASI 0.3: start the server with --wasi03")
            })?,
        };
        let pre = linker.instantiate_pre(component)?;
        match kind {
            Kind::Event => Ok(Prepared::Event(HandlerPre::new(pre)?)),
            Kind::Command => Ok(Prepared::Command(CommandPre::new(pre)?)),
            Kind::Http => Ok(Prepared::Http(ProxyPre::new(pre)?)),
            Kind::Http3 => Ok(Prepared::Http3(ServicePre::new(pre)?)),
            Kind::Core => wasmtime::bail!("a component cannot be of kind core"),
        }
    }
}

/// The versions of WASI that wasmtime offers; older ones are satisfied by them.
const FILES: &str = "wasi:filesystem/types@0.2.12";
const FILES_03: &str = "wasi:filesystem/types@0.3.0";

/// Bounds how many directories a guest lists at once: wasmtime makes each listing whole, and holds it until the guest
/// lets go of it.
fn bound_listings(linker: &mut component::Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut files = linker.instance(FILES)?;
    files.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, State>, (dir,): (Resource<Descriptor>,)| {
            Box::new(async move {
                let state = store.data_mut();
                if !state.may_list() {
                    return Ok((Err(ErrorCode::InsufficientMemory),));
                }
                // Counted while it is made as well.
                state.listings += 1;
                let made = state.filesystem().read_directory(dir).await;
                let made = match made {
                    Ok(listing) => return Ok((Ok(listing),)),
                    Err(error) => error,
                };
                state.listings -= 1;
                Ok((Err(state.filesystem().convert_error_code(made)?),))
            })
        },
    )?;
    let listing = ResourceType::host::<DirectoryEntryStream>();
    files.resource_async("directory-entry-stream", listing, |mut store, number| {
        Box::new(async move {
            let state = store.data_mut();
            state.listings = state.listings.saturating_sub(1);
            let own = Resource::<DirectoryEntryStream>::new_own(number);
            HostDirectoryEntryStream::drop(&mut state.filesystem(), own)
        })
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Refuses to list directories by WASI 0.3: a listing that is not read holds a thread of the server until it is, and a
/// few guests could hold all of them.
fn refuse_streamed_listings(linker: &mut component::Linker<State>) -> wasmtime::Result<()> {
    type Listing = (StreamReader<DirectoryEntry>, FutureReader<Result<(), ErrorCode03>>);
    linker.allow_shadowing(true);
    linker.instance(FILES_03)?.func_wrap(
        "[method]descriptor.read-directory",
        |_: StoreContextMut<'_, State>,
         _: (Resource<Descriptor>,)|
         -> wasmtime::Result<(Listing,)> {
            wasmtime::bail!("directories cannot be listed by WASI 0.3 here, but by 0.2")
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
