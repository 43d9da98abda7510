//! CloudWatch Logs: groups, streams and events of functions. What there is, is what the functions'
//! rings hold; nobody else can write.

use std::collections::BTreeMap;

use serde_json::Value;
use wambda_control::groups::Group;
use wambda_control::table::Snapshot;
use wambda_model::limits::FILTER_WORK_MAX;
use wambda_model::{LogEntry, clock};

use super::Cx;
use crate::aws::generated::logs::{
    CreateLogGroupRequest, DeleteLogGroupRequest, DeleteRetentionPolicyRequest,
    DescribeLogGroupsRequest, DescribeLogGroupsResponse, DescribeLogStreamsRequest,
    DescribeLogStreamsResponse, FilterLogEventsRequest, FilterLogEventsResponse, FilteredLogEvent,
    GetLogEventsRequest, GetLogEventsResponse, ListTagsForResourceRequest,
    ListTagsForResourceResponse, LogGroup, LogStream, Op, OutputLogEvent,
    PutRetentionPolicyRequest, SERVICE, TagResourceRequest, UntagResourceRequest,
};
use crate::aws::shape::Operation;
use crate::aws::{Nothing, bind, render};
use crate::lambda::tags;
use crate::{ApiError, Response};

/// Groups or streams of one page.
const PAGE: usize = 50;
/// Events of one answer (CloudWatch: 10,000).
const EVENTS_MAX: usize = 10_000;
/// Bytes of one answer (CloudWatch: 1 MB).
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// What CloudWatch adds to the size of an event.
const EVENT_BYTES: usize = 26;
/// Days that a retention may have.
const RETENTION_DAYS: &[i64] = &[
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1_096, 1_827, 2_192, 2_557,
    2_922, 3_288, 3_653,
];

fn error(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::of(&SERVICE, code, message)
}

fn no_group() -> ApiError {
    error("ResourceNotFoundException", "The specified log group does not exist.")
}

pub(crate) async fn dispatch(
    cx: &Cx<'_>,
    op: Op,
    operation: &'static Operation,
    sent: Value,
) -> Result<Response, ApiError> {
    macro_rules! run {
        ($name:path) => {
            render::respond(
                &SERVICE,
                operation,
                &$name(cx, bind::whole(&SERVICE, operation, sent)?).await?,
            )
        };
    }
    match op {
        Op::CreateLogGroup => run!(create_group),
        Op::DeleteLogGroup => run!(delete_group),
        Op::DeleteRetentionPolicy => run!(delete_retention),
        Op::DescribeLogGroups => run!(groups),
        Op::DescribeLogStreams => run!(streams),
        Op::FilterLogEvents => run!(filter),
        Op::GetLogEvents => run!(events),
        Op::ListTagsForResource => run!(list_tags),
        Op::PutRetentionPolicy => run!(put_retention),
        Op::TagResource => run!(tag),
        Op::UntagResource => run!(untag),
    }
}

/// A group, and the entries of it, oldest first.
struct Found {
    group: Option<Group>,
    entries: Vec<LogEntry>,
}

/// The groups that somebody made, and those that functions have logged to.
fn all_groups(cx: &Cx<'_>) -> BTreeMap<String, Group> {
    let made = cx.api.groups.current();
    let mut all: BTreeMap<String, Group> =
        made.iter().map(|(name, group)| (name.clone(), (**group).clone())).collect();
    for function in cx.api.catalog.load().iter() {
        let latest = &function.latest;
        if !latest.logs.is_empty() {
            let created_ms = latest.published_ms;
            let group = || Group { created_ms, ..Group::default() };
            all.entry(latest.log_group.to_string()).or_insert_with(group);
        }
    }
    all
}

fn find(cx: &Cx<'_>, name: &str) -> Result<Found, ApiError> {
    let mut entries = Vec::new();
    for function in cx.api.catalog.load().iter() {
        if *function.latest.log_group == *name {
            entries.extend(function.latest.logs.read(0, 0, usize::MAX));
        }
    }
    // Within one function they are in order; several may share a group.
    entries.sort_by_key(|entry| entry.unix_ms);
    let group = cx.api.groups.current().get(name).map(|group| (**group).clone());
    if group.is_none() && entries.is_empty() {
        return Err(no_group());
    }
    Ok(Found { group, entries })
}

