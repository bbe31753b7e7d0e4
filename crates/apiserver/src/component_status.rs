//! `componentstatuses`: how the parts of the control plane do, as they are asked for; nothing is stored.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult};

use crate::content::{self, Shape};
use crate::registry::Resource;
use crate::server::Call;
use crate::table;

/// Parts that show by a lease in kube-system that they are there.
const LED: [(&str, &str); 2] = [
    ("controller-manager", "kube-controller-manager"),
    ("scheduler", "kube-scheduler"),
];

/// Answers a GET of one (`name`) or of all.
pub(crate) async fn answer(
    call: &Call,
    resource: &Resource,
    name: Option<&str>,
) -> ApiResult<Response<Body>> {
    call.warn("v1 ComponentStatus is deprecated in v1.19+");
    let accepted = content::negotiate(call, name.is_none())?;
    let mut found = Vec::new();
    for (component, lease) in LED {
        if let Some(healthy) = led(call, lease).await? {
            let message = if healthy { "ok" } else { "its lease ran out" };
            found.push(status(component, healthy, message));
        }
    }
    found.push(match call.server.store.revision().await {
        Ok(_) => status("etcd-0", true, "ok"),
        Err(error) => status("etcd-0", false, &error.to_string()),
    });
    if let Some(name) = name {
        found.retain(|status| status["metadata"]["name"] == *name);
        if found.is_empty() {
            return Err(ApiError::not_found("", "componentstatuses", name));
        }
    }
    let bytes: Vec<Bytes> = found
        .iter()
        .map(|status| status.to_string().into())
        .collect();
    let document = match accepted.shape {
        Shape::Table(version) => {
            let rows = table::rows(call, resource, bytes.iter())?;
            table::table(resource, version, &json!({}), rows, true)
        }
        Shape::Object | Shape::Metadata => {
            let metadata_only = accepted.shape == Shape::Metadata;
            if metadata_only {
                for status in &mut found {
                    *status = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": status["metadata"]});
                }
            }
            match name {
                Some(_) => found.into_iter().next().unwrap_or_default(),
                None => {
                    let (kind, version) = match metadata_only {
                        true => ("PartialObjectMetadataList", "meta.k8s.io/v1"),
                        false => ("ComponentStatusList", "v1"),
                    };
                    json!({"kind": kind, "apiVersion": version, "metadata": {}, "items": found})
                }
            }
        }
    };
    Ok(content::value_response(call, accepted, 200, &document))
}

/// Whether the holder of a lease renews it; `None`: there is no such lease.
async fn led(call: &Call, name: &str) -> ApiResult<Option<bool>> {
    let registry = call.server.registry.load_full();
    let Some(leases) = registry.stored("coordination.k8s.io", "leases") else {
        return Ok(None);
    };
    let entry = call.server.lookup(leases, "kube-system", name).await?;
    let Some(spec) = entry
        .and_then(|entry| entry.decode::<Lease>())
        .and_then(|lease| lease.spec)
    else {
        return Ok(None);
    };
    let life = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    let renewed = spec.renew_time.map_or(0, |time| time.0.as_second());
    Ok(Some(
        renewed.saturating_add(life) >= call.server.now().as_second(),
    ))
}

fn status(name: &str, healthy: bool, message: &str) -> Value {
    let healthy = if healthy { "True" } else { "False" };
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": healthy, "message": message}],
    })
}
