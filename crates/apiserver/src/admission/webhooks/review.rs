//! `AdmissionReview`: what a webhook is sent, and whether its answer is one.

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use skiff_api::ApiError;

/// What a webhook decided.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub allowed: bool,
    /// The operations of a JSON patch as they came; empty for none.
    pub patch: Vec<u8>,
    pub patch_type: String,
    pub audit_annotations: Vec<(String, String)>,
    pub warnings: Vec<String>,
    /// The `Status` of a refusal.
    pub status: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Review {
    api_version: String,
    kind: String,
    response: Option<Response>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(deserialize_with = "null_is_default")]
    patch: String,
    patch_type: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    audit_annotations: std::collections::BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    warnings: Vec<String>,
    status: Option<Map<String, Value>>,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    decoder: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(decoder).map(Option::unwrap_or_default)
}

/// What is sent: a request as [`crate::admission::AdmissionRequest::shown_request`] makes it.
pub(super) fn review(version: &str, request: Value) -> Value {
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

/// Reads an answer to the review of `uid`; otherwise says what is wrong with it.
pub(super) fn read(
    answer: &[u8],
    version: &str,
    uid: &str,
    mutating: bool,
) -> Result<Answer, Unreadable> {
    let review: Review = serde_json::from_slice(answer)
        .map_err(|error| Unreadable::Undecodable(error.to_string()))?;
    let known = matches!(
        review.api_version.as_str(),
        "admission.k8s.io/v1" | "admission.k8s.io/v1beta1"
    );
    if review.kind != "AdmissionReview" || !known {
        return Err(Unreadable::Undecodable(kind_error(&review)));
    }
    let wrong = |why: String| Err(Unreadable::Invalid(why));
    let Some(response) = review.response else {
        return wrong("webhook response was absent".to_owned());
    };
    if version == "v1" {
        if response.uid != uid {
            return wrong(format!(
                "expected response.uid={uid:?}, got {:?}",
                response.uid
            ));
        }
        if review.api_version != "admission.k8s.io/v1" {
            return wrong(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind=AdmissionReview",
                review.api_version
            ));
        }
        check_patch(&response, mutating).map_err(Unreadable::Invalid)?;
    }
    let patch = if mutating {
        base64::engine::general_purpose::STANDARD
            .decode(&response.patch)
            .map_err(|error| Unreadable::Undecodable(format!("illegal base64 data: {error}")))?
    } else {
        Vec::new()
    };
    // v1beta1 knew only one type of patch, and nobody looked at what was said.
    let patch_type = match version {
        "v1" => response.patch_type.unwrap_or_default(),
        _ => "JSONPatch".to_owned(),
    };
    Ok(Answer {
        allowed: response.allowed,
        patch,
        patch_type,
        audit_annotations: response.audit_annotations.into_iter().collect(),
        warnings: response.warnings,
        status: response.status,
    })
}

/// Why an answer is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is no AdmissionReview.
    Undecodable(String),
    /// It is one, but not the answer to this review.
    Invalid(String),
}

fn kind_error(review: &Review) -> String {
    if review.kind.is_empty() {
        return "Object 'Kind' is missing".to_owned();
    }
    if review.api_version.is_empty() {
        return "Object 'apiVersion' is missing".to_owned();
    }
    format!(
        "no kind {:?} is registered for version {:?} in scheme",
        review.kind, review.api_version
    )
}

fn check_patch(response: &Response, mutating: bool) -> Result<(), String> {
    let wrong = |why: &str| Err(why.to_owned());
    match (
        mutating,
        response.patch.is_empty(),
        response.patch_type.as_deref(),
    ) {
        (true, false, None) => wrong("webhook returned response.patch but not response.patchType"),
        (true, true, Some(_)) => {
            wrong("webhook returned response.patchType but not response.patch")
        }
        (true, false, Some("")) => wrong("webhook returned invalid response.patchType of \"\""),
        (false, false, _) => wrong("validating webhook may not return response.patch"),
        (false, true, Some(_)) => wrong("validating webhook may not return response.patchType"),
        _ => Ok(()),
    }
}

