//! How a response goes on the wire: the one place that decides where its body ends.
//!
//! A client that reads another end than the server wrote takes the next response on the connection for the rest of
//! this one (response desynchronisation). So the head and the body that hyper gets here agree, whatever a function said:
//! a contradiction that is known before the head is sent becomes a 502; one that shows later closes the connection.
//! Sources: RFC 9110, 6.4.1, 8.6 and 15; RFC 9112, 6.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRAILER, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, StatusCode};
use wambda_api::Response;
use wambda_model::{Body, BodyError};

/// A body that is as long as its head says, or fails.
pub(crate) struct Framed {
    /// None once nothing more is to be sent.
    body: Option<Body>,
    /// Bytes that the head promises and that have not come yet; none when it promises nothing.
    owed: Option<u64>,
    /// Why it ends, once hyper has written what came before: it throws away what it has not written when a body fails,
    /// and the client would see no response at all.
    failed: Option<BodyError>,
}

/// What a head says of the length of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Bytes(u64),
    Contradiction,
}

/// The response with a head and a body that agree; none when they contradict each other.
pub(crate) fn fit(method: &Method, response: Response) -> Option<hyper::Response<Framed>> {
    let (mut parts, body) = response.into_parts();
    let status = parts.status;
    if status.is_informational() {
        return None;
    }
    let said = said(&mut parts.headers);
    let size = body.size_hint().exact();
    let framed = if matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
        parts.headers.remove(CONTENT_LENGTH);
        Framed::of(None, None)
    } else if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        // The length, if any, is that of what a GET would send.
        match (said, size) {
            (Said::Contradiction, _) => return None,
            (Said::Nothing, Some(size)) if *method == Method::HEAD && size > 0 => {
                parts.headers.insert(CONTENT_LENGTH, size.into());
            }
            _ => {}
        }
        Framed::of(None, None)
    } else {
        match (said, size) {
            (Said::Contradiction, _) => return None,
            (Said::Bytes(promised), Some(size)) if promised != size => return None,
            (Said::Bytes(promised), _) => Framed::of(Some(body), Some(promised)),
            (Said::Nothing, _) => Framed::of(Some(body), None),
        }
    };
    Some(hyper::Response::from_parts(parts, framed))
}

/// The server's own words instead of a response that [`fit`] refused.
pub(crate) fn refusal(response: Response) -> hyper::Response<Framed> {
    response.map(|body| Framed::of(Some(body), None))
}

/// Reads what a head says of its length, and removes what is the connection's business.
fn said(headers: &mut HeaderMap) -> Said {
    let (mut said, mut repeated, mut foreign) = (Said::Nothing, false, false);
    for (name, value) in &*headers {
        if *name == CONTENT_LENGTH {
            said = match (said, digits(value)) {
                (Said::Nothing, Some(length)) => Said::Bytes(length),
                (Said::Bytes(before), Some(length)) if before == length => {
                    repeated = true;
                    said
                }
                _ => Said::Contradiction,
            };
        } else if *name == TRANSFER_ENCODING || *name == TRAILER || *name == UPGRADE {
            foreign = true;
        }
    }
    if foreign {
        for name in [TRANSFER_ENCODING, TRAILER, UPGRADE] {
            headers.remove(name);
        }
    }
    if let (true, Said::Bytes(length)) = (repeated, said) {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    said
}

/// A length as RFC 9110 (8.6) has it: digits and nothing else.
fn digits(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl Framed {
    fn of(body: Option<Body>, owed: Option<u64>) -> Self {
        Self { body, owed, failed: None }
    }

    /// Bytes that are in memory by now, as a whole.
    pub(crate) fn held_bytes(&self) -> usize {
        let size = self.body.as_ref().and_then(|body| body.size_hint().exact());
        size.and_then(|size| usize::try_from(size).ok()).unwrap_or(0)
    }

    fn fail(
        &mut self,
        cx: &Context<'_>,
        error: BodyError,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        (self.body, self.failed) = (None, Some(error));
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl HttpBody for Framed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        let data = match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => Some(data),
            Some(Err(error)) => return self.fail(cx, error),
            // Trailers are not passed on: no head of ours announces them.
            Some(Ok(Err(_))) | None => None,
        };
        let Some(owed) = self.owed else {
            if data.is_none() {
                self.body = None;
            }
            return Poll::Ready(data.map(|data| Ok(Frame::data(data))));
        };
        let (owes, sent) = (owed, data.as_ref().map_or(0, |data| data.len() as u64));
        let is_over = data.is_none() && owes > 0;
        if sent > owes || is_over {
            let how = if is_over { "lacks" } else { "has more than" };
            let message =
                format!("the response {how} the last {owes} bytes that its head promises");
            return self.fail(cx, BodyError::new(message));
        }
        self.owed = Some(owes - sent);
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(|body| self.owed.is_none_or(|owed| owed == 0) && body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, self.owed) {
            (None, _) if self.failed.is_none() => SizeHint::with_exact(0),
            (None, _) => SizeHint::default(),
            (Some(_), Some(owed)) => SizeHint::with_exact(owed),
            (Some(body), None) => body.size_hint(),
        }
    }
}
