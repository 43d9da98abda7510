//! AWS Lambda's API (2015-03-31 and the dated paths beside it): routes from the generated tables, one
//! module a group of operations. Names, states and messages are AWS's.

pub mod aliases;
pub mod concurrency;
pub mod events;
pub mod functions;
pub mod invoke;
pub mod layers;
pub mod mappings;
pub mod permissions;
pub mod settings;
pub mod shape;
pub mod stream;
pub mod tags;
pub mod update;
pub mod urls;
pub mod versions;

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::request::Parts;
use matchit::Router;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wambda_control::Identity;
use wambda_model::{Function, FunctionName};

use crate::auth::{self, Who};
use crate::aws::generated::lambda::{OPERATIONS, Op, SERVICE};
use crate::aws::shape::Operation;
use crate::aws::{Nothing, bind, render};
use crate::name::{self, Named};
use crate::offload::Turn;
use crate::{Api, ApiError, Request, Response, Surface};

/// Bytes of a request that carries code (recorded from AWS).
pub(crate) const REQUEST_BYTES_MAX: u64 = 70_167_211;

/// What every operation gets besides its input.
pub(crate) struct Cx<'a> {
    pub(crate) api: &'a Arc<Api>,
    pub(crate) who: &'a Who,
    /// `Host`, for URLs in answers.
    pub(crate) host: &'a str,
}

impl Cx<'_> {
    pub(crate) fn identity(&self) -> &Identity {
        &self.api.identity
    }

    /// Reads a function's name.
    pub(crate) fn named(&self, text: &str, beside: Option<&str>) -> Result<Named, ApiError> {
        name::read(self.identity(), text, beside)
    }

    /// The function of that name, or Lambda's 404 for what was asked for.
    pub(crate) fn function(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        let found = self.api.catalog.get(&named.name);
        found.ok_or_else(|| ApiError::no_function(named.qualified_arn(self.identity())))
    }

    /// The function, whose qualifier means something.
    pub(crate) fn qualified(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        let function = self.function(named)?;
        if function.resolve(named.or_latest(), || 1.0).is_none() {
            return Err(ApiError::no_function(named.qualified_arn(self.identity())));
        }
        Ok(function)
    }

    pub(crate) fn arn(&self, name: &FunctionName) -> String {
        name::function_arn(self.identity(), name)
    }

    pub(crate) fn authorize(&self, action: &str, resource: &str) -> Result<(), ApiError> {
        auth::authorize(Surface::Lambda, self.who, action, resource, None)
    }
}

type Operations = Vec<&'static Operation>;

/// Operations by path; labels are named by their position, since one place has several names.
static ROUTES: LazyLock<Router<Operations>> = LazyLock::new(|| {
    let mut paths: Vec<(String, Operations)> = Vec::new();
    for operation in OPERATIONS {
        let path = operation.uri.split('?').next().unwrap_or_default().trim_end_matches('/');
        let mut at = 0;
        let segments = path.split('/').map(|segment| {
            if !segment.starts_with('{') {
                return segment.to_owned();
            }
            at += 1;
            format!("{{p{at}}}")
        });
        let path = segments.collect::<Vec<_>>().join("/");
        match paths.iter_mut().find(|(known, _)| *known == path) {
            // Those with a query are told by it, and come first.
            Some((_, all)) if operation.uri.contains('?') => all.insert(0, operation),
            Some((_, all)) => all.push(operation),
            None => paths.push((path, vec![operation])),
        }
    }
    let mut router = Router::new();
    for (path, operations) in paths {
        if let Err(conflict) = router.insert(&path, operations) {
            tracing::error!(path, %conflict, "route not taken");
        }
    }
    router
});

/// Names of the members in an operation's path, in order.
fn labels(operation: &Operation) -> impl Iterator<Item = &'static str> {
    operation.uri.split(['{', '}']).skip(1).step_by(2)
}

