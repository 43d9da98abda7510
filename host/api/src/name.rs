//! How clients name functions: a name, a partial ARN or a full one, with a qualifier in it or beside
//! it; and what AWS says when that is wrong.

use wambda_control::Identity;
use wambda_model::function::is_qualifier;
use wambda_model::limits::NAME_LEN_MAX;
use wambda_model::{FunctionName, LATEST};

use crate::ApiError;

/// A function, and perhaps a version or alias of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The function.
    pub name: FunctionName,
    /// A number, `$LATEST` or an alias.
    pub qualifier: Option<String>,
}

impl Named {
    /// The function's ARN.
    #[must_use]
    pub fn arn(&self, identity: &Identity) -> String {
        function_arn(identity, &self.name)
    }

    /// The ARN with the qualifier, when there is one.
    #[must_use]
    pub fn qualified_arn(&self, identity: &Identity) -> String {
        match &self.qualifier {
            Some(qualifier) => format!("{}:{qualifier}", self.arn(identity)),
            None => self.arn(identity),
        }
    }

    /// The qualifier, or `$LATEST`.
    #[must_use]
    pub fn or_latest(&self) -> &str {
        self.qualifier.as_deref().unwrap_or(LATEST)
    }
}

/// The ARN of a function.
#[must_use]
pub fn function_arn(identity: &Identity, name: &FunctionName) -> String {
    let Identity { region, account } = identity;
    format!("arn:aws:lambda:{region}:{account}:function:{name}")
}

/// Reads a function's name with the qualifier that came beside it.
///
/// # Errors
/// AWS's error for what is wrong.
pub fn read(identity: &Identity, text: &str, beside: Option<&str>) -> Result<Named, ApiError> {
    let parts: Vec<&str> = text.split(':').collect();
    let rest = match parts.as_slice() {
        ["arn", partition, "lambda", region, account, "function", rest @ ..] => {
            if !partition.starts_with("aws") {
                return Err(malformed(text));
            }
            if **region != *identity.region {
                let message = format!(
                    "Functions from '{region}' are not reachable in this region ('{}')",
                    identity.region
                );
                return Err(ApiError::lambda("ResourceNotFoundException", message));
            }
            foreign(identity, account, text)?;
            rest
        }
        [account, "function", rest @ ..] if is_account(account) => {
            foreign(identity, account, text)?;
            rest
        }
        ["function", rest @ ..] => rest,
        [account, rest @ ..] if is_account(account) && !rest.is_empty() => {
            foreign(identity, account, text)?;
            rest
        }
        rest => rest,
    };
    let (name, inline) = match *rest {
        [name] => (name, None),
        [name, qualifier] => (name, Some(qualifier)),
        _ => return Err(malformed(text)),
    };
    if let (Some(inline), Some(beside)) = (inline, beside)
        && inline != beside
    {
        return Err(ApiError::value(
            "The derived qualifier from the function name does not match the specified qualifier.",
        ));
    }
    if name.len() > NAME_LEN_MAX {
        let message = format!(
            "1 validation error detected: Value '{name}' at 'functionName' failed to satisfy \
             constraint: Member must have length less than or equal to {NAME_LEN_MAX}"
        );
        return Err(ApiError::lambda("ValidationException", message));
    }
    let name = FunctionName::new(name).map_err(|_| malformed(text))?;
    let qualifier = inline.or(beside);
    if let Some(qualifier) = qualifier {
        check_qualifier(qualifier)?;
    }
    Ok(Named { name, qualifier: qualifier.map(str::to_owned) })
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

fn foreign(identity: &Identity, account: &str, text: &str) -> Result<(), ApiError> {
    if *account == *identity.account {
        return Ok(());
    }
    let text: String = text.chars().take(200).collect();
    let message = format!("{text} is of another account than {}", identity.account);
    Err(ApiError::aws(403, "AccessDeniedException", message))
}

fn malformed(text: &str) -> ApiError {
    let text: String = text.chars().take(200).collect();
    let message = format!(
        "1 validation error detected: Value '{text}' at 'functionName' failed to satisfy \
         constraint: Member must satisfy regular expression pattern: \
         (arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{{2}}(-gov)?-[a-z]+-\\d{{1}}:)?(\\d{{12}}:)?(function:)?([a-zA-Z0-9-_]+)(:(\\$LATEST|[a-zA-Z0-9-_]+))?"
    );
    ApiError::lambda("ValidationException", message)
}

/// Checks a qualifier: a number, `$LATEST`, or the name of an alias.
///
/// # Errors
/// `ValidationException`.
pub fn check_qualifier(text: &str) -> Result<(), ApiError> {
    if is_qualifier(text) {
        return Ok(());
    }
    let text: String = text.chars().take(200).collect();
    let message = format!(
        "1 validation error detected: Value '{text}' at 'qualifier' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: (|[a-zA-Z0-9$_-]+)"
    );
    Err(ApiError::lambda("ValidationException", message))
}

/// Lambda's names of versions and aliases in pages: where the next page starts.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Elements to leave out.
    pub after: usize,
    /// Elements to give.
    pub limit: usize,
}

