//! Tags of functions and of event source mappings.

use std::collections::BTreeMap;

use wambda_model::limits::TAGS_MAX;
use wambda_model::{Details, Function};

use super::{Cx, Nothing, mappings};
use crate::ApiError;
use crate::aws::generated::lambda::{
    ListTagsRequest, ListTagsResponse, TagResourceRequest, UntagResourceRequest,
};
use crate::name::Named;

type Tags = BTreeMap<String, String>;

/// Checks tags that somebody sets.
pub(crate) fn check(tags: &Tags) -> Result<(), ApiError> {
    if tags.len() > TAGS_MAX {
        let count = tags.len();
        let message = format!("Number of tags exceeds resource tag limit: {TAGS_MAX}, got {count}");
        return Err(ApiError::value(message));
    }
    for (key, value) in tags {
        let long = key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256;
        if long || key.to_ascii_lowercase().starts_with("aws:") {
            return Err(ApiError::value(format!(
                "tag {:?} is not valid: a key of 1 to 128 characters that does not start with aws:, and a value of 256 at most",
                key.chars().take(130).collect::<String>()
            )));
        }
    }
    Ok(())
}

enum Tagged {
    Function(Named),
    Mapping(String),
}

fn tagged(cx: &Cx<'_>, arn: &str) -> Result<Tagged, ApiError> {
    let parts: Vec<&str> = arn.split(':').collect();
    if let ["arn", _, "lambda", _, _, "event-source-mapping", id] = parts.as_slice() {
        return Ok(Tagged::Mapping((*id).to_owned()));
    }
    let named = cx.named(arn, None)?;
    if named.qualifier.is_some() {
        return Err(ApiError::value(
            "Tags on function aliases and versions are not supported. Please specify either a \
             function arn or an event source mapping arn.",
        ));
    }
    cx.function(&named)?;
    Ok(Tagged::Function(named))
}

async fn change(
    cx: &Cx<'_>,
    arn: &str,
    edit: impl FnOnce(&mut Tags) + Send + 'static,
) -> Result<Nothing, ApiError> {
    match tagged(cx, arn)? {
        Tagged::Function(named) => {
            let change = move |_: &Function, details: &mut Details| {
                edit(&mut details.tags);
                check(&details.tags)
            };
            cx.api.functions.edit(&named.name, change).await?;
        }
        Tagged::Mapping(id) => {
            let change = |all: &BTreeMap<String, _>| {
                let mut mapping = mappings::find(all, &id)?;
                edit(&mut mapping.tags);
                check(&mapping.tags)?;
                Ok::<_, ApiError>(mapping)
            };
            cx.api.mappings.put(&id, change).await?;
        }
    }
    Ok(Nothing {})
}

pub(crate) async fn tag(cx: &Cx<'_>, input: TagResourceRequest) -> Result<Nothing, ApiError> {
    change(cx, &input.resource, move |tags| tags.extend(input.tags)).await
}

pub(crate) async fn untag(cx: &Cx<'_>, input: UntagResourceRequest) -> Result<Nothing, ApiError> {
    let keys = input.tag_keys;
    change(cx, &input.resource, move |tags| tags.retain(|key, _| !keys.contains(key))).await
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListTagsRequest,
) -> Result<ListTagsResponse, ApiError> {
    let tags = match tagged(cx, &input.resource)? {
        Tagged::Function(named) => cx.function(&named)?.details.tags.clone(),
        Tagged::Mapping(id) => mappings::find(&cx.api.mappings.current(), &id)?.tags,
    };
    Ok(ListTagsResponse { tags: Some(tags) })
}
