//! The native API, `/v1`: what curl users type. docs in `/openapi.json`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use wambda_control::Upload;
use wambda_model::config::InvalidConfig;
use wambda_model::invocation::Caller;
use wambda_model::limits::{
    EVENT_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX, PAYLOAD_BYTES_MAX, POLICY_ACTION_BYTES_MAX,
    POLICY_TEXT_BYTES_MAX,
};
use wambda_model::scaling::ScalingReport;
use wambda_model::{
    Draft, Function, FunctionError, FunctionName, Invocation, Invoke, InvokeError, Outcome,
    Payload, Permit, Reply, RequestId, Version, clock,
};

use crate::body::Whole;
use crate::name::Named;
use crate::room::{self, NotWhole, Share};
use crate::{
    Api, ApiError, Request, Response, Surface, auth, body, gateway, lambda, logs, query, queues,
    reply,
};

pub(crate) fn version_of(api: &Api, name: &FunctionName) -> Result<Arc<Version>, ApiError> {
    api.catalog.latest(name).ok_or_else(|| ApiError::no_function(name))
}

/// Whether a query sets what can be set.
pub(crate) fn check_query(query: &str) -> Result<(), ApiError> {
    Ok(query::apply(query, &mut wambda_model::Draft::default())?)
}

/// Whether events can go where they are to go.
fn check_destinations(
    identity: &wambda_control::Identity,
    draft: &Draft,
    of: &FunctionName,
) -> Result<(), InvalidConfig> {
    let arns = [&draft.events.on_success, &draft.events.on_failure];
    for arn in arns.into_iter().filter(|arn| !arn.is_empty()) {
        let checked = lambda::events::check_destination(identity, arn, of);
        checked.map_err(|error| InvalidConfig(error.message().to_owned()))?;
    }
    let checked = lambda::events::check_dead_letters(identity, &draft.attributes.dead_letter_arn);
    checked.map_err(|error| InvalidConfig(error.message().to_owned()))
}

/// What a query's parameters do, besides new code, in the words of policies.
pub(crate) fn actions(query: &str) -> BTreeSet<&'static str> {
    let names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    let actions = names.map(|name| match &*name {
        "concurrency" => "lambda:PutFunctionConcurrency",
        "provisioned" => "lambda:PutProvisionedConcurrencyConfig",
        "retries" | "event_age" | "on_success" | "on_failure" => {
            "lambda:PutFunctionEventInvokeConfig"
        }
        _ => "lambda:UpdateFunctionConfiguration",
    });
    actions.collect()
}

/// The ARN of the execution role that a query sets, if `who` may hand it on; empty for none.
fn role(api: &Api, who: &auth::Who, query: &str) -> Result<Option<String>, ApiError> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let Some((_, role)) = pairs.find(|(name, _)| name == "role") else { return Ok(None) };
    if role.is_empty() {
        return Ok(Some(String::new()));
    }
    let role = match role.starts_with("arn:") {
        true => role.into_owned(),
        false => format!("arn:aws:iam::{}:role/{role}", api.identity.account),
    };
    if api.auth.directories.current().role_of(&role).is_none() {
        return Err(ApiError::invalid("InvalidParameter", format!("there is no role {role:?}")));
    }
    lambda::update::check_role(api, who, &role)?;
    Ok(Some(role))
}

/// `PUT /v1/functions/{name}`
pub(crate) async fn publish(
    api: &Api,
    who: &auth::Who,
    name: &FunctionName,
    query: &str,
    upload: Whole,
) -> Result<Response, ApiError> {
    let (query, role) = (query.to_owned(), role(api, who, query)?);
    let (identity, of) = (api.identity.clone(), name.clone());
    let change = Arc::new(move |draft: &mut Draft| {
        query::apply(&query, draft)?;
        if let Some(role) = &role {
            role.clone_into(&mut draft.attributes.role);
        }
        check_destinations(&identity, draft, &of)
    });
    let upload =
        Upload { bytes: upload.into_bytes(), publish: None, revision_id: None, by: who.uploader() };
    let published = api.functions.publish(name, upload, change).await?;
    let status = if published.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(reply::json(status, &description(&published.version)))
}

