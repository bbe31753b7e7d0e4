//! NodeDeclaredFeatureValidator: what is changed of a pod on a node has to be something that its kubelet declares it can do.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};
use skiff_api::pod_resources::same_amounts;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

pub(crate) struct NodeDeclaredFeatureValidator;

/// Whether a change of a pod needs it.
type Needs = fn(&PodSpec, &PodSpec) -> bool;

/// What a change may need, under the name that nodes declare it by, in the order of names.
const FEATURES: [(&str, Needs); 2] = [
    (
        "InPlacePodLevelResourcesVerticalScaling",
        resizes_the_pod_as_a_whole,
    ),
    (
        "InPlacePodVerticalScalingInitContainers",
        resizes_init_containers,
    ),
];

fn resizes_the_pod_as_a_whole(old: &PodSpec, new: &PodSpec) -> bool {
    !same_amounts(old.resources.as_ref(), new.resources.as_ref())
}

fn resizes_init_containers(old: &PodSpec, new: &PodSpec) -> bool {
    let works = |container: &Container| container.restart_policy.as_deref() != Some("Always");
    let old = old.init_containers.iter().flatten();
    let mut pairs = old.zip(new.init_containers.iter().flatten());
    pairs.any(|(old, new)| {
        works(old) && !same_amounts(old.resources.as_ref(), new.resources.as_ref())
    })
}

/// The names of what the change needs and the node does not declare.
fn missing(old: &PodSpec, new: &PodSpec, declared: &[String]) -> Vec<&'static str> {
    let needed = FEATURES.iter().filter(|(_, needs)| needs(old, new));
    needed
        .map(|(name, _)| *name)
        .filter(|name| !declared.iter().any(|declared| declared == name))
        .collect()
}

fn spec_of(object: Option<&dyn Object>) -> Option<&PodSpec> {
    object?.downcast_ref::<Pod>()?.spec.as_ref()
}

#[async_trait]
impl Admission for NodeDeclaredFeatureValidator {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let changes_spec = request.operation == Operation::Update
            && matches!(request.subresource, "" | "resize")
            && request.resource.kind.plural == "pods";
        if !changes_spec {
            return Ok(());
        }
        let (Some(new), Some(before)) = (spec_of(object), spec_of(old)) else {
            return Ok(());
        };
        let name = new.node_name.as_deref().unwrap_or_default();
        if name.is_empty() || missing(before, new, &[]).is_empty() {
            return Ok(());
        }
        let Some(node) = request.find::<Node>("", "nodes", "", name).await? else {
            return Err(request.forbidden(&format!("node {name:?} not found")));
        };
        let declared = node.status.and_then(|status| status.declared_features);
        let missing = missing(before, new, &declared.unwrap_or_default());
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.join(", ");
        Err(request.forbidden(&format!(
            "pod update requires features {missing} which are not available on node {name:?}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_changes_need() {
        let spec = |whole: Value, init: Value, sidecar: Value| -> PodSpec {
            serde_json::from_value(
                json!({"resources": whole, "containers": [], "initContainers": [
                    {"name": "i", "resources": init},
                    {"name": "s", "resources": sidecar, "restartPolicy": "Always"},
                ]}),
            )
            .unwrap()
        };
        let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let old = spec(cpu("1"), cpu("1"), cpu("1"));
        let [whole, init] = FEATURES.map(|(name, _)| name);
        let declared = [init.to_owned()];
        for (new, needed, lacking) in [
            (spec(cpu("1000m"), cpu("1000m"), cpu("2")), vec![], vec![]),
            (spec(cpu("2"), cpu("1"), cpu("1")), vec![whole], vec![whole]),
            (
                spec(Value::Null, cpu("1"), cpu("1")),
                vec![whole],
                vec![whole],
            ),
            (
                spec(cpu("1"), json!({"limits": {"cpu": "1"}}), cpu("1")),
                vec![init],
                vec![],
            ),
            (
                spec(cpu("2"), cpu("2"), cpu("2")),
                vec![whole, init],
                vec![whole],
            ),
        ] {
            assert_eq!(missing(&old, &new, &[]), needed);
            assert_eq!(missing(&old, &new, &declared), lacking);
        }
    }
}
