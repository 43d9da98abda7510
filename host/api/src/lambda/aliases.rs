//! Aliases, with weights between two versions.

use std::sync::Arc;

use wambda_model::limits::ALIASES_MAX;
use wambda_model::{Alias, Function, LATEST, clock};

use super::{Cx, Nothing, shape};
use crate::ApiError;
use crate::aws::generated::lambda::{
    AliasConfiguration, AliasRoutingConfiguration, CreateAliasRequest, DeleteAliasRequest,
    GetAliasRequest, ListAliasesRequest, ListAliasesResponse, UpdateAliasRequest,
};
use crate::name::{Named, Page};

/// Aliases of one page.
const PAGE: usize = 50;

fn revision_id() -> String {
    wambda_model::RequestId::random().to_string()
}

fn unknown(arn: &str) -> ApiError {
    ApiError::lambda("ResourceNotFoundException", format!("Cannot find alias arn: {arn}"))
}

/// The second version, checked. An empty configuration is none.
fn canary(
    function: &Function,
    arn: &str,
    version: &str,
    routing: Option<&AliasRoutingConfiguration>,
) -> Result<Option<(String, f64)>, ApiError> {
    let weights = routing.and_then(|routing| routing.additional_version_weights.as_ref());
    let Some(weights) = weights.filter(|weights| !weights.is_empty()) else { return Ok(None) };
    if weights.len() > 1 {
        return Err(ApiError::value(
            "Number of items in AdditionalVersionWeights cannot be greater than 1",
        ));
    }
    let Some((second, weight)) = weights.iter().next() else { return Ok(None) };
    if version == LATEST || second == LATEST {
        return Err(ApiError::value(
            "$LATEST is not supported for an alias pointing to more than 1 version",
        ));
    }
    if second == version {
        return Err(ApiError::value(format!(
            "Invalid function version {second}. Function version {version} is already included in routing configuration."
        )));
    }
    if !(0.0..=1.0).contains(weight) {
        return Err(ApiError::value(format!(
            "weight {weight} of version {second} must be 0.0 to 1.0"
        )));
    }
    if function.version(second).is_none() {
        return Err(ApiError::no_function(format!("{arn}:{second}")));
    }
    Ok(Some((second.clone(), *weight)))
}

pub(crate) async fn create(
    cx: &Cx<'_>,
    input: CreateAliasRequest,
) -> Result<AliasConfiguration, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    cx.function(&named)?;
    let arn = named.arn(cx.identity());
    // The pattern looks ahead, which the engine of the other checks does not.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if input.name.bytes().all(|b| b.is_ascii_digit()) || !input.name.bytes().all(plain) {
        let name: String = input.name.chars().take(130).collect();
        return Err(ApiError::lambda(
            "ValidationException",
            format!(
                "1 validation error detected: Value '{name}' at 'name' failed to satisfy constraint: \
                 Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"
            ),
        ));
    }
    let function_arn = arn.clone();
    let change = move |function: &Function, details: &mut wambda_model::Details| {
        if details.aliases.contains_key(&input.name) {
            let message = format!("Alias already exists: {arn}:{}", input.name);
            return Err(ApiError::lambda("ResourceConflictException", message));
        }
        if details.aliases.len() >= ALIASES_MAX {
            let message = format!("a function may have {ALIASES_MAX} aliases");
            return Err(ApiError::lambda("AliasLimitExceededException", message));
        }
        if function.version(&input.function_version).is_none() {
            return Err(ApiError::no_function(format!("{arn}:{}", input.function_version)));
        }
        let canary =
            canary(function, &arn, &input.function_version, input.routing_config.as_ref())?;
        let alias = Alias {
            name: input.name.clone(),
            version: input.function_version,
            canary,
            description: input.description.unwrap_or_default(),
            revision_id: revision_id(),
            previous: None,
            rollback: None,
            rolled: None,
            watch: Arc::default(),
        };
        let shown = shape::alias(&arn, &alias);
        details.aliases.insert(input.name, Arc::new(alias));
        Ok(shown)
    };
    edited(cx, &named, &function_arn, change).await
}

