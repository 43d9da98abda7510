//! Asynchronous invocations: what is kept of one while it waits, what is known of it when it has ended,
//! and what a function's owner says about them.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config::InvalidConfig;
use crate::function::{LATEST, is_qualifier};
use crate::ids::FunctionName;
use crate::invocation::Caller;
use crate::limits::{
    ATTEMPTS_KEPT, ERROR_CHARS_MAX, EVENT_AGE_DEFAULT_S, EVENT_AGE_MAX_S, EVENT_AGE_MIN_S,
    EVENT_RETRIES_DEFAULT, EVENT_RETRIES_MAX, EVENT_STORAGE_BYTES_DEFAULT, QUALIFIER_LEN_MAX,
    RESULT_KEPT_BYTES_MAX,
};

/// How a qualifier's asynchronous invocations are handled. Nothing said means the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventConfig {
    /// Attempts after the first one that the function failed at.
    pub retries: Option<u32>,
    /// Seconds after which an event is given up.
    pub max_age_s: Option<u64>,
    /// ARN of where records of successes go; empty for nowhere.
    pub on_success: String,
    /// ARN of where records of failures go; empty for nowhere.
    pub on_failure: String,
    /// Milliseconds since the Unix epoch.
    pub modified_ms: u64,
}

impl EventConfig {
    /// Attempts after the first one that the function failed at.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries.unwrap_or(EVENT_RETRIES_DEFAULT)
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`InvalidConfig`] that names the first value that is out of its range, and the range.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let (retries, age) = (self.retries(), self.max_age_s());
        if retries > EVENT_RETRIES_MAX {
            let message = format!("retries must be 0 to {EVENT_RETRIES_MAX}, got {retries}");
            return Err(InvalidConfig(message));
        }
        if !(EVENT_AGE_MIN_S..=EVENT_AGE_MAX_S).contains(&age) {
            return Err(InvalidConfig(format!(
                "event_age must be {EVENT_AGE_MIN_S} to {EVENT_AGE_MAX_S} seconds, got {age}"
            )));
        }
        Ok(())
    }

    /// Seconds after which an event is given up.
    #[must_use]
    pub fn max_age_s(&self) -> u64 {
        self.max_age_s.unwrap_or(EVENT_AGE_DEFAULT_S)
    }
}

/// Where something goes when an event has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A function, as an asynchronous invocation.
    Function {
        /// Its name.
        name: FunctionName,
        /// Which version of it.
        qualifier: Option<String>,
    },
    /// A queue, by its name.
    Queue(String),
}

/// Length of a queue's name (SQS: 80).
const QUEUE_NAME_MAX: usize = 80;

/// Whether it may be the name of a user's queue.
#[must_use]
pub fn is_queue_name(name: &str) -> bool {
    let plain = name.strip_suffix(".fifo").unwrap_or(name);
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !plain.is_empty() && name.len() <= QUEUE_NAME_MAX && plain.bytes().all(good)
}

impl Destination {
    /// Reads an ARN of this account.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(arn: &str, region: &str, account: &str) -> Result<Self, String> {
        let parts: Vec<&str> = arn.split(':').collect();
        let home = |r: &str, a: &str| r == region && a == account;
        match parts.as_slice() {
            ["arn", "aws", "sqs", r, a, name] if home(r, a) && is_queue_name(name) => {
                Ok(Self::Queue((*name).to_owned()))
            }
            ["arn", "aws", "lambda", r, a, "function", name, rest @ ..]
                if home(r, a) && rest.len() < 2 =>
            {
                let name = FunctionName::new(name).map_err(|error| error.to_string())?;
                let qualifier = rest.first().map(|qualifier| (*qualifier).to_owned());
                match qualifier.as_deref().filter(|qualifier| !is_qualifier(qualifier)) {
                    Some(bad) => Err(format!(
                        "the qualifier {bad:?} must be $LATEST, or 1 to {QUALIFIER_LEN_MAX} \
                         letters, digits, '-' and '_'"
                    )),
                    None => Ok(Self::Function { name, qualifier }),
                }
            }
            ["arn", "aws", "sqs" | "lambda", ..] => {
                Err(format!("{arn} is not of {region} and {account}, or not an ARN"))
            }
            ["arn", "aws", service @ ("sns" | "events" | "s3"), ..] => Err(format!(
                "{arn}: destinations of {service} are not there (yet): sqs and lambda are"
            )),
            _ => Err(format!("{arn} is not an ARN of a queue or a function")),
        }
    }
}

