//! Create, read, list and delete functions.

use std::sync::Arc;

use wambda_control::{PublishError, Upload};
use wambda_model::limits::PAGE_MAX;
use wambda_model::{Details, Function, FunctionName, LATEST, Version};

use super::shape::{configuration, version_arn};
use super::update::{self, Code, Settings};
use super::{Cx, Nothing, tags};
use crate::ApiError;
use crate::aws::generated::lambda::{
    Concurrency, CreateFunctionRequest, DeleteFunctionRequest, FunctionCodeLocation,
    FunctionConfiguration, GetFunctionConfigurationRequest, GetFunctionRequest,
    GetFunctionResponse, ListFunctionsRequest, ListFunctionsResponse,
};
use crate::name::Named;

/// Functions of one page.
const PAGE: usize = 50;

pub(crate) async fn create(
    cx: &Cx<'_>,
    input: CreateFunctionRequest,
) -> Result<FunctionConfiguration, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    if named.qualifier.is_some() {
        return Err(ApiError::value("a function is created without a qualifier"));
    }
    let arn = cx.arn(&named.name);
    cx.authorize("lambda:CreateFunction", &arn)?;
    update::refuse_create(&input)?;
    tags::check(&input.tags.clone().unwrap_or_default())?;
    let code = Code {
        zip: input.code.zip_file,
        s3_bucket: input.code.s3_bucket,
        image: input.code.image_uri,
    };
    let is_image = input.package_type.as_deref() == Some("Image") || code.image.is_some();
    if is_image {
        return Err(ApiError::value(
            "container images are not supported: upload a zip with one .wasm",
        ));
    }
    if input.runtime.is_none() || input.handler.is_none() {
        return Err(ApiError::value(
            "Runtime and Handler are mandatory parameters for functions created with deployment packages.",
        ));
    }
    let settings = Settings {
        description: input.description,
        handler: input.handler,
        runtime: input.runtime,
        role: Some(input.role),
        timeout: input.timeout,
        memory: input.memory_size,
        environment: input.environment.map(|e| e.variables.unwrap_or_default()),
        dead_letter: input.dead_letter_config.map(|d| d.target_arn.unwrap_or_default()),
        tracing: input.tracing_config.and_then(|t| t.mode),
        ephemeral: input.ephemeral_storage.map(|e| e.size),
        logging: input.logging_config,
        layers: input.layers,
        vpc: input.vpc_config,
        snap_start: input.snap_start.and_then(|s| s.apply_on),
        architectures: input.architectures,
    };
    if cx.api.catalog.get(&named.name).is_some() {
        return Err(exists(&named));
    }
    let change = settings.change(cx)?;
    let bytes = code.bytes()?;
    let publish = input.publish == Some(true);
    let upload = Upload {
        bytes,
        publish: publish.then(String::new),
        revision_id: None,
        by: cx.who.uploader(),
    };
    let details = Details { tags: input.tags.unwrap_or_default(), ..Details::default() };
    let created = cx.api.functions.create(&named.name, upload, change, details).await;
    let function = created.map_err(|error| match error {
        PublishError::Exists => exists(&named),
        other => update::refused(cx, &named, other),
    })?;
    let newest = function.versions.values().next_back();
    let version = newest.filter(|_| publish).unwrap_or(&function.latest);
    Ok(configuration(&function, version, arn, cx.identity()))
}

fn exists(named: &Named) -> ApiError {
    let message = format!("Function already exist: {}", named.name);
    ApiError::lambda("ResourceConflictException", message)
}

/// What a qualifier names, and the ARN by which it was named.
pub(crate) fn version_of(
    cx: &Cx<'_>,
    named: &Named,
) -> Result<(Arc<Function>, Arc<Version>, String), ApiError> {
    let function = cx.function(named)?;
    let arn = named.qualified_arn(cx.identity());
    let target = function.resolve(named.or_latest(), || 1.0);
    let version = target.ok_or_else(|| ApiError::no_function(&arn))?.version;
    Ok((function, version, arn))
}

