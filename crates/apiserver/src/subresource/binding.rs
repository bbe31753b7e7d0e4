//! `pods/binding`: puts a pod on a node.

use axum::body::Body;
use http::Response;
use k8s_openapi::api::core::v1::{Binding, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::{ApiError, ApiResult, FieldError, Object, ObjectExt, Path};

use super::{body_as, kind_of, success};
use crate::admission::{self, Operation};
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::Call;
use crate::write::{self, Current, Part, Target};

/// Answers a POST of a binding; an empty name is taken from the body.
pub(crate) async fn bind(
    call: &Call,
    pods: &Resource,
    name: &str,
    body: Body,
) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let binding: Binding = body_as(call, &kind_of("v1", "Binding")?, &options, body).await?;
    let body_name = binding.metadata.name.clone().unwrap_or_default();
    if !name.is_empty() && !body_name.is_empty() && name != body_name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    let name = if name.is_empty() {
        body_name
    } else {
        name.to_owned()
    };
    let errors = check(&binding);
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "Binding", &name, &errors));
    }
    let target = Target {
        call,
        resource: pods,
        namespace: &call.info.namespace,
        name: &name,
        subresource: "binding",
        options: &options,
    };
    let request = target.admission(Operation::Create);
    let mut admitted: Box<dyn Object> = Box::new(binding);
    admission::mutate(&request, &mut admitted, None).await?;
    admission::validate(&request, Some(&*admitted), None).await?;
    let admitted = admitted
        .downcast_ref::<Binding>()
        .ok_or_else(|| ApiError::internal("no binding"))?;
    let errors = check(admitted);
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "Binding", &name, &errors));
    }
    let now = Time(call.server.now());
    let mut change = |current: &Current| {
        let mut object = current.object.clone_box();
        let pod = object
            .downcast_mut::<Pod>()
            .ok_or_else(|| ApiError::internal("no pod"))?;
        assign(pod, admitted, &now)
            .map_err(|why| ApiError::conflict("", "pods/binding", &name, &why))?;
        Ok::<Box<dyn Object>, ApiError>(object)
    };
    write::update(&target, Part::Own, &mut change).await?;
    success(call, 201)
}

fn check(binding: &Binding) -> Vec<FieldError> {
    let path = Path::new("target");
    let mut errors = Vec::new();
    let kind = binding.target.kind.as_deref().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            kind,
            &["Node", "<empty>"],
        ));
    }
    if binding
        .target
        .name
        .as_deref()
        .unwrap_or_default()
        .is_empty()
    {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    errors
}

/// Puts the node's name into the pod, or says why not.
fn assign(pod: &mut Pod, binding: &Binding, now: &Time) -> Result<(), String> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    if let Some(uid) = binding.metadata.uid.as_ref().filter(|uid| !uid.is_empty())
        && Some(uid) != pod.metadata.uid.as_ref()
    {
        let have = pod.metadata.uid.clone().unwrap_or_default();
        return Err(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {have}"
        ));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_ref().filter(|node| !node.is_empty()) {
        return Err(format!("pod {name} is already assigned to node {node:?}"));
    }
    if spec
        .scheduling_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty())
    {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    spec.node_name.clone_from(&binding.target.name);
    for (from, to) in [
        (&binding.metadata.annotations, &mut pod.metadata.annotations),
        (&binding.metadata.labels, &mut pod.metadata.labels),
    ] {
        if let Some(from) = from.as_ref().filter(|from| !from.is_empty()) {
            to.get_or_insert_default().extend(from.clone());
        }
    }
    let status = pod.status.get_or_insert_default();
    status.nominated_node_name = None;
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(now.clone()),
        ..PodCondition::default()
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_assigned_once() {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        let binding: Binding = serde_json::from_value(
            json!({"metadata": {"name": "a", "annotations": {"x": "y"}}, "target": {"kind": "Node", "name": "n1"}}),
        )
        .unwrap();
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        assert!(check(&binding).is_empty());
        assign(&mut pod, &binding, &now).unwrap();
        let value = pod.to_value();
        assert_eq!(value["spec"]["nodeName"], "n1");
        assert_eq!(value["metadata"]["annotations"]["x"], "y");
        assert_eq!(value["status"]["conditions"][0]["type"], "PodScheduled");
        assert_eq!(
            assign(&mut pod, &binding, &now).unwrap_err(),
            "pod a is already assigned to node \"n1\""
        );
    }
}
