//! Outgoing HTTP as guests see it: wasmtime's `send_request` over our own sender. Its default one
//! filters no addresses and waits ten minutes.

use std::borrow::Cow;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use wambda_egress::{Egress, Error, Session, Target, Terms};
use wambda_model::limits::BODY_CHUNK_BYTES_MAX;
use wambda_model::{Stream, Version, clock, lineage};
use wambda_policy::grants::host_arn;
use wasmtime_wasi_http::{Error as HttpError, RequestOptions, WasiBody, WasiHttpHooks};

use crate::meter::Meter;
use crate::sink::Sink;

/// Chunks of a guest's outgoing body that are buffered.
const BODY_CHUNKS: usize = 4;

/// Of what AWS calls a trace.
const TRACE: HeaderName = HeaderName::from_static(lineage::HEADER);

/// The way out of one instance.
pub(crate) struct Outbound {
    egress: Arc<Egress>,
    version: Arc<Version>,
    meter: Arc<Meter>,
    sink: Arc<Sink>,
    places: Arc<Semaphore>,
    /// What the present invocation has used; none when it has sent nothing.
    session: Option<Arc<Session>>,
    /// The trace header of the present invocation.
    pub(crate) trace: Option<Arc<str>>,
}

type Sending = dyn Future<Output = Result<(), HttpError>> + Send;
type Received = (::http::Response<WasiBody>, Box<Sending>);

impl Outbound {
    pub(crate) fn new(
        egress: &Arc<Egress>,
        version: &Arc<Version>,
        meter: &Arc<Meter>,
        sink: &Arc<Sink>,
    ) -> Self {
        Self {
            egress: Arc::clone(egress),
            version: Arc::clone(version),
            meter: Arc::clone(meter),
            sink: Arc::clone(sink),
            places: wambda_egress::places(),
            session: None,
            trace: None,
        }
    }

    /// Another invocation begins.
    pub(crate) fn begin(&mut self) {
        self.session = None;
    }

    /// Where the request goes, if the function may send it there.
    fn allowed(&self, request: &::http::Request<WasiBody>) -> Result<Target, Error> {
        let target = Target::read(request.uri())?;
        let grants = self.version.grants.load();
        // Each of its calls is judged by whoever answers it.
        if target.is_platform() {
            return grants.session().map(|_| target).ok_or(Error::Roleless);
        }
        match grants.allow_host(&target.host, target.port, clock::unix_ms() / 1_000) {
            true => Ok(target),
            false => Err(Error::Denied { arn: host_arn(&target.host, target.port) }),
        }
    }

    /// Counts on what the invocation has come through, and when its time ends, whatever the guest says.
    fn trace(&self, headers: &mut HeaderMap) {
        let own = match &self.trace {
            Some(trace) => Cow::Borrowed(&**trace),
            None => lineage::pass("", &self.version.name, true).unwrap_or_default().into(),
        };
        let given = headers.get(TRACE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let carried = lineage::carry(given, &own, self.meter.deadline());
        if let Ok(value) = HeaderValue::try_from(carried) {
            headers.insert(TRACE, value);
        }
    }

    fn terms(&mut self, options: Option<RequestOptions>) -> Terms {
        let options = options.unwrap_or_default();
        Terms {
            session: Arc::clone(
                self.session
                    .get_or_insert_with(|| Arc::new(Session::new(Arc::clone(&self.places)))),
            ),
            caller: Arc::clone(&self.version),
            deadline: self.meter.deadline(),
            patience: [
                options.connect_timeout,
                options.first_byte_timeout,
                options.between_bytes_timeout,
            ],
        }
    }
}

/// Counts how a request went, and tells the function's owner when it failed.
fn note(version: &Version, sink: &Sink, error: Option<&Error>) {
    version.metrics.egress(error.map_or("sent", Error::outcome));
    if let Some(error) = error {
        sink.write(Stream::Stderr, format!("[outgoing request failed: {error}]\n").as_bytes());
    }
}

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        mut request: ::http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<Sending>,
    ) -> Box<dyn Future<Output = Result<Received, HttpError>> + Send> {
        let (version, sink) = (Arc::clone(&self.version), Arc::clone(&self.sink));
        let target = match self.allowed(&request) {
            Ok(target) => target,
            Err(error) => {
                note(&version, &sink, Some(&error));
                return Box::new(async move { Err(told(&error)) });
            }
        };
        self.trace(request.headers_mut());
        let (egress, terms) = (Arc::clone(&self.egress), self.terms(options));
        Box::new(async move {
            let sent = egress.send(&target, request, &terms).await;
            note(&version, &sink, sent.as_ref().err());
            let (response, driver) = sent.map_err(|error| told(&error))?;
            // It ends with its first error: the owner is told of that as well.
            let failed = move |error: Error| {
                note(&version, &sink, Some(&error));
                told(&error)
            };
            let response = response.map(|body| body.map_err(failed).boxed_unsync());
            let driver: Box<Sending> = Box::new(async move {
                driver.await;
                Ok(())
            });
            Ok((response, driver))
        })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }
}

/// The error code that the guest gets.
fn told(error: &Error) -> HttpError {
    match error {
        Error::Denied { .. } | Error::Roleless => HttpError::HttpRequestDenied,
        Error::Address { .. } => HttpError::DestinationIpProhibited,
        Error::Authority(_) => HttpError::HttpRequestUriInvalid,
        Error::Name { why, .. } => {
            HttpError::DnsError { rcode: Some(why.chars().take(200).collect()), info_code: None }
        }
        Error::NameTime(_) => HttpError::DnsTimeout,
        Error::Connect { .. } => HttpError::ConnectionRefused,
        Error::ConnectTime(_) => HttpError::ConnectionTimeout,
        Error::Connections { .. } => HttpError::ConnectionLimitReached,
        Error::Tls { .. } => HttpError::TlsCertificateError,
        Error::HeadTime(_) | Error::Deadline => HttpError::HttpResponseTimeout,
        Error::BodyTime(_) => HttpError::ConnectionReadTimeout,
        Error::Bytes { verb: "send", limit } => HttpError::HttpRequestBodySize(Some(*limit)),
        Error::Bytes { limit, .. } => HttpError::HttpResponseBodySize(Some(*limit)),
        Error::Protocol(_) => HttpError::HttpProtocolError,
    }
}
