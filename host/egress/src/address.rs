//! Which addresses may be dialled: those of the public Internet, and what the operator lists.
//!
//! Sources: the IANA special-purpose address registries for IPv4 and IPv6 (RFC 6890 and what updates
//! it), and the forms in which an IPv6 address carries an IPv4 one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), length)
}

const V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "shared by carriers"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 31, 196, 0, 24), "AS112"),
    (v4(192, 52, 193, 0, 24), "AMT"),
    (v4(192, 88, 99, 0, 24), "6to4 relays"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(192, 175, 48, 0, 24), "AS112"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// Within 2000::/3; everything beyond that is forbidden at once.
const V6: &[(Ipv6Net, &str)] = &[
    (v6(0x2001, 0, 23), "protocol assignments, Teredo among them"),
    (v6(0x2001, 0xdb8, 32), "documentation"),
    (v6(0x2002, 0, 16), "6to4, which carries IPv4 addresses"),
    (v6(0x2620, 0x4f, 32), "AS112"),
    (v6(0x3fff, 0, 20), "documentation"),
];

/// The address that is dialled in the end: `::ffff:a.b.c.d` is IPv4.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// What may be dialled.
#[derive(Debug, Clone)]
pub struct Rules {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    own: SocketAddr,
}

impl Rules {
    /// `deny` comes before `allow`, and `own`, where this server listens, before both.
    #[must_use]
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>, own: SocketAddr) -> Self {
        Self { allow, deny, own }
    }

    /// Why `at` may not be dialled; none when it may.
    #[must_use]
    pub fn forbidden(&self, at: SocketAddr) -> Option<&'static str> {
        let address = canonical(at.ip());
        // A translator on the way would dial the address within.
        if let Some(inner) = embedded(address)
            && let Some(why) = self.forbidden(SocketAddr::new(inner, at.port()))
        {
            return Some(why);
        }
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        if within(&self.deny) {
            return Some("denied by the operator");
        }
        if at.port() == self.own.port() && self.is_own(address) {
            return Some("this server");
        }
        if within(&self.allow) { None } else { special(address) }
    }

    /// Whether a connection to `address` on our port would reach this server.
    fn is_own(&self, address: IpAddr) -> bool {
        let own = canonical(self.own.ip());
        address == own
            || address.is_unspecified()
            // An address of this machine is one that a socket can be bound to.
            || (own.is_unspecified() && UdpSocket::bind((address, 0)).is_ok())
    }
}

/// The IPv4 address that an IPv6 one stands for: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let of = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match [a, b, c, d, e, f] {
        [0x64, 0xff9b, 0, 0, 0, 0] => Some(of(high, low)),
        [0x2002, ..] => Some(of(b, c)),
        _ => None,
    }
}

/// Why an address is not one of the public Internet.
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static str> {
    match canonical(address) {
        IpAddr::V4(v4) => V4.iter().find(|(network, _)| network.contains(&v4)).map(|(_, why)| *why),
        IpAddr::V6(v6) if v6.segments().first().is_none_or(|first| first >> 13 != 1) => {
            Some("not a global unicast address")
        }
        IpAddr::V6(v6) => V6.iter().find(|(network, _)| network.contains(&v6)).map(|(_, why)| *why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_public_internet_only() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(special(text.parse().unwrap()).is_some(), "{text} is not public");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
            "2003::1",
        ] {
            assert_eq!(special(text.parse().unwrap()), None, "{text} is public");
        }
    }

    #[test]
    fn the_operator_comes_first_and_the_server_is_never_reached() {
        let net = |text: &str| vec![text.parse().unwrap()];
        let rules =
            |own: &str| Rules::new(net("127.0.0.0/8"), net("127.0.0.3/32"), own.parse().unwrap());
        let at = |text: &str| text.parse().unwrap();
        let own = rules("127.0.0.1:5262");
        assert_eq!(own.forbidden(at("127.0.0.2:80")), None);
        assert_eq!(own.forbidden(at("127.0.0.3:80")), Some("denied by the operator"));
        assert_eq!(own.forbidden(at("127.0.0.1:80")), None);
        assert_eq!(own.forbidden(at("127.0.0.1:5262")), Some("this server"));
        assert_eq!(own.forbidden(at("[::ffff:127.0.0.1]:5262")), Some("this server"));
        assert_eq!(own.forbidden(at("10.0.0.1:80")), Some("private"));
        let everywhere = rules("0.0.0.0:5262");
        assert_eq!(everywhere.forbidden(at("127.0.0.9:5262")), Some("this server"));
        assert_eq!(everywhere.forbidden(at("127.0.0.9:5263")), None);
        assert_eq!(everywhere.forbidden(at("8.8.8.8:5262")), None);
        let translated = Rules::new(net("64:ff9b::/96"), vec![], at("127.0.0.1:1"));
        assert_eq!(translated.forbidden(at("[64:ff9b::8.8.8.8]:80")), None);
        assert_eq!(translated.forbidden(at("[64:ff9b::127.0.0.1]:80")), Some("loopback"));
        assert_eq!(translated.forbidden(at("[64:ff9b::169.254.169.254]:80")), Some("link-local"));
    }
}