/// The refusal that a client gets: the webhook's own `Status`, made a failure, with a message that names the webhook.
pub(super) fn refusal(webhook: &str, status: Option<Map<String, Value>>) -> ApiError {
    let mut status = status.unwrap_or_default();
    let text = |status: &Map<String, Value>, name: &str| {
        status
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let code = status
        .get("code")
        .and_then(Value::as_u64)
        .and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    let denied = format!("admission webhook {webhook:?} denied the request");
    let message = match (text(&status, "message"), text(&status, "reason")) {
        (message, _) if !message.is_empty() => format!("{denied}: {message}"),
        (_, reason) if !reason.is_empty() => format!("{denied}: {reason}"),
        _ => format!("{denied} without explanation"),
    };
    if matches!(text(&status, "status").as_str(), "" | "Success") {
        status.insert("status".to_owned(), "Failure".into());
    }
    status.insert("kind".to_owned(), "Status".into());
    status.insert("apiVersion".to_owned(), "v1".into());
    status.entry("metadata").or_insert_with(|| json!({}));
    status.insert("code".to_owned(), code.into());
    status.insert("message".to_owned(), message.clone().into());
    ApiError {
        given: Some(Box::new(Value::Object(status))),
        ..ApiError::new(code, "", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: &str, response: &Value) -> Vec<u8> {
        let review = json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "response": response});
        serde_json::to_vec(&review).unwrap()
    }

    #[test]
    fn answers_are_held_to_their_version() {
        let patch = "W10=";
        // version, response, mutating, what is wrong
        let table = [
            ("v1", json!({"uid": "u", "allowed": true}), true, None),
            ("v1", json!(null), true, Some("webhook response was absent")),
            (
                "v1",
                json!({"uid": "x"}),
                true,
                Some("expected response.uid=\"u\", got \"x\""),
            ),
            (
                "v1",
                json!({"uid": "u", "patch": patch}),
                true,
                Some("webhook returned response.patch but not response.patchType"),
            ),
            (
                "v1",
                json!({"uid": "u", "patchType": "JSONPatch"}),
                true,
                Some("webhook returned response.patchType but not response.patch"),
            ),
            (
                "v1",
                json!({"uid": "u", "patch": patch}),
                false,
                Some("validating webhook may not return response.patch"),
            ),
            (
                "v1",
                json!({"uid": "u", "patchType": "JSONPatch"}),
                false,
                Some("validating webhook may not return response.patchType"),
            ),
            ("v1beta1", json!({"uid": "x", "patch": patch}), true, None),
            ("v1beta1", json!({"patch": patch}), false, None),
        ];
        for (version, response, mutating, wrong) in table {
            let read = read(&answer(version, &response), version, "u", mutating);
            let wrong = wrong.map(|why| Unreadable::Invalid(why.to_owned()));
            assert_eq!(read.err(), wrong, "{version} {response}");
        }
        let other = read(&answer("v1beta1", &json!({"uid": "u"})), "v1", "u", true);
        assert_eq!(
            other,
            Err(Unreadable::Invalid("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview".to_owned()))
        );
        for bad in ["", "{}", "[]", r#"{"kind":"Pod","apiVersion":"v1"}"#] {
            assert!(
                matches!(
                    read(bad.as_bytes(), "v1", "u", true),
                    Err(Unreadable::Undecodable(_))
                ),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_refusal_keeps_code_and_reason_and_is_a_failure() {
        let refused = |status: Value| refusal("w.example.com", status.as_object().cloned());
        let error = refused(json!(null));
        assert_eq!(
            (error.code, error.message.as_str()),
            (
                400,
                "admission webhook \"w.example.com\" denied the request without explanation"
            )
        );
        let error = refused(json!({"reason": "because of it"}));
        assert_eq!(
            error.message,
            "admission webhook \"w.example.com\" denied the request: because of it"
        );
        let error = refused(
            json!({"status": "Success", "code": 200, "message": "no", "reason": "Forbidden", "details": {"name": "a"}}),
        );
        assert_eq!(
            error.to_status(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 400, "reason": "Forbidden",
                "message": "admission webhook \"w.example.com\" denied the request: no", "details": {"name": "a"}})
        );
        assert_eq!(refused(json!({"code": 409, "message": "no"})).code, 409);
    }
}
