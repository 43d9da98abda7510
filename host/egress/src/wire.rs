//! One exchange: dial an address, speak TLS if asked to, send one HTTP/1.1 request.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wambda_model::clock;
use wambda_model::limits::{
    EGRESS_ADDRESS_PATIENCE, EGRESS_ADDRESSES_MAX, EGRESS_CONNECTIONS_MAX,
    EGRESS_FUNCTION_CONNECTIONS_MAX, EGRESS_HEAD_BYTES_MAX, EGRESS_INSTANCE_CONNECTIONS_MAX,
    HEADERS_MAX, INSIDE_PATIENCE,
};

use crate::body::{Counted, Direction, Progress};
use crate::error::Error;
use crate::target::Target;
use crate::{Egress, Session, Terms};

/// Speaks TLS to servers whose certificates the machine's authorities vouch for, or, when there are
/// none on this machine, Mozilla's.
pub(crate) fn connector() -> Result<TlsConnector, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A response, and what drives its connection until its body has come.
pub type Exchange = (Response<Counted<Incoming>>, Driver);
/// Drives a connection, and holds its place.
pub type Driver = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The time that is left of `wanted`, of `most` and until `deadline`.
fn within(wanted: Option<Duration>, most: Duration, deadline: Instant) -> Result<Duration, Error> {
    let left = deadline.saturating_duration_since(clock::now());
    if left.is_zero() {
        return Err(Error::Deadline);
    }
    Ok(wanted.unwrap_or(most).min(most).min(left))
}

fn place(
    of: &Arc<Semaphore>,
    what: &'static str,
    limit: usize,
) -> Result<OwnedSemaphorePermit, Error> {
    Arc::clone(of)
        .try_acquire_owned()
        .map_err(|_: TryAcquireError| Error::Connections { what, limit })
}

impl Egress {
    /// Sends one request to `target`, which the function may reach.
    ///
    /// # Errors
    /// Each kind of [`Error`].
    pub async fn send<B>(
        &self,
        target: &Target,
        mut request: Request<B>,
        terms: &Terms,
    ) -> Result<Exchange, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        if request.method() == Method::CONNECT {
            return Err(Error::Authority("CONNECT is not for functions".to_owned()));
        }
        let session = &terms.session;
        let share = self.share(terms.caller.name.as_str());
        let places = [
            place(&session.places, "an instance", EGRESS_INSTANCE_CONNECTIONS_MAX)?,
            place(&share, "a function", EGRESS_FUNCTION_CONNECTIONS_MAX)?,
            place(&self.places, "this server", EGRESS_CONNECTIONS_MAX)?,
        ];
        let [_, head, between] = terms.patience;
        // What it calls of the platform may be a function that takes its time.
        let most = if target.is_platform() { INSIDE_PATIENCE } else { self.patience };
        let stream = match target.is_platform() {
            true => Box::new(self.services.connect(&terms.caller)),
            false => self.reach(target, terms).await?,
        };
        address(&mut request, target)?;
        let between = between.unwrap_or(most).min(most);
        let progress = Arc::new(Progress::default());
        let request = request.map(|body| {
            Counted::new(body, Direction::Sent, Arc::clone(session), between).telling(&progress)
        });
        let mut exchange = pin!(exchange(stream, request));
        let (response, connection) = loop {
            let time = within(head, most, terms.deadline)?;
            match timeout(time, &mut exchange).await {
                Ok(answered) => break answered?,
                // The time for the head begins with the end of the body.
                Err(_) if progress.moved.swap(0, Relaxed) > 0 || !progress.ended.load(Relaxed) => {}
                Err(_) => return Err(Error::HeadTime(time.as_millis())),
            }
        };
        Ok((received(response, session, between), drive(connection, places, terms.deadline)))
    }

    /// A connection to a host of the network.
    async fn reach(&self, target: &Target, terms: &Terms) -> Result<Box<dyn Stream>, Error> {
        let [connect, ..] = terms.patience;
        let time = within(connect, self.patience, terms.deadline)?;
        let found = timeout(time, self.resolve(target)).await;
        let addresses = found.map_err(|_| Error::NameTime(target.host.clone()))??;
        let time = within(connect, self.patience, terms.deadline)?;
        let connected = timeout(time, self.connect(target, &addresses)).await;
        connected.map_err(|_| Error::ConnectTime(target.host.clone()))?
    }

    async fn connect(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
    ) -> Result<Box<dyn Stream>, Error> {
        let mut last = String::new();
        for address in addresses.iter().take(EGRESS_ADDRESSES_MAX) {
            // One that does not answer must not take the time of the others.
            let connected = timeout(EGRESS_ADDRESS_PATIENCE, TcpStream::connect(address)).await;
            match connected {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return if target.tls {
                        self.secure(target, stream).await
                    } else {
                        Ok(Box::new(stream))
                    };
                }
                Ok(Err(error)) => last = error.to_string(),
                Err(_) if addresses.len() == 1 => {
                    return Err(Error::ConnectTime(target.host.clone()));
                }
                Err(_) => last = format!("no answer from {}", address.ip()),
            }
        }
        Err(Error::Connect { host: target.host.clone(), why: last })
    }

    async fn secure(&self, target: &Target, stream: TcpStream) -> Result<Box<dyn Stream>, Error> {
        let failed = |why: String| Error::Tls { host: target.host.clone(), why };
        let name = match target.address {
            Some(address) => ServerName::from(address),
            None => ServerName::try_from(target.host.clone()).map_err(|e| failed(e.to_string()))?,
        };
        let connected = self.tls.connect(name, stream).await;
        Ok(Box::new(connected.map_err(|e| failed(e.to_string()))?))
    }
}

