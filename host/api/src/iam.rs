//! IAM and STS, as far as Lambda's users, Terraform and SDKs call them: users with access keys,
//! roles, policies. The query protocol: a form in, XML out.

pub mod entities;
pub mod policies;
pub mod roles;
pub mod sts;
pub mod users;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wambda_control::directory::{Directory, Role};
use wambda_model::limits::IAM_POLICY_BYTES_MAX;
use wambda_policy::facts;
use wambda_policy::{Decision, Policy, Principal, Request as Question, decide};

use crate::auth::{self, Who};
use crate::aws::generated::iam::{Op, SERVICE, Tag};
use crate::aws::generated::sts as sts_model;
use crate::aws::shape::{Operation, Service};
use crate::aws::{Nothing, bind, render};
use crate::{Api, ApiError, Response, Surface};

/// What every operation gets besides its input.
pub(crate) struct Cx<'a> {
    pub(crate) api: &'a Arc<Api>,
    pub(crate) who: &'a Who,
}

impl Cx<'_> {
    pub(crate) fn account(&self) -> &str {
        &self.api.identity.account
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.api.auth.directories.current()
    }

    /// Changes the directory.
    pub(crate) async fn edit<T>(
        &self,
        change: impl FnOnce(&mut Directory) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.api.auth.directories.edit(change).await
    }
}

/// An error of IAM.
pub(crate) fn error(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::of(&SERVICE, code, message)
}

type Form = Vec<(String, String)>;

/// A form's surface, by its `Action` and `Version`.
#[must_use]
pub(crate) fn surface_of(form: &Form) -> Option<Surface> {
    let value = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
    let action = value("Action")?;
    match value("Version") {
        Some(version) if version == SERVICE.version => Some(Surface::Iam),
        Some(version) if version == sts_model::SERVICE.version => Some(Surface::Sts),
        Some(_) => None,
        None if sts_model::SERVICE.operation(action).is_some() => Some(Surface::Sts),
        None => Some(Surface::Iam),
    }
}

/// Answers a form.
pub(crate) async fn serve(
    api: &Arc<Api>,
    surface: Surface,
    form: &Form,
    (parts, body): (&Parts, &[u8]),
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let hash = auth::hash(api, parts, body);
    let who = auth::authenticate(api, surface, parts, &hash, peer)?;
    let action = form.iter().find(|(key, _)| key == "Action").map_or("", |(_, value)| value);
    let cx = Cx { api, who: &who };
    if surface == Surface::Sts {
        return sts::serve(&cx, action, form).await;
    }
    let found = SERVICE.operation(action);
    let op = found.and_then(|operation| operation.op).and_then(|at| Op::ALL.get(at));
    let (Some(operation), Some(op)) = (found, op) else { return Err(unknown(action)) };
    authorize(&cx, operation, form)?;
    dispatch(&cx, *op, &Call { service: &SERVICE, operation, form }).await
}

/// No such operation here.
pub(crate) fn unknown(action: &str) -> ApiError {
    let action: String = action.chars().take(100).collect();
    ApiError::aws(400, "InvalidAction", format!("Could not find operation {action} here"))
}

/// Whether the caller may do this to what the operation is about: a role, a user or a policy, by the
/// member that the operation has. Members that it does not have say nothing.
fn authorize(cx: &Cx<'_>, operation: &Operation, form: &Form) -> Result<(), ApiError> {
    let members = operation.input.map_or(&[][..], |at| SERVICE.shape(at).members);
    let takes = |name: &str| members.iter().any(|member| member.wire == name);
    let value = |name: &str| {
        let sent = form.iter().find(|(key, _)| key == name);
        sent.filter(|_| takes(name)).map(|(_, value)| value.as_str())
    };
    let account = cx.account();
    let directory = cx.directory();
    let unknown = |noun: &str, name: &str| {
        format!("arn:aws:iam::{account}:{noun}{}{name}", value("Path").unwrap_or("/"))
    };
    let resource = if let Some(name) = value("RoleName") {
        let known = directory.roles.get(name).map(|role| role.entity.arn.clone());
        known.unwrap_or_else(|| unknown("role", name))
    } else if let Some(name) = value("UserName") {
        let known = directory.users.get(name).map(|user| user.entity.arn.clone());
        known.unwrap_or_else(|| unknown("user", name))
    } else if takes("UserName") {
        // The caller's own.
        cx.who.arn()
    } else if let Some(arn) = value("PolicyArn") {
        arn.to_owned()
    } else if let Some(name) = value("PolicyName") {
        unknown("policy", name)
    } else {
        format!("arn:aws:iam::{account}:*")
    };
    let policy = value("PolicyArn").map(|arn| auth::fact("iam:PolicyARN", arn));
    let action = format!("iam:{}", operation.name);
    auth::authorize_with(
        Surface::Iam,
        cx.who,
        &action,
        &resource,
        (None, policy.into_iter().collect()),
    )
}

/// A form for an operation.
pub(crate) struct Call<'a> {
    pub(crate) service: &'static Service,
    pub(crate) operation: &'static Operation,
    pub(crate) form: &'a Form,
}

impl Call<'_> {
    pub(crate) fn input<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        bind::form(self.service, self.operation, self.form)
    }

    pub(crate) fn answer(&self, output: &impl Serialize) -> Result<Response, ApiError> {
        render::respond(self.service, self.operation, output)
    }
}