/// `GET /v1/functions/{name}`
pub(crate) fn describe(api: &Api, name: &FunctionName) -> Result<Response, ApiError> {
    Ok(reply::json(StatusCode::OK, &description(&*version_of(api, name)?)))
}

/// `DELETE /v1/functions/{name}`
pub(crate) async fn delete(api: &Api, name: &FunctionName) -> Result<Response, ApiError> {
    if !api.functions.delete(name).await? {
        return Err(ApiError::no_function(name));
    }
    Ok(reply::bytes(StatusCode::NO_CONTENT, Bytes::new()))
}

/// `GET /v1/functions?limit=…&after=…`
pub(crate) fn list(api: &Api, query: Option<&str>) -> Result<Response, ApiError> {
    let (mut limit, mut after) = (PAGE_DEFAULT, None);
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let wrong = |what: String| ApiError::invalid("InvalidParameter", what);
        match &*key {
            "limit" => {
                let valid = value.parse().ok().filter(|n| (1..=PAGE_MAX).contains(n));
                limit = valid.ok_or_else(|| {
                    wrong(format!("limit must be 1 to {PAGE_MAX}, got {value:?}"))
                })?;
            }
            "after" => after = Some(FunctionName::new(&value).map_err(|e| wrong(e.to_string()))?),
            other => {
                return Err(wrong(format!(
                    "unknown parameter {other:?}: known are limit and after"
                )));
            }
        }
    }
    let catalog = api.catalog.load();
    let mut page: Vec<&Arc<Version>> =
        catalog.page(after.as_ref(), limit + 1).map(|function| &function.latest).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| more).map(|version| version.name.as_str());
    let functions: Vec<Value> = page.iter().map(|version| description(version)).collect();
    Ok(reply::json(StatusCode::OK, &json!({"functions": functions, "next": next})))
}

/// `GET /v1/functions/{name}/scaling`
pub(crate) fn scaling(api: &Api, name: &FunctionName) -> Result<Response, ApiError> {
    let version = version_of(api, name)?;
    let report = api.invoke.scaling(&version);
    let shown = scaling_json(&version, &report, api.functions.concurrency().0);
    Ok(reply::json(StatusCode::OK, &shown))
}

/// `GET /v1/functions/{name}/grants?action=…&resource=…` or `?host=…&port=…`: whether the function's
/// execution role lets its instances do that.
pub(crate) fn grants(api: &Api, name: &FunctionName, query: &str) -> Result<Response, ApiError> {
    let version = version_of(api, name)?;
    let (mut action, mut resource, mut host, mut port) = (None, None, None, 443u16);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let wrong = |what: String| ApiError::invalid("InvalidParameter", what);
        match &*key {
            "action" => action = Some(value.into_owned()),
            "resource" => resource = Some(value.into_owned()),
            "host" => host = Some(value.into_owned()),
            "port" => {
                let parsed = value.parse();
                port =
                    parsed.map_err(|_| wrong(format!("port takes 0 to 65535, got {value:?}")))?;
            }
            other => {
                return Err(wrong(format!(
                    "unknown parameter {other:?}: known are action and resource, or host and port"
                )));
            }
        }
    }
    let resource_bytes = resource.as_ref().or(host.as_ref()).map_or(0, String::len);
    let action_bytes = action.as_ref().map_or(0, String::len);
    for (what, bytes, most) in [
        ("action", action_bytes, POLICY_ACTION_BYTES_MAX),
        ("resource", resource_bytes, POLICY_TEXT_BYTES_MAX),
    ] {
        if bytes > most {
            let what = format!("{what} takes at most {most} bytes, got {bytes}");
            return Err(ApiError::invalid("InvalidParameter", what));
        }
    }
    let (granted, now_s) = (version.grants.load(), clock::unix_ms() / 1_000);
    let (action, resource, allowed) = match (host, action, resource) {
        (Some(host), None, None) => {
            let resource = wambda_policy::grants::host_arn(&host, port);
            (
                wambda_policy::grants::CONNECT.to_owned(),
                resource,
                granted.allow_host(&host, port, now_s),
            )
        }
        (None, Some(action), Some(resource)) => {
            let allowed = granted.allow(&action, &resource, now_s);
            (action, resource, allowed)
        }
        _ => {
            let what = "give action and resource, or host and port";
            return Err(ApiError::invalid("InvalidParameter", what));
        }
    };
    let shown = json!({
        "function": name.as_str(),
        "role": version.attributes.role,
        "action": action,
        "resource": resource,
        "allowed": allowed,
    });
    Ok(reply::json(StatusCode::OK, &shown))
}

