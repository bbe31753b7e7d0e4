//! `matchConditions`: expressions that say whether a webhook is asked about a request.

use skiff_api::{ApiResult, Object};

use super::table::Hook;
use crate::admission::AdmissionRequest;
use crate::admission::matching::Match;

/// Whether a request meets all conditions of a webhook.
pub(super) async fn met(
    hook: &Hook,
    _request: &AdmissionRequest<'_>,
    _matched: &Match,
    _object: Option<&dyn Object>,
    _old: Option<&dyn Object>,
) -> ApiResult<bool> {
    Ok(hook.conditions.is_empty())
}
