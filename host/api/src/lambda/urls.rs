//! Function URLs: their configuration. What they do is in [`crate::url`].

use wambda_model::function::{Cors, UrlAuth, UrlConfig};
use wambda_model::{Details, Function, LATEST, clock};

use super::{Cx, Nothing, shape};
use crate::ApiError;
use crate::aws::generated::lambda as model;
use crate::aws::generated::lambda::{
    CreateFunctionUrlConfigRequest, CreateFunctionUrlConfigResponse,
    DeleteFunctionUrlConfigRequest, FunctionUrlConfig, GetFunctionUrlConfigRequest,
    GetFunctionUrlConfigResponse, ListFunctionUrlConfigsRequest, ListFunctionUrlConfigsResponse,
    UpdateFunctionUrlConfigRequest, UpdateFunctionUrlConfigResponse,
};
use crate::name::{Named, Page};

/// Configurations of one page.
const PAGE: usize = 50;

fn auth(text: &str) -> UrlAuth {
    if text == "NONE" { UrlAuth::None } else { UrlAuth::AwsIam }
}

fn auth_text(auth: UrlAuth) -> String {
    match auth {
        UrlAuth::None => "NONE",
        UrlAuth::AwsIam => "AWS_IAM",
    }
    .to_owned()
}

fn cors(given: model::Cors) -> Option<Cors> {
    let cors = Cors {
        allow_credentials: given.allow_credentials.unwrap_or_default(),
        allow_headers: given.allow_headers.clone().unwrap_or_default(),
        allow_methods: given.allow_methods.clone().unwrap_or_default(),
        allow_origins: given.allow_origins.clone().unwrap_or_default(),
        expose_headers: given.expose_headers.clone().unwrap_or_default(),
        max_age: given.max_age.and_then(|s| u32::try_from(s).ok()).unwrap_or_default(),
    };
    (given != model::Cors::default()).then_some(cors)
}

fn cors_shown(cors: &Cors) -> model::Cors {
    let list = |all: &Vec<String>| (!all.is_empty()).then(|| all.clone());
    model::Cors {
        allow_credentials: Some(cors.allow_credentials),
        allow_headers: list(&cors.allow_headers),
        allow_methods: list(&cors.allow_methods),
        allow_origins: list(&cors.allow_origins),
        expose_headers: list(&cors.expose_headers),
        max_age: (cors.max_age > 0).then(|| i64::from(cors.max_age)),
    }
}

/// A URL has the function itself or an alias behind it, never a number.
fn target(cx: &Cx<'_>, name: &str, qualifier: Option<&str>) -> Result<Named, ApiError> {
    let named = cx.named(name, qualifier)?;
    let function = cx.function(&named)?;
    match &named.qualifier {
        None => Ok(named),
        Some(alias) if function.details.aliases.contains_key(alias) => Ok(named),
        Some(other) if other == LATEST || other.bytes().all(|b| b.is_ascii_digit()) => {
            let message = format!(
                "1 validation error detected: Value '{other}' at 'qualifier' failed to satisfy \
                 constraint: Member must satisfy regular expression pattern: ((?!^\\d+$)^[0-9a-zA-Z-_]+$)"
            );
            Err(ApiError::lambda("ValidationException", message))
        }
        Some(_) => Err(ApiError::no_function(named.qualified_arn(cx.identity()))),
    }
}

/// What clients type. The host's first label finds the function.
fn url(cx: &Cx<'_>, config: &UrlConfig) -> String {
    let port = cx.host.rsplit_once(':').filter(|(host, _)| !host.ends_with(']'));
    let port = port.map(|(_, port)| format!(":{port}")).unwrap_or_default();
    let region = &cx.identity().region;
    format!("http://{}.lambda-url.{region}.localhost{port}/", config.id)
}

fn shown(cx: &Cx<'_>, named: &Named, config: &UrlConfig) -> FunctionUrlConfig {
    FunctionUrlConfig {
        auth_type: auth_text(config.auth),
        cors: config.cors.as_ref().map(cors_shown),
        creation_time: shape::timestamp(config.created_ms),
        function_arn: named.qualified_arn(cx.identity()),
        function_url: url(cx, config),
        invoke_mode: Some(if config.streams { "RESPONSE_STREAM" } else { "BUFFERED" }.to_owned()),
        last_modified_time: shape::timestamp(config.modified_ms),
    }
}

fn no_url() -> ApiError {
    ApiError::lambda("ResourceNotFoundException", "The resource you requested does not exist.")
}

