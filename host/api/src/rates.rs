//! How many requests an address may send: decided before anybody is asked who they are. By GCRA, as `governor`
//! has it.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::{Quota, RateLimiter};

use crate::ApiError;
use crate::within::is_within;

/// What peers are told apart by: an IPv4 address, or the first 64 bits of an IPv6 address, which are one
/// subscriber's (RFC 6177).
#[must_use]
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The requests of each subscriber, bounded by second, or not at all.
#[derive(Debug, Default)]
pub struct Rates(Option<Limited>);

#[derive(Debug)]
struct Limited {
    limiter:
        RateLimiter<IpAddr, governor::state::keyed::DefaultKeyedStateStore<IpAddr>, MonotonicClock>,
    per_second: NonZeroU32,
}

impl Rates {
    /// So many requests a second of each subscriber, and as many at once; any number when there is none.
    #[must_use]
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        let limited = per_second.map(|per_second| {
            let limiter =
                RateLimiter::dashmap_with_clock(Quota::per_second(per_second), MonotonicClock);
            Limited { limiter, per_second }
        });
        Self(limited)
    }

    /// Counts one request.
    ///
    /// # Errors
    /// When it is one too many: 429, with the time after which it is not.
    pub(crate) fn check(&self, peer: IpAddr) -> Result<(), ApiError> {
        let Some(Limited { limiter, per_second }) = &self.0 else { return Ok(()) };
        // Functions are told apart, and not taken for one subscriber.
        let by = if is_within(peer) { peer } else { subscriber(peer) };
        limiter.check_key(&by).map_err(|early| {
            let wait = early.wait_time_from(MonotonicClock.now());
            ApiError::too_many(per_second.get(), wait.max(Duration::from_secs(1)))
        })
    }

    /// Forgets those who have not sent anything for a while.
    pub fn forget(&self) {
        if let Some(Limited { limiter, .. }) = &self.0 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribers_are_told_apart() {
        for (address, of) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(subscriber(address).to_string(), of);
        }
    }

    #[test]
    fn each_has_their_own_rate() {
        let rates = Rates::new(NonZeroU32::new(3));
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let good = |peer| (0..10).filter(|_| rates.check(peer).is_ok()).count();
        assert_eq!((good(one), good(other), good(one)), (3, 3, 0));
        let refused = rates.check(one).unwrap_err();
        assert_eq!(refused.message(), "Rate exceeded: 3 requests a second are allowed");
        rates.forget();
        assert!(rates.check(one).is_err(), "who was refused just now is not forgotten");
        assert_eq!((0..100).filter(|_| Rates::default().check(one).is_ok()).count(), 100);
    }
}
