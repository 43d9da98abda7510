//! What a store holds besides the guest: limits, clocks, output, and WASI, which is built when the
//! guest first asks for it, because most event handlers never do.

use std::sync::Arc;

use bytes::Bytes;
use wambda_egress::Egress;
use wambda_egress::target::PLATFORM_URL;
use wambda_model::limits::{
    FIELDS_BYTES_MAX, INSIDE_ACCESS_KEY, PREVIEW_1_RESOURCES_MAX, RANDOM_BYTES_MAX, RESOURCES_MAX,
    RESOURCES_WITH_FILES_MAX,
};
use wambda_model::{Charge, RequestId, Stream, Version};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::instance::Mold;
use crate::layer::Tree;
use crate::limiter::Limiter;
use crate::meter::Meter;
use crate::outbound::Outbound;
use crate::sink::{Sink, SinkStream};

/// The data of every store.
pub(crate) struct State {
    pub(crate) limiter: Limiter,
    pub(crate) meter: Arc<Meter>,
    pub(crate) sink: Arc<Sink>,
    version: Arc<Version>,
    /// What the guest finds at `/opt`, read-only.
    opt: Option<Arc<Tree>>,
    /// Directories that the guest is listing.
    pub(crate) listings: u32,
    region: Arc<str>,
    /// What a command finds on its standard input.
    stdin: Bytes,
    /// Environment of this invocation, for commands.
    extra_env: Vec<(&'static str, String)>,
    table: ResourceTable,
    wasi: Option<Box<WasiCtx>>,
    p1: Option<Box<WasiP1Ctx>>,
    http: WasiHttpCtx,
    egress: Arc<Egress>,
    outbound: Option<Box<Outbound>>,
    /// The trace header of this invocation.
    trace: Option<Arc<str>>,
}

/// With these, AWS's clients call the platform for what it has. Who calls is known by the way that a call comes, and a
/// signature by this key is not looked at: there is no secret here that could be stolen.
const CALLS: [(&str, &str); 8] = [
    ("AWS_ACCESS_KEY_ID", INSIDE_ACCESS_KEY),
    ("AWS_SECRET_ACCESS_KEY", "known-by-the-way"),
    ("AWS_SESSION_TOKEN", "known-by-the-way"),
    ("AWS_ENDPOINT_URL_LAMBDA", PLATFORM_URL),
    ("AWS_ENDPOINT_URL_IAM", PLATFORM_URL),
    ("AWS_ENDPOINT_URL_STS", PLATFORM_URL),
    ("AWS_ENDPOINT_URL_CLOUDWATCH", PLATFORM_URL),
    ("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", PLATFORM_URL),
];

impl State {
    pub(crate) fn new(mold: &Mold<'_>, meter: Arc<Meter>, charge: Charge) -> Self {
        let mut table = ResourceTable::new();
        let most = if mold.opt.is_some() { RESOURCES_WITH_FILES_MAX } else { RESOURCES_MAX };
        table.set_max_capacity(most);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        Self {
            limiter: Limiter::new(mold.version.config.memory_bytes, charge, mold.ahead),
            meter,
            sink: Arc::clone(mold.sink),
            version: Arc::clone(mold.version),
            opt: mold.opt.cloned(),
            listings: 0,
            region: Arc::clone(mold.region),
            stdin: Bytes::new(),
            extra_env: Vec::new(),
            table,
            wasi: None,
            p1: None,
            http,
            egress: Arc::clone(mold.egress),
            outbound: None,
            trace: None,
        }
    }

    /// Another invocation begins on this instance.
    pub(crate) fn begin(&mut self, id: RequestId, capture: bool) {
        self.limiter.begin();
        self.sink.begin(id, capture);
        if let Some(outbound) = &mut self.outbound {
            outbound.begin();
        }
    }

    /// What this invocation sends goes on with its trace.
    pub(crate) fn follow(&mut self, trace: Option<Arc<str>>) {
        if let Some(outbound) = &mut self.outbound {
            outbound.trace.clone_from(&trace);
        }
        self.trace = trace;
    }

    /// Hands a command its input; WASI is built anew around it.
    pub(crate) fn feed(&mut self, stdin: Bytes, env: Vec<(&'static str, String)>) {
        (self.stdin, self.extra_env) = (stdin, env);
        (self.wasi, self.p1) = (None, None);
    }

    fn builder(&mut self) -> WasiCtxBuilder {
        let version = &self.version;
        let stream = |stream| SinkStream { sink: Arc::clone(&self.sink), stream };
        let mut builder = WasiCtxBuilder::new();
        builder
            .stdin(MemoryInputPipe::new(std::mem::take(&mut self.stdin)))
            .stdout(stream(Stream::Stdout))
            .stderr(stream(Stream::Stderr))
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .arg(version.name.as_str());
        if let Some(opt) = &self.opt
            && let Err(error) = builder.preopened_dir(opt.path(), "/opt", FsPerms::ReadOnly)
        {
            tracing::error!(function = %version.name, %error, "cannot open its layers");
        }
        let memory = (version.config.memory_bytes >> 20).to_string();
        for (key, value) in [
            ("AWS_LAMBDA_FUNCTION_NAME", version.name.as_str()),
            ("AWS_LAMBDA_FUNCTION_VERSION", &version.label),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory),
            ("AWS_LAMBDA_LOG_GROUP_NAME", &version.log_group),
            ("AWS_LAMBDA_LOG_STREAM_NAME", &version.log_stream),
            ("AWS_REGION", &self.region),
            ("AWS_DEFAULT_REGION", &self.region),
        ] {
            builder.env(key, value);
        }
        if !version.attributes.role.is_empty() {
            // The owner may have said to call somebody else.
            let own = &version.config.env;
            for (key, value) in CALLS.into_iter().filter(|(key, _)| !own.contains_key(*key)) {
                builder.env(key, value);
            }
        }
        for (key, value) in &self.extra_env {
            builder.env(key, value);
        }
        for (key, value) in &*version.config.env {
            builder.env(key, value);
        }
        builder
    }

    /// Whether the guest may list one more directory.
    pub(crate) fn may_list(&self) -> bool {
        self.opt.as_ref().is_some_and(|opt| self.listings < opt.listings())
    }

    /// WASI preview 1. Not with `allow_blocking_current_thread`: it would sleep on this thread for the guest.
    pub(crate) fn p1(&mut self) -> &mut WasiP1Ctx {
        if self.p1.is_none() {
            let mut p1 = self.builder().build_p1();
            // It has a table of its own: with open files in it, or with some entries for each timer that is polled.
            let most =
                if self.opt.is_some() { RESOURCES_WITH_FILES_MAX } else { PREVIEW_1_RESOURCES_MAX };
            p1.ctx().table.set_max_capacity(most);
            self.p1 = Some(Box::new(p1));
        }
        self.p1.get_or_insert_with(|| Box::new(WasiCtxBuilder::new().build_p1()))
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        if self.wasi.is_none() {
            self.wasi = Some(Box::new(self.builder().build()));
        }
        let ctx = self.wasi.get_or_insert_with(Box::default);
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Self { egress, version, meter, sink, outbound, table, http, trace, .. } = self;
        let hooks = outbound.get_or_insert_with(|| {
            let mut outbound = Outbound::new(egress, version, meter, sink);
            outbound.trace.clone_from(trace);
            Box::new(outbound)
        });
        WasiHttpCtxView { hooks: &mut **hooks, table, ctx: http }
    }
}
