//! The facts that AWS sets for every request, whatever it is about: a condition on one of them
//! always has something to look at. Source: "AWS global condition context keys", IAM User Guide.

use crate::{Principal, Value};

/// Keys of facts that AWS sets, and that no request has here. A statement with a condition on one
/// would not apply as it does on AWS; a key that ends with `/` stands for all that begin so.
pub const MISSING: [&str; 7] = [
    "aws:ResourceTag/",
    "aws:RequestTag/",
    "aws:TagKeys",
    "iam:ResourceTag/",
    "lambda:FunctionArn",
    "lambda:Layer",
    "lambda:SourceFunctionArn",
];

/// Whether a key is one of [`MISSING`].
#[must_use]
pub fn is_missing(key: &str) -> bool {
    MISSING.iter().any(|missing| match missing.strip_suffix('/') {
        Some(_) => {
            key.get(..missing.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(missing))
        }
        None => key.eq_ignore_ascii_case(missing),
    })
}

/// Who asks, as facts tell it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The principal.
    pub principal: &'a Principal,
    /// Its unique id; empty when it has none.
    pub id: &'a str,
    /// A user's name; empty for others.
    pub user: &'a str,
    /// The region and the account that are asked; empty when that is not known.
    pub region: &'a str,
    /// See `region`.
    pub account: &'a str,
    /// When temporary credentials were issued, in seconds since the Unix epoch.
    pub issued_s: Option<u64>,
}

impl Asking<'_> {
    /// The facts at a time, in seconds since the Unix epoch.
    #[must_use]
    pub fn facts(&self, now_s: u64) -> Vec<(String, Value)> {
        let (kind, arn, account) = match self.principal {
            Principal::Anonymous => ("Anonymous", String::new(), ""),
            Principal::Root { account } => {
                ("Account", format!("arn:aws:iam::{account}:root"), account.as_str())
            }
            // Of a session it is the role ("aws:PrincipalArn").
            Principal::Identity { role: Some(role), account, .. } => {
                ("AssumedRole", role.clone(), account.as_str())
            }
            Principal::Identity { arn, account, .. } => ("User", arn.clone(), account.as_str()),
            Principal::Service(_) => ("Service", String::new(), ""),
        };
        let is_service = matches!(self.principal, Principal::Service(_));
        let is_session = matches!(self.principal, Principal::Identity { role: Some(_), .. });
        let id = if kind == "Anonymous" { "anonymous" } else { self.id };
        let issued = self.issued_s.map(time).unwrap_or_default();
        let texts = [
            ("aws:CurrentTime", time(now_s).as_str()),
            ("aws:EpochTime", &now_s.to_string()),
            ("aws:PrincipalType", kind),
            ("aws:PrincipalArn", &arn),
            ("aws:PrincipalAccount", account),
            ("aws:userid", id),
            ("aws:username", self.user),
            ("aws:RequestedRegion", self.region),
            ("aws:ResourceAccount", self.account),
            ("aws:TokenIssueTime", &issued),
        ]
        .map(|(key, text)| (!text.is_empty()).then(|| (key, Value::Text(text.to_owned()))));
        // The server itself speaks plain HTTP, and nobody here has a second factor.
        let bools = [
            Some(("aws:SecureTransport", Value::Bool(false))),
            Some(("aws:ViaAWSService", Value::Bool(false))),
            Some(("aws:PrincipalIsAWSService", Value::Bool(is_service))),
            is_session.then_some(("aws:MultiFactorAuthPresent", Value::Bool(false))),
        ];
        let all = texts.into_iter().chain(bools).flatten();
        all.map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn time(unix_s: u64) -> String {
    let at = i64::try_from(unix_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}
