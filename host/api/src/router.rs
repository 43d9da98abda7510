//! From a path to a surface and a handler.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use http::header::{CONTENT_TYPE, HOST, HeaderValue, ORIGIN, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method};
use hyper::body::Body as _;
use matchit::Router;
use wambda_model::limits::{HEAD_BYTES_MAX, RESPONSE_ROOM_MIN};
use wambda_model::{Function, FunctionName, polls};

use crate::auth::{self, Who};
use crate::body::Whole;
use crate::queues::{self, Ask};
use crate::{
    Api, ApiError, Request, Response, Surface, body, cloudwatch, cross_site, downloads, iam,
    lambda, logs, native, rollback, system, url, within::Within,
};

/// Bytes of a form or of a JSON or CBOR request to the smaller services.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// Fields of a form.
const FORM_FIELDS_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Functions,
    Function,
    Invoke,
    Logs,
    Scaling,
    Grants,
    Rollback,
    Invocation,
    Queue(Ask),
    Download,
    Url,
    Metrics,
    Health,
    Ready,
    Version,
    OpenApi,
    Root,
}

/// The routes. matchit refuses conflicting ones, which the tests would show.
static ROUTES: LazyLock<Router<Route>> = LazyLock::new(|| {
    let mut router = Router::new();
    for (path, route) in [
        ("/v1/functions", Route::Functions),
        ("/v1/functions/{name}", Route::Function),
        ("/v1/functions/{name}/invoke", Route::Invoke),
        ("/v1/functions/{name}/logs", Route::Logs),
        ("/v1/functions/{name}/scaling", Route::Scaling),
        ("/v1/functions/{name}/grants", Route::Grants),
        ("/v1/functions/{name}/aliases/{alias}/rollback", Route::Rollback),
        ("/v1/invocations/{name}", Route::Invocation),
        ("/v1/queues", Route::Queue(Ask::List)),
        ("/v1/queues/{name}", Route::Queue(Ask::Describe)),
        ("/v1/queues/{name}/messages", Route::Queue(Ask::Messages)),
        ("/v1/queues/{name}/redrive", Route::Queue(Ask::Redrive)),
        ("/v1/queues/{name}/purge", Route::Queue(Ask::Purge)),
        ("/v1/queues/{name}/pause", Route::Queue(Ask::Pause)),
        ("/v1/queues/{name}/resume", Route::Queue(Ask::Resume)),
        ("/v1/downloads/{*path}", Route::Download),
        ("/fn/{name}", Route::Url),
        ("/fn/{name}/{*path}", Route::Url),
        ("/metrics", Route::Metrics),
        ("/healthz", Route::Health),
        ("/readyz", Route::Ready),
        ("/version", Route::Version),
        ("/openapi.json", Route::OpenApi),
        ("/", Route::Root),
    ] {
        if let Err(conflict) = router.insert(path, route) {
            tracing::error!(path, %conflict, "route not taken");
        }
    }
    router
});

/// Answers `request`, and says which surface's error shape applies.
pub(crate) async fn route(
    api: &Arc<Api>,
    request: Request,
    peer: SocketAddr,
) -> (Surface, Result<Response, ApiError>) {
    let surface = surface_of(request.uri().path());
    polls::about(surface as u8);
    let head = Head::of(request.headers());
    let usual = head.host.is_some_and(|host| api.hosts.is_usual(host.as_bytes()));
    let checked = check_framing(&request, &head).and_then(|()| check_host(&request, &head, usual));
    if let Err(error) = checked.and_then(|()| check_size(&head)) {
        request.into_body().leave();
        return (surface, Err(error));
    }
    let url_id = if usual { None } else { head.host.and_then(url::id_of_host) };
    if url_id.is_none()
        && let Err(error) = cross_site::check(api, surface, &request, (&head, usual))
    {
        let surface = service_of(&request).unwrap_or(surface);
        request.into_body().leave();
        return (surface, Err(error));
    }
    // Whoever looks after the server is not counted.
    if !asks_state(&request)
        && let Err(error) = api.rates.check(peer.ip())
    {
        return (surface, Err(error));
    }
    if let Some(id) = url_id {
        return (Surface::Url, Box::pin(url::serve_host(api, &id, request, peer)).await);
    }
    // The others' futures are large, and this one is copied for every request.
    match surface {
        Surface::Native if let Some(function) = invoked(api, &request) => {
            (surface, native::invoke(api, function, request, peer).await)
        }
        Surface::Lambda => (surface, Box::pin(lambda::serve(api, request, peer)).await),
        Surface::Native | Surface::Url => {
            (surface, Box::pin(own(api, surface, request, peer)).await)
        }
        _ => Box::pin(small(api, request, peer)).await,
    }
}