/// What the queues of asynchronous invocations begin with.
const ASYNC: &str = "async:";
/// What the queues of dead letters begin with.
const DEAD: &str = "dead:";

fn queue_name(kind: &str, name: &FunctionName, qualifier: Option<&str>) -> String {
    match qualifier.filter(|qualifier| *qualifier != LATEST) {
        Some(qualifier) => format!("{kind}{name}:{qualifier}"),
        None => format!("{kind}{name}"),
    }
}

/// The queue of a function's asynchronous invocations; each qualifier has its own.
#[must_use]
pub fn async_queue(name: &FunctionName, qualifier: Option<&str>) -> String {
    queue_name(ASYNC, name, qualifier)
}

/// The queue of a function's dead letters; each qualifier has its own.
#[must_use]
pub fn dead_queue(name: &FunctionName, qualifier: Option<&str>) -> String {
    queue_name(DEAD, name, qualifier)
}

fn owner_of(kind: &str, queue: &str) -> Option<(FunctionName, Option<String>)> {
    let rest = queue.strip_prefix(kind)?;
    let (name, qualifier) = match rest.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier.to_owned())),
        None => (rest, None),
    };
    Some((FunctionName::new(name).ok()?, qualifier))
}

/// The function and the qualifier whose asynchronous invocations wait in a queue.
#[must_use]
pub fn async_owner(queue: &str) -> Option<(FunctionName, Option<String>)> {
    owner_of(ASYNC, queue)
}

/// The function and the qualifier whose dead letters are in a queue.
#[must_use]
pub fn dead_owner(queue: &str) -> Option<(FunctionName, Option<String>)> {
    owner_of(DEAD, queue)
}

/// What is kept with an event besides its bytes; the attributes of its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The function.
    #[serde(rename = "f")]
    pub function: FunctionName,
    /// As it was invoked.
    #[serde(rename = "q", default, skip_serializing_if = "Option::is_none")]
    pub qualifier: Option<String>,
    /// The trace header.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Arc<str>>,
    /// The caller's ARN.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<str>>,
    /// The ARN that was called.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub invoked_arn: Option<Arc<str>>,
}

impl Envelope {
    /// Of an invocation by `caller`.
    #[must_use]
    pub fn new(function: FunctionName, qualifier: Option<String>, caller: Option<&Caller>) -> Self {
        let caller = caller.cloned().unwrap_or_default();
        let Caller { identity, trace, invoked_arn, .. } = caller;
        Self { function, qualifier, trace, identity, invoked_arn }
    }

    /// Who calls; none when that is nobody in particular.
    #[must_use]
    pub fn caller(&self) -> Option<Box<Caller>> {
        let Self { identity, trace, invoked_arn, .. } = self.clone();
        let nobody = identity.is_none() && trace.is_none() && invoked_arn.is_none();
        (!nobody).then(|| Box::new(Caller { identity, trace, invoked_arn, ..Caller::default() }))
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Milliseconds since the Unix epoch; 0 for one whose worker was lost.
    pub started_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// The version that ran; empty when none did.
    pub version: String,
    /// How it failed: type and message.
    pub error: Option<(String, String)>,
}

/// What has been tried so far; the note of an event's message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The last attempts, newest last.
    pub attempts: Vec<Attempt>,
    /// Attempts that the function failed at.
    pub failures: u32,
    /// Attempts that the platform failed at, or refused, in a row.
    pub faults: u32,
    /// Attempts whose worker was lost.
    pub lost: u32,
}

