//! The authority of a request, read once and strictly: what is asked of policies, what is resolved and
//! what is written in `Host` are the same words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Scheme;

use crate::error::Error;

/// Characters of a host name (RFC 1035).
const NAME_MAX: usize = 253;
/// Characters of one label.
const LABEL_MAX: usize = 63;

/// The platform itself, as functions call it; and what ends so, behind a dot. `internal` is for private use, and never
/// delegated (ICANN Board, 2024-07-29).
pub const PLATFORM: &str = "wambda.internal";
/// The same for clients.
pub const PLATFORM_URL: &str = "http://wambda.internal";

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Lower case, without a dot at its end; an address in its one canonical form, without brackets.
    pub host: String,
    /// The address, when the host is one.
    pub address: Option<IpAddr>,
    /// The port, or the scheme's.
    pub port: u16,
    /// Whether it is HTTPS.
    pub tls: bool,
}

impl Target {
    /// Reads the target of an absolute `http` or `https` URI.
    ///
    /// # Errors
    /// [`Error::Authority`] for anything that two readers might read differently: user names, ports that
    /// are not one, addresses in other spellings than the canonical ones.
    pub fn read(uri: &Uri) -> Result<Self, Error> {
        let bad = |why: &str| Error::Authority(why.to_owned());
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(bad("the scheme must be http or https")),
        };
        let authority = uri.authority().ok_or_else(|| bad("there is no host"))?.as_str();
        if authority.contains('@') {
            return Err(bad("a user name is not allowed in it"));
        }
        let (host, port) = split(authority).ok_or_else(|| bad("the port is not valid"))?;
        let port = match port {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits
                    .parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| bad("the port is not valid"))?
            }
            Some(_) => return Err(bad("the port is not valid")),
        };
        let (host, address) = read_host(host)?;
        let target = Self { host, address, port, tls };
        if target.is_platform() && (tls || port != 80) {
            return Err(bad("the platform itself is reached by http, on port 80"));
        }
        Ok(target)
    }

    /// Whether it is the platform itself.
    #[must_use]
    pub fn is_platform(&self) -> bool {
        let before = self.host.strip_suffix(PLATFORM);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }

    /// What belongs into `Host`.
    #[must_use]
    pub fn host_header(&self) -> String {
        let host = match self.address {
            Some(IpAddr::V6(v6)) => format!("[{v6}]"),
            _ => self.host.clone(),
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Host and port of an authority without a user name; none for a bracket without its partner.
fn split(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.starts_with('[') {
        let end = authority.find(']')?;
        let (host, rest) = authority.split_at_checked(end + 1)?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None => Some((authority, None)),
    }
}

fn read_host(host: &str) -> Result<(String, Option<IpAddr>), Error> {
    let bad = |why: &str| Error::Authority(format!("{why}: {:?}", clip(host)));
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = inner.parse().map_err(|_| bad("not an IPv6 address"))?;
        let address = IpAddr::V6(address).to_canonical();
        return Ok((address.to_string(), Some(address)));
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok((address.to_string(), Some(IpAddr::V4(address))));
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(bad("a host name has 1 to 253 characters"));
    }
    for label in name.split('.') {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if label.is_empty() || label.len() > LABEL_MAX || !plain {
            return Err(bad("not a host name"));
        }
    }
    // What some resolvers take for an address: 127.1, 0x7f000001, 2130706433 (WHATWG URL, "ends in a number").
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex =
        last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    if hex || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad("neither a host name nor an address in its usual form"));
    }
    Ok((name, None))
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Target, Error> {
        // What cannot even be a URI is refused before.
        text.parse::<Uri>()
            .map_err(|e| Error::Authority(e.to_string()))
            .and_then(|uri| Target::read(&uri))
    }

    #[test]
    fn authorities_are_read_once_and_strictly() {
        let good = |text: &str| {
            let target = read(text).unwrap();
            (target.host.clone(), target.port, target.host_header())
        };
        let same = |host: &str, port, header: &str| (host.to_owned(), port, header.to_owned());
        assert_eq!(good("https://Example.COM/x"), same("example.com", 443, "example.com"));
        assert_eq!(good("http://example.com./"), same("example.com", 80, "example.com"));
        assert_eq!(good("http://example.com:443/"), same("example.com", 443, "example.com:443"));
        assert_eq!(good("http://192.0.2.1:8080/"), same("192.0.2.1", 8080, "192.0.2.1:8080"));
        assert_eq!(good("http://[2001:DB8::1]/"), same("2001:db8::1", 80, "[2001:db8::1]"));
        assert_eq!(good("http://[::ffff:127.0.0.1]/"), same("127.0.0.1", 80, "127.0.0.1"));
        for (text, is_platform) in [
            (PLATFORM_URL, true),
            ("http://wambda.internal/2015-03-31/functions", true),
            ("http://Wambda.INTERNAL.:80/", true),
            ("http://x.lambda-url.wambda.internal/", true),
            ("http://notwambda.internal:81/", false),
            ("http://wambda.internal.test/", false),
            ("http://internal/", false),
        ] {
            assert_eq!(read(text).unwrap().is_platform(), is_platform, "{text}");
        }
        for text in [
            "/relative",
            "https://wambda.internal/",
            "http://wambda.internal:5262/",
            "http://a.wambda.internal:443/",
            "ftp://a/",
            "http://user@a/",
            "http://a@b@c/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:+80/",
            "http://a:/",
            "http://a:80:80/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[fe80::1%25lo]/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://017700000001/",
            "http://0177.0.0.1/",
            "http://127.0.0.0x1/",
            "http://1.2.3.4.5/",
            "http://a..b/",
            "http://.a/",
            "http://./",
            "http://a%2eb/",
            "http://①②⑦.⓪.⓪.①/",
            "http://a\\b/",
            "http://127.0.0.1.:80@evil/",
        ] {
            assert!(read(text).is_err(), "{text} was read as {:?}", read(text));
        }
        assert!(read(&format!("http://{}.example/", "a".repeat(64))).is_err());
    }
}
