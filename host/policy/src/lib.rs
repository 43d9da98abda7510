//! Policy documents and decisions, as AWS makes them: default deny, explicit deny wins, identity and
//! resource policies together. Pure: documents and a request come in, a decision comes out.
//!
//! The crate `iam-rs` checks documents, and judges conditions on numbers, dates and addresses. The
//! rest is here: principals, wildcards, texts, the combination of policies, and failing closed.
//! Policies and requests come from strangers, so the work of a decision is bounded: see
//! [`wildcard`]. Source: "Policy evaluation logic", IAM User Guide.
//!
//! Not here: users and roles (see `control`), and what a request is about (see `api`).

mod condition;
pub mod document;
pub mod facts;
pub mod grants;
mod prepared;
mod principal;
pub mod resource;
mod statement;
mod variable;
pub mod wildcard;

pub use document::{MalformedPolicy, Policy};
pub use grants::Grants;
pub use resource::ResourcePolicy;

use prepared::Prepared;

/// Bytes of the action of a request.
pub const ACTION_BYTES_MAX: usize = 128;
/// Bytes of a resource's ARN, and of each fact of a request (ARNs of AWS: 2,048).
pub const TEXT_BYTES_MAX: usize = 2_048;
/// Statements of one document.
pub const STATEMENTS_MAX: usize = 500;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Somebody who did not say.
    Anonymous,
    /// The account itself, which may do everything that no resource denies.
    Root {
        /// Twelve digits.
        account: String,
    },
    /// A user, or a session of a role.
    Identity {
        /// For example `arn:aws:iam::123456789012:user/ada`.
        arn: String,
        /// The role's own ARN, for a session of one.
        role: Option<String>,
        /// Twelve digits.
        account: String,
    },
    /// A service, for example `events.amazonaws.com`.
    Service(String),
}

/// A value of a request's context.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text; numbers and addresses as well.
    Text(String),
    /// True or false.
    Bool(bool),
}

/// What somebody wants to do.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who.
    pub principal: Principal,
    /// What, for example `lambda:InvokeFunction`.
    pub action: String,
    /// To what: an ARN.
    pub resource: String,
    /// Facts for conditions; keys are not case-sensitive.
    pub context: Vec<(String, Value)>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Some statement allows it, and none denies it.
    Allow,
    /// A statement denies it.
    ExplicitDeny,
    /// No statement allows it.
    ImplicitDeny,
}

/// Decides by the policies of who asks, and that of what is asked for. A request with an action, a
/// resource or a fact that is too long cannot be judged: nothing allows it, and each denying
/// statement applies to it.
#[must_use]
pub fn decide(request: &Request, identity: &[&Policy], resource: Option<&Policy>) -> Decision {
    let prepared = Prepared::new(request);
    let prepared = prepared.as_ref();
    let mut allowed = matches!(request.principal, Principal::Root { .. });
    for policy in identity {
        match policy.judge(prepared, None) {
            Decision::ExplicitDeny => return Decision::ExplicitDeny,
            Decision::Allow => allowed = true,
            Decision::ImplicitDeny => {}
        }
    }
    match resource.map(|policy| policy.judge(prepared, Some(&request.principal))) {
        Some(Decision::ExplicitDeny) => Decision::ExplicitDeny,
        Some(Decision::Allow) => Decision::Allow,
        _ if allowed => Decision::Allow,
        _ => Decision::ImplicitDeny,
    }
}

/// Whether somebody may assume a role: its trust policy names them; or it names their account, and
/// their own policies allow it.
#[must_use]
pub fn may_assume(request: &Request, identity: &[&Policy], trust: &Policy) -> bool {
    let prepared = Prepared::new(request);
    let prepared = prepared.as_ref();
    let asking = Some(&request.principal);
    let own: Vec<Decision> = identity.iter().map(|policy| policy.judge(prepared, None)).collect();
    if own.contains(&Decision::ExplicitDeny) {
        return false;
    }
    let is_root = matches!(request.principal, Principal::Root { .. });
    let handed_on = is_root || own.contains(&Decision::Allow);
    trust.judge(prepared, asking) == Decision::Allow
        || (handed_on && trust.judge_for(prepared, asking, true) == Decision::Allow)
}
