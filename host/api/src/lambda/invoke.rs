//! `Invoke`: `POST /2015-03-31/functions/{FunctionName}/invocations`. The one operation on the hot
//! path: by hand, and not by the generated tables.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::StatusCode;
use http::header::{AsHeaderName, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use serde::de::IgnoredAny;
use wambda_model::function::State;
use wambda_model::invocation::Caller;
use wambda_model::limits::{
    CLIENT_CONTEXT_BYTES_MAX, EVENT_BYTES_MAX, LOG_TAIL_BYTES, PAYLOAD_BYTES_MAX,
};
use wambda_model::{
    Alias, Function, Invocation, Outcome, Payload, Reply, RequestId, Target, Version, clock,
    lineage,
};

use crate::auth::{self, Who};
use crate::name::{self, Named};
use crate::{Api, ApiError, Request, Response, Surface, native, queues, reply};

const TRACE: HeaderName = HeaderName::from_static(lineage::HEADER);
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
pub(crate) const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");

/// What the invocation-type header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InvocationType {
    RequestResponse,
    Event,
    DryRun,
}

/// An invocation that may go ahead.
pub(crate) struct Admitted {
    pub(crate) function: Arc<Function>,
    /// As it was invoked.
    pub(crate) qualifier: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) target: Target,
    pub(crate) invocation: Invocation,
    pub(crate) kind: InvocationType,
    pub(crate) wants_tail: bool,
}

/// Reads, authenticates and authorizes an invocation by AWS's API.
pub(crate) async fn admit(
    api: &Api,
    function: &str,
    request: Request,
    peer: SocketAddr,
) -> Result<Admitted, ApiError> {
    let named = named(api, function, request.uri().query())?;
    let (parts, incoming) = request.into_parts();
    let missing = || {
        let qualifier = named.or_latest();
        ApiError::no_function(format!("{}:{qualifier}", named.arn(&api.identity)))
    };
    let function = api.catalog.get(&named.name);
    let target = function.as_ref().and_then(|f| f.resolve(named.or_latest(), fastrand::f64));
    let limit = target.as_ref().map(|target| target.version.config.payload_bytes);
    // Strangers learn nothing about functions, their limits included, before they have proved who
    // they are; the function's limit is looked at again where it is invoked.
    let limit = match (api.auth.asks(&parts.extensions), limit) {
        (true, _) => PAYLOAD_BYTES_MAX,
        (false, limit) => limit.ok_or_else(missing)?,
    };
    let kind = invocation_type(&parts.headers)?;
    let limit = if kind == InvocationType::Event { limit.min(EVENT_BYTES_MAX) } else { limit };
    let (whole, who) = auth::receive(api, Surface::Lambda, &parts, (incoming, limit), peer).await?;
    authorize(api, &who, &named, function.as_deref())?;
    let (function, target) = function.zip(target).ok_or_else(missing)?;
    let wants_tail = wants_tail(&parts.headers)?;
    is_ready(&function, &target.version)?;
    let event = whole.into_bytes();
    let event = if event.is_empty() { Bytes::from_static(b"{}") } else { event };
    let checked = event.clone();
    api.offload.work(peer, event.len(), move || check_json(&checked)).await??;
    let mut invocation = Invocation::new(Payload::Event(event));
    let caller = caller(api, &parts, &who, &named, &function)?;
    invocation.caller = caller.map(Box::new);
    let qualifier = named.qualifier.clone();
    let headers = parts.headers;
    Ok(Admitted { function, qualifier, headers, target, invocation, kind, wants_tail })
}

pub(crate) async fn invoke(
    api: &Api,
    function: &str,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let admitted = admit(api, function, request, peer).await?;
    if admitted.kind == InvocationType::Event {
        return defer((api, peer), admitted).await;
    }
    let Admitted { target, invocation, kind, wants_tail, .. } = admitted;
    if kind == InvocationType::DryRun {
        return Ok(dry());
    }
    let (id, by) = (invocation.id, invocation.deadline());
    let outcome = native::run((api, peer), &target.version, invocation).await?;
    watch(target.alias.as_deref(), &outcome, by);
    let tail = wants_tail.then(|| target.version.logs.tail(id, LOG_TAIL_BYTES));
    answer(outcome, id, tail)
}

