//! A statement of a policy: read, checked, and judged.

use iam_rs::{Arn, IAMEffect, IAMPolicy};
use serde_json::{Map, Value as Json};

use crate::Principal;
use crate::condition::{Conditions, normalized};
use crate::document::MalformedPolicy;
use crate::prepared::{Parts, Prepared, Unjudgeable};
use crate::principal::{Who, patterns};
use crate::variable::Template;

/// A statement.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) who: Who,
    pub(crate) denies: bool,
    pub(crate) has_conditions: bool,
    /// Variables without a default that an allowing statement has: without a value for each of
    /// them, it does not apply.
    needs: Vec<String>,
    /// In lower case.
    actions: Vec<String>,
    /// Whether it is about all actions but those.
    not_actions: bool,
    /// None for the trust policy of a role, which is about that role.
    resources: Option<Vec<Template>>,
    /// Whether it is about all resources but those.
    not_resources: bool,
    conditions: Conditions,
}

impl Statement {
    /// Reads and checks a statement.
    pub(crate) fn read(statement: &Json) -> Result<Self, MalformedPolicy> {
        let bad = |what: String| MalformedPolicy(what);
        let given =
            statement.as_object().ok_or_else(|| bad("a statement must be an object".to_owned()))?;
        if let Some(key) = given.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
            return Err(bad(format!("unknown element {key:?} in a statement")));
        }
        let who = match (given.get("Principal"), given.get("NotPrincipal")) {
            (None, None) => Who::Unsaid,
            (Some(these), None) => Who::These(patterns(these)?),
            (None, Some(these)) => Who::NotThese(patterns(these)?),
            _ => return Err(bad("Principal and NotPrincipal exclude each other".to_owned())),
        };
        let one_of = |a: &str, b: &str, required: bool| match (given.get(a), given.get(b)) {
            (Some(_), Some(_)) => Err(bad(format!("{a} and {b} exclude each other"))),
            (None, None) if required => Err(bad(format!("a statement must have {a} or {b}"))),
            (Some(value), None) | (None, Some(value)) => texts(a, value).map(Some),
            _ => Ok(None),
        };
        let mut actions = one_of("Action", "NotAction", true)?.unwrap_or_default();
        for action in &mut actions {
            let vendor =
                action.split_once(':').is_some_and(|(v, a)| !v.is_empty() && !a.is_empty());
            if action != "*" && !vendor {
                return Err(bad(format!("action {action:?} must be \"*\" or vendor:name")));
            }
            action.make_ascii_lowercase();
        }
        // The trust policy of a role has no resource: it is the role's own.
        let resources = one_of("Resource", "NotResource", matches!(who, Who::Unsaid))?;
        let resource = |text: String| check_resource(&text).and_then(|()| Template::read(&text));
        let resources = resources.map(|all| all.into_iter().map(resource).collect()).transpose()?;
        let denies = given.get("Effect").and_then(Json::as_str) == Some("Deny");
        let mut statement = Self {
            who,
            denies,
            has_conditions: given.contains_key("Condition") || statement.to_string().contains("${"),
            needs: Vec::new(),
            actions,
            not_actions: given.contains_key("NotAction"),
            resources,
            not_resources: given.contains_key("NotResource"),
            conditions: conditions(given, denies)?,
        };
        if !denies {
            let resources = statement.resources.iter().flatten();
            let all = resources.chain(statement.conditions.templates());
            statement.needs = all.flat_map(Template::needs).map(str::to_owned).collect();
        }
        Ok(statement)
    }

    /// Whether it is about this principal; see [`Who::is`].
    pub(crate) fn is_about(&self, asking: Option<&Principal>, by_account: bool) -> bool {
        self.who.is(asking, by_account || self.denies)
    }

    /// Whether action, resource and conditions fit; none when that cannot be said.
    pub(crate) fn applies(&self, request: Option<&Prepared<'_>>) -> Option<bool> {
        self.judge(request?).ok()
    }

    fn judge(&self, request: &Prepared<'_>) -> Result<bool, Unjudgeable> {
        if self.needs.iter().any(|key| request.fact(key).is_none()) {
            return Ok(false);
        }
        // What no resource can be fits nothing, and is no other resource either.
        if self.resources.is_some() && request.resource.is_none() {
            return Err(Unjudgeable);
        }
        let action = request.action();
        let named = self.actions.iter().any(|pattern| action.fits(pattern));
        Ok(named != self.not_actions && self.is_for(request)? && self.conditions.hold(request)?)
    }

    fn is_for(&self, request: &Prepared<'_>) -> Result<bool, Unjudgeable> {
        let (Some(patterns), Some(resource)) = (&self.resources, &request.resource) else {
            return Ok(true);
        };
        for pattern in patterns {
            // In a denying statement, a variable without a value stands for nothing that exists.
            let Some(pattern) = pattern.fill(request)? else { continue };
            if *pattern == *"*" || resource.fits(&Parts::read(&pattern).ok_or(Unjudgeable)?) {
                return Ok(!self.not_resources);
            }
        }
        Ok(self.not_resources)
    }
}

/// The conditions of a statement, after the engine has taken the whole of it.
fn conditions(given: &Map<String, Json>, denies: bool) -> Result<Conditions, MalformedPolicy> {
    let bad = |what: String| MalformedPolicy(what);
    let mut plain = given.clone();
    for here in ["Principal", "NotPrincipal", "Sid"] {
        plain.remove(here);
    }
    let conditions = given.get("Condition").map(normalized).transpose()?.unwrap_or_default();
    if let Some(slot) = plain.get_mut("Condition") {
        *slot = Json::Object(conditions.clone());
    }
    let mut shape = Map::new();
    shape.insert("Version".to_owned(), "2012-10-17".into());
    shape.insert("Statement".to_owned(), Json::Array(vec![Json::Object(plain)]));
    let parsed: IAMPolicy = serde_json::from_value(Json::Object(shape))
        .map_err(|error| bad(format!("a statement is not valid: {error}")))?;
    if parsed.statement.first().is_none_or(|s| denies != (s.effect == IAMEffect::Deny)) {
        return Err(bad("a statement must have an Effect".to_owned()));
    }
    Conditions::read(&conditions)
}

/// The members that a statement may have.
const MEMBERS: [&str; 9] = [
    "Sid",
    "Effect",
    "Principal",
    "NotPrincipal",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
];

/// One text, or a list of them.
pub(crate) fn texts(what: &str, value: &Json) -> Result<Vec<String>, MalformedPolicy> {
    let all: Option<Vec<String>> = match value {
        Json::String(text) => Some(vec![text.clone()]),
        Json::Array(all) if !all.is_empty() => {
            all.iter().map(|one| one.as_str().map(str::to_owned)).collect()
        }
        _ => None,
    };
    all.ok_or_else(|| MalformedPolicy(format!("{what} must be text or a list of texts")))
}

fn check_resource(resource: &str) -> Result<(), MalformedPolicy> {
    if resource == "*" {
        return Ok(());
    }
    if Arn::parse(resource).is_err() {
        return Err(MalformedPolicy(format!("resource {resource:?} must be \"*\" or an ARN")));
    }
    // These are taken letter by letter: a pattern would match nothing, and deny nothing.
    let mut fixed = resource.split(':').skip(1).take(2);
    if fixed.any(|part| part.contains(['*', '?'])) {
        return Err(MalformedPolicy(format!(
            "resource {resource:?} must have a partition and a service without wildcards"
        )));
    }
    Ok(())
}
