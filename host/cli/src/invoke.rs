//! `wambda invoke`: result on standard output, report on standard error.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::client::{self, Client, escape};
use crate::show;

#[derive(Debug, Args)]
pub(crate) struct InvokeArgs {
    /// The function's name
    name: String,
    /// The event; without it and --file, standard input is read, or {} sent from a terminal
    #[arg(short, long, conflicts_with = "file")]
    data: Option<String>,
    /// A file with the event
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Do not wait: the event is kept, run later, and tried again when it fails; prints its id
    #[arg(long)]
    event: bool,
}

pub(crate) fn run(client: &Client, args: InvokeArgs, json: bool) -> Result<ExitCode> {
    let event = event(&args)?;
    if args.event {
        let path = format!("/v1/functions/{}/invoke?mode=event", escape(&args.name));
        let accepted = client::json(client.post(&path, &event)?)?;
        let id = accepted.get("id").and_then(Value::as_str).unwrap_or_default();
        let shown = if json { accepted.to_string() } else { id.to_owned() };
        return show::out(&shown);
    }
    let mut response =
        client.post(&format!("/v1/functions/{}/invoke", escape(&args.name)), &event)?;
    let status = response.status();
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|v| v.to_str().ok());
        value.map(str::to_owned)
    };
    let Some(id) = header("x-wambda-request-id") else {
        bail!(client::message(status, &client::bytes(&mut response)?));
    };
    let shown = ["start", "duration-ms", "init-ms", "cpu-ms", "memory-bytes", "error"];
    let report: Vec<(&str, String)> = shown
        .into_iter()
        .filter_map(|key| Some((key, header(&format!("x-wambda-{key}"))?)))
        .collect();
    let failed = report.iter().any(|(key, _)| *key == "error");
    let body = client::bytes(&mut response)?;
    if json {
        let result: Value =
            serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
        let report: serde_json::Map<String, Value> =
            report.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        show::out(
            &json!({"request_id": id, "failed": failed, "result": result, "report": report}),
        )?;
    } else {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&body)?;
        if stdout.is_terminal() && !body.ends_with(b"\n") {
            stdout.write_all(b"\n")?;
        }
        let text: Vec<String> =
            report.into_iter().map(|(key, value)| format!("{key} {value}")).collect();
        eprintln!("{id}: {}", text.join(", "));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn event(args: &InvokeArgs) -> Result<Vec<u8>> {
    if let Some(data) = &args.data {
        return Ok(data.clone().into_bytes());
    }
    if let Some(file) = &args.file {
        return std::fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    }
    if std::io::stdin().is_terminal() {
        return Ok(b"{}".to_vec());
    }
    let mut event = Vec::new();
    std::io::stdin().read_to_end(&mut event)?;
    Ok(event)
}
