//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: programs elsewhere that change or refuse writes.
//!
//! The configurations are compiled when they change, by the watch cache's events; a request that no webhook is for costs
//! the matching of rules, and in a cluster without webhooks nothing.

use std::sync::Arc;

use async_trait::async_trait;
use skiff_api::{ApiResult, Object};

use super::{Admission, AdmissionRequest};

mod call;
mod conditions;
mod mutating;
mod review;
mod table;
mod validating;

pub(crate) use mutating::{Reinvocation, Unmade};
pub(crate) use table::{Tables, keep};

use table::Hook;

/// The configuration objects themselves: a webhook that guarded them could lock everybody out.
const EXEMPT: &[&str] = &[
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    let kind = &request.resource.kind;
    kind.group == "admissionregistration.k8s.io" && EXEMPT.contains(&kind.kind.as_ref())
}

/// Asks webhooks that may change an object.
pub(crate) struct MutatingAdmissionWebhook;

#[async_trait]
impl Admission for MutatingAdmissionWebhook {
    fn replaces(&self) -> bool {
        true
    }

    async fn replace(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<Option<Box<dyn Object>>> {
        let hooks = request.call.server.webhooks.mutating().await;
        if hooks.is_empty() || is_exempt(request) {
            return Ok(None);
        }
        mutating::run(request, &hooks, object, old).await
    }
}

/// Asks webhooks that may only refuse.
pub(crate) struct ValidatingAdmissionWebhook;

#[async_trait]
impl Admission for ValidatingAdmissionWebhook {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let hooks = request.call.server.webhooks.validating().await;
        if hooks.is_empty() || is_exempt(request) {
            return Ok(());
        }
        validating::run(request, &hooks, object, old).await
    }
}

/// Webhooks in the order in which they are asked.
type Hooks = Arc<[Arc<Hook>]>;
