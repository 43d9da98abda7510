//! Published versions.

use wambda_control::PublishError;
use wambda_model::Function;
use wambda_model::function::State;

use super::shape::{configuration, sha256, version_arn};
use super::{Cx, update};
use crate::ApiError;
use crate::aws::generated::lambda::{
    FunctionConfiguration, ListVersionsByFunctionRequest, ListVersionsByFunctionResponse,
    PublishVersionRequest,
};
use crate::name::Page;

/// Versions of one page; Terraform asks for 10,000 and takes the last one as the newest.
const PAGE: usize = 10_000;

/// What can go wrong: in AWS's words, or ours.
pub(crate) enum Refused {
    Said(ApiError),
    Failed(PublishError),
}

impl From<PublishError> for Refused {
    fn from(error: PublishError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Said(error) => error,
            Refused::Failed(error) => error.into(),
        }
    }
}

pub(crate) async fn publish(
    cx: &Cx<'_>,
    input: PublishVersionRequest,
) -> Result<FunctionConfiguration, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    cx.function(&named)?;
    let (sha, revision) = (input.code_sha256, input.revision_id);
    let check = move |function: &Function| {
        let latest = &function.latest;
        let actual = sha256(&latest.upload);
        if sha.as_ref().is_some_and(|sha| !sha.is_empty() && *sha != actual) {
            return Err(Refused::Said(ApiError::value(format!(
                "CodeSHA256 ({}) is different from current CodeSHA256 in $LATEST ({actual}). Please try again with the CodeSHA256 in $LATEST.",
                sha.unwrap_or_default()
            ))));
        }
        if revision.is_some_and(|id| id != function.details.revision_id) {
            return Err(Refused::Said(ApiError::stale()));
        }
        match &function.details.state {
            State::Active => Ok(()),
            State::Pending => Err(Refused::Failed(PublishError::InProgress)),
            // Not in progress: clients wait for that to end.
            State::Failed(_) => Err(Refused::Said(ApiError::lambda(
                "ResourceConflictException",
                "The operation cannot be performed at this time. The function is currently in the following state: Failed",
            ))),
        }
    };
    let done = cx.api.functions.publish_version(&named.name, input.description, check).await;
    let (version, function) = done.map_err(|refused| match refused {
        Refused::Said(error) => error,
        Refused::Failed(error) => update::refused(cx, &named, error),
    })?;
    let arn = version_arn(&named.arn(cx.identity()), &version);
    Ok(configuration(&function, &version, arn, cx.identity()))
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListVersionsByFunctionRequest,
) -> Result<ListVersionsByFunctionResponse, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    let function = cx.function(&named)?;
    let page = Page::read(input.marker.as_deref(), input.max_items, PAGE)?;
    let (versions, next_marker) = page.of(function.all_versions());
    let arn = named.arn(cx.identity());
    let shown = versions.into_iter().map(|version| {
        configuration(&function, version, version_arn(&arn, version), cx.identity())
    });
    Ok(ListVersionsByFunctionResponse { versions: Some(shown.collect()), next_marker })
}
