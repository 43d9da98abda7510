//! The listener: connections in, bounded in number; a signal, and an orderly end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use wambda_api::Api;

use crate::build;
use crate::config::Settings;
use crate::places::{Connections, Places};
use crate::serving::{self, Open};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;
/// Period of looking whether invocations still run, while stopping.
const IDLE_POLL: Duration = Duration::from_millis(20);
/// Time for requests that have come before it stopped, and were not seen by then, to be read.
const NEWCOMERS: Duration = Duration::from_millis(100);
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
    /// For invocations that run when the server stops.
    pub drain: Duration,
    /// Connections that may be open.
    pub connections: Connections,
}

impl From<&Settings> for Bounds {
    fn from(settings: &Settings) -> Self {
        let Settings { drain, connections, .. } = *settings;
        Self { drain, connections }
    }
}

/// Serves connections until SIGTERM or SIGINT; then lets running invocations end, and `pump`, for as long
/// as it may take to drain. A second signal ends at once.
///
/// # Errors
/// When signals cannot be watched.
pub(crate) async fn accept(
    listener: TcpListener,
    api: Arc<Api>,
    ready: watch::Sender<bool>,
    bounds: Bounds,
    (open, pump): (Arc<Open>, JoinHandle<()>),
) -> Result<()> {
    let drain = bounds.drain;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let places = Places::new(bounds.connections);
    // Until it is dropped.
    let mut watch = JoinSet::new();
    let watched = Arc::clone(&open);
    watch.spawn(build::again(move || Arc::clone(&watched).watch()));
    let enter = |accepted: (TcpStream, SocketAddr)| {
        // Nobody can be told without a place to do so.
        let Some(place) = places.enter(accepted.1.ip()) else { return };
        let served = serving::serve(&open, Arc::clone(&api), accepted, place.is_reserved);
        tokio::spawn(async move {
            served.await;
            drop(place);
        });
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => enter(accepted),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let _ = ready.send(false);
    let_in(&listener.into_std()?, enter);
    tokio::time::sleep(NEWCOMERS).await;
    tracing::info!(seconds = drain.as_secs(), "stopping: running invocations may end");
    tokio::select! {
        () = async { tokio::join!(open.stop(), idle(&api), pump) }.map(drop) => tracing::info!("stopped"),
        () = tokio::time::sleep(drain) => tracing::warn!("stopped with invocations still running"),
        _ = terminate.recv() => tracing::warn!("stopped at once"),
        _ = interrupt.recv() => tracing::warn!("stopped at once"),
    }
    Ok(())
}

/// Lets in those whom the kernel has let in already.
fn let_in(listener: &std::net::TcpListener, enter: impl Fn((TcpStream, SocketAddr))) {
    for _ in 0..BACKLOG {
        match listener.accept() {
            Ok((stream, peer)) => {
                if stream.set_nonblocking(true).is_ok()
                    && let Ok(stream) = TcpStream::from_std(stream)
                {
                    enter((stream, peer));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Of one of them.
            Err(_) => {}
        }
    }
}

/// Until no invocation runs: one whose caller has gone has no connection to wait for.
async fn idle(api: &Api) {
    while api.invoke.running() > 0 {
        tokio::time::sleep(IDLE_POLL).await;
    }
}
