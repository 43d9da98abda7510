//! New code and new configuration: what a request sets, checked, as a change of a function.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wambda_control::{Change, PublishError, Upload};
use wambda_model::function::LastUpdate;
use wambda_model::limits::{ENV_BYTES_MAX, LAYERS_BYTES_MAX, LAYERS_MAX};
use wambda_model::{Draft, LayerUse};

use super::{Cx, layers, shape};
use crate::auth::{self, Who};
use crate::aws::generated::lambda::{
    CreateFunctionRequest, FunctionConfiguration, LoggingConfig, SERVICE,
    UpdateFunctionCodeRequest, UpdateFunctionConfigurationRequest, VpcConfig,
};
use crate::aws::shape::Blob;
use crate::name::Named;
use crate::{Api, ApiError, Surface};

/// Where code comes from.
pub(crate) struct Code {
    pub(crate) zip: Option<Blob>,
    pub(crate) s3_bucket: Option<String>,
    pub(crate) image: Option<String>,
}

impl Code {
    pub(crate) fn bytes(self) -> Result<Bytes, ApiError> {
        if self.image.is_some() {
            return Err(ApiError::value("container images are not supported"));
        }
        match (self.zip, self.s3_bucket) {
            (Some(Blob(bytes)), None) if !bytes.is_empty() => Ok(bytes),
            (Some(_), Some(_)) => Err(ApiError::value(
                "Please do not provide other FunctionCode parameters when providing a ZipFile.",
            )),
            (None, Some(bucket)) => Err(ApiError::value(format!(
                "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The \
                 specified bucket does not exist: this server has no buckets yet, so not {bucket:?} either; send ZipFile"
            ))),
            _ => Err(ApiError::value("Please provide a source for function code.")),
        }
    }
}

/// What a request sets; none is as before.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) description: Option<String>,
    pub(crate) handler: Option<String>,
    pub(crate) runtime: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) timeout: Option<i64>,
    pub(crate) memory: Option<i64>,
    pub(crate) environment: Option<BTreeMap<String, String>>,
    pub(crate) dead_letter: Option<String>,
    pub(crate) tracing: Option<String>,
    pub(crate) ephemeral: Option<i64>,
    pub(crate) logging: Option<LoggingConfig>,
    pub(crate) layers: Option<Vec<String>>,
    pub(crate) vpc: Option<VpcConfig>,
    pub(crate) snap_start: Option<String>,
    pub(crate) architectures: Option<Vec<String>>,
}

impl Settings {
    /// Checks, and makes the change.
    pub(crate) fn change(self, cx: &Cx<'_>) -> Result<Change, ApiError> {
        if let Some(runtime) = &self.runtime {
            check_runtime(runtime)?;
        }
        if let Some(role) = &self.role {
            check_role(cx.api, cx.who, role)?;
        }
        if let Some(variables) = &self.environment {
            check_environment(variables)?;
        }
        if self.architectures.as_ref().is_some_and(|all| all.len() > 1) {
            return Err(ApiError::value("a function has one architecture"));
        }
        if let Some(arn) = &self.dead_letter {
            super::events::check_dead_letters(cx.identity(), arn)?;
        }
        let layers = self.layers.as_ref().map(|arns| layers(cx, arns)).transpose()?;
        Ok(Arc::new(move |draft: &mut Draft| {
            self.apply(draft, layers.as_ref());
            Ok(())
        }))
    }

    fn apply(&self, draft: &mut Draft, layers: Option<&Vec<LayerUse>>) {
        let Draft { config, attributes, .. } = draft;
        let set = |target: &mut String, value: &Option<String>| {
            if let Some(value) = value {
                target.clone_from(value);
            }
        };
        set(&mut attributes.description, &self.description);
        set(&mut attributes.handler, &self.handler);
        set(&mut attributes.runtime, &self.runtime);
        set(&mut attributes.role, &self.role);
        set(&mut attributes.dead_letter_arn, &self.dead_letter);
        if let Some(architecture) = self.architectures.as_ref().and_then(|all| all.first()) {
            attributes.architecture.clone_from(architecture);
        }
        if let Some(seconds) = self.timeout {
            config.timeout_ms = shape::milliseconds(seconds);
        }
        if let Some(megabytes) = self.memory {
            config.memory_bytes = shape::bytes(megabytes);
        }
        if let Some(variables) = &self.environment {
            config.env.0.clone_from(variables);
        }
        if let Some(mode) = &self.tracing {
            attributes.traces = mode == "Active";
        }
        if let Some(size) = self.ephemeral {
            attributes.ephemeral_mb = u32::try_from(size).unwrap_or_default();
        }
        if let Some(logging) = &self.logging {
            set(&mut attributes.log_format, &logging.log_format);
            set(&mut attributes.log_level, &logging.application_log_level);
            set(&mut attributes.system_log_level, &logging.system_log_level);
            set(&mut attributes.log_group, &logging.log_group);
        }
        if let Some(layers) = layers {
            attributes.layers.clone_from(layers);
        }
        if let Some(vpc) = &self.vpc {
            let subnets = vpc.subnet_ids.clone().unwrap_or_default();
            let groups = vpc.security_group_ids.clone().unwrap_or_default();
            let nothing = subnets.is_empty() && groups.is_empty();
            attributes.vpc = (!nothing).then_some((subnets, groups));
        }
        if let Some(apply_on) = &self.snap_start {
            attributes.snap_start = apply_on == "PublishedVersions";
        }
    }
}

