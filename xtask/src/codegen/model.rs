//! A botocore service model, as far as it is of use here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::services::Source;

/// A service model.
pub(crate) struct Model {
    root: Value,
}

/// A member of a structure.
pub(crate) struct Member<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: &'a str,
    pub(crate) location: &'a str,
    pub(crate) location_name: &'a str,
    pub(crate) required: bool,
}

impl Model {
    pub(crate) fn read(data: &Path, source: &Source) -> Result<Self> {
        let path = data.join(source.folder).join("service-2.json.gz");
        let packed = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text)?;
        Ok(Self { root: serde_json::from_str(&text)? })
    }

    pub(crate) fn metadata(&self, key: &str) -> &str {
        text(&self.root["metadata"], key)
    }

    pub(crate) fn operations(&self) -> Vec<(&str, &Value)> {
        let all = self.root["operations"].as_object().into_iter().flatten();
        let mut all: Vec<_> = all.map(|(name, operation)| (name.as_str(), operation)).collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }

    pub(crate) fn shape(&self, name: &str) -> &Value {
        &self.root["shapes"][name]
    }

    pub(crate) fn kind(&self, shape: &str) -> &str {
        text(self.shape(shape), "type")
    }

    /// The members of a structure, in the model's order.
    pub(crate) fn members(&self, shape: &str) -> Vec<Member<'_>> {
        let shape = self.shape(shape);
        let required: BTreeSet<&str> =
            shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let members = shape["members"].as_object().into_iter().flatten();
        let mut members: Vec<_> = members
            .map(|(name, member)| Member {
                name,
                shape: text(member, "shape"),
                location: text(member, "location"),
                location_name: text(member, "locationName"),
                required: required.contains(name.as_str()),
            })
            .collect();
        members.sort_by_key(|member| member.name);
        members
    }

    /// Every shape that the operations reach, sorted.
    pub(crate) fn reachable(&self, operations: &[&str]) -> Result<Vec<&str>> {
        let mut found = BTreeSet::new();
        for name in operations {
            let operation = &self.root["operations"][*name];
            if operation.is_null() {
                bail!("the model has no operation {name}");
            }
            for side in ["input", "output"] {
                self.reach(text(&operation[side], "shape"), &mut found);
            }
        }
        found.remove("");
        Ok(found.into_iter().collect())
    }

    fn reach<'a>(&'a self, name: &'a str, found: &mut BTreeSet<&'a str>) {
        if name.is_empty() || !found.insert(name) {
            return;
        }
        let shape = self.shape(name);
        for part in ["member", "key", "value"] {
            self.reach(text(&shape[part], "shape"), found);
        }
        for member in self.members(name) {
            self.reach(member.shape, found);
        }
    }

    /// Codes and statuses of all errors.
    pub(crate) fn errors(&self) -> BTreeMap<&str, u64> {
        let shapes = self.root["shapes"].as_object().into_iter().flatten();
        let errors = shapes.filter(|(_, shape)| shape["exception"] == true);
        let coded = errors.map(|(name, shape)| {
            let fallback = if shape["fault"] == true { 500 } else { 400 };
            let status = shape["error"]["httpStatusCode"].as_u64().unwrap_or(fallback);
            let code = shape["error"]["code"].as_str().unwrap_or(name);
            (code, status)
        });
        coded.collect()
    }
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
