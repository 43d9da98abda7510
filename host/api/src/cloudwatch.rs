//! CloudWatch for functions: their logs (JSON 1.1) and their metrics (JSON 1.0, or Smithy RPC v2
//! CBOR).

pub mod logs;
pub mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use serde_json::Value;

use crate::auth::{self, Who};
use crate::aws::generated::{cloudwatch, logs as model};
use crate::aws::shape::{Operation, Protocol, Service};
use crate::aws::{bind, cbor, render};
use crate::{Api, ApiError, Response, Surface};

/// What every operation gets besides its input.
pub(crate) struct Cx<'a> {
    pub(crate) api: &'a Arc<Api>,
}

/// CloudWatch as JSON clients see it.
pub(crate) static IN_JSON: Service = Service {
    name: "cloudwatch",
    protocol: Protocol::Json,
    target: cloudwatch::TARGET,
    namespace: "",
    version: "",
    operations: cloudwatch::OPERATIONS,
    shapes: cloudwatch::SHAPES,
    errors: cloudwatch::ERRORS,
};

/// Where CBOR clients send: `/service/NAME/operation/OPERATION`.
pub(crate) fn cbor_operation(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/service/GraniteServiceVersion20100801/operation/")?;
    (!rest.is_empty()).then_some(rest)
}

/// The surface and operation that `X-Amz-Target` names.
pub(crate) fn target_operation(target: &str) -> Option<(Surface, &str)> {
    let (prefix, operation) = target.split_once('.')?;
    let surface = match prefix {
        _ if prefix == model::TARGET => Surface::Logs,
        _ if prefix == cloudwatch::TARGET => Surface::CloudWatchJson,
        _ => return None,
    };
    Some((surface, operation))
}

fn known(service: &'static Service, name: &str) -> Result<&'static Operation, ApiError> {
    service.operation(name).ok_or_else(|| {
        let name: String = name.chars().take(100).collect();
        let message = format!("the operation {name} is not there");
        ApiError::aws(400, "UnknownOperationException", message)
    })
}

fn authorize(who: &Who, api: &Api, surface: Surface, action: &str) -> Result<(), ApiError> {
    let wambda_control::Identity { region, account } = &api.identity;
    let resource = format!("arn:aws:{}:{region}:{account}:*", surface.signing_name());
    auth::authorize(surface, who, action, &resource, None)
}

/// Answers a request to CloudWatch Logs.
pub(crate) async fn serve_logs(
    api: &Arc<Api>,
    name: &str,
    parts: &Parts,
    body: &[u8],
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let hash = auth::hash(api, parts, body);
    let who = auth::authenticate(api, Surface::Logs, parts, &hash, peer)?;
    let operation = known(&model::SERVICE, name)?;
    let sent = Value::Object(bind::object(body)?);
    let action = format!("logs:{}", operation.name);
    let wambda_control::Identity { region, account } = &api.identity;
    let resource = match logs::named_group(operation, &sent) {
        Some(group) => format!("arn:aws:logs:{region}:{account}:log-group:{group}:*"),
        None => format!("arn:aws:logs:{region}:{account}:*"),
    };
    auth::authorize(Surface::Logs, &who, &action, &resource, None)?;
    let op = operation.op.and_then(|at| model::Op::ALL.get(at)).copied();
    let op = op.ok_or_else(|| ApiError::internal("an operation without an arm"))?;
    logs::dispatch(&Cx { api }, op, operation, sent).await
}

/// Answers a request to CloudWatch.
pub(crate) async fn serve_metrics(
    api: &Arc<Api>,
    surface: Surface,
    name: &str,
    parts: &Parts,
    body: &[u8],
    peer: SocketAddr,
) -> Result<Response, ApiError> {
    let hash = auth::hash(api, parts, body);
    let who = auth::authenticate(api, surface, parts, &hash, peer)?;
    let operation = known(&cloudwatch::SERVICE, name)?;
    authorize(&who, api, surface, &format!("cloudwatch:{}", operation.name))?;
    let (service, sent) = match surface {
        Surface::CloudWatchJson => (&IN_JSON, Value::Object(bind::object(body)?)),
        _ => (&cloudwatch::SERVICE, cbor::decode(body)?),
    };
    let op = operation.op.and_then(|at| cloudwatch::Op::ALL.get(at)).copied();
    let op = op.ok_or_else(|| ApiError::internal("an operation without an arm"))?;
    let cx = Cx { api };
    match op {
        cloudwatch::Op::GetMetricData => {
            let input = bind::whole(service, operation, sent)?;
            render::respond(service, operation, &metrics::data(&cx, input)?)
        }
        cloudwatch::Op::GetMetricStatistics => {
            let input = bind::whole(service, operation, sent)?;
            render::respond(service, operation, &metrics::statistics(&cx, input)?)
        }
        cloudwatch::Op::ListMetrics => {
            let input = bind::whole(service, operation, sent)?;
            render::respond(service, operation, &metrics::list(&cx, input))
        }
    }
}
