//! Reserved and provisioned concurrency.

use std::sync::Arc;

use wambda_control::Functions;
use wambda_control::concurrency::{Overdrawn, provisioned};
use wambda_model::function::Provisioned;
use wambda_model::limits::CONCURRENCY_MAX;
use wambda_model::{Details, Function, LATEST, clock};

use super::{Cx, Nothing, shape};
use crate::ApiError;
use crate::aws::generated::lambda::{
    Concurrency, DeleteFunctionConcurrencyRequest, DeleteProvisionedConcurrencyConfigRequest,
    GetFunctionConcurrencyRequest, GetFunctionConcurrencyResponse,
    GetProvisionedConcurrencyConfigRequest, GetProvisionedConcurrencyConfigResponse,
    ListProvisionedConcurrencyConfigsRequest, ListProvisionedConcurrencyConfigsResponse,
    ProvisionedConcurrencyConfigListItem, PutFunctionConcurrencyRequest,
    PutProvisionedConcurrencyConfigRequest, PutProvisionedConcurrencyConfigResponse,
};
use crate::name::Page;

/// Configurations of one page.
const PAGE: usize = 50;

/// Whether the function may take `wanted` in all. To be asked under the commit lock, where nobody
/// takes any meanwhile.
fn gives(
    functions: &Functions,
    function: &Function,
    wanted: u64,
    noun: &str,
) -> Result<(), ApiError> {
    functions.check_concurrency(Some(function), wanted).map_err(|Overdrawn { least, .. }| {
        ApiError::value(format!(
            "Specified {noun} for function decreases account's UnreservedConcurrentExecution below \
             its minimum value of [{least}]."
        ))
    })
}

/// A count of the model, which has no maximum.
fn count(given: i64, noun: &str) -> Result<u32, ApiError> {
    let count = u32::try_from(given).ok().filter(|count| *count <= CONCURRENCY_MAX);
    count.ok_or_else(|| {
        ApiError::value(format!("{noun} must be at most {CONCURRENCY_MAX}, got {given}"))
    })
}

pub(crate) async fn put(
    cx: &Cx<'_>,
    input: PutFunctionConcurrencyRequest,
) -> Result<Concurrency, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    cx.function(&named)?;
    let noun = "ReservedConcurrentExecutions";
    let functions = Arc::clone(&cx.api.functions);
    let given = input.reserved_concurrent_executions;
    let change = move |function: &Function, details: &mut Details| {
        gives(&functions, function, u64::try_from(given).unwrap_or_default(), noun)?;
        let wanted = count(given, noun)?;
        let kept = provisioned(details);
        if u64::from(wanted) < kept {
            return Err(ApiError::value(format!(
                " ReservedConcurrentExecutions  {wanted} should not be lower than function's total provisioned concurrency [{kept}]."
            )));
        }
        details.reserved = Some(wanted);
        Ok(())
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(Concurrency { reserved_concurrent_executions: Some(given) })
}

pub(crate) async fn get(
    cx: &Cx<'_>,
    input: GetFunctionConcurrencyRequest,
) -> Result<GetFunctionConcurrencyResponse, ApiError> {
    let function = cx.function(&cx.named(&input.function_name, None)?)?;
    let reserved = function.details.reserved.map(i64::from);
    Ok(GetFunctionConcurrencyResponse { reserved_concurrent_executions: reserved })
}

pub(crate) async fn delete(
    cx: &Cx<'_>,
    input: DeleteFunctionConcurrencyRequest,
) -> Result<Nothing, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    cx.function(&named)?;
    let change = |_: &Function, details: &mut Details| {
        details.reserved = None;
        Ok::<_, ApiError>(())
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(Nothing {})
}

