//! Settings of an account or a function that have an operation of their own.

use wambda_model::limits::{LAYERS_BYTES_MAX, UPLOAD_BYTES_MAX};
use wambda_model::{Details, Function};

use super::Cx;
use crate::ApiError;
use crate::aws::generated::lambda::{
    AccountLimit, AccountUsage, GetAccountSettingsRequest, GetAccountSettingsResponse,
    GetFunctionCodeSigningConfigRequest, GetFunctionCodeSigningConfigResponse,
    GetFunctionRecursionConfigRequest, GetFunctionRecursionConfigResponse,
    GetRuntimeManagementConfigRequest, GetRuntimeManagementConfigResponse,
    PutFunctionRecursionConfigRequest, PutFunctionRecursionConfigResponse,
    PutRuntimeManagementConfigRequest, PutRuntimeManagementConfigResponse,
};

pub(crate) async fn account(
    cx: &Cx<'_>,
    _: GetAccountSettingsRequest,
) -> Result<GetAccountSettingsResponse, ApiError> {
    let (limit, unreserved) = cx.api.functions.concurrency();
    let catalog = cx.api.catalog.load();
    let storage = cx.api.functions.storage();
    Ok(GetAccountSettingsResponse {
        account_limit: Some(AccountLimit {
            total_code_size: i64::try_from(storage.limit()).ok(),
            code_size_unzipped: i64::try_from(LAYERS_BYTES_MAX).ok(),
            code_size_zipped: i64::try_from(UPLOAD_BYTES_MAX).ok(),
            concurrent_executions: Some(i64::from(limit)),
            unreserved_concurrent_executions: Some(i64::from(unreserved)),
        }),
        account_usage: Some(AccountUsage {
            total_code_size: i64::try_from(storage.used()).ok(),
            function_count: i64::try_from(catalog.len()).ok(),
        }),
    })
}

/// There is no code signing: no function has a configuration of it. Terraform asks at every read.
pub(crate) async fn code_signing(
    cx: &Cx<'_>,
    input: GetFunctionCodeSigningConfigRequest,
) -> Result<GetFunctionCodeSigningConfigResponse, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    cx.function(&named)?;
    Ok(GetFunctionCodeSigningConfigResponse {
        code_signing_config_arn: String::new(),
        function_name: named.name.to_string(),
    })
}

fn loop_text(allows: bool) -> Option<String> {
    Some(if allows { "Allow" } else { "Terminate" }.to_owned())
}

pub(crate) async fn get_recursion(
    cx: &Cx<'_>,
    input: GetFunctionRecursionConfigRequest,
) -> Result<GetFunctionRecursionConfigResponse, ApiError> {
    let function = cx.function(&cx.named(&input.function_name, None)?)?;
    let recursive_loop = loop_text(function.details.allows_recursion);
    Ok(GetFunctionRecursionConfigResponse { recursive_loop })
}

pub(crate) async fn put_recursion(
    cx: &Cx<'_>,
    input: PutFunctionRecursionConfigRequest,
) -> Result<PutFunctionRecursionConfigResponse, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    cx.function(&named)?;
    let allows = input.recursive_loop == "Allow";
    let change = move |_: &Function, details: &mut Details| {
        details.allows_recursion = allows;
        Ok::<_, ApiError>(())
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(PutFunctionRecursionConfigResponse { recursive_loop: loop_text(allows) })
}

pub(crate) async fn get_runtime(
    cx: &Cx<'_>,
    input: GetRuntimeManagementConfigRequest,
) -> Result<GetRuntimeManagementConfigResponse, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    cx.qualified(&named)?;
    Ok(GetRuntimeManagementConfigResponse {
        update_runtime_on: Some("Auto".to_owned()),
        runtime_version_arn: None,
        function_arn: Some(named.qualified_arn(cx.identity())),
    })
}

/// The runtime of wasm is the server, which is updated as a whole: `Auto` is all there is.
pub(crate) async fn put_runtime(
    cx: &Cx<'_>,
    input: PutRuntimeManagementConfigRequest,
) -> Result<PutRuntimeManagementConfigResponse, ApiError> {
    let named = cx.named(&input.function_name, input.qualifier.as_deref())?;
    cx.qualified(&named)?;
    if input.update_runtime_on != "Auto" {
        let mode = input.update_runtime_on;
        return Err(ApiError::value(format!("UpdateRuntimeOn {mode} is not supported, Auto is")));
    }
    Ok(PutRuntimeManagementConfigResponse {
        update_runtime_on: input.update_runtime_on,
        function_arn: named.qualified_arn(cx.identity()),
        runtime_version_arn: None,
    })
}
