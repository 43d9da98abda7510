//! Asynchronous invocations and queues, for people and scripts: `/v1/invocations` and `/v1/queues`.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use wambda_control::events::{EventError, Known, Live, RedriveOrder};
use wambda_model::event::{Attempt, Ending, Letter, async_owner, dead_owner};
use wambda_model::invocation::Caller;
use wambda_model::limits::{IDEMPOTENCY_KEY_MAX, PAGE_MAX, PAYLOAD_BYTES_MAX};
use wambda_model::{Function, LATEST, RequestId};
use wambda_store::queues::{Message, PEEK_BODY_MAX, QueueInfo, Standing};

use crate::auth::{self, Who};
use crate::name::Named;
use crate::{Api, ApiError, Response, Surface, gateway, logs, reply};

/// Messages of one page.
const PEEK_DEFAULT: usize = 10;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl From<EventError> for ApiError {
    fn from(error: EventError) -> Self {
        match error {
            EventError::TooLarge { limit, size } => Self::too_large(limit, size),
            EventError::Full(what) => Self::queue_full(what),
            EventError::Failed(what) => {
                tracing::error!(what, "the queues have failed");
                Self::busy(
                    "the queues cannot be written or read now; what was asked for was not done, or not all of it",
                )
            }
            EventError::Invalid(what) => Self::invalid("InvalidParameter", what),
        }
    }
}

/// The key by which a sender marks copies of an event.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().ok().filter(|key| (1..=IDEMPOTENCY_KEY_MAX).contains(&key.len()));
    text.map(|key| Some(key.to_owned())).ok_or_else(|| {
        let message = format!(
            "Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_MAX} visible characters, got {} bytes",
            value.len()
        );
        ApiError::invalid("InvalidParameter", message)
    })
}

/// Keeps an event for a function; durable when it returns.
pub(crate) async fn accept(
    (api, peer): (&Api, SocketAddr),
    function: &Function,
    qualifier: Option<String>,
    event: Bytes,
    caller: Option<&Caller>,
    headers: &HeaderMap,
) -> Result<RequestId, ApiError> {
    let key = idempotency_key(headers)?;
    let size = event.len();
    let wanted = qualifier.as_deref().unwrap_or(LATEST);
    // The version that will run decides, by what is known now.
    if let Some(target) = function.resolve(wanted, || 1.0) {
        let (limit, size) = (target.version.config.payload_bytes, event.len() as u64);
        if size > limit {
            return Err(ApiError::too_large(limit, size));
        }
    }
    if function.latest.kind.is_http() {
        // Said now, and not found out later.
        let (event, name) = (event.clone(), function.name().clone());
        let read = move || gateway::request_from_event(&event, name.as_str()).map(drop);
        api.offload.work(peer, size, read).await??;
    }
    Ok(api.events.accept(function, qualifier, event, caller, key).await?)
}

/// The answer to an event that is kept.
pub(crate) fn accepted(id: RequestId) -> Response {
    let mut response =
        reply::json(StatusCode::ACCEPTED, &json!({"id": id.to_string(), "status": "queued"}));
    let headers = response.headers_mut();
    reply::put_id(headers, reply::REQUEST_ID, id);
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/invocations/{id}")) {
        headers.insert(LOCATION, place);
    }
    response
}

fn time(ms: u64) -> Value {
    if ms == 0 { Value::Null } else { logs::timestamp(ms).into() }
}

fn attempts(attempts: &[Attempt]) -> Value {
    let shown = attempts.iter().map(|attempt| {
        let error = attempt.error.as_ref();
        json!({
            "started": time(attempt.started_ms),
            "ended": time(attempt.ended_ms),
            "version": attempt.version,
            "error": error.map(|(kind, message)| json!({"type": kind, "message": message})),
        })
    });
    shown.collect()
}

