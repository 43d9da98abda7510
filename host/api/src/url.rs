//! Functions as HTTP endpoints: `/fn/{name}[:{qualifier}]/{path…}`, and `{url-id}.lambda-url.…` by
//! `Host`. The http kinds get the request itself, streamed both ways; the others get it as an API
//! Gateway event.
//!
//! By `Host`, a function has the URL configuration of Lambda's API: who may call, cross-origin
//! answers, buffered or streamed. By path it is Wambda's own, for whoever may invoke.

pub mod cors;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use wambda_model::function::{UrlAuth, UrlConfig};
use wambda_model::invocation::Caller;
use wambda_model::limits::{INLINE_WORK_BYTES_MAX, STREAM_BYTES_MAX};
use wambda_model::{
    BodyError, Function, FunctionError, FunctionName, Invocation, KillReason, LATEST, Outcome,
    Payload, Reply, RequestId, Target, clock,
};
use wambda_policy::{Decision, Value as Fact};

use crate::auth::{self, Who};
use crate::gateway::{self, Origin};
use crate::lambda::invoke;
use crate::name::Named;
use crate::room::{self, NotWhole};
use crate::{Api, ApiError, Request, Response, Surface, body, reply};

/// How a function was reached.
struct Door<'a> {
    function: Arc<Function>,
    target: Target,
    named: Named,
    /// The URL's configuration, when it was reached by one, or has one that counts.
    config: Option<&'a UrlConfig>,
    /// Whether answers are in the words of Lambda's URLs, or in Wambda's own.
    by_host: bool,
}

/// The id of a function URL, when `Host` names one.
pub(crate) fn url_id(request: &Request) -> Option<String> {
    request.headers().get(HOST).and_then(id_of_host)
}

/// The id of a function URL in a host.
pub(crate) fn id_of_host(host: &HeaderValue) -> Option<String> {
    let host = host.as_bytes();
    let dot = host.iter().position(|byte| *byte == b'.')?;
    let (id, rest) = host.split_at_checked(dot)?;
    let is_url = rest.starts_with(b".lambda-url.") && !id.is_empty();
    is_url.then(|| std::str::from_utf8(id).ok().map(str::to_ascii_lowercase))?
}

/// Answers a request to `{url-id}.lambda-url.…`.
pub(crate) async fn serve_host(
    api: &Api,
    id: &str,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let found = api.catalog.load().url(id).cloned();
    let (name, qualifier) = found.ok_or_else(forbidden)?;
    let function = api.catalog.get(&name).ok_or_else(forbidden)?;
    let target = function.resolve(&qualifier, fastrand::f64).ok_or_else(forbidden)?;
    let config = function.details.urls.get(&qualifier).cloned().ok_or_else(forbidden)?;
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let alias = (qualifier != LATEST).then_some(qualifier);
    let named = Named { name, qualifier: alias };
    let origin = request.headers().get("origin").cloned();
    if let Some(answer) = config.cors.as_ref().and_then(|cors| cors::preflight(cors, &request)) {
        return Ok(answer);
    }
    let door = Door { function, target, named, config: Some(&config), by_host: true };
    let mut response = pass(api, door, path, request, peer).await?;
    if let Some(cors) = &config.cors {
        cors::apply(cors, origin.as_ref(), response.headers_mut());
    }
    Ok(response)
}

/// Answers a request to `/fn/…`.
pub(crate) async fn serve(
    api: &Api,
    name: &str,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    let name =
        FunctionName::new(name).map_err(|e| ApiError::invalid("InvalidName", e.to_string()))?;
    if let Some(qualifier) = qualifier {
        crate::name::check_qualifier(qualifier)?;
    }
    let named = Named { name, qualifier: qualifier.map(str::to_owned) };
    let function = api.catalog.get(&named.name);
    let target = function.as_ref().and_then(|f| f.resolve(named.or_latest(), fastrand::f64));
    let asks = api.auth.asks(request.extensions());
    let (Some(function), Some(target)) = (function, target) else {
        if asks {
            return Err(forbidden());
        }
        return Err(ApiError::no_function(match &named.qualifier {
            Some(qualifier) => format!("{}:{qualifier}", named.name),
            None => named.name.to_string(),
        }));
    };
    let path = inner_path(request.uri())?;
    let config = function.details.urls.get(named.or_latest()).cloned();
    let config = config.as_ref().filter(|_| asks);
    let door = Door { function, target, named, config, by_host: false };
    pass(api, door, path, request, peer).await
}

