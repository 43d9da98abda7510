//! The only crate that knows HTTP statuses and wire shapes. One request in, one response out:
//!
//! - [`native`]: `/v1`, what curl users type; its configuration parameters are in [`query`].
//! - [`lambda`]: AWS Lambda's API; [`iam`]: IAM and STS; [`cloudwatch`]: logs and metrics. Their
//!   protocols are in [`aws`].
//! - [`url`]: functions as HTTP endpoints, with API Gateway's event shapes from [`gateway`].
//! - [`auth`]: who calls, and whether they may. [`system`]: metrics, health, version.
//!
//! Wire shapes stay here; what they mean is decided in `control` and behind
//! [`Invoke`](wambda_model::Invoke).

pub mod auth;
pub mod aws;
pub mod body;
pub mod cloudwatch;
pub mod cross_site;
pub mod downloads;
pub mod error;
pub mod gateway;
pub mod iam;
pub mod lambda;
pub mod logs;
pub mod name;
pub mod native;
pub mod offload;
pub mod query;
pub mod queues;
pub mod rates;
pub mod reply;
pub mod rollback;
pub mod room;
pub mod router;
pub mod system;
pub mod url;
pub mod within;

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::watch;
use wambda_control::{Events, Functions, Groups, Identity, Layers, Mappings};
use wambda_model::limits::CONNECTIONS_RESERVED_PATIENCE;
use wambda_model::{Body, CatalogCell, Invoke, Metrics};

pub use auth::Auth;
pub use cross_site::Hosts;
pub use error::ApiError;
pub use offload::Offload;
pub use rates::Rates;
pub use room::{Room, Short};

use aws::generated;
use aws::shape::Service;
use downloads::Downloads;
use room::Share;

/// A request as it comes off the wire.
pub type Request = http::Request<body::Rest>;
/// A response as it goes onto the wire.
pub type Response = http::Response<Body>;

/// Marks a response without an end of its own, in its extensions: a client that half-closes does not want it any more.
#[derive(Debug, Clone, Copy)]
pub struct Follows;

/// Bytes of a response that are in memory although its length is not known, in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct InMemory(pub usize);