/// The model's runtimes; AWS checks them with another code than other enums.
fn check_runtime(runtime: &str) -> Result<(), ApiError> {
    let known = SERVICE.shapes.iter().find(|shape| shape.name == "Runtime");
    let known = known.map_or(&[][..], |shape| shape.one_of);
    if known.contains(&runtime) {
        return Ok(());
    }
    let message = format!(
        "Value {runtime} at 'runtime' failed to satisfy constraint: Member must satisfy enum value \
         set: [{}] or be a valid ARN",
        known.join(", ")
    );
    Err(ApiError::value(message))
}

/// The role must be there, of this account, and Lambda must be trusted by it; and who asks must be
/// allowed to hand it on.
pub(crate) fn check_role(api: &Api, who: &Who, role: &str) -> Result<(), ApiError> {
    let account = role.split(':').nth(4).unwrap_or_default();
    if *account != *api.identity.account {
        return Err(ApiError::aws(
            403,
            "AccessDeniedException",
            "Cross-account pass role is not allowed.",
        ));
    }
    let facts = vec![auth::fact("iam:PassedToService", "lambda.amazonaws.com")];
    auth::authorize_with(Surface::Lambda, who, "iam:PassRole", role, (None, facts))?;
    let directory = api.auth.directories.current();
    let trusted = directory.role_of(role).is_some_and(|role| crate::iam::lambda_may_assume(role));
    if trusted {
        return Ok(());
    }
    Err(ApiError::value("The role defined for the function cannot be assumed by Lambda."))
}

fn check_environment(variables: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let size: usize = variables.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ENV_BYTES_MAX {
        let shown: String = serde_json::json!(variables).to_string().chars().take(5_000).collect();
        return Err(ApiError::value(format!(
            "Lambda was unable to configure your environment variables because the environment \
             variables you have provided exceeded the 4KB limit. String measured: {shown}"
        )));
    }
    let reserved: Vec<&str> = variables
        .keys()
        .map(String::as_str)
        .filter(|key| wambda_model::config::is_reserved(key))
        .collect();
    if reserved.is_empty() {
        return Ok(());
    }
    Err(ApiError::value(format!(
        "Lambda was unable to configure your environment variables because the environment \
         variables you have provided contains reserved keys that are currently not supported for \
         modification. Reserved keys used in this request: {}",
        reserved.join(", ")
    )))
}

/// The layers of these ARNs.
fn layers(cx: &Cx<'_>, arns: &[String]) -> Result<Vec<LayerUse>, ApiError> {
    if arns.len() > LAYERS_MAX {
        let message = format!("Cannot reference more than {LAYERS_MAX} layers.");
        return Err(ApiError::value(message));
    }
    let mut used: Vec<LayerUse> = Vec::new();
    for arn in arns {
        let found = layers::version_of_arn(cx, arn)?;
        cx.authorize("lambda:GetLayerVersion", arn)?;
        let Some((_, _, version)) = found else {
            let message = format!("One or more LayerVersion does not exist ['{arn}']");
            return Err(ApiError::lambda("ResourceNotFoundException", message));
        };
        let layer = |arn: &str| arn.rsplit_once(':').map(|(layer, _)| layer.to_owned());
        if used.iter().any(|one| layer(&one.arn) == layer(arn)) {
            return Err(ApiError::value(format!(
                "Two different versions of the same layer are not allowed to be referenced in the same function. {arn}"
            )));
        }
        used.push(LayerUse { arn: arn.clone(), digest: version.digest, bytes: version.bytes });
    }
    let bytes: u64 = used.iter().map(|layer| layer.bytes).sum();
    if bytes > LAYERS_BYTES_MAX {
        let message =
            format!("Layers consume more than the available size of {LAYERS_BYTES_MAX} bytes");
        return Err(ApiError::value(message));
    }
    Ok(used)
}

fn unsupported(what: &str) -> ApiError {
    ApiError::value(format!("{what} is not supported"))
}