/// Makes the request one to an origin server (RFC 9112, 3.2.1), on a connection of its own.
fn address<B>(request: &mut Request<B>, target: &Target) -> Result<(), Error> {
    let bad = |why: String| Error::Authority(why);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = path.parse::<Uri>().map_err(|e| bad(e.to_string()))?;
    *request.version_mut() = Version::HTTP_11;
    let host = HeaderValue::try_from(target.host_header()).map_err(|e| bad(e.to_string()))?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(())
}

type Connection<B> = http1::Connection<TokioIo<Box<dyn Stream>>, B>;

/// Until the head of the response. The connection is driven meanwhile.
async fn exchange<B>(
    stream: Box<dyn Stream>,
    request: Request<B>,
) -> Result<(Response<Incoming>, Option<Connection<B>>), Error>
where
    B: Body<Data = Bytes, Error = Error> + Send + 'static,
{
    let failed = |e: hyper::Error| match find(&e) {
        Some(own) => own,
        None => Error::Protocol(e.to_string()),
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(EGRESS_HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let mut connection = Some(connection);
    let mut response = pin!(sender.send_request(request));
    let response = poll_fn(|cx| {
        if let Poll::Ready(answered) = response.as_mut().poll(cx) {
            return Poll::Ready(answered);
        }
        if let Some(driven) = connection.as_mut()
            && let Poll::Ready(ended) = std::pin::Pin::new(driven).poll(cx)
        {
            connection = None;
            if let Err(error) = ended {
                return Poll::Ready(Err(error));
            }
            return response.as_mut().poll(cx);
        }
        Poll::Pending
    });
    let response = response.await.map_err(failed)?;
    Ok((response, connection))
}

/// Our own error, when that is why hyper failed.
fn find(error: &hyper::Error) -> Option<Error> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(own) = inner.downcast_ref::<Error>() {
            return Some(own.clone());
        }
        source = inner.source();
    }
    None
}

fn received(
    response: Response<Incoming>,
    session: &Arc<Session>,
    patience: Duration,
) -> Response<Counted<Incoming>> {
    response.map(|body| Counted::new(body, Direction::Received, Arc::clone(session), patience))
}

/// Drives the connection to its end, or to the end of its invocation.
fn drive<B>(
    connection: Option<Connection<B>>,
    places: [OwnedSemaphorePermit; 3],
    deadline: Instant,
) -> Driver
where
    B: Body<Data = Bytes, Error = Error> + Send + 'static,
{
    Box::pin(async move {
        let _places = places;
        if let Some(connection) = connection {
            // What fails here fails in the response's body as well.
            let _ = tokio::time::timeout_at(deadline.into(), connection).await;
        }
    })
}
