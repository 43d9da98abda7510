//! Outgoing HTTP of functions: whom they may reach ([`target`], [`address`]), and how they do
//! ([`wire`]).
//!
//! One request is: read the authority once, ask whether the function may reach that host, resolve the
//! name once, drop every address that is forbidden, and dial one of what is left, never the name. A
//! redirect is a request of its own, made by the guest, and goes the same way. Nothing is kept open for
//! the next request, so that no connection is ever another function's.
//!
//! Requests to the platform itself ([`target::PLATFORM`]) go by no network: [`Services`] has a connection for each.

pub mod address;
pub mod body;
pub mod error;
pub mod target;
pub mod wire;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use ipnet::IpNet;
use tokio::io::DuplexStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use wambda_model::Version;
use wambda_model::limits::{
    EGRESS_CONNECTIONS_MAX, EGRESS_FUNCTION_CONNECTIONS_MAX, EGRESS_INSTANCE_CONNECTIONS_MAX,
};

pub use address::Rules;
pub use body::{Counted, Direction};
pub use error::Error;
pub use target::Target;

/// What the operator says about outgoing requests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Networks that may be reached although they are not public.
    pub allow: Vec<IpNet>,
    /// Networks that may not be reached although they are public; comes before `allow`.
    pub deny: Vec<IpNet>,
    /// Name servers; none for the machine's.
    pub dns: Vec<SocketAddr>,
    /// Longest time for a name, a connection, a response's head, and between two parts of a body.
    pub patience: Duration,
    /// Where this server listens, which is never reached.
    pub own: SocketAddr,
}

/// The platform's own services, for functions.
pub trait Services: Send + Sync {
    /// A connection for one request of a function. Who calls is known by the way; what it may do is for the services
    /// to judge.
    fn connect(&self, caller: &Arc<Version>) -> DuplexStream;
}

/// Sends requests of functions.
pub struct Egress {
    services: Arc<dyn Services>,
    rules: Rules,
    resolver: Option<TokioResolver>,
    tls: TlsConnector,
    places: Arc<Semaphore>,
    /// Of each function that has connections.
    shares: Mutex<HashMap<String, Arc<Semaphore>>>,
    patience: Duration,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// What one invocation has used of its limits.
#[derive(Debug)]
pub struct Session {
    /// Of its instance: connections may outlast an invocation.
    places: Arc<Semaphore>,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Places for the connections of one instance.
#[must_use]
pub fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(EGRESS_INSTANCE_CONNECTIONS_MAX))
}

impl Session {
    /// The session of an invocation on an instance with these places.
    #[must_use]
    pub fn new(places: Arc<Semaphore>) -> Self {
        Self { places, sent: AtomicU64::new(0), received: AtomicU64::new(0) }
    }

    pub(crate) fn counter(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Sent => &self.sent,
            Direction::Received => &self.received,
        }
    }
}

/// The terms of one request.
#[derive(Debug)]
pub struct Terms {
    /// The invocation that sends it.
    pub session: Arc<Session>,
    /// The function that sends it.
    pub caller: Arc<Version>,
    /// When that must be over.
    pub deadline: Instant,
    /// What the guest asked for: to connect, until the response's head, and between parts of its body.
    pub patience: [Option<Duration>; 3],
}

impl Egress {
    /// Reads the machine's certificate authorities, and its resolver configuration unless `settings` name
    /// servers.
    ///
    /// # Errors
    /// When TLS has no protocol version.
    pub fn new(settings: &Settings, services: Arc<dyn Services>) -> Result<Self, rustls::Error> {
        let rules = Rules::new(settings.allow.clone(), settings.deny.clone(), settings.own);
        Ok(Self {
            services,
            rules,
            resolver: resolver(settings)
                .inspect_err(|error| {
                    tracing::warn!(%error, "no resolver: functions reach addresses, but no names");
                })
                .ok(),
            tls: wire::connector()?,
            places: Arc::new(Semaphore::new(EGRESS_CONNECTIONS_MAX)),
            shares: Mutex::default(),
            patience: settings.patience,
        })
    }

    /// A function's share of the places.
    fn share(&self, function: &str) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(function) {
            return Arc::clone(share);
        }
        // Those that nobody uses are made again when somebody does.
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        let share = Arc::new(Semaphore::new(EGRESS_FUNCTION_CONNECTIONS_MAX));
        shares.insert(function.to_owned(), Arc::clone(&share));
        share
    }

    /// A host's addresses that may be dialled.
    async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Error> {
        let found: Vec<IpAddr> = match target.address {
            Some(address) => vec![address],
            None => self.look_up(&target.host).await?,
        };
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found {
            let at = SocketAddr::new(address::canonical(address), target.port);
            match self.rules.forbidden(at) {
                None => allowed.push(at),
                Some(why) => refused = Some((at.ip(), why)),
            }
        }
        match (allowed.is_empty(), refused) {
            (false, _) => Ok(allowed),
            (true, Some((address, why))) => {
                Err(Error::Address { host: target.host.clone(), address, why })
            }
            (true, None) => {
                Err(Error::Name { host: target.host.clone(), why: "no addresses".to_owned() })
            }
        }
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, Error> {
        let failed = |why: String| Error::Name { host: host.to_owned(), why };
        let Some(resolver) = &self.resolver else {
            return Err(failed("this server has no name servers".to_owned()));
        };
        // With a dot at its end it is not completed by the machine's search domains.
        let found = resolver.lookup_ip(format!("{host}.")).await;
        found.map(|found| found.iter().collect()).map_err(|e| failed(e.to_string()))
    }
}

fn resolver(settings: &Settings) -> Result<TokioResolver, String> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if settings.dns.is_empty() {
        Resolver::builder(provider).map_err(|e| e.to_string())?
    } else {
        let server = |at: &SocketAddr| {
            let mut server = NameServerConfig::udp_and_tcp(at.ip());
            for connection in &mut server.connections {
                connection.port = at.port();
            }
            server
        };
        let servers = settings.dns.iter().map(server).collect();
        Resolver::builder_with_config(ResolverConfig::from_parts(None, vec![], servers), provider)
    };
    builder.options_mut().timeout = settings.patience.min(Duration::from_secs(5));
    builder.build().map_err(|e| e.to_string())
}