/// Changes aliases; a function that goes meanwhile is not found.
async fn edited(
    cx: &Cx<'_>,
    named: &Named,
    arn: &str,
    change: impl FnOnce(&Function, &mut wambda_model::Details) -> Result<AliasConfiguration, ApiError>
    + Send
    + 'static,
) -> Result<AliasConfiguration, ApiError> {
    if cx.api.catalog.get(&named.name).is_none() {
        return Err(ApiError::no_function(arn));
    }
    Ok(cx.api.functions.edit(&named.name, change).await?.0)
}

pub(crate) async fn get(
    cx: &Cx<'_>,
    input: GetAliasRequest,
) -> Result<AliasConfiguration, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    let arn = named.arn(cx.identity());
    let function = cx.function(&named)?;
    let alias = function.details.aliases.get(&input.name);
    let alias = alias.ok_or_else(|| unknown(&format!("{arn}:{}", input.name)))?;
    Ok(shape::alias(&arn, alias))
}

pub(crate) async fn update(
    cx: &Cx<'_>,
    input: UpdateAliasRequest,
) -> Result<AliasConfiguration, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    cx.function(&named)?;
    let arn = named.arn(cx.identity());
    let function_arn = arn.clone();
    let change = move |function: &Function, details: &mut wambda_model::Details| {
        let known = details.aliases.get(&input.name);
        let known = known.ok_or_else(|| unknown(&format!("{arn}:{}", input.name)))?;
        if input.revision_id.is_some_and(|id| id != known.revision_id) {
            return Err(ApiError::stale());
        }
        let mut alias = (**known).clone();
        if let Some(version) = input.function_version {
            if function.version(&version).is_none() {
                return Err(ApiError::no_function(format!("{arn}:{version}")));
            }
            if version != alias.version {
                // What it did when it was here before says nothing about it now.
                alias.watch.forget(&version);
                let before = std::mem::replace(&mut alias.version, version);
                alias.previous = Some((before, clock::unix_ms()));
            }
        }
        if let Some(description) = input.description {
            alias.description = description;
        }
        if let Some(routing) = &input.routing_config {
            let before = alias.canary.take();
            alias.canary = canary(function, &arn, &alias.version, Some(routing))?;
            if let Some((second, _)) = &alias.canary
                && before.is_none_or(|(before, _)| before != *second)
            {
                alias.watch.forget(second);
            }
        } else if alias.canary.as_ref().is_some_and(|(second, _)| *second == alias.version) {
            // The canary has become the version itself.
            alias.canary = None;
        }
        alias.watch.retain(|version| {
            alias.names(version) || alias.previous.as_ref().is_some_and(|(v, _)| v == version)
        });
        alias.revision_id = revision_id();
        let shown = shape::alias(&arn, &alias);
        details.aliases.insert(input.name, Arc::new(alias));
        Ok(shown)
    };
    edited(cx, &named, &function_arn, change).await
}

pub(crate) async fn delete(cx: &Cx<'_>, input: DeleteAliasRequest) -> Result<Nothing, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    if cx.api.catalog.get(&named.name).is_none() {
        return Err(ApiError::no_function(named.arn(cx.identity())));
    }
    let change = move |_: &Function, details: &mut wambda_model::Details| {
        // Deleting what is not there is no error, as with AWS.
        if details.aliases.remove(&input.name).is_some() {
            details.policies.remove(&input.name);
            details.urls.remove(&input.name);
            details.provisioned.remove(&input.name);
            details.events.remove(&input.name);
        }
        Ok::<_, ApiError>(())
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(Nothing {})
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListAliasesRequest,
) -> Result<ListAliasesResponse, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    let arn = named.arn(cx.identity());
    let function = cx.function(&named)?;
    let page = Page::read(input.marker.as_deref(), input.max_items, PAGE)?;
    let wanted = |alias: &&Arc<Alias>| {
        input.function_version.as_ref().is_none_or(|version| alias.names(version))
    };
    let (aliases, next_marker) = page.of(function.details.aliases.values().filter(wanted));
    let aliases = aliases.into_iter().map(|alias| shape::alias(&arn, alias)).collect();
    Ok(ListAliasesResponse { aliases: Some(aliases), next_marker })
}
