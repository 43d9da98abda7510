//! A policy document: read, checked, and judged statement by statement.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value as Json;

use crate::prepared::Prepared;
use crate::principal::Who;
use crate::statement::Statement;
use crate::{Decision, Principal, STATEMENTS_MAX};

/// A document that is no policy.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct MalformedPolicy(pub String);

/// A policy document.
#[derive(Debug, Clone)]
pub struct Policy {
    document: Json,
    statements: Vec<Statement>,
}

impl Policy {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// [`MalformedPolicy`] that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, MalformedPolicy> {
        let document: Json = serde_json::from_str(text)
            .map_err(|error| MalformedPolicy(format!("the policy is not valid JSON: {error}")))?;
        Self::from_json(document)
    }

    /// Checks a document.
    ///
    /// # Errors
    /// [`MalformedPolicy`] that says what is wrong.
    pub fn from_json(document: Json) -> Result<Self, MalformedPolicy> {
        let bad = |what: &str| MalformedPolicy(what.to_owned());
        let object = document.as_object().ok_or_else(|| bad("the policy must be an object"))?;
        for key in object.keys() {
            if !["Version", "Id", "Statement"].contains(&key.as_str()) {
                return Err(MalformedPolicy(format!("unknown element {key:?} in the policy")));
            }
        }
        let version = object.get("Version").map_or(Some("2008-10-17"), Json::as_str);
        if !matches!(version, Some("2012-10-17" | "2008-10-17")) {
            return Err(bad("the policy must have the Version 2012-10-17 or 2008-10-17"));
        }
        let statements: Vec<&Json> = match object.get("Statement") {
            Some(Json::Array(all)) => all.iter().collect(),
            Some(one @ Json::Object(_)) => vec![one],
            _ => return Err(bad("the policy must have a Statement")),
        };
        if statements.len() > STATEMENTS_MAX {
            let count = statements.len();
            let what = format!("a policy may have {STATEMENTS_MAX} statements, got {count}");
            return Err(MalformedPolicy(what));
        }
        let statements = statements.into_iter().map(Statement::read).collect::<Result<_, _>>()?;
        Ok(Self { document, statements })
    }

    /// A policy of these statements; none is valid.
    ///
    /// # Errors
    /// [`MalformedPolicy`] that says what is wrong.
    pub fn of_statements(statements: &[Json]) -> Result<Self, MalformedPolicy> {
        let version = "2012-10-17";
        Self::from_json(serde_json::json!({"Version": version, "Statement": statements}))
    }

    /// The document as it was given.
    #[must_use]
    pub fn document(&self) -> &Json {
        &self.document
    }

    /// Whether a decision by it depends on anything but principal, action and resource.
    #[must_use]
    pub fn has_conditions(&self) -> bool {
        self.statements.iter().any(|statement| statement.has_conditions)
    }

    /// Whether some statement says whom it is about, as resource policies do.
    #[must_use]
    pub fn names_principals(&self) -> bool {
        self.statements.iter().any(|statement| !matches!(statement.who, Who::Unsaid))
    }

    /// Whether every statement says whom it is about.
    #[must_use]
    pub fn names_all_principals(&self) -> bool {
        self.statements.iter().all(|statement| !matches!(statement.who, Who::Unsaid))
    }

    /// Whether some statement says which resources it is about.
    #[must_use]
    pub fn names_resources(&self) -> bool {
        let given = |statement: &Json| {
            statement.get("Resource").is_some() || statement.get("NotResource").is_some()
        };
        self.given().any(given)
    }

    /// The actions of all statements, as given in `Action` or `NotAction`.
    pub fn actions(&self) -> impl Iterator<Item = &str> {
        self.given()
            .filter_map(|statement| statement.get("Action").or_else(|| statement.get("NotAction")))
            .flat_map(|actions| match actions {
                Json::Array(all) => all.as_slice(),
                one => std::slice::from_ref(one),
            })
            .filter_map(Json::as_str)
    }

    /// The keys of all conditions, as given.
    pub fn condition_keys(&self) -> impl Iterator<Item = &str> {
        let conditions = self.given().filter_map(|statement| statement.get("Condition"));
        let operators = conditions.filter_map(Json::as_object).flat_map(|all| all.values());
        operators.filter_map(Json::as_object).flat_map(|keys| keys.keys().map(String::as_str))
    }

    /// The statements as given.
    fn given(&self) -> impl Iterator<Item = &Json> {
        match self.document.get("Statement") {
            Some(Json::Array(all)) => all.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        }
        .iter()
    }

    /// What this policy alone says. `asking` is given for a resource policy, whose statements say
    /// whom they are about.
    pub(crate) fn judge(
        &self,
        request: Option<&Prepared<'_>>,
        asking: Option<&Principal>,
    ) -> Decision {
        self.judge_for(request, asking, false)
    }

    /// As [`Self::judge`]; with `by_account`, naming an account stands for its users.
    pub(crate) fn judge_for(
        &self,
        request: Option<&Prepared<'_>>,
        asking: Option<&Principal>,
        by_account: bool,
    ) -> Decision {
        let mut allowed = false;
        for statement in &self.statements {
            if !statement.is_about(asking, by_account) {
                continue;
            }
            match (statement.applies(request), statement.denies) {
                // What cannot be judged denies, when it might.
                (None | Some(true), true) => return Decision::ExplicitDeny,
                (Some(true), false) => allowed = true,
                _ => {}
            }
        }
        if allowed { Decision::Allow } else { Decision::ImplicitDeny }
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.document == other.document
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(Json::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