/// `GET /v1/invocations/{id}`
pub(crate) async fn invocation(api: &Api, who: &Who, id: &str) -> Result<Response, ApiError> {
    let missing = || {
        let id: String = id.chars().take(64).collect();
        ApiError::nothing(
            "InvocationNotFound",
            format!("there is no asynchronous invocation {id:?}, or it was forgotten"),
        )
    };
    let parsed = RequestId::parse(id).ok_or_else(missing)?;
    // Ids cannot be guessed: that one is not there tells nothing.
    let known = api.events.find(parsed).await?.ok_or_else(missing)?;
    let (name, qualifier) = match &known {
        Known::Live(live) => (&live.envelope.function, &live.envelope.qualifier),
        Known::Ended { ending, .. } => (&ending.function, &ending.qualifier),
    };
    // Whoever may invoke a function may ask what became of it.
    let named = Named { name: name.clone(), qualifier: qualifier.clone() };
    let resource = named.qualified_arn(&api.identity);
    auth::authorize(Surface::Native, who, "lambda:InvokeFunction", &resource, None)?;
    let shown = match known {
        Known::Live(live) => live_json(parsed, &live),
        Known::Ended { ended_ms, ending } => ended_json(parsed, ended_ms, &ending),
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

fn live_json(id: RequestId, live: &Live) -> Value {
    let Live { message, envelope, history } = live;
    let status = match message.standing {
        Standing::Waiting => "queued",
        Standing::Retrying => "retrying",
        Standing::Leased => "running",
    };
    json!({
        "id": id.to_string(),
        "function": envelope.function.as_str(),
        "qualifier": envelope.qualifier,
        "status": status,
        "enqueued": time(message.enqueued_ms),
        "next_attempt": (message.standing == Standing::Retrying).then(|| time(message.due_ms)),
        "expires": time(message.expires_ms),
        "attempts": attempts(&history.attempts),
    })
}

fn ended_json(id: RequestId, ended_ms: u64, ending: &Ending) -> Value {
    let version = ending.attempts.last().map(|attempt| attempt.version.as_str());
    let mut shown = json!({
        "id": id.to_string(),
        "function": ending.function.as_str(),
        "qualifier": ending.qualifier,
        "version": version.filter(|version| !version.is_empty()),
        "status": ending.status.as_str(),
        "reason": ending.condition,
        "enqueued": time(ending.enqueued_ms),
        "ended": time(ended_ms),
        "attempts": attempts(&ending.attempts),
        "result_bytes": ending.result_bytes,
    });
    if let Some(shown) = shown.as_object_mut() {
        let result = ending.result.as_deref().map(RawValue::get);
        let result = result.and_then(|text| serde_json::from_str(text).ok());
        shown.insert("result".to_owned(), result.unwrap_or(Value::Null));
        if !ending.undelivered.is_empty() {
            shown.insert("undelivered".to_owned(), ending.undelivered.clone().into());
        }
    }
    shown
}

fn described(name: &str, info: &QueueInfo, now: u64) -> Value {
    let age = info.oldest_ms().map_or(0, |oldest| now.saturating_sub(oldest));
    let kind = match name.split_once(':') {
        Some(("async", _)) => "async",
        Some(("dead", _)) => "dead",
        _ => "queue",
    };
    json!({
        "name": name,
        "kind": kind,
        "depth": info.count(),
        "in_flight": info.leased(),
        "retrying": info.retrying(),
        "bytes": info.bytes(),
        "oldest_seconds": age as f64 / 1e3,
        "paused": info.is_paused(),
    })
}

/// What is asked of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    List,
    Describe,
    Messages,
    Redrive,
    Purge,
    Pause,
    Resume,
}

impl Ask {
    /// The method that it takes, and the action that a policy allows.
    fn wants(self) -> (Method, &'static str, &'static str) {
        match self {
            Self::List => (Method::GET, "GET", "sqs:ListQueues"),
            Self::Describe => (Method::GET, "GET", "sqs:GetQueueAttributes"),
            Self::Messages => (Method::GET, "GET", "sqs:ReceiveMessage"),
            Self::Redrive => (Method::POST, "POST", "sqs:StartMessageMoveTask"),
            Self::Purge => (Method::POST, "POST", "sqs:PurgeQueue"),
            Self::Pause | Self::Resume => (Method::POST, "POST", "sqs:SetQueueAttributes"),
        }
    }
}

/// Checks the method before anything is read.
pub(crate) fn check_method(ask: Ask, method: &Method) -> Result<(), ApiError> {
    let (wanted, allow, _) = ask.wants();
    let head = method == Method::HEAD && wanted == Method::GET;
    if *method == wanted || head { Ok(()) } else { Err(ApiError::no_method(method, allow)) }
}

/// `/v1/queues…`
pub(crate) async fn serve(
    api: &Api,
    who: &Who,
    ask: Ask,
    name: &str,
    query: &str,
) -> Result<Response, ApiError> {
    let wambda_control::Identity { region, account } = &api.identity;
    let (_, _, action) = ask.wants();
    let resource =
        format!("arn:aws:sqs:{region}:{account}:{}", if name.is_empty() { "*" } else { name });
    auth::authorize(Surface::Native, who, action, &resource, None)?;
    let (queues, now) = (api.events.queues(), api.events.queues().now_ms());
    if ask == Ask::List {
        no_parameters(query)?;
        let all: Vec<Value> =
            queues.infos().iter().map(|(name, info)| described(name, info, now)).collect();
        return Ok(reply::json(StatusCode::OK, &json!({"queues": all})));
    }
    // A function's queues are there with the function, empty or not.
    let is_known = queues.info(name).is_some() || belongs(api, name);
    if !is_known {
        let name: String = name.chars().take(100).collect();
        let message = format!("there is no queue {name:?}");
        return Err(ApiError::nothing("QueueNotFound", message));
    }
    match ask {
        Ask::Messages => messages(api, name, query).await,
        Ask::Redrive => redrive(api, name, query).await,
        Ask::Purge => {
            no_parameters(query)?;
            let purged = api.events.purge(name).await?;
            Ok(reply::json(StatusCode::OK, &json!({"purged": purged})))
        }
        Ask::Pause | Ask::Resume => {
            no_parameters(query)?;
            let paused = ask == Ask::Pause;
            queues.pause(name, paused).await.map_err(EventError::from)?;
            Ok(reply::json(StatusCode::OK, &json!({"name": name, "paused": paused})))
        }
        Ask::List | Ask::Describe => {
            no_parameters(query)?;
            let info = queues.info(name);
            let shown = info.as_deref().map(|info| described(name, info, now));
            let shown = shown.unwrap_or_else(|| described(name, &QueueInfo::default(), now));
            Ok(reply::json(StatusCode::OK, &shown))
        }
    }
}

fn belongs(api: &Api, queue: &str) -> bool {
    let owner = async_owner(queue).or_else(|| dead_owner(queue));
    owner.is_some_and(|(name, qualifier)| {
        let function = api.catalog.get(&name);
        let known = |f: &Function| f.resolve(qualifier.as_deref().unwrap_or(LATEST), || 1.0);
        function.is_some_and(|function| known(&function).is_some())
    })
}

fn unknown(key: &str, known: &str) -> ApiError {
    let key: String = key.chars().take(64).collect();
    ApiError::invalid("InvalidParameter", format!("unknown parameter {key:?}: {known}"))
}

fn no_parameters(query: &str) -> Result<(), ApiError> {
    match form_urlencoded::parse(query.as_bytes()).next() {
        Some((key, _)) => Err(unknown(&key, "this takes none")),
        None => Ok(()),
    }
}

fn wrong(what: String) -> ApiError {
    ApiError::invalid("InvalidParameter", what)
}

/// A place in a queue, as `next` tells it.
fn place_of(text: &str) -> Result<(u64, RequestId), ApiError> {
    let place = text.split_once('.');
    let place = place.and_then(|(at, id)| Some((at.parse().ok()?, RequestId::parse(id)?)));
    place.ok_or_else(|| wrong("after takes what next was".to_owned()))
}

fn id_of(text: &str) -> Result<RequestId, ApiError> {
    let shown: String = text.chars().take(64).collect();
    RequestId::parse(text).ok_or_else(|| wrong(format!("{shown:?} is not the id of a message")))
}

/// `GET /v1/queues/{name}/messages?limit=…&after=…`: looks without taking anything.
async fn messages(api: &Api, name: &str, query: &str) -> Result<Response, ApiError> {
    let (mut limit, mut after) = (PEEK_DEFAULT, None);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "limit" => {
                let valid = value.parse().ok().filter(|n| (1..=PAGE_MAX).contains(n));
                limit = valid.ok_or_else(|| {
                    wrong(format!("limit must be 1 to {PAGE_MAX}, got {value:?}"))
                })?;
            }
            "after" => after = Some(place_of(&value)?),
            other => return Err(unknown(other, "known are limit and after")),
        }
    }
    let found = api.events.queues().peek(name, after, limit + 1).await.map_err(EventError::from)?;
    let place = |m: &Message| format!("{}.{}", m.expires_ms, m.id);
    let (mut shown, mut size) = (Vec::new(), 0);
    for found in found.iter().take(limit) {
        let message = message(found);
        let body = message.get("body").and_then(Value::as_str);
        size += body.map_or(0, gateway::escaped_len);
        if size as u64 > PAYLOAD_BYTES_MAX && !shown.is_empty() {
            break;
        }
        shown.push(message);
    }
    let last = shown.len().checked_sub(1).filter(|_| found.len() > shown.len());
    let next = last.map(|last| found.get(last).map(place));
    Ok(reply::json(StatusCode::OK, &json!({"messages": shown, "next": next.flatten()})))
}

