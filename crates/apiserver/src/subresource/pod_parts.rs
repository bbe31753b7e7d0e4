//! `pods/ephemeralcontainers` and `pods/resize`: updates that change one part of a pod's spec.

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Response};
use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_api::validation::core::pod::{
    validate_pod_ephemeral_containers_update, validate_pod_resize,
};
use skiff_api::{ApiError, ApiResult, ErrorList, Object, ObjectExt};

use crate::patch::Patch;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::{ApiServer, Call};
use crate::update::check_name;
use crate::write::{
    self, Current, Part, Target, check_namespace, decode, parse_body, written_response,
};

/// Takes the part from what the client sent into the stored pod; says what is wrong with it.
pub(crate) type Keep = fn(pod: &mut Pod, wanted: &Pod) -> ErrorList;

type Make<'a> = Box<dyn Fn(&Current) -> ApiResult<Box<dyn Object>> + Send + Sync + 'a>;

/// What makes the client's object of the current one: a PUT's body, or a patch.
pub(crate) fn changed_body<'a>(
    call: &'a Call,
    resource: &'a Resource,
    options: &'a WriteOptions,
    body: &Bytes,
) -> ApiResult<Make<'a>> {
    let namespace = if resource.namespaced() {
        call.info.namespace.as_str()
    } else {
        ""
    };
    if call.parts.method == Method::PUT {
        let value = parse_body(call, &resource.kind, body, options.field_validation)?;
        let mut object = decode(resource, value)?;
        check_namespace(resource, namespace, object.metadata_mut())?;
        check_name(&call.info.name, object.metadata().name.as_deref())?;
        return Ok(Box::new(move |_| Ok(object.clone_box())));
    }
    let patch = Patch::parse(call, body, options)?;
    Ok(Box::new(move |current| {
        let served = || current.served(resource);
        let value = patch.patched(call, resource, &resource.kind, &served)?;
        let mut object = decode(resource, value)?;
        check_namespace(resource, namespace, object.metadata_mut())?;
        Ok(object)
    }))
}

/// Answers a PUT or PATCH of a pod's part.
pub(crate) async fn change(
    call: &Call,
    resource: &Resource,
    keep: Keep,
    body: Body,
) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let body = ApiServer::read_body(body).await?;
    let make = changed_body(call, resource, &options, &body)?;
    let target = Target {
        call,
        resource,
        namespace: &call.info.namespace,
        name: &call.info.name,
        subresource: &call.info.subresource,
        options: &options,
    };
    let mut change = |current: &Current| {
        let wanted = make(current)?;
        let mut object = current.object.clone_box();
        let (Some(pod), Some(wanted)) =
            (object.downcast_mut::<Pod>(), wanted.downcast_ref::<Pod>())
        else {
            return Err(ApiError::internal("no pod"));
        };
        pod.metadata
            .resource_version
            .clone_from(&wanted.metadata.resource_version);
        pod.metadata
            .managed_fields
            .clone_from(&wanted.metadata.managed_fields);
        let errors = keep(pod, wanted);
        if !errors.is_empty() {
            return Err(target.invalid(&errors));
        }
        Ok::<Box<dyn Object>, ApiError>(object)
    };
    let written = write::update(&target, Part::Own, &mut change).await?;
    written_response(call, resource, &written)
}

/// Takes the ephemeral containers; they can be added, not changed or removed.
pub(crate) fn keep_ephemeral_containers(pod: &mut Pod, wanted: &Pod) -> ErrorList {
    let old = pod.clone();
    let spec = pod.spec.get_or_insert_default();
    let wanted = wanted.spec.as_ref();
    spec.ephemeral_containers = wanted.and_then(|spec| spec.ephemeral_containers.clone());
    validate_pod_ephemeral_containers_update(pod, &old)
}

/// Takes the resources of the pod and of its containers, and how the containers are resized. Containers that come, go,
/// or change places are taken as they are, for validation to refuse.
pub(crate) fn keep_resources(pod: &mut Pod, wanted: &Pod) -> ErrorList {
    let old = pod.clone();
    let wanted = wanted.spec.clone().unwrap_or_default();
    let spec = pod.spec.get_or_insert_default();
    let count = |list: &Option<Vec<Container>>| list.as_ref().map_or(0, Vec::len);
    if spec.containers.len() == wanted.containers.len()
        && count(&spec.init_containers) == count(&wanted.init_containers)
    {
        let own = std::mem::take(&mut spec.containers);
        spec.containers = resized(own, wanted.containers);
        let own = spec.init_containers.take();
        spec.init_containers = own.map(|own| {
            let wanted = wanted.init_containers.unwrap_or_default();
            resized(own, wanted)
        });
        spec.resources = wanted.resources;
    } else {
        *spec = wanted;
    }
    validate_pod_resize(pod, &old)
}

fn resized(mut own: Vec<Container>, wanted: Vec<Container>) -> Vec<Container> {
    if !own
        .iter()
        .map(|container| &container.name)
        .eq(wanted.iter().map(|container| &container.name))
    {
        return wanted;
    }
    for (container, wanted) in own.iter_mut().zip(wanted) {
        container.resources = wanted.resources;
        container.resize_policy = wanted.resize_policy;
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
    }

    fn complete(name: &str, image: &str, cpu: &str) -> serde_json::Value {
        json!({"name": name, "image": image, "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
            "resources": {"requests": {"cpu": cpu}}})
    }

    fn spec(containers: &[serde_json::Value]) -> serde_json::Value {
        json!({"containers": containers, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30})
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_resize_takes_resources_only() {
        let stored = pod(spec(&[complete("a", "x", "1"), complete("b", "x", "1")]));
        let wanted = pod(spec(&[complete("a", "y", "2"), complete("b", "x", "1")]));
        let mut changed = stored.clone();
        assert_eq!(texts(&keep_resources(&mut changed, &wanted)), [""; 0]);
        assert_eq!(
            changed,
            pod(spec(&[complete("a", "x", "2"), complete("b", "x", "1")]))
        );
        for wanted in [
            spec(&[complete("a", "x", "1")]),
            spec(&[complete("b", "x", "1"), complete("a", "x", "1")]),
        ] {
            assert!(!keep_resources(&mut stored.clone(), &pod(wanted)).is_empty());
        }
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let debugger = |name: &str, image: &str| {
            json!({"name": name, "image": image, "imagePullPolicy": "Always",
            "terminationMessagePolicy": "File"})
        };
        let of = |containers: &[serde_json::Value]| {
            let mut spec = spec(&[complete("a", "x", "1")]);
            spec["ephemeralContainers"] = json!(containers);
            pod(spec)
        };
        let mut stored = of(&[debugger("e", "x")]);
        let wanted = of(&[debugger("e", "x"), debugger("f", "x")]);
        assert_eq!(
            texts(&keep_ephemeral_containers(&mut stored, &wanted)),
            [""; 0]
        );
        assert_eq!(stored, wanted);
        for wanted in [
            of(&[debugger("e", "x")]),
            of(&[debugger("e", "y"), debugger("f", "x")]),
            of(&[debugger("e", "x"), debugger("f", "x"), debugger("a", "x")]),
        ] {
            let errors = keep_ephemeral_containers(&mut stored.clone(), &wanted);
            assert_eq!(errors.len(), 1, "{errors:?}");
        }
    }
}
