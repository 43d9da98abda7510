//! The policy of a resource that grows statement by statement, as Lambda's `AddPermission` has it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value as Json, json};

use crate::document::{MalformedPolicy, Policy};

/// Statements, and the policy that they make.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResourcePolicy {
    statements: Vec<Json>,
    policy: Option<Policy>,
}

impl ResourcePolicy {
    /// A policy of these statements.
    ///
    /// # Errors
    /// [`MalformedPolicy`] that says what is wrong.
    pub fn new(statements: Vec<Json>) -> Result<Self, MalformedPolicy> {
        let policy = match statements.is_empty() {
            true => None,
            false => Some(Policy::of_statements(&statements)?),
        };
        Ok(Self { statements, policy })
    }

    /// What decides; none when there is no statement.
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    /// Whether there is no statement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// The statement of that id.
    #[must_use]
    pub fn statement(&self, sid: &str) -> Option<&Json> {
        self.statements.iter().find(|statement| statement["Sid"] == sid)
    }

    /// With one statement more.
    ///
    /// # Errors
    /// [`MalformedPolicy`] that says what is wrong.
    pub fn with(&self, statement: Json) -> Result<Self, MalformedPolicy> {
        let mut statements = self.statements.clone();
        statements.push(statement);
        Self::new(statements)
    }

    /// Without the statement of that id; none when there is no such statement.
    ///
    /// # Errors
    /// [`MalformedPolicy`], which a policy that was good before cannot bring about.
    pub fn without(&self, sid: &str) -> Result<Option<Self>, MalformedPolicy> {
        let mut statements = self.statements.clone();
        statements.retain(|statement| statement["Sid"] != sid);
        if statements.len() == self.statements.len() {
            return Ok(None);
        }
        Self::new(statements).map(Some)
    }

    /// The document, as `GetPolicy` gives it.
    #[must_use]
    pub fn document(&self) -> Json {
        json!({"Version": "2012-10-17", "Id": "default", "Statement": self.statements})
    }
}

impl Serialize for ResourcePolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.statements.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ResourcePolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
