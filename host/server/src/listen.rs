//! The listener: connections in, bounded in number; a signal, and an orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wambda_api::Api;
use wambda_model::limits::{CONNECTIONS_RESERVED_PATIENCE, HEADERS_MAX, READER_PATIENCE_FACTOR};

use crate::config::Settings;
use crate::patient::Patient;
use crate::places::{Connections, Places};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;
/// Bytes that a connection buffers; bounds a request's head as well.
const BUFFER_BYTES: usize = 64 << 10;
/// Period of looking whether invocations still run, while stopping.
const IDLE_POLL: Duration = Duration::from_millis(20);
/// Pause after an accept that failed, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes `address`, and listens on it later.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot listen on {address}"))?;
    Ok(socket)
}

/// Listens, and tells where. Needs a runtime.
///
/// # Errors
/// When somebody else listens there by now.
pub fn listen(socket: TcpSocket) -> Result<(TcpListener, SocketAddr)> {
    let address = socket.local_addr()?;
    let listener = socket.listen(BACKLOG);
    Ok((listener.with_context(|| format!("cannot listen on {address}"))?, address))
}

/// How long is waited, and how many are served.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// For clients: their heads, and what they send and take of bodies.
    pub patience: Duration,
    /// For invocations that run when the server stops.
    pub drain: Duration,
    /// Connections that may be open.
    pub connections: Connections,
}

impl From<&Settings> for Bounds {
    fn from(settings: &Settings) -> Self {
        let Settings { client_patience, drain, connections, .. } = *settings;
        Self { patience: client_patience, drain, connections }
    }
}

/// Serves connections until SIGTERM or SIGINT; then lets running invocations end, and `pump`, for as long
/// as it may take to drain. A second signal ends at once.
///
/// # Errors
/// When signals cannot be watched.
pub async fn accept(
    listener: TcpListener,
    api: Arc<Api>,
    ready: watch::Sender<bool>,
    bounds: Bounds,
    pump: JoinHandle<()>,
) -> Result<()> {
    let drain = bounds.drain;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let places = Places::new(bounds.connections);
    let open = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Nobody can be told without a place to do so.
                let Some(place) = places.enter(peer.ip()) else { continue };
                let served = connection(stream, peer, &api, (place.is_reserved, bounds.patience));
                let connection = open.watch(served);
                tokio::spawn(async move {
                    // How a connection ends is its peer's business.
                    let _ = connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let _ = ready.send(false);
    drop(listener);
    tracing::info!(seconds = drain.as_secs(), "stopping: running invocations may end");
    tokio::select! {
        () = async { tokio::join!(open.shutdown(), idle(&api), pump) }.map(drop) => tracing::info!("stopped"),
        () = tokio::time::sleep(drain) => tracing::warn!("stopped with invocations still running"),
        _ = terminate.recv() => tracing::warn!("stopped at once"),
        _ = interrupt.recv() => tracing::warn!("stopped at once"),
    }
    Ok(())
}

/// Until no invocation runs: one whose caller has gone has no connection to wait for.
async fn idle(api: &Api) {
    while api.invoke.running() > 0 {
        tokio::time::sleep(IDLE_POLL).await;
    }
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    api: &Arc<Api>,
    (is_reserved, patience): (bool, Duration),
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send + use<> {
    let _ = stream.set_nodelay(true);
    let most = if is_reserved { CONNECTIONS_RESERVED_PATIENCE } else { patience };
    let patience = patience.min(most);
    let api = Arc::clone(api);
    let answer = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move {
            let this = Arc::clone(&api);
            let answered = match is_reserved {
                false => AssertUnwindSafe(this.handle(request, peer)).catch_unwind().await,
                true => AssertUnwindSafe(this.handle_beyond(request, peer)).catch_unwind().await,
            };
            Ok::<_, Infallible>(answered.unwrap_or_else(|_| api.panicked()))
        }
    });
    // Not `pipeline_flush`: it keeps the answer to a request that cannot be parsed in the buffer.
    http1::Builder::new()
        .keep_alive(!is_reserved)
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(
            TokioIo::new(Patient::new(stream, patience * READER_PATIENCE_FACTOR)),
            answer,
        )
}
