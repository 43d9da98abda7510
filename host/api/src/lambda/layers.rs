//! Layers: file trees that functions find at `/opt`, read-only.

use std::sync::Arc;

use serde_json::json;
use wambda_control::layers::{LayerRecord, LayerVersion};
use wambda_model::{Digest, RequestId, clock};

use super::permissions::principal;
use super::shape::{sha256, timestamp};
use super::{Cx, Nothing};
use crate::ApiError;
use crate::aws::generated::lambda::{
    AddLayerVersionPermissionRequest, AddLayerVersionPermissionResponse, DeleteLayerVersionRequest,
    GetLayerVersionByArnRequest, GetLayerVersionPolicyRequest, GetLayerVersionPolicyResponse,
    GetLayerVersionRequest, GetLayerVersionResponse, LayerVersionContentOutput,
    LayerVersionsListItem, LayersListItem, ListLayerVersionsRequest, ListLayerVersionsResponse,
    ListLayersRequest, ListLayersResponse, PublishLayerVersionRequest, PublishLayerVersionResponse,
    RemoveLayerVersionPermissionRequest,
};
use crate::name::Page;

/// Layers or versions of one page.
const PAGE: usize = 50;

type Found = Option<(String, u64, LayerVersion)>;

/// The name in a name or an ARN.
fn layer_name<'a>(cx: &Cx<'_>, text: &'a str) -> Result<&'a str, ApiError> {
    let prefix = arn(cx, "");
    let name = text.strip_prefix(&prefix).unwrap_or(text);
    let valid = !name.is_empty()
        && name.len() <= 140
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if valid { Ok(name) } else { Err(missing()) }
}

fn arn(cx: &Cx<'_>, name: &str) -> String {
    let crate::Identity { region, account } = cx.identity();
    format!("arn:aws:lambda:{region}:{account}:layer:{name}")
}

fn missing() -> ApiError {
    ApiError::lambda("ResourceNotFoundException", "The resource you requested does not exist.")
}

/// The version of an ARN; none when there is no such version here.
pub(crate) fn version_of_arn(cx: &Cx<'_>, text: &str) -> Result<Found, ApiError> {
    let Some((layer, number)) = text.rsplit_once(':') else { return Ok(None) };
    let (Ok(name), Ok(parsed)) = (layer_name(cx, layer), number.parse::<u64>()) else {
        return Ok(None);
    };
    // One spelling each: policies see the ARN.
    if parsed.to_string() != number {
        return Ok(None);
    }
    let number = parsed;
    let found = cx.api.layers.current().get(name).and_then(|l| l.versions.get(&number).cloned());
    Ok(found.map(|version| (name.to_owned(), number, version)))
}

fn version_of(cx: &Cx<'_>, name: &str, number: i64) -> Result<(u64, LayerVersion), ApiError> {
    let number = u64::try_from(number).map_err(|_| missing())?;
    let found = cx.api.layers.current().get(name).and_then(|l| l.versions.get(&number).cloned());
    let found = found.ok_or_else(|| {
        let message =
            format!("The resource you requested does not exist. ({}:{number})", arn(cx, name));
        ApiError::lambda("ResourceNotFoundException", message)
    })?;
    Ok((number, found))
}

fn list_or_none(all: &[String]) -> Option<Vec<String>> {
    (!all.is_empty()).then(|| all.to_vec())
}

pub(crate) async fn publish(
    cx: &Cx<'_>,
    input: PublishLayerVersionRequest,
) -> Result<PublishLayerVersionResponse, ApiError> {
    let name = layer_name(cx, &input.layer_name).map_err(|_| {
        let name: String = input.layer_name.chars().take(200).collect();
        ApiError::lambda(
            "ValidationException",
            format!(
                "1 validation error detected: Value '{name}' at 'layerName' failed to satisfy \
                 constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+"
            ),
        )
    })?;
    if input.content.s3_bucket.is_some() {
        return Err(ApiError::value("this server has no buckets yet: send ZipFile"));
    }
    let zip = input.content.zip_file.filter(|zip| !zip.0.is_empty());
    let Some(zip) = zip else { return Err(ApiError::value("Missing Content")) };
    cx.api.functions.check_layer(zip.0.clone(), &cx.who.uploader()).await?;
    let hashed = zip.0.clone();
    let digest = tokio::task::spawn_blocking(move || Digest::of(&hashed)).await;
    let version = LayerVersion {
        digest: digest.map_err(|lost| ApiError::internal(&lost.to_string()))?,
        bytes: zip.0.len() as u64,
        description: input.description.unwrap_or_default(),
        license: input.license_info.unwrap_or_default(),
        runtimes: input.compatible_runtimes.unwrap_or_default(),
        architectures: input.compatible_architectures.unwrap_or_default(),
        created_ms: clock::unix_ms(),
        policy: wambda_policy::ResourcePolicy::default(),
        revision_id: RequestId::random().to_string(),
    };
    let number = cx.api.layers.publish(name, zip.0, version.clone()).await?;
    let shown = shown(cx, name, number, &version);
    Ok(PublishLayerVersionResponse {
        compatible_architectures: shown.compatible_architectures,
        compatible_runtimes: shown.compatible_runtimes,
        content: shown.content,
        created_date: shown.created_date,
        description: shown.description,
        layer_arn: shown.layer_arn,
        layer_version_arn: shown.layer_version_arn,
        license_info: shown.license_info,
        version: shown.version,
    })
}