/// The name of a group, given as such or in an ARN.
fn bare(text: &str) -> &str {
    match text.split_once(":log-group:") {
        Some((_, name)) => name.trim_end_matches(":*"),
        None => text,
    }
}

/// The group that a request is about, by the members that its operation has and in the order in which
/// it looks at them.
pub(crate) fn named_group<'a>(operation: &Operation, sent: &'a Value) -> Option<&'a str> {
    let members = operation.input.map_or(&[][..], |at| SERVICE.shape(at).members);
    let ours = ["logGroupName", "logGroupIdentifier", "resourceArn"].into_iter();
    let mut ours = ours.filter(|name| members.iter().any(|member| member.wire == *name));
    ours.find_map(|member| sent.get(member)?.as_str()).map(bare)
}

/// The group's name, given as a name or an ARN.
fn group_name(name: Option<String>, identifier: Option<String>) -> Result<String, ApiError> {
    let identifier = identifier.map(|text| bare(&text).to_owned());
    name.or(identifier).ok_or_else(|| {
        error("InvalidParameterException", "logGroupName or logGroupIdentifier must be there")
    })
}

fn arn(cx: &Cx<'_>, name: &str) -> String {
    let wambda_control::Identity { region, account } = &cx.api.identity;
    format!("arn:aws:logs:{region}:{account}:log-group:{name}")
}

fn milliseconds(unix_ms: u64) -> Option<i64> {
    i64::try_from(unix_ms).ok()
}

async fn create_group(cx: &Cx<'_>, input: CreateLogGroupRequest) -> Result<Nothing, ApiError> {
    if input.kms_key_id.is_some() {
        return Err(error("InvalidParameterException", "kmsKeyId is not supported"));
    }
    let tags = input.tags.unwrap_or_default();
    tags::check(&tags).map_err(|wrong| wrong.named(400, "InvalidParameterException"))?;
    let name = &input.log_group_name;
    let exists =
        || error("ResourceAlreadyExistsException", "The specified log group already exists");
    if all_groups(cx).contains_key(name) {
        return Err(exists());
    }
    let group = Group { created_ms: clock::unix_ms(), retention_days: None, tags };
    let change = |all: &Snapshot<Group>| match all.contains_key(name) {
        false => Ok(group),
        true => Err(exists()),
    };
    cx.api.groups.put(name, change).await?;
    Ok(Nothing {})
}

async fn delete_group(cx: &Cx<'_>, input: DeleteLogGroupRequest) -> Result<Nothing, ApiError> {
    find(cx, &input.log_group_name)?;
    cx.api.groups.remove(&input.log_group_name, |_| Ok::<_, ApiError>(())).await?;
    for function in cx.api.catalog.load().iter() {
        if *function.latest.log_group == *input.log_group_name {
            function.latest.logs.clear();
        }
    }
    Ok(Nothing {})
}

/// Changes a group, which is made when only functions have made it so far.
async fn change(
    cx: &Cx<'_>,
    name: &str,
    edit: impl FnOnce(&mut Group) -> Result<(), ApiError>,
) -> Result<Nothing, ApiError> {
    let implied = all_groups(cx).remove(name).ok_or_else(no_group)?;
    let change = |all: &Snapshot<Group>| {
        let mut group = all.get(name).map_or(implied, |group| (**group).clone());
        edit(&mut group)?;
        Ok::<_, ApiError>(group)
    };
    cx.api.groups.put(name, change).await?;
    Ok(Nothing {})
}

async fn put_retention(cx: &Cx<'_>, input: PutRetentionPolicyRequest) -> Result<Nothing, ApiError> {
    let days = input.retention_in_days;
    if !RETENTION_DAYS.contains(&days) {
        let message = format!("retentionInDays must be one of {RETENTION_DAYS:?}, got {days}");
        return Err(error("InvalidParameterException", message));
    }
    change(cx, &input.log_group_name, |group| {
        group.retention_days = u32::try_from(days).ok();
        Ok(())
    })
    .await
}

async fn delete_retention(
    cx: &Cx<'_>,
    input: DeleteRetentionPolicyRequest,
) -> Result<Nothing, ApiError> {
    change(cx, &input.log_group_name, |group| {
        group.retention_days = None;
        Ok(())
    })
    .await
}

