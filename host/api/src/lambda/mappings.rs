//! Event source mappings. There are no sources to poll yet: a mapping can be kept, disabled.

use std::collections::BTreeMap;
use std::sync::Arc;

use wambda_control::mappings::{Mapping, StreamOptions};
use wambda_model::{RequestId, clock};

use super::{Cx, tags};
use crate::ApiError;
use crate::aws::generated::lambda::{
    CreateEventSourceMappingRequest, DeleteEventSourceMappingRequest, DestinationConfig,
    EventSourceMappingConfiguration, Filter, FilterCriteria, GetEventSourceMappingRequest,
    ListEventSourceMappingsRequest, ListEventSourceMappingsResponse, OnFailure, ScalingConfig,
    UpdateEventSourceMappingRequest,
};
use crate::name::{Named, Page};

/// Mappings of one page.
const PAGE: usize = 100;
/// Patterns of one mapping (Lambda: 5, 10 on request).
const FILTERS_MAX: usize = 10;

fn missing() -> ApiError {
    ApiError::lambda("ResourceNotFoundException", "The resource you requested does not exist.")
}

/// A mapping of that id.
pub(crate) fn find(all: &BTreeMap<String, Arc<Mapping>>, id: &str) -> Result<Mapping, ApiError> {
    all.get(id).map(|mapping| (**mapping).clone()).ok_or_else(missing)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Queue { fifo: bool },
    Stream,
}

fn source(arn: &str) -> Result<Source, ApiError> {
    let parts: Vec<&str> = arn.split(':').collect();
    match parts.as_slice() {
        ["arn", _, "sqs", _, _, name] => Ok(Source::Queue { fifo: name.ends_with(".fifo") }),
        ["arn", _, "dynamodb", _, _, rest @ ..] if rest.join(":").contains("/stream/") => {
            Ok(Source::Stream)
        }
        ["arn", _, "kinesis", ..] => Ok(Source::Stream),
        _ => Err(ApiError::value(format!(
            "Unrecognized event source, must be kinesis, dynamodb stream or sqs, got {arn:?}"
        ))),
    }
}

fn filters(given: Option<FilterCriteria>) -> Result<Vec<String>, ApiError> {
    let given = given.and_then(|criteria| criteria.filters).unwrap_or_default();
    if given.len() > FILTERS_MAX {
        let count = given.len();
        return Err(ApiError::value(format!(
            "a mapping may have {FILTERS_MAX} filters, got {count}"
        )));
    }
    let patterns = given.into_iter().map(|filter| {
        let pattern = filter.pattern.unwrap_or_default();
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&pattern);
        let valid = parsed.is_ok_and(|value| value.as_object().is_some_and(|o| !o.is_empty()));
        match valid {
            true => Ok(pattern),
            false => Err(ApiError::value("Invalid filter pattern definition.")),
        }
    });
    patterns.collect()
}

/// What cannot be kept yet is refused.
fn refuse(enabled: Option<bool>, others: &[(&str, bool)]) -> Result<(), ApiError> {
    if let Some((what, _)) = others.iter().find(|(_, given)| *given) {
        return Err(ApiError::value(format!("{what} is not supported")));
    }
    if enabled == Some(false) {
        return Ok(());
    }
    Err(ApiError::value(
        "this server does not poll event sources yet: a mapping can be kept with Enabled=false only",
    ))
}

fn check_batch(source: Source, batch: i64, window: i64) -> Result<(), ApiError> {
    match source {
        Source::Queue { fifo: true } if batch > 10 || window > 0 => Err(ApiError::value(
            "Batch size must be at most 10, without a batching window, for FIFO queues.",
        )),
        Source::Queue { fifo: false } if batch > 10 && window == 0 => Err(ApiError::value(
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10",
        )),
        _ => Ok(()),
    }
}

/// Parameters that promise something which this platform does not have are refused, not ignored.
fn refuse_create(input: &CreateEventSourceMappingRequest) -> Result<(), ApiError> {
    refuse(
        input.enabled,
        &[
            (
                "AmazonManagedKafkaEventSourceConfig",
                input.amazon_managed_kafka_event_source_config.is_some(),
            ),
            ("SelfManagedEventSource", input.self_managed_event_source.is_some()),
            ("DocumentDBEventSourceConfig", input.document_db_event_source_config.is_some()),
            ("KMSKeyArn", input.kms_key_arn.is_some()),
            ("ProvisionedPollerConfig", input.provisioned_poller_config.is_some()),
            ("MetricsConfig", input.metrics_config.is_some()),
        ],
    )
}