/// What the surfaces share.
pub struct Api {
    /// Publishing.
    pub functions: Arc<Functions>,
    /// File trees of functions.
    pub layers: Arc<Layers>,
    /// Event source mappings.
    pub mappings: Arc<Mappings>,
    /// Log groups.
    pub groups: Arc<Groups>,
    /// Asynchronous invocations.
    pub events: Arc<Events>,
    /// Running.
    pub invoke: Arc<dyn Invoke>,
    /// What there is to run.
    pub catalog: CatalogCell,
    /// Measurements.
    pub metrics: Arc<Metrics>,
    /// Region and account.
    pub identity: Identity,
    /// Who calls, and whether they may.
    pub auth: Auth,
    /// What the server is called.
    pub hosts: Hosts,
    /// How much they may call.
    pub rates: Rates,
    pub(crate) room: Room,
    /// What responses that wait to be written may take.
    pub responses: Room,
    pub(crate) offload: Offload,
    /// What `/version` tells besides the version.
    pub about: serde_json::Value,
    /// Called before metrics are rendered.
    pub before_metrics: Box<dyn Fn() + Send + Sync>,
    /// False while starting and while draining; streams that follow something end then.
    pub ready: watch::Receiver<bool>,
    /// Links to code and layers.
    pub downloads: Downloads,
    printed: Arc<tokio::sync::Mutex<Option<system::Printed>>>,
    /// The count of good answers, by surface: the others are looked up.
    good: [IntCounter; Surface::ALL.len()],
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The groups of routes that share an error shape; the label of `wambda_http_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// `/v1`.
    Native,
    /// AWS Lambda.
    Lambda,
    /// IAM.
    Iam,
    /// STS.
    Sts,
    /// CloudWatch Logs.
    Logs,
    /// CloudWatch, in CBOR.
    CloudWatch,
    /// CloudWatch, in JSON.
    CloudWatchJson,
    /// `/fn`, and function URLs.
    Url,
    /// Metrics, health, version.
    System,
}

impl Surface {
    const ALL: [Self; 9] = [
        Self::Native,
        Self::Lambda,
        Self::Iam,
        Self::Sts,
        Self::Logs,
        Self::CloudWatch,
        Self::CloudWatchJson,
        Self::Url,
        Self::System,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Lambda => "lambda",
            Self::Iam => "iam",
            Self::Sts => "sts",
            Self::Logs => "logs",
            Self::CloudWatch | Self::CloudWatchJson => "cloudwatch",
            Self::Url => "url",
            Self::System => "system",
        }
    }

    /// The label of the surface with that number.
    #[must_use]
    pub fn name_of(number: u8) -> &'static str {
        Self::ALL.get(usize::from(number)).map_or("", |surface| surface.as_str())
    }

    /// The service by which requests are signed.
    #[must_use]
    pub fn signing_name(self) -> &'static str {
        match self {
            Self::Iam => "iam",
            Self::Sts => "sts",
            Self::Logs => "logs",
            Self::CloudWatch | Self::CloudWatchJson => "monitoring",
            Self::Native | Self::Lambda | Self::Url | Self::System => "lambda",
        }
    }

    /// The service whose protocol it speaks.
    #[must_use]
    pub fn service(self) -> Option<&'static Service> {
        match self {
            Self::Lambda => Some(&generated::lambda::SERVICE),
            Self::Iam => Some(&generated::iam::SERVICE),
            Self::Sts => Some(&generated::sts::SERVICE),
            Self::Logs => Some(&generated::logs::SERVICE),
            Self::CloudWatch => Some(&generated::cloudwatch::SERVICE),
            Self::CloudWatchJson => Some(&cloudwatch::IN_JSON),
            Self::Native | Self::Url | Self::System => None,
        }
    }

    /// Whether its clients are AWS's.
    #[must_use]
    pub fn is_aws(self) -> bool {
        self == Self::Url || self.service().is_some()
    }
}

/// What [`Api`] is made from.
pub struct Parts {
    /// Publishing.
    pub functions: Arc<Functions>,
    /// File trees of functions.
    pub layers: Arc<Layers>,
    /// Event source mappings.
    pub mappings: Arc<Mappings>,
    /// Log groups.
    pub groups: Arc<Groups>,
    /// Asynchronous invocations.
    pub events: Arc<Events>,
    /// Running.
    pub invoke: Arc<dyn Invoke>,
    /// Measurements.
    pub metrics: Arc<Metrics>,
    /// Region and account.
    pub identity: Identity,
    /// Who calls, and whether they may.
    pub auth: Auth,
    /// What the server is called.
    pub hosts: Hosts,
    /// How much they may call.
    pub rates: Rates,
    /// How much of what they send may be on its way.
    pub room: Room,
    /// What responses that wait to be written may take.
    pub responses: Room,
    /// The way to the work threads.
    pub offload: Offload,
    /// What `/version` tells besides the version.
    pub about: serde_json::Value,
    /// Called before metrics are rendered.
    pub before_metrics: Box<dyn Fn() + Send + Sync>,
    /// Readiness.
    pub ready: watch::Receiver<bool>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Api {
    /// The surfaces over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { functions, layers, mappings, groups, invoke, metrics, identity, .. } = parts;
        let Parts { events, auth, hosts, rates, room, responses, offload, .. } = parts;
        let Parts { about, before_metrics, ready, .. } = parts;
        let good = Surface::ALL.map(|surface| metrics.http_requests(surface.as_str(), "200"));
        let catalog = functions.catalog().clone();
        Self {
            functions,
            layers,
            mappings,
            groups,
            events,
            invoke,
            catalog,
            metrics,
            identity,
            auth,
            hosts,
            rates,
            room,
            responses,
            offload,
            about,
            before_metrics,
            ready,
            downloads: Downloads::default(),
            printed: Arc::default(),
            good,
        }
    }

    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub async fn handle(self: &Arc<Self>, request: Request, peer: SocketAddr) -> Response {
        let (surface, answered) = router::route(self, request, peer).await;
        let response = answered.unwrap_or_else(|error| error.respond(surface));
        self.count(surface, response.status());
        response
    }

    /// Answers one request on a connection beyond those that there may be: what looking after the server needs.
    pub async fn handle_beyond(self: &Arc<Self>, request: Request, peer: SocketAddr) -> Response {
        let surface = router::surface_of(request.uri().path());
        let mut message = "as many connections are open as may be, in all or from your address";
        if router::is_upkeep(&request) {
            let answer = self.handle(request, peer);
            match tokio::time::timeout(CONNECTIONS_RESERVED_PATIENCE, answer).await {
                Ok(answer) => return answer,
                Err(_) => {
                    message =
                        "the answer took too long for a connection that is kept for short ones"
                }
            }
        } else {
            // Nor is there time for what it sends.
            request.into_body().leave();
        }
        let response = ApiError::busy(message).closing().respond(surface);
        self.count(surface, response.status());
        response
    }

    /// Answers one request while there is no room for what a function may answer: it is refused before that runs.
    pub async fn handle_short(
        self: &Arc<Self>,
        request: Request,
        peer: SocketAddr,
        short: Short,
    ) -> Response {
        if router::is_upkeep(&request) {
            return self.handle(request, peer).await;
        }
        let surface = router::surface_of(request.uri().path());
        request.into_body().leave();
        let response = self.responses.refusal(short).closing().respond(surface);
        self.count(surface, response.status());
        response
    }

    /// Room for a response of up to `bytes` that is about to be made.
    ///
    /// # Errors
    /// 429 or 503 when there is none.
    pub(crate) async fn room_for(&self, peer: SocketAddr, bytes: u64) -> Result<Share, ApiError> {
        let mut share = self.responses.share(peer.ip());
        let most = usize::try_from(bytes).unwrap_or(usize::MAX);
        share.cover(&self.responses, most).await?;
        Ok(share)
    }

    /// Runs an operation whose response may have up to `bytes`, on the work threads, once there is room for them.
    ///
    /// # Errors
    /// 429 or 503 when there is no room, and the operation's own.
    pub(crate) async fn run_large(
        &self,
        peer: SocketAddr,
        bytes: u64,
        operation: impl Future<Output = Result<Response, ApiError>> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let share = self.room_for(peer, bytes).await?;
        Ok(share.go_with(self.offload.run(operation).await??))
    }

    /// The answer instead of a response for which there is no room.
    #[must_use]
    pub fn no_room(&self, instead_of: &http::HeaderMap, error: ApiError) -> Response {
        let aws = instead_of.contains_key(reply::AWS_REQUEST_ID);
        let surface = if aws { Surface::Lambda } else { Surface::Native };
        let response = error.respond(surface);
        self.count(surface, response.status());
        response
    }

    fn count(&self, surface: Surface, status: http::StatusCode) {
        if status == http::StatusCode::OK
            && let Some(counter) = self.good.get(surface as usize)
        {
            return counter.inc();
        }
        self.metrics.http_requests(surface.as_str(), status.as_str()).inc();
    }

    /// The answer to a request whose response contradicts itself.
    #[must_use]
    pub fn misframed(&self) -> Response {
        let message = "the response has a head and a body that contradict each other";
        ApiError::aws(502, "InvalidResponse", message).respond(Surface::Native)
    }

    /// The answer to a request whose handling panicked.
    #[must_use]
    pub fn panicked(&self) -> Response {
        ApiError::internal("a panic while answering").respond(Surface::Native)
    }
}
