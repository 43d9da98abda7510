//! The end of an event: its outcome, and what goes to its destinations, in one settlement.

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use wambda_control::events::{config_of, event_message, letter};
use wambda_model::event::{
    Destination, Ending, Envelope, EventConfig, History, Letter, Status, as_json, dead_queue,
    kept_result,
};
use wambda_model::limits::EVENT_BYTES_MAX;
use wambda_model::{CatalogCell, Function, RequestId, lineage};
use wambda_store::queues::{Message, NewMessage};

/// Why an event has ended whose stored bytes are not what was sent.
pub(super) const DAMAGED: &str = "Damaged";

/// Where events end: this account.
pub(super) struct Place {
    pub(super) catalog: CatalogCell,
    pub(super) region: std::sync::Arc<str>,
    pub(super) account: std::sync::Arc<str>,
    /// Whether execution roles decide what destinations a function reaches.
    pub(super) keys: bool,
}

/// An event that is over.
pub(super) struct Over<'a> {
    pub(super) message: &'a Message,
    pub(super) envelope: &'a Envelope,
    pub(super) history: &'a History,
    pub(super) status: Status,
    pub(super) condition: &'static str,
    /// What the function answered last, and whether that is an error; none when it never ran.
    pub(super) reply: Option<(Bytes, bool)>,
    /// The version that ran last.
    pub(super) version: &'a str,
    /// Times that the function was invoked.
    pub(super) invoked: u32,
}

/// What is to be settled.
pub(super) struct Ended {
    pub(super) outcome: Bytes,
    pub(super) sends: Vec<NewMessage>,
    pub(super) undelivered: Vec<String>,
    /// The letter for the function's own queue, when nobody else takes one.
    pub(super) fallback: Option<Box<NewMessage>>,
}

/// Lambda's record of an asynchronous invocation, for destinations. Source: "Capturing records of Lambda
/// asynchronous invocations".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    version: &'static str,
    timestamp: String,
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_context: Option<ResponseContext<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    request_id: String,
    function_arn: String,
    condition: &'a str,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseContext<'a> {
    status_code: u16,
    executed_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_error: Option<&'static str>,
}

