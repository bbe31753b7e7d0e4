//! PodResizeValidator: a pod on a node is not resized beyond what the node has at all.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use skiff_api::pod_resources::requests;
use skiff_api::validation::quantity::Amount;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

pub(crate) struct PodResizeValidator;

/// Why the pod cannot be resized on the node, with the reason for programs; `None` when it can.
fn refusal(pod: &Pod, node: &Node) -> Option<(String, &'static str)> {
    let name = node.metadata.name.clone().unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    let os = labels.and_then(|labels| labels.get("kubernetes.io/os"));
    if let Some(os) = os.filter(|os| *os != "linux") {
        return Some((
            format!("pod resize is only supported on linux nodes, node {name:?} is {os:?}"),
            "UnsupportedPlatform",
        ));
    }
    let asked = pod.spec.as_ref().map(requests).unwrap_or_default();
    let status = node.status.as_ref();
    let allocatable = status.and_then(|status| status.allocatable.as_ref());
    let lacks: Vec<String> = ["cpu", "memory"]
        .into_iter()
        .filter_map(|name| {
            let shown = |amount: Amount| match name {
                "cpu" => amount.milli_value(),
                _ => amount.value(),
            };
            let has = allocatable.and_then(|all| all.get(name));
            let has = has.map_or(Amount::ZERO, Amount::of);
            let asks = asked.get(name).copied().unwrap_or(Amount::ZERO);
            (asks > has).then(|| {
                let (asks, has) = (shown(asks), shown(has));
                format!("{name}, requested: {asks}, allocatable: {has}")
            })
        })
        .collect();
    (!lacks.is_empty()).then(|| {
        let lacks = lacks.join("; ");
        (
            format!("node didn't have enough allocatable resources: {lacks}"),
            "NodeCapacity",
        )
    })
}

#[async_trait]
impl Admission for PodResizeValidator {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let is_resize = request.operation == Operation::Update
            && request.subresource == "resize"
            && request.resource.kind.plural == "pods";
        let pod = object.and_then(|object| object.downcast_ref::<Pod>());
        let (true, Some(pod), Some(old)) = (is_resize, pod, old) else {
            return Ok(());
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        let Some(name) = node.filter(|name| !name.is_empty()) else {
            return Ok(());
        };
        if pod.metadata.generation == old.metadata().generation {
            return Ok(());
        }
        let Some(node) = request.find::<Node>("", "nodes", "", name).await? else {
            return Err(request.forbidden(&format!("node {name:?} not found")));
        };
        match refusal(pod, &node) {
            None => Ok(()),
            Some((why, reason)) => {
                let mut error: ApiError = request.forbidden(&why);
                if let Some(details) = &mut error.details {
                    details["causes"] = json!([{"reason": reason}]);
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_lacks() {
        let pod = |cpu: &str, memory: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
                {"name": "a", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}}))
            .unwrap()
        };
        let node = |os: &str| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "n", "labels": {"kubernetes.io/os": os}},
                "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}}),
            )
            .unwrap()
        };
        assert_eq!(refusal(&pod("2", "1Gi"), &node("linux")), None);
        assert_eq!(
            refusal(&pod("2500m", "2Gi"), &node("linux")).unwrap(),
            (
                "node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000; \
                 memory, requested: 2147483648, allocatable: 1073741824"
                    .to_owned(),
                "NodeCapacity"
            )
        );
        assert_eq!(
            refusal(&pod("1", "1"), &node("windows")).unwrap().0,
            "pod resize is only supported on linux nodes, node \"n\" is \"windows\""
        );
    }
}