/// Keeps an event for later: 202 when it is durable.
async fn defer((api, peer): (&Api, SocketAddr), admitted: Admitted) -> Result<Response, ApiError> {
    let Admitted { function, qualifier, headers, invocation, .. } = admitted;
    let Payload::Event(event) = invocation.payload else {
        return Err(ApiError::internal("an http payload where an event was expected"));
    };
    let caller = invocation.caller.as_deref();
    let id = queues::accept((api, peer), &function, qualifier, event, caller, &headers).await?;
    let mut response = reply::bytes(StatusCode::ACCEPTED, Bytes::new());
    reply::put_id(response.headers_mut(), reply::AWS_REQUEST_ID, id);
    Ok(response)
}

/// The answer to an invocation that would have gone ahead.
pub(crate) fn dry() -> Response {
    let mut response = reply::bytes(StatusCode::NO_CONTENT, Bytes::new());
    reply::put_id(response.headers_mut(), reply::AWS_REQUEST_ID, RequestId::random());
    response
}

/// The function, by the path and the query.
fn named(api: &Api, function: &str, query: Option<&str>) -> Result<Named, ApiError> {
    let mut qualifier = None;
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if key == "Qualifier" && !value.is_empty() {
            qualifier = Some(value.into_owned());
        }
    }
    let function = percent_encoding::percent_decode_str(function).decode_utf8_lossy();
    name::read(&api.identity, &function, qualifier.as_deref())
}

/// Whether the caller may invoke: by its own policies, or the function's.
pub(crate) fn authorize(
    api: &Api,
    who: &Who,
    named: &Named,
    function: Option<&Function>,
) -> Result<(), ApiError> {
    if who.trusted {
        return Ok(());
    }
    let policy = function.and_then(|f| f.details.policies.get(named.or_latest()));
    let policy = policy.and_then(wambda_policy::ResourcePolicy::policy);
    let resource = named.qualified_arn(&api.identity);
    auth::authorize(Surface::Lambda, who, "lambda:InvokeFunction", &resource, policy)
}

/// Whether the version can run.
pub(crate) fn is_ready(function: &Function, version: &Version) -> Result<(), ApiError> {
    if version.number.is_some() {
        return Ok(());
    }
    let state = match &function.details.state {
        State::Active => return Ok(()),
        State::Pending => "Pending",
        State::Failed(_) => "Failed",
    };
    let message = format!(
        "The operation cannot be performed at this time. The function is currently in the following state: {state}"
    );
    Err(ApiError::lambda("ResourceConflictException", message))
}

/// Tells an alias's rollback rule how its version did; not of a failure after `by`, when its caller's time was over: that
/// tells nothing of the version.
pub(crate) fn watch(alias: Option<&Alias>, outcome: &Outcome, by: Option<Instant>) {
    let Some(alias) = alias.filter(|alias| alias.rollback.is_some()) else { return };
    let (version, failed) = (&outcome.version, outcome.result.is_err());
    if !failed || by.is_none_or(|by| clock::now() < by) {
        alias.watch.note(&version.label, clock::unix_ms(), failed, outcome.report.duration);
    }
}

fn check_json(event: &[u8]) -> Result<(), ApiError> {
    let wrong = |error: &dyn std::fmt::Display| {
        ApiError::invalid_content(format!("Could not parse request body into json: {error}"))
    };
    // Skipping over a value does not check its text.
    let text = std::str::from_utf8(event).map_err(|e| wrong(&e))?;
    serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(|e| wrong(&e))
}

