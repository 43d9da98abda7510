//! What goes wrong, turned into HTTP once: one table from meanings to statuses and codes, and a
//! shape for each surface.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderName, StatusCode};
use serde_json::json;
use wambda_control::{Missing, PublishError};
use wambda_model::config::InvalidConfig;
use wambda_model::error::cut;
use wambda_model::limits::MESSAGE_BYTES_MAX;
use wambda_model::{BuildError, InvokeError, RequestId, ThrottleReason, body};
use wambda_store::{StoreError, damage};

use crate::aws::generated::lambda;
use crate::aws::shape::{Protocol, Service};
use crate::aws::{cbor, render, xml};
use crate::{Response, Surface, reply};

/// An error that is on its way to a caller.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    /// Wambda's code, for people and scripts.
    code: &'static str,
    /// AWS's code for the same meaning.
    aws: &'static str,
    message: String,
    retry_after: Option<Duration>,
    /// AWS's `Reason` of a throttle.
    reason: Option<&'static str>,
    allow: Option<&'static str>,
    /// Whether the connection ends with the answer.
    closes: bool,
}

impl ApiError {
    fn new(
        status: StatusCode,
        code: &'static str,
        aws: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let message = message.into();
        let message = cut(&message, MESSAGE_BYTES_MAX).unwrap_or(message);
        Self {
            status,
            code,
            aws,
            message,
            retry_after: None,
            reason: None,
            allow: None,
            closes: false,
        }
    }

    /// The same, and the connection ends with it: what follows on it cannot be trusted.
    pub fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// An error by AWS's code, with a status.
    pub fn aws(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        Self::new(status, code, code, message)
    }

    /// An error of a service, with the status that the service's model says.
    pub fn of(service: &Service, code: &'static str, message: impl Into<String>) -> Self {
        Self::aws(service.status_of(code), code, message)
    }

    /// An error of Lambda.
    pub fn lambda(code: &'static str, message: impl Into<String>) -> Self {
        Self::of(&lambda::SERVICE, code, message)
    }

    /// Lambda's error for a bad value.
    pub fn value(message: impl Into<String>) -> Self {
        Self::invalid("InvalidParameterValueException", message)
    }

