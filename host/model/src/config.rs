//! A function's configuration: what a user sets, with its defaults and ranges.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::EventConfig;
use crate::ids::Digest;
use crate::limits;

/// What an upload turned out to be. See docs/SPECIFICATION.md, "kinds".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A component that exports `wambda:function/event-handler`.
    Event,
    /// A component that exports `wasi:http/incoming-handler@0.2`.
    Http,
    /// A component that exports `wasi:http/handler@0.3`.
    Http3,
    /// A WASI preview 1 module with `_start`, or a component that exports `wasi:cli/run`.
    Command,
    /// A core module with `memory`, `wambda_alloc` and `wambda_handle`.
    Core,
}

impl Kind {
    /// Whether it is handed HTTP requests and not events.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http3)
    }

    /// The name users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Http => "http",
            Self::Http3 => "http3",
            Self::Command => "command",
            Self::Core => "core",
        }
    }
}

/// Whether an instance serves later events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    /// An instance is kept for later events of the same version.
    Warm,
    /// Each event gets an instance of its own.
    Fresh,
}

/// The configuration of a function. Every value is within its range in [`limits`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionConfig {
    /// Bytes of linear memories and tables of one instance, together.
    pub memory_bytes: u64,
    /// Wall-clock milliseconds of one invocation.
    pub timeout_ms: u64,
    /// CPU milliseconds of one invocation; none means as much as the timeout.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_ms: Option<u64>,
    /// Bytes of an event, and of a result.
    pub payload_bytes: u64,
    /// Bytes of log output of one invocation.
    pub log_bytes: u64,
    /// Most invocations waiting for an instance.
    pub queue: u32,
    /// Reuse asked for; none means the kind's default.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reuse: Option<Reuse>,
    /// Environment variables.
    pub env: Variables,
}

/// Environment variables. Their values may be secrets: `Debug` tells names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub BTreeMap<String, String>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Deref for Variables {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Variables {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Default for FunctionConfig {
    fn default() -> Self {
        Self {
            memory_bytes: limits::MEMORY_BYTES_DEFAULT,
            timeout_ms: limits::TIMEOUT_MS_DEFAULT,
            cpu_ms: None,
            payload_bytes: limits::PAYLOAD_BYTES_DEFAULT,
            log_bytes: limits::LOG_BYTES_DEFAULT,
            queue: limits::QUEUE_COUNT_DEFAULT,
            reuse: None,
            env: Variables::default(),
        }
    }
}

/// A value outside its range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InvalidConfig(pub String);

impl FunctionConfig {
    /// The wall-clock limit.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The CPU limit.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        Duration::from_millis(self.cpu_ms.unwrap_or(self.timeout_ms))
    }

    /// Reuse as asked for, or the kind's default. A command runs once per instance, always.
    #[must_use]
    pub fn reuse_for(&self, kind: Kind) -> Reuse {
        match (kind, self.reuse) {
            (Kind::Command, _) => Reuse::Fresh,
            (_, Some(reuse)) => reuse,
            (Kind::Event | Kind::Core, None) => Reuse::Warm,
            (Kind::Http | Kind::Http3, None) => Reuse::Fresh,
        }
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`InvalidConfig`] that names the first value that is out of its range, and the range.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let within = |what: &str, unit: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            let range = format!("{min} to {max} {unit}");
            Err(InvalidConfig(format!("{what} must be {range}, got {value}")))
        };
        let (min, max) = (limits::MEMORY_BYTES_MIN, limits::MEMORY_BYTES_MAX);
        within("memory", "bytes (64 KB to 10 GB)", self.memory_bytes, min, max)?;
        let (min, max) = (limits::TIMEOUT_MS_MIN, limits::TIMEOUT_MS_MAX);
        within("timeout", "milliseconds (0.001 to 900 seconds)", self.timeout_ms, min, max)?;
        if let Some(cpu) = self.cpu_ms {
            within("cpu", "milliseconds (0.001 to 900 seconds)", cpu, min, max)?;
        }
        let (min, max) = (limits::PAYLOAD_BYTES_MIN, limits::PAYLOAD_BYTES_MAX);
        within("payload", "bytes", self.payload_bytes, min, max)?;
        within("logs", "bytes", self.log_bytes, 0, limits::LOG_BYTES_MAX)?;
        let max = u64::from(limits::QUEUE_COUNT_MAX);
        within("queue", "invocations", u64::from(self.queue), 0, max)?;
        self.check_env()
    }

    fn check_env(&self) -> Result<(), InvalidConfig> {
        let bytes: usize = self.env.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > limits::ENV_BYTES_MAX {
            let max = limits::ENV_BYTES_MAX;
            let message = format!("environment must be at most {max} bytes, got {bytes}");
            return Err(InvalidConfig(message));
        }
        for (key, value) in &*self.env {
            let mut chars = key.bytes();
            let ok = chars.next().is_some_and(|b| b.is_ascii_alphabetic())
                && chars.all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !value.contains('\0');
            if !ok {
                return Err(InvalidConfig(format!(
                    "environment variable {key:?} is not valid: a letter, then letters, digits and '_'; no NUL in its value"
                )));
            }
            if is_reserved(key) {
                let message = format!("environment variable {key:?} is reserved by the platform");
                return Err(InvalidConfig(message));
            }
        }
        Ok(())
    }
}