fn message(message: &Message) -> Value {
    let standing = match message.standing {
        Standing::Waiting => "queued",
        Standing::Retrying => "retrying",
        Standing::Leased => "running",
    };
    let mut shown = json!({
        "id": message.id.to_string(),
        "status": standing,
        "enqueued": time(message.enqueued_ms),
        "due": time(message.due_ms),
        "expires": time(message.expires_ms),
        "attempts": message.attempt,
        "bytes": message.body_bytes,
        "body": String::from_utf8_lossy(&message.body),
        "is_cut": message.body_bytes > PEEK_BODY_MAX as u64,
    });
    if let (true, Some(shown)) = (message.is_damaged, shown.as_object_mut()) {
        shown.insert("damaged".to_owned(), true.into());
    }
    let letter = serde_json::from_slice::<Letter>(&message.note).ok();
    if let (Some(letter), Some(shown)) = (letter, shown.as_object_mut()) {
        let mut more = Map::new();
        more.insert("reason".to_owned(), letter.condition.into());
        more.insert("attempts".to_owned(), letter.attempts.into());
        if let Some((kind, text)) = letter.error {
            more.insert("error".to_owned(), json!({"type": kind, "message": text}));
        }
        shown.extend(more);
    }
    shown
}

/// `POST /v1/queues/{name}/redrive?id=…&rate=…`
async fn redrive(api: &Api, name: &str, query: &str) -> Result<Response, ApiError> {
    let (mut ids, mut rate) = (Vec::new(), None);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "id" => ids.push(id_of(&value)?),
            "rate" => {
                let number =
                    value.parse::<f64>().ok().filter(|rate| *rate > 0.0 && rate.is_finite());
                rate = Some(number.ok_or_else(|| {
                    wrong(format!("rate takes messages a second, more than 0, got {value:?}"))
                })?);
            }
            other => {
                return Err(unknown(other, "known are id, more than once if need be, and rate"));
            }
        }
    }
    let asked = ids.len();
    let order = RedriveOrder { ids: (asked > 0).then_some(ids), rate };
    let moved = api.events.redrive(name, order).await?;
    if asked > 0 && moved.is_empty() {
        return Err(ApiError::nothing(
            "MessageNotFound",
            "there are no such messages in the queue",
        ));
    }
    let shown: Vec<Value> = moved
        .iter()
        .take(PAGE_MAX)
        .map(|(old, new)| json!({"id": old.to_string(), "new_id": new.to_string()}))
        .collect();
    Ok(reply::json(StatusCode::OK, &json!({"redriven": moved.len(), "messages": shown})))
}