/// Answers a request to a dated path.
pub(crate) async fn serve(
    api: &Arc<Api>,
    request: Request,
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let path = request.uri().path().to_owned();
    let plain = path.trim_end_matches('/');
    let Ok(matched) = ROUTES.at(plain) else { return Err(ApiError::no_route(&path)) };
    let query = request.uri().query().unwrap_or_default();
    let operation = matched.value.iter().find(|operation| {
        let wanted = operation.uri.split_once('?').map(|(_, query)| query);
        operation.method == request.method().as_str()
            && wanted.is_none_or(|wanted| query.split('&').any(|pair| pair == wanted))
    });
    let Some(operation) = operation.copied() else {
        return Err(ApiError::no_method(request.method(), "the methods of Lambda's API"));
    };
    let values = matched.params.iter().map(|(_, value)| value);
    let labels: Vec<(&str, String)> = labels(operation).zip(values.map(str::to_owned)).collect();
    let op = operation.op.and_then(|at| Op::ALL.get(at)).copied();
    let Some(op) = op else {
        let message = format!("Wambda does not have the operation {} (yet)", operation.name);
        return Err(ApiError::not_implemented(message));
    };
    let first = labels.first().map(|(_, value)| value.as_str()).unwrap_or_default();
    match op {
        Op::Invoke => return invoke::invoke(api, first, request, peer).await,
        Op::InvokeWithResponseStream => return stream::invoke(api, first, request, peer).await,
        _ => {}
    }
    let (parts, incoming) = request.into_parts();
    let incoming = (incoming, REQUEST_BYTES_MAX);
    let received = auth::receive(api, Surface::Lambda, &parts, incoming, peer).await;
    let (whole, who) = received.map_err(|error| match error.aws_code() {
        "RequestTooLargeException" => {
            let name = operation.name;
            let message = format!(
                "Request must be smaller than {REQUEST_BYTES_MAX} bytes for the {name} operation"
            );
            ApiError::aws(413, "RequestEntityTooLargeException", message)
        }
        _ => error,
    })?;
    let all = Arc::clone(api);
    // What it reads and what it answers may be large.
    let operate = async move {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, of)| (*name, &**of)).collect();
        let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let cx = Cx { api: &all, who: &who, host: host.unwrap_or("localhost") };
        let reading = all.offload.reading(peer, whole.bytes.len()).await;
        authorize(&cx, operation, &labels, &parts, &whole.bytes)?;
        // Its part of the memory is kept until the operation is over; what was read into is not.
        let (body, _share) = whole.apart();
        let mut call = Call { operation, labels: &labels, parts: &parts, body, reading };
        dispatch(&cx, op, &mut call).await
    };
    api.offload.run(operate).await?
}

/// Whether the caller may do this to what the path names. Creating a function names it in the body,
/// and is looked at there.
fn authorize(
    cx: &Cx<'_>,
    operation: &Operation,
    labels: &[(&str, &str)],
    parts: &Parts,
    body: &[u8],
) -> Result<(), ApiError> {
    if cx.who.trusted || operation.name == "CreateFunction" {
        return Ok(());
    }
    let decode =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let Identity { region, account } = cx.identity();
    let members = operation.input.map_or(&[][..], |at| SERVICE.shape(at).members);
    let query = |name: &str| {
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let mut pairs = pairs.filter(|(key, _)| key == name);
        pairs.next().map(|(_, value)| value.into_owned())
    };
    let resource = match labels.first() {
        // An operation without a qualifier is about the function, whatever the client names.
        Some(("FunctionName", text)) if members.iter().any(|m| m.wire == "Qualifier") => {
            cx.named(&decode(text), query("Qualifier").as_deref())?.qualified_arn(cx.identity())
        }
        Some(("FunctionName", text)) => cx.named(&decode(text), None)?.arn(cx.identity()),
        Some(("Resource", arn)) => decode(arn),
        Some(("LayerName", layer)) => {
            let layer = match decode(layer) {
                arn if arn.starts_with("arn:") => arn,
                layer => format!("arn:aws:lambda:{region}:{account}:layer:{layer}"),
            };
            match labels.get(1) {
                // As it is read later: `01` is version 1.
                Some(("VersionNumber", number)) => {
                    let number = decode(number).parse().unwrap_or(0i64);
                    format!("{layer}:{number}")
                }
                _ => layer,
            }
        }
        Some(("UUID", id)) => {
            format!("arn:aws:lambda:{region}:{account}:event-source-mapping:{}", decode(id))
        }
        _ if operation.name == "GetLayerVersionByArn" => query("Arn").unwrap_or_default(),
        _ => format!("arn:aws:lambda:{region}:{account}:*"),
    };
    let action = match operation.name {
        // The same permission, however the layer is named.
        "GetLayerVersionByArn" => "GetLayerVersion",
        name => name,
    };
    let facts = facts_of(operation, body);
    let action = format!("lambda:{action}");
    auth::authorize_with(Surface::Lambda, cx.who, &action, &resource, (None, facts))
}

/// What a request says about who may call a function, for Lambda's condition keys.
fn facts_of(operation: &Operation, body: &[u8]) -> Vec<(String, wambda_policy::Value)> {
    const AUTH: &str = "lambda:FunctionUrlAuthType";
    let told: &[(&str, &str)] = match operation.name {
        "CreateFunctionUrlConfig" | "UpdateFunctionUrlConfig" => &[(AUTH, "AuthType")],
        "AddPermission" => &[(AUTH, "FunctionUrlAuthType"), ("lambda:Principal", "Principal")],
        _ => return Vec::new(),
    };
    let sent = bind::object(body).unwrap_or_default();
    let value = |member: &str| sent.get(member).and_then(|value| value.as_str());
    told.iter().filter_map(|(key, member)| Some(auth::fact(key, value(member)?))).collect()
}

/// A request to an operation, as it came.
struct Call<'a> {
    operation: &'static Operation,
    labels: &'a [(&'a str, &'a str)],
    parts: &'a Parts,
    body: Bytes,
    /// The turn of a large body.
    reading: Option<Turn>,
}