fn forbidden() -> ApiError {
    ApiError::aws(
        403,
        "AccessDeniedException",
        "Forbidden. For troubleshooting Function URL authorization issues, see: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html",
    )
}

/// Who calls, when it has to be proved; and whether it may. A signed body has been read.
async fn admit(
    api: &Api,
    door: &Door<'_>,
    parts: &Parts,
    incoming: body::Rest,
    peer: SocketAddr,
) -> Result<(Option<Who>, Content), ApiError> {
    let asks = api.auth.asks(&parts.extensions);
    let signs = match door.config.map(|config| config.auth) {
        Some(UrlAuth::None) => false,
        Some(UrlAuth::AwsIam) => true,
        None => asks,
    };
    let (who, content) = if signs && asks {
        auth::expect(api, Surface::Url, parts).map_err(|_| forbidden())?;
        let limit = wambda_model::limits::PAYLOAD_BYTES_MAX;
        let whole = body::read(&api.room, peer, incoming, limit).await?;
        let hash = auth::hash_away(api, parts, &whole.bytes, peer).await?;
        let verified = auth::verify(api, Surface::Url, parts, &hash, peer);
        // What is not there and what is not allowed look alike.
        let who = verified.map_err(|_| forbidden())?;
        (Some(who), Content::Whole(whole))
    } else {
        let query = parts.uri.query().unwrap_or_default();
        let signed =
            parts.headers.contains_key(AUTHORIZATION) || query.contains("X-Amz-Signature=");
        // Without keys nothing can be proved; that it was not even signed can be seen.
        if signs && !signed {
            return Err(forbidden());
        }
        (None, Content::Coming(incoming))
    };
    let Some(config) = door.config else {
        if let Some(who) = &who {
            allowed(api, door, who, "AWS_IAM")?;
        }
        return Ok((who, content));
    };
    match (config.auth, &who) {
        (UrlAuth::None, _) => allowed(api, door, &Who::anonymous(peer), "NONE")?,
        (UrlAuth::AwsIam, Some(who)) => allowed(api, door, who, "AWS_IAM")?,
        (UrlAuth::AwsIam, None) => {}
    }
    Ok((who, content))
}

fn allowed(api: &Api, door: &Door<'_>, who: &Who, auth_type: &str) -> Result<(), ApiError> {
    let policy = door.function.details.policies.get(door.named.or_latest());
    let policy = policy.and_then(wambda_policy::ResourcePolicy::policy);
    let resource = door.named.qualified_arn(&api.identity);
    let facts = vec![
        auth::fact("lambda:FunctionUrlAuthType", auth_type),
        ("lambda:InvokedViaFunctionUrl".to_owned(), Fact::Bool(true)),
    ];
    match auth::judge(who, "lambda:InvokeFunctionUrl", &resource, policy, facts) {
        Decision::Allow => Ok(()),
        _ => Err(forbidden()),
    }
}

/// A body that has been read, or not.
enum Content {
    Whole(body::Whole),
    Coming(body::Rest),
}

