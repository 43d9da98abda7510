//! Roles.

use std::sync::Arc;

use wambda_control::directory::Role as RoleRecord;
use wambda_policy::Policy;

use super::entities::{self, New};
use super::{Cx, Nothing, document, error, seconds, shown_document, shown_tags, tags};
use crate::ApiError;
use crate::aws::generated::iam::{
    AttachRolePolicyRequest, CreateRoleRequest, CreateRoleResponse, DeleteRolePolicyRequest,
    DeleteRoleRequest, DetachRolePolicyRequest, GetRolePolicyRequest, GetRolePolicyResponse,
    GetRoleRequest, GetRoleResponse, ListAttachedRolePoliciesRequest,
    ListAttachedRolePoliciesResponse, ListInstanceProfilesForRoleRequest,
    ListInstanceProfilesForRoleResponse, ListRolePoliciesRequest, ListRolePoliciesResponse,
    ListRoleTagsRequest, ListRoleTagsResponse, ListRolesRequest, ListRolesResponse,
    PutRolePolicyRequest, Role, RoleLastUsed, TagRoleRequest, UntagRoleRequest,
    UpdateAssumeRolePolicyRequest, UpdateRoleDescriptionRequest, UpdateRoleDescriptionResponse,
    UpdateRoleRequest, UpdateRoleResponse,
};

/// Seconds of a session when nobody said.
const SESSION_S: u32 = 3_600;

/// What a trust policy may speak of.
const TRUSTED_ACTIONS: [&str; 6] = [
    "sts:*",
    "sts:AssumeRole",
    "sts:AssumeRoleWithSAML",
    "sts:AssumeRoleWithWebIdentity",
    "sts:SetSourceIdentity",
    "sts:TagSession",
];

fn shown(role: &RoleRecord) -> Role {
    let entity = &role.entity;
    Role {
        arn: entity.arn.clone(),
        assume_role_policy_document: Some(shown_document(&role.trust)),
        create_date: seconds(entity.created_ms),
        description: role.description.clone(),
        max_session_duration: Some(i64::from(role.session_max_s)),
        path: entity.path.clone(),
        role_id: entity.id.clone(),
        role_last_used: Some(RoleLastUsed::default()),
        role_name: entity.name.clone(),
        tags: (!entity.tags.is_empty()).then(|| shown_tags(&entity.tags)),
        ..Role::default()
    }
}

/// A trust policy: every statement names whom it trusts.
fn trust(text: &str) -> Result<Policy, ApiError> {
    let policy = document(text)?;
    if !policy.names_all_principals() {
        return Err(error("MalformedPolicyDocument", "Missing required field Principal"));
    }
    if policy.names_resources() {
        return Err(error("MalformedPolicyDocument", "Has prohibited field Resource."));
    }
    if !policy
        .actions()
        .all(|action| TRUSTED_ACTIONS.iter().any(|a| a.eq_ignore_ascii_case(action)))
    {
        // The two spaces are IAM's.
        let message = "Trust Policy statement actions can only be sts:AssumeRole, \
                       sts:AssumeRoleWithSAML,  and sts:AssumeRoleWithWebIdentity";
        return Err(error("MalformedPolicyDocument", message));
    }
    Ok(policy)
}

fn session(given: Option<i64>) -> u32 {
    given.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(SESSION_S)
}

pub(crate) async fn create(
    cx: &Cx<'_>,
    input: CreateRoleRequest,
) -> Result<CreateRoleResponse, ApiError> {
    if input.permissions_boundary.is_some() {
        return Err(error("InvalidInput", "PermissionsBoundary is not supported"));
    }
    let trust = trust(&input.assume_role_policy_document)?;
    let tags = tags(input.tags)?;
    let role = cx.edit(|directory| {
        let new = New {
            name: &input.role_name,
            path: input.path.as_deref(),
            account: cx.account(),
            prefix: "AROA",
            tags,
        };
        let role = RoleRecord {
            entity: entities::make::<RoleRecord>(directory, new)?,
            trust,
            description: input.description,
            session_max_s: session(input.max_session_duration),
        };
        let role = Arc::new(role);
        directory.roles.insert(input.role_name.clone(), Arc::clone(&role));
        Ok(role)
    });
    Ok(CreateRoleResponse { role: shown(&*role.await?) })
}

pub(crate) async fn get(cx: &Cx<'_>, input: GetRoleRequest) -> Result<GetRoleResponse, ApiError> {
    let role = entities::find::<RoleRecord>(&cx.directory(), &input.role_name)?;
    Ok(GetRoleResponse { role: shown(&role) })
}

pub(crate) async fn delete(cx: &Cx<'_>, input: DeleteRoleRequest) -> Result<Nothing, ApiError> {
    cx.edit(|directory| entities::remove::<RoleRecord>(directory, &input.role_name)).await?;
    Ok(Nothing {})
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListRolesRequest,
) -> Result<ListRolesResponse, ApiError> {
    let directory = cx.directory();
    let prefix = input.path_prefix.unwrap_or_else(|| "/".to_owned());
    let all = directory.roles.values().filter(|role| role.entity.path.starts_with(&prefix));
    let (page, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all)?;
    // As IAM: a list tells less than the single role.
    let roles =
        page.into_iter().map(|role| Role { tags: None, role_last_used: None, ..shown(role) });
    Ok(ListRolesResponse { is_truncated, marker, roles: roles.collect() })
}