impl Call<'_> {
    /// What it says. The body is let go of.
    fn input<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let _turn = self.reading.take();
        let body = std::mem::take(&mut self.body);
        bind::rest(&SERVICE, self.operation, self.labels, self.parts, body)
    }

    fn answer(&self, output: &impl Serialize) -> Result<Response, ApiError> {
        render::respond(&SERVICE, self.operation, output)
    }
}

async fn dispatch(cx: &Cx<'_>, op: Op, call: &mut Call<'_>) -> Result<Response, ApiError> {
    macro_rules! run {
        ($operation:path) => {{
            let input = call.input()?;
            call.answer(&$operation(cx, input).await?)
        }};
    }
    match op {
        Op::AddLayerVersionPermission => run!(layers::add_permission),
        Op::AddPermission => run!(permissions::add),
        Op::CreateAlias => run!(aliases::create),
        Op::CreateEventSourceMapping => run!(mappings::create),
        Op::CreateFunction => run!(functions::create),
        Op::CreateFunctionUrlConfig => run!(urls::create),
        Op::DeleteAlias => run!(aliases::delete),
        Op::DeleteEventSourceMapping => run!(mappings::delete),
        Op::DeleteFunction => run!(functions::delete),
        Op::DeleteFunctionConcurrency => run!(concurrency::delete),
        Op::DeleteFunctionEventInvokeConfig => run!(events::delete),
        Op::DeleteFunctionUrlConfig => run!(urls::delete),
        Op::DeleteLayerVersion => run!(layers::delete),
        Op::DeleteProvisionedConcurrencyConfig => run!(concurrency::delete_provisioned),
        Op::GetAccountSettings => run!(settings::account),
        Op::GetAlias => run!(aliases::get),
        Op::GetEventSourceMapping => run!(mappings::get),
        Op::GetFunction => run!(functions::get),
        Op::GetFunctionCodeSigningConfig => run!(settings::code_signing),
        Op::GetFunctionConcurrency => run!(concurrency::get),
        Op::GetFunctionConfiguration => run!(functions::get_configuration),
        Op::GetFunctionEventInvokeConfig => run!(events::get),
        Op::GetFunctionRecursionConfig => run!(settings::get_recursion),
        Op::GetFunctionUrlConfig => run!(urls::get),
        Op::GetLayerVersion => run!(layers::get),
        Op::GetLayerVersionByArn => run!(layers::get_by_arn),
        Op::GetLayerVersionPolicy => run!(layers::get_policy),
        Op::GetPolicy => run!(permissions::get),
        Op::GetProvisionedConcurrencyConfig => run!(concurrency::get_provisioned),
        Op::GetRuntimeManagementConfig => run!(settings::get_runtime),
        Op::ListAliases => run!(aliases::list),
        Op::ListEventSourceMappings => run!(mappings::list),
        Op::ListFunctionEventInvokeConfigs => run!(events::list),
        Op::ListFunctionUrlConfigs => run!(urls::list),
        Op::ListFunctions => run!(functions::list),
        Op::ListLayerVersions => run!(layers::list_versions),
        Op::ListLayers => run!(layers::list),
        Op::ListProvisionedConcurrencyConfigs => run!(concurrency::list_provisioned),
        Op::ListTags => run!(tags::list),
        Op::ListVersionsByFunction => run!(versions::list),
        Op::PublishLayerVersion => run!(layers::publish),
        Op::PublishVersion => run!(versions::publish),
        Op::PutFunctionConcurrency => run!(concurrency::put),
        Op::PutFunctionEventInvokeConfig => run!(events::put),
        Op::PutFunctionRecursionConfig => run!(settings::put_recursion),
        Op::PutProvisionedConcurrencyConfig => run!(concurrency::put_provisioned),
        Op::PutRuntimeManagementConfig => run!(settings::put_runtime),
        Op::RemoveLayerVersionPermission => run!(layers::remove_permission),
        Op::RemovePermission => run!(permissions::remove),
        Op::TagResource => run!(tags::tag),
        Op::UntagResource => run!(tags::untag),
        Op::UpdateAlias => run!(aliases::update),
        Op::UpdateEventSourceMapping => run!(mappings::update),
        Op::UpdateFunctionCode => run!(update::code),
        Op::UpdateFunctionConfiguration => run!(update::configuration),
        Op::UpdateFunctionEventInvokeConfig => run!(events::update),
        Op::UpdateFunctionUrlConfig => run!(urls::update),
        Op::Invoke | Op::InvokeWithResponseStream => {
            Err(ApiError::internal("invoked by another way"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_route() {
        assert_eq!(OPERATIONS.len(), 91);
        for operation in OPERATIONS {
            let path = operation.uri.split('?').next().unwrap().trim_end_matches('/');
            let path = path.replace(['{', '}'], "");
            let matched = ROUTES.at(&path).unwrap_or_else(|_| panic!("{path}"));
            assert!(matched.value.iter().any(|found| found.name == operation.name), "{path}");
            assert_eq!(labels(operation).count(), matched.params.len(), "{path}");
        }
    }
}
