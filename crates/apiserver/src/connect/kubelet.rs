//! Where a node's kubelet is, and what it is asked.

use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_api::{ApiError, ApiResult};

use super::backend::Endpoint;
use super::container_of;
use crate::server::{ApiServer, Call};

const DEFAULT_PORT: u16 = 10250;

/// A node's kubelet.
pub(crate) async fn endpoint(server: &ApiServer, name: &str) -> ApiResult<Endpoint> {
    let registry = server.registry.load_full();
    let nodes = registry
        .stored("", "nodes")
        .ok_or_else(ApiError::no_such_path)?;
    let entry = server.lookup(nodes, "", name).await?;
    let entry = entry.ok_or_else(|| ApiError::not_found("", "nodes", name))?;
    let node: Node = entry
        .decode()
        .ok_or_else(|| ApiError::internal("no node"))?;
    let status = node.status.unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let host = [
        "InternalIP",
        "Hostname",
        "InternalDNS",
        "ExternalDNS",
        "ExternalIP",
    ]
    .iter()
    .find_map(|kind| addresses.iter().find(|address| address.type_ == *kind))
    .map(|address| address.address.clone())
    .ok_or_else(|| {
        ApiError::internal(format!(
            "no preferred addresses found; known addresses: [] of node {name}"
        ))
    })?;
    let port = status
        .daemon_endpoints
        .and_then(|endpoints| endpoints.kubelet_endpoint)
        .and_then(|endpoint| u16::try_from(endpoint.port).ok())
        .filter(|port| *port != 0)
        .unwrap_or(DEFAULT_PORT);
    let tls = server
        .kubelet_tls()
        .ok_or_else(|| ApiError::internal("no client configuration for kubelets"))?;
    Ok(Endpoint {
        host,
        port,
        tls: Some(tls),
    })
}

/// The kubelet's path and query for exec, attach and port-forward.
pub(crate) fn stream_path(call: &Call, pod: &Pod) -> ApiResult<String> {
    let name = &call.info.name;
    let namespace = &call.info.namespace;
    let container = match call.info.subresource.as_str() {
        "portforward" => None,
        _ => Some(container_of(pod, call.query.get("container"))?),
    };
    let node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let mut query: Vec<String> = Vec::new();
    match container {
        None => query.extend(
            call.query
                .all("ports")
                .map(|port| format!("port={}", encode(port))),
        ),
        Some(_) => {
            for (from, to) in [
                ("stdin", "input"),
                ("stdout", "output"),
                ("stderr", "error"),
                ("tty", "tty"),
            ] {
                if call.query.flag(from) {
                    query.push(format!("{to}=1"));
                }
            }
            query.extend(
                call.query
                    .all("command")
                    .map(|word| format!("command={}", encode(word))),
            );
        }
    }
    let path = match (call.info.subresource.as_str(), container) {
        ("exec", Some(container)) => format!("/exec/{namespace}/{name}/{container}"),
        ("attach", Some(container)) => format!("/attach/{namespace}/{name}/{container}"),
        _ => format!("/portForward/{namespace}/{name}"),
    };
    Ok(if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    })
}

/// Percent-encodes a query value.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