fn answer(outcome: Outcome, id: RequestId, tail: Option<Vec<u8>>) -> Result<Response, ApiError> {
    let Outcome { result, version, .. } = outcome;
    let mut response = match result {
        Ok(Reply::Event(bytes)) => {
            let nothing = bytes.is_empty();
            reply::bytes(StatusCode::OK, if nothing { Bytes::from_static(b"null") } else { bytes })
        }
        Ok(Reply::Http(_)) => return Err(ApiError::internal("a streamed reply to an event")),
        Err(error) => {
            let mut response = reply::bytes(StatusCode::OK, error.to_json(id));
            response.headers_mut().insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, reply::JSON);
    reply::put_id(headers, reply::AWS_REQUEST_ID, id);
    if let Ok(label) = HeaderValue::from_str(&version.label) {
        headers.insert(EXECUTED_VERSION, label);
    }
    if let Some(Ok(tail)) = tail.map(|tail| HeaderValue::from_str(&BASE64.encode(tail))) {
        headers.insert(LOG_RESULT, tail);
    }
    Ok(response)
}

fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub(crate) fn unknown_value(member: &str, value: &str, known: &str) -> ApiError {
    let value: String = value.chars().take(200).collect();
    let message = format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: \
         Member must satisfy enum value set: [{known}]"
    );
    ApiError::lambda("ValidationException", message)
}

fn invocation_type(headers: &HeaderMap) -> Result<InvocationType, ApiError> {
    match text(headers, "x-amz-invocation-type") {
        None | Some("" | "RequestResponse") => Ok(InvocationType::RequestResponse),
        Some("Event") => Ok(InvocationType::Event),
        Some("DryRun") => Ok(InvocationType::DryRun),
        Some(other) => {
            Err(unknown_value("invocationType", other, "Event, RequestResponse, DryRun"))
        }
    }
}

fn wants_tail(headers: &HeaderMap) -> Result<bool, ApiError> {
    match text(headers, "x-amz-log-type") {
        Some("Tail") => Ok(true),
        None | Some("" | "None") => Ok(false),
        Some(other) => Err(unknown_value("logType", other, "None, Tail")),
    }
}

/// What the caller passes along; none when it is nothing.
fn caller(
    api: &Api,
    parts: &Parts,
    who: &Who,
    named: &Named,
    function: &Function,
) -> Result<Option<Caller>, ApiError> {
    let client_context = match text(&parts.headers, "x-amz-client-context") {
        Some(encoded) => Some(client_context(encoded)?),
        None => None,
    };
    let chain = chain(&parts.headers, function)?;
    let identity = (!who.trusted).then(|| Arc::from(who.arn()));
    let invoked_arn = named.qualifier.is_some();
    let invoked_arn = invoked_arn.then(|| Arc::from(named.qualified_arn(&api.identity)));
    let nothing = client_context.is_none() && chain.trace.is_none() && identity.is_none();
    if nothing && invoked_arn.is_none() {
        return Ok(None);
    }
    Ok(Some(Caller { identity, client_context, invoked_arn, ..chain }))
}

/// Who calls, as far as the trace header tells: what the call has come through, one more pass through the function
/// counted, and when it has to have ended. Refused when it has come through so often that it must be a loop.
pub(crate) fn chain(headers: &HeaderMap, function: &Function) -> Result<Caller, ApiError> {
    let Some(trace) = text(headers, TRACE) else { return Ok(Caller::default()) };
    let passed = lineage::pass(trace, function.name(), function.details.allows_recursion);
    let passed = passed
        .map_err(|error| ApiError::lambda("RecursiveInvocationException", error.to_string()))?;
    let deadline = lineage::deadline(trace);
    Ok(Caller { trace: Some(passed.into()), deadline, ..Caller::default() })
}

fn client_context(encoded: &str) -> Result<Arc<str>, ApiError> {
    let (limit, size) = (CLIENT_CONTEXT_BYTES_MAX, encoded.len());
    if size > limit {
        let message = format!("Client context must be at most {limit} bytes of base64, got {size}");
        return Err(ApiError::invalid_content(message));
    }
    let decoded = BASE64.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let json = decoded.filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let message = "Client context must be a valid Base64-encoded JSON object.";
    json.map(Arc::from).ok_or_else(|| ApiError::invalid_content(message))
}
