//! What web pages may not do. A server that asks nobody for a key trusts its callers, and a browser
//! on the same machine is one that runs code of every site it shows. Two ways lead from such a page
//! to the server, and both are closed here:
//!
//! - *Rebinding*: the page's own name is made to mean the server's address, so that the page and
//!   the server are one site to the browser. Its requests carry that name in `Host`, which must
//!   therefore be an address or a known name.
//! - *Cross-site requests*: forms and simple requests are sent anywhere, without asking the server
//!   first. The browser says so in `Origin` and `Sec-Fetch-Site` (Fetch Metadata Request Headers,
//!   W3C), which pages cannot change.
//!
//! Functions answer browsers by themselves: of `/fn/` only `Host` is checked, and of function URLs,
//! whose host is any name that begins with their id, nothing. Signed requests need none of this:
//! pages have no key.

use std::net::IpAddr;
use std::sync::OnceLock;

use http::header::{HeaderValue, ORIGIN};
use http::{HeaderMap, HeaderName};

use crate::router::Head;
use crate::{Api, ApiError, Request, Surface};

pub(crate) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Hosts that are remembered.
const HOSTS_USUAL_MAX: usize = 4;
/// Bytes of one of them.
const HOST_USUAL_BYTES_MAX: usize = 64;

/// The hosts that a server is known by.
#[derive(Debug, Clone)]
pub struct Hosts {
    listener: IpAddr,
    names: Vec<String>,
    /// The first hosts that were accepted: clients use few. All are valid, and none is a function URL's.
    usual: [OnceLock<Box<[u8]>>; HOSTS_USUAL_MAX],
}

impl Hosts {
    /// A server that listens on this address, and has these names besides `localhost`.
    #[must_use]
    pub fn new(listener: IpAddr, names: Vec<String>) -> Self {
        Self { listener: listener.to_canonical(), names, usual: Default::default() }
    }

    /// Whether `host` has been accepted before: nothing of it needs to be looked at.
    pub(crate) fn is_usual(&self, host: &[u8]) -> bool {
        self.usual.iter().map_while(OnceLock::get).any(|usual| **usual == *host)
    }

    /// Whether `host` is this server. What was not a `Host` header has not been checked, and is not
    /// remembered.
    fn accepts(&self, host: &[u8], is_header: bool) -> bool {
        let accepted = std::str::from_utf8(host).is_ok_and(|host| self.has(host));
        let free = self.usual.iter().find(|usual| usual.get().is_none());
        if let (true, Some(free)) =
            (accepted && is_header && host.len() <= HOST_USUAL_BYTES_MAX, free)
        {
            // Another request may have been first.
            let _ = free.set(host.into());
        }
        accepted
    }