async fn pass(
    api: &Api,
    door: Door<'_>,
    path: PathAndQuery,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let (mut parts, incoming) = request.into_parts();
    let (who, content) = admit(api, &door, &parts, incoming, peer).await?;
    invoke::is_ready(&door.function, &door.target.version)?;
    let version = &door.target.version;
    let chain = invoke::chain(&parts.headers, &door.function)?;
    let id = RequestId::random();
    let (by_host, config) = (door.by_host, door.config);
    let payload = if version.kind.is_http() {
        let given = match content {
            Content::Coming(incoming) => {
                let limit = usize::try_from(STREAM_BYTES_MAX).unwrap_or(usize::MAX);
                Limited::new(incoming, limit).map_err(BodyError::new).boxed_unsync()
            }
            Content::Whole(whole) => wambda_model::body::full(whole.into_bytes()),
        };
        forward(&mut parts, &path, peer)?;
        Payload::Http(http::Request::from_parts(parts, given))
    } else {
        let whole = match content {
            Content::Whole(whole) => whole,
            Content::Coming(incoming) => {
                body::read(&api.room, peer, incoming, version.config.payload_bytes).await?
            }
        };
        if by_host {
            tell_way(&mut parts, peer);
        }
        let account = &api.identity.account;
        let origin = Origin {
            id,
            account,
            function: config.map_or(version.name.as_str(), |config| config.id.as_str()),
            signer: who.as_ref().map(|who| signer(who, account)),
            path: path.path(),
            source_ip: peer.ip().to_string(),
            unix_ms: clock::unix_ms(),
        };
        let head = gateway::event_of_head(&parts, &origin);
        let (size, limit) = (whole.bytes.len(), version.config.payload_bytes);
        let write = move || whole.made_into(|body| gateway::event_with_body(head, body, limit));
        let event = api.offload.work(peer, size, write).await??;
        Payload::Event(event.covered(&api.room, peer).await?.into_bytes())
    };
    let caller = caller(api, &door, who.as_ref(), chain).map(Box::new);
    let invocation = Invocation { id, payload, caller, attempt: 1 };
    let by = invocation.deadline();
    let outcome = api.invoke.invoke(version, invocation).await?;
    invoke::watch(door.target.alias.as_deref(), &outcome, by);
    let buffers = config.is_some_and(|config| by_host && !config.streams);
    let limit = version.config.payload_bytes;
    answer((api, peer), outcome, id, by_host, buffers.then_some(limit)).await
}

fn caller(api: &Api, door: &Door<'_>, who: Option<&Who>, chain: Caller) -> Option<Caller> {
    let identity = who.map(|who| Arc::from(who.arn()));
    let qualified = door.named.qualifier.is_some();
    let invoked_arn = qualified.then(|| Arc::from(door.named.qualified_arn(&api.identity)));
    let nothing = identity.is_none() && invoked_arn.is_none() && chain.trace.is_none();
    (!nothing).then_some(Caller { identity, invoked_arn, ..chain })
}

fn signer(who: &Who, account: &str) -> Value {
    json!({"accountId": account, "callerId": who.id, "userId": who.id, "userArn": who.arn()})
}

/// The answer of a function; `limit` buffers it, and bounds it.
async fn answer(
    (api, peer): (&Api, SocketAddr),
    outcome: Outcome,
    id: RequestId,
    by_host: bool,
    limit: Option<u64>,
) -> Result<Response, ApiError> {
    let Outcome { result, report, .. } = outcome;
    let answered = match result {
        Ok(Reply::Http(response)) => match limit {
            Some(limit) => match buffered((api, peer), response, limit).await {
                Err(NotWhole::Room(error)) => return Err(error),
                Err(NotWhole::Function(error)) => Err(error),
                Ok(response) => Ok(response),
            },
            None => Ok(response),
        },
        Ok(Reply::Event(bytes)) => {
            let size = bytes.len();
            // Its turn may be long in coming.
            let counted = if size > INLINE_WORK_BYTES_MAX { size as u64 } else { 0 };
            let share = api.room_for(peer, counted).await?;
            let read = move || gateway::response_from_result(&bytes);
            let response = api.offload.read_values(peer, size, read).await?;
            response
                .map(|response| share.go_with(response))
                .map_err(|why| FunctionError::returned("Runtime.InvalidResponse", why, Vec::new()))
        }
        Err(error) => Err(error),
    };
    let mut response = answered.unwrap_or_else(|error| failed(&error, by_host));
    reply::report_headers(response.headers_mut(), id, &report);
    if by_host {
        reply::put_id(response.headers_mut(), reply::AWS_REQUEST_ID, id);
    }
    Ok(response)
}