/// The function that `POST /v1/functions/{name}/invoke` is for, when it is there and spelled plainly: the way that most
/// requests take, without a copy.
fn invoked(api: &Api, request: &Request) -> Option<Arc<Function>> {
    let name = request.uri().path().strip_prefix("/v1/functions/")?.strip_suffix("/invoke")?;
    (request.method() == Method::POST).then(|| api.catalog.find(name))?
}

/// The service that a request is for which no path says: the first of those that share a protocol.
fn service_of(request: &Request) -> Option<Surface> {
    let (headers, path) = (request.headers(), request.uri().path());
    if surface_of(path) != Surface::System {
        return None;
    }
    let content = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = content.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if headers.get("x-amz-target").is_some_and(|target| target.to_str().is_ok()) {
        Some(Surface::Logs)
    } else if cloudwatch::cbor_operation(path).is_some() {
        Some(Surface::CloudWatch)
    } else if request.method() == Method::POST && is_form && path == "/" {
        Some(Surface::Iam)
    } else {
        None
    }
}

/// What is told apart by a header, the body, or not at all.
async fn small(
    api: &Arc<Api>,
    request: Request,
    peer: SocketAddr,
) -> (Surface, Result<Response, ApiError>) {
    let Some(surface) = service_of(&request) else {
        return (Surface::System, own(api, Surface::System, request, peer).await);
    };
    let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
    let target = target.map(str::to_owned);
    let path = request.uri().path().to_owned();
    let (parts, incoming) = request.into_parts();
    // Which of them it is for may be in the body; for none of them is a stranger's read when it is large.
    let services = [Surface::Iam, Surface::Sts, Surface::Logs, Surface::CloudWatch];
    let expected = services.map(|service| auth::expect(api, service, &parts));
    if expected.iter().all(Result::is_err)
        && let [Err(error), ..] = expected
    {
        return (surface, Err(error));
    }
    let whole = match body::read(&api.room, peer, incoming, SMALL_BYTES_MAX).await {
        Ok(whole) => whole,
        Err(error) => return (surface, Err(error)),
    };
    // A form may hide thousands of fields, and a log's answer is large.
    let most = if surface == Surface::Logs { RESPONSE_ROOM_MIN } else { 0 };
    let share = match api.room_for(peer, most).await {
        Ok(share) => share,
        Err(error) => return (surface, Err(error)),
    };
    let serve = serve_small(Arc::clone(api), surface, (target, path), (parts, whole), peer);
    let served = api.offload.run(serve).await;
    let (surface, answered) = served.unwrap_or_else(|error| (surface, Err(error)));
    (surface, answered.map(|response| share.go_with(response)))
}

