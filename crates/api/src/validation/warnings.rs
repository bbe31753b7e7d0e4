//! What clients are told about objects of small kinds that are sound but not as their authors may think.
//!
//! The warnings of larger kinds stand beside their validation.

use k8s_openapi::api::core::v1::{LoadBalancerIngress, PodTemplate, ResourceQuota, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIStorageCapacity, StorageClass};

use super::absent::{entries, entry, items, text};
use super::core::pod::{deprecated_node_label, template_warnings};
use super::net;
use super::quantity::Amount;
use crate::field::Path;

/// Of a PodTemplate; on updates only if what it says has changed.
#[must_use]
pub fn warnings_pod_template(new: &PodTemplate, old: Option<&PodTemplate>) -> Vec<String> {
    if old.is_some_and(|old| old.metadata.generation == new.metadata.generation) {
        return Vec::new();
    }
    let template = new.template.as_ref();
    template.map_or_else(Vec::new, |template| {
        template_warnings(template, &Path::new("template"))
    })
}

/// Of a ResourceQuota: requests that may be more than the limits. Nothing on updates.
#[must_use]
pub fn warnings_resource_quota(new: &ResourceQuota, old: Option<&ResourceQuota>) -> Vec<String> {
    let Some(spec) = new.spec.as_ref().filter(|_| old.is_none()) else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let mut asked = format!("requests.{name}");
        let mut request = entry(&spec.hard, &asked);
        if request.is_none() && matches!(name, "cpu" | "memory") {
            name.clone_into(&mut asked);
            request = entry(&spec.hard, name);
        }
        let most = format!("limits.{name}");
        if let (Some(request), Some(limit)) = (request, entry(&spec.hard, &most))
            && Amount::of(request) > Amount::of(limit)
        {
            warnings.push(format!(
                "ResourceQuota {asked} ({}) should be less than {most} ({})",
                request.0, limit.0
            ));
        }
    }
    warnings
}

/// Of a RuntimeClass: node labels that have had their day.
#[must_use]
pub fn warnings_runtime_class(new: &RuntimeClass) -> Vec<String> {
    let Some(scheduling) = &new.scheduling else {
        return Vec::new();
    };
    let path = Path::new("scheduling").child("nodeSelector");
    entries(&scheduling.node_selector)
        .filter_map(|(key, _)| {
            let message = deprecated_node_label(key)?;
            Some(format!("{}: {message}", path.key(key)))
        })
        .collect()
}

/// Of a StorageClass: node labels that have had their day.
#[must_use]
pub fn warnings_storage_class(new: &StorageClass) -> Vec<String> {
    let mut warnings = Vec::new();
    let path = Path::new("allowedTopologies");
    for (index, term) in items(&new.allowed_topologies).iter().enumerate() {
        let path = path.index(index).child("matchLabelExpressions");
        let expressions = items(&term.match_label_expressions);
        for (index, expression) in expressions.iter().enumerate() {
            if let Some(message) = deprecated_node_label(&expression.key) {
                warnings.push(format!("{}: {message}", path.index(index).child("key")));
            }
        }
    }
    warnings
}

/// Of a CSIStorageCapacity: node labels that have had their day.
#[must_use]
pub fn warnings_csi_storage_capacity(new: &CSIStorageCapacity) -> Vec<String> {
    let Some(selector) = &new.node_topology else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    let path = Path::new("nodeTopology");
    for (index, expression) in items(&selector.match_expressions).iter().enumerate() {
        let key = &expression.key;
        if let Some(message) = deprecated_node_label(key) {
            let path = path.child("matchExpressions").index(index).child("key");
            warnings.push(format!("{path}: {key} is {message}"));
        }
    }
    for (label, _) in entries(&selector.match_labels) {
        if let Some(message) = deprecated_node_label(label) {
            let path = path.child("matchLabels").child(label);
            warnings.push(format!("{path}: {message}"));
        }
    }
    warnings
}

/// Of a CSIDriver that gets tokens where others may read them.
#[must_use]
pub fn warnings_csi_driver(new: &CSIDriver, old: Option<&CSIDriver>) -> Vec<String> {
    const TOLD: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
    let requests = items(&new.spec.token_requests);
    let changed = old.is_none_or(|old| items(&old.spec.token_requests) != requests);
    if changed && !requests.is_empty() && new.spec.service_account_token_in_secrets.is_none() {
        return vec![TOLD.to_owned()];
    }
    Vec::new()
}

/// Of a ResourceSlice whose driver's name is not in lower case.
#[must_use]
pub fn warnings_resource_slice(new: &ResourceSlice) -> Vec<String> {
    let driver = &new.spec.driver;
    if driver.chars().any(char::is_uppercase) {
        return vec![format!(
            "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
        )];
    }
    Vec::new()
}

/// Of a Service's status: addresses that are not written as they should be.
#[must_use]
pub fn warnings_service_status(new: &Service) -> Vec<String> {
    let balancer = new.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let points = balancer.map_or(&[][..], |balancer| items(&balancer.ingress));
    address_warnings(
        points
            .iter()
            .map(|point: &LoadBalancerIngress| text(&point.ip)),
    )
}