    /// A bad request of any sort.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, "InvalidParameterValueException", message)
    }

    /// A bad request whose body is at fault.
    pub fn invalid_content(message: impl Into<String>) -> Self {
        let (status, aws) = (StatusCode::BAD_REQUEST, "InvalidRequestContentException");
        Self::new(status, "InvalidRequest", aws, message)
    }

    /// No such function.
    pub fn no_function(name: impl std::fmt::Display) -> Self {
        let message = format!("Function not found: {name}");
        Self::new(StatusCode::NOT_FOUND, "FunctionNotFound", "ResourceNotFoundException", message)
    }

    /// A request that a page of another site may have sent.
    pub fn cross_site(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "CrossSite", "AccessDeniedException", message)
    }

    /// No such route.
    pub fn no_route(path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        let message = format!("there is nothing at {path:?}");
        Self::new(StatusCode::NOT_FOUND, "NotFound", "UnknownOperationException", message)
    }

    /// The route does not take this method.
    pub fn no_method(method: &http::Method, allow: &'static str) -> Self {
        let message = format!("this takes {allow}, not {method}");
        let (status, code) = (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed");
        Self { allow: Some(allow), ..Self::new(status, code, "UnknownOperationException", message) }
    }

    /// A body beyond its limit.
    pub fn too_large(limit: u64, size: u64) -> Self {
        let message = format!("Request must be smaller than {limit} bytes, got {size}");
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "PayloadTooLarge", "RequestTooLargeException", message)
    }

    /// Headers beyond their limit.
    pub fn head_too_large(limit: usize, size: usize) -> Self {
        let message = format!("the headers must be smaller than {limit} bytes, got {size}");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "HeadersTooLarge", "InvalidParameterValueException", message)
    }

    /// Too much at once, for the server.
    pub fn busy(message: impl Into<String>) -> Self {
        let (status, aws) = (StatusCode::SERVICE_UNAVAILABLE, "ServiceException");
        let retry_after = Some(Duration::from_secs(5));
        Self { retry_after, ..Self::new(status, "Busy", aws, message) }
    }

    /// More requests than a caller may send a second.
    pub fn too_many(per_second: u32, retry_after: Duration) -> Self {
        let message = format!("Rate exceeded: {per_second} requests a second are allowed");
        Self { retry_after: Some(retry_after), ..Self::too_much(message) }
    }

    /// Too much at once, for one caller.
    pub fn too_much(message: impl Into<String>) -> Self {
        let (status, aws) = (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException");
        let (retry_after, reason) = (Some(Duration::from_secs(5)), Some("CallerRateLimitExceeded"));
        Self { retry_after, reason, ..Self::new(status, "TooManyRequests", aws, message) }
    }

    /// A body that does not arrive.
    pub fn slow_body(message: impl Into<String>) -> Self {
        let status = StatusCode::REQUEST_TIMEOUT;
        Self::new(status, "RequestTimeout", "InvalidRequestContentException", message)
    }

    /// What is not built yet; said plainly.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        let status = StatusCode::NOT_IMPLEMENTED;
        Self::new(status, "NotImplemented", "UnsupportedOperationException", message)
    }

    /// A fault of the platform. The detail goes to the log, not to the caller.
    pub fn internal(detail: &str) -> Self {
        tracing::error!(detail, "internal error");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(
            status,
            "Internal",
            "ServiceException",
            "internal error; the server's log has the details",
        )
    }

    /// There is no room on the server's disk (RFC 4918, 507; Lambda has no code for it but its own fault's).
    pub fn disk_full(detail: &str) -> Self {
        tracing::error!(detail, "the disk is full");
        damage::note_full();
        let retry_after = Some(Duration::from_secs(5));
        Self {
            retry_after,
            ..Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                "ServiceException",
                "the server's disk is full; nothing was changed",
            )
        }
    }

    /// Something of the native API that is not there.
    pub fn nothing(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, "ResourceNotFoundException", message)
    }

    /// A queue that holds what it may.
    pub fn queue_full(message: impl Into<String>) -> Self {
        let (status, aws) = (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException");
        let retry_after = Some(Duration::from_secs(5));
        Self { retry_after, ..Self::new(status, "QueueFull", aws, message) }
    }

    /// What is wrong, for the caller.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// AWS's code.
    #[must_use]
    pub fn aws_code(&self) -> &'static str {
        self.aws
    }

    /// Under another code of AWS, as services name the same meaning differently.
    #[must_use]
    pub fn named(self, status: u16, aws: &'static str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(self.status);
        Self { status, aws, code: aws, ..self }
    }

    fn rest_json(&self) -> String {
        let who = if self.status.is_server_error() { "Service" } else { "User" };
        let mut shape = json!({"Type": who, "Message": self.message, "message": self.message});
        if let (Some(reason), Some(shape)) = (self.reason, shape.as_object_mut()) {
            shape.insert("Reason".to_owned(), reason.into());
        }
        shape.to_string()
    }

    /// In the shape of a surface.
    #[must_use]
    pub fn respond(self, surface: Surface) -> Response {
        let id = RequestId::random();
        let (content, kind): (bytes::Bytes, _) =
            match surface.service().map(|service| (service, service.protocol)) {
                Some((_, Protocol::RestJson)) => (self.rest_json().into(), reply::JSON),
                Some((_, Protocol::Json)) => {
                    let shape = json!({"__type": self.aws, "message": self.message});
                    (shape.to_string().into(), render::JSON_1_1)
                }
                Some((service, Protocol::Query)) => {
                    let sender = self.status.is_client_error();
                    let text = xml::error(service.namespace, sender, self.aws, &self.message, id);
                    (text.into(), render::XML)
                }
                Some((_, Protocol::Cbor)) => (cbor::error(self.aws, &self.message), cbor::CBOR),
                None if surface == Surface::Url => {
                    (json!({"Message": self.message}).to_string().into(), reply::JSON)
                }
                None => {
                    let shape = json!({"error": {"code": self.code, "message": self.message}});
                    (shape.to_string().into(), reply::JSON)
                }
            };
        let mut response = Response::new(body::full(content));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, kind);
        if surface.is_aws() {
            headers.insert(ERROR_TYPE, HeaderValue::from_static(self.aws));
            reply::put_id(headers, reply::AWS_REQUEST_ID, id);
        }
        if surface == Surface::CloudWatch {
            headers.insert(cbor::SMITHY_PROTOCOL, cbor::RPC_V2);
        }
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, after.as_secs().max(1).into());
        }
        if let Some(allow) = self.allow {
            headers.insert(http::header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.closes {
            headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// AWS's header for an error's code.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

impl From<InvokeError> for ApiError {
    fn from(error: InvokeError) -> Self {
        let message = error.to_string();
        match error {
            InvokeError::Throttled { reason, reserved, retry_after, .. } => {
                let (status, aws) = (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException");
                let reason = match reason {
                    ThrottleReason::Concurrency => {
                        "ReservedFunctionConcurrentInvocationLimitExceeded"
                    }
                    _ if reserved => "ReservedFunctionConcurrentInvocationLimitExceeded",
                    _ => "ConcurrentInvocationLimitExceeded",
                };
                Self {
                    retry_after: Some(retry_after),
                    reason: Some(reason),
                    ..Self::new(status, "TooManyRequests", aws, message)
                }
            }
            InvokeError::PayloadTooLarge { limit, size } => Self::too_large(limit, size),
            InvokeError::InvalidRequest(_) => Self::invalid_content(message),
            InvokeError::Unavailable(_) => {
                let (status, aws) = (StatusCode::SERVICE_UNAVAILABLE, "ServiceException");
                let retry_after = Some(Duration::from_secs(1));
                Self { retry_after, ..Self::new(status, "Unavailable", aws, message) }
            }
            InvokeError::Expired => {
                let status = StatusCode::GATEWAY_TIMEOUT;
                Self::new(status, "CallerTimedOut", "ServiceException", message)
            }
            InvokeError::Internal(detail) => Self::internal(&detail),
        }
    }
}

impl From<InvalidConfig> for ApiError {
    fn from(error: InvalidConfig) -> Self {
        Self::invalid("InvalidConfig", error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(detail) => Self::disk_full(&detail),
            error => Self::internal(&error.to_string()),
        }
    }
}

impl From<Missing> for ApiError {
    fn from(_: Missing) -> Self {
        PublishError::Missing.into()
    }
}

impl From<BuildError> for ApiError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Invalid(why) => Self::invalid("InvalidUpload", why),
            BuildError::TooLarge(why) => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                Self::new(status, "UploadTooLarge", "RequestEntityTooLargeException", why)
            }
            BuildError::Busy(why) => Self::busy(why),
            BuildError::Full(why) => Self::disk_full(&why),
            BuildError::Internal(why) => Self::internal(&why),
        }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        let message = error.to_string();
        match error {
            PublishError::Config(error) => error.into(),
            PublishError::Store(error) => error.into(),
            PublishError::Build(error) => error.into(),
            PublishError::Exists => Self::lambda("ResourceConflictException", message),
            PublishError::Missing => Self::lambda("ResourceNotFoundException", message),
            PublishError::InProgress => Self::lambda(
                "ResourceConflictException",
                "The operation cannot be performed at this time. An update is in progress.",
            ),
            PublishError::Stale => Self::stale(),
            PublishError::Concurrency(_) => Self::invalid("InvalidConfig", message),
            PublishError::Limit(_) => Self::lambda("CodeStorageExceededException", message),
        }
    }
}

impl ApiError {
    /// A revision that is not the latest.
    #[must_use]
    pub fn stale() -> Self {
        Self::lambda(
            "PreconditionFailedException",
            "The Revision Id provided does not match the latest Revision Id. Call the \
             GetFunction/GetAlias API to retrieve the latest Revision Id",
        )
    }
}
