//! How asynchronous invocations are handled: Lambda's `FunctionEventInvokeConfig`, one a qualifier.

use wambda_control::Identity;
use wambda_model::event::{Destination, EventConfig};
use wambda_model::{Details, Function, clock};

use super::{Cx, Nothing};
use crate::ApiError;
use crate::aws::generated::lambda::{
    DeleteFunctionEventInvokeConfigRequest, DestinationConfig, FunctionEventInvokeConfig,
    GetFunctionEventInvokeConfigRequest, ListFunctionEventInvokeConfigsRequest,
    ListFunctionEventInvokeConfigsResponse, OnFailure, OnSuccess,
    PutFunctionEventInvokeConfigRequest, UpdateFunctionEventInvokeConfigRequest,
};
use crate::name::{Named, Page};

/// Configurations of one page.
const PAGE: usize = 50;

fn shown(
    cx: &Cx<'_>,
    named: &Named,
    qualifier: &str,
    config: &EventConfig,
) -> FunctionEventInvokeConfig {
    let given = |arn: &String| (!arn.is_empty()).then(|| arn.clone());
    FunctionEventInvokeConfig {
        destination_config: Some(DestinationConfig {
            on_failure: Some(OnFailure { destination: given(&config.on_failure) }),
            on_success: Some(OnSuccess { destination: given(&config.on_success) }),
        }),
        function_arn: Some(format!("{}:{qualifier}", named.arn(cx.identity()))),
        last_modified: Some(config.modified_ms as f64 / 1e3),
        maximum_event_age_in_seconds: config.max_age_s.and_then(|s| i64::try_from(s).ok()),
        maximum_retry_attempts: config.retries.map(i64::from),
    }
}

/// Checks a destination: it is a queue or a function of this account, and not the function itself.
pub(crate) fn check_destination(
    identity: &Identity,
    arn: &str,
    of: &wambda_model::FunctionName,
) -> Result<(), ApiError> {
    let parsed = Destination::parse(arn, &identity.region, &identity.account);
    let destination = parsed.map_err(|why| {
        let arn: String = arn.chars().take(200).collect();
        ApiError::value(format!("The destination ARN {arn} is invalid: {why}"))
    })?;
    match destination {
        Destination::Function { name, .. } if name == *of => {
            Err(ApiError::value("You can't specify the function as a destination for itself."))
        }
        _ => Ok(()),
    }
}

/// Checks where dead letters go: a queue, for Lambda knows queues and topics, and there are no topics yet.
pub(crate) fn check_dead_letters(identity: &Identity, arn: &str) -> Result<(), ApiError> {
    if arn.is_empty() {
        return Ok(());
    }
    let why = match Destination::parse(arn, &identity.region, &identity.account) {
        Ok(Destination::Queue(_)) => return Ok(()),
        Ok(Destination::Function { .. }) => "it is a function, not a queue".to_owned(),
        Err(why) => why,
    };
    let arn: String = arn.chars().take(200).collect();
    Err(ApiError::value(format!("The dead letter target {arn} is invalid: {why}")))
}

fn no_config(arn: &str) -> ApiError {
    let message = format!("The function {arn} doesn't have an EventInvokeConfig");
    ApiError::lambda("ResourceNotFoundException", message)
}

/// What a request says.
struct Given {
    retries: Option<i64>,
    max_age: Option<i64>,
    destinations: Option<DestinationConfig>,
}

impl Given {
    fn apply(
        self,
        identity: &Identity,
        named: &Named,
        config: &mut EventConfig,
    ) -> Result<(), ApiError> {
        if self.retries.is_none() && self.max_age.is_none() && self.destinations.is_none() {
            let message = "You must specify at least one of error handling or destination setting.";
            return Err(ApiError::value(message));
        }
        if let Some(retries) = self.retries {
            config.retries = u32::try_from(retries).ok();
        }
        if let Some(seconds) = self.max_age {
            config.max_age_s = u64::try_from(seconds).ok();
        }
        let Some(destinations) = self.destinations else { return Ok(()) };
        let success = destinations.on_success.map(|d| d.destination.unwrap_or_default());
        let failure = destinations.on_failure.map(|d| d.destination.unwrap_or_default());
        for arn in success.iter().chain(&failure).filter(|arn| !arn.is_empty()) {
            check_destination(identity, arn, &named.name)?;
        }
        config.on_success = success.unwrap_or_else(|| std::mem::take(&mut config.on_success));
        config.on_failure = failure.unwrap_or_else(|| std::mem::take(&mut config.on_failure));
        Ok(())
    }
}

