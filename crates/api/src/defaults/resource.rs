//! Defaults of the resource.k8s.io group.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{
    DeviceToleration, ResourceClaim, ResourceClaimSpec, ResourceClaimTemplate, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::validation::absent::{default_text, default_value, text};
use crate::validation::quantity::canonicalise;

/// A ResourceClaim.
pub fn default_resource_claim(claim: &mut ResourceClaim) {
    default_claim_spec(&mut claim.spec);
    default_value(&mut claim.status, Default::default());
}

/// A ResourceClaimTemplate.
pub fn default_resource_claim_template(template: &mut ResourceClaimTemplate) {
    default_value(&mut template.spec.metadata, Default::default());
    default_claim_spec(&mut template.spec.spec);
}

fn default_claim_spec(spec: &mut ResourceClaimSpec) {
    let devices = spec.devices.get_or_insert_with(Default::default);
    for request in devices.requests.iter_mut().flatten() {
        if let Some(exact) = &mut request.exactly {
            default_count(&mut exact.allocation_mode, &mut exact.count);
            default_tolerations(&mut exact.tolerations);
        }
        for alternative in request.first_available.iter_mut().flatten() {
            default_count(&mut alternative.allocation_mode, &mut alternative.count);
            default_tolerations(&mut alternative.tolerations);
        }
    }
}

fn default_count(mode: &mut Option<String>, count: &mut Option<i64>) {
    default_text(mode, "ExactCount");
    if text(mode) == "ExactCount" && count.unwrap_or(0) == 0 {
        *count = Some(1);
    }
}

fn default_tolerations(tolerations: &mut Option<Vec<DeviceToleration>>) {
    for toleration in tolerations.iter_mut().flatten() {
        default_text(&mut toleration.operator, "Equal");
    }
}

/// A ResourceSlice.
pub fn default_resource_slice(slice: &mut ResourceSlice) {
    for device in slice.spec.devices.iter_mut().flatten() {
        for capacity in device.capacity.iter_mut().flat_map(|map| map.values_mut()) {
            canonicalise(&mut capacity.value);
        }
        let mappings = device.node_allocatable_resource_mappings.iter_mut();
        for mapping in mappings.flat_map(|map| map.values_mut()) {
            default_value(&mut mapping.allocation_multiplier, Quantity("1".into()));
        }
    }
}

/// Taints of devices that do not say since when they are there are there since `now`, to the second.
pub fn default_taint_times(slice: &mut ResourceSlice, now: Timestamp) {
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let devices = slice.spec.devices.iter_mut().flatten();
    for taint in devices.flat_map(|device| device.taints.iter_mut().flatten()) {
        default_value(&mut taint.time_added, Time(second));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn taints_are_there_since_they_were_written() {
        let mut slice: ResourceSlice = serde_json::from_value(json!({"metadata": {}, "spec": {
            "driver": "d", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "a", "taints": [{"key": "k", "effect": "NoExecute"},
                {"key": "l", "effect": "NoSchedule", "timeAdded": "2026-01-02T03:04:05Z"}]}]}}))
        .unwrap();
        let now: Timestamp = "2026-11-21T01:02:03.456Z".parse().unwrap();
        default_taint_times(&mut slice, now);
        let slice = serde_json::to_value(slice).unwrap();
        let taints = &slice["spec"]["devices"][0]["taints"];
        assert_eq!(taints[0]["timeAdded"], "2026-11-21T01:02:03Z");
        assert_eq!(taints[1]["timeAdded"], "2026-01-02T03:04:05Z");
    }
}
