//! What an instance may reach: its execution role's policies.

use std::sync::Arc;

use crate::facts::Asking;
use crate::{Decision, Policy, Principal, Request, decide};

/// What the instances of a version may reach. Without a role, or with one that is not known: nothing.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    session: Option<Session>,
}

/// A role's session: as whom a function calls.
#[derive(Debug, Clone)]
pub struct Session {
    /// As policies see it.
    pub principal: Principal,
    /// Unique id: the role's, and the name of the session.
    pub id: String,
    /// The role's policies.
    pub policies: Vec<Arc<Policy>>,
    /// The region whose functions assume it.
    pub region: Arc<str>,
}

/// The action that a role must be allowed for a function to open an outgoing connection; resources
/// are [`host_arn`]s.
pub const CONNECT: &str = "wambda:Connect";

/// The ARN that stands for a host and port in policies.
#[must_use]
pub fn host_arn(host: &str, port: u16) -> String {
    format!("arn:aws:wambda:::host/{}:{port}", host.to_ascii_lowercase())
}

impl Grants {
    /// The grants of a role's session.
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self { session: Some(session) }
    }

    /// As whom the instances call; none without a role.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Whether `action` on `resource`, an ARN, is allowed now, in seconds since the Unix epoch.
    #[must_use]
    pub fn allow(&self, action: &str, resource: &str, now_s: u64) -> bool {
        let Some(session) = &self.session else { return false };
        let account = match &session.principal {
            Principal::Identity { account, .. } => account,
            _ => "",
        };
        let asking = Asking {
            principal: &session.principal,
            id: &session.id,
            user: "",
            region: &session.region,
            account,
            issued_s: Some(now_s),
        };
        let asks = session.policies.iter().any(|policy| policy.has_conditions());
        let request = Request {
            principal: session.principal.clone(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            context: if asks { asking.facts(now_s) } else { Vec::new() },
        };
        let policies: Vec<&Policy> = session.policies.iter().map(|policy| &**policy).collect();
        decide(&request, &policies, None) == Decision::Allow
    }

    /// Whether a connection to `host` and `port` is allowed now, in seconds since the Unix epoch.
    #[must_use]
    pub fn allow_host(&self, host: &str, port: u16, now_s: u64) -> bool {
        self.allow(CONNECT, &host_arn(host, port), now_s)
    }
}
