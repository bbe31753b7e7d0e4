//! Where a node's kubelet is, and what it is asked.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use skiff_api::{ApiError, ApiResult};

use super::backend::Endpoint;
use super::container_of;
use crate::server::{ApiServer, Call};

const DEFAULT_PORT: u16 = 10250;

/// The annotation in which a node tells the authority of its kubelet's certificate, PEM, where it is not the cluster's own:
/// a kubelet that was started alone has made one. Only the node itself may write its object.
pub const KUBELET_AUTHORITY: &str = "skiff.local/kubelet-authority";

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
    let authority = authority(&node);
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
    let tls = match authority {
        Some(pem) => trusting(&pem, &tls)?,
        None => tls,
    };
    Ok(Endpoint {
        host,
        port,
        tls: Some(tls),
        server_name: None,
        address: None,
    })
}

fn authority(node: &Node) -> Option<String> {
    let annotations = node.metadata.annotations.as_ref()?;
    annotations.get(KUBELET_AUTHORITY).cloned()
}

/// A client configuration that shows what `known` shows, and trusts the authority `pem` only.
fn trusting(pem: &str, known: &ClientConfig) -> ApiResult<Arc<ClientConfig>> {
    let refused = |error: &dyn std::fmt::Display| {
        ApiError::internal(format!("the node's {KUBELET_AUTHORITY}: {error}"))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| refused(&error))?;
        roots.add(certificate).map_err(|error| refused(&error))?;
    }
    let mut config = ClientConfig::builder_with_provider(known.crypto_provider().clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error))?
        .with_root_certificates(roots)
        .with_client_cert_resolver(known.client_auth_cert_resolver.clone());
    config.alpn_protocols.clone_from(&known.alpn_protocols);
    Ok(Arc::new(config))
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
