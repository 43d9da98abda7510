//! Texts of policies with variables: `${aws:username}`, `${aws:username, 'nobody'}`. Source:
//! "Policy variables", IAM User Guide.

use std::borrow::Cow;

use crate::TEXT_BYTES_MAX;
use crate::document::MalformedPolicy;
use crate::prepared::{Prepared, Unjudgeable};

/// Bytes that a text may have once its variables are filled in: a pattern may be longer than what
/// it fits.
const FILLED_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX;

/// A text with variables.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    text: String,
    /// The parts; empty when there is no variable, and `text` is all of it.
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Variable {
        /// In lower case.
        key: String,
        default: Default,
    },
}

#[derive(Debug, Clone)]
enum Default {
    None,
    Text(String),
    /// It does not stand in single quotes.
    Broken,
}

impl Template {
    /// Reads a text.
    pub(crate) fn read(text: &str) -> Result<Self, MalformedPolicy> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, variable)) = rest.split_once("${") {
            let unclosed = || MalformedPolicy(format!("a variable of {text:?} is not closed"));
            let (variable, after) = variable.split_once('}').ok_or_else(unclosed)?;
            let (key, default) = match variable.split_once(',') {
                None => (variable, Default::None),
                Some((key, default)) => {
                    let quoted = default.trim().strip_prefix('\'');
                    let quoted = quoted.and_then(|text| text.strip_suffix('\''));
                    let quoted = quoted.map(|text| Default::Text(text.to_owned()));
                    (key, quoted.unwrap_or(Default::Broken))
                }
            };
            let key = key.trim().to_ascii_lowercase();
            if key.is_empty() || ["*", "?", "$"].contains(&key.as_str()) {
                return Err(MalformedPolicy(format!("the variable ${{{key}}} is not supported")));
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Variable { key, default });
            rest = after;
        }
        if !parts.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The variables without a default.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable { key, default: Default::None } => Some(key.as_str()),
            _ => None,
        })
    }

    /// The text with the request's facts for the variables; none when one of them has no value.
    /// Empty in its place would let `${aws:username}*` fit everything.
    pub(crate) fn fill(&self, of: &Prepared<'_>) -> Result<Option<Cow<'_, str>>, Unjudgeable> {
        if self.parts.is_empty() {
            return Ok(Some(Cow::Borrowed(&self.text)));
        }
        let mut filled = String::new();
        for part in &self.parts {
            filled += match part {
                Part::Text(text) => text,
                Part::Variable { key, default } => match (of.fact(key), default) {
                    (_, Default::Broken) => return Err(Unjudgeable),
                    (Some(value), _) => value.as_str(),
                    (None, Default::Text(text)) => text,
                    (None, Default::None) => return Ok(None),
                },
            };
            if filled.len() > FILLED_BYTES_MAX.max(self.text.len()) {
                return Err(Unjudgeable);
            }
        }
        Ok(Some(Cow::Owned(filled)))
    }
}