/// What a function is to AWS's clients beyond what runs: told back as it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// For people.
    pub description: String,
    /// What clients call the runtime, for example `provided.al2023`; empty when nobody said.
    pub runtime: String,
    /// What clients call the handler.
    pub handler: String,
    /// ARN of the execution role; empty for none, which may reach nothing.
    pub role: String,
    /// `x86_64` or `arm64`; wasm does not mind. Empty for the first.
    pub architecture: String,
    /// Megabytes of `/tmp` that were asked for; 0 for the default.
    pub ephemeral_mb: u32,
    /// Where events go that cannot be handled; empty for nowhere.
    pub dead_letter_arn: String,
    /// Whether traces are asked for.
    pub traces: bool,
    /// `JSON`, or text when empty.
    pub log_format: String,
    /// Least level of the function's own lines, in the JSON format.
    pub log_level: String,
    /// Least level of the platform's lines, in the JSON format.
    pub system_log_level: String,
    /// Another log group than `/aws/lambda/NAME`; empty for that.
    pub log_group: String,
    /// Layers, lowest first.
    pub layers: Vec<LayerUse>,
    /// Subnets and security groups, which mean nothing here.
    pub vpc: Option<(Vec<String>, Vec<String>)>,
    /// Whether published versions are asked to start from a snapshot, which means nothing here.
    pub snap_start: bool,
}

/// A layer that a function uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerUse {
    /// ARN of the layer's version.
    pub arn: String,
    /// What is in it.
    pub digest: Digest,
    /// Bytes of its zip.
    pub bytes: u64,
}

/// Everything that a change of a function may touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// What runs, and how.
    pub config: FunctionConfig,
    /// What AWS's clients know besides.
    pub attributes: Attributes,
    /// Concurrency that is the function's alone; none is a share of the account's.
    pub reserved: Option<u32>,
    /// Instances kept for `$LATEST`.
    pub provisioned: u32,
    /// How asynchronous invocations of `$LATEST` are handled.
    pub events: EventConfig,
}

impl Draft {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`InvalidConfig`] that names the first value that is out of its range, and the range.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        self.config.check()?;
        self.events.check()?;
        let max = self.reserved.unwrap_or(limits::CONCURRENCY_MAX);
        if max > limits::CONCURRENCY_MAX {
            let most = limits::CONCURRENCY_MAX;
            let message = format!("concurrency must be 0 to {most} instances, got {max}");
            return Err(InvalidConfig(message));
        }
        if self.provisioned > max {
            let count = self.provisioned;
            let message =
                format!("provisioned must be 0 to {max} instances (concurrency), got {count}");
            return Err(InvalidConfig(message));
        }
        Ok(())
    }
}

/// Whether the platform sets this variable itself.
#[must_use]
pub fn is_reserved(variable: &str) -> bool {
    variable.starts_with("AWS_LAMBDA_") || RESERVED_ENV.contains(&variable)
}

/// Names that Lambda reserves besides `AWS_LAMBDA_*`.
const RESERVED_ENV: &[&str] = &[
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut FunctionConfig)) -> String {
        let mut draft = Draft::default();
        change(&mut draft.config);
        draft.check().unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_valid_and_bounds_are_named() {
        FunctionConfig::default().check().unwrap();
        assert!(refused(|c| c.memory_bytes = 65_535).contains("65535"));
        assert!(refused(|c| c.memory_bytes = limits::MEMORY_BYTES_MAX + 1).contains("10 GB"));
        assert!(refused(|c| c.timeout_ms = 0).contains("got 0"));
        assert!(refused(|c| c.timeout_ms = 900_001).contains("900000"));
        assert!(refused(|c| c.cpu_ms = Some(0)).contains("cpu"));
        assert!(refused(|c| c.payload_bytes = 6 * limits::MIB + 1).contains("payload"));
        let said = |draft: Draft| draft.check().unwrap_err().to_string();
        let draft = Draft { reserved: Some(5), provisioned: 6, ..Draft::default() };
        assert!(said(draft).contains("provisioned"));
        assert!(said(Draft { reserved: Some(4_001), ..Draft::default() }).contains("4000"));
    }

    #[test]
    fn environment_is_bounded_and_reserved_names_refused() {
        assert!(refused(|c| drop(c.env.insert("A".into(), "x".repeat(4096)))).contains("4097"));
        assert!(refused(|c| drop(c.env.insert("1A".into(), String::new()))).contains("1A"));
        assert!(
            refused(|c| drop(c.env.insert("AWS_REGION".into(), "x".into()))).contains("reserved")
        );
        assert!(refused(|c| drop(c.env.insert("A".into(), "\0".into()))).contains("NUL"));
    }

    #[test]
    fn values_are_not_told() {
        let mut config = FunctionConfig::default();
        config.env.insert("NAME".to_owned(), "canary".to_owned());
        let told = format!("{config:?}");
        assert!(told.contains("NAME") && !told.contains("canary"), "{told}");
        assert!(serde_json::to_string(&config.env).unwrap().contains("canary"));
    }

    #[test]
    fn commands_are_never_reused() {
        let config = FunctionConfig { reuse: Some(Reuse::Warm), ..FunctionConfig::default() };
        assert_eq!(config.reuse_for(Kind::Command), Reuse::Fresh);
        assert_eq!(config.reuse_for(Kind::Http), Reuse::Warm);
        assert_eq!(FunctionConfig::default().reuse_for(Kind::Http), Reuse::Fresh);
        assert_eq!(FunctionConfig::default().reuse_for(Kind::Core), Reuse::Warm);
    }
}
