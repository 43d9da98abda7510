//! From a path to a surface and a handler.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use http::Method;
use http::header::HOST;
use matchit::Router;
use wambda_model::FunctionName;
use wambda_model::limits::HEAD_BYTES_MAX;

use crate::{Api, ApiError, Request, Response, Surface, lambda, logs, native, system, url};

#[derive(Debug, Clone, Copy)]
enum Route {
    Functions,
    Function,
    Invoke,
    Logs,
    Scaling,
    LambdaInvoke,
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
        ("/2015-03-31/functions/{name}/invocations", Route::LambdaInvoke),
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
    let path = request.uri().path();
    let surface = surface_of(path);
    if let Err(error) = check_host(&request).and_then(|()| check_head(&request)) {
        return (surface, Err(error));
    }
    let trailing = path.len() > 1 && path.ends_with('/') && surface != Surface::Url;
    let plain = if trailing { path.trim_end_matches('/') } else { path };
    // `/fn/NAME/` is the function's root and not a path of one empty part.
    let plain = if surface == Surface::Url { plain.trim_end_matches('/') } else { plain };
    let Ok(matched) = ROUTES.at(plain) else {
        return (surface, Err(ApiError::no_route(path)));
    };
    let name = matched.params.get("name").map(decode).unwrap_or_default();
    let answered = match *matched.value {
        Route::Invoke => {
            match only(&request, &Method::POST, "POST").and_then(|()| function_name(&name)) {
                Ok(name) => native::invoke(api, &name, request).await,
                Err(error) => Err(error),
            }
        }
        Route::LambdaInvoke => match only(&request, &Method::POST, "POST") {
            Ok(()) => lambda::invoke(api, &name, request).await,
            Err(error) => Err(error),
        },
        Route::Url => url::serve(api, &name, request, peer).await,
        route => control(api, route, &name, request).await,
    };
    (surface, answered)
}

async fn control(
    api: &Arc<Api>,
    route: Route,
    name: &str,
    request: Request,
) -> Result<Response, ApiError> {
    // HEAD is GET without the body, which hyper leaves out.
    let method = match request.method() {
        &Method::HEAD => Method::GET,
        other => other.clone(),
    };
    match (route, &method) {
        (Route::Functions, &Method::GET) => native::list(api, request.uri().query()),
        (Route::Function, &Method::PUT) => {
            native::publish(api, &function_name(name)?, request).await
        }
        (Route::Function, &Method::GET) => native::describe(api, &function_name(name)?),
        (Route::Function, &Method::DELETE) => native::delete(api, &function_name(name)?).await,
        (Route::Function, method) => Err(ApiError::no_method(method, "PUT, GET, DELETE")),
        (Route::Logs, &Method::GET) => {
            logs::read(api, &function_name(name)?, request.uri().query())
        }
        (Route::Scaling, &Method::GET) => native::scaling(api, &function_name(name)?),
        (Route::Metrics, &Method::GET) => system::metrics(api).await,
        (Route::Health, &Method::GET) => Ok(system::health()),
        (Route::Ready, &Method::GET) => Ok(system::ready(api)),
        (Route::Version, &Method::GET) => Ok(system::version(api)),
        (Route::OpenApi, &Method::GET) => Ok(system::openapi()),
        (Route::Root, &Method::GET) => Ok(system::root()),
        (_, method) => Err(ApiError::no_method(method, "GET")),
    }
}

fn surface_of(path: &str) -> Surface {
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

/// HTTP/1.1 requests have exactly one host (RFC 9112, 3.2).
fn check_host(request: &Request) -> Result<(), ApiError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(ApiError::invalid("InvalidHost", "the request has more than one Host header"));
    }
    match first {
        None if request.version() >= http::Version::HTTP_11
            && request.uri().authority().is_none() =>
        {
            Err(ApiError::invalid("InvalidHost", "the request has no Host header"))
        }
        // An authority without user information: what is in it matters to functions, not to us.
        Some(host)
            if !host.as_bytes().iter().all(|b| b.is_ascii_graphic() && !b"/?#@\\".contains(b)) =>
        {
            Err(ApiError::invalid("InvalidHost", "the Host header is not valid"))
        }
        _ => Ok(()),
    }
}

/// The head is bounded as a whole; hyper bounds its parts and its buffer.
fn check_head(request: &Request) -> Result<(), ApiError> {
    let headers = request.headers().iter();
    let size: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size <= HEAD_BYTES_MAX {
        return Ok(());
    }
    Err(ApiError::head_too_large(HEAD_BYTES_MAX, size))
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