async fn groups(
    cx: &Cx<'_>,
    input: DescribeLogGroupsRequest,
) -> Result<DescribeLogGroupsResponse, ApiError> {
    let limit = input.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE);
    let prefix = input.log_group_name_prefix.unwrap_or_default();
    let pattern = input.log_group_name_pattern.unwrap_or_default();
    let after = input.next_token.unwrap_or_default();
    let all = all_groups(cx);
    let wanted = |(name, _): &(&String, &Group)| {
        name.starts_with(&prefix) && name.contains(&pattern) && **name > after
    };
    let mut page: Vec<(&String, &Group)> = all.iter().filter(wanted).take(limit + 1).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next_token = page.last().filter(|_| more).map(|(name, _)| (*name).clone());
    let shown = page.into_iter().map(|(name, group)| LogGroup {
        arn: Some(format!("{}:*", arn(cx, name))),
        creation_time: milliseconds(group.created_ms),
        log_group_arn: Some(arn(cx, name)),
        log_group_class: Some("STANDARD".to_owned()),
        log_group_name: Some(name.clone()),
        metric_filter_count: Some(0),
        retention_in_days: group.retention_days.map(i64::from),
        stored_bytes: Some(0),
        ..LogGroup::default()
    });
    Ok(DescribeLogGroupsResponse { log_groups: Some(shown.collect()), next_token })
}

async fn streams(
    cx: &Cx<'_>,
    input: DescribeLogStreamsRequest,
) -> Result<DescribeLogStreamsResponse, ApiError> {
    let name = group_name(input.log_group_name, input.log_group_identifier)?;
    let found = find(cx, &name)?;
    let mut all: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for entry in &found.entries {
        let span = all.entry(&entry.log_stream).or_insert((entry.unix_ms, entry.unix_ms));
        span.1 = span.1.max(entry.unix_ms);
    }
    let prefix = input.log_stream_name_prefix.unwrap_or_default();
    let mut streams: Vec<_> = all.into_iter().filter(|(s, _)| s.starts_with(&prefix)).collect();
    if input.order_by.as_deref() == Some("LastEventTime") {
        streams.sort_by_key(|(_, (_, last))| *last);
    }
    if input.descending == Some(true) {
        streams.reverse();
    }
    let limit = input.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE);
    let after = input.next_token.and_then(|token| token.parse().ok()).unwrap_or(0usize);
    let next = after.saturating_add(limit);
    let next_token = (streams.len() > next).then(|| next.to_string());
    let shown =
        streams.into_iter().skip(after).take(limit).map(|(stream, (first, last))| LogStream {
            arn: Some(format!("{}:log-stream:{stream}", arn(cx, &name))),
            creation_time: milliseconds(first),
            first_event_timestamp: milliseconds(first),
            last_event_timestamp: milliseconds(last),
            last_ingestion_time: milliseconds(last),
            log_stream_name: Some(stream.to_owned()),
            stored_bytes: Some(0),
            upload_sequence_token: None,
        });
    Ok(DescribeLogStreamsResponse { log_streams: Some(shown.collect()), next_token })
}

/// Milliseconds of a span, of which either end may be open.
fn span(from: Option<i64>, until: Option<i64>) -> std::ops::Range<u64> {
    let clamp = |ms: i64| u64::try_from(ms).unwrap_or_default();
    from.map_or(0, clamp)..until.map_or(u64::MAX, clamp)
}

fn message(entry: &LogEntry) -> String {
    let mut text = entry.text();
    text.push('\n');
    text
}

