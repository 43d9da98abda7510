//! An HTTP function that does what the path says, most of it bad.

mod fetch;

use wstd::http::{Body, Error, Request, Response};
use wstd::time::Duration;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let path = request.uri().path().to_owned();
    let headers = |response: wstd::http::response::Builder| response.header("x-guest", "http");
    match path.as_str() {
        "/echo" => Ok(Response::new(request.into_body())),
        "/headers" => {
            let all: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {value:?}"))
                .collect();
            Ok(Response::new(all.join("\n").into()))
        }
        "/loop" => loop {
            std::hint::black_box(0);
        },
        "/sleep" => {
            wstd::task::sleep(Duration::from_secs(3600)).await;
            Ok(Response::new("never".into()))
        }
        "/panic" => panic!("as you wished"),
        "/exit" => std::process::exit(3),
        "/status" => Ok(headers(Response::builder().status(418)).body("teapot".into())?),
        "/hop" => {
            let response =
                Response::builder().header("connection", "close").header("x-kept", "yes");
            Ok(response.header("keep-alive", "timeout=1").body("hop".into())?)
        }
        "/lengths" => {
            let response = Response::builder().header("content-length", "5");
            Ok(response.header("content-length", "6").body("hello".into())?)
        }
        "/wrong-length" => {
            Ok(Response::builder().header("content-length", "50").body("hello".into())?)
        }
        "/big" => Ok(Response::new(vec![b'x'; 7 << 20].into())),
        "/endless" => Ok(Response::new(Body::from_stream(Chunks { left: u64::MAX }))),
        "/answers-first" => {
            let mut body = request.into_body();
            let rest = Box::pin(async move {
                match body.contents().await {
                    Ok(all) => println!("read {} bytes", all.len()),
                    Err(error) => println!("the body failed: {error:?}"),
                }
            });
            let stream = AnswersFirst { answers: true, rest };
            let answer = Response::builder().header("content-length", "5");
            Ok(answer.body(Body::from_stream(stream))?)
        }
        "/then-panic" => Ok(Response::new(Body::from_stream(Chunks { left: 500 }))),
        "/fetch" => Ok(Response::new(fetch::body(request.headers()))),
        "/unread" => {
            drop(request);
            Ok(Response::new("not read".into()))
        }
        "/outside" => {
            let outward = Request::get("http://127.0.0.1:1/").body(Body::empty())?;
            match wstd::http::Client::new().send(outward).await {
                Ok(_) => Ok(Response::new("reached".into())),
                Err(error) => Ok(Response::new(format!("refused: {error:?}").into())),
            }
        }
        _ => Ok(headers(Response::builder().status(404)).body("no such order".into())?),
    }
}

/// Sends all of its answer, and ends when the rest is done.
struct AnswersFirst {
    answers: bool,
    rest: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl futures_core::Stream for AnswersFirst {
    type Item = bytes::Bytes;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.answers) {
            return std::task::Poll::Ready(Some(bytes::Bytes::from_static(b"first")));
        }
        self.rest.as_mut().poll(cx).map(|()| None)
    }
}

/// Sends chunks, and then, instead of ending, panics.
struct Chunks {
    left: u64,
}

impl futures_core::Stream for Chunks {
    type Item = bytes::Bytes;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        assert!(self.left > 0, "as you wished");
        self.left -= 1;
        std::task::Poll::Ready(Some(bytes::Bytes::from_static(&[b'x'; 10_000])))
    }
}
