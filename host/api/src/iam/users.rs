//! Users and their access keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use wambda_control::directory::{
    AccessKey as KeyRecord, User as UserRecord, access_key_id, secret,
};
use wambda_model::clock;
use wambda_model::limits::ACCESS_KEYS_MAX;
use wambda_policy::Principal;

use super::entities::{self, New};
use super::{Cx, Nothing, error, seconds, shown_tags, tags};
use crate::ApiError;
use crate::aws::generated::iam::{
    AccessKey, AccessKeyMetadata, AttachUserPolicyRequest, CreateAccessKeyRequest,
    CreateAccessKeyResponse, CreateUserRequest, CreateUserResponse, DeleteAccessKeyRequest,
    DeleteUserPolicyRequest, DeleteUserRequest, DetachUserPolicyRequest, GetUserPolicyRequest,
    GetUserPolicyResponse, GetUserRequest, GetUserResponse, ListAccessKeysRequest,
    ListAccessKeysResponse, ListAttachedUserPoliciesRequest, ListAttachedUserPoliciesResponse,
    ListUserPoliciesRequest, ListUserPoliciesResponse, ListUsersRequest, ListUsersResponse,
    PutUserPolicyRequest, UpdateAccessKeyRequest, User,
};

fn shown(user: &UserRecord) -> User {
    let entity = &user.entity;
    User {
        arn: entity.arn.clone(),
        create_date: seconds(entity.created_ms),
        path: entity.path.clone(),
        tags: (!entity.tags.is_empty()).then(|| shown_tags(&entity.tags)),
        user_id: entity.id.clone(),
        user_name: entity.name.clone(),
        ..User::default()
    }
}

/// The user that is meant: by name, or who asks.
fn meant(cx: &Cx<'_>, name: Option<String>) -> Result<String, ApiError> {
    if let Some(name) = name {
        return Ok(name);
    }
    if cx.who.user.is_empty() {
        let message = "Must specify userName when calling with non-User credentials";
        return Err(ApiError::aws(400, "ValidationError", message));
    }
    Ok(cx.who.user.clone())
}

pub(crate) async fn create(
    cx: &Cx<'_>,
    input: CreateUserRequest,
) -> Result<CreateUserResponse, ApiError> {
    if input.permissions_boundary.is_some() {
        return Err(error("InvalidInput", "PermissionsBoundary is not supported"));
    }
    let tags = tags(input.tags)?;
    let user = cx.edit(|directory| {
        let new = New {
            name: &input.user_name,
            path: input.path.as_deref(),
            account: cx.account(),
            prefix: "AIDA",
            tags,
        };
        let entity = entities::make::<UserRecord>(directory, new)?;
        let user = Arc::new(UserRecord { entity, keys: BTreeMap::new() });
        directory.users.insert(input.user_name.clone(), Arc::clone(&user));
        Ok(user)
    });
    Ok(CreateUserResponse { user: Some(shown(&*user.await?)) })
}

pub(crate) async fn get(cx: &Cx<'_>, input: GetUserRequest) -> Result<GetUserResponse, ApiError> {
    if let (None, Principal::Root { account }) = (&input.user_name, &cx.who.principal) {
        let user = User {
            arn: format!("arn:aws:iam::{account}:root"),
            user_id: account.clone(),
            user_name: "root".to_owned(),
            path: "/".to_owned(),
            ..User::default()
        };
        return Ok(GetUserResponse { user });
    }
    let name = meant(cx, input.user_name)?;
    let user = entities::find::<UserRecord>(&cx.directory(), &name)?;
    Ok(GetUserResponse { user: shown(&user) })
}

