//! A function's own policy: who may call it.

use serde_json::{Map, Value, json};
use wambda_model::limits::POLICY_BYTES_MAX;
use wambda_model::{Details, Function};

use super::{Cx, Nothing, shape};
use crate::ApiError;
use crate::aws::generated::lambda::{
    AddPermissionRequest, AddPermissionResponse, GetPolicyRequest, GetPolicyResponse,
    RemovePermissionRequest,
};
use crate::name::Named;

/// What names the state that a policy belongs to.
fn revision(function: &Function, named: &Named) -> String {
    if let Some(alias) = function.details.aliases.get(named.or_latest()) {
        return alias.revision_id.clone();
    }
    let version = function.version(named.or_latest()).unwrap_or(&function.latest);
    shape::revision_id(function, version).to_owned()
}

/// The principal as policies write it.
pub(crate) fn principal(text: &str) -> Value {
    match text {
        "*" => json!("*"),
        text if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) => {
            json!({"AWS": format!("arn:aws:iam::{text}:root")})
        }
        text if text.starts_with("arn:") => json!({"AWS": text}),
        text => json!({"Service": text}),
    }
}

fn statement(input: &AddPermissionRequest, arn: &str) -> Value {
    let mut conditions: Map<String, Value> = Map::new();
    let mut add = |operator: &str, key: &str, value: Option<&str>| {
        let Some(value) = value else { return };
        let slot = conditions.entry(operator).or_insert_with(|| json!({}));
        if let Some(slot) = slot.as_object_mut() {
            slot.insert(key.to_owned(), value.into());
        }
    };
    add("StringEquals", "AWS:SourceAccount", input.source_account.as_deref());
    add("StringEquals", "aws:PrincipalOrgID", input.principal_org_id.as_deref());
    add("StringEquals", "lambda:EventSourceToken", input.event_source_token.as_deref());
    add("StringEquals", "lambda:FunctionUrlAuthType", input.function_url_auth_type.as_deref());
    let via_url = input.invoked_via_function_url.map(|via| if via { "true" } else { "false" });
    add("Bool", "lambda:InvokedViaFunctionUrl", via_url);
    add("ArnLike", "AWS:SourceArn", input.source_arn.as_deref());
    let mut statement = json!({
        "Sid": input.statement_id,
        "Effect": "Allow",
        "Principal": principal(&input.principal),
        "Action": input.action,
        "Resource": arn,
    });
    if let (false, Some(statement)) = (conditions.is_empty(), statement.as_object_mut()) {
        statement.insert("Condition".to_owned(), Value::Object(conditions));
    }
    statement
}

fn check(input: &AddPermissionRequest) -> Result<(), ApiError> {
    let service = !matches!(principal(&input.principal), Value::Object(ref p) if p.contains_key("AWS"))
        && input.principal != "*";
    if service && !input.principal.contains('.') {
        return Err(ApiError::value(
            "The provided principal was invalid. Please check the principal and try again.",
        ));
    }
    if input.function_url_auth_type.is_some() && input.action != "lambda:InvokeFunctionUrl" {
        return Err(ApiError::value(
            "FunctionUrlAuthType is only supported for lambda:InvokeFunctionUrl action",
        ));
    }
    Ok(())
}

pub(crate) async fn add(
    cx: &Cx<'_>,
    input: AddPermissionRequest,
) -> Result<AddPermissionResponse, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    let function = cx.qualified(&named)?;
    check(&input)?;
    if input.revision_id.as_ref().is_some_and(|id| *id != revision(&function, &named)) {
        return Err(ApiError::stale());
    }
    let statement = statement(&input, &named.qualified_arn(cx.identity()));
    let text = statement.to_string();
    let qualifier = named.or_latest().to_owned();
    let change = move |_: &Function, details: &mut Details| {
        let policy = details.policies.entry(qualifier).or_default();
        let sid = &input.statement_id;
        if policy.statement(sid).is_some() {
            return Err(ApiError::lambda(
                "ResourceConflictException",
                format!(
                    "The statement id ({sid}) provided already exists. Please provide a new statement id, or remove the existing statement."
                ),
            ));
        }
        let grown = policy.with(statement).map_err(|error| ApiError::value(error.to_string()))?;
        let size = grown.document().to_string().len();
        if size > POLICY_BYTES_MAX {
            return Err(ApiError::lambda(
                "PolicyLengthExceededException",
                format!(
                    "The final policy size ({size}) is bigger than the limit ({POLICY_BYTES_MAX})."
                ),
            ));
        }
        *policy = grown;
        details.revision_id = wambda_model::RequestId::random().to_string();
        Ok(())
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(AddPermissionResponse { statement: Some(text) })
}

pub(crate) async fn remove(
    cx: &Cx<'_>,
    input: RemovePermissionRequest,
) -> Result<Nothing, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    let function = cx.qualified(&named)?;
    if input.revision_id.as_ref().is_some_and(|id| *id != revision(&function, &named)) {
        return Err(ApiError::stale());
    }
    let qualifier = named.or_latest().to_owned();
    let missing = |message: String| ApiError::lambda("ResourceNotFoundException", message);
    let change = move |_: &Function, details: &mut Details| {
        let nothing = || missing("No policy is associated with the given resource.".to_owned());
        let policy = details.policies.get(&qualifier).ok_or_else(nothing)?;
        if policy.is_empty() {
            return Err(nothing());
        }
        let left = policy.without(&input.statement_id);
        let left = left.map_err(|error| ApiError::value(error.to_string()))?;
        let left = left.ok_or_else(|| {
            missing(format!("Statement {} is not found in resource policy.", input.statement_id))
        })?;
        match left.is_empty() {
            true => drop(details.policies.remove(&qualifier)),
            false => drop(details.policies.insert(qualifier, left)),
        }
        details.revision_id = wambda_model::RequestId::random().to_string();
        Ok(())
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(Nothing {})
}

pub(crate) async fn get(
    cx: &Cx<'_>,
    input: GetPolicyRequest,
) -> Result<GetPolicyResponse, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    let function = cx.qualified(&named)?;
    let policy = function.details.policies.get(named.or_latest());
    let policy = policy.filter(|policy| !policy.is_empty()).ok_or_else(|| {
        let message = "The resource you requested does not exist.";
        ApiError::lambda("ResourceNotFoundException", message)
    })?;
    Ok(GetPolicyResponse {
        policy: Some(policy.document().to_string()),
        revision_id: Some(revision(&function, &named)),
    })
}
