//! What an answer means, and what is said of failures: in upstream's words, with no more of a failure's body than
//! upstream shows.

use std::error::Error as _;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use serde::Deserialize;

/// So much of a failure's body is shown at most.
const SHOWN: usize = 2048;

/// Why a webhook could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There was no answer.
    #[error("{0}")]
    Transport(String),
    /// The answer did not come in time.
    #[error("{0}")]
    Timeout(String),
    /// The answer was a failure.
    #[error("{message}")]
    Status {
        /// The HTTP code.
        code: u16,
        /// What the webhook, or its code, says.
        message: String,
        /// Whether the answer named a time to wait for.
        retry_after: bool,
    },
    /// The answer cannot be read.
    #[error("{0}")]
    Undecodable(String),
}

impl CallError {
    /// Whether it may go better soon: what authentication and authorization webhooks are asked again after.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport(text) => text.contains("connection reset"),
            Self::Timeout(_) | Self::Undecodable(_) => false,
            Self::Status {
                code, retry_after, ..
            } => *retry_after || matches!(code, 429 | 500 | 504),
        }
    }

    pub(crate) fn timeout() -> Self {
        Self::Timeout("context deadline exceeded".to_owned())
    }

    /// What was tried, in front of what went wrong on the way.
    pub(super) fn on(self, method: &str, url: &str) -> Self {
        match self {
            Self::Transport(text) => Self::Transport(format!("{method} {url:?}: {text}")),
            Self::Timeout(text) => Self::Timeout(format!("{method} {url:?}: {text}")),
            other => other,
        }
    }

    pub(super) fn transport(error: &hyper_util::client::legacy::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            text = inner.to_string();
            if inner.is::<super::connector::ConnectError>() {
                break;
            }
            if inner
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_incomplete_message)
            {
                text = "EOF".to_owned();
                break;
            }
            source = inner.source();
        }
        Self::Transport(text)
    }
}

/// Whether a connection that had been idle turned out to be closed.
pub(super) fn was_closed(error: &hyper_util::client::legacy::Error) -> bool {
    let inner = error
        .source()
        .and_then(|source| source.downcast_ref::<hyper::Error>());
    !error.is_connect()
        && inner.is_some_and(|error| {
            error.is_incomplete_message() || error.is_closed() || error.is_canceled()
        })
}

#[derive(Deserialize)]
struct Status {
    kind: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
}

/// The body of a success; a failure otherwise. A redirect is a failure.
pub(super) fn judge(parts: &http::response::Parts, body: Bytes) -> Result<Bytes, CallError> {
    let code = parts.status.as_u16();
    let status = || {
        serde_json::from_slice::<Status>(&body)
            .ok()
            .filter(|status| status.kind == "Status")
    };
    if (200..=206).contains(&code) {
        return Ok(body);
    }
    let media = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let message =
        match status().filter(|status| status.status != "Success" && !status.message.is_empty()) {
            Some(status) => cut(&status.message).to_owned(),
            None => generic(code, &said(media, &body)),
        };
    Err(CallError::Status {
        code,
        message,
        retry_after: parts.headers.contains_key(http::header::RETRY_AFTER),
    })
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What the body says, where it is text.
fn said(media: &str, body: &[u8]) -> String {
    if !(media.is_empty() || media.trim_start().starts_with("text/")) {
        return "unknown".to_owned();
    }
    let shown = body.get(..SHOWN).unwrap_or(body);
    String::from_utf8_lossy(shown).trim().to_owned()
}

fn generic(code: u16, said: &str) -> String {
    match code {
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        403 | 415 => said,
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        406 if said.is_empty() || said == "unknown" => {
            "the server was unable to respond with a content type that the client supports"
        }
        406 => said,
        409 => "the server reported a conflict",
        422 => "the server rejected our request due to an error in our request",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
        }
        500.. => return format!("an error on the server ({said:?}) has prevented the request from succeeding"),
        _ => return format!("the server responded with the status code {code} but did not return more information"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: u16, media: &str, body: &str) -> Result<Bytes, CallError> {
        let response = http::Response::builder()
            .status(code)
            .header(CONTENT_TYPE, media)
            .body(())
            .unwrap();
        judge(
            &response.into_parts().0,
            Bytes::copy_from_slice(body.as_bytes()),
        )
    }

    #[test]
    fn failures_are_told_in_upstreams_words() {
        let table = [
            (
                500,
                "text/plain",
                "boom\n",
                "an error on the server (\"boom\") has prevented the request from succeeding",
            ),
            (
                500,
                "image/png",
                "x",
                "an error on the server (\"unknown\") has prevented the request from succeeding",
            ),
            (
                404,
                "text/plain",
                "secret",
                "the server could not find the requested resource",
            ),
            (
                302,
                "text/plain",
                "secret",
                "the server responded with the status code 302 but did not return more information",
            ),
            (
                418,
                "application/json",
                r#"{"kind":"Status","status":"Failure","message":"tea"}"#,
                "tea",
            ),
        ];
        for (code, media, body, text) in table {
            assert_eq!(judged(code, media, body).unwrap_err().to_string(), text);
        }
        assert_eq!(judged(200, "application/json", "{}").unwrap(), "{}");
    }

    #[test]
    fn no_more_of_a_failures_body_than_two_kilobytes_is_shown() {
        let long = "é".repeat(100_000);
        assert!(
            judged(500, "text/plain", &long)
                .unwrap_err()
                .to_string()
                .len()
                < 2 * SHOWN + 100
        );
        let status =
            serde_json::json!({"kind": "Status", "status": "Failure", "message": long}).to_string();
        assert!(
            judged(500, "application/json", &status)
                .unwrap_err()
                .to_string()
                .len()
                <= SHOWN
        );
    }
}
