//! Whom a statement is about.

use serde_json::Value as Json;

use crate::Principal;
use crate::document::MalformedPolicy;
use crate::statement::texts;

/// Whom a statement is about.
#[derive(Debug, Clone)]
pub(crate) enum Who {
    /// It does not say: the one whom the policy is attached to.
    Unsaid,
    /// These.
    These(Vec<Pattern>),
    /// All but these.
    NotThese(Vec<Pattern>),
}

#[derive(Debug, Clone)]
pub(crate) enum Pattern {
    Anyone,
    /// An account, an ARN, or the ARN of an account's root.
    Aws(String),
    Service(String),
    /// A kind of principal that is never authenticated here.
    Other,
}

impl Who {
    /// Naming an account denies all of its users, but allows only the account itself: it hands the
    /// decision on to the account, whose own policies make it ("AWS account principals", IAM User
    /// Guide). So `by_account` is set for denying statements.
    pub(crate) fn is(&self, asking: Option<&Principal>, by_account: bool) -> bool {
        match (self, asking) {
            (Self::Unsaid, None) => true,
            // An identity's policy names nobody; a resource's policy names somebody.
            (Self::Unsaid, Some(_)) | (Self::These(_) | Self::NotThese(_), None) => false,
            (Self::These(all), Some(asking)) => all.iter().any(|one| one.fits(asking, by_account)),
            (Self::NotThese(all), Some(asking)) => !all.iter().any(|one| one.fits(asking, true)),
        }
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

pub(crate) fn patterns(value: &Json) -> Result<Vec<Pattern>, MalformedPolicy> {
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