pub(crate) async fn put_provisioned(
    cx: &Cx<'_>,
    input: PutProvisionedConcurrencyConfigRequest,
) -> Result<PutProvisionedConcurrencyConfigResponse, ApiError> {
    let named = cx.named(&input.function_name, Some(&input.qualifier))?;
    if named.or_latest() == LATEST {
        return Err(ApiError::value(
            "Provisioned Concurrency Configs cannot be applied to unpublished function versions.",
        ));
    }
    cx.qualified(&named)?;
    let given = input.provisioned_concurrent_executions;
    let functions = Arc::clone(&cx.api.functions);
    let now = clock::unix_ms();
    let qualifier = named.or_latest().to_owned();
    let change = move |function: &Function, details: &mut Details| {
        conflicts(function, details, &qualifier)?;
        details.provisioned.remove(&qualifier);
        if details.reserved.is_none() {
            let all = provisioned(details) + u64::try_from(given).unwrap_or_default();
            gives(&functions, function, all, "ConcurrentExecutions")?;
        }
        let count = count(given, "ProvisionedConcurrentExecutions")?;
        details.provisioned.insert(qualifier, Provisioned { count, modified_ms: now });
        let (all, reserved) = (provisioned(details), details.reserved.map(u64::from));
        if let Some(reserved) = reserved.filter(|reserved| *reserved < all) {
            return Err(ApiError::value(format!(
                "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function: {all} of {reserved}"
            )));
        }
        Ok(())
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(PutProvisionedConcurrencyConfigResponse {
        requested_provisioned_concurrent_executions: Some(given),
        allocated_provisioned_concurrent_executions: Some(0),
        available_provisioned_concurrent_executions: Some(0),
        status: Some("IN_PROGRESS".to_owned()),
        status_reason: None,
        last_modified: Some(shape::timestamp(now)),
    })
}

/// An alias and its version exclude each other.
fn conflicts(function: &Function, details: &Details, qualifier: &str) -> Result<(), ApiError> {
    let conflict = |message: String| Err(ApiError::lambda("ResourceConflictException", message));
    if let Some(alias) = details.aliases.get(qualifier) {
        if alias.canary.is_some() {
            return conflict("Provisioned Concurrency cannot be configured for an alias with routing configuration here".to_owned());
        }
        if details.provisioned.contains_key(&alias.version) {
            return conflict(
                "Version is already configured for Provisioned Concurrency".to_owned(),
            );
        }
    } else if function.version(qualifier).is_some() {
        let by_alias = |alias: &&Arc<wambda_model::Alias>| {
            alias.names(qualifier) && details.provisioned.contains_key(&alias.name)
        };
        if details.aliases.values().any(|alias| by_alias(&alias)) {
            return conflict(
                "Alias is already configured for Provisioned Concurrency on this version"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// Requested, allocated and available instances, and what that comes to.
fn standing(cx: &Cx<'_>, function: &Function, qualifier: &str, kept: &Provisioned) -> Standing {
    let target = function.resolve(qualifier, || 1.0);
    let report = target.map(|target| cx.api.invoke.scaling(&target.version));
    let instances = report.unwrap_or_default().instances;
    let allocated = instances.total().min(kept.count);
    let idle = (instances.warm + instances.prewarmed).min(allocated);
    let ready = allocated >= kept.count;
    let failed = !ready && instances.total() == 0 && instances.stillborn;
    let status = match (ready, failed) {
        (true, _) => "READY",
        (_, true) => "FAILED",
        _ => "IN_PROGRESS",
    };
    let reason = failed.then(|| "FUNCTION_ERROR_INIT_FAILURE".to_owned());
    Standing { allocated: i64::from(allocated), idle: i64::from(idle), status, reason }
}

struct Standing {
    allocated: i64,
    idle: i64,
    status: &'static str,
    reason: Option<String>,
}

pub(crate) async fn get_provisioned(
    cx: &Cx<'_>,
    input: GetProvisionedConcurrencyConfigRequest,
) -> Result<GetProvisionedConcurrencyConfigResponse, ApiError> {
    let named = cx.named(&input.function_name, Some(&input.qualifier))?;
    let function = cx.qualified(&named)?;
    let Some(kept) = function.details.provisioned.get(named.or_latest()) else {
        return Err(ApiError::lambda(
            "ProvisionedConcurrencyConfigNotFoundException",
            "No Provisioned Concurrency Config found for this function",
        ));
    };
    let standing = standing(cx, &function, named.or_latest(), kept);
    Ok(GetProvisionedConcurrencyConfigResponse {
        requested_provisioned_concurrent_executions: Some(i64::from(kept.count)),
        allocated_provisioned_concurrent_executions: Some(standing.allocated),
        available_provisioned_concurrent_executions: Some(standing.idle),
        status: Some(standing.status.to_owned()),
        status_reason: standing.reason,
        last_modified: Some(shape::timestamp(kept.modified_ms)),
    })
}

pub(crate) async fn delete_provisioned(
    cx: &Cx<'_>,
    input: DeleteProvisionedConcurrencyConfigRequest,
) -> Result<Nothing, ApiError> {
    let named = cx.named(&input.function_name, Some(&input.qualifier))?;
    cx.function(&named)?;
    let qualifier = named.or_latest().to_owned();
    let change = move |_: &Function, details: &mut Details| {
        details.provisioned.remove(&qualifier);
        Ok::<_, ApiError>(())
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(Nothing {})
}

pub(crate) async fn list_provisioned(
    cx: &Cx<'_>,
    input: ListProvisionedConcurrencyConfigsRequest,
) -> Result<ListProvisionedConcurrencyConfigsResponse, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    let function = cx.function(&named)?;
    let arn = named.arn(cx.identity());
    let page = Page::read(input.marker.as_deref(), input.max_items, PAGE)?;
    let published = function.details.provisioned.iter().filter(|(label, _)| *label != LATEST);
    let (configs, next_marker) = page.of(published);
    let item = |(qualifier, kept): (&String, &Provisioned)| {
        let standing = standing(cx, &function, qualifier, kept);
        ProvisionedConcurrencyConfigListItem {
            function_arn: Some(format!("{arn}:{qualifier}")),
            requested_provisioned_concurrent_executions: Some(i64::from(kept.count)),
            allocated_provisioned_concurrent_executions: Some(standing.allocated),
            available_provisioned_concurrent_executions: Some(standing.idle),
            status: Some(standing.status.to_owned()),
            status_reason: standing.reason,
            last_modified: Some(shape::timestamp(kept.modified_ms)),
        }
    };
    Ok(ListProvisionedConcurrencyConfigsResponse {
        provisioned_concurrency_configs: Some(configs.into_iter().map(item).collect()),
        next_marker,
    })
}