fn shown(cx: &Cx<'_>, name: &str, number: u64, version: &LayerVersion) -> GetLayerVersionResponse {
    let layer_arn = arn(cx, name);
    GetLayerVersionResponse {
        compatible_architectures: list_or_none(&version.architectures),
        compatible_runtimes: list_or_none(&version.runtimes),
        content: Some(LayerVersionContentOutput {
            code_sha256: Some(sha256(&version.digest)),
            code_size: i64::try_from(version.bytes).ok(),
            location: Some(cx.api.downloads.url(cx.host, &format!("layer/{name}/{number}"))),
            ..LayerVersionContentOutput::default()
        }),
        created_date: Some(timestamp(version.created_ms)),
        description: Some(version.description.clone()),
        layer_version_arn: Some(format!("{layer_arn}:{number}")),
        layer_arn: Some(layer_arn),
        license_info: (!version.license.is_empty()).then(|| version.license.clone()),
        version: i64::try_from(number).ok(),
    }
}

pub(crate) async fn get(
    cx: &Cx<'_>,
    input: GetLayerVersionRequest,
) -> Result<GetLayerVersionResponse, ApiError> {
    let name = layer_name(cx, &input.layer_name)?;
    let (number, version) = version_of(cx, name, input.version_number)?;
    Ok(shown(cx, name, number, &version))
}

pub(crate) async fn get_by_arn(
    cx: &Cx<'_>,
    input: GetLayerVersionByArnRequest,
) -> Result<GetLayerVersionResponse, ApiError> {
    let (name, number, version) = version_of_arn(cx, &input.arn)?.ok_or_else(missing)?;
    Ok(shown(cx, &name, number, &version))
}

pub(crate) async fn delete(
    cx: &Cx<'_>,
    input: DeleteLayerVersionRequest,
) -> Result<Nothing, ApiError> {
    let name = layer_name(cx, &input.layer_name)?;
    if cx.api.layers.current().contains_key(name) {
        let number = u64::try_from(input.version_number).unwrap_or_default();
        // Deleting what is not there is no error; functions that use it keep it.
        let change = |layer: &mut LayerRecord| {
            layer.versions.remove(&number);
            Ok::<_, ApiError>(())
        };
        cx.api.layers.edit(name, change).await?;
    }
    Ok(Nothing {})
}

fn item(cx: &Cx<'_>, name: &str, number: u64, version: &LayerVersion) -> LayerVersionsListItem {
    LayerVersionsListItem {
        compatible_architectures: list_or_none(&version.architectures),
        compatible_runtimes: list_or_none(&version.runtimes),
        created_date: Some(timestamp(version.created_ms)),
        description: (!version.description.is_empty()).then(|| version.description.clone()),
        layer_version_arn: Some(format!("{}:{number}", arn(cx, name))),
        license_info: (!version.license.is_empty()).then(|| version.license.clone()),
        version: i64::try_from(number).ok(),
    }
}

fn suits(version: &LayerVersion, runtime: Option<&String>, architecture: Option<&String>) -> bool {
    runtime.is_none_or(|runtime| version.runtimes.contains(runtime))
        && architecture.is_none_or(|wanted| version.architectures.contains(wanted))
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListLayersRequest,
) -> Result<ListLayersResponse, ApiError> {
    let page = Page::read(input.marker.as_deref(), input.max_items, PAGE)?;
    let (runtime, architecture) =
        (input.compatible_runtime.as_ref(), input.compatible_architecture.as_ref());
    let all = cx.api.layers.current();
    let newest = |(name, layer): (&String, &Arc<LayerRecord>)| {
        let mut versions = layer.versions.iter().rev();
        let (number, version) = versions.find(|(_, v)| suits(v, runtime, architecture))?;
        Some(LayersListItem {
            latest_matching_version: Some(item(cx, name, *number, version)),
            layer_arn: Some(arn(cx, name)),
            layer_name: Some(name.clone()),
        })
    };
    let (layers, next_marker) = page.of(all.iter().filter_map(newest));
    Ok(ListLayersResponse { layers: Some(layers), next_marker })
}

