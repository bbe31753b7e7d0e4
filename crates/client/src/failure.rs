//! What an error from the API server means to the one who called.

use kube::Error;

/// Questions about an error that came back from a request.
pub trait ApiFailure {
    /// The HTTP code of the server's answer, if it answered.
    fn code(&self) -> Option<u16>;
    /// The machine-readable reason of the server's answer.
    fn reason(&self) -> &str;
    /// Whether the answer names this cause (`details.causes[].reason`).
    fn has_cause(&self, cause: &str) -> bool;
}

impl ApiFailure for Error {
    fn code(&self) -> Option<u16> {
        match self {
            Error::Api(status) => Some(status.code),
            _ => None,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Error::Api(status) => &status.reason,
            _ => "",
        }
    }

    fn has_cause(&self, cause: &str) -> bool {
        match self {
            Error::Api(status) => status
                .details
                .iter()
                .flat_map(|details| &details.causes)
                .any(|found| found.reason == cause),
            _ => false,
        }
    }
}

/// 404: the object is not there.
#[must_use]
pub fn is_not_found(error: &Error) -> bool {
    error.code() == Some(404)
}

/// 409 because someone else changed the object in between.
#[must_use]
pub fn is_conflict(error: &Error) -> bool {
    error.code() == Some(409) && error.reason() != "AlreadyExists"
}

/// 409 because the name is taken.
#[must_use]
pub fn is_already_exists(error: &Error) -> bool {
    error.code() == Some(409) && error.reason() == "AlreadyExists"
}

/// 410: the resource version asked for is no longer known.
#[must_use]
pub fn is_gone(error: &Error) -> bool {
    error.code() == Some(410)
}

/// The message of the server's answer, or the error itself where there was none.
#[must_use]
pub fn message(error: &Error) -> String {
    match error {
        Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