fn scaling_json(version: &Version, report: &ScalingReport, account: u32) -> Value {
    let decisions: Vec<Value> = report
        .decisions
        .iter()
        .map(|d| {
            let time = logs::timestamp(d.unix_ms);
            json!({"time": time, "from": d.from, "to": d.to, "reason": d.reason.as_str()})
        })
        .collect();
    json!({
        "function": version.name.as_str(),
        "instances": {
            "busy": report.instances.busy,
            "warm": report.instances.warm,
            "prewarmed": report.instances.prewarmed,
        },
        "desired": report.desired,
        "min": version.provisioned.load(Relaxed),
        "max": concurrency(version).unwrap_or(account),
        "running": report.running,
        "queue": {
            "depth": report.queued,
            "bytes": report.queued_bytes,
            "oldest_ms": report.oldest_ms,
            "max": version.config.queue,
        },
        "events": {"waiting": report.deferred, "error_ratio": report.error_ratio},
        "keep_alive_ms": report.keep_alive_ms,
        "arrivals_per_second": report.arrival_rate,
        "service_ms": report.service_ms,
        "cpu_ms": report.cpu_ms,
        "starved": report.starved,
        "decisions": decisions,
    })
}

/// Concurrency that is the function's alone, what is provisioned included.
fn concurrency(version: &Version) -> Option<u32> {
    let share = &version.share;
    let kept = version.provisioned.load(Relaxed);
    share.is_reserved().then(|| share.current().limit().saturating_add(kept))
}

/// A function, for people and scripts. Environment values are not shown, their names are.
fn description(version: &Version) -> Value {
    let config = &version.config;
    json!({
        "name": version.name.as_str(),
        "arn": &*version.arn,
        "kind": version.kind.as_str(),
        "version": &*version.label,
        "revision": version.revision,
        "sha256": version.digest.to_string(),
        "size": version.code_bytes,
        "imports": version.imports,
        "published": logs::timestamp(version.published_ms),
        "compile_ms": version.compile_ms,
        "config": {
            "memory": ratio(config.memory_bytes, 1 << 20),
            "timeout": ratio(config.timeout_ms, 1_000),
            "cpu": ratio(config.cpu_ms.unwrap_or(config.timeout_ms), 1_000),
            "payload": config.payload_bytes,
            "logs": config.log_bytes,
            "concurrency": concurrency(version),
            "provisioned": version.provisioned.load(Relaxed),
            "queue": config.queue,
            "reuse": match version.reuse {
                wambda_model::Reuse::Warm => "warm",
                wambda_model::Reuse::Fresh => "fresh",
            },
            "role": version.attributes.role,
            "env": config.env.keys().collect::<Vec<_>>(),
        },
    })
}

/// A quotient as JSON: whole where it is.
fn ratio(value: u64, unit: u64) -> Value {
    if value.is_multiple_of(unit) { json!(value / unit) } else { json!(value as f64 / unit as f64) }
}

