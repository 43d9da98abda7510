//! Functions in Lambda's shapes.

use wambda_control::Identity;
use wambda_model::function::{LastUpdate, State};
use wambda_model::limits::MIB;
use wambda_model::{Alias, Attributes, Digest, Function, Version};

use crate::aws::generated::lambda::{
    AliasConfiguration, AliasRoutingConfiguration, DeadLetterConfig, EnvironmentResponse,
    EphemeralStorage, FunctionConfiguration, Layer, LoggingConfig, RuntimeVersionConfig,
    SnapStartResponse, TracingConfigResponse, VpcConfigResponse,
};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// The runtime that clients see when nobody said one.
pub(crate) const RUNTIME: &str = "provided.al2023";
/// The handler that clients see when nobody said one.
pub(crate) const HANDLER: &str = "bootstrap";
/// Megabytes of `/tmp` that clients see when nobody said them.
pub(crate) const EPHEMERAL_MB: u32 = 512;

/// A digest as Lambda writes it.
#[must_use]
pub(crate) fn sha256(digest: &Digest) -> String {
    BASE64.encode(digest.bytes())
}

/// A time as Lambda writes it: `2025-11-24T23:08:11.123+0000`.
#[must_use]
pub(crate) fn timestamp(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S.%3f+0000").to_string()
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A reason and its code.
type Reason = (Option<String>, Option<String>);

/// How a version is, and how its last change went.
struct Standing {
    state: &'static str,
    reason: Reason,
    update: Option<&'static str>,
    update_reason: Reason,
}

/// Published versions are always active.
fn standing(function: &Function, version: &Version) -> Standing {
    let reason = |text: &str, code: &str| (Some(text.to_owned()), Some(code.to_owned()));
    let creating = || reason("The function is being created.", "Creating");
    let none = || (None, None);
    let is_latest = version.number.is_none();
    let (state, why) = match (&function.details.state, is_latest) {
        (State::Pending, true) => ("Pending", creating()),
        (State::Failed(why), true) => ("Failed", reason(why, "InvalidZipFileException")),
        _ => ("Active", none()),
    };
    let (update, update_reason) = match (&function.details.last_update, is_latest, state) {
        (_, true, "Pending") => (None, none()),
        (LastUpdate::InProgress, true, _) => (Some("InProgress"), creating()),
        (LastUpdate::Failed(why), true, _) => {
            (Some("Failed"), reason(why, "InvalidZipFileException"))
        }
        _ => (Some("Successful"), none()),
    };
    Standing { state, reason: why, update, update_reason }
}

/// A version's configuration. `arn` is as it was asked for, qualified or not.
#[must_use]
pub(crate) fn configuration(
    function: &Function,
    version: &Version,
    arn: String,
    identity: &Identity,
) -> FunctionConfiguration {
    let Attributes { runtime, handler, architecture, ephemeral_mb, .. } = &version.attributes;
    let attributes = &version.attributes;
    let config = &version.config;
    let Standing { state, reason, update, update_reason } = standing(function, version);
    let (state_reason, state_reason_code) = reason;
    let (last_update_status_reason, last_update_status_reason_code) = update_reason;
    FunctionConfiguration {
        architectures: Some(vec![some(architecture).unwrap_or_else(|| "x86_64".to_owned())]),
        code_sha256: Some(sha256(&version.upload)),
        code_size: i64::try_from(version.upload_bytes).ok(),
        dead_letter_config: some(&attributes.dead_letter_arn)
            .map(|arn| DeadLetterConfig { target_arn: Some(arn) }),
        description: Some(attributes.description.clone()),
        environment: (!config.env.is_empty())
            .then(|| EnvironmentResponse { variables: Some(config.env.0.clone()), error: None }),
        ephemeral_storage: Some(EphemeralStorage {
            size: i64::from(if *ephemeral_mb == 0 { EPHEMERAL_MB } else { *ephemeral_mb }),
        }),
        function_arn: Some(arn),
        function_name: Some(version.name.to_string()),
        handler: Some(some(handler).unwrap_or_else(|| HANDLER.to_owned())),
        last_modified: Some(timestamp(version.published_ms)),
        last_update_status: update.map(str::to_owned),
        last_update_status_reason,
        last_update_status_reason_code,
        layers: (!attributes.layers.is_empty()).then(|| layers(attributes)),
        logging_config: Some(LoggingConfig {
            log_format: Some(some(&attributes.log_format).unwrap_or_else(|| "Text".to_owned())),
            log_group: Some(version.log_group.to_string()),
            application_log_level: some(&attributes.log_level),
            system_log_level: some(&attributes.system_log_level),
        }),
        memory_size: i64::try_from(config.memory_bytes.div_ceil(MIB)).ok(),
        package_type: Some("Zip".to_owned()),
        revision_id: Some(revision_id(function, version).to_owned()),
        role: Some(match attributes.role.as_str() {
            "" => format!("arn:aws:iam::{}:role/none", identity.account),
            role => role.to_owned(),
        }),
        runtime: Some(some(runtime).unwrap_or_else(|| RUNTIME.to_owned())),
        runtime_version_config: Some(RuntimeVersionConfig {
            runtime_version_arn: Some(format!(
                "arn:aws:lambda:{}::runtime:{}",
                identity.region, version.digest
            )),
            error: None,
        }),
        snap_start: Some(SnapStartResponse {
            apply_on: Some(if attributes.snap_start { "PublishedVersions" } else { "None" }.into()),
            optimization_status: Some("Off".to_owned()),
        }),
        state: Some(state.to_owned()),
        state_reason,
        state_reason_code,
        timeout: i64::try_from(config.timeout_ms.div_ceil(1_000)).ok(),
        tracing_config: Some(TracingConfigResponse {
            mode: Some(if attributes.traces { "Active" } else { "PassThrough" }.to_owned()),
        }),
        version: Some(version.label.to_string()),
        vpc_config: attributes.vpc.as_ref().map(|(subnets, groups)| VpcConfigResponse {
            subnet_ids: Some(subnets.clone()),
            security_group_ids: Some(groups.clone()),
            vpc_id: Some(String::new()),
            ipv6_allowed_for_dual_stack: Some(false),
        }),
        ..FunctionConfiguration::default()
    }
}

/// What names a version's present state.
#[must_use]
pub(crate) fn revision_id<'a>(function: &'a Function, version: &'a Version) -> &'a str {
    let own = version.number.is_some();
    if own { &version.revision_id } else { &function.details.revision_id }
}

fn layers(attributes: &Attributes) -> Vec<Layer> {
    let layer = |used: &wambda_model::LayerUse| Layer {
        arn: Some(used.arn.clone()),
        code_size: i64::try_from(used.bytes).ok(),
        ..Layer::default()
    };
    attributes.layers.iter().map(layer).collect()
}

/// The ARN of a version, qualified always.
#[must_use]
pub(crate) fn version_arn(function_arn: &str, version: &Version) -> String {
    format!("{function_arn}:{}", version.label)
}

/// An alias.
#[must_use]
pub(crate) fn alias(function_arn: &str, alias: &Alias) -> AliasConfiguration {
    AliasConfiguration {
        alias_arn: Some(format!("{function_arn}:{}", alias.name)),
        name: Some(alias.name.clone()),
        function_version: Some(alias.version.clone()),
        description: Some(alias.description.clone()),
        revision_id: Some(alias.revision_id.clone()),
        routing_config: alias.canary.as_ref().map(|(version, weight)| AliasRoutingConfiguration {
            additional_version_weights: Some([(version.clone(), *weight)].into()),
        }),
    }
}

/// Milliseconds that Lambda's seconds are.
#[must_use]
pub(crate) fn milliseconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000)
}

/// Bytes that Lambda's megabytes are.
#[must_use]
pub(crate) fn bytes(megabytes: i64) -> u64 {
    u64::try_from(megabytes).unwrap_or_default().saturating_mul(MIB)
}