/// Answers what has been read, on the work threads.
async fn serve_small(
    api: Arc<Api>,
    surface: Surface,
    (target, path): (Option<String>, String),
    (parts, whole): (Parts, Whole),
    peer: SocketAddr,
) -> (Surface, Result<Response, ApiError>) {
    let api = &api;
    let sent = &whole.bytes;
    match (surface, target) {
        (Surface::Logs, Some(target)) => {
            let Some((surface, operation)) = cloudwatch::target_operation(&target) else {
                let target: String = target.chars().take(200).collect();
                let message = format!("the operation {target} is not there");
                return (surface, Err(ApiError::aws(400, "UnknownOperationException", message)));
            };
            let answered = match surface {
                Surface::Logs => cloudwatch::serve_logs(api, operation, &parts, sent, peer).await,
                _ => cloudwatch::serve_metrics(api, surface, operation, &parts, sent, peer).await,
            };
            (surface, answered)
        }
        (Surface::CloudWatch, _) => {
            let operation = cloudwatch::cbor_operation(&path).unwrap_or_default();
            let answered =
                cloudwatch::serve_metrics(api, surface, operation, &parts, sent, peer).await;
            (surface, answered)
        }
        _ => {
            let form = form_urlencoded::parse(sent).into_owned().take(FORM_FIELDS_MAX + 1);
            let form: Vec<(String, String)> = form.collect();
            if form.len() > FORM_FIELDS_MAX {
                let message = format!("a form may have {FORM_FIELDS_MAX} fields");
                return (surface, Err(ApiError::aws(400, "ValidationError", message)));
            }
            match iam::surface_of(&form) {
                Some(surface) => {
                    (surface, iam::serve(api, surface, &form, (&parts, sent), peer).await)
                }
                None => {
                    let message = "the form has no Action, or a Version that is not served here";
                    (surface, Err(ApiError::aws(400, "InvalidAction", message)))
                }
            }
        }
    }
}

/// Wambda's own routes.
async fn own(
    api: &Arc<Api>,
    surface: Surface,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let path = request.uri().path().to_owned();
    let trailing = path.len() > 1 && path.ends_with('/') && surface != Surface::Url;
    let plain = if trailing { path.trim_end_matches('/') } else { &path };
    // `/fn/NAME/` is the function's root and not a path of one empty part.
    let plain = if surface == Surface::Url { plain.trim_end_matches('/') } else { plain };
    let Ok(matched) = ROUTES.at(plain) else { return Err(ApiError::no_route(&path)) };
    let name = matched.params.get("name").map(decode).unwrap_or_default();
    match *matched.value {
        Route::Invoke => {
            only(&request, &Method::POST, "POST")?;
            let name = function_name(&name)?;
            match api.catalog.get(&name) {
                Some(function) => native::invoke(api, function, request, peer).await,
                None => Err(native::refuse(api, &name, request, peer).await),
            }
        }
        Route::Url => url::serve(api, &name, request, peer).await,
        Route::Invocation => {
            if method_of(&request) != Method::GET {
                return Err(ApiError::no_method(request.method(), "GET"));
            }
            let (parts, incoming) = request.into_parts();
            let body = (incoming, SMALL_BYTES_MAX);
            let (_, who) = auth::receive(api, Surface::Native, &parts, body, peer).await?;
            let all = Arc::clone(api);
            let serve = async move { queues::invocation(&all, &who, &name).await };
            api.run_large(peer, RESPONSE_ROOM_MIN, serve).await
        }
        Route::Queue(ask) => {
            queues::check_method(ask, request.method())?;
            let (parts, incoming) = request.into_parts();
            let body = (incoming, SMALL_BYTES_MAX);
            let (_, who) = auth::receive(api, Surface::Native, &parts, body, peer).await?;
            let all = Arc::clone(api);
            let serve = async move {
                let query = parts.uri.query().unwrap_or_default();
                queues::serve(&all, &who, ask, &name, query).await
            };
            match ask {
                queues::Ask::Messages => api.run_large(peer, RESPONSE_ROOM_MIN, serve).await,
                _ => api.offload.run(serve).await?,
            }
        }
        Route::Functions
        | Route::Function
        | Route::Logs
        | Route::Scaling
        | Route::Grants
        | Route::Rollback => {
            let alias = matched.params.get("alias").map(decode).unwrap_or_default();
            let place = Place { route: *matched.value, name, alias };
            functions(api, place, request, peer).await
        }
        Route::Download => {
            only(&request, &Method::GET, "GET")?;
            let path = matched.params.get("path").map(decode).unwrap_or_default();
            let query = request.uri().query().unwrap_or_default().to_owned();
            let all = Arc::clone(api);
            api.offload
                .run(async move { downloads::serve(&all, &path, &query, peer).await })
                .await?
        }
        // How the server is and whom it serves is not for functions.
        _ if request.extensions().get::<Within>().is_some() => Err(ApiError::no_route(&path)),
        route => about(api, route, &request).await,
    }
}