/// The answer to an invocation of a function that is not there: strangers prove who they are first.
pub(crate) async fn refuse(
    api: &Api,
    name: &FunctionName,
    request: Request,
    peer: SocketAddr,
) -> ApiError {
    let missing = ApiError::no_function(name);
    if !api.auth.asks(request.extensions()) {
        return missing;
    }
    let (parts, incoming) = request.into_parts();
    let body = (incoming, PAYLOAD_BYTES_MAX);
    match auth::receive(api, Surface::Native, &parts, body, peer).await {
        Err(error) => error,
        Ok((_, who)) => authorize(api, &who, name, None).err().unwrap_or(missing),
    }
}

/// Whether `who` may invoke the function of that name.
fn authorize(
    api: &Api,
    who: &auth::Who,
    name: &FunctionName,
    function: Option<&Function>,
) -> Result<(), ApiError> {
    let named = Named { name: name.clone(), qualifier: None };
    lambda::invoke::authorize(api, who, &named, function)
}

/// `POST /v1/functions/{name}/invoke`
pub(crate) async fn invoke(
    api: &Api,
    function: Arc<Function>,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let is_event = is_event(request.uri().query().unwrap_or_default())?;
    let (parts, incoming) = request.into_parts();
    // Strangers learn nothing of a function, its limits included.
    let asks = api.auth.asks(&parts.extensions);
    let own = (!asks).then_some(function.latest.config.payload_bytes);
    let limit = own.unwrap_or(PAYLOAD_BYTES_MAX);
    let limit = if is_event { limit.min(EVENT_BYTES_MAX) } else { limit };
    let (event, stranger) = if asks {
        let body = (incoming, limit);
        let received = Box::pin(auth::receive(api, Surface::Native, &parts, body, peer));
        let (event, who) = received.await?;
        authorize(api, &who, function.name(), Some(&function))?;
        (event, Some(who))
    } else {
        (body::read(&api.room, peer, incoming, limit).await?, None)
    };
    let version = &function.latest;
    lambda::invoke::is_ready(&function, version)?;
    let chain = lambda::invoke::chain(&parts.headers, &function)?;
    if is_event {
        let identity = stranger.map(|who| Arc::from(who.arn()));
        let known = identity.is_some() || chain.trace.is_some();
        let caller = known.then_some(Caller { identity, ..chain });
        let (bytes, headers) = (event.into_bytes(), &parts.headers);
        let accepted =
            queues::accept((api, peer), &function, None, bytes, caller.as_ref(), headers);
        return Ok(queues::accepted(Box::pin(accepted).await?));
    }
    let mut invocation = Invocation::new(Payload::Event(event.into_bytes()));
    if chain.trace.is_some() {
        invocation.caller = Some(Box::new(chain));
    }
    let id = invocation.id;
    let outcome = run((api, peer), version, invocation).await?;
    let Outcome { result, report, .. } = outcome;
    let mut response = match result {
        Ok(Reply::Event(bytes)) => reply::result(StatusCode::OK, bytes),
        Ok(Reply::Http(_)) => return Err(ApiError::internal("a streamed reply to an event")),
        Err(error) => failed(id, &error),
    };
    reply::report_headers(response.headers_mut(), id, &report);
    Ok(response)
}

/// The answer of a function that failed.
fn failed(id: RequestId, error: &FunctionError) -> Response {
    let status = match error.kill {
        Some(wambda_model::KillReason::Timeout) => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = reply::result(status, error.to_json(id));
    reply::error_header(response.headers_mut(), error);
    response
}

/// Whether the caller does not wait for the answer.
fn is_event(query: &str) -> Result<bool, ApiError> {
    let mut is_event = false;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*key, &*value) {
            ("mode", "sync") => is_event = false,
            ("mode", "event") => is_event = true,
            (key, value) => {
                let message =
                    format!("unknown parameter {key}={value}: known are mode=sync and mode=event");
                return Err(ApiError::invalid("InvalidParameter", message));
            }
        }
    }
    Ok(is_event)
}

/// Runs an event on a function of any kind: for the http kinds it is an API Gateway event, and
/// translated both ways.
pub(crate) async fn run(
    (api, peer): (&Api, SocketAddr),
    version: &Arc<Version>,
    invocation: Invocation,
) -> Result<Outcome, ApiError> {
    if !version.kind.is_http() {
        return Ok(api.invoke.invoke(version, invocation).await?);
    }
    Box::pin(run_http((api, peer), version, invocation)).await
}

