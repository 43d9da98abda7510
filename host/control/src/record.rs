//! The stored form of a function. Fields may be added with a default; none is ever renamed.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wambda_model::limits::CONCURRENCY_DEFAULT;
use wambda_model::{
    Attributes, Details, Digest, FunctionConfig, FunctionName, Kind, LATEST, Version,
};
use wambda_store::StoreError;

use crate::table;

/// The newest form that this build writes and reads.
pub const SCHEMA: u32 = 2;

/// What is kept of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its number; none for `$LATEST`.
    #[serde(default)]
    pub number: Option<u64>,
    /// Counts changes of `$LATEST`, from 1.
    pub revision: u64,
    /// Names the version's state.
    #[serde(default)]
    pub revision_id: String,
    /// What the upload turned out to be.
    pub kind: Kind,
    /// Whether it is a component.
    pub component: bool,
    /// Whether it needs WASI 0.3.
    pub wasi03: bool,
    /// SHA-256 of the wasm binary, which is the blob `code/DIGEST`.
    pub digest: Digest,
    /// Bytes of the wasm binary.
    pub code_bytes: u64,
    /// SHA-256 of what was uploaded, which is the blob `upload/DIGEST` when it is not the binary.
    pub upload: Digest,
    /// Bytes of what was uploaded.
    pub upload_bytes: u64,
    /// Imports, for people.
    pub imports: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub published_ms: u64,
    /// Milliseconds the compilation took.
    pub compile_ms: u64,
    /// Configuration.
    pub config: FunctionConfig,
    /// What AWS's clients know besides.
    #[serde(default)]
    pub attributes: Attributes,
}

/// Code that is being compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// What `$LATEST` shall be.
    pub version: VersionRecord,
    /// Whether a version is to be published then, and its description.
    pub publish: Option<String>,
    /// Who uploaded it.
    #[serde(default)]
    pub by: String,
}

/// What is kept of a function under `function/NAME`. Published versions are beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// The form of this record.
    pub schema: u32,
    /// The function.
    pub name: FunctionName,
    /// `$LATEST`.
    pub latest: VersionRecord,
    /// What is being compiled.
    #[serde(default)]
    pub staged: Option<Staged>,
    /// What stands around the versions.
    #[serde(default)]
    pub details: Details,
}

impl VersionRecord {
    /// Of a version that is there.
    #[must_use]
    pub fn of(version: &Version) -> Self {
        Self {
            number: version.number,
            revision: version.revision,
            revision_id: version.revision_id.clone(),
            kind: version.kind,
            component: version.component,
            wasi03: version.wasi03,
            digest: version.digest,
            code_bytes: version.code_bytes,
            upload: version.upload,
            upload_bytes: version.upload_bytes,
            imports: version.imports.clone(),
            published_ms: version.published_ms,
            compile_ms: version.compile_ms,
            config: version.config.clone(),
            attributes: version.attributes.clone(),
        }
    }

    /// Whether code and configuration are the same; descriptions may differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let plain = |attributes: &Attributes| Attributes {
            description: String::new(),
            ..attributes.clone()
        };
        self.upload == other.upload
            && self.config == other.config
            && plain(&self.attributes) == plain(&other.attributes)
    }
}

/// Reads a record of any form that was ever written.
///
/// # Errors
/// When it is damaged, or newer than this build.
pub fn read(key: &str, stored: &[u8]) -> Result<FunctionRecord, StoreError> {
    let value = serde_json::from_slice::<Value>(stored);
    let value = value.map_err(|error| table::unreadable(key, &error))?;
    let schema = value.get("schema").and_then(Value::as_u64).unwrap_or_default();
    if schema > u64::from(SCHEMA) {
        return Err(table::newer(key, schema, u64::from(SCHEMA)));
    }
    let value = if schema < 2 { from_1(value) } else { value };
    serde_json::from_value(value).map_err(|error| table::unreadable(key, &error))
}

/// Schema 1 had one version a function, and its concurrency within the configuration.
fn from_1(mut old: Value) -> Value {
    let mut take = |key: &str| old.get_mut("config")?.as_object_mut()?.remove(key);
    let reserved = take("concurrency").filter(|count| *count != CONCURRENCY_DEFAULT);
    let provisioned = take("provisioned").filter(|count| *count != 0);
    let value = |key: &str| old.get(key).cloned().unwrap_or_default();
    let modified = value("published_ms");
    let kept = provisioned
        .map(|count| serde_json::json!({LATEST: {"count": count, "modified_ms": modified}}));
    let (name, digest, bytes) = (value("name"), value("digest"), value("code_bytes"));
    if let Some(latest) = old.as_object_mut() {
        latest.remove("schema");
        latest.remove("name");
        latest.insert("upload".to_owned(), digest);
        latest.insert("upload_bytes".to_owned(), bytes);
    }
    let details = serde_json::json!({"reserved": reserved, "provisioned": kept.unwrap_or_else(|| serde_json::json!({}))});
    serde_json::json!({"schema": SCHEMA, "name": name, "latest": old, "details": details})
}

/// The key of a function's record.
#[must_use]
pub fn key(name: &FunctionName) -> String {
    format!("{PREFIX}{name}")
}

/// The prefix of every function's key.
pub const PREFIX: &str = "function/";

/// The key of a published version. Numbers sort as they count.
#[must_use]
pub fn version_key(name: &FunctionName, number: u64) -> String {
    format!("{}{number:020}", version_prefix(name))
}

/// The prefix of the versions of a function.
#[must_use]
pub fn version_prefix(name: &FunctionName) -> String {
    format!("version/{name}/")
}

/// The key of a code blob.
#[must_use]
pub fn code_key(digest: &Digest) -> String {
    format!("code/{digest}")
}

/// The key of an upload that is not the code itself.
#[must_use]
pub fn upload_key(digest: &Digest) -> String {
    format!("upload/{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_is_still_read() {
        let digest = Digest::of(b"").to_string();
        let old = serde_json::json!({
            "schema": 1, "name": "f", "revision": 7, "kind": "core", "component": false,
            "wasi03": false, "digest": digest, "code_bytes": 3, "imports": [], "published_ms": 5,
            "compile_ms": 1, "config": {
                "memory_bytes": 1_048_576, "timeout_ms": 3_000, "payload_bytes": 10, "log_bytes": 10,
                "concurrency": 12, "provisioned": 2, "queue": 4, "env": {"A": "b"}
            }
        });
        let read = read("function/f", old.to_string().as_bytes()).unwrap();
        assert_eq!((read.latest.revision, read.latest.upload), (7, read.latest.digest));
        assert_eq!(read.latest.config.env["A"], "b");
        assert_eq!(read.details.reserved, Some(12));
        assert_eq!(read.details.provisioned[LATEST].count, 2);
        for (stored, words) in [
            (&br#"{"schema": 99}"#[..], "schema 99, and this version knows 2"),
            (br#"{"schema": 2}"#, "is damaged"),
            (b"{", "is damaged"),
        ] {
            let refused = super::read("function/f", stored).unwrap_err().to_string();
            assert!(refused.contains("\"function/f\"") && refused.contains(words), "{refused}");
        }
    }
}
