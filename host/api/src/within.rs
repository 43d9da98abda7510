//! Callers who are functions of this server. They come by a way that is kept for them, so that who calls is known, and may do
//! what their execution roles may; or they sign as somebody else, and are that.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use http::header::AUTHORIZATION;
use http::request::Parts;
use wambda_control::Directories;
use wambda_model::limits::INSIDE_ACCESS_KEY;
use wambda_model::{Digest, Version};
use wambda_sigv4::AuthError;

use crate::auth::{Who, access_key};

/// The function that sends a request. It stands in the request's extensions, which nothing that comes off a wire can write.
#[derive(Debug, Clone)]
pub struct Within(Arc<Version>);

/// The first 64 bits of what stands for functions' addresses, another one in each process: of those for local use (RFC 4193,
/// 3.1).
static PREFIX: LazyLock<[u8; 8]> = LazyLock::new(|| {
    let mut prefix = fastrand::u64(..).to_be_bytes();
    prefix[0] = 0xfd;
    prefix
});

/// Whether it stands for a function.
pub(crate) fn is_within(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.octets().starts_with(&*PREFIX))
}

impl Within {
    /// Requests of this version's instances.
    #[must_use]
    pub fn new(caller: &Arc<Version>) -> Self {
        Self(Arc::clone(caller))
    }

    /// What stands for its address where callers are told apart by theirs: one for each function, and one subscriber's all of
    /// them.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let digest = Digest::of(self.0.name.as_str().as_bytes());
        let mut octets = [0; 16];
        let all = PREFIX.iter().chain(digest.bytes());
        octets.iter_mut().zip(all).for_each(|(octet, of)| *octet = *of);
        SocketAddr::new(Ipv6Addr::from(octets).into(), 0)
    }

    /// Whether it has signed with other credentials than those that stand for its role in its environment.
    pub(crate) fn signs_as_another(&self, parts: &Parts) -> bool {
        let by_query = parts.uri.query().is_some_and(|query| query.contains("X-Amz-Credential="));
        let by_header = parts.headers.contains_key(AUTHORIZATION)
            && access_key(parts) != Some(INSIDE_ACCESS_KEY);
        by_query || by_header
    }

    /// What it may do is what its execution role may by now, also when it belongs to a version that is gone.
    pub(crate) fn who(
        &self,
        directories: &Directories,
        peer: SocketAddr,
    ) -> Result<Who, AuthError> {
        let known = self.0.grants.load();
        let role = &self.0.attributes.role;
        let directory = directories.current();
        let is_trusted =
            directory.role_of(role).is_some_and(|role| crate::iam::lambda_may_assume(role));
        let now = directories.grants(role, &self.0.name);
        // A role that was deleted and made anew is another one.
        let session = now
            .session()
            .filter(|now| is_trusted && known.session().is_some_and(|known| known.id == now.id));
        let session = session.ok_or_else(|| {
            AuthError::Invalid("the execution role is gone, or Lambda may not assume it".to_owned())
        })?;
        Ok(Who {
            principal: session.principal.clone(),
            policies: session.policies.clone(),
            id: session.id.clone(),
            // It is made for each request.
            issued_ms: Some(wambda_model::clock::unix_ms()),
            ..Who::anonymous(peer)
        })
    }
}
