//! RuntimeClass: a pod takes over the overhead and the scheduling rules of its runtime class.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass as Class;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::tolerations::widest;
use super::{Admission, AdmissionRequest, Operation};

pub(crate) struct RuntimeClass;

/// The pod's class, where it names one.
async fn class_of(
    request: &AdmissionRequest<'_>,
    spec: Option<&PodSpec>,
) -> ApiResult<Option<Class>> {
    let Some(name) = spec.and_then(|spec| spec.runtime_class_name.as_ref()) else {
        return Ok(None);
    };
    let found = request.find("node.k8s.io", "runtimeclasses", "", name);
    match found.await? {
        Some(class) => Ok(Some(class)),
        None => Err(request.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

/// What the class adds to the pod, or why the two do not go together.
fn take_over(spec: &mut PodSpec, class: &Class) -> Result<(), String> {
    if let Some(overhead) = &class.overhead {
        let own = spec.overhead.as_ref();
        if own.is_some_and(|own| !own.is_empty() && Some(own) != overhead.pod_fixed.as_ref()) {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into(),
            );
        }
        spec.overhead.clone_from(&overhead.pod_fixed);
    }
    let Some(scheduling) = &class.scheduling else {
        return Ok(());
    };
    if let Some(wanted) = &scheduling.node_selector {
        let selector = spec.node_selector.get_or_insert_default();
        for (key, value) in wanted {
            if let Some(own) = selector.get(key).filter(|own| *own != value) {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            selector.insert(key.clone(), value.clone());
        }
    }
    let own = spec.tolerations.take().unwrap_or_default();
    let all = [own, scheduling.tolerations.clone().unwrap_or_default()].concat();
    spec.tolerations = Some(widest(&all)).filter(|list| !list.is_empty());
    Ok(())
}

#[async_trait]
impl Admission for RuntimeClass {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Create || !request.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = object.downcast_mut::<Pod>() else {
            return Ok(());
        };
        let class = class_of(request, pod.spec.as_ref()).await?;
        if let (Some(spec), Some(class)) = (&mut pod.spec, class) {
            take_over(spec, &class).map_err(|why| request.forbidden(&why))?;
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Create || !request.is("", "pods") {
            return Ok(());
        }
        let pod = object.and_then(|object| object.downcast_ref::<Pod>());
        let spec = pod.and_then(|pod| pod.spec.as_ref());
        let class = class_of(request, spec).await?;
        let own = spec.and_then(|spec| spec.overhead.as_ref());
        match class.and_then(|class| class.overhead) {
            Some(overhead) if overhead.pod_fixed.as_ref() != own => Err(request.forbidden(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            )),
            None if own.is_some() => Err(request.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_takes_over_what_its_class_says() {
        let class = |value: Value| -> Class { serde_json::from_value(value).unwrap() };
        let spec = |value: Value| -> PodSpec { serde_json::from_value(value).unwrap() };
        let vm = class(
            json!({"handler": "vm", "overhead": {"podFixed": {"memory": "64Mi"}}, "scheduling": {
            "nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}}),
        );
        let mut pod = spec(json!({"containers": [], "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "vm", "operator": "Equal", "value": "x", "effect": "NoSchedule"}, {"key": "other"}]}));
        take_over(&mut pod, &vm).unwrap();
        assert_eq!(
            pod,
            spec(
                json!({"containers": [], "overhead": {"memory": "64Mi"}, "nodeSelector": {"disk": "fast", "vm": "yes"},
                "tolerations": [{"key": "other"}, {"key": "vm", "operator": "Exists"}]})
            )
        );
        for (pod, said) in [
            (
                json!({"containers": [], "overhead": {"memory": "1"}}),
                "doesn't match",
            ),
            (
                json!({"containers": [], "nodeSelector": {"vm": "no"}}),
                "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
            ),
        ] {
            let why = take_over(&mut spec(pod), &vm).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }
}