async fn dispatch(cx: &Cx<'_>, op: Op, call: &Call<'_>) -> Result<Response, ApiError> {
    macro_rules! run {
        ($operation:path) => {
            call.answer(&$operation(cx, call.input()?).await?)
        };
    }
    match op {
        Op::AttachRolePolicy => run!(roles::attach),
        Op::AttachUserPolicy => run!(users::attach),
        Op::CreateAccessKey => run!(users::create_key),
        Op::CreatePolicy => run!(policies::create),
        Op::CreatePolicyVersion => run!(policies::create_version),
        Op::CreateRole => run!(roles::create),
        Op::CreateUser => run!(users::create),
        Op::DeleteAccessKey => run!(users::delete_key),
        Op::DeletePolicy => run!(policies::delete),
        Op::DeletePolicyVersion => run!(policies::delete_version),
        Op::DeleteRole => run!(roles::delete),
        Op::DeleteRolePolicy => run!(roles::delete_inline),
        Op::DeleteUser => run!(users::delete),
        Op::DeleteUserPolicy => run!(users::delete_inline),
        Op::DetachRolePolicy => run!(roles::detach),
        Op::DetachUserPolicy => run!(users::detach),
        Op::GetPolicy => run!(policies::get),
        Op::GetPolicyVersion => run!(policies::get_version),
        Op::GetRole => run!(roles::get),
        Op::GetRolePolicy => run!(roles::get_inline),
        Op::GetUser => run!(users::get),
        Op::GetUserPolicy => run!(users::get_inline),
        Op::ListAccessKeys => run!(users::list_keys),
        Op::ListAttachedRolePolicies => run!(roles::list_attached),
        Op::ListAttachedUserPolicies => run!(users::list_attached),
        Op::ListInstanceProfilesForRole => run!(roles::instance_profiles),
        Op::ListPolicies => run!(policies::list),
        Op::ListPolicyVersions => run!(policies::list_versions),
        Op::ListRolePolicies => run!(roles::list_inline),
        Op::ListRoleTags => run!(roles::list_tags),
        Op::ListRoles => run!(roles::list),
        Op::ListUserPolicies => run!(users::list_inline),
        Op::ListUsers => run!(users::list),
        Op::PutRolePolicy => run!(roles::put_inline),
        Op::PutUserPolicy => run!(users::put_inline),
        Op::SetDefaultPolicyVersion => run!(policies::set_default),
        Op::TagRole => run!(roles::tag),
        Op::UntagRole => run!(roles::untag),
        Op::UpdateAccessKey => run!(users::update_key),
        Op::UpdateAssumeRolePolicy => run!(roles::update_trust),
        Op::UpdateRole => run!(roles::update),
        Op::UpdateRoleDescription => run!(roles::update_description),
    }
}

/// Whether Lambda may assume a role.
#[must_use]
pub(crate) fn lambda_may_assume(role: &Role) -> bool {
    let question = Question {
        principal: Principal::Service("lambda.amazonaws.com".to_owned()),
        action: "sts:AssumeRole".to_owned(),
        resource: role.entity.arn.clone(),
        context: Vec::new(),
    };
    decide(&question, &[], Some(&role.trust)) == Decision::Allow
}

/// A document that somebody sends.
pub(crate) fn document(text: &str) -> Result<Policy, ApiError> {
    let size = text.chars().filter(|c| !c.is_whitespace()).count();
    if size > IAM_POLICY_BYTES_MAX {
        let message =
            format!("Maximum policy size of {IAM_POLICY_BYTES_MAX} bytes exceeded, got {size}");
        return Err(error("LimitExceeded", message));
    }
    let policy = Policy::parse(text).map_err(|wrong| {
        error("MalformedPolicyDocument", format!("Syntax errors in policy. {wrong}"))
    })?;
    if let Some(key) = policy.condition_keys().find(|key| facts::is_missing(key)) {
        let message = format!(
            "the condition key {key} is not supported here: no request has it, so that the \
             statement would not apply as it does on AWS"
        );
        return Err(error("MalformedPolicyDocument", message));
    }
    Ok(policy)
}

/// A policy for a user or role: it names no principal.
pub(crate) fn identity_document(text: &str) -> Result<Policy, ApiError> {
    let policy = document(text)?;
    if policy.names_principals() {
        return Err(error(
            "MalformedPolicyDocument",
            "Policy document should not specify a principal.",
        ));
    }
    Ok(policy)
}

/// A document as IAM shows it: encoded for a URL.
pub(crate) fn shown_document(policy: &Policy) -> String {
    utf8_percent_encode(&policy.document().to_string(), NON_ALPHANUMERIC).to_string()
}

/// Tags that somebody sends.
pub(crate) fn tags(given: Option<Vec<Tag>>) -> Result<BTreeMap<String, String>, ApiError> {
    let given = given.unwrap_or_default();
    if given.len() > wambda_model::limits::TAGS_MAX {
        return Err(error("LimitExceeded", "The number of tags has reached the maximum limit."));
    }
    let mut tags = BTreeMap::new();
    for Tag { key, value } in given {
        if tags.insert(key, value).is_some() {
            return Err(error(
                "InvalidInput",
                "Duplicate tag keys found. Please note that Tag keys are case insensitive.",
            ));
        }
    }
    Ok(tags)
}

/// Tags as IAM shows them.
pub(crate) fn shown_tags(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: key.clone(), value: value.clone() }).collect()
}

/// Seconds since the Unix epoch.
pub(crate) fn seconds(unix_ms: u64) -> f64 {
    (unix_ms / 1_000) as f64
}
