//! A request in the form in which statements judge it: checked and cut up once for all of them.

use std::cell::OnceCell;

use iam_rs::{Arn, Context, ContextValue, IAMRequest, PrincipalId};

use crate::wildcard::Text;
use crate::{ACTION_BYTES_MAX, Request, TEXT_BYTES_MAX, Value};

/// It cannot be said whether something holds.
#[derive(Debug)]
pub(crate) struct Unjudgeable;

/// An ARN's parts, each of which is matched for itself.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) partition: &'a str,
    pub(crate) service: &'a str,
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
    pub(crate) resource: &'a str,
}

impl<'a> Parts<'a> {
    /// Cuts an ARN up; none when it has too few parts.
    pub(crate) fn read(arn: &'a str) -> Option<Self> {
        let mut parts = arn.strip_prefix("arn:")?.splitn(5, ':');
        let mut next = || parts.next();
        Some(Self {
            partition: next()?,
            service: next()?,
            region: next()?,
            account: next()?,
            resource: next()?,
        })
    }

    /// Whether it can be the ARN of something.
    fn is_valid(&self) -> bool {
        let plain = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
        };
        let account = self.account;
        let is_account = account.is_empty()
            || account == "aws"
            || account.contains(['*', '?'])
            || (account.len() == 12 && account.bytes().all(|digit| digit.is_ascii_digit()));
        plain(self.partition) && plain(self.service) && is_account && !self.resource.is_empty()
    }
}

/// A resource's ARN, to be held against patterns.
#[derive(Debug)]
pub(crate) struct Resource<'a> {
    parts: Parts<'a>,
    region: Text<'a>,
    account: Text<'a>,
    resource: Text<'a>,
}

impl Resource<'_> {
    /// Whether the pattern of an ARN fits. Partition and service have no wildcards.
    pub(crate) fn fits(&self, pattern: &Parts<'_>) -> bool {
        pattern.service == self.parts.service
            && pattern.partition == self.parts.partition
            && self.region.fits(pattern.region)
            && self.account.fits(pattern.account)
            && self.resource.fits(pattern.resource)
    }
}

/// A request that can be judged.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    request: &'a Request,
    /// In lower case: actions have none.
    action: String,
    /// None when no such resource can be.
    pub(crate) resource: Option<Resource<'a>>,
    facts: Vec<(&'a str, Text<'a>)>,
    engine: OnceCell<Option<IAMRequest>>,
}

impl<'a> Prepared<'a> {
    /// Prepares a request; none when nothing can be said about it.
    pub(crate) fn new(request: &'a Request) -> Option<Self> {
        let Request { action, resource, context, .. } = request;
        if action.is_empty() || action.len() > ACTION_BYTES_MAX || resource.len() > TEXT_BYTES_MAX {
            return None;
        }
        let parts = Parts::read(resource)?;
        let facts: Option<Vec<(&str, Text<'_>)>> = context
            .iter()
            .map(|(key, value)| {
                let text = match value {
                    Value::Text(text) => text,
                    Value::Bool(true) => "true",
                    Value::Bool(false) => "false",
                };
                (text.len() <= TEXT_BYTES_MAX).then(|| (key.as_str(), Text::new(text)))
            })
            .collect();
        let resource = parts.is_valid().then(|| Resource {
            region: Text::new(parts.region),
            account: Text::new(parts.account),
            resource: Text::new(parts.resource),
            parts,
        });
        let action = action.to_ascii_lowercase();
        Some(Self { request, action, resource, facts: facts?, engine: OnceCell::new() })
    }

    /// The action, in lower case.
    pub(crate) fn action(&self) -> Text<'_> {
        Text::new(&self.action)
    }

    /// The fact of that name; the last one when there are several.
    pub(crate) fn fact(&self, key: &str) -> Option<&Text<'a>> {
        let named = |(name, _): &&(&str, Text<'_>)| name.eq_ignore_ascii_case(key);
        self.facts.iter().rfind(named).map(|(_, text)| text)
    }

    /// The request in the form of the engine, which judges conditions only.
    pub(crate) fn engine(&self) -> Option<&IAMRequest> {
        let make = || {
            let mut context = Context::new();
            for (key, value) in &self.request.context {
                let value = match value {
                    Value::Text(text) => ContextValue::String(text.clone()),
                    Value::Bool(value) => ContextValue::Boolean(*value),
                };
                context.insert(key.to_ascii_lowercase(), value);
            }
            let anything = PrincipalId::String("wambda.internal".to_owned());
            let anyone = iam_rs::Principal::Service(anything);
            let resource = Arn::parse("arn:aws:wambda:::anything").ok()?;
            Some(IAMRequest::new_with_context(anyone, "wambda:Anything", resource, context))
        };
        self.engine.get_or_init(make).as_ref()
    }
}
