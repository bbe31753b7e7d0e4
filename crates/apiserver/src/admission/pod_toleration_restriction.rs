//! PodTolerationRestriction: a namespace adds tolerations to its pods, and says which they may have.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde::Deserialize;
use serde_json::Value;
use skiff_api::validation::core::pod::qos_class;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::tolerations::{includes, widest};
use super::{Admission, AdmissionRequest, Operation, chain};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// What holds for namespaces that say nothing.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PodTolerationRestriction {
    default: Vec<Toleration>,
    whitelist: Vec<Toleration>,
}

impl PodTolerationRestriction {
    pub fn new(configuration: &Value) -> Result<Self, String> {
        let versions = ["podtolerationrestriction.admission.k8s.io/v1alpha1"];
        let read = chain::configuration(configuration, &versions, "Configuration")?;
        Ok(read.unwrap_or_default())
    }

    async fn check(&self, request: &AdmissionRequest<'_>, own: &[Toleration]) -> ApiResult<()> {
        if own.is_empty() {
            return Ok(());
        }
        let of_namespace = annotated(request, ALLOWED).await?;
        let (scope, allowed) = match &of_namespace {
            Some(allowed) => ("namespace", allowed),
            None => ("cluster", &self.whitelist),
        };
        let within = |one: &Toleration| allowed.iter().any(|wide| includes(wide, one));
        if allowed.is_empty() || own.iter().all(within) {
            return Ok(());
        }
        Err(ApiError::new(
            500,
            "",
            format!(
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
            ),
        ))
    }
}

/// The tolerations of a namespace's annotation; `None` without it.
async fn annotated(
    request: &AdmissionRequest<'_>,
    key: &str,
) -> ApiResult<Option<Vec<Toleration>>> {
    let annotations = request.namespace_annotations().await?;
    match annotations.get(key).map(String::as_str) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => match serde_json::from_str(text) {
            Ok(tolerations) => Ok(Some(tolerations)),
            Err(error) => Err(ApiError::new(500, "", error.to_string())),
        },
    }
}

#[async_trait]
impl Admission for PodTolerationRestriction {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let Some(pod) = object.downcast_mut::<Pod>().filter(|_| applies(request)) else {
            return Ok(());
        };
        let spec = pod.spec.get_or_insert_default();
        let mut extra = Vec::new();
        if request.operation == Operation::Create {
            let own = annotated(request, DEFAULTS).await?;
            extra = own.unwrap_or_else(|| self.default.clone());
        }
        if qos_class(spec) != "BestEffort" {
            extra.push(Toleration {
                key: Some("node.kubernetes.io/memory-pressure".to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoSchedule".to_owned()),
                ..Toleration::default()
            });
        }
        if !extra.is_empty() {
            let all = [spec.tolerations.take().unwrap_or_default(), extra].concat();
            spec.tolerations = Some(widest(&all));
        }
        self.check(request, spec.tolerations.as_deref().unwrap_or_default())
            .await
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let pod = object.and_then(|object| object.downcast_ref::<Pod>());
        let spec = pod.and_then(|pod| pod.spec.as_ref());
        match spec.and_then(|spec| spec.tolerations.as_ref()) {
            Some(own) if applies(request) => self.check(request, own).await,
            _ => Ok(()),
        }
    }
}

fn applies(request: &AdmissionRequest<'_>) -> bool {
    matches!(request.operation, Operation::Create | Operation::Update) && request.is("", "pods")
}