async fn events(cx: &Cx<'_>, input: GetLogEventsRequest) -> Result<GetLogEventsResponse, ApiError> {
    let name = group_name(input.log_group_name, input.log_group_identifier)?;
    let found = find(cx, &name)?;
    let of_stream = |entry: &&LogEntry| *entry.log_stream == *input.log_stream_name;
    let all: Vec<&LogEntry> = found.entries.iter().filter(of_stream).collect();
    if all.is_empty() {
        let message = "The specified log stream does not exist.";
        return Err(error("ResourceNotFoundException", message));
    }
    let span = span(input.start_time, input.end_time);
    let all: Vec<&LogEntry> = all.into_iter().filter(|e| span.contains(&e.unix_ms)).collect();
    let limit = input.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(EVENTS_MAX);
    let limit = limit.min(EVENTS_MAX);
    // A token is a direction and the number of the entry it starts behind.
    let token = input.next_token.as_deref().map(|token| {
        let (way, seq) = token.split_once('/')?;
        Some((way == "f", seq.parse::<u64>().ok()?))
    });
    let token = match token {
        None => None,
        Some(Some(token)) => Some(token),
        Some(None) => {
            return Err(error("InvalidParameterException", "The specified nextToken is invalid."));
        }
    };
    let page: Vec<&LogEntry> = match token {
        Some((true, seq)) => all.into_iter().filter(|e| e.seq > seq).take(limit).collect(),
        Some((false, seq)) => {
            let before: Vec<_> = all.into_iter().filter(|e| e.seq < seq).collect();
            before.iter().skip(before.len().saturating_sub(limit)).copied().collect()
        }
        None if input.start_from_head == Some(true) => all.into_iter().take(limit).collect(),
        None => all.iter().skip(all.len().saturating_sub(limit)).copied().collect(),
    };
    let mut size = 0;
    let within = |text: &OutputLogEvent| {
        size += text.message.as_ref().map_or(0, String::len) + EVENT_BYTES;
        size <= ANSWER_BYTES_MAX
    };
    let shown = page.iter().map(|entry| OutputLogEvent {
        ingestion_time: milliseconds(entry.unix_ms),
        message: Some(message(entry)),
        timestamp: milliseconds(entry.unix_ms),
    });
    let shown: Vec<OutputLogEvent> = shown.take_while(within).collect();
    let seqs: Vec<u64> = page.iter().take(shown.len()).map(|entry| entry.seq).collect();
    // At either end the token stays, which is how clients see that it is the end.
    let held = token.map(|(_, seq)| seq);
    let last = seqs.last().copied().or(held).unwrap_or_default();
    let first = seqs.first().copied().or(held).unwrap_or_default();
    Ok(GetLogEventsResponse {
        events: Some(shown),
        next_forward_token: Some(format!("f/{last}")),
        next_backward_token: Some(format!("b/{first}")),
    })
}

/// An event's id: unique within the process, and for as long as its stream.
fn event_id(entry: &LogEntry) -> String {
    let stream = entry.log_stream.rsplit(']').next().unwrap_or_default();
    format!("{stream}{:020}", entry.seq)
}

async fn filter(
    cx: &Cx<'_>,
    input: FilterLogEventsRequest,
) -> Result<FilterLogEventsResponse, ApiError> {
    let name = group_name(input.log_group_name, input.log_group_identifier)?;
    let found = find(cx, &name)?;
    let pattern = Pattern::read(input.filter_pattern.as_deref().unwrap_or_default())?;
    let span = span(input.start_time, input.end_time);
    let streams = input.log_stream_names.unwrap_or_default();
    let prefix = input.log_stream_name_prefix.unwrap_or_default();
    let limit = input.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(EVENTS_MAX);
    let limit = limit.min(EVENTS_MAX);
    let mut wanted = found.entries.iter().filter(|entry| {
        span.contains(&entry.unix_ms)
            && entry.log_stream.starts_with(&prefix)
            && (streams.is_empty() || streams.iter().any(|stream| **stream == *entry.log_stream))
    });
    if let Some(token) = &input.next_token {
        // Behind the last event of the page before; when that is gone, so is all before it.
        let mut rest = wanted.clone();
        if rest.any(|entry| event_id(entry) == *token) {
            let _ = wanted.find(|entry| event_id(entry) == *token);
        }
    }
    let mut events: Vec<FilteredLogEvent> = Vec::new();
    let (mut size, mut next_token, mut work) = (0, None, 0);
    let mut before = None;
    for entry in wanted {
        let message = message(entry);
        work += message.len() * (1 + pattern.words());
        // A page may be empty: the next one goes on behind what was looked at.
        if let Some(before) = before.replace(entry).filter(|_| work > FILTER_WORK_MAX) {
            next_token = Some(event_id(before));
            break;
        }
        if !pattern.fits(&message) {
            continue;
        }
        size += message.len() + EVENT_BYTES;
        if events.len() >= limit || (size > ANSWER_BYTES_MAX && !events.is_empty()) {
            next_token = events.last().and_then(|event| event.event_id.clone());
            break;
        }
        events.push(FilteredLogEvent {
            event_id: Some(event_id(entry)),
            ingestion_time: milliseconds(entry.unix_ms),
            log_stream_name: Some(entry.log_stream.to_string()),
            message: Some(message),
            timestamp: milliseconds(entry.unix_ms),
        });
    }
    Ok(FilterLogEventsResponse {
        events: Some(events),
        next_token,
        searched_log_streams: Some(Vec::new()),
    })
}

