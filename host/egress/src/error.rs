//! Why a request was not sent, or did not end well.

use std::net::IpAddr;

/// Why a request was not sent, or did not end well. Texts are for the function's owner.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The function may not reach this host.
    #[error("the function's execution role does not allow wambda:Connect on {arn}")]
    Denied {
        /// What a policy would have to allow.
        arn: String,
    },
    /// The function has no role by which its calls could be judged.
    #[error("functions without an execution role may not call the platform's own services")]
    Roleless,
    /// Nobody may reach this address.
    #[error(
        "{host} is at {address}, which may not be reached ({why}) unless the operator lists it"
    )]
    Address {
        /// The host asked for.
        host: String,
        /// One of its addresses.
        address: IpAddr,
        /// What it is.
        why: &'static str,
    },
    /// The URI cannot be read without doubt.
    #[error("the request's URI is refused: {0}")]
    Authority(String),
    /// The name has no address.
    #[error("cannot resolve {host}: {why}")]
    Name {
        /// The host asked for.
        host: String,
        /// What the resolver says.
        why: String,
    },
    /// No answer from the name servers in time.
    #[error("cannot resolve {0} in time")]
    NameTime(String),
    /// Nobody listens there.
    #[error("cannot connect to {host}: {why}")]
    Connect {
        /// The host asked for.
        host: String,
        /// What the machine says.
        why: String,
    },
    /// Nobody answers there.
    #[error("cannot connect to {0} in time")]
    ConnectTime(String),
    /// Too many connections.
    #[error("{what} may have {limit} outgoing connections at once")]
    Connections {
        /// The invocation, or the server.
        what: &'static str,
        /// How many.
        limit: usize,
    },
    /// No TLS with that server.
    #[error("no TLS with {host}: {why}")]
    Tls {
        /// The host asked for.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// The head of the response did not come.
    #[error("no response within {0} ms")]
    HeadTime(u128),
    /// A body stalled.
    #[error("nothing of the body within {0} ms")]
    BodyTime(u128),
    /// A body was too long.
    #[error("an invocation may {verb} {limit} bytes of outgoing requests' bodies")]
    Bytes {
        /// send or receive
        verb: &'static str,
        /// How many.
        limit: u64,
    },
    /// The invocation's time is over.
    #[error("the invocation's time is over")]
    Deadline,
    /// The peer does not speak HTTP, or went away.
    #[error("the exchange failed: {0}")]
    Protocol(String),
}

impl Error {
    /// The label in metrics.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Denied { .. } | Self::Roleless => "denied",
            Self::Address { .. } | Self::Authority(_) => "forbidden",
            Self::Name { .. } | Self::NameTime(_) => "dns",
            Self::Connect { .. } | Self::Tls { .. } => "connect",
            Self::Connections { .. } | Self::Bytes { .. } => "limit",
            Self::ConnectTime(_) | Self::HeadTime(_) | Self::BodyTime(_) | Self::Deadline => {
                "timeout"
            }
            Self::Protocol(_) => "protocol",
        }
    }
}
