//! The yardstick: a hyper server with the same settings, runtime and allocator, that reads the body
//! and answers.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Type};
use tokio::net::TcpListener;

/// Which bare server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bare {
    /// As Wambda was first: a timer for each head.
    Timed,
    /// Heads may take for ever.
    Untimed,
    /// The same, with a runtime of one thread for each core, which share the port and no work.
    Cores,
}

impl Bare {
    pub(crate) const ALL: [Self; 3] = [Self::Timed, Self::Untimed, Self::Cores];

    /// The command.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Timed => "bare",
            Self::Untimed => "bare-untimed",
            Self::Cores => "bare-cores",
        }
    }
}

/// Says hello until it is killed.
pub(crate) fn run(which: Bare) -> Result<()> {
    if which != Bare::Cores {
        return serve("bare", which == Bare::Timed, answer);
    }
    let cores = std::thread::available_parallelism()?.get();
    let first = shared(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = first.local_addr()?;
    println!("bare listening on http://{address}");
    let rest = (1..cores).map(|_| shared(address)).collect::<Result<Vec<_>>>()?;
    let threads = rest.into_iter().chain([first]).map(|listener| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime
                .block_on(async { accept(TcpListener::from_std(listener)?, false, answer).await })
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

/// A listener at an address that others may have as well.
fn shared(address: SocketAddr) -> Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    Ok(socket.into())
}

/// A hyper server that answers so until it is killed, and prints where it listens. It `times` heads, or does not.
pub(crate) fn serve<F>(
    name: &str,
    times: bool,
    answer: impl Fn(Request<Incoming>) -> F + Copy + Send + 'static,
) -> Result<()>
where
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{name} listening on http://{}", listener.local_addr()?);
        accept(listener, times, answer).await
    })
}

async fn accept<F>(
    listener: TcpListener,
    times: bool,
    answer: impl Fn(Request<Incoming>) -> F + Copy + Send + 'static,
) -> Result<()>
where
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(times.then_some(std::time::Duration::from_secs(20)))
                .max_headers(100)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            let _ = connection.await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::new(Bytes::from_static(b"\"hello\"")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
