//! `wambda queue` and `wambda status`: asynchronous invocations and the queues that they wait in.

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::{self, Client, escape};
use crate::show::{self, out};

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues: async:FUNCTION waits to be run, dead:FUNCTION was given up
    List,
    /// Look at messages without taking them
    Peek {
        /// The queue's name
        queue: String,
        /// How many
        #[arg(short = 'n', long, default_value_t = 10)]
        limit: u32,
    },
    /// Send dead letters to their function again, as new events
    Redrive {
        /// The queue's name, such as dead:FUNCTION
        queue: String,
        /// Only these messages
        #[arg(long)]
        id: Vec<String>,
        /// Messages a second; all at once without it
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Remove everything that waits in a queue
    Purge {
        /// The queue's name
        queue: String,
    },
    /// Stop running what is in a queue
    Pause {
        /// The queue's name
        queue: String,
    },
    /// Go on with it
    Resume {
        /// The queue's name
        queue: String,
    },
}

fn text(value: &Value, at: &str) -> String {
    match value.get(at) {
        Some(Value::String(text)) => show::safe(text),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

pub(crate) fn run(client: &Client, command: QueueCommand, json: bool) -> Result<()> {
    let path = |queue: &str, verb: &str| format!("/v1/queues/{}/{verb}", escape(queue));
    let (answer, said) = match command {
        QueueCommand::List => return list(client, json),
        QueueCommand::Peek { queue, limit } => return peek(client, &queue, limit, json),
        QueueCommand::Redrive { queue, id, rate } => {
            let ids = id.iter().map(|id| format!("id={}", escape(id)));
            let rate = rate.map(|rate| format!("rate={rate}"));
            let query: Vec<String> = ids.chain(rate).collect();
            let path = format!("{}?{}", path(&queue, "redrive"), query.join("&"));
            let answer = client::json(client.post(&path, b"")?)?;
            let said = format!("{} sent again", text(&answer, "redriven"));
            (answer, said)
        }
        QueueCommand::Purge { queue } => {
            let answer = client::json(client.post(&path(&queue, "purge"), b"")?)?;
            let said = format!("{} removed", text(&answer, "purged"));
            (answer, said)
        }
        QueueCommand::Pause { queue } => {
            (client::json(client.post(&path(&queue, "pause"), b"")?)?, format!("{queue} is paused"))
        }
        QueueCommand::Resume { queue } => {
            (client::json(client.post(&path(&queue, "resume"), b"")?)?, format!("{queue} goes on"))
        }
    };
    if json {
        out(&answer)?;
    } else {
        eprintln!("{said}");
    }
    Ok(())
}

fn list(client: &Client, json: bool) -> Result<()> {
    let answer = client::json(client.get("/v1/queues")?)?;
    if json {
        return out(&answer).map(drop);
    }
    let columns = ["name", "depth", "in_flight", "retrying", "bytes", "oldest_seconds", "paused"];
    let head = ["NAME", "DEPTH", "IN FLIGHT", "RETRYING", "BYTES", "OLDEST S", "PAUSED"];
    let queues = answer.get("queues").and_then(Value::as_array).into_iter().flatten();
    let rows = queues.map(|queue| columns.map(|column| text(queue, column)));
    show::table(std::iter::once(head.map(str::to_owned)).chain(rows).collect())
}

fn peek(client: &Client, queue: &str, limit: u32, json: bool) -> Result<()> {
    let path = format!("/v1/queues/{}/messages?limit={limit}", escape(queue));
    let answer = client::json(client.get(&path)?)?;
    if json {
        return out(&answer).map(drop);
    }
    for message in answer.get("messages").and_then(Value::as_array).into_iter().flatten() {
        let what = [text(message, "reason"), text(message, "status")];
        let what = what.iter().find(|text| !text.is_empty()).cloned().unwrap_or_default();
        let error = message.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
        let (id, time, attempts) =
            (text(message, "id"), text(message, "enqueued"), text(message, "attempts"));
        out(&format!("{id}  {time}  {what}, {attempts} attempts  {}", show::safe(error)))?;
        out(&format!("  {}", text(message, "body")))?;
    }
    Ok(())
}

/// What became of an asynchronous invocation.
pub(crate) fn status(client: &Client, id: &str, json: bool) -> Result<()> {
    let answer = client::json(client.get(&format!("/v1/invocations/{}", escape(id)))?)?;
    if json {
        return out(&answer).map(drop);
    }
    let reason = text(&answer, "reason");
    let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
    out(&format!("{} {}{reason}", text(&answer, "function"), text(&answer, "status")))?;
    for attempt in answer.get("attempts").and_then(Value::as_array).into_iter().flatten() {
        let error = attempt.pointer("/error/message").and_then(Value::as_str).unwrap_or("ok");
        out(&format!("  {}  {}", text(attempt, "started"), show::safe(error)))?;
    }
    if let Some(result) = answer.get("result").filter(|result| !result.is_null()) {
        out(&json!({"result": result}))?;
    }
    Ok(())
}
