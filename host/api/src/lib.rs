//! The only crate that knows HTTP statuses and wire shapes. One request in, one response out:
//!
//! - [`native`]: `/v1`, what curl users type; its configuration parameters are in [`query`].
//! - [`lambda`]: AWS's own `Invoke` route and error shapes.
//! - [`url`]: functions as HTTP endpoints, with API Gateway's event shapes from [`gateway`].
//! - [`system`]: metrics, health, version.
//!
//! Wire shapes stay here; what they mean is decided in `control` and behind
//! [`Invoke`](wambda_model::Invoke).

pub mod body;
pub mod error;
pub mod gateway;
pub mod lambda;
pub mod logs;
pub mod native;
pub mod query;
pub mod reply;
pub mod router;
pub mod system;
pub mod url;

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::watch;
use wambda_control::{Functions, Identity};
use wambda_model::{Body, CatalogCell, Invoke, Metrics};

pub use error::ApiError;

/// A request as it comes off the wire.
pub type Request = http::Request<hyper::body::Incoming>;
/// A response as it goes onto the wire.
pub type Response = http::Response<Body>;

/// What the surfaces share.
pub struct Api {
    /// Publishing.
    pub functions: Arc<Functions>,
    /// Running.
    pub invoke: Arc<dyn Invoke>,
    /// The catalog, for look-ups.
    pub catalog: CatalogCell,
    /// Measurements.
    pub metrics: Arc<Metrics>,
    /// Region and account, for ARNs.
    pub identity: Identity,
    /// What `/version` tells besides the version.
    pub about: serde_json::Value,
    /// Called before metrics are rendered.
    pub before_metrics: Box<dyn Fn() + Send + Sync>,
    /// False while starting and while draining; streams that follow something end then.
    pub ready: watch::Receiver<bool>,
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
    /// `/fn`.
    Url,
    /// Metrics, health, version.
    System,
}

impl Surface {
    const ALL: [Self; 4] = [Self::Native, Self::Lambda, Self::Url, Self::System];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Lambda => "lambda",
            Self::Url => "url",
            Self::System => "system",
        }
    }
}

/// What [`Api`] is made from.
pub struct Parts {
    /// Publishing.
    pub functions: Arc<Functions>,
    /// Running.
    pub invoke: Arc<dyn Invoke>,
    /// Measurements.
    pub metrics: Arc<Metrics>,
    /// Region and account.
    pub identity: Identity,
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
        let Parts { functions, invoke, metrics, identity, about, before_metrics, ready } = parts;
        let good = Surface::ALL.map(|surface| metrics.http_requests(surface.as_str(), "200"));
        let catalog = functions.catalog().clone();
        Self { functions, invoke, catalog, metrics, identity, about, before_metrics, ready, good }
    }

    /// Answers one request. Never fails: what goes wrong is an answer too.
    pub async fn handle(self: Arc<Self>, request: Request, peer: SocketAddr) -> Response {
        let (surface, answered) = router::route(&self, request, peer).await;
        let response = answered.unwrap_or_else(|error| error.respond(surface));
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

    /// The answer to a request whose handling panicked.
    #[must_use]
    pub fn panicked(&self) -> Response {
        ApiError::internal("a panic while answering").respond(Surface::Native)
    }
}