/// What a path names.
struct Place {
    route: Route,
    name: String,
    alias: String,
}

/// HEAD is GET without the body, which hyper leaves out.
fn method_of(request: &Request) -> Method {
    match request.method() {
        &Method::HEAD => Method::GET,
        other => other.clone(),
    }
}

/// What a request is about, and what it does in the words of policies: all that can be said before its body is read.
fn asked(
    place: &Place,
    method: &Method,
    query: Option<&str>,
) -> Result<(Option<FunctionName>, &'static str), ApiError> {
    let name = match place.route {
        Route::Functions => None,
        _ => Some(function_name(&place.name)?),
    };
    let allowed = match place.route {
        Route::Function => "PUT, GET, DELETE",
        Route::Rollback => "PUT, GET, DELETE",
        _ => "GET",
    };
    let action = match (place.route, method) {
        (Route::Functions, &Method::GET) => "lambda:ListFunctions",
        (Route::Function, &Method::PUT) => {
            // The query is checked before the body is read, and the body before it is compiled.
            native::check_query(query.unwrap_or_default())?;
            "lambda:UpdateFunctionCode"
        }
        (Route::Function | Route::Scaling | Route::Grants, &Method::GET) => "lambda:GetFunction",
        (Route::Function, &Method::DELETE) => "lambda:DeleteFunction",
        (Route::Logs, &Method::GET) => "logs:FilterLogEvents",
        (Route::Rollback, &Method::GET) => "lambda:GetAlias",
        (Route::Rollback, &Method::PUT | &Method::DELETE) => "lambda:UpdateAlias",
        (_, method) => return Err(ApiError::no_method(method, allowed)),
    };
    Ok((name, action))
}

/// Functions, for whoever may.
async fn functions(
    api: &Arc<Api>,
    place: Place,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let method = method_of(&request);
    let (name, action) = asked(&place, &method, request.uri().query())?;
    let (parts, incoming) = request.into_parts();
    // An upload is the only body, and signed like any other.
    let upload = place.route == Route::Function && method == Method::PUT;
    let limit = if upload { wambda_model::limits::UPLOAD_BYTES_MAX as u64 } else { 0 };
    let incoming = (incoming, limit.max(SMALL_BYTES_MAX));
    let (whole, who) = auth::receive(api, Surface::Native, &parts, incoming, peer).await?;
    let (all, route) = (Arc::clone(api), place.route);
    let operate = async move {
        authorize(&all, &who, action, name.as_ref())?;
        if let (Route::Logs, Some(name)) = (place.route, &name) {
            return logs::read((&all, peer), name, parts.uri.query(), || {
                let resource = resource_of(&all, action, Some(name));
                auth::Lasting::new((&all, Surface::Native), &parts, peer, (action, resource))
            });
        }
        operate(&all, (place, method), (name, &who), parts.uri.query(), whole).await
    };
    match route {
        Route::Logs => api.run_large(peer, RESPONSE_ROOM_MIN, operate).await,
        _ => api.offload.run(operate).await?,
    }
}

/// An operation on functions that has been allowed, on the work threads.
async fn operate(
    api: &Arc<Api>,
    (place, method): (Place, Method),
    (name, who): (Option<FunctionName>, &Who),
    query: Option<&str>,
    whole: Whole,
) -> Result<Response, ApiError> {
    match (place.route, &method, &name) {
        (Route::Functions, _, _) => native::list(api, query),
        (Route::Function, &Method::PUT, Some(name)) => {
            if api.catalog.get(name).is_none() {
                authorize(api, who, "lambda:CreateFunction", Some(name))?;
            }
            // One request that does what takes AWS's clients several.
            for action in native::actions(query.unwrap_or_default()) {
                authorize(api, who, action, Some(name))?;
            }
            native::publish(api, who, name, query.unwrap_or_default(), whole).await
        }
        (Route::Function, &Method::GET, Some(name)) => native::describe(api, name),
        (Route::Function, _, Some(name)) => native::delete(api, name).await,
        (Route::Scaling, _, Some(name)) => native::scaling(api, name),
        (Route::Grants, _, Some(name)) => native::grants(api, name, query.unwrap_or_default()),
        (Route::Rollback, &Method::GET, Some(name)) => rollback::describe(api, name, &place.alias),
        (Route::Rollback, method, Some(name)) => {
            let query = (*method == Method::PUT).then(|| query.unwrap_or_default());
            rollback::change(api, name, &place.alias, query).await
        }
        _ => Err(ApiError::internal("a route without a name")),
    }
}