pub(crate) async fn create(
    cx: &Cx<'_>,
    input: CreateEventSourceMappingRequest,
) -> Result<EventSourceMappingConfiguration, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    cx.qualified(&named)?;
    refuse_create(&input)?;
    let Some(source_arn) = input.event_source_arn else {
        return Err(ApiError::value("Unrecognized event source."));
    };
    let source = source(&source_arn)?;
    let tags = input.tags.unwrap_or_default();
    tags::check(&tags)?;
    let stream = match source {
        Source::Queue { .. } => None,
        Source::Stream => Some(StreamOptions {
            position: input.starting_position.ok_or_else(|| {
                ApiError::value("1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must not be null.")
            })?,
            timestamp: input.starting_position_timestamp,
            bisects: input.bisect_batch_on_function_error.unwrap_or_default(),
            age_s: input.maximum_record_age_in_seconds.unwrap_or(-1),
            retries: input.maximum_retry_attempts.unwrap_or(-1),
            parallel: input.parallelization_factor.unwrap_or(1),
            tumbling_s: input.tumbling_window_in_seconds.unwrap_or(0),
        }),
    };
    let batch_size = input.batch_size.unwrap_or(if stream.is_some() { 100 } else { 10 });
    let window_s = input.maximum_batching_window_in_seconds.unwrap_or(0);
    check_batch(source, batch_size, window_s)?;
    let mapping = Mapping {
        id: RequestId::random().to_string(),
        source_arn,
        function: named.name,
        qualifier: named.qualifier,
        batch_size,
        window_s,
        filters: filters(input.filter_criteria)?,
        response_types: input.function_response_types.unwrap_or_default(),
        concurrency: input.scaling_config.and_then(|scaling| scaling.maximum_concurrency),
        on_failure: destination(input.destination_config),
        stream,
        tags,
        modified_ms: clock::unix_ms(),
    };
    let id = mapping.id.clone();
    let change = |all: &BTreeMap<String, Arc<Mapping>>| {
        let same = all.values().find(|known| {
            known.source_arn == mapping.source_arn && known.function == mapping.function
        });
        if let Some(same) = same {
            return Err(ApiError::lambda(
                "ResourceConflictException",
                format!(
                    "The event source arn (\" {} \") and function (\" {} \") provided \
                     mapping already exists. Please update or delete the existing mapping with UUID {}",
                    same.source_arn, same.function, same.id
                ),
            ));
        }
        Ok(mapping)
    };
    let made = cx.api.mappings.put(&id, change).await?;
    Ok(shown(cx, &made))
}

fn destination(given: Option<DestinationConfig>) -> Option<String> {
    given.and_then(|config| config.on_failure).and_then(|failure| failure.destination)
}

fn shown(cx: &Cx<'_>, mapping: &Mapping) -> EventSourceMappingConfiguration {
    let crate::Identity { region, account } = cx.identity();
    let function = Named { name: mapping.function.clone(), qualifier: mapping.qualifier.clone() };
    let stream = mapping.stream.as_ref();
    let destination = mapping.on_failure.clone();
    let patterns = mapping.filters.iter().map(|pattern| Filter { pattern: Some(pattern.clone()) });
    EventSourceMappingConfiguration {
        uuid: Some(mapping.id.clone()),
        event_source_mapping_arn: Some(format!(
            "arn:aws:lambda:{region}:{account}:event-source-mapping:{}",
            mapping.id
        )),
        event_source_arn: Some(mapping.source_arn.clone()),
        function_arn: Some(function.qualified_arn(cx.identity())),
        batch_size: Some(mapping.batch_size),
        maximum_batching_window_in_seconds: Some(mapping.window_s),
        filter_criteria: match mapping.filters.as_slice() {
            [] => None,
            _ => Some(FilterCriteria { filters: Some(patterns.collect()) }),
        },
        function_response_types: Some(mapping.response_types.clone()),
        scaling_config: mapping
            .concurrency
            .map(|most| ScalingConfig { maximum_concurrency: Some(most) }),
        destination_config: (stream.is_some() || destination.is_some()).then_some(
            DestinationConfig { on_failure: Some(OnFailure { destination }), on_success: None },
        ),
        state: Some("Disabled".to_owned()),
        state_transition_reason: Some(
            if stream.is_some() { "User action" } else { "USER_INITIATED" }.to_owned(),
        ),
        last_modified: Some(mapping.modified_ms as f64 / 1e3),
        last_processing_result: stream.map(|_| "No records processed".to_owned()),
        starting_position: stream.map(|s| s.position.clone()),
        starting_position_timestamp: stream.and_then(|s| s.timestamp),
        bisect_batch_on_function_error: stream.map(|s| s.bisects),
        maximum_record_age_in_seconds: stream.map(|s| s.age_s),
        maximum_retry_attempts: stream.map(|s| s.retries),
        parallelization_factor: stream.map(|s| s.parallel),
        tumbling_window_in_seconds: stream.map(|s| s.tumbling_s),
        ..EventSourceMappingConfiguration::default()
    }
}

