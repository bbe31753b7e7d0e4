//! Whether a webhook is to be asked, and one question to it.

use serde_json::Value;
use skiff_api::{ApiError, ApiResult, Object};

use super::review::{self, Answer, Unreadable};
use super::table::Hook;
use crate::admission::AdmissionRequest;
use crate::admission::matching::{Match, Matching};
use crate::webhook::ANSWER_LIMIT;

/// Why a question was not answered by a yes.
pub(super) enum Failure {
    /// The webhook could not be asked, or its answer was none: the failure policy says what comes of it.
    Call(String),
    /// It refused, or the server does on its behalf.
    Refused(ApiError),
}

impl Failure {
    /// What the client is told when the request does not go on.
    pub fn into_error(self, webhook: &str) -> ApiError {
        match self {
            Self::Call(reason) => ApiError::internal(call_text(webhook, &reason)),
            Self::Refused(error) => error,
        }
    }
}

pub(super) fn call_text(webhook: &str, reason: &str) -> String {
    format!("failed calling webhook {webhook:?}: {reason}")
}

/// What a request is taken for by a webhook; `None`: the webhook is not for it.
pub(super) async fn matched(
    hook: &Hook,
    matching: &Matching<'_>,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> ApiResult<Option<Match>> {
    if !matching.object_selected(&hook.object_selector) {
        return Ok(None);
    }
    let Some(matched) = matching.rule_matches(&hook.rules, hook.equivalent) else {
        return Ok(None);
    };
    if !matching
        .namespace_selected(&hook.namespace_selector)
        .await?
    {
        return Ok(None);
    }
    let met = super::conditions::met(hook, matching.request, &matched, object, old).await?;
    Ok(met.then_some(matched))
}

/// Asks a webhook about a request that it is for. `shown`: the object and the one before.
pub(super) async fn ask(
    hook: &Hook,
    request: &AdmissionRequest<'_>,
    matched: &Match,
    shown: (Value, Value),
    mutating: bool,
) -> Result<Answer, Failure> {
    if request.dry_run && !hook.dry_runs {
        let text = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Refused(ApiError::bad_request(text)));
    }
    let Some(version) = hook.version else {
        return Err(Failure::Call(
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
                .to_owned(),
        ));
    };
    let client = hook
        .client
        .as_ref()
        .map_err(|why| Failure::Call(format!("could not get REST client: {why}")))?;
    let uid = request.call.server.new_uid();
    let asked = request.shown_request(&uid, matched.resource(request), shown.0, shown.1);
    let body = serde_json::to_vec(&review::review(version, asked)).unwrap_or_default();
    let answer = client
        .post_bytes(body.into(), hook.timeout, ANSWER_LIMIT)
        .await
        .map_err(|error| Failure::Call(format!("failed to call webhook: {error}")))?;
    let answer = review::read(&answer, version, &uid, mutating).map_err(|error| {
        Failure::Call(match error {
            Unreadable::Undecodable(why) => format!("failed to call webhook: {why}"),
            Unreadable::Invalid(why) => format!("received invalid webhook response: {why}"),
        })
    })?;
    for (key, value) in &answer.audit_annotations {
        request
            .call
            .annotate(format!("{}/{key}", hook.name), value.clone());
    }
    for warning in &answer.warnings {
        request.call.warn(warning.clone());
    }
    if !answer.allowed {
        return Err(Failure::Refused(review::refusal(&hook.name, answer.status)));
    }
    Ok(answer)
}
