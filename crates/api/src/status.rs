//! The one place where API errors are made: `Status` values with upstream's codes, reasons and messages.

use serde_json::{Value, json};

use crate::field::FieldError;

/// An error that goes to the client as a `Status` object.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, for example `NotFound`.
    pub reason: &'static str,
    /// The message for people.
    pub message: String,
    /// `details`, without which clients cannot tell what the error is about.
    pub details: Option<Value>,
    /// The whole `Status`, where somebody else made it: a webhook that refused.
    pub given: Option<Box<Value>>,
}

/// The result of an API operation.
pub type ApiResult<T> = Result<T, ApiError>;

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// `pods`, `deployments.apps`: a resource with its group as messages name it.
#[must_use]
pub fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut details = serde_json::Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details.insert(key.into(), value.into());
        }
    }
    Value::Object(details)
}

impl ApiError {
    /// Any error without details.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            given: None,
        }
    }

    /// 400 with a message.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 404: the object does not exist. `resource` is the plural.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self {
            details: Some(details(name, group, resource)),
            ..Self::new(
                404,
                "NotFound",
                format!("{} {name:?} not found", qualified(resource, group)),
            )
        }
    }

    /// 404: the path means nothing to this server.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self {
            details: Some(json!({})),
            ..Self::new(
                404,
                "NotFound",
                "the server could not find the requested resource",
            )
        }
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self {
            details: Some(details(name, group, resource)),
            ..Self::new(
                409,
                "AlreadyExists",
                format!("{} {name:?} already exists", qualified(resource, group)),
            )
        }
    }

    /// 409: someone else changed the object, or a precondition failed; `why` follows the fixed beginning.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self {
            details: Some(details(name, group, resource)),
            ..Self::new(
                409,
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {} {name:?}: {why}",
                    qualified(resource, group)
                ),
            )
        }
    }

    /// 403 with upstream's beginning; `why` follows it.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(resource, group);
        let message = match (what.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{what} is forbidden: {why}"),
            (false, false) => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self {
            details: Some(details(name, group, resource)),
            ..Self::new(403, "Forbidden", message)
        }
    }

    /// 422 with a cause per error, as upstream's `NewInvalid`. `kind` is the kind, not the resource.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut details = details(name, group, kind);
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({"reason": error.kind.reason(), "message": error.body, "field": error.path.to_string()}))
            .collect();
        details["causes"] = Value::Array(causes);
        // Upstream aggregates: equal messages once, one without brackets, several in brackets.
        let mut messages: Vec<String> = Vec::new();
        for error in errors {
            let message = error.to_string();
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        let list = match messages.as_slice() {
            [] => "<nil>".to_owned(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Self {
            details: Some(details),
            ..Self::new(
                422,
                "Invalid",
                format!("{} {name:?} is invalid: {list}", qualified(kind, group)),
            )
        }
    }

    /// 405.
    #[must_use]
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let message = format!(
            "{action} is not supported on resources of kind {:?}",
            qualified(resource, group)
        );
        Self {
            details: Some(details("", group, resource)),
            ..Self::new(405, "MethodNotAllowed", message)
        }
    }

    /// 410: the resource version is too old.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 500; the message says what happened, never a secret.
    #[must_use]
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self {
            details: Some(json!({"causes": [{"message": message.to_string()}]})),
            ..Self::new(
                500,
                "InternalError",
                format!("Internal error occurred: {message}"),
            )
        }
    }

    /// The `Status` object for the wire.
    #[must_use]
    pub fn to_status(&self) -> Value {
        if let Some(given) = &self.given {
            return (**given).clone();
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if self.reason.is_empty() {
            status.as_object_mut().map(|status| status.remove("reason"));
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}
