//! Cross-origin resource sharing of a function URL: answers for browsers, in place of the function's.
//! Source: the Fetch standard, "CORS protocol"; and Lambda's URL configuration.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{Method, StatusCode};
use wambda_model::function::Cors;

use crate::{Request, Response, reply};

/// The answer to a preflight request; none for any other request.
pub(crate) fn preflight(cors: &Cors, request: &Request) -> Option<Response> {
    let headers = request.headers();
    let asks = request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !asks {
        return None;
    }
    let mut response = reply::bytes(StatusCode::OK, "");
    let origin = headers.get(ORIGIN);
    apply(cors, origin, response.headers_mut());
    if response.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        put(response.headers_mut(), ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods);
        put(response.headers_mut(), ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers);
        if cors.max_age > 0 {
            response.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.into());
        }
    }
    Some(response)
}

/// What an answer tells browsers; what the function itself says about it is replaced.
pub(crate) fn apply(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE,
    ] {
        headers.remove(name);
    }
    let Some(origin) = origin else { return };
    let any = cors.allow_origins.iter().any(|allowed| allowed == "*");
    let same = |allowed: &String| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
    if !any && !cors.allow_origins.iter().any(same) {
        return;
    }
    // With credentials, and for one of several origins, the answer names the origin.
    let named = !any || cors.allow_credentials;
    let allowed = if named { origin.clone() } else { HeaderValue::from_static("*") };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if named {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    if cors.allow_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    put(headers, ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers);
}

fn put(headers: &mut HeaderMap, name: HeaderName, values: &[String]) {
    if let (false, Ok(value)) = (values.is_empty(), HeaderValue::from_str(&values.join(","))) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(cors: &Cors, origin: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("the function's"));
        apply(cors, Some(&HeaderValue::from_static(origin)), &mut headers);
        headers
    }

    #[test]
    fn origins_are_told_what_they_may() {
        let mut cors = Cors { allow_origins: vec!["https://a.example".into()], ..Cors::default() };
        let headers = applied(&cors, "https://a.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(headers[VARY], "Origin");
        assert!(applied(&cors, "https://b.example").is_empty());
        cors.allow_origins = vec!["*".into()];
        assert_eq!(applied(&cors, "https://b.example")[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        cors.allow_credentials = true;
        let headers = applied(&cors, "https://b.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://b.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    }
}
