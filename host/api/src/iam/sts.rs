//! STS: who is asking, and temporary credentials of a role.

use wambda_policy::{Policy, Request as Question, may_assume};

use super::{Call, Cx, unknown};
use crate::aws::generated::sts::{
    AssumeRoleRequest, AssumeRoleResponse, AssumedRoleUser, Credentials, GetCallerIdentityRequest,
    GetCallerIdentityResponse, Op, SERVICE,
};
use crate::{ApiError, Response, auth};

/// Seconds of a session when nobody said.
const SESSION_S: i64 = 3_600;

pub(crate) async fn serve(
    cx: &Cx<'_>,
    action: &str,
    form: &Vec<(String, String)>,
) -> Result<Response, ApiError> {
    let found = SERVICE.operation(action);
    let op = found.and_then(|operation| operation.op).and_then(|at| Op::ALL.get(at));
    let (Some(operation), Some(op)) = (found, op) else { return Err(unknown(action)) };
    let call = Call { service: &SERVICE, operation, form };
    match op {
        Op::AssumeRole => call.answer(&assume(cx, call.input()?)?),
        Op::GetCallerIdentity => call.answer(&identity(cx, &call.input()?)),
    }
}

/// Everyone may ask who they are, whatever policies say.
fn identity(cx: &Cx<'_>, _: &GetCallerIdentityRequest) -> GetCallerIdentityResponse {
    GetCallerIdentityResponse {
        account: Some(cx.account().to_owned()),
        arn: Some(cx.who.arn()),
        user_id: Some(cx.who.id.clone()),
    }
}

fn assume(cx: &Cx<'_>, input: AssumeRoleRequest) -> Result<AssumeRoleResponse, ApiError> {
    let denied = || {
        let (who, role) = (cx.who.arn(), &input.role_arn);
        let message =
            format!("User: {who} is not authorized to perform: sts:AssumeRole on resource: {role}");
        ApiError::aws(403, "AccessDenied", message)
    };
    if input.policy.is_some() || input.policy_arns.as_ref().is_some_and(|all| !all.is_empty()) {
        let message = "session policies are not supported: a session has its role's permissions";
        return Err(ApiError::aws(400, "ValidationError", message));
    }
    let directory = cx.directory();
    let role = directory.role_of(&input.role_arn).ok_or_else(denied)?;
    let external = input.external_id.as_ref().map(|id| auth::fact("sts:ExternalId", id));
    let session = auth::fact("sts:RoleSessionName", &input.role_session_name);
    let question = Question {
        principal: cx.who.principal.clone(),
        action: "sts:AssumeRole".to_owned(),
        resource: role.entity.arn.clone(),
        context: auth::facts_of(cx.who).into_iter().chain(external).chain([session]).collect(),
    };
    let own: Vec<&Policy> = cx.who.policies.iter().map(|policy| &**policy).collect();
    if !cx.who.trusted && !may_assume(&question, &own, &role.trust) {
        return Err(denied());
    }
    let seconds = input.duration_seconds.unwrap_or(SESSION_S);
    let most = i64::from(role.session_max_s);
    if seconds > most {
        let message =
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
        return Err(ApiError::aws(400, "ValidationError", message));
    }
    let directories = &cx.api.auth.directories;
    let length = u32::try_from(seconds).unwrap_or_default();
    let (session, secret, token) = directories.assume(role, &input.role_session_name, length);
    let (account, name) = (cx.account(), &role.entity.name);
    Ok(AssumeRoleResponse {
        assumed_role_user: Some(AssumedRoleUser {
            arn: format!("arn:aws:sts::{account}:assumed-role/{name}/{}", session.name),
            assumed_role_id: format!("{}:{}", session.role_id, session.name),
        }),
        credentials: Some(Credentials {
            access_key_id: session.access_key,
            expiration: (session.expires_ms / 1_000) as f64,
            secret_access_key: secret,
            session_token: token,
        }),
        packed_policy_size: None,
        ..AssumeRoleResponse::default()
    })
}