/// Parameters that promise something which this platform does not have are refused, not ignored.
pub(crate) fn refuse_create(input: &CreateFunctionRequest) -> Result<(), ApiError> {
    let refused = [
        (
            "FileSystemConfigs",
            input.file_system_configs.as_ref().is_some_and(|all| !all.is_empty()),
        ),
        ("KMSKeyArn", input.kms_key_arn.as_ref().is_some_and(|key| !key.is_empty())),
        ("CodeSigningConfigArn", input.code_signing_config_arn.is_some()),
        ("ImageConfig", input.image_config.is_some()),
        ("CapacityProviderConfig", input.capacity_provider_config.is_some()),
        ("DurableConfig", input.durable_config.is_some()),
        ("TenancyConfig", input.tenancy_config.is_some()),
        ("AcceleratorConfig", input.accelerator_config.is_some()),
        ("RuntimeConfig", input.runtime_config.is_some()),
        ("PublishTo", input.publish_to.is_some()),
    ];
    refused.iter().find(|(_, given)| *given).map_or(Ok(()), |(what, _)| Err(unsupported(what)))
}

/// AWS's text for what went wrong with a change.
pub(crate) fn refused(cx: &Cx<'_>, named: &Named, error: PublishError) -> ApiError {
    let arn = named.arn(cx.identity());
    match error {
        PublishError::Missing => ApiError::no_function(arn),
        PublishError::InProgress => ApiError::lambda(
            "ResourceConflictException",
            format!(
                "The operation cannot be performed at this time. An update is in progress for resource: {arn}"
            ),
        ),
        other => other.into(),
    }
}

pub(crate) async fn code(
    cx: &Cx<'_>,
    input: UpdateFunctionCodeRequest,
) -> Result<FunctionConfiguration, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    let function = cx.function(&named)?;
    if input.source_kms_key_arn.is_some() || input.publish_to.is_some() {
        return Err(unsupported("SourceKMSKeyArn or PublishTo"));
    }
    if input.revision_id.as_ref().is_some_and(|id| *id != function.details.revision_id) {
        return Err(ApiError::stale());
    }
    let source = Code { zip: input.zip_file, s3_bucket: input.s3_bucket, image: input.image_uri };
    let settings = Settings { architectures: input.architectures, ..Settings::default() };
    let change = settings.change(cx)?;
    let bytes = source.bytes()?;
    if input.dry_run == Some(true) {
        cx.api.functions.inspect(bytes, &cx.who.uploader()).await?;
        let arn = named.arn(cx.identity());
        return Ok(shape::configuration(&function, &function.latest, arn, cx.identity()));
    }
    let publish = input.publish == Some(true);
    let upload = Upload {
        bytes,
        publish: publish.then(String::new),
        revision_id: input.revision_id,
        by: cx.who.uploader(),
    };
    let updated = cx.api.functions.update_code(&named.name, upload, change).await;
    let function = updated.map_err(|error| refused(cx, &named, error))?;
    // While it is compiled, or when that has failed, the newest version is still the one before.
    let done = publish && function.details.last_update == LastUpdate::Successful;
    let newest = function.versions.values().next_back().filter(|_| done);
    let version = newest.unwrap_or(&function.latest);
    let mut arn = named.arn(cx.identity());
    if version.number.is_some() {
        arn = shape::version_arn(&arn, version);
    }
    Ok(shape::configuration(&function, version, arn, cx.identity()))
}

pub(crate) async fn configuration(
    cx: &Cx<'_>,
    input: UpdateFunctionConfigurationRequest,
) -> Result<FunctionConfiguration, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    cx.function(&named)?;
    let refused_inputs = [
        (
            "FileSystemConfigs",
            input.file_system_configs.as_ref().is_some_and(|all| !all.is_empty()),
        ),
        ("KMSKeyArn", input.kms_key_arn.as_ref().is_some_and(|key| !key.is_empty())),
        ("ImageConfig", input.image_config.is_some()),
        ("CapacityProviderConfig", input.capacity_provider_config.is_some()),
        ("DurableConfig", input.durable_config.is_some()),
        ("RuntimeConfig", input.runtime_config.is_some()),
    ];
    if let Some((what, _)) = refused_inputs.iter().find(|(_, given)| *given) {
        return Err(unsupported(what));
    }
    let settings = Settings {
        description: input.description,
        handler: input.handler,
        runtime: input.runtime,
        role: input.role,
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
        architectures: None,
    };
    let change = settings.change(cx)?;
    let changed = cx.api.functions.reconfigure(&named.name, change, input.revision_id).await;
    let function = changed.map_err(|error| refused(cx, &named, error))?;
    Ok(shape::configuration(&function, &function.latest, named.arn(cx.identity()), cx.identity()))
}
