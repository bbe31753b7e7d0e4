//! `pods/ephemeralcontainers` and `pods/resize`: updates that change one part of a pod's spec.

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Response};
use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_api::{ApiError, ApiResult, FieldError, Object, ObjectExt, Path};

use crate::patch::Patch;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::{ApiServer, Call};
use crate::update::check_name;
use crate::write::{
    self, Current, Part, Target, check_namespace, decode, parse_body, written_response,
};

/// Takes the part from what the client sent into the stored pod; says what is wrong with it.
pub(crate) type Keep = fn(pod: &mut Pod, wanted: &Pod) -> Vec<FieldError>;

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
        let value = parse_body(call, resource.kind, body, options.field_validation)?;
        let mut object = decode(resource, value)?;
        check_namespace(resource, namespace, object.metadata_mut())?;
        check_name(&call.info.name, object.metadata().name.as_deref())?;
        return Ok(Box::new(move |_| Ok(object.clone_box())));
    }
    let patch = Patch::parse(call, body, options)?;
    Ok(Box::new(move |current| {
        let value = current.served(resource);
        let value = patch.patched(call, resource, resource.kind, &value)?;
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

/// Ephemeral containers can be added, not changed or removed.
pub(crate) fn keep_ephemeral_containers(pod: &mut Pod, wanted: &Pod) -> Vec<FieldError> {
    let path = Path::new("spec").child("ephemeralContainers");
    let spec = pod.spec.get_or_insert_default();
    let new = wanted
        .spec
        .as_ref()
        .and_then(|spec| spec.ephemeral_containers.clone())
        .unwrap_or_default();
    let mut errors = Vec::new();
    for (index, container) in new.iter().enumerate() {
        let path = path.index(index);
        if container.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        if container.image.as_deref().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(&path.child("image"), ""));
        }
        let taken = |name: &String| *name == container.name;
        let twice = new[..index].iter().any(|other| taken(&other.name))
            || spec.containers.iter().any(|other| taken(&other.name))
            || spec
                .init_containers
                .iter()
                .flatten()
                .any(|other| taken(&other.name));
        if twice {
            errors.push(FieldError::duplicate(&path.child("name"), &container.name));
        }
        for (name, set) in [
            (
                "ports",
                container
                    .ports
                    .as_ref()
                    .is_some_and(|ports| !ports.is_empty()),
            ),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("lifecycle", container.lifecycle.is_some()),
        ] {
            if set {
                errors.push(FieldError::forbidden(
                    &path.child(name),
                    "cannot be set for an Ephemeral Container",
                ));
            }
        }
    }
    for old in spec.ephemeral_containers.iter().flatten() {
        match new.iter().find(|container| container.name == old.name) {
            None => errors.push(FieldError::forbidden(
                &path,
                &format!(
                    "existing ephemeral containers {:?} may not be removed\n",
                    old.name
                ),
            )),
            Some(container) if container != old => errors.push(FieldError::forbidden(
                &path,
                &format!(
                    "existing ephemeral containers {:?} may not be changed\n",
                    old.name
                ),
            )),
            Some(_) => {}
        }
    }
    if pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|map| map.contains_key("kubernetes.io/config.mirror"))
    {
        errors.push(FieldError::forbidden(
            &Path::new(""),
            "static pods do not support ephemeral containers",
        ));
    }
    spec.ephemeral_containers = (!new.is_empty()).then_some(new);
    errors
}

/// A resize changes the resources of containers that run, and their resize policy not.
pub(crate) fn keep_resources(pod: &mut Pod, wanted: &Pod) -> Vec<FieldError> {
    let path = Path::new("spec");
    let Some(wanted) = &wanted.spec else {
        return vec![FieldError::required(&path, "")];
    };
    let spec = pod.spec.get_or_insert_default();
    let mut errors = Vec::new();
    let mut take = |list: &mut [Container], new: &[Container], name: &str| {
        if list.len() != new.len() {
            errors.push(FieldError::forbidden(
                &path.child(name),
                "containers may not be added or removed on pod resize",
            ));
            return;
        }
        for (container, wanted) in list.iter_mut().zip(new) {
            if container.name == wanted.name {
                container.resources.clone_from(&wanted.resources);
            } else {
                errors.push(FieldError::forbidden(
                    &path.child(name),
                    "containers may not be renamed or reordered on pod resize",
                ));
            }
        }
    };
    take(&mut spec.containers, &wanted.containers, "containers");
    take(
        spec.init_containers.as_deref_mut().unwrap_or_default(),
        wanted.init_containers.as_deref().unwrap_or_default(),
        "initContainers",
    );
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let container = |name: &str| json!({"name": name, "image": "x"});
        let mut stored = pod(
            json!({"containers": [container("main")], "ephemeralContainers": [container("e")]}),
        );
        let wanted =
            pod(json!({"containers": [], "ephemeralContainers": [container("e"), container("f")]}));
        assert!(keep_ephemeral_containers(&mut stored, &wanted).is_empty());
        assert_eq!(
            stored
                .spec
                .as_ref()
                .unwrap()
                .ephemeral_containers
                .as_ref()
                .unwrap()
                .len(),
            2
        );
        assert_eq!(stored.spec.as_ref().unwrap().containers.len(), 1);
        let removed = pod(json!({"containers": [], "ephemeralContainers": [container("main")]}));
        assert_eq!(
            keep_ephemeral_containers(&mut stored.clone(), &removed).len(),
            3
        );
    }

    #[test]
    fn a_resize_changes_resources_only() {
        let mut stored = pod(json!({"containers": [{"name": "a", "image": "x"}]}));
        let wanted = pod(
            json!({"containers": [{"name": "a", "image": "y", "resources": {"limits": {"cpu": "1"}}}]}),
        );
        assert!(keep_resources(&mut stored, &wanted).is_empty());
        let container = &stored.spec.as_ref().unwrap().containers[0];
        assert_eq!(container.image.as_deref(), Some("x"));
        assert!(container.resources.is_some());
        assert_eq!(
            keep_resources(&mut stored, &pod(json!({"containers": []}))).len(),
            1
        );
    }
}