impl Attempt {
    /// An attempt that failed. Functions choose the text: it is cut to [`ERROR_CHARS_MAX`].
    #[must_use]
    pub fn cut(mut self) -> Self {
        if let Some((kind, message)) = &mut self.error {
            for text in [kind, message] {
                if let Some((at, _)) = text.char_indices().nth(ERROR_CHARS_MAX) {
                    text.truncate(at);
                }
            }
        }
        self
    }
}

impl History {
    /// Adds an attempt.
    pub fn add(&mut self, attempt: Attempt) {
        if self.attempts.len() >= ATTEMPTS_KEPT {
            self.attempts.remove(0);
        }
        self.attempts.push(attempt.cut());
    }

    /// Attempts that ran the function.
    #[must_use]
    pub fn invoked(&self) -> u32 {
        self.failures.saturating_add(self.lost)
    }
}

/// How an event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The function handled it.
    Succeeded,
    /// It was given up.
    Dead,
    /// It got too old.
    Expired,
}

impl Status {
    /// The name in the API and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Expired => "expired",
        }
    }
}

/// An event that has ended: its outcome, written once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ending {
    /// The function.
    pub function: FunctionName,
    /// As it was invoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qualifier: Option<String>,
    /// How it ended.
    pub status: Status,
    /// Lambda's word for why: `Success`, `RetriesExhausted`, `EventAgeExceeded`,
    /// `ZeroReservedConcurrency`; ours besides: `ResourceNotFound`, `InvalidEvent`, `Purged`.
    pub condition: String,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub enqueued_ms: u64,
    /// The last attempts, newest last.
    pub attempts: Vec<Attempt>,
    /// How often the function was invoked, so far as is known.
    pub invoked: u32,
    /// The function's result, or its error; none when there is none, or when it is too large to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// Bytes of the result.
    #[serde(default)]
    pub result_bytes: u64,
    /// Where it could not be delivered, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undelivered: Vec<String>,
}

/// A result as it is kept: JSON as it is, anything else as a string, and nothing when it is too large.
#[must_use]
pub fn kept_result(bytes: &Bytes) -> Option<Box<RawValue>> {
    if bytes.len() > RESULT_KEPT_BYTES_MAX {
        return None;
    }
    as_json(bytes)
}

/// Bytes as JSON: as they are, when they are JSON, or else as a string.
#[must_use]
pub fn as_json(bytes: &[u8]) -> Option<Box<RawValue>> {
    if bytes.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(bytes);
    serde_json::from_str::<Box<RawValue>>(&text)
        .or_else(|_| serde_json::value::to_raw_value(&*text))
        .ok()
}

/// How long queues hold what; said by the operator.
#[derive(Debug, Clone, Copy)]
pub struct EventSettings {
    /// Wait before the second attempt, and before those after it.
    pub retry_delays: [std::time::Duration; 2],
    /// Shortest and longest wait after a throttle or a fault of the platform.
    pub backoff: [std::time::Duration; 2],
    /// Time beyond a function's timeout after which an event counts as lost.
    pub lease_slack: std::time::Duration,
    /// How long outcomes are kept.
    pub outcome_age: std::time::Duration,
    /// Bytes that all queues may hold together for an event to be taken.
    pub storage_bytes: u64,
}

impl Default for EventSettings {
    fn default() -> Self {
        let seconds = std::time::Duration::from_secs;
        Self {
            retry_delays: [seconds(60), seconds(120)],
            backoff: [seconds(1), seconds(300)],
            lease_slack: seconds(60),
            outcome_age: seconds(3_600),
            storage_bytes: EVENT_STORAGE_BYTES_DEFAULT,
        }
    }
}

