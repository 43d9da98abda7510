//! The yardstick: a hyper server with the same settings, runtime and allocator, that reads the body
//! and answers.

use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Says hello until it is killed. With `times` slow heads are cut off, as Wambda does; without it nothing is.
pub(crate) fn run(times: bool) -> Result<()> {
    serve("bare", times, answer)
}

/// A hyper server that answers so until it is killed, and prints where it listens.
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
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::new(Bytes::from_static(b"\"hello\"")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
