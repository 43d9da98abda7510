//! A policy document: read, checked, and judged statement by statement.

use iam_rs::{Arn, Context, ContextValue, EvaluationOptions, IAMEffect, IAMPolicy, IAMRequest};
use iam_rs::{PolicyEvaluator, PrincipalId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value as Json};

use crate::{Decision, Principal, Request, Value};

/// Statements of one document.
const STATEMENTS_MAX: usize = 500;

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

/// Whom a statement is about.
#[derive(Debug, Clone)]
enum Who {
    /// It does not say: the one whom the policy is attached to.
    Unsaid,
    /// These.
    These(Vec<Pattern>),
    /// All but these.
    NotThese(Vec<Pattern>),
}

#[derive(Debug, Clone)]
enum Pattern {
    Anyone,
    /// An account, an ARN, or the ARN of an account's root.
    Aws(String),
    Service(String),
    /// A kind of principal that is never authenticated here.
    Other,
}

#[derive(Debug, Clone)]
struct Statement {
    who: Who,
    denies: bool,
    has_conditions: bool,
    /// Variables without a default that an allowing statement has: without a value for each of them, it
    /// does not apply.
    needs: Vec<String>,
    engine: PolicyEvaluator,
}

/// A request in the engine's form.
pub(crate) struct Prepared(Option<IAMRequest>);

impl Prepared {
    pub(crate) fn new(request: &Request) -> Self {
        let mut context = Context::new();
        for (key, value) in &request.context {
            let value = match value {
                Value::Text(text) => ContextValue::String(text.clone()),
                Value::Bool(value) => ContextValue::Boolean(*value),
            };
            context.insert(key.to_ascii_lowercase(), value);
        }
        // Who asks was matched before; the engine wants somebody.
        let somebody =
            iam_rs::Principal::Service(PrincipalId::String("wambda.internal".to_owned()));
        let request = Arn::parse(&request.resource).ok().map(|arn| {
            IAMRequest::new_with_context(somebody, request.action.clone(), arn, context)
        });
        Self(request)
    }
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
    pub(crate) fn judge(&self, request: &Prepared, asking: Option<&Principal>) -> Decision {
        self.judge_for(request, asking, false)
    }

