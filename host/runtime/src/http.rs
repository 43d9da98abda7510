//! The http kinds: a request goes in, a response streams out while the guest still runs.
//!
//! Once its head is out, a guest that still runs does so on a task of its own ([`Guest`]).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderName, StatusCode, header};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use wambda_model::limits::STREAM_BYTES_MAX;
use wambda_model::{Body, BodyError};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error as HttpError, WasiBody, WasiHttpView};

use crate::drive::Panicked;
use crate::instance::{Entry, Instance};
use crate::run::HttpEnd;

/// How a guest that answers HTTP ended.
pub(crate) type End = Result<(), HttpEnd>;

/// The head of a response, or why there is none.
pub(crate) type Head = Result<::http::Response<Body>, String>;

/// Passes the head on, telling an observer first.
pub(crate) struct Relay {
    head: oneshot::Sender<Head>,
    observe: Box<dyn FnOnce(&Head) + Send + Sync>,
}

impl Relay {
    pub(crate) fn new(
        head: oneshot::Sender<Head>,
        observe: impl FnOnce(&Head) + Send + Sync + 'static,
    ) -> Self {
        Self { head, observe: Box::new(observe) }
    }

    fn pass(self, given: Head) {
        (self.observe)(&given);
        let _ = self.head.send(given);
    }
}

/// Hands `request` to the guest; the response goes to `relay` as soon as the guest gives it.
pub(crate) async fn request(
    instance: &mut Instance,
    request: ::http::Request<Body>,
    relay: Relay,
) -> wasmtime::Result<()> {
    let Instance { store, entry, .. } = instance;
    let is_head = request.method() == ::http::Method::HEAD;
    let request =
        request.map(|body| body.map_err(|e| HttpError::InternalError(Some(e.to_string()))));
    match entry {
        Entry::Http(proxy) => {
            let mut view = store.data_mut().http();
            let request = view.new_incoming_request(Scheme::Http, request)?;
            let out = view.new_response_outparam_from_callback(move |given| {
                relay.pass(match given {
                    Ok(response) => tidy(response, is_head),
                    Err(code) => Err(format!("the handler answered with {code:?}")),
                });
            })?;
            proxy.wasi_http_incoming_handler().call_handle(&mut *store, request, out).await
        }
        Entry::Http3(service) => {
            let call = store.run_concurrent(async |accessor| -> wasmtime::Result<()> {
                let request = accessor.with(|mut access| {
                    let view = access.get().http();
                    wasmtime_wasi_http::p3::Request::from_http(view.hooks, request).0
                });
                let response = match service.handle(accessor, request).await? {
                    Ok(response) => response,
                    Err(code) => {
                        relay.pass(Err(format!("the handler answered with {code:?}")));
                        return Ok(());
                    }
                };
                let response =
                    accessor.with(|access| response.into_http(access, async { Ok(()) }))?;
                let (done, drained) = oneshot::channel::<()>();
                let response = response.map(|body| Held { body, _until: done }.boxed_unsync());
                relay.pass(tidy(response, is_head));
                // The guest's tasks feed the body: they run until it is drained or dropped.
                let _ = drained.await;
                Ok(())
            });
            call.await?
        }
        _ => wasmtime::bail!("an event function takes no http request"),
    }
}