/// A whole answer, within the payload limit.
async fn buffered(
    (api, peer): (&Api, SocketAddr),
    response: Response,
    limit: u64,
) -> Result<Response, NotWhole> {
    let (mut parts, body) = response.into_parts();
    let (bytes, share) = room::collect((&api.responses, peer.ip()), body, limit).await?;
    parts.headers.remove(CONTENT_LENGTH);
    let whole = http::Response::from_parts(parts, wambda_model::body::full(bytes));
    Ok(share.go_with(whole))
}

/// What remains of `/fn/NAME/path?query`.
fn inner_path(uri: &Uri) -> Result<PathAndQuery, ApiError> {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = whole.strip_prefix("/fn/").unwrap_or(whole);
    let inner = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at).1,
        None => "/",
    };
    let inner = if inner.starts_with('?') { format!("/{inner}") } else { inner.to_owned() };
    inner.parse().map_err(|e| ApiError::invalid("InvalidPath", format!("{e}")))
}

/// Turns the request to the server into the request to the function.
fn forward(parts: &mut Parts, path: &PathAndQuery, peer: SocketAddr) -> Result<(), ApiError> {
    parts.uri = Uri::from(path.clone());
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        parts.headers.remove(name);
    }
    let address = peer.ip().to_string();
    let chain = match parts.headers.get("x-forwarded-for").and_then(|v| v.to_str().ok()) {
        Some(before) => format!("{before}, {address}"),
        None => address,
    };
    let chain = HeaderValue::from_str(&chain).map_err(|e| ApiError::internal(&e.to_string()))?;
    parts.headers.insert("x-forwarded-for", chain);
    parts.headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    Ok(())
}

/// The headers by which Lambda's URLs tell where a request came from.
fn tell_way(parts: &mut Parts, peer: SocketAddr) {
    let port = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let port = port.and_then(|host| host.rsplit_once(':')).map_or("80", |(_, port)| port);
    let port = HeaderValue::from_str(port).unwrap_or_else(|_| HeaderValue::from_static("80"));
    parts.headers.insert("x-forwarded-port", port);
    parts.headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    if let Ok(address) = HeaderValue::from_str(&peer.ip().to_string()) {
        parts.headers.insert("x-forwarded-for", address);
    }
}

/// A failed function, as strangers see it: that it failed, not how. The type is in a header.
fn failed(error: &FunctionError, by_host: bool) -> Response {
    let mut response = match (error.kill, by_host) {
        (_, true) => {
            reply::bytes(StatusCode::BAD_GATEWAY, Bytes::from_static(b"Internal Server Error"))
        }
        (Some(KillReason::Timeout), false) => reply::bytes(
            StatusCode::GATEWAY_TIMEOUT,
            Bytes::from_static(br#"{"message":"Endpoint request timed out"}"#),
        ),
        (_, false) => reply::bytes(
            StatusCode::BAD_GATEWAY,
            Bytes::from_static(br#"{"message":"Internal Server Error"}"#),
        ),
    };
    response.headers_mut().insert(CONTENT_TYPE, reply::JSON);
    reply::error_header(response.headers_mut(), error);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_own_path() {
        for (outer, inner) in [
            ("/fn/f", "/"),
            ("/fn/f/", "/"),
            ("/fn/f?x=1", "/?x=1"),
            ("/fn/f/?x=1", "/?x=1"),
            ("/fn/f:$LATEST/a//b?c", "/a//b?c"),
            ("/fn/f/%2F..%2F", "/%2F..%2F"),
        ] {
            assert_eq!(inner_path(&outer.parse().unwrap()).unwrap().as_str(), inner, "{outer}");
        }
    }
}