/// A filter pattern for unstructured events: words that must be there, `-` for those that must not,
/// `?` for those of which one must. Source: "Filter pattern syntax", CloudWatch Logs User Guide.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pattern {
    all: Vec<String>,
    none: Vec<String>,
    any: Vec<String>,
}

impl Pattern {
    fn read(text: &str) -> Result<Self, ApiError> {
        let text = text.trim();
        if text.starts_with(['{', '[', '%']) {
            let message = "only words are supported in filter patterns: no JSON, columns or regular expressions";
            return Err(error("InvalidParameterException", message));
        }
        let mut pattern = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let (list, word) = match rest.split_at_checked(1) {
                Some(("-", word)) => (&mut pattern.none, word),
                Some(("?", word)) => (&mut pattern.any, word),
                _ => (&mut pattern.all, rest),
            };
            let (word, after) = match word.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').ok_or_else(|| {
                    error("InvalidParameterException", "Invalid filter pattern: a quote is open")
                })?,
                None => word.split_once(char::is_whitespace).unwrap_or((word, "")),
            };
            if !word.is_empty() {
                list.push(word.to_owned());
            }
            rest = after.trim_start();
        }
        Ok(pattern)
    }

    fn words(&self) -> usize {
        self.all.len() + self.none.len() + self.any.len()
    }

    fn fits(&self, message: &str) -> bool {
        self.all.iter().all(|word| message.contains(word))
            && !self.none.iter().any(|word| message.contains(word))
            && (self.any.is_empty() || self.any.iter().any(|word| message.contains(word)))
    }
}

/// The group of an ARN.
fn group_of(arn: &str) -> Result<String, ApiError> {
    let name = arn.split_once(":log-group:").map(|(_, name)| name.trim_end_matches(":*"));
    name.map(str::to_owned).ok_or_else(no_group)
}

async fn list_tags(
    cx: &Cx<'_>,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResponse, ApiError> {
    let name = group_of(&input.resource_arn)?;
    let found = find(cx, &name)?;
    Ok(ListTagsForResourceResponse { tags: Some(found.group.unwrap_or_default().tags) })
}

async fn tag(cx: &Cx<'_>, input: TagResourceRequest) -> Result<Nothing, ApiError> {
    let name = group_of(&input.resource_arn)?;
    change(cx, &name, |group| {
        group.tags.extend(input.tags);
        let checked = tags::check(&group.tags);
        checked.map_err(|wrong| wrong.named(400, "InvalidParameterException"))
    })
    .await
}

async fn untag(cx: &Cx<'_>, input: UntagResourceRequest) -> Result<Nothing, ApiError> {
    let name = group_of(&input.resource_arn)?;
    change(cx, &name, |group| {
        group.tags.retain(|key, _| !input.tag_keys.contains(key));
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_patterns() {
        let fits = |pattern: &str, text: &str| Pattern::read(pattern).unwrap().fits(text);
        assert!(fits("", "anything") && fits("ERROR", "an ERROR") && !fits("ERROR", "an error"));
        assert!(fits("a b", "b a") && !fits("a b", "a"));
        assert!(fits("\"a b\"", "x a b y") && !fits("\"a b\"", "b a"));
        assert!(fits("a -b", "a") && !fits("a -b", "a b"));
        assert!(fits("?a ?b", "b") && !fits("?a ?b", "c"));
        for wrong in ["{ $.x = 1 }", "[a, b]", "%x%", "\"open"] {
            assert!(Pattern::read(wrong).is_err(), "{wrong}");
        }
    }
}