pub(crate) async fn create(
    cx: &Cx<'_>,
    input: CreateFunctionUrlConfigRequest,
) -> Result<CreateFunctionUrlConfigResponse, ApiError> {
    let named = target(cx, &input.function_name, input.qualifier.as_deref())?;
    let now = clock::unix_ms();
    let config = UrlConfig {
        id: url_id(),
        auth: auth(&input.auth_type),
        cors: input.cors.and_then(cors),
        streams: input.invoke_mode.as_deref() == Some("RESPONSE_STREAM"),
        created_ms: now,
        modified_ms: now,
    };
    let (qualifier, arn) = (named.or_latest().to_owned(), named.qualified_arn(cx.identity()));
    let change = move |_: &Function, details: &mut Details| {
        if details.urls.contains_key(&qualifier) {
            return Err(ApiError::lambda(
                "ResourceConflictException",
                format!(
                    "Failed to create function url config for [functionArn = {arn}]. Error message:  FunctionUrlConfig exists for this Lambda function"
                ),
            ));
        }
        details.urls.insert(qualifier, config.clone());
        Ok(config)
    };
    let (config, _) = cx.api.functions.edit(&named.name, change).await?;
    let shown = shown(cx, &named, &config);
    Ok(CreateFunctionUrlConfigResponse {
        auth_type: shown.auth_type,
        cors: shown.cors,
        creation_time: shown.creation_time,
        function_arn: shown.function_arn,
        function_url: shown.function_url,
        invoke_mode: shown.invoke_mode,
    })
}

/// 32 lower-case letters and digits, as Lambda's.
fn url_id() -> String {
    let letters: Vec<char> = ('a'..='z').chain('2'..='7').collect();
    let pick = |byte: &u8| letters.get(usize::from(byte & 31)).copied();
    wambda_control::session::random::<32>().iter().filter_map(pick).collect()
}

pub(crate) async fn get(
    cx: &Cx<'_>,
    input: GetFunctionUrlConfigRequest,
) -> Result<GetFunctionUrlConfigResponse, ApiError> {
    let named = target(cx, &input.function_name, input.qualifier.as_deref())?;
    let function = cx.function(&named)?;
    let config = function.details.urls.get(named.or_latest()).ok_or_else(no_url)?;
    let shown = shown(cx, &named, config);
    Ok(GetFunctionUrlConfigResponse {
        auth_type: shown.auth_type,
        cors: shown.cors,
        creation_time: shown.creation_time,
        function_arn: shown.function_arn,
        function_url: shown.function_url,
        invoke_mode: shown.invoke_mode,
        last_modified_time: shown.last_modified_time,
    })
}

pub(crate) async fn update(
    cx: &Cx<'_>,
    input: UpdateFunctionUrlConfigRequest,
) -> Result<UpdateFunctionUrlConfigResponse, ApiError> {
    let named = target(cx, &input.function_name, input.qualifier.as_deref())?;
    let qualifier = named.or_latest().to_owned();
    let change = move |_: &Function, details: &mut Details| {
        let config = details.urls.get_mut(&qualifier).ok_or_else(no_url)?;
        if let Some(text) = &input.auth_type {
            config.auth = auth(text);
        }
        if let Some(given) = input.cors {
            config.cors = cors(given);
        }
        if let Some(mode) = &input.invoke_mode {
            config.streams = mode == "RESPONSE_STREAM";
        }
        config.modified_ms = clock::unix_ms();
        Ok::<_, ApiError>(config.clone())
    };
    let (config, _) = cx.api.functions.edit(&named.name, change).await?;
    let shown = shown(cx, &named, &config);
    Ok(UpdateFunctionUrlConfigResponse {
        auth_type: shown.auth_type,
        cors: shown.cors,
        creation_time: shown.creation_time,
        function_arn: shown.function_arn,
        function_url: shown.function_url,
        invoke_mode: shown.invoke_mode,
        last_modified_time: shown.last_modified_time,
    })
}

pub(crate) async fn delete(
    cx: &Cx<'_>,
    input: DeleteFunctionUrlConfigRequest,
) -> Result<Nothing, ApiError> {
    let named = target(cx, &input.function_name, input.qualifier.as_deref())?;
    let qualifier = named.or_latest().to_owned();
    let change = move |_: &Function, details: &mut Details| {
        details.urls.remove(&qualifier).map(drop).ok_or_else(no_url)
    };
    cx.api.functions.edit(&named.name, change).await?;
    Ok(Nothing {})
}

pub(crate) async fn list(
    cx: &Cx<'_>,
    input: ListFunctionUrlConfigsRequest,
) -> Result<ListFunctionUrlConfigsResponse, ApiError> {
    let named = cx.named(&input.function_name, None)?;
    let function = cx.function(&named)?;
    let page = Page::read(input.marker.as_deref(), input.max_items, PAGE)?;
    let (configs, next_marker) = page.of(function.details.urls.iter());
    let item = |(qualifier, config): (&String, &UrlConfig)| {
        let alias = (qualifier != LATEST).then(|| qualifier.clone());
        shown(cx, &Named { name: named.name.clone(), qualifier: alias }, config)
    };
    let function_url_configs = configs.into_iter().map(item).collect();
    Ok(ListFunctionUrlConfigsResponse { function_url_configs, next_marker })
}