/// What an action is about, in the words of policies.
fn resource_of(api: &Api, action: &str, name: Option<&FunctionName>) -> String {
    let wambda_control::Identity { region, account } = &api.identity;
    match name {
        Some(name) if action.starts_with("logs:") => {
            let function = api.catalog.get(name);
            let group = function.map(|function| function.latest.log_group.to_string());
            let group = group.unwrap_or_else(|| format!("/aws/lambda/{name}"));
            format!("arn:aws:logs:{region}:{account}:log-group:{group}:*")
        }
        Some(name) => crate::name::function_arn(&api.identity, name),
        None => format!("arn:aws:lambda:{region}:{account}:*"),
    }
}

fn authorize(
    api: &Api,
    who: &Who,
    action: &str,
    name: Option<&FunctionName>,
) -> Result<(), ApiError> {
    auth::authorize(Surface::Native, who, action, &resource_of(api, action, name), None)
}

/// What everybody may know.
async fn about(api: &Arc<Api>, route: Route, request: &Request) -> Result<Response, ApiError> {
    let method = method_of(request);
    if method != Method::GET {
        return Err(ApiError::no_method(&method, "GET"));
    }
    match route {
        Route::Metrics => system::metrics(api).await,
        Route::Health => Ok(system::health()),
        Route::Ready => Ok(system::ready(api)),
        Route::Version => Ok(system::version(api)),
        Route::OpenApi => Ok(system::openapi()),
        _ => Ok(system::root()),
    }
}

/// What tells how the server is.
const STATES: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/version"];

/// Whether this asks how the server is, and nothing else.
fn asks_state(request: &Request) -> bool {
    method_of(request) == Method::GET
        && STATES.contains(&request.uri().path())
        && !request.headers().contains_key("x-amz-target")
        && url::url_id(request).is_none()
        && request.extensions().get::<Within>().is_none()
}

/// Whether this is a question that somebody who looks after the server has, and is answered soon: it has no
/// body, and is not for a function.
pub(crate) fn is_upkeep(request: &Request) -> bool {
    if method_of(request) != Method::GET || !request.body().is_end_stream() {
        return false;
    }
    let path = request.uri().path().trim_end_matches('/');
    let is_read = match ROUTES.at(path).map(|matched| *matched.value) {
        Ok(Route::Functions | Route::Function | Route::Scaling) => true,
        Ok(Route::Queue(ask)) => ask != Ask::Messages,
        Ok(_) => false,
        Err(_) => surface_of(path) == Surface::Lambda,
    };
    asks_state(request) || (is_read && url::url_id(request).is_none())
}

pub(crate) fn surface_of(path: &str) -> Surface {
    let dated =
        path.as_bytes().get(1..6).is_some_and(|d| d.starts_with(b"20") && d.ends_with(b"-"));
    if path.starts_with("/v1/") {
        Surface::Native
    } else if path.starts_with("/fn/") {
        Surface::Url
    } else if dated {
        Surface::Lambda
    } else {
        Surface::System
    }
}