async fn run_http(
    (api, peer): (&Api, SocketAddr),
    version: &Arc<Version>,
    invocation: Invocation,
) -> Result<Outcome, ApiError> {
    let (to, limit) = (Arc::clone(version), version.config.payload_bytes);
    let size = usize::try_from(invocation.payload.waiting_bytes()).unwrap_or(usize::MAX);
    let read = move || as_http(&to, invocation);
    let invocation = api.offload.read_values(peer, size, read).await??;
    let Outcome { result, version, report } = api.invoke.invoke(version, invocation).await?;
    let whole = match whole_in_room((api, peer), result, limit).await {
        Err(NotWhole::Room(error)) => return Err(error),
        Err(NotWhole::Function(error)) => Err(error),
        Ok(whole) => Ok(whole),
    };
    let size = whole.as_ref().map_or(0, |(response, _)| response.body().len());
    let write = move || {
        // What it is made of has its part of the room until it is made.
        let (response, _share) = whole?;
        gateway::event_from_response(response, limit).map(Reply::Event)
    };
    let result = api.offload.work(peer, size, write).await?;
    Ok(Outcome { result, version, report })
}

/// The event of an invocation as a request.
fn as_http(version: &Version, invocation: Invocation) -> Result<Invocation, ApiError> {
    let Invocation { id, payload, caller, attempt } = invocation;
    let Payload::Event(event) = payload else {
        return Err(ApiError::internal("an http payload where an event was expected"));
    };
    let request = gateway::request_from_event(&event, version.name.as_str())?;
    Ok(Invocation { id, payload: Payload::Http(request), caller, attempt })
}

/// The same, with its part of the room for responses.
async fn whole_in_room(
    (api, peer): (&Api, SocketAddr),
    result: Result<Reply, FunctionError>,
    limit: u64,
) -> Result<(http::Response<Bytes>, Share), NotWhole> {
    let (parts, body) = response_of(result)?.into_parts();
    let (bytes, share) = room::collect((&api.responses, peer.ip()), body, limit).await?;
    Ok((http::Response::from_parts(parts, bytes), share))
}

/// The whole response of a function that speaks HTTP.
async fn whole_of(
    result: Result<Reply, FunctionError>,
    limit: u64,
) -> Result<http::Response<Bytes>, FunctionError> {
    gateway::whole_response(response_of(result)?, limit).await
}

fn response_of(result: Result<Reply, FunctionError>) -> Result<Response, FunctionError> {
    match result? {
        Reply::Http(response) => Ok(response),
        Reply::Event(_) => {
            let why = "a result where a response was expected".to_owned();
            Err(FunctionError::returned("Runtime.InvalidResponse", why, Vec::new()))
        }
    }
}

/// Runs an event on a permit, on a function of any kind.
///
/// # Errors
/// What [`Invoke::run`] says; [`InvokeError::InvalidRequest`] for an event that is no request, of a
/// function that speaks HTTP.
pub async fn run_deferred(
    invoke: Arc<dyn Invoke>,
    version: Arc<Version>,
    invocation: Invocation,
    permit: Permit,
) -> Result<Outcome, InvokeError> {
    if !version.kind.is_http() {
        return invoke.run(&version, invocation, permit).await;
    }
    let invalid = |error: ApiError| InvokeError::InvalidRequest(error.message().to_owned());
    let limit = version.config.payload_bytes;
    let invocation = as_http(&version, invocation).map_err(invalid)?;
    let Outcome { result, version, report } = invoke.run(&version, invocation, permit).await?;
    // Events are run on the long-run threads: what is large is written here.
    let whole = whole_of(result, limit).await;
    let result =
        whole.and_then(|response| gateway::event_from_response(response, limit)).map(Reply::Event);
    Ok(Outcome { result, version, report })
}