pub(crate) async fn list_versions(
    cx: &Cx<'_>,
    input: ListLayerVersionsRequest,
) -> Result<ListLayerVersionsResponse, ApiError> {
    let name = layer_name(cx, &input.layer_name)?;
    let page = Page::read(input.marker.as_deref(), input.max_items, PAGE)?;
    let (runtime, architecture) =
        (input.compatible_runtime.as_ref(), input.compatible_architecture.as_ref());
    let layer = cx.api.layers.current().get(name).cloned().unwrap_or_default();
    let versions = layer.versions.iter().rev();
    let versions = versions.filter(|(_, version)| suits(version, runtime, architecture));
    let (versions, next_marker) = page.of(versions.map(|(n, v)| item(cx, name, *n, v)));
    Ok(ListLayerVersionsResponse { layer_versions: Some(versions), next_marker })
}

pub(crate) async fn add_permission(
    cx: &Cx<'_>,
    input: AddLayerVersionPermissionRequest,
) -> Result<AddLayerVersionPermissionResponse, ApiError> {
    let name = layer_name(cx, &input.layer_name)?;
    let (number, version) = version_of(cx, name, input.version_number)?;
    if input.revision_id.is_some_and(|id| id != version.revision_id) {
        return Err(ApiError::stale());
    }
    let mut statement = json!({
        "Sid": input.statement_id, "Effect": "Allow", "Principal": principal(&input.principal),
        "Action": input.action, "Resource": format!("{}:{number}", arn(cx, name)),
    });
    if let (Some(organization), Some(object)) = (input.organization_id, statement.as_object_mut()) {
        let condition = json!({"StringEquals": {"aws:PrincipalOrgID": organization}});
        object.insert("Condition".to_owned(), condition);
    }
    let (text, sid, revision) =
        (statement.to_string(), input.statement_id, RequestId::random().to_string());
    let next = revision.clone();
    let change = move |layer: &mut LayerRecord| {
        let version = layer.versions.get_mut(&number).ok_or_else(missing)?;
        if version.policy.statement(&sid).is_some() {
            return Err(ApiError::lambda(
                "ResourceConflictException",
                format!(
                    "The statement id ({sid}) provided already exists. Please provide a new statement id, or remove the existing statement."
                ),
            ));
        }
        let grown = version.policy.with(statement);
        version.policy = grown.map_err(|error| ApiError::value(error.to_string()))?;
        version.revision_id = next;
        Ok(())
    };
    cx.api.layers.edit(name, change).await?;
    Ok(AddLayerVersionPermissionResponse { statement: Some(text), revision_id: Some(revision) })
}

pub(crate) async fn get_policy(
    cx: &Cx<'_>,
    input: GetLayerVersionPolicyRequest,
) -> Result<GetLayerVersionPolicyResponse, ApiError> {
    let name = layer_name(cx, &input.layer_name)?;
    let (_, version) = version_of(cx, name, input.version_number)?;
    if version.policy.is_empty() {
        return Err(ApiError::lambda(
            "ResourceNotFoundException",
            "No policy is associated with the given resource.",
        ));
    }
    Ok(GetLayerVersionPolicyResponse {
        policy: Some(version.policy.document().to_string()),
        revision_id: Some(version.revision_id),
    })
}

pub(crate) async fn remove_permission(
    cx: &Cx<'_>,
    input: RemoveLayerVersionPermissionRequest,
) -> Result<Nothing, ApiError> {
    let name = layer_name(cx, &input.layer_name)?;
    let (number, version) = version_of(cx, name, input.version_number)?;
    if input.revision_id.is_some_and(|id| id != version.revision_id) {
        return Err(ApiError::stale());
    }
    let sid = input.statement_id;
    let change = move |layer: &mut LayerRecord| {
        let version = layer.versions.get_mut(&number).ok_or_else(missing)?;
        let left = version.policy.without(&sid);
        let left = left.map_err(|error| ApiError::value(error.to_string()))?;
        version.policy = left.ok_or_else(|| {
            let message = format!("Statement {sid} is not found in resource policy.");
            ApiError::lambda("ResourceNotFoundException", message)
        })?;
        version.revision_id = RequestId::random().to_string();
        Ok::<_, ApiError>(())
    };
    cx.api.layers.edit(name, change).await?;
    Ok(Nothing {})
}