/// Of an Ingress' status: addresses that are not written as they should be.
#[must_use]
pub fn warnings_ingress_status(new: &Ingress) -> Vec<String> {
    let balancer = new.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let points = balancer.map_or(&[][..], |balancer| items(&balancer.ingress));
    address_warnings(points.iter().map(|point| text(&point.ip)))
}

fn address_warnings<'a>(addresses: impl Iterator<Item = &'a str>) -> Vec<String> {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    addresses
        .enumerate()
        .filter(|(_, ip)| !ip.is_empty())
        .flat_map(|(index, ip)| net::ip_warnings(&path.index(index), ip))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn of<T: DeserializeOwned>(document: Value) -> T {
        serde_json::from_value(document).expect("sample")
    }

    #[test]
    fn quotas() {
        let table: [(Value, &[&str]); 4] = [
            (json!({"requests.cpu": "2", "limits.cpu": "2000m"}), &[]),
            (
                json!({"cpu": "3", "limits.cpu": "2", "requests.storage": "2Gi", "limits.storage": "1Gi"}),
                &[
                    "ResourceQuota cpu (3) should be less than limits.cpu (2)",
                    "ResourceQuota requests.storage (2Gi) should be less than limits.storage (1Gi)",
                ],
            ),
            // The bare name counts for these only where there is no other.
            (
                json!({"memory": "3Gi", "requests.memory": "1Gi", "limits.memory": "2Gi"}),
                &[],
            ),
            (json!({"storage": "3Gi", "limits.storage": "1Gi"}), &[]),
        ];
        for (hard, expected) in table {
            let quota: ResourceQuota = of(json!({"metadata": {}, "spec": {"hard": hard}}));
            assert_eq!(warnings_resource_quota(&quota, None), expected, "{hard}");
            assert!(warnings_resource_quota(&quota, Some(&quota)).is_empty());
        }
    }

    #[test]
    fn node_labels() {
        let old = "deprecated since v1.14; use \"kubernetes.io/os\" instead";
        let class: RuntimeClass = of(json!({"handler": "h", "metadata": {},
            "scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "a", "kubernetes.io/os": "b"}}}));
        assert_eq!(
            warnings_runtime_class(&class),
            [format!(
                "scheduling.nodeSelector[beta.kubernetes.io/os]: {old}"
            )]
        );
        let class: StorageClass = of(
            json!({"provisioner": "p", "metadata": {}, "allowedTopologies": [
            {"matchLabelExpressions": [{"key": "a", "values": []}, {"key": "beta.kubernetes.io/os", "values": []}]}]}),
        );
        assert_eq!(
            warnings_storage_class(&class),
            [format!(
                "allowedTopologies[0].matchLabelExpressions[1].key: {old}"
            )]
        );
        let capacity: CSIStorageCapacity = of(
            json!({"metadata": {}, "storageClassName": "s", "nodeTopology": {
            "matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "Exists"}], "matchLabels": {"beta.kubernetes.io/os": "x"}}}),
        );
        assert_eq!(
            warnings_csi_storage_capacity(&capacity),
            [
                format!("nodeTopology.matchExpressions[0].key: beta.kubernetes.io/os is {old}"),
                format!("nodeTopology.matchLabels.beta.kubernetes.io/os: {old}")
            ]
        );
    }

    #[test]
    fn drivers() {
        let with: CSIDriver =
            of(json!({"metadata": {}, "spec": {"tokenRequests": [{"audience": "a"}]}}));
        let without: CSIDriver = of(json!({"metadata": {}, "spec": {}}));
        assert_eq!(warnings_csi_driver(&with, None).len(), 1);
        assert_eq!(warnings_csi_driver(&with, Some(&without)).len(), 1);
        assert_eq!(warnings_csi_driver(&with, Some(&with)).len(), 0);
        assert_eq!(warnings_csi_driver(&without, None).len(), 0);
        let set: CSIDriver = of(
            json!({"metadata": {}, "spec": {"serviceAccountTokenInSecrets": false, "tokenRequests": [{"audience": "a"}]}}),
        );
        assert_eq!(warnings_csi_driver(&set, None).len(), 0);
        let slice: ResourceSlice = of(
            json!({"metadata": {}, "spec": {"driver": "A.example", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
        );
        assert_eq!(
            warnings_resource_slice(&slice),
            [
                "spec.driver: driver names should be lowercase; \"A.example\" contains uppercase characters"
            ]
        );
    }

    #[test]
    fn addresses_of_status() {
        let service: Service = of(
            json!({"metadata": {}, "status": {"loadBalancer": {"ingress": [
            {"ip": "10.0.0.1"}, {"hostname": "h"}, {"ip": "010.0.0.1"}]}}}),
        );
        let warnings = warnings_service_status(&service);
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].starts_with("status.loadBalancer.ingress[2]"),
            "{warnings:?}"
        );
    }

    #[test]
    fn templates() {
        let template: PodTemplate =
            of(json!({"metadata": {"generation": 1}, "template": {"spec": {
            "terminationGracePeriodSeconds": -1, "containers": []}}}));
        let expected = [
            "template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ];
        assert_eq!(warnings_pod_template(&template, None), expected);
        assert!(warnings_pod_template(&template, Some(&template)).is_empty());
    }
}
