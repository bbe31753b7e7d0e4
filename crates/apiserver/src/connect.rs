//! Connections to kubelets, pods and services: logs, exec, attach, port-forward and proxies.

mod backend;
mod endpoints;
mod kubelet;
mod log;
mod options;
mod proxy;

pub(crate) use backend::{Endpoint, forward};
pub(crate) use endpoints::service_endpoint;
pub use kubelet::KUBELET_AUTHORITY;

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Response};
use k8s_openapi::api::core::v1::Pod;
use skiff_api::{ApiError, ApiResult};

use crate::admission::{self, AdmissionRequest, Given, Operation};
use crate::dispatch::method_not_allowed;
use crate::query::{FieldValidation, WriteOptions};
use crate::registry::Resource;
use crate::server::Call;
use crate::write::Target;

/// Answers a request for a subresource that is served by a kubelet, a pod or a service.
pub(crate) async fn answer(
    mut call: Call,
    resource: Arc<Resource>,
    body: Body,
) -> ApiResult<Response<Body>> {
    let options = WriteOptions {
        dry_run: false,
        field_manager: String::new(),
        field_validation: FieldValidation::Ignore,
        force: None,
    };
    if call.info.subresource == "proxy" {
        let target = Target {
            call: &call,
            resource: &resource,
            namespace: &call.info.namespace,
            name: &call.info.name,
            subresource: "proxy",
            options: &options,
        };
        let request = AdmissionRequest {
            given: Given::Connect(options::of(&call)),
            ..target.admission(Operation::Connect)
        };
        admission::announce(&request, None).await?;
        admission::validate(&request, None, None).await?;
        return proxy::answer(call, &resource, body).await;
    }
    let allowed: &[Method] = if call.info.subresource == "log" {
        &[Method::GET]
    } else {
        &[Method::GET, Method::POST]
    };
    if !allowed.contains(&call.parts.method) {
        return Err(method_not_allowed());
    }
    // A WebSocket begins with GET: the right to read is not the right to run commands.
    if call.info.subresource != "log" && call.info.verb != "create" {
        call.server.authorize_create(&call).await?;
    }
    let target = Target {
        call: &call,
        resource: &resource,
        namespace: &call.info.namespace,
        name: &call.info.name,
        subresource: &call.info.subresource,
        options: &options,
    };
    let entry = call
        .server
        .lookup(&resource, target.namespace, target.name)
        .await?;
    let entry = entry.ok_or_else(|| target.not_found())?;
    let pod: Pod = entry.decode().ok_or_else(|| ApiError::internal("no pod"))?;
    if call.info.subresource == "log" {
        return log::answer(&call, &pod).await;
    }
    let request = AdmissionRequest {
        given: Given::Connect(options::of(&call)),
        ..target.admission(Operation::Connect)
    };
    admission::announce(&request, Some(&pod)).await?;
    admission::validate(&request, None, Some(&pod)).await?;
    let path = kubelet::stream_path(&call, &pod)?;
    let node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .unwrap_or_default();
    let endpoint = kubelet::endpoint(&call.server, &node).await?;
    backend::forward(&mut call.parts, body, &endpoint, &path).await
}

/// The container that a request is about.
fn container_of(pod: &Pod, wanted: &str) -> ApiResult<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let all: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|container| container.name.as_str())
        .chain(
            spec.ephemeral_containers
                .iter()
                .flatten()
                .map(|container| container.name.as_str()),
        )
        .collect();
    if !wanted.is_empty() {
        return if all.contains(&wanted) {
            Ok(wanted.to_owned())
        } else {
            Err(ApiError::bad_request(format!(
                "container {wanted} is not valid for pod {name}"
            )))
        };
    }
    match spec.containers.as_slice() {
        [only] => Ok(only.name.clone()),
        [] => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}"
        ))),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_chosen_or_must_be_named() {
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
        };
        let one = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
        assert_eq!(container_of(&one, "").unwrap(), "a");
        assert_eq!(container_of(&one, "i").unwrap(), "i");
        assert_eq!(
            container_of(&one, "x").unwrap_err().message,
            "container x is not valid for pod p"
        );
        let two = pod(
            json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}),
        );
        assert_eq!(
            container_of(&two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [i a b]"
        );
    }
}
