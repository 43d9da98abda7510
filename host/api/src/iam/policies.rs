//! Policies that can be attached, and their versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use wambda_control::directory::{Directory, Managed, access_key_id};
use wambda_control::managed::is_builtin;
use wambda_model::clock;
use wambda_model::limits::IDENTITIES_MAX;

use super::entities;
use super::{Cx, Nothing, error, identity_document, seconds, shown_document, shown_tags, tags};
use crate::ApiError;
use crate::aws::generated::iam::{
    CreatePolicyRequest, CreatePolicyResponse, CreatePolicyVersionRequest,
    CreatePolicyVersionResponse, DeletePolicyRequest, DeletePolicyVersionRequest, GetPolicyRequest,
    GetPolicyResponse, GetPolicyVersionRequest, GetPolicyVersionResponse, ListPoliciesRequest,
    ListPoliciesResponse, ListPolicyVersionsRequest, ListPolicyVersionsResponse, Policy,
    PolicyVersion, SetDefaultPolicyVersionRequest,
};

/// Versions of one policy (IAM: 5).
const VERSIONS_MAX: usize = 5;

fn attachments(directory: &Directory, arn: &str) -> i64 {
    let users = directory.users.values().filter(|user| user.entity.attached.contains(arn)).count();
    let roles = directory.roles.values().filter(|role| role.entity.attached.contains(arn)).count();
    i64::try_from(users + roles).unwrap_or(i64::MAX)
}

fn shown(directory: &Directory, policy: &Managed) -> Policy {
    Policy {
        arn: Some(policy.arn.clone()),
        attachment_count: Some(attachments(directory, &policy.arn)),
        create_date: Some(seconds(policy.created_ms)),
        default_version_id: Some(format!("v{}", policy.default)),
        description: (!policy.description.is_empty()).then(|| policy.description.clone()),
        is_attachable: Some(true),
        path: Some(policy.path.clone()),
        permissions_boundary_usage_count: Some(0),
        policy_id: Some(policy.id.clone()),
        policy_name: Some(policy.name.clone()),
        tags: Some(shown_tags(&policy.tags)),
        update_date: Some(seconds(policy.updated_ms)),
    }
}

fn find(directory: &Directory, arn: &str) -> Result<Arc<Managed>, ApiError> {
    let missing = || error("NoSuchEntity", format!("Policy {arn} was not found."));
    directory.policies.get(arn).cloned().ok_or_else(missing)
}

