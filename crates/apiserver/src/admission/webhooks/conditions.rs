//! `matchConditions`: expressions that say whether a webhook is asked about a request.

use serde_json::Value;
use skiff_api::{ApiResult, Object};

use super::table::Hook;
use crate::admission::AdmissionRequest;
use crate::admission::expressions::{Checks, Inputs, Matched};
use crate::admission::matching::Match;

/// Whether a request meets all conditions of a webhook.
pub(super) async fn met(
    hook: &Hook,
    request: &AdmissionRequest<'_>,
    matched: &Match,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> ApiResult<bool> {
    if hook.conditions.is_empty() {
        return Ok(true);
    }
    let resource = matched.resource(request);
    let (object, old_object) = request.shown_objects(resource, object, old)?;
    let shown = request.shown_request("", resource, Value::Null, Value::Null);
    let checks = Checks::new(request);
    let inputs = Inputs {
        object: &object,
        old_object: &old_object,
        request: &shown,
        params: &Value::Null,
        namespace: &Value::Null,
        authorizer: Some(&checks),
    };
    let evaluate = || hook.conditions.evaluate(inputs, &[]);
    match checks.settled(evaluate).await {
        Matched::Yes => Ok(true),
        Matched::No(_) => Ok(false),
        Matched::Failed(_) if hook.ignores_failure => Ok(false),
        Matched::Failed(error) => Err(request.forbidden(&error)),
    }
}
