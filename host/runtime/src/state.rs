//! What a store holds besides the guest: limits, clocks, output, and WASI, which is built when the
//! guest first asks for it, because most event handlers never do.

use std::sync::Arc;

use bytes::Bytes;
use wambda_model::limits::{
    BODY_CHUNK_BYTES_MAX, FIELDS_BYTES_MAX, RANDOM_BYTES_MAX, RESOURCES_MAX,
};
use wambda_model::{Budget, Stream, Version};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};

use crate::layer::Tree;
use crate::limiter::Limiter;
use crate::meter::Meter;
use crate::sink::{Sink, SinkStream};

/// The data of every store.
pub(crate) struct State {
    pub(crate) limiter: Limiter,
    pub(crate) meter: Arc<Meter>,
    pub(crate) sink: Arc<Sink>,
    version: Arc<Version>,
    /// What the guest finds at `/opt`, read-only.
    opt: Option<Arc<Tree>>,
    region: Arc<str>,
    /// What a command finds on its standard input.
    stdin: Bytes,
    /// Environment of this invocation, for commands.
    extra_env: Vec<(&'static str, String)>,
    table: ResourceTable,
    wasi: Option<Box<WasiCtx>>,
    p1: Option<Box<WasiP1Ctx>>,
    http: WasiHttpCtx,
    egress: Egress,
}

impl State {
    pub(crate) fn new(
        version: &Arc<Version>,
        opt: Option<&Arc<Tree>>,
        region: &Arc<str>,
        budget: &Arc<Budget>,
        meter: Arc<Meter>,
        sink: Arc<Sink>,
        ahead: bool,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        Self {
            limiter: Limiter::new(version.config.memory_bytes, budget, ahead),
            meter,
            sink,
            version: Arc::clone(version),
            opt: opt.cloned(),
            region: Arc::clone(region),
            stdin: Bytes::new(),
            extra_env: Vec::new(),
            table,
            wasi: None,
            p1: None,
            http,
            egress: Egress,
        }
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
        for (key, value) in &self.extra_env {
            builder.env(key, value);
        }
        for (key, value) in &version.config.env {
            builder.env(key, value);
        }
        builder
    }

    /// WASI preview 1.
    pub(crate) fn p1(&mut self) -> &mut WasiP1Ctx {
        if self.p1.is_none() {
            self.p1 = Some(Box::new(self.builder().build_p1()));
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
        WasiHttpCtxView { hooks: &mut self.egress, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Outgoing HTTP: denied, all of it. A function gets network access through its execution role,
/// which this platform does not have yet.
#[derive(Debug)]
struct Egress;

type Sending = dyn Future<Output = Result<(), HttpError>> + Send;
type Received = (::http::Response<WasiBody>, Box<Sending>);

impl WasiHttpHooks for Egress {
    fn send_request(
        &mut self,
        _: ::http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<Sending>,
    ) -> Box<dyn Future<Output = Result<Received, HttpError>> + Send> {
        Box::new(async { Err(HttpError::HttpRequestDenied) })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        4
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }
}
