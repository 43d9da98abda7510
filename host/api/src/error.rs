//! What goes wrong, turned into HTTP once: one table from meanings to statuses and codes, and a
//! shape for each surface.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderName, StatusCode};
use serde_json::json;
use wambda_control::PublishError;
use wambda_model::config::InvalidConfig;
use wambda_model::{BuildError, InvokeError, RequestId, ThrottleReason, body};
use wambda_store::StoreError;

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
}

impl ApiError {
    fn new(
        status: StatusCode,
        code: &'static str,
        aws: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let message = message.into();
        Self { status, code, aws, message, retry_after: None, reason: None, allow: None }
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

    /// In the shape of a surface.
    #[must_use]
    pub fn respond(self, surface: Surface) -> Response {
        let text = match surface {
            Surface::Native | Surface::System => {
                json!({"error": {"code": self.code, "message": self.message}})
            }
            Surface::Lambda => {
                let who = if self.status.is_server_error() { "Service" } else { "User" };
                let mut shape =
                    json!({"Type": who, "Message": self.message, "message": self.message});
                if let (Some(reason), Some(shape)) = (self.reason, shape.as_object_mut()) {
                    shape.insert("Reason".to_owned(), reason.into());
                }
                shape
            }
            Surface::Url => json!({"Message": self.message}),
        };
        let mut response = Response::new(body::full(text.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if surface == Surface::Lambda || surface == Surface::Url {
            headers.insert(ERROR_TYPE, HeaderValue::from_static(self.aws));
            reply::put_id(headers, reply::AWS_REQUEST_ID, RequestId::random());
        }
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, after.as_secs().max(1).into());
        }
        if let Some(allow) = self.allow {
            headers.insert(http::header::ALLOW, HeaderValue::from_static(allow));
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
            InvokeError::Throttled { reason, retry_after, .. } => {
                let (status, aws) = (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException");
                let reason = match reason {
                    ThrottleReason::Concurrency => {
                        "ReservedFunctionConcurrentInvocationLimitExceeded"
                    }
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
        Self::internal(&error.to_string())
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Config(error) => error.into(),
            PublishError::Store(error) => error.into(),
            PublishError::Build(BuildError::Invalid(why)) => Self::invalid("InvalidUpload", why),
            PublishError::Build(BuildError::TooLarge(why)) => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                Self::new(status, "UploadTooLarge", "RequestTooLargeException", why)
            }
            PublishError::Build(BuildError::Busy(why)) => Self::busy(why),
            PublishError::Build(BuildError::Internal(why)) => Self::internal(&why),
        }
    }
}