/// No coding but one `chunked`: somebody else might see another end of the body, and what follows it. That a
/// length stands beside it, hyper tells nobody; it ends the connection then (RFC 9112, 6.1 and 6.3).
fn check_framing(request: &Request, head: &Head<'_>) -> Result<(), ApiError> {
    // What follows a successful answer to it is a tunnel, and not HTTP (RFC 9110, 9.3.6).
    if request.method() == Method::CONNECT {
        return Err(ApiError::no_method(request.method(), "GET, HEAD, POST").closing());
    }
    let chunked =
        head.coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if chunked && head.codings <= 1 {
        return Ok(());
    }
    let message = "the only transfer coding that a request may have is chunked, once";
    Err(ApiError::invalid("InvalidFraming", message).closing())
}

/// What every request is asked, read in one pass over its headers: each look for a name would cost
/// as much.
#[derive(Default)]
pub(crate) struct Head<'a> {
    /// Of all names and values.
    bytes: usize,
    /// The first `Host`, and how many there are.
    pub(crate) host: Option<&'a HeaderValue>,
    hosts: usize,
    /// The first `Transfer-Encoding`, and how many there are.
    coding: Option<&'a HeaderValue>,
    codings: usize,
    /// Whether a browser says which page it is from.
    pub(crate) by_page: bool,
}

impl<'a> Head<'a> {
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let mut head = Self::default();
        for (name, value) in headers {
            head.bytes += crate::reply::header_bytes(name, value);
            if *name == HOST {
                head.host = head.host.or(Some(value));
                head.hosts += 1;
            } else if *name == TRANSFER_ENCODING {
                head.coding = head.coding.or(Some(value));
                head.codings += 1;
            } else if *name == ORIGIN || *name == cross_site::SEC_FETCH_SITE {
                head.by_page = true;
            }
        }
        head
    }
}

/// HTTP/1.1 requests have exactly one host (RFC 9112, 3.2).
fn check_host(request: &Request, head: &Head<'_>, usual: bool) -> Result<(), ApiError> {
    if head.hosts > 1 {
        return Err(ApiError::invalid("InvalidHost", "the request has more than one Host header"));
    }
    match head.host {
        None if request.version() >= http::Version::HTTP_11
            && request.uri().authority().is_none() =>
        {
            Err(ApiError::invalid("InvalidHost", "the request has no Host header"))
        }
        // An authority without user information: what is in it matters to functions, not to us.
        Some(host) if !usual && !is_authority(host.as_bytes()) => {
            Err(ApiError::invalid("InvalidHost", "the Host header is not valid"))
        }
        Some(host)
            if request.uri().authority().is_some_and(|target| {
                !target.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
            }) =>
        {
            Err(ApiError::invalid(
                "InvalidHost",
                "the target names another host than the Host header",
            ))
        }
        _ => Ok(()),
    }
}

/// Whether a host may have this byte. All of it is graphic; what is told apart from it is left out.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\' | b',')
}

/// Whether it is a host, and what follows it a port, or nothing. In one pass: every request has one.
fn is_authority(host: &[u8]) -> bool {
    let (mut within_brackets, mut port) = (false, None);
    for byte in host {
        match (byte, &mut port) {
            (byte, _) if !is_of_host(*byte) => return false,
            (b'[', _) => within_brackets = true,
            (b']', _) => (within_brackets, port) = (false, None),
            (b':', None) if !within_brackets => port = Some(0),
            (digit, Some(length)) if digit.is_ascii_digit() && *length < 5 => *length += 1,
            (_, Some(_)) => return false,
            _ => {}
        }
    }
    !within_brackets
}

/// The head is bounded as a whole; hyper bounds its parts and its buffer.
fn check_size(head: &Head<'_>) -> Result<(), ApiError> {
    if head.bytes <= HEAD_BYTES_MAX {
        return Ok(());
    }
    Err(ApiError::head_too_large(HEAD_BYTES_MAX, head.bytes))
}

fn only(request: &Request, method: &Method, allow: &'static str) -> Result<(), ApiError> {
    if request.method() == method {
        return Ok(());
    }
    Err(ApiError::no_method(request.method(), allow))
}

fn decode(part: &str) -> String {
    percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned()
}

fn function_name(name: &str) -> Result<FunctionName, ApiError> {
    FunctionName::new(name).map_err(|e| ApiError::invalid("InvalidName", e.to_string()))
}
