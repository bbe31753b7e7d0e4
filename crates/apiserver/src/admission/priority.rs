//! Priority: a pod's priority is its priority class's number.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const PREEMPT: &str = "PreemptLowerPriority";

pub(crate) struct Priority;

#[async_trait]
impl Admission for Priority {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = object.downcast_mut::<Pod>() else {
            return Ok(());
        };
        let spec = pod.spec.get_or_insert_default();
        if request.operation == Operation::Update {
            // An update that leaves them out keeps them.
            let old = old
                .and_then(|old| old.downcast_ref::<Pod>())
                .and_then(|old| old.spec.as_ref());
            if let Some(old) = old {
                spec.priority = spec.priority.or(old.priority);
                if spec.preemption_policy.is_none() {
                    spec.preemption_policy.clone_from(&old.preemption_policy);
                }
            }
            return Ok(());
        }
        let name = spec.priority_class_name.clone().unwrap_or_default();
        let class = find(request, &name).await?;
        if !name.is_empty() && class.is_none() {
            return Err(request.forbidden(&format!("no PriorityClass with name {name} was found")));
        }
        let value = class.as_ref().map_or(0, |class| class.value.unwrap_or(0));
        if let Some(class) = &class {
            spec.priority_class_name.clone_from(&class.metadata.name);
        }
        if let Some(given) = spec.priority.filter(|given| *given != value) {
            return Err(request.forbidden(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            )));
        }
        spec.priority = Some(value);
        let policy = class
            .and_then(|class| class.preemption_policy)
            .unwrap_or_else(|| PREEMPT.to_owned());
        if let Some(given) = spec
            .preemption_policy
            .as_ref()
            .filter(|given| **given != policy)
        {
            return Err(request.forbidden(&format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        spec.preemption_policy = Some(policy);
        Ok(())
    }
}

/// The class of that name; for no name the default class, of several the one with the lowest number.
async fn find(request: &AdmissionRequest<'_>, name: &str) -> ApiResult<Option<PriorityClass>> {
    if !name.is_empty() {
        return request
            .find("scheduling.k8s.io", "priorityclasses", "", name)
            .await;
    }
    let classes: Vec<PriorityClass> = request
        .list("scheduling.k8s.io", "priorityclasses", "")
        .await?;
    let defaults = classes.into_iter();
    Ok(defaults
        .filter(|class| class.global_default == Some(true))
        .min_by_key(|class| class.value))
}