pub(crate) async fn get(
    cx: &Cx<'_>,
    input: GetEventSourceMappingRequest,
) -> Result<EventSourceMappingConfiguration, ApiError> {
    Ok(shown(cx, &find(&cx.api.mappings.current(), &input.uuid)?))
}

pub(crate) async fn update(
    cx: &Cx<'_>,
    input: UpdateEventSourceMappingRequest,
) -> Result<EventSourceMappingConfiguration, ApiError> {
    let id = input.uuid.clone();
    find(&cx.api.mappings.current(), &id)?;
    refuse(
        Some(input.enabled.unwrap_or(false)),
        &[
            ("KMSKeyArn", input.kms_key_arn.is_some()),
            ("ProvisionedPollerConfig", input.provisioned_poller_config.is_some()),
            ("MetricsConfig", input.metrics_config.is_some()),
        ],
    )?;
    let named = input.function_name.as_deref().map(|name| cx.named(name, None)).transpose()?;
    if let Some(named) = &named {
        cx.qualified(named)?;
    }
    let filters = input.filter_criteria.map(|criteria| filters(Some(criteria))).transpose()?;
    let change = |all: &BTreeMap<String, Arc<Mapping>>| {
        let mut mapping = find(all, &id)?;
        if let Some(named) = named {
            (mapping.function, mapping.qualifier) = (named.name, named.qualifier);
        }
        mapping.batch_size = input.batch_size.unwrap_or(mapping.batch_size);
        mapping.window_s = input.maximum_batching_window_in_seconds.unwrap_or(mapping.window_s);
        check_batch(source(&mapping.source_arn)?, mapping.batch_size, mapping.window_s)?;
        mapping.filters = filters.unwrap_or(mapping.filters);
        mapping.response_types = input.function_response_types.unwrap_or(mapping.response_types);
        if let Some(scaling) = input.scaling_config {
            mapping.concurrency = scaling.maximum_concurrency;
        }
        if let Some(config) = input.destination_config {
            mapping.on_failure = destination(Some(config));
        }
        if let Some(stream) = &mut mapping.stream {
            stream.bisects = input.bisect_batch_on_function_error.unwrap_or(stream.bisects);
            stream.age_s = input.maximum_record_age_in_seconds.unwrap_or(stream.age_s);
            stream.retries = input.maximum_retry_attempts.unwrap_or(stream.retries);
            stream.parallel = input.parallelization_factor.unwrap_or(stream.parallel);
            stream.tumbling_s = input.tumbling_window_in_seconds.unwrap_or(stream.tumbling_s);
        }
        mapping.modified_ms = clock::unix_ms();
        Ok::<_, ApiError>(mapping)
    };
    let changed = cx.api.mappings.put(&id, change).await?;
    Ok(shown(cx, &changed))
}

pub(crate) async fn delete(
    cx: &Cx<'_>,
    input: DeleteEventSourceMappingRequest,
) -> Result<EventSourceMappingConfiguration, ApiError> {
    let mapping = find(&cx.api.mappings.current(), &input.uuid)?;
    cx.api.mappings.remove(&input.uuid, |all| find(all, &input.uuid).map(drop)).await?;
    let state = Some("Deleting".to_owned());
    Ok(EventSourceMappingConfiguration { state, ..shown(cx, &mapping) })
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListEventSourceMappingsRequest,
) -> Result<ListEventSourceMappingsResponse, ApiError> {
    let named = input.function_name.as_deref().map(|name| cx.named(name, None)).transpose()?;
    let page = Page::read(input.marker.as_deref(), input.max_items, PAGE)?;
    let all = cx.api.mappings.current();
    let wanted = |mapping: &&Arc<Mapping>| {
        let of_source =
            input.event_source_arn.as_ref().is_none_or(|arn| *arn == mapping.source_arn);
        let of_function = named.as_ref().is_none_or(|named| {
            named.name == mapping.function
                && (named.qualifier.is_none() || named.qualifier == mapping.qualifier)
        });
        of_source && of_function
    };
    let (mappings, next_marker) = page.of(all.values().filter(wanted));
    let event_source_mappings = mappings.into_iter().map(|mapping| shown(cx, mapping)).collect();
    Ok(ListEventSourceMappingsResponse {
        event_source_mappings: Some(event_source_mappings),
        next_marker,
    })
}