impl Page {
    /// A page by `Marker` and `MaxItems`.
    ///
    /// # Errors
    /// `InvalidParameterValueException` for a marker that was not given out.
    pub fn read(marker: Option<&str>, items: Option<i64>, limit: usize) -> Result<Self, ApiError> {
        let after = match marker {
            None | Some("") => 0,
            Some(marker) => {
                marker.parse().map_err(|_| ApiError::value("Invalid value for Marker."))?
            }
        };
        let asked = items.and_then(|items| usize::try_from(items).ok()).filter(|items| *items > 0);
        Ok(Self { after, limit: asked.map_or(limit, |asked| asked.min(limit)) })
    }

    /// The elements of the page, and the marker of the next.
    #[must_use]
    pub fn of<T>(self, all: impl Iterator<Item = T>) -> (Vec<T>, Option<String>) {
        let mut page: Vec<T> = all.skip(self.after).take(self.limit + 1).collect();
        let more = page.len() > self.limit;
        page.truncate(self.limit);
        (page, more.then(|| (self.after + self.limit).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { region: "eu-west-1".into(), account: "123456789012".into() }
    }

    #[test]
    fn every_form_of_a_name() {
        fn read(text: &str, beside: Option<&str>) -> Result<Named, ApiError> {
            super::read(&identity(), text, beside)
        }
        let named = |qualifier: Option<&str>| Named {
            name: FunctionName::new("f").unwrap(),
            qualifier: qualifier.map(str::to_owned),
        };
        let arn = "arn:aws:lambda:eu-west-1:123456789012:function:f";
        for text in ["f", "function:f", "123456789012:function:f", "123456789012:f", arn] {
            assert_eq!(read(text, None).unwrap(), named(None), "{text}");
            assert_eq!(read(text, Some("p")).unwrap(), named(Some("p")), "{text}");
            let inline = format!("{text}:$LATEST");
            assert_eq!(read(&inline, None).unwrap(), named(Some("$LATEST")), "{text}");
            assert_eq!(read(&inline, Some("$LATEST")).unwrap(), named(Some("$LATEST")));
            let code = read(&inline, Some("1")).unwrap_err();
            assert_eq!(code.aws_code(), "InvalidParameterValueException");
        }
        assert_eq!(named(Some("1")).qualified_arn(&identity()), format!("{arn}:1"));
        for (text, code) in [
            ("", "ValidationException"),
            ("f:1:2", "ValidationException"),
            ("a b", "ValidationException"),
            ("f:a b", "ValidationException"),
            ("arn:aws:s3:eu-west-1:123456789012:function:f", "ValidationException"),
            ("arn:aws:lambda:us-east-1:123456789012:function:f", "ResourceNotFoundException"),
            ("arn:aws:lambda:eu-west-1:210987654321:function:f", "AccessDeniedException"),
            ("210987654321:function:f", "AccessDeniedException"),
            (&"x".repeat(65), "ValidationException"),
        ] {
            assert_eq!(read(text, None).unwrap_err().aws_code(), code, "{text}");
        }
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended() {
        let all = || (0..5).collect::<Vec<_>>().into_iter();
        let (page, next) = Page::read(None, Some(2), 50).unwrap().of(all());
        assert_eq!((page, next.as_deref()), (vec![0, 1], Some("2")));
        let (page, next) = Page::read(Some("2"), Some(9_999), 3).unwrap().of(all());
        assert_eq!((page, next), (vec![2, 3, 4], None));
        assert!(Page::read(Some("nonsense"), None, 3).is_err());
        let (page, next) = Page::read(Some("18446744073709551615"), Some(1), 3).unwrap().of(all());
        assert_eq!((page.len(), next), (0, None));
    }
}
