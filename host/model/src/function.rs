//! What a function is besides code and configuration: aliases, permissions, URLs, tags, limits. All
//! of it can change without a new version.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wambda_policy::ResourcePolicy;

use crate::canary::{RollbackRule, Rolled, Watch};
use crate::event::EventConfig;
use crate::limits::QUALIFIER_LEN_MAX;

/// The label of the version that is not published.
pub const LATEST: &str = "$LATEST";

/// Whether it may be a qualifier: a number, [`LATEST`], or the name of an alias.
#[must_use]
pub fn is_qualifier(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let plain = (1..=QUALIFIER_LEN_MAX).contains(&text.len()) && text.bytes().all(good);
    plain || text == LATEST
}

/// Whether a function can be invoked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Its code is being compiled.
    Pending,
    /// It can.
    #[default]
    Active,
    /// Its code could not be compiled; the text says why.
    Failed(String),
}

/// How the last change of code or configuration went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastUpdate {
    /// It is in force.
    #[default]
    Successful,
    /// New code is being compiled; the old one serves meanwhile.
    InProgress,
    /// New code could not be compiled; the old one serves. The text says why.
    Failed(String),
}

/// What can change without a new version.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// Whether it can be invoked.
    pub state: State,
    /// How the last change went.
    pub last_update: LastUpdate,
    /// Names the present state of `$LATEST`; another one with every change.
    pub revision_id: String,
    /// The number of the newest published version, kept when that is deleted; 0 when there was none.
    pub last_number: u64,
    /// Aliases, by name.
    pub aliases: BTreeMap<String, Arc<Alias>>,
    /// Who may call, by qualifier; [`LATEST`] stands for the function itself.
    pub policies: BTreeMap<String, ResourcePolicy>,
    /// URLs, by qualifier; [`LATEST`] stands for the function itself.
    pub urls: BTreeMap<String, UrlConfig>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Concurrency that is the function's alone; none is a share of the account's.
    pub reserved: Option<u32>,
    /// Instances kept, by qualifier: [`LATEST`], a number, or an alias.
    pub provisioned: BTreeMap<String, Provisioned>,
    /// How asynchronous invocations are handled, by qualifier; [`LATEST`] stands for the function itself.
    pub events: BTreeMap<String, EventConfig>,
    /// Whether loops of invocations are let run.
    pub allows_recursion: bool,
}

/// Instances that are kept for a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioned {
    /// How many.
    pub count: u32,
    /// Milliseconds since the Unix epoch.
    pub modified_ms: u64,
}

/// A name for a version, or for two of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Alias {
    /// Its name.
    pub name: String,
    /// The version: a number, or [`LATEST`].
    pub version: String,
    /// A second version, and the share of invocations that it gets.
    #[serde(default)]
    pub canary: Option<(String, f64)>,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Another one with every change.
    pub revision_id: String,
    /// The version before the last change, and when that was.
    #[serde(default)]
    pub previous: Option<(String, u64)>,
    /// When a new version goes back by itself.
    #[serde(default)]
    pub rollback: Option<RollbackRule>,
    /// The last time that one did.
    #[serde(default)]
    pub rolled: Option<Rolled>,
    /// How its versions did lately; only with a rule.
    #[serde(skip)]
    pub watch: Arc<Watch>,
}

impl Alias {
    /// The version that an invocation runs; `draw` is uniform in `[0, 1)`.
    #[must_use]
    pub fn choose(&self, draw: impl FnOnce() -> f64) -> &str {
        match &self.canary {
            Some((version, weight)) if draw() < *weight => version,
            _ => &self.version,
        }
    }

    /// Whether it names that version.
    #[must_use]
    pub fn names(&self, version: &str) -> bool {
        self.version == version || self.canary.as_ref().is_some_and(|(label, _)| label == version)
    }
}

/// Who may use a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UrlAuth {
    /// Everyone whom the function's policy allows; `*` is everyone.
    None,
    /// Callers that sign.
    AwsIam,
}

/// A function URL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UrlConfig {
    /// The first label of its host.
    pub id: String,
    /// Who may use it.
    pub auth: UrlAuth,
    /// Answers to browsers of other origins.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// Whether answers are streamed, or buffered within the payload limit.
    pub streams: bool,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub modified_ms: u64,
}

/// Cross-origin resource sharing, as Lambda has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cors {
    /// Whether cookies may be sent.
    pub allow_credentials: bool,
    /// Headers that may be sent; `*` for any.
    pub allow_headers: Vec<String>,
    /// Methods that may be used; `*` for any.
    pub allow_methods: Vec<String>,
    /// Origins that may ask; `*` for any.
    pub allow_origins: Vec<String>,
    /// Headers that scripts may read.
    pub expose_headers: Vec<String>,
    /// Seconds that an answer may be kept.
    pub max_age: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_in_the_long_run() {
        let mut random = fastrand::Rng::with_seed(20_261_123);
        for weight in [0.0, 0.05, 0.3, 0.999, 1.0] {
            let alias = Alias {
                name: "live".into(),
                version: "1".into(),
                canary: Some(("2".into(), weight)),
                description: String::new(),
                revision_id: String::new(),
                previous: None,
                rollback: None,
                rolled: None,
                watch: Arc::default(),
            };
            let rounds = 100_000u32;
            let hits = (0..rounds).filter(|_| alias.choose(|| random.f64()) == "2").count();
            let (mean, n) = (weight * f64::from(rounds), f64::from(rounds));
            let sigma = (n * weight * (1.0 - weight)).sqrt();
            assert!((hits as f64 - mean).abs() <= 5.0 * sigma, "{weight}: {hits}");
        }
    }
}