fn number(text: &str) -> u64 {
    text.strip_prefix('v').and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

fn no_version(arn: &str, version: &str) -> ApiError {
    let message = format!("Policy {arn} version {version} does not exist or is not attachable.");
    error("NoSuchEntity", message)
}

fn change<T>(
    directory: &mut Directory,
    arn: &str,
    edit: impl FnOnce(&mut Managed) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    if is_builtin(arn) {
        let message = "AWS's own policies cannot be changed.";
        return Err(ApiError::aws(403, "AccessDenied", message));
    }
    let mut policy = (*find(directory, arn)?).clone();
    let value = edit(&mut policy)?;
    policy.updated_ms = clock::unix_ms();
    directory.policies.insert(arn.to_owned(), Arc::new(policy));
    Ok(value)
}

pub(crate) async fn create(
    cx: &Cx<'_>,
    input: CreatePolicyRequest,
) -> Result<CreatePolicyResponse, ApiError> {
    let document = Arc::new(identity_document(&input.policy_document)?);
    let path = input.path.unwrap_or_else(|| "/".to_owned());
    let arn = format!("arn:aws:iam::{}:policy{path}{}", cx.account(), input.policy_name);
    let (tags, now) = (tags(input.tags)?, clock::unix_ms());
    let policy = cx.edit(|directory| {
        if directory.policies.contains_key(&arn) {
            let message = format!(
                "A policy called {} already exists. Duplicate names are not allowed.",
                input.policy_name
            );
            return Err(error("EntityAlreadyExists", message));
        }
        if directory.policies.len() >= IDENTITIES_MAX {
            let message = format!("there may be {IDENTITIES_MAX} policies");
            return Err(error("LimitExceeded", message));
        }
        let policy = Managed {
            name: input.policy_name,
            path,
            id: access_key_id("ANPA"),
            arn: arn.clone(),
            description: input.description.unwrap_or_default(),
            created_ms: now,
            updated_ms: now,
            versions: BTreeMap::from([(1, (document, now))]),
            default: 1,
            tags,
        };
        let shown = shown(directory, &policy);
        directory.policies.insert(arn.clone(), Arc::new(policy));
        Ok(shown)
    });
    Ok(CreatePolicyResponse { policy: Some(policy.await?) })
}

pub(crate) async fn get(
    cx: &Cx<'_>,
    input: GetPolicyRequest,
) -> Result<GetPolicyResponse, ApiError> {
    let directory = cx.directory();
    let policy = find(&directory, &input.policy_arn)?;
    Ok(GetPolicyResponse { policy: Some(shown(&directory, &policy)) })
}

pub(crate) async fn delete(cx: &Cx<'_>, input: DeletePolicyRequest) -> Result<Nothing, ApiError> {
    let arn = input.policy_arn;
    cx.edit(|directory| {
        let policy = find(directory, &arn)?;
        if attachments(directory, &arn) > 0 {
            let message = "Cannot delete a policy attached to entities.";
            return Err(error("DeleteConflict", message));
        }
        if policy.versions.len() > 1 {
            let message = "This policy has more than one version. Before you delete a policy, \
                           you must delete the policy's versions. The default version is deleted with the policy.";
            return Err(error("DeleteConflict", message));
        }
        change(directory, &arn, |_| Ok(()))?;
        directory.policies.remove(&arn);
        Ok(())
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListPoliciesRequest,
) -> Result<ListPoliciesResponse, ApiError> {
    let directory = cx.directory();
    let scope = input.scope.as_deref().unwrap_or("All");
    let prefix = input.path_prefix.as_deref().unwrap_or("/");
    let attached_only = input.only_attached == Some(true);
    let all = directory.policies.values().filter(|policy| {
        let scoped = match scope {
            "AWS" => is_builtin(&policy.arn),
            "Local" => !is_builtin(&policy.arn),
            _ => true,
        };
        let attached = !attached_only || attachments(&directory, &policy.arn) > 0;
        scoped && attached && policy.path.starts_with(prefix)
    });
    let (page, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all)?;
    let listed = |policy: &Arc<Managed>| Policy {
        tags: None,
        description: None,
        ..shown(&directory, policy)
    };
    let policies = page.into_iter().map(listed).collect();
    Ok(ListPoliciesResponse { is_truncated, marker, policies: Some(policies) })
}

fn shown_version(policy: &Managed, number: u64) -> Option<PolicyVersion> {
    let (document, created_ms) = policy.versions.get(&number)?;
    Some(PolicyVersion {
        create_date: Some(seconds(*created_ms)),
        document: Some(shown_document(document)),
        is_default_version: Some(policy.default == number),
        version_id: Some(format!("v{number}")),
    })
}

pub(crate) async fn get_version(
    cx: &Cx<'_>,
    input: GetPolicyVersionRequest,
) -> Result<GetPolicyVersionResponse, ApiError> {
    let policy = find(&cx.directory(), &input.policy_arn)?;
    let shown = shown_version(&policy, number(&input.version_id));
    let missing = || no_version(&input.policy_arn, &input.version_id);
    Ok(GetPolicyVersionResponse { policy_version: Some(shown.ok_or_else(missing)?) })
}

pub(crate) async fn list_versions(
    cx: &Cx<'_>,
    input: ListPolicyVersionsRequest,
) -> Result<ListPolicyVersionsResponse, ApiError> {
    let policy = find(&cx.directory(), &input.policy_arn)?;
    let all = policy.versions.keys().rev().filter_map(|number| {
        shown_version(&policy, *number).map(|version| PolicyVersion { document: None, ..version })
    });
    let (versions, is_truncated, marker) =
        entities::page(input.marker.as_deref(), input.max_items, all)?;
    Ok(ListPolicyVersionsResponse { is_truncated, marker, versions: Some(versions) })
}

pub(crate) async fn create_version(
    cx: &Cx<'_>,
    input: CreatePolicyVersionRequest,
) -> Result<CreatePolicyVersionResponse, ApiError> {
    let document = Arc::new(identity_document(&input.policy_document)?);
    let version = cx.edit(|directory| {
        change(directory, &input.policy_arn, |policy| {
            if policy.versions.len() >= VERSIONS_MAX {
                let message = format!("A managed policy can have up to {VERSIONS_MAX} versions. \
                                       Before you create a new version, you must delete an existing version.");
                return Err(error("LimitExceeded", message));
            }
            let number = policy.versions.keys().next_back().copied().unwrap_or_default() + 1;
            policy.versions.insert(number, (document, clock::unix_ms()));
            if input.set_as_default == Some(true) {
                policy.default = number;
            }
            Ok(shown_version(policy, number).map(|v| PolicyVersion { document: None, ..v }))
        })
    });
    Ok(CreatePolicyVersionResponse { policy_version: version.await? })
}

pub(crate) async fn delete_version(
    cx: &Cx<'_>,
    input: DeletePolicyVersionRequest,
) -> Result<Nothing, ApiError> {
    let DeletePolicyVersionRequest { policy_arn, version_id } = input;
    cx.edit(|directory| {
        change(directory, &policy_arn, |policy| {
            if policy.default == number(&version_id) {
                let message = "Cannot delete the default version of a policy.";
                return Err(error("DeleteConflict", message));
            }
            let removed = policy.versions.remove(&number(&version_id));
            removed.map(drop).ok_or_else(|| no_version(&policy_arn, &version_id))
        })
    })
    .await?;
    Ok(Nothing {})
}

pub(crate) async fn set_default(
    cx: &Cx<'_>,
    input: SetDefaultPolicyVersionRequest,
) -> Result<Nothing, ApiError> {
    let SetDefaultPolicyVersionRequest { policy_arn, version_id } = input;
    cx.edit(|directory| {
        change(directory, &policy_arn, |policy| {
            if !policy.versions.contains_key(&number(&version_id)) {
                return Err(no_version(&policy_arn, &version_id));
            }
            policy.default = number(&version_id);
            Ok(())
        })
    })
    .await?;
    Ok(Nothing {})
}