    /// As [`Self::judge`]; with `by_account`, naming an account stands for its users.
    pub(crate) fn judge_for(
        &self,
        request: &Prepared,
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

impl Statement {
    fn read(statement: &Json) -> Result<Self, MalformedPolicy> {
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
        for action in one_of("Action", "NotAction", true)?.unwrap_or_default() {
            let vendor =
                action.split_once(':').is_some_and(|(v, a)| !v.is_empty() && !a.is_empty());
            if action != "*" && !vendor {
                return Err(bad(format!("action {action:?} must be \"*\" or vendor:name")));
            }
        }
        // The trust policy of a role has no resource: it is the role's own.
        let resources = one_of("Resource", "NotResource", matches!(who, Who::Unsaid))?;
        let has_resource = resources.is_some();
        for resource in resources.unwrap_or_default() {
            check_resource(&resource)?;
        }
        let mut plain = given.clone();
        plain.remove("Principal");
        plain.remove("NotPrincipal");
        plain.remove("Sid");
        if let Some(conditions) = plain.get_mut("Condition") {
            *conditions = normalized(conditions)?;
        }
        let denies = given.get("Effect").and_then(Json::as_str) == Some("Deny");
        let mut needs = Vec::new();
        for part in ["Resource", "NotResource", "Condition"] {
            if let Some(part) = plain.get_mut(part) {
                variables(part, denies, &mut needs)?;
            }
        }
        let mut shape = Map::new();
        shape.insert("Version".to_owned(), "2012-10-17".into());
        shape.insert("Statement".to_owned(), Json::Array(vec![Json::Object(plain)]));
        let parsed: IAMPolicy = serde_json::from_value(Json::Object(shape))
            .map_err(|error| bad(format!("a statement is not valid: {error}")))?;
        if parsed.statement.first().is_none_or(|s| denies != (s.effect == IAMEffect::Deny)) {
            return Err(bad("a statement must have an Effect".to_owned()));
        }
        let options = EvaluationOptions {
            ignore_resource_constraints: !has_resource,
            ..EvaluationOptions::default()
        };
        let engine = PolicyEvaluator::with_policies(vec![parsed]).with_options(options);
        let has_conditions =
            given.contains_key("Condition") || statement.to_string().contains("${");
        Ok(Self { who, denies, has_conditions, needs, engine })
    }

    /// Naming an account denies all of its users, but allows only the account itself: it hands the
    /// decision on to the account, whose own policies make it ("AWS account principals", IAM User
    /// Guide).
    fn is_about(&self, asking: Option<&Principal>, by_account: bool) -> bool {
        let by_account = by_account || self.denies;
        match (&self.who, asking) {
            (Who::Unsaid, None) => true,
            // An identity's policy names nobody; a resource's policy names somebody.
            (Who::Unsaid, Some(_)) | (Who::These(_) | Who::NotThese(_), None) => false,
            (Who::These(all), Some(asking)) => all.iter().any(|one| one.fits(asking, by_account)),
            (Who::NotThese(all), Some(asking)) => !all.iter().any(|one| one.fits(asking, true)),
        }
    }

    /// Whether action, resource and conditions fit; none when that cannot be said.
    fn applies(&self, request: &Prepared) -> Option<bool> {
        let request = request.0.as_ref()?;
        if self.needs.iter().any(|key| request.context.get(key).is_none()) {
            return Some(false);
        }
        let result = self.engine.evaluate(request).ok()?;
        Some(result.decision != iam_rs::Decision::NotApplicable)
    }
}

impl Pattern {
    fn fits(&self, asking: &Principal, by_account: bool) -> bool {
        match (self, asking) {
            (Self::Anyone, _) => true,
            (Self::Service(name), Principal::Service(asking)) => name == asking,
            (Self::Aws(named), Principal::Root { account }) => {
                named == account || is_root(named, account)
            }
            (Self::Aws(named), Principal::Identity { arn, role, account }) => {
                named == arn
                    || role.as_ref() == Some(named)
                    || (by_account && (named == account || is_root(named, account)))
            }
            _ => false,
        }
    }
}

fn is_root(named: &str, account: &str) -> bool {
    let rest = named.strip_prefix("arn:").and_then(|rest| rest.split_once(":iam::"));
    rest.and_then(|(_, rest)| rest.strip_suffix(":root")) == Some(account)
}

fn patterns(value: &Json) -> Result<Vec<Pattern>, MalformedPolicy> {
    let bad = |what: String| MalformedPolicy(what);
    let given = match value {
        Json::String(text) if text == "*" => return Ok(vec![Pattern::Anyone]),
        Json::Object(given) if !given.is_empty() => given,
        _ => return Err(bad("a Principal must be \"*\" or an object".to_owned())),
    };
    let mut out = Vec::new();
    for (kind, names) in given {
        for name in texts("Principal", names)? {
            out.push(match (kind.as_str(), name.as_str()) {
                ("AWS", "*") => Pattern::Anyone,
                ("AWS", _) => Pattern::Aws(name),
                ("Service", _) => Pattern::Service(name),
                ("Federated" | "CanonicalUser", _) => Pattern::Other,
                (other, _) => return Err(bad(format!("unknown kind of principal {other:?}"))),
            });
        }
    }
    Ok(out)
}

fn texts(what: &str, value: &Json) -> Result<Vec<String>, MalformedPolicy> {
    let all: Option<Vec<String>> = match value {
        Json::String(text) => Some(vec![text.clone()]),
        Json::Array(all) if !all.is_empty() => {
            all.iter().map(|one| one.as_str().map(str::to_owned)).collect()
        }
        _ => None,
    };
    all.ok_or_else(|| MalformedPolicy(format!("{what} must be text or a list of texts")))
}

/// Keys of conditions are not case-sensitive, and the exact ARN operators match patterns (both: IAM
/// User Guide, "Condition operators").
fn normalized(conditions: &Json) -> Result<Json, MalformedPolicy> {
    let bad = || MalformedPolicy("a Condition must be an object of objects".to_owned());
    let mut out: Map<String, Json> = Map::new();
    for (operator, keys) in conditions.as_object().ok_or_else(bad)? {
        let operator =
            operator.replace("ArnEquals", "ArnLike").replace("ArnNotEquals", "ArnNotLike");
        let slot = out.entry(operator).or_insert_with(|| Json::Object(Map::new()));
        let slot = slot.as_object_mut().ok_or_else(bad)?;
        for (key, value) in keys.as_object().ok_or_else(bad)? {
            if slot.insert(key.to_ascii_lowercase(), value.clone()).is_some() {
                return Err(MalformedPolicy(format!("condition key {key:?} is there twice")));
            }
        }
    }
    Ok(Json::Object(out))
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

fn check_resource(resource: &str) -> Result<(), MalformedPolicy> {
    if resource == "*" {
        return Ok(());
    }
    if Arn::parse(resource).is_err() {
        return Err(MalformedPolicy(format!("resource {resource:?} must be \"*\" or an ARN")));
    }
    // The engine takes these letter by letter: a pattern would match nothing, and deny nothing.
    let mut fixed = resource.split(':').skip(1).take(2);
    if fixed.any(|part| part.contains(['*', '?'])) {
        return Err(MalformedPolicy(format!(
            "resource {resource:?} must have a partition and a service without wildcards"
        )));
    }
    Ok(())
}

/// A default that no ARN and no value contains.
const NOTHING: char = '\u{1}';

/// Brings policy variables into the engine's form: keys in lower case. The engine takes one without a
/// value for empty, and what is left of `${aws:username}*` would match everything: allowing statements
/// tell which variables they need, and in denying ones they stand for nothing that exists.
fn variables(
    value: &mut Json,
    denies: bool,
    needs: &mut Vec<String>,
) -> Result<(), MalformedPolicy> {
    match value {
        Json::String(text) => {
            let mut out = String::new();
            let mut rest = text.as_str();
            while let Some((before, variable)) = rest.split_once("${") {
                let unclosed = || MalformedPolicy(format!("a variable of {text:?} is not closed"));
                let (variable, after) = variable.split_once('}').ok_or_else(unclosed)?;
                let (key, default) = match variable.split_once(',') {
                    Some((key, default)) => (key, Some(default)),
                    None => (variable, None),
                };
                let key = key.trim().to_ascii_lowercase();
                if key.is_empty() || ["*", "?", "$"].contains(&key.as_str()) {
                    return Err(MalformedPolicy(format!(
                        "the variable ${{{key}}} is not supported"
                    )));
                }
                out += before;
                match (default, denies) {
                    (Some(default), _) => out += &format!("${{{key},{default}}}"),
                    (None, true) => out += &format!("${{{key}, '{NOTHING}'}}"),
                    (None, false) => {
                        out += &format!("${{{key}}}");
                        needs.push(key);
                    }
                }
                rest = after;
            }
            out += rest;
            *text = out;
            Ok(())
        }
        Json::Array(all) => all.iter_mut().try_for_each(|one| variables(one, denies, needs)),
        Json::Object(all) => all.values_mut().try_for_each(|one| variables(one, denies, needs)),
        _ => Ok(()),
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
