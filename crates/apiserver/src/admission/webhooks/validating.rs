//! Validating webhooks: all that a request is for are asked at the same time.

use futures::future::join_all;
use skiff_api::{ApiError, ApiResult, Object};

use super::Hooks;
use super::call::{self, Failure, ask, call_text};
use crate::admission::AdmissionRequest;
use crate::admission::matching::Matching;

/// Asks all webhooks that the request is for; the first of those that refuse, in their order, tells the client.
pub(super) async fn run(
    request: &AdmissionRequest<'_>,
    hooks: &Hooks,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    let matching = Matching::new(request, object, old);
    let mut questions = Vec::new();
    for hook in hooks.iter() {
        if let Some(matched) = call::matched(hook, &matching, object, old).await? {
            let shown = request.shown_objects(matched.resource(request), object, old)?;
            questions.push((hook, matched, shown));
        }
    }
    let answers =
        questions
            .into_iter()
            .enumerate()
            .map(|(index, (hook, matched, shown))| async move {
                match ask(hook, request, &matched, shown, false).await {
                    Ok(_) => Ok(()),
                    Err(Failure::Call(reason)) if hook.ignores_failure => {
                        tracing::warn!("{}; the request goes on", call_text(&hook.name, &reason));
                        let key = format!(
                            "failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}"
                        );
                        request.call.annotate(key, hook.name.clone());
                        Ok(())
                    }
                    Err(failure) => Err(failure.into_error(&hook.name)),
                }
            });
    let answers: Vec<Result<(), ApiError>> = join_all(answers).await;
    answers.into_iter().collect()
}
