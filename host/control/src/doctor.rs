//! What of a stopped data directory is damaged, and what is left: every record is read as the server would
//! read it, and what it refers to has to be there. Changes nothing.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Serialize;
use wambda_model::Digest;
use wambda_store::check::{self, Checked, Finding};
use wambda_store::{StoreError, home};

use crate::directory::{Managed, Role, User};
use crate::groups::Group;
use crate::layers::LayerRecord;
use crate::mappings::Mapping;
use crate::record::{self, VersionRecord};
use crate::table;

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub struct Damage {
    /// The file, and what in it.
    pub place: String,
    /// What is wrong.
    pub why: String,
    /// What is left of it, and what to do.
    pub rest: String,
}

/// What a directory is like.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub sound: bool,
    /// Records that are whole.
    pub records: usize,
    /// Messages and outcomes that are whole.
    pub queued: usize,
    /// Code, uploads and layers that are whole.
    pub blobs: usize,
    /// What is wrong.
    pub damaged: Vec<Damage>,
    /// Compiled code that is not what was compiled: it is compiled again.
    pub artifacts: Vec<String>,
    /// Files that are not understood. They are left alone.
    pub unknown: Vec<String>,
    /// What the server took for unused lately.
    pub trash: Vec<String>,
}

/// Looks at a directory that no server has. `artifacts` are compiled code that is damaged, and files beside
/// it that are not understood.
///
/// # Errors
/// When a server has it, or it cannot be read.
pub fn examine(
    dir: &Path,
    (artifacts, beside): (Vec<String>, Vec<String>),
) -> Result<Report, StoreError> {
    let mut checked = check::directory(dir)?;
    let blobs: HashSet<String> = checked.blobs.iter().cloned().collect();
    let mut wanted = HashSet::new();
    let newest: HashMap<String, u64> = checked
        .records
        .iter()
        .filter(|(key, _)| key.starts_with(record::PREFIX))
        .filter_map(|(key, value)| record::read(key, value).ok())
        .map(|found| (record::version_prefix(&found.name), found.details.last_number))
        .collect();
    for (key, value) in std::mem::take(&mut checked.records) {
        match read(&key, &value, &newest) {
            Ok(Some(needs)) => {
                wanted.extend(needs.into_iter().map(|blob| (blob, key.clone())));
                checked.records.push((key, value));
            }
            Ok(None) => checked.unknown.push(format!("{}, {key}", home::RECORDS)),
            Err(error) => checked.findings.push(Finding {
                place: format!("{}, {key}", home::RECORDS),
                why: error.to_string(),
                rest: "the server does not start with it: restore a backup".to_owned(),
            }),
        }
    }
    let mut lost: Vec<(String, String)> =
        wanted.into_iter().filter(|(blob, _)| !blobs.contains(blob)).collect();
    lost.sort();
    for (blob, by) in lost {
        let place = format!("{}/{blob}", home::BLOBS);
        // Damaged ones are told already.
        if !checked.findings.iter().any(|finding| finding.place == place) {
            let rest =
                "upload it again, or restore it; functions run while their artifact is there";
            let (why, rest) = (format!("it is missing, and {by} names it"), rest.to_owned());
            checked.findings.push(Finding { place, why, rest });
        }
    }
    let Checked { records, findings, mut unknown, trash, queued, .. } = checked;
    unknown.extend(beside.into_iter().map(|name| format!("artifacts/{name}")));
    let damaged = findings
        .into_iter()
        .map(|Finding { place, why, rest }| Damage { place, why, rest })
        .collect::<Vec<_>>();
    Ok(Report {
        sound: damaged.is_empty(),
        records: records.len(),
        queued,
        blobs: blobs.len(),
        damaged,
        artifacts,
        unknown,
        trash,
    })
}

/// Whether the server reads this version: a deletion, or a publication, that was cut short leaves some
/// that no function has. `newest` are the functions' last numbers, by the prefix of their versions.
fn is_of_a_function(key: &str, newest: &HashMap<String, u64>) -> bool {
    let Some((function, number)) = key.rsplit_once('/') else { return false };
    let newest = newest.get(&format!("{function}/"));
    newest.is_some_and(|newest| number.parse::<u64>().is_ok_and(|number| number <= *newest))
}

/// Reads a record as the server would; the blobs that it needs. None when nothing reads it.
fn read(
    key: &str,
    value: &[u8],
    newest: &HashMap<String, u64>,
) -> Result<Option<Vec<String>>, StoreError> {
    let code = |version: &VersionRecord| {
        let upload = record::upload_key(&version.upload);
        let has_upload = version.upload != version.digest;
        let layers = version.attributes.layers.iter().map(|layer| layer_key(&layer.digest));
        let mut keys: Vec<String> = layers.collect();
        keys.push(record::code_key(&version.digest));
        keys.extend(has_upload.then_some(upload));
        keys
    };
    Ok(Some(match key {
        _ if key.starts_with(record::PREFIX) => {
            let found = record::read(key, value)?;
            let staged = found.staged.as_ref().map(|staged| code(&staged.version));
            [code(&found.latest), staged.unwrap_or_default()].concat()
        }
        _ if key.starts_with("version/") && !is_of_a_function(key, newest) => Vec::new(),
        _ if key.starts_with("version/") => code(&table::parse(key, value)?),
        _ if key.starts_with("layer/") => {
            let layer: LayerRecord = table::parse(key, value)?;
            layer.versions.values().map(|version| layer_key(&version.digest)).collect()
        }
        _ if key.starts_with("mapping/") => nothing(table::parse::<Mapping>(key, value)?),
        _ if key.starts_with("loggroup/") => nothing(table::parse::<Group>(key, value)?),
        _ if key.starts_with("iam/role/") => nothing(table::parse::<Role>(key, value)?),
        _ if key.starts_with("iam/user/") => nothing(table::parse::<User>(key, value)?),
        _ if key.starts_with("iam/policy/") => nothing(table::parse::<Managed>(key, value)?),
        "iam/root" | "iam/session-key" => nothing(table::parse::<serde_json::Value>(key, value)?),
        _ => return Ok(None),
    }))
}

fn layer_key(digest: &Digest) -> String {
    format!("layer/{digest}")
}

/// It refers to no blob.
fn nothing<T>(_read: T) -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_no_function_has_are_no_damage() {
        let newest = HashMap::from([("version/f/".to_owned(), 2)]);
        let known = |key: &str| is_of_a_function(key, &newest);
        assert!(known("version/f/00000000000000000001") && known("version/f/00000000000000000002"));
        assert!(!known("version/f/00000000000000000003"), "it was cut short");
        assert!(!known("version/g/00000000000000000001"), "its function is deleted");
        assert!(!known("version/f/x") && !known("version"));
    }
}