/// A dead letter's note: why it is one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Letter {
    /// The event's id.
    pub id: String,
    /// See [`Ending::condition`].
    pub condition: String,
    /// How it failed last: type and message.
    pub error: Option<(String, String)>,
    /// Attempts that were made.
    pub attempts: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_queues_and_functions_of_this_account() {
        let parse = |arn: &str| Destination::parse(arn, "us-east-1", "000000000000");
        let queue = parse("arn:aws:sqs:us-east-1:000000000000:jobs.fifo").unwrap();
        assert_eq!(queue, Destination::Queue("jobs.fifo".to_owned()));
        let function = parse("arn:aws:lambda:us-east-1:000000000000:function:f:live").unwrap();
        let Destination::Function { name, qualifier } = function else { panic!() };
        assert_eq!((name.as_str(), qualifier.as_deref()), ("f", Some("live")));
        for (arn, says) in [
            ("arn:aws:sqs:eu-west-1:000000000000:jobs", "us-east-1"),
            ("arn:aws:sqs:us-east-1:000000000000:async:f", "not an ARN"),
            ("arn:aws:sns:us-east-1:000000000000:t", "sns are not there"),
            ("arn:aws:lambda:us-east-1:000000000000:function:f:a:b", "not an ARN"),
            ("arn:aws:sqs:us-east-1:000000000000:a\u{1}b", "not an ARN"),
            ("arn:aws:lambda:us-east-1:000000000000:function:f:", "qualifier"),
            ("arn:aws:lambda:us-east-1:000000000000:function:f:a\u{1b}[31m", "\\u{1b}"),
            ("arn:aws:lambda:us-east-1:000000000000:function:f:a b", "qualifier"),
            ("arn:aws:lambda:us-east-1:000000000000:function:f:a\nb", "qualifier"),
            ("arn:aws:lambda:us-east-1:000000000000:function:f:ä", "qualifier"),
            (
                &format!("arn:aws:lambda:us-east-1:000000000000:function:f:{}", "a".repeat(129)),
                "128",
            ),
            ("jobs", "not an ARN"),
        ] {
            let error = parse(arn).unwrap_err();
            assert!(error.contains(says), "{arn}: {error}");
        }
    }

    #[test]
    fn queues_belong_to_functions_and_qualifiers() {
        let name = FunctionName::new("f").unwrap();
        for (qualifier, queue) in [(None, "async:f"), (Some("live"), "async:f:live")] {
            assert_eq!(async_queue(&name, qualifier), queue);
            assert_eq!(async_owner(queue), Some((name.clone(), qualifier.map(str::to_owned))));
        }
        assert_eq!(dead_queue(&name, Some(LATEST)), "dead:f");
        assert_eq!(
            (async_owner("dead:f"), async_owner("async:"), async_owner("f")),
            (None, None, None)
        );
    }

    #[test]
    fn errors_are_cut() {
        let mut history = History::default();
        let error = Some(("É".repeat(9_000), "x".repeat(9_000)));
        history.add(Attempt { started_ms: 0, ended_ms: 0, version: String::new(), error });
        let (kind, message) = history.attempts[0].error.as_ref().unwrap();
        assert_eq!((kind.chars().count(), message.len()), (ERROR_CHARS_MAX, ERROR_CHARS_MAX));
    }

    #[test]
    fn results_are_kept_as_json_whatever_they_are() {
        let kept = |bytes: &'static [u8]| kept_result(&Bytes::from_static(bytes));
        assert_eq!(kept(b"{\"a\": 1}").unwrap().get(), "{\"a\": 1}");
        assert_eq!(kept(b"plain").unwrap().get(), "\"plain\"");
        assert_eq!(kept(b"\xff").unwrap().get(), "\"\u{fffd}\"");
        assert!(kept(b"").is_none());
        assert!(kept_result(&vec![b'1'; RESULT_KEPT_BYTES_MAX + 1].into()).is_none());
    }
}
