//! ExtendedResourceToleration: a pod that asks for a device tolerates the taint of nodes kept for that device.

use std::collections::BTreeSet;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use skiff_api::validation::core::is_extended_resource;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

pub(crate) struct ExtendedResourceToleration;

fn tolerate(spec: &mut PodSpec) {
    let containers = spec.containers.iter();
    let resources: BTreeSet<String> = containers
        .chain(spec.init_containers.iter().flatten())
        .filter_map(|container| container.resources.as_ref()?.requests.as_ref())
        .flat_map(|requests| requests.keys())
        .filter(|name| is_extended_resource(name))
        .cloned()
        .collect();
    for resource in resources {
        let wanted = Toleration {
            key: Some(resource),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        };
        let tolerations = spec.tolerations.get_or_insert_default();
        let same = |one: &&mut Toleration| {
            one.key == wanted.key
                && one.effect == wanted.effect
                && one.operator == wanted.operator
                && one.value.as_deref().unwrap_or_default().is_empty()
        };
        // One that differs only in its seconds is replaced.
        match tolerations.iter_mut().find(same) {
            Some(one) => *one = wanted,
            None => tolerations.push(wanted),
        }
    }
}

#[async_trait]
impl Admission for ExtendedResourceToleration {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if matches!(request.operation, Operation::Create | Operation::Update)
            && request.is("", "pods")
            && let Some(pod) = object.downcast_mut::<Pod>()
            && let Some(spec) = &mut pod.spec
        {
            tolerate(spec);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_are_tolerated_once() {
        let mut spec: PodSpec = serde_json::from_value(json!({"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "1", "example.com/gpu": "1", "hugepages-2Mi": "2Mi"}}},
            {"name": "b", "resources": {"requests": {"example.com/gpu": "1"}}}]}))
        .unwrap();
        tolerate(&mut spec);
        tolerate(&mut spec);
        assert_eq!(
            serde_json::to_value(spec.tolerations).unwrap(),
            json!([{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])
        );
    }
}