fn timestamp(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

impl Place {
    fn record(&self, over: &Over<'_>, now: u64) -> Bytes {
        let Over { envelope, reply, version, .. } = over;
        let (region, account, name) = (&self.region, &self.account, &envelope.function);
        let qualifier = envelope.qualifier.as_deref().unwrap_or("$LATEST");
        let context = |(_, failed): &(Bytes, bool)| ResponseContext {
            status_code: 200,
            executed_version: version,
            function_error: failed.then_some("Unhandled"),
        };
        let record = Record {
            version: "1.0",
            timestamp: timestamp(now),
            request_context: RequestContext {
                request_id: over.message.id.to_string(),
                function_arn: format!(
                    "arn:aws:lambda:{region}:{account}:function:{name}:{qualifier}"
                ),
                condition: over.condition,
                approximate_invoke_count: over.invoked,
            },
            request_payload: as_json(&over.message.body),
            response_context: reply.as_ref().map(context),
            response_payload: reply.as_ref().and_then(|(bytes, _)| as_json(bytes)),
        };
        serde_json::to_vec(&record).unwrap_or_default().into()
    }

    /// A message with `body` for the destination of an ARN.
    fn send(
        &self,
        arn: &str,
        function: &Function,
        body: Bytes,
        over: &Over<'_>,
        now: u64,
    ) -> Result<NewMessage, String> {
        let destination = Destination::parse(arn, &self.region, &self.account)?;
        let action = match destination {
            Destination::Queue(_) => "sqs:SendMessage",
            Destination::Function { .. } => "lambda:InvokeFunction",
        };
        if self.keys && !function.latest.grants.load().allow(action, arn, now / 1_000) {
            return Err(format!("the execution role does not allow {action} on {arn}"));
        }
        let (limit, size) = (EVENT_BYTES_MAX, body.len() as u64);
        if size > limit {
            return Err(format!("{arn} takes {limit} bytes, and this would be {size}"));
        }
        match destination {
            Destination::Queue(name) => {
                let (id, note) = (RequestId::ordered(now), Bytes::new());
                Ok(letter(name, id, body, attributes(over), note))
            }
            Destination::Function { name, qualifier } => {
                let target = self.catalog.get(&name);
                let target = target.ok_or_else(|| format!("there is no function {name}"))?;
                let trace = over.envelope.trace.as_deref().unwrap_or_default();
                let trace = lineage::pass(trace, &name, target.details.allows_recursion);
                let trace = Some(trace.map_err(|error| error.to_string())?.into());
                let invoked_arn = Some(arn.into());
                let envelope =
                    Envelope { function: name, qualifier, trace, identity: None, invoked_arn };
                Ok(event_message(&target, &envelope, body, now))
            }
        }
    }

    /// Everything that comes of an event's end.
    pub(super) fn end(&self, over: &Over<'_>, function: Option<&Function>, now: u64) -> Ended {
        let qualifier = over.envelope.qualifier.as_deref();
        let config = function.map(|f| config_of(f, qualifier)).unwrap_or_default();
        let (mut sends, mut undelivered) = (Vec::new(), Vec::new());
        // What is damaged goes nowhere else, where it might run.
        if let Some(function) = function.filter(|_| !over.message.is_damaged) {
            for (arn, body) in self.targets(over, function, &config, now) {
                match self.send(&arn, function, body, over, now) {
                    Ok(send) => sends.push(send),
                    Err(why) => undelivered.push(why),
                }
            }
        }
        let fallback = (over.status != Status::Succeeded).then(|| Box::new(own_letter(over)));
        let ending = Ending {
            function: over.envelope.function.clone(),
            qualifier: over.envelope.qualifier.clone(),
            status: over.status,
            condition: over.condition.to_owned(),
            enqueued_ms: over.message.enqueued_ms,
            attempts: over.history.attempts.clone(),
            invoked: over.invoked,
            result: over.reply.as_ref().and_then(|(bytes, _)| kept_result(bytes)),
            result_bytes: over.reply.as_ref().map_or(0, |(bytes, _)| bytes.len() as u64),
            undelivered: undelivered.clone(),
        };
        let outcome = serde_json::to_vec(&ending).unwrap_or_default().into();
        Ended { outcome, sends, undelivered, fallback }
    }

    /// ARNs, and what goes there.
    fn targets(
        &self,
        over: &Over<'_>,
        function: &Function,
        config: &EventConfig,
        now: u64,
    ) -> Vec<(String, Bytes)> {
        let succeeded = over.status == Status::Succeeded;
        let arn = if succeeded { &config.on_success } else { &config.on_failure };
        let mut targets = Vec::new();
        if !arn.is_empty() {
            targets.push((arn.clone(), self.record(over, now)));
        }
        let dead_letters = &function.latest.attributes.dead_letter_arn;
        if !succeeded && !dead_letters.is_empty() {
            targets.push((dead_letters.clone(), over.message.body.clone()));
        }
        targets
    }
}

/// What Lambda says beside a dead letter, as attributes of the message.
fn attributes(over: &Over<'_>) -> Bytes {
    let error = over.history.attempts.last().and_then(|attempt| attempt.error.as_ref());
    let text: String =
        error.map_or(over.condition, |(_, message)| message).chars().take(1_024).collect();
    let attributes = serde_json::json!({
        "RequestID": over.message.id.to_string(),
        "ErrorCode": "200",
        "ErrorMessage": text,
    });
    attributes.to_string().into()
}

/// The letter for the function's own queue: the event as it was, and why it is there.
fn own_letter(over: &Over<'_>) -> NewMessage {
    let note = Letter {
        id: over.message.id.to_string(),
        condition: over.condition.to_owned(),
        error: over.history.attempts.last().and_then(|attempt| attempt.error.clone()),
        attempts: over.invoked,
    };
    let message = over.message;
    let letter = letter(
        dead_queue(&over.envelope.function, over.envelope.qualifier.as_deref()),
        message.id,
        message.body.clone(),
        message.attributes.clone(),
        serde_json::to_vec(&note).unwrap_or_default().into(),
    );
    NewMessage { is_damaged: message.is_damaged, ..letter }
}