pub(crate) async fn get(
    cx: &Cx<'_>,
    input: GetFunctionRequest,
) -> Result<GetFunctionResponse, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    let (function, version, arn) = version_of(cx, &named)?;
    let reserved = function.details.reserved;
    let tags = &function.details.tags;
    Ok(GetFunctionResponse {
        code: Some(FunctionCodeLocation {
            repository_type: Some("S3".to_owned()),
            location: Some(
                cx.api.downloads.url(cx.host, &format!("code/{}/{}", version.name, version.label)),
            ),
            ..FunctionCodeLocation::default()
        }),
        concurrency: reserved
            .map(|count| Concurrency { reserved_concurrent_executions: Some(i64::from(count)) }),
        configuration: Some(configuration(&function, &version, arn, cx.identity())),
        tags: (!tags.is_empty()).then(|| tags.clone()),
        tags_error: None,
    })
}

pub(crate) async fn get_configuration(
    cx: &Cx<'_>,
    input: GetFunctionConfigurationRequest,
) -> Result<FunctionConfiguration, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    let (function, version, arn) = version_of(cx, &named)?;
    Ok(configuration(&function, &version, arn, cx.identity()))
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListFunctionsRequest,
) -> Result<ListFunctionsResponse, ApiError> {
    let limit = input.max_items.and_then(|items| usize::try_from(items).ok());
    let limit =
        limit.filter(|items| *items > 0).map_or(PAGE, |items| items.min(PAGE_MAX).min(PAGE));
    let marker = input.marker.filter(|marker| !marker.is_empty());
    let after = marker.as_deref().map(FunctionName::new).transpose();
    let after = after.map_err(|_| ApiError::value("Invalid value for Marker."))?;
    let all = input.function_version.as_deref() == Some("ALL");
    let catalog = cx.api.catalog.load();
    let mut page: Vec<&Arc<Function>> = catalog.page(after.as_ref(), limit + 1).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| more).map(|function| function.name().to_string());
    let mut functions = Vec::new();
    for function in page {
        let arn = cx.arn(function.name());
        if !all {
            functions.push(configuration(function, &function.latest, arn, cx.identity()));
            continue;
        }
        for version in function.all_versions() {
            let arn = version_arn(&arn, version);
            functions.push(configuration(function, version, arn, cx.identity()));
        }
    }
    Ok(ListFunctionsResponse { functions: Some(functions), next_marker: next })
}

pub(crate) async fn delete(cx: &Cx<'_>, input: DeleteFunctionRequest) -> Result<Nothing, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    let missing = || ApiError::no_function(named.qualified_arn(cx.identity()));
    let Some(qualifier) = &named.qualifier else {
        cx.function(&named)?;
        cx.api.mappings.forget(&named.name).await?;
        if !cx.api.functions.delete(&named.name).await? {
            return Err(missing());
        }
        return Ok(Nothing {});
    };
    let function = cx.function(&named)?;
    if qualifier == LATEST {
        return Err(ApiError::value(
            "$LATEST version cannot be deleted without deleting the function.",
        ));
    }
    if function.details.aliases.contains_key(qualifier) {
        return Err(ApiError::value(
            "Deletion of aliases is not currently supported. Please use DeleteAlias.",
        ));
    }
    let number: Option<u64> = qualifier.parse().ok();
    // One spelling each: policies see the qualifier.
    let number = number.filter(|number| number.to_string() == *qualifier).ok_or_else(missing)?;
    let label = number.to_string();
    let check = move |function: &Function| {
        let aliases = function.details.aliases.values();
        let names: Vec<&str> =
            aliases.filter(|a| a.names(&label)).map(|a| a.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let message = format!(
            "Version(s) {label} cannot be deleted because the following aliases reference it: [{}]",
            names.join(", ")
        );
        Err(ApiError::lambda("ResourceConflictException", message))
    };
    // Deleting what is not there is no error, as with AWS.
    cx.api.functions.delete_version(&named.name, number, check).await?;
    Ok(Nothing {})
}