pub(crate) async fn update(
    cx: &Cx<'_>,
    input: UpdateRoleRequest,
) -> Result<UpdateRoleResponse, ApiError> {
    cx.edit(|directory| {
        entities::change(directory, &input.role_name, |role: &mut RoleRecord| {
            // As IAM: what is not said goes back to its default.
            role.description = input.description;
            role.session_max_s = session(input.max_session_duration);
            Ok(())
        })
    })
    .await?;
    Ok(UpdateRoleResponse {})
}

pub(crate) async fn update_description(
    cx: &Cx<'_>,
    input: UpdateRoleDescriptionRequest,
) -> Result<UpdateRoleDescriptionResponse, ApiError> {
    let role = cx.edit(|directory| {
        entities::change(directory, &input.role_name, |role: &mut RoleRecord| {
            role.description = Some(input.description);
            Ok(shown(role))
        })
    });
    Ok(UpdateRoleDescriptionResponse { role: Some(role.await?) })
}

pub(crate) async fn update_trust(
    cx: &Cx<'_>,
    input: UpdateAssumeRolePolicyRequest,
) -> Result<Nothing, ApiError> {
    let trust = trust(&input.policy_document)?;
    cx.edit(|directory| {
        entities::change(directory, &input.role_name, |role: &mut RoleRecord| {
            role.trust = trust;
            Ok(())
        })
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn put_inline(
    cx: &Cx<'_>,
    input: PutRolePolicyRequest,
) -> Result<Nothing, ApiError> {
    let PutRolePolicyRequest { role_name, policy_name, policy_document } = input;
    cx.edit(|directory| {
        entities::put_inline::<RoleRecord>(directory, &role_name, &policy_name, &policy_document)
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn get_inline(
    cx: &Cx<'_>,
    input: GetRolePolicyRequest,
) -> Result<GetRolePolicyResponse, ApiError> {
    let role = entities::find::<RoleRecord>(&cx.directory(), &input.role_name)?;
    let policy_document = entities::inline(&*role, &input.policy_name)?;
    let GetRolePolicyRequest { role_name, policy_name } = input;
    Ok(GetRolePolicyResponse { policy_document, policy_name, role_name })
}

pub(crate) async fn delete_inline(
    cx: &Cx<'_>,
    input: DeleteRolePolicyRequest,
) -> Result<Nothing, ApiError> {
    cx.edit(|directory| {
        entities::delete_inline::<RoleRecord>(directory, &input.role_name, &input.policy_name)
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn list_inline(
    cx: &Cx<'_>,
    input: ListRolePoliciesRequest,
) -> Result<ListRolePoliciesResponse, ApiError> {
    let role = entities::find::<RoleRecord>(&cx.directory(), &input.role_name)?;
    let all = role.entity.inline.keys().cloned();
    let (policy_names, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all)?;
    Ok(ListRolePoliciesResponse { is_truncated, marker, policy_names })
}

pub(crate) async fn attach(
    cx: &Cx<'_>,
    input: AttachRolePolicyRequest,
) -> Result<Nothing, ApiError> {
    cx.edit(|directory| {
        entities::attach::<RoleRecord>(directory, &input.role_name, &input.policy_arn)
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn detach(
    cx: &Cx<'_>,
    input: DetachRolePolicyRequest,
) -> Result<Nothing, ApiError> {
    cx.edit(|directory| {
        entities::detach::<RoleRecord>(directory, &input.role_name, &input.policy_arn)
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn list_attached(
    cx: &Cx<'_>,
    input: ListAttachedRolePoliciesRequest,
) -> Result<ListAttachedRolePoliciesResponse, ApiError> {
    let role = entities::find::<RoleRecord>(&cx.directory(), &input.role_name)?;
    let all = entities::attached(&role.entity, input.path_prefix.as_deref());
    let (page, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all.into_iter())?;
    Ok(ListAttachedRolePoliciesResponse { attached_policies: Some(page), is_truncated, marker })
}

/// There are no machines, and so no profiles. Terraform asks before it deletes a role.
pub(crate) async fn instance_profiles(
    cx: &Cx<'_>,
    input: ListInstanceProfilesForRoleRequest,
) -> Result<ListInstanceProfilesForRoleResponse, ApiError> {
    entities::find::<RoleRecord>(&cx.directory(), &input.role_name)?;
    Ok(ListInstanceProfilesForRoleResponse {
        instance_profiles: Vec::new(),
        is_truncated: Some(false),
        marker: None,
    })
}

pub(crate) async fn tag(cx: &Cx<'_>, input: TagRoleRequest) -> Result<Nothing, ApiError> {
    let tags = tags(Some(input.tags))?;
    cx.edit(|directory| {
        entities::change(directory, &input.role_name, |role: &mut RoleRecord| {
            role.entity.tags.extend(tags);
            if role.entity.tags.len() > wambda_model::limits::TAGS_MAX {
                let message = "The number of tags has reached the maximum limit.";
                return Err(error("LimitExceeded", message));
            }
            Ok(())
        })
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn untag(cx: &Cx<'_>, input: UntagRoleRequest) -> Result<Nothing, ApiError> {
    cx.edit(|directory| {
        entities::change(directory, &input.role_name, |role: &mut RoleRecord| {
            role.entity.tags.retain(|key, _| !input.tag_keys.contains(key));
            Ok(())
        })
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn list_tags(
    cx: &Cx<'_>,
    input: ListRoleTagsRequest,
) -> Result<ListRoleTagsResponse, ApiError> {
    let role = entities::find::<RoleRecord>(&cx.directory(), &input.role_name)?;
    let all = shown_tags(&role.entity.tags).into_iter();
    let (tags, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all)?;
    Ok(ListRoleTagsResponse { is_truncated, marker, tags })
}
