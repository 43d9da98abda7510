//! `wambda list`, `logs` and `delete`.

use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::client::{self, Client, escape};

/// Prints a line on standard output; a closed pipe ends the program quietly.
pub(crate) fn out(line: &dyn std::fmt::Display) -> Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{line}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(client: &Client, json: bool) -> Result<()> {
    let mut functions: Vec<Value> = Vec::new();
    let mut after = String::new();
    loop {
        let page = client::json(client.get(&format!("/v1/functions?limit=1000{after}"))?)?;
        functions
            .extend(page.get("functions").and_then(Value::as_array).cloned().unwrap_or_default());
        match page.get("next").and_then(Value::as_str) {
            Some(next) => after = format!("&after={}", escape(next)),
            None => break,
        }
    }
    if json {
        out(&json!({"functions": functions}))?;
        return Ok(());
    }
    let text = |f: &Value, at: &str| match f.pointer(at) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let rows = functions.iter().map(|f| {
        ["/name", "/kind", "/revision", "/size", "/config/memory", "/config/timeout", "/published"]
            .map(|at| text(f, at))
    });
    let head = ["NAME", "KIND", "REV", "BYTES", "MB", "SECONDS", "PUBLISHED"].map(str::to_owned);
    table(std::iter::once(head).chain(rows).collect())
}

/// Text of strangers: control characters do not reach the terminal.
pub(crate) fn safe(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\t' && c != '\n' { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

/// Prints rows in columns.
pub(crate) fn table(rows: Vec<[String; 7]>) -> Result<()> {
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out(&cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The function's name
    name: String,
    /// Keep printing what comes
    #[arg(short, long)]
    follow: bool,
    /// From a time, an age such as 10m, or Unix milliseconds on
    #[arg(long)]
    since: Option<String>,
}

pub(crate) fn logs(client: &Client, args: &LogsArgs, json: bool) -> Result<()> {
    let since = args.since.as_ref().map(|s| format!("since={}&", escape(s))).unwrap_or_default();
    let path = format!("/v1/functions/{}/logs?{since}", escape(&args.name));
    if !args.follow {
        let page = client::json(client.get(&format!("{path}limit=4096"))?)?;
        for line in page.get("lines").and_then(Value::as_array).into_iter().flatten() {
            log_line(line, json)?;
        }
        return Ok(());
    }
    let response = client.get(&format!("{path}follow=1"))?;
    if !response.status().is_success() {
        client::good(response)?;
        bail!("the server did not stream");
    }
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        if let Some(data) = line?.strip_prefix("data: ") {
            log_line(&serde_json::from_str(data)?, json)?;
        }
    }
    Ok(())
}

/// Prints one line. Functions are strangers: control characters do not reach the terminal.
fn log_line(line: &Value, json: bool) -> Result<()> {
    if json {
        return out(line).map(drop);
    }
    let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default();
    out(&format!("{} {}", text("time"), safe(text("message")))).map(drop)
}

pub(crate) fn delete(client: &Client, names: &[String], json: bool) -> Result<()> {
    for name in names {
        client::good(client.delete(&format!("/v1/functions/{}", escape(name)))?)?;
        if json {
            out(&json!({"deleted": name}))?;
        } else {
            eprintln!("deleted {name}");
        }
    }
    Ok(())
}