/// A body that tells when it is gone.
struct Held {
    body: WasiBody,
    _until: oneshot::Sender<()>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Headers that belong to one connection and not to a response (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Makes a guest's response, to a HEAD request or another one, fit for the wire: no hop-by-hop headers, one length at
/// most, which a body that is known already has, no trailers.
pub(crate) fn tidy(response: ::http::Response<WasiBody>, is_head: bool) -> Head {
    let (mut parts, body) = response.into_parts();
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
    let (first, mut others) = (lengths.next(), 0);
    for other in lengths {
        if Some(other) != first {
            return Err("the response has two different content-length headers".to_owned());
        }
        others += 1;
    }
    if let Some(length) = first.filter(|_| others > 0).cloned() {
        parts.headers.insert(header::CONTENT_LENGTH, length);
    }
    if !(200..600).contains(&parts.status.as_u16()) {
        let status = parts.status.as_u16();
        return Err(format!(
            "the response has status {status}, which cannot end a request: 200 to 599 can"
        ));
    }
    let promised = promised(&parts, is_head);
    if let (Some(promised), Some(size)) = (promised, http_body::Body::size_hint(&body).exact())
        && promised != size
    {
        return Err(wrong_length(promised, size));
    }
    Ok(::http::Response::from_parts(parts, body.map_err(BodyError::new).boxed_unsync()))
}

/// Bytes of body that a head promises; none when it does not, or when there need not be any.
fn promised(head: &::http::response::Parts, is_head: bool) -> Option<u64> {
    if is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return None;
    }
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn wrong_length(promised: u64, sent: u64) -> String {
    format!("the response promises {promised} bytes, and has {sent}")
}

/// What a guest that has ended left of its response.
pub(crate) enum Left {
    /// All of it, which agrees with its head.
    Whole(Bytes),
    /// Less or more than its head promises, or nothing that ends.
    Wrong(String),
    /// This much, and then what is still to come, if only its end.
    Streams(Option<Bytes>, Body),
}

/// Collects the body of a guest that has ended well: what is there is there by now, and there is still time to refuse
/// it as a whole.
pub(crate) fn collect(head: &::http::response::Parts, is_head: bool, mut body: Body) -> Left {
    let mut all: Option<Bytes> = None;
    loop {
        let frame = match body.frame().now_or_never() {
            None => return Left::Streams(all, body),
            Some(frame) => frame.map(|frame| frame.map(Frame::into_data)),
        };
        match frame {
            Some(Ok(Ok(data))) => {
                all = Some(match all {
                    None => data,
                    Some(before) => [before, data].concat().into(),
                });
            }
            // What is not sent cannot be wrong.
            Some(Err(_)) if is_head => break,
            Some(Err(error)) => return Left::Wrong(error.to_string()),
            Some(Ok(Err(_))) | None => break,
        }
    }
    let all = all.unwrap_or_default();
    let sent = all.len() as u64;
    match promised(head, is_head).filter(|promised| *promised != sent) {
        Some(promised) => Left::Wrong(wrong_length(promised, sent)),
        None => Left::Whole(all),
    }
}

/// The guest behind a response.
pub(crate) enum Guest {
    /// Still at work, on a task of its own.
    Running(JoinHandle<Result<End, Panicked>>),
    /// Done.
    Ended(Result<End, Panicked>),
}

impl Guest {
    /// Why it failed; none while it runs and when it ended well.
    fn failure(&self) -> Option<BodyError> {
        match self {
            Self::Running(_) | Self::Ended(Ok(Ok(()))) => None,
            Self::Ended(Ok(Err(HttpEnd::Failed(error)))) => Some(BodyError::new(error.clone())),
            Self::Ended(Ok(Err(HttpEnd::Refused(error)))) => Some(BodyError::new(error.clone())),
            Self::Ended(Err(Panicked)) => Some(BodyError::new("internal error")),
        }
    }
}

/// Whoever wants to know that a response is whole.
pub(crate) type OnWhole = Box<dyn FnOnce() + Send>;

/// A response body that ends well only when its guest did: a body that the guest dropped looks like
/// one that it finished.
pub(crate) struct Streaming {
    /// What was taken of the body before it streams.
    ahead: Option<Bytes>,
    /// None when all of it came.
    body: Option<Body>,
    guest: Guest,
    sent: u64,
    /// Bytes that its head promises; none when it does not, or there need not be any.
    promised: Option<u64>,
    /// To be told when all that is promised has come, while the guest is still at work.
    on_whole: Option<OnWhole>,
    /// Runs while a guest that has ended owes the rest of its body.
    grace: Option<Pin<Box<Sleep>>>,
}

/// How long a body may be unfinished after its guest has ended: nothing can come any more.
const GRACE: Duration = Duration::from_secs(1);

impl Streaming {
    /// The body of a response with this head, to a HEAD request or another one.
    pub(crate) fn new(
        head: &::http::response::Parts,
        is_head: bool,
        body: Body,
        guest: Guest,
        on_whole: Option<OnWhole>,
    ) -> Self {
        let promised = promised(head, is_head);
        Self { ahead: None, body: Some(body), guest, sent: 0, promised, on_whole, grace: None }
    }

    /// The same, with bytes that come before the body's.
    pub(crate) fn after(mut self, ahead: Option<Bytes>) -> Self {
        self.ahead = ahead;
        self
    }

    /// What is wrong with the end of the body, if something is. wasmtime mostly tells of a wrong length itself.
    fn wrong_end(&self) -> Option<BodyError> {
        let (sent, promised) = (self.sent, self.promised.filter(|promised| *promised != self.sent));
        let told = |promised| BodyError::new(wrong_length(promised, sent));
        self.guest.failure().or_else(|| promised.map(told))
    }

    fn poll_guest(&mut self, cx: &mut Context<'_>) {
        if let Guest::Running(task) = &mut self.guest
            && let Poll::Ready(joined) = Pin::new(task).poll(cx)
        {
            self.guest = Guest::Ended(joined.unwrap_or(Err(Panicked)));
        }
    }

    /// A data frame, or its absence at the end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(Ok(ahead)));
        }
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let frame = match http_body::Body::poll_frame(Pin::new(body), cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => Poll::Ready(Some(Ok(data))),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            // Trailers are not passed on. A guest of 0.3 waits until its body is gone.
            Some(Ok(Err(_))) | None => {
                self.body = None;
                Poll::Ready(None)
            }
        }
    }