pub(crate) async fn delete(cx: &Cx<'_>, input: DeleteUserRequest) -> Result<Nothing, ApiError> {
    cx.edit(|directory| {
        let user = entities::find::<UserRecord>(directory, &input.user_name)?;
        if !user.keys.is_empty() {
            let message = "Cannot delete entity, must delete access keys first.";
            return Err(error("DeleteConflict", message));
        }
        entities::remove::<UserRecord>(directory, &input.user_name)
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListUsersRequest,
) -> Result<ListUsersResponse, ApiError> {
    let directory = cx.directory();
    let prefix = input.path_prefix.unwrap_or_else(|| "/".to_owned());
    let all = directory.users.values().filter(|user| user.entity.path.starts_with(&prefix));
    let (page, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all)?;
    let users = page.into_iter().map(|user| shown(user)).collect();
    Ok(ListUsersResponse { is_truncated, marker, users })
}

fn status(active: bool) -> String {
    if active { "Active" } else { "Inactive" }.to_owned()
}

pub(crate) async fn create_key(
    cx: &Cx<'_>,
    input: CreateAccessKeyRequest,
) -> Result<CreateAccessKeyResponse, ApiError> {
    let user_name = meant(cx, input.user_name)?;
    let (id, now) = (access_key_id("AKIA"), clock::unix_ms());
    let key = KeyRecord { secret: secret(), active: true, created_ms: now };
    let made = AccessKey {
        access_key_id: id.clone(),
        create_date: Some(seconds(now)),
        secret_access_key: key.secret.clone(),
        status: status(true),
        user_name: user_name.clone(),
    };
    cx.edit(|directory| {
        entities::change(directory, &user_name, |user: &mut UserRecord| {
            if user.keys.len() >= ACCESS_KEYS_MAX {
                let message =
                    format!("Cannot exceed quota for AccessKeysPerUser: {ACCESS_KEYS_MAX}");
                return Err(error("LimitExceeded", message));
            }
            user.keys.insert(id, key);
            Ok(())
        })
    })
    .await?;
    Ok(CreateAccessKeyResponse { access_key: made })
}

fn no_key(id: &str) -> ApiError {
    let id: String = id.chars().take(130).collect();
    error("NoSuchEntity", format!("The Access Key with id {id} cannot be found."))
}

pub(crate) async fn delete_key(
    cx: &Cx<'_>,
    input: DeleteAccessKeyRequest,
) -> Result<Nothing, ApiError> {
    let user = meant(cx, input.user_name)?;
    cx.edit(|directory| {
        entities::change(directory, &user, |user: &mut UserRecord| {
            let removed = user.keys.remove(&input.access_key_id);
            removed.map(drop).ok_or_else(|| no_key(&input.access_key_id))
        })
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn update_key(
    cx: &Cx<'_>,
    input: UpdateAccessKeyRequest,
) -> Result<Nothing, ApiError> {
    let user = meant(cx, input.user_name)?;
    cx.edit(|directory| {
        entities::change(directory, &user, |user: &mut UserRecord| {
            let key = user.keys.get_mut(&input.access_key_id);
            key.ok_or_else(|| no_key(&input.access_key_id))?.active = input.status == "Active";
            Ok(())
        })
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn list_keys(
    cx: &Cx<'_>,
    input: ListAccessKeysRequest,
) -> Result<ListAccessKeysResponse, ApiError> {
    let name = meant(cx, input.user_name)?;
    let user = entities::find::<UserRecord>(&cx.directory(), &name)?;
    let all = user.keys.iter().map(|(id, key)| AccessKeyMetadata {
        access_key_id: Some(id.clone()),
        create_date: Some(seconds(key.created_ms)),
        status: Some(status(key.active)),
        user_name: Some(name.clone()),
    });
    let (page, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all)?;
    Ok(ListAccessKeysResponse { access_key_metadata: page, is_truncated, marker })
}

pub(crate) async fn put_inline(
    cx: &Cx<'_>,
    input: PutUserPolicyRequest,
) -> Result<Nothing, ApiError> {
    let PutUserPolicyRequest { user_name, policy_name, policy_document } = input;
    cx.edit(|directory| {
        entities::put_inline::<UserRecord>(directory, &user_name, &policy_name, &policy_document)
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn get_inline(
    cx: &Cx<'_>,
    input: GetUserPolicyRequest,
) -> Result<GetUserPolicyResponse, ApiError> {
    let user = entities::find::<UserRecord>(&cx.directory(), &input.user_name)?;
    let policy_document = entities::inline(&*user, &input.policy_name)?;
    let GetUserPolicyRequest { user_name, policy_name } = input;
    Ok(GetUserPolicyResponse { policy_document, policy_name, user_name })
}

pub(crate) async fn delete_inline(
    cx: &Cx<'_>,
    input: DeleteUserPolicyRequest,
) -> Result<Nothing, ApiError> {
    cx.edit(|directory| {
        entities::delete_inline::<UserRecord>(directory, &input.user_name, &input.policy_name)
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn list_inline(
    cx: &Cx<'_>,
    input: ListUserPoliciesRequest,
) -> Result<ListUserPoliciesResponse, ApiError> {
    let user = entities::find::<UserRecord>(&cx.directory(), &input.user_name)?;
    let all = user.entity.inline.keys().cloned();
    let (policy_names, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all)?;
    Ok(ListUserPoliciesResponse { is_truncated, marker, policy_names })
}

pub(crate) async fn attach(
    cx: &Cx<'_>,
    input: AttachUserPolicyRequest,
) -> Result<Nothing, ApiError> {
    cx.edit(|directory| {
        entities::attach::<UserRecord>(directory, &input.user_name, &input.policy_arn)
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn detach(
    cx: &Cx<'_>,
    input: DetachUserPolicyRequest,
) -> Result<Nothing, ApiError> {
    cx.edit(|directory| {
        entities::detach::<UserRecord>(directory, &input.user_name, &input.policy_arn)
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn list_attached(
    cx: &Cx<'_>,
    input: ListAttachedUserPoliciesRequest,
) -> Result<ListAttachedUserPoliciesResponse, ApiError> {
    let user = entities::find::<UserRecord>(&cx.directory(), &input.user_name)?;
    let all = entities::attached(&user.entity, input.path_prefix.as_deref());
    let (page, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all.into_iter())?;
    Ok(ListAttachedUserPoliciesResponse { attached_policies: Some(page), is_truncated, marker })
}
