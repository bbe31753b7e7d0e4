//! Tells the authors of validating admission policies, in the status, where expressions do not fit the types.

use async_trait::async_trait;
use http::Request;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec,
};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use skiff_client::{ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache};

use crate::Context;
use crate::policy_types::{Gvk, Types, built_in, kinds, published, warnings};

/// The name of this controller.
pub const NAME: &str = "validatingadmissionpolicy-status-controller";
/// The name under which it owns the status.
const MANAGER: &str = "validatingadmissionpolicy-status";

struct TypeCheck {
    client: Client,
    policies: SharedCache<ValidatingAdmissionPolicy>,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let policies = context.caches.of::<ValidatingAdmissionPolicy>();
    let queue = context.queue();
    policies.wait_synced().await;
    let _policies = {
        let queue = queue.clone();
        policies.clone().on_event(move |event| {
            queue.add(ObjectKey::of(&event.object().metadata));
        })
    };
    let reconciler = TypeCheck {
        client: context.client(NAME),
        policies,
    };
    context.run(reconciler, queue, 1).await;
}

impl TypeCheck {
    /// The types of what the policy is for. What is not served has none, and is not checked.
    async fn types(&self, spec: &ValidatingAdmissionPolicySpec) -> Result<Types, ReconcileError> {
        let constraints = spec.match_constraints.as_ref();
        let rules = constraints.and_then(|constraints| constraints.resource_rules.as_deref());
        let resources = crate::discovery::discover(&self.client).await?;
        let mut types = Types::default();
        for gvk in kinds(rules.unwrap_or_default(), &resources) {
            if let Some(schema) = self.schema(&gvk).await? {
                types.objects.push((gvk, schema));
            }
        }
        if let Some(param) = &spec.param_kind {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let gvk = Gvk::of(&text(&param.api_version), &text(&param.kind));
            types.params = self.schema(&gvk).await?;
        }
        Ok(types)
    }

    async fn schema(
        &self,
        gvk: &Gvk,
    ) -> Result<Option<std::sync::Arc<skiff_cel::Schema>>, ReconcileError> {
        if let Some(schema) = built_in(gvk) {
            return Ok(Some(schema));
        }
        let path = format!("/openapi/v3/apis/{}/{}", gvk.group, gvk.version);
        let request = Request::get(path).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        match self.client.request::<Value>(request).await {
            Ok(document) => Ok(published(&document, gvk)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Reconciler for TypeCheck {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "validatingadmissionpolicy-status"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(policy) = self.policies.get(key) else {
            return Ok(Outcome::Done);
        };
        let generation = policy.metadata.generation.unwrap_or(0);
        let status = policy.status.as_ref();
        if generation
            <= status
                .and_then(|status| status.observed_generation)
                .unwrap_or(0)
        {
            return Ok(Outcome::Done);
        }
        let spec = policy.spec.clone().unwrap_or_default();
        let found = warnings(&spec, &self.types(&spec).await?);
        let mut checked = json!({});
        if !found.is_empty() {
            checked["expressionWarnings"] = json!(found);
        }
        let patch = Patch::Apply(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": key.name()},
            "status": {"observedGeneration": generation, "typeChecking": checked},
        }));
        let api: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let parameters = PatchParams::apply(MANAGER).force();
        api.patch_status(key.name(), &parameters, &patch).await?;
        Ok(Outcome::Done)
    }
}