    fn poll_grace(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(GRACE)));
        sleep.as_mut().poll(cx)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // One without a body is whole with its head, and nobody reads from it.
        if let Some(tell) = self.on_whole.take()
            && matches!(self.guest, Guest::Running(_))
        {
            tell();
        }
    }
}

impl http_body::Body for Streaming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_body(cx);
        self.poll_guest(cx);
        let ended = matches!(self.guest, Guest::Ended(_));
        match polled {
            Poll::Ready(Some(Ok(data))) => {
                self.sent += data.len() as u64;
                if self.sent > STREAM_BYTES_MAX {
                    let message = format!("a response may stream {STREAM_BYTES_MAX} bytes");
                    return Poll::Ready(Some(Err(BodyError::new(message))));
                }
                if self.promised.is_some_and(|promised| self.sent >= promised)
                    && !ended
                    && let Some(tell) = self.on_whole.take()
                {
                    tell();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(Some(Err(self.guest.failure().unwrap_or(error))))
            }
            Poll::Ready(None) if ended => Poll::Ready(self.wrong_end().map(Err)),
            Poll::Pending if ended => match self.guest.failure() {
                Some(failure) => Poll::Ready(Some(Err(failure))),
                None => self.poll_grace(cx).map(|()| {
                    Some(Err(BodyError::new("the handler ended without finishing its response")))
                }),
            },
            _ => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        let done = self.body.as_ref().is_none_or(http_body::Body::is_end_stream);
        done && self.ahead.is_none()
            && matches!(self.guest, Guest::Ended(_))
            && self.wrong_end().is_none()
    }

    /// Nothing is certain before the guest has ended: one that believes the size of a body does not ask how it ends.
    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;

    fn tidied(headers: &[(&'static str, &'static str)], status: u16) -> Head {
        let mut response = ::http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let body = Empty::new().map_err(|never: std::convert::Infallible| match never {});
        tidy(response.body(body.boxed_unsync()).unwrap(), false)
    }

    #[test]
    fn responses_are_made_fit_for_the_wire() {
        let hop = [("connection", "close"), ("transfer-encoding", "chunked"), ("x", "kept")];
        let response = tidied(&hop, 200).unwrap();
        assert_eq!(response.headers().keys().collect::<Vec<_>>(), ["x"]);
        let same = [("content-length", "0"), ("content-length", "0")];
        let headers = tidied(&same, 200).unwrap();
        assert_eq!(headers.headers().get_all("content-length").iter().count(), 1);
        let differ = [("content-length", "0"), ("content-length", "1")];
        assert!(tidied(&differ, 200).unwrap_err().contains("two different"));
        assert!(tidied(&[], 101).unwrap_err().contains("101"));
    }
}
