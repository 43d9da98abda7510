//! `wambda deploy`: uploads a function, with progress.

use std::io::Cursor;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::client::{self, Client, escape};
use crate::credentials;
use crate::show;

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The function's name
    name: String,
    /// A .wasm, WAT text, or a zip with one of them
    file: PathBuf,
    /// Memory in MB, or with a unit: 64KB, 1.5GB
    #[arg(long)]
    memory: Option<String>,
    /// Wall-clock limit in seconds; fractions allowed
    #[arg(long)]
    timeout: Option<String>,
    /// CPU limit in seconds; fractions allowed
    #[arg(long)]
    cpu: Option<String>,
    /// Limit for an event and for a result, in bytes or with a unit
    #[arg(long)]
    payload: Option<String>,
    /// Limit for the log output of one invocation, in bytes or with a unit
    #[arg(long)]
    logs: Option<String>,
    /// Most instances at once
    #[arg(long)]
    concurrency: Option<String>,
    /// Instances kept ready
    #[arg(long)]
    provisioned: Option<String>,
    /// Most invocations waiting
    #[arg(long)]
    queue: Option<String>,
    /// warm: instances serve again; fresh: one event each
    #[arg(long)]
    reuse: Option<String>,
    /// Execution role, by its ARN or name: what the function may reach
    #[arg(long)]
    role: Option<String>,
    /// Environment variable; may be given more than once
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
}

impl DeployArgs {
    fn query(&self) -> Result<String> {
        let named = [
            ("memory", &self.memory),
            ("timeout", &self.timeout),
            ("cpu", &self.cpu),
            ("payload", &self.payload),
            ("logs", &self.logs),
            ("concurrency", &self.concurrency),
            ("provisioned", &self.provisioned),
            ("queue", &self.queue),
            ("reuse", &self.reuse),
            ("role", &self.role),
        ];
        let given = named.into_iter().filter_map(|(name, value)| value.as_ref().map(|v| (name, v)));
        let mut parts: Vec<String> =
            given.map(|(name, value)| format!("{name}={}", escape(value))).collect();
        for variable in &self.env {
            let (name, value) = variable
                .split_once('=')
                .with_context(|| format!("--env takes NAME=VALUE, got {variable:?}"))?;
            parts.push(format!("env.{}={}", escape(name), escape(value)));
        }
        Ok(parts.join("&"))
    }
}

pub(crate) fn run(client: &Client, args: &DeployArgs, json: bool) -> Result<()> {
    let query = args.query()?;
    let described = upload(client, &args.name, &args.file, &query)?;
    if json {
        return show::out(&described).map(drop);
    }
    let text =
        |key: &str| described.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |key: &str| described.get(key).and_then(Value::as_u64).unwrap_or_default();
    show::out(&format!(
        "{} is ready: kind {}, {} bytes, revision {}, compiled in {} ms",
        text("name"),
        text("kind"),
        number("size"),
        number("revision"),
        number("compile_ms"),
    ))?;
    eprintln!(
        "try: curl -d '{{}}' {}",
        client.url(&format!("/v1/functions/{}/invoke", text("name")))
    );
    Ok(())
}

/// Uploads `file` with a progress bar. Returns the function's description.
pub(crate) fn upload(client: &Client, name: &str, file: &PathBuf, query: &str) -> Result<Value> {
    let content = std::fs::read(file).with_context(|| format!("cannot open {}", file.display()))?;
    let (length, digest) = (content.len() as u64, credentials::digest(&content));
    let bar = ProgressBar::new(length);
    bar.set_style(
        ProgressStyle::with_template("{msg:10} [{bar:30}] {bytes}/{total_bytes}")?
            .progress_chars("=> "),
    );
    bar.set_message("uploading");
    let after = bar.clone();
    let mut reader = Watched { inner: Cursor::new(content), bar: bar.clone(), left: length };
    let path = format!("/v1/functions/{}?{query}", escape(name));
    let sent = client.put(&path, length, &digest, &mut reader);
    after.finish_and_clear();
    client::json(sent?)
}

/// An upload that shows how far it has been read; at its end, that the server compiles.
struct Watched {
    inner: Cursor<Vec<u8>>,
    bar: ProgressBar,
    left: u64,
}

impl std::io::Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        self.bar.inc(read as u64);
        if self.left == 0 {
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                self.bar.set_style(style);
            }
            self.bar.set_message("compiling");
            self.bar.enable_steady_tick(Duration::from_millis(100));
        }
        Ok(read)
    }
}
