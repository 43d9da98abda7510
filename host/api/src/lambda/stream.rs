//! `InvokeWithResponseStream`: the answer as event-stream frames, as it comes out of the function.
//! Source: "Event stream encoding", AWS SDK documentation; payload chunks and a last `InvokeComplete`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue as FrameValue, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, SET_COOKIE};
use hyper::body::Frame;
use serde_json::{Map, Value, json};
use wambda_model::limits::LOG_TAIL_BYTES;
use wambda_model::{
    Body, BodyError, FunctionError, Invocation, Outcome, Payload, Reply, RequestId, Version,
};

use super::invoke::{self, Admitted, EXECUTED_VERSION, InvocationType};
use crate::{Api, ApiError, Request, Response, gateway, reply};

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("application/vnd.amazon.eventstream");
/// Payload of one frame.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Between the head of an HTTP answer and its body.
const SEPARATOR: [u8; 8] = [0; 8];

pub(crate) async fn invoke(
    api: &Api,
    function: &str,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let admitted = invoke::admit(api, function, request, peer).await?;
    let Admitted { target, invocation, kind, wants_tail, .. } = admitted;
    match kind {
        InvocationType::DryRun => return Ok(invoke::dry()),
        InvocationType::Event => {
            let known = "RequestResponse, DryRun";
            return Err(invoke::unknown_value("invocationType", "Event", known));
        }
        InvocationType::RequestResponse => {}
    }
    let (id, by) = (invocation.id, invocation.deadline());
    let (to, size) = (target.version.clone(), invocation.payload.waiting_bytes());
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let read = move || payload(&to, invocation);
    let invocation = api.offload.read_values(peer, size, read).await??;
    let outcome = api.invoke.invoke(&target.version, invocation).await?;
    invoke::watch(target.alias.as_deref(), &outcome, by);
    let Outcome { result, version, .. } = outcome;
    let label = HeaderValue::from_str(&version.label);
    let mut frames = Frames {
        rest: Bytes::new(),
        body: None,
        error: None,
        done: false,
        id,
        tail_of: wants_tail.then_some(version),
    };
    match result {
        Ok(Reply::Event(bytes)) => frames.rest = bytes,
        Ok(Reply::Http(response)) => {
            let (parts, body) = response.into_parts();
            frames.rest = prelude(&parts);
            frames.body = Some(body);
        }
        Err(error) => frames.error = Some(error),
    }
    let waits = frames.rest.len();
    let mut response = Response::new(Body::new(frames));
    response.extensions_mut().insert(crate::InMemory(waits));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, EVENT_STREAM);
    reply::put_id(headers, reply::AWS_REQUEST_ID, id);
    if let Ok(label) = label {
        headers.insert(EXECUTED_VERSION, label);
    }
    Ok(response)
}

/// For the http kinds, the request inside an API Gateway event.
fn payload(version: &Version, invocation: Invocation) -> Result<Invocation, ApiError> {
    let Invocation { id, payload, caller, attempt } = invocation;
    let payload = match payload {
        Payload::Event(event) if version.kind.is_http() => {
            Payload::Http(gateway::request_from_event(&event, version.name.as_str())?)
        }
        other => other,
    };
    Ok(Invocation { id, payload, caller, attempt })
}

/// The head of an HTTP answer, as Lambda's HTTP integration has it.
fn prelude(parts: &http::response::Parts) -> Bytes {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers = Map::new();
    for name in parts.headers.keys().filter(|name| *name != SET_COOKIE) {
        let all: Vec<String> = parts.headers.get_all(name).iter().map(text).collect();
        headers.insert(name.as_str().to_owned(), Value::from(all.join(",")));
    }
    let cookies: Vec<String> = parts.headers.get_all(SET_COOKIE).iter().map(text).collect();
    let head = json!({
        "statusCode": parts.status.as_u16(), "headers": headers, "cookies": cookies,
    });
    let mut out = head.to_string().into_bytes();
    out.extend_from_slice(&SEPARATOR);
    out.into()
}

/// The frames of one answer.
struct Frames {
    /// What is still to be put into frames, one at a time: each takes two checksums over its bytes.
    rest: Bytes,
    body: Option<Body>,
    error: Option<FunctionError>,
    done: bool,
    id: RequestId,
    /// Whose log's tail is asked for.
    tail_of: Option<std::sync::Arc<Version>>,
}

impl Frames {
    /// A frame with the next bytes of the answer.
    fn chunk(&mut self) -> Bytes {
        let part = self.rest.split_to(self.rest.len().min(CHUNK_BYTES_MAX));
        frame("PayloadChunk", OCTETS, &part)
    }

    /// The last frame.
    fn complete(&mut self) -> Bytes {
        let mut shape = Map::new();
        if let Some(error) = self.error.take() {
            let details = error.to_json(self.id);
            shape.insert("ErrorCode".to_owned(), error.error_type.into());
            let details = String::from_utf8_lossy(&details).into_owned();
            shape.insert("ErrorDetails".to_owned(), details.into());
        }
        if let Some(version) = &self.tail_of {
            let tail = version.logs.tail(self.id, LOG_TAIL_BYTES);
            shape.insert("LogResult".to_owned(), BASE64.encode(tail).into());
        }
        let text = Value::Object(shape).to_string();
        self.done = true;
        frame("InvokeComplete", "application/json", text.as_bytes())
    }
}

const OCTETS: &str = "application/octet-stream";

fn frame(event: &'static str, content: &'static str, payload: &[u8]) -> Bytes {
    let header = |name: &'static str, value: &'static str| {
        Header::new(name, FrameValue::String(value.into()))
    };
    let message = Message::new(Bytes::copy_from_slice(payload))
        .add_header(header(":message-type", "event"))
        .add_header(header(":event-type", event))
        .add_header(header(":content-type", content));
    let mut out = BytesMut::with_capacity(payload.len() + 128);
    if let Err(error) = write_message_to(&message, &mut out) {
        tracing::error!(%error, "cannot write an event-stream frame");
    }
    out.freeze()
}

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if !self.rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(self.chunk()))));
            }
            if self.done {
                return Poll::Ready(None);
            }
            let Some(body) = self.body.as_mut() else {
                return Poll::Ready(Some(Ok(Frame::data(self.complete()))));
            };
            match std::task::ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest = data;
                    }
                }
                // The status is long gone: the last frame says what happened.
                Some(Err(error)) => {
                    self.body = None;
                    let known = error.function_error().cloned();
                    self.error = Some(known.unwrap_or_else(|| {
                        let why = error.to_string();
                        FunctionError::returned("Function.StreamError", why, Vec::new())
                    }));
                }
                None => self.body = None,
            }
        }
    }
}
