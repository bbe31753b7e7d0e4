//! Which endpoint of a service is spoken to: one of those that are ready, by lot, from the server's own caches.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_api::{ApiError, ApiResult};

use crate::query::Freshness;
use crate::server::ApiServer;

pub(super) fn unavailable(why: &str) -> ApiError {
    ApiError::new(503, "ServiceUnavailable", why)
}

/// Where a webhook's or an aggregated API's service is reached: host and port.
pub(crate) async fn service_endpoint(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    port: u16,
) -> ApiResult<(String, u16)> {
    let registry = server.registry.load_full();
    let services = registry
        .stored("", "services")
        .ok_or_else(ApiError::no_such_path)?;
    let entry = server.lookup(services, namespace, name).await?;
    let entry = entry
        .ok_or_else(|| ApiError::new(404, "NotFound", format!("service {name:?} not found")))?;
    let service: Service = entry
        .decode()
        .ok_or_else(|| ApiError::internal("no service"))?;
    let spec = service.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok((spec.external_name.unwrap_or_default(), port));
    }
    let ports = spec.ports.unwrap_or_default();
    let found = ports.iter().find(|entry| entry.port == i32::from(port));
    let found = found.ok_or_else(|| {
        unavailable(&format!(
            "no service port {port} found for service {name:?}"
        ))
    })?;
    let port_name = found.name.as_deref().unwrap_or_default();
    ready_endpoint(server, namespace, name, port_name).await
}

/// A ready endpoint of a service's port; slices name their ports as the service does.
pub(super) async fn ready_endpoint(
    server: &ApiServer,
    namespace: &str,
    service: &str,
    port_name: &str,
) -> ApiResult<(String, u16)> {
    let registry = server.registry.load_full();
    let slices = registry
        .stored("discovery.k8s.io", "endpointslices")
        .ok_or_else(ApiError::no_such_path)?;
    let cache = server.hub_cache(slices).await?;
    server.wait_fresh(Freshness::Newest).await?;
    let mut backends: Vec<(String, u16)> = Vec::new();
    for entry in cache.list(&slices.prefix(namespace), None, 0).0 {
        let owner = entry
            .labels(&slices.storage)
            .get("kubernetes.io/service-name");
        if owner.map(String::as_str) != Some(service) {
            continue;
        }
        if let Some(slice) = entry.decode::<EndpointSlice>() {
            backends.extend(ready(&slice, port_name));
        }
    }
    if backends.is_empty() {
        return Err(unavailable(&format!(
            "no endpoints available for service {service:?}"
        )));
    }
    let chosen = usize::try_from(server.random.below(backends.len() as u64)).unwrap_or(0);
    Ok(backends.swap_remove(chosen))
}

/// The ready endpoints of a slice, with the number of its port of this name.
fn ready(slice: &EndpointSlice, port_name: &str) -> Vec<(String, u16)> {
    let mut ports = slice.ports.iter().flatten();
    let port = ports
        .find(|port| port.name.as_deref().unwrap_or_default() == port_name)
        .and_then(|port| u16::try_from(port.port?).ok());
    let Some(port) = port else {
        return Vec::new();
    };
    let endpoints = slice.endpoints.iter().flatten();
    endpoints
        .filter(|endpoint| {
            endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true)
        })
        .filter_map(|endpoint| Some((endpoint.addresses.first()?.clone(), port)))
        .collect()
}