    /// Whether `host`, with or without a port, is this server.
    fn has(&self, host: &str) -> bool {
        // The port says nothing: pages cannot choose another one than that of the server.
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        if let Ok(address) = literal.unwrap_or(name).parse::<IpAddr>() {
            let address = address.to_canonical();
            // An address is no name that could be made to mean another one.
            return address.is_loopback()
                || address == self.listener
                || self.listener.is_unspecified();
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
        last.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// Refuses what a page of another site has sent, or may have.
///
/// # Errors
/// 403, with what would have to be otherwise.
pub(crate) fn check(
    api: &Api,
    surface: Surface,
    request: &Request,
    (head, usual): (&Head<'_>, bool),
) -> Result<(), ApiError> {
    if api.auth.asks(request.extensions()) {
        return Ok(());
    }
    let host = head.host.map(HeaderValue::as_bytes);
    let host = host.or_else(|| request.uri().authority().map(|target| target.as_str().as_bytes()));
    // Browsers always say it.
    let Some(host) = host else { return Ok(()) };
    if !usual && !api.hosts.accepts(host, head.host.is_some()) {
        let host: String = String::from_utf8_lossy(host).chars().take(200).collect();
        let message = format!(
            "the host {host:?} is not known as this server, which asks for no keys: call it by an \
             address or as localhost, or start it with --allowed-hosts"
        );
        return Err(ApiError::cross_site(message));
    }
    if surface == Surface::Url || !head.by_page {
        return Ok(());
    }
    check_origin(request.headers(), std::str::from_utf8(host).unwrap_or_default())
}

/// A page's requests come from the server itself, if at all.
fn check_origin(headers: &HeaderMap, host: &str) -> Result<(), ApiError> {
    let is_own = |origin: &&HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.is_some_and(|(_, of)| of.eq_ignore_ascii_case(host))
    };
    let is_ours = |site: &&HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    let foreign = headers.get_all(ORIGIN).iter().find(|origin| !is_own(origin));
    let foreign = foreign.map(|value| (ORIGIN, value)).or_else(|| {
        let site = headers.get_all(SEC_FETCH_SITE).iter().find(|site| !is_ours(site));
        site.map(|value| (SEC_FETCH_SITE, value))
    });
    let Some((name, value)) = foreign else { return Ok(()) };
    let value: String = String::from_utf8_lossy(value.as_bytes()).chars().take(200).collect();
    Err(ApiError::cross_site(format!(
        "a web page of another site has sent this ({name}: {value:?}), and this server asks for \
         no keys: only /fn/ and function URLs answer other sites' pages"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_known() {
        let loopback = Hosts::new("127.0.0.1".parse().unwrap(), vec!["wambda.example".to_owned()]);
        let other = Hosts::new("192.0.2.7".parse().unwrap(), Vec::new());
        let any = Hosts::new("::".parse().unwrap(), Vec::new());
        for (host, by_loopback, by_other, by_any) in [
            ("localhost", true, true, true),
            ("LocalHost:5262", true, true, true),
            ("localhost.:5262", true, true, true),
            ("a.b.localhost", true, true, true),
            ("127.0.0.1", true, true, true),
            ("127.1.2.3:80", true, true, true),
            ("[::1]:5262", true, true, true),
            ("::1", false, false, false),
            ("[::ffff:127.0.0.1]", true, true, true),
            ("192.0.2.7:5262", false, true, true),
            ("192.0.2.8", false, false, true),
            ("[2001:db8::1]:80", false, false, true),
            ("0.0.0.0:5262", false, false, true),
            ("wambda.example", true, false, false),
            ("WAMBDA.Example:443", true, false, false),
            ("a.wambda.example", false, false, false),
            ("wambda.example.evil.example", false, false, false),
            ("evil.example:5262", false, false, false),
            ("notlocalhost", false, false, false),
            ("localhost.evil.example", false, false, false),
            ("127.0.0.1.evil.example", false, false, false),
            ("127.1", false, false, false),
            ("2130706433", false, false, false),
            (".", false, false, false),
            ("", false, false, false),
            (":5262", false, false, false),
        ] {
            let got = [&loopback, &other, &any].map(|hosts| hosts.has(host));
            assert_eq!(got, [by_loopback, by_other, by_any], "{host}");
        }
    }

    #[test]
    fn the_usual_host_vouches_for_no_other() {
        let hosts = Hosts::new("127.0.0.1".parse().unwrap(), Vec::new());
        for foreign in [&b"evil.example"[..], b"localhost:5262.evil.example", b"\xff", b""] {
            assert!(!hosts.accepts(foreign, true) && !hosts.is_usual(foreign));
        }
        assert!(hosts.accepts(b"u@a.localhost", false) && !hosts.is_usual(b"u@a.localhost"));
        for n in 0..10 {
            let own = format!("127.0.0.1:{n}");
            assert!(!hosts.is_usual(own.as_bytes()) && hosts.accepts(own.as_bytes(), true));
            assert_eq!(hosts.is_usual(own.as_bytes()), n < HOSTS_USUAL_MAX);
        }
        assert!(!hosts.is_usual(b"127.0.0.1:") && !hosts.is_usual(b"127.0.0.1:00"));
        let long = format!("{}.localhost", "a".repeat(60));
        assert!(hosts.accepts(long.as_bytes(), true) && !hosts.is_usual(long.as_bytes()));
    }

    #[test]
    fn origins_are_the_servers_own() {
        for (host, name, value, good) in [
            ("localhost:5262", "origin", "http://localhost:5262", true),
            ("localhost:5262", "origin", "https://LOCALHOST:5262", true),
            ("localhost", "origin", "https://localhost", true),
            ("localhost:5262", "origin", "http://localhost:3000", false),
            ("localhost:5262", "origin", "http://localhost", false),
            ("localhost:5262", "origin", "http://127.0.0.1:5262", false),
            ("localhost:5262", "origin", "https://evil.example", false),
            ("localhost:5262", "origin", "http://localhost:5262.evil.example", false),
            ("localhost:5262", "origin", "http://localhost:5262@evil.example", false),
            ("localhost:5262", "origin", "null", false),
            ("localhost:5262", "origin", "", false),
            ("localhost:5262", "origin", "localhost:5262", false),
            ("localhost:5262", "sec-fetch-site", "same-origin", true),
            ("localhost:5262", "sec-fetch-site", "none", true),
            ("localhost:5262", "sec-fetch-site", "same-site", false),
            ("localhost:5262", "sec-fetch-site", "cross-site", false),
            ("localhost:5262", "sec-fetch-site", "", false),
            ("localhost:5262", "sec-fetch-mode", "cors", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            assert_eq!(check_origin(&headers, host).is_ok(), good, "{host}, {name}: {value}");
            // One that is good does not vouch for another one.
            let own = HeaderValue::try_from(format!("http://{host}")).unwrap();
            headers.insert(ORIGIN, own);
            headers.append(ORIGIN, HeaderValue::from_static("https://evil.example"));
            assert!(check_origin(&headers, host).is_err());
        }
    }
}