/// Writes a configuration: a new one, or one that is there with changes.
async fn write(
    cx: &Cx<'_>,
    named: Named,
    given: Given,
    is_update: bool,
) -> Result<FunctionEventInvokeConfig, ApiError> {
    cx.qualified(&named)?;
    let qualifier = named.or_latest().to_owned();
    let (identity, place, at) = (cx.identity().clone(), named.clone(), qualifier.clone());
    // Under the commit lock: what another request has changed meanwhile stays.
    let change = move |function: &Function, details: &mut Details| {
        let missing = || no_config(&place.qualified_arn(&identity));
        if function.resolve(&at, || 1.0).is_none() {
            return Err(ApiError::no_function(place.qualified_arn(&identity)));
        }
        let mut config = match (is_update, details.events.get(&at).cloned()) {
            (true, known) => known.ok_or_else(missing)?,
            (false, _) => EventConfig::default(),
        };
        given.apply(&identity, &place, &mut config)?;
        config.modified_ms = clock::unix_ms();
        details.events.insert(at, config.clone());
        Ok(config)
    };
    let (config, _) = cx.api.functions.edit(&named.name, change).await?;
    Ok(shown(cx, &named, &qualifier, &config))
}

pub(crate) async fn put(
    cx: &Cx<'_>,
    input: PutFunctionEventInvokeConfigRequest,
) -> Result<FunctionEventInvokeConfig, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    let given = Given {
        retries: input.maximum_retry_attempts,
        max_age: input.maximum_event_age_in_seconds,
        destinations: input.destination_config,
    };
    write(cx, named, given, false).await
}

pub(crate) async fn update(
    cx: &Cx<'_>,
    input: UpdateFunctionEventInvokeConfigRequest,
) -> Result<FunctionEventInvokeConfig, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    let given = Given {
        retries: input.maximum_retry_attempts,
        max_age: input.maximum_event_age_in_seconds,
        destinations: input.destination_config,
    };
    write(cx, named, given, true).await
}

pub(crate) async fn get(
    cx: &Cx<'_>,
    input: GetFunctionEventInvokeConfigRequest,
) -> Result<FunctionEventInvokeConfig, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    let function = cx.qualified(&named)?;
    let config = function.details.events.get(named.or_latest());
    let config = config.ok_or_else(|| no_config(&named.qualified_arn(cx.identity())))?;
    Ok(shown(cx, &named, named.or_latest(), config))
}

pub(crate) async fn delete(
    cx: &Cx<'_>,
    input: DeleteFunctionEventInvokeConfigRequest,
) -> Result<Nothing, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    cx.qualified(&named)?;
    let (qualifier, arn) = (named.or_latest().to_owned(), named.qualified_arn(cx.identity()));
    let change = move |_: &Function, details: &mut Details| {
        details.events.remove(&qualifier).map(drop).ok_or_else(|| no_config(&arn))
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(Nothing {})
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListFunctionEventInvokeConfigsRequest,
) -> Result<ListFunctionEventInvokeConfigsResponse, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    let function = cx.function(&named)?;
    let page = Page::read(input.marker.as_deref(), input.max_items, PAGE)?;
    let (configs, next_marker) = page.of(function.details.events.iter());
    let configs = configs.into_iter().map(|(q, config)| shown(cx, &named, q, config)).collect();
    Ok(ListFunctionEventInvokeConfigsResponse {
        function_event_invoke_configs: Some(configs),
        next_marker,
    })
}
