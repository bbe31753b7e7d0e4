//! A pod as the controllers' cache holds it: what one of them reads and nothing else, for there may be many thousands. Where
//! `k8s_openapi` has a `Pod`, this one has the same fields under the same names. It cannot be written: pods are made from
//! templates and changed by patches.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{
    self, Affinity, ContainerPort, ContainerState, EphemeralVolumeSource,
    PersistentVolumeClaimVolumeSource, PodCondition, PodExtendedResourceClaimStatus, PodIP,
    PodResourceClaim, PodResourceClaimStatus, ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: Option<Box<PodSpec>>,
    pub status: Option<Box<PodStatus>>,
}

/// What it is to be.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    pub active_deadline_seconds: Option<i64>,
    pub affinity: Option<Box<Affinity>>,
    pub containers: Vec<Container>,
    pub hostname: Option<String>,
    pub init_containers: Option<Vec<Container>>,
    pub node_name: Option<String>,
    pub overhead: Option<BTreeMap<String, Quantity>>,
    pub priority_class_name: Option<String>,
    pub resource_claims: Option<Vec<PodResourceClaim>>,
    pub resources: Option<Box<ResourceRequirements>>,
    pub subdomain: Option<String>,
    pub tolerations: Option<Vec<Toleration>>,
    /// Those that are claims, or have one made for them: others concern the node only.
    #[serde(deserialize_with = "claims")]
    pub volumes: Option<Vec<Volume>>,
}

/// A container, a sidecar or one that prepares.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    pub ports: Option<Vec<ContainerPort>>,
    pub resources: Option<Box<ResourceRequirements>>,
    pub restart_policy: Option<String>,
}

/// A volume.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    pub ephemeral: Option<Box<EphemeralVolumeSource>>,
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
}

/// What it is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    pub conditions: Option<Vec<PodCondition>>,
    pub container_statuses: Option<Vec<ContainerStatus>>,
    pub extended_resource_claim_status: Option<Box<PodExtendedResourceClaimStatus>>,
    pub init_container_statuses: Option<Vec<ContainerStatus>>,
    pub message: Option<String>,
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIP>>,
    pub reason: Option<String>,
    pub resource_claim_statuses: Option<Vec<PodResourceClaimStatus>>,
    pub start_time: Option<Time>,
}

/// What a container is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    pub name: String,
    pub restart_count: i32,
    pub state: Option<Box<ContainerState>>,
}

impl Pod {
    /// The claim behind its volume of that name.
    #[must_use]
    pub fn claim_of(&self, volume: &str) -> Option<&str> {
        let mut volumes = self.spec.as_ref()?.volumes.iter().flatten();
        let volume = volumes.find(|found| found.name == volume)?;
        Some(&*volume.persistent_volume_claim.as_ref()?.claim_name)
    }

    /// What quotas count of it.
    #[must_use]
    pub fn counted(&self) -> v1::Pod {
        let container = |own: &Container| v1::Container {
            name: own.name.clone(),
            resources: own.resources.as_deref().cloned(),
            restart_policy: own.restart_policy.clone(),
            ..v1::Container::default()
        };
        let spec = self.spec.as_ref().map(|own| v1::PodSpec {
            active_deadline_seconds: own.active_deadline_seconds,
            affinity: own.affinity.as_deref().cloned(),
            containers: own.containers.iter().map(container).collect(),
            init_containers: own
                .init_containers
                .as_ref()
                .map(|all| all.iter().map(container).collect()),
            overhead: own.overhead.clone(),
            priority_class_name: own.priority_class_name.clone(),
            resources: own.resources.as_deref().cloned(),
            ..v1::PodSpec::default()
        });
        let status = self.status.as_ref().map(|own| v1::PodStatus {
            phase: own.phase.clone(),
            ..v1::PodStatus::default()
        });
        v1::Pod {
            metadata: ObjectMeta {
                deletion_grace_period_seconds: self.metadata.deletion_grace_period_seconds,
                deletion_timestamp: self.metadata.deletion_timestamp.clone(),
                ..ObjectMeta::default()
            },
            spec,
            status,
        }
    }
}

impl kube::Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn claims<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Volume>>, D::Error> {
    let mut volumes = Option::<Vec<Volume>>::deserialize(from)?;
    if let Some(volumes) = &mut volumes {
        volumes.retain(|volume| {
            volume.ephemeral.is_some() || volume.persistent_volume_claim.is_some()
        });
        volumes.shrink_to_fit();
    }
    Ok(volumes)
}

/// Gives back the room that lists were given to grow.
pub fn trim(pod: &mut Pod) {
    if let Some(owners) = &mut pod.metadata.owner_references {
        owners.shrink_to_fit();
    }
    if let Some(spec) = &mut pod.spec {
        spec.containers.shrink_to_fit();
        shrink(&mut spec.init_containers);
        shrink(&mut spec.tolerations);
    }
    if let Some(status) = &mut pod.status {
        shrink(&mut status.conditions);
        shrink(&mut status.container_statuses);
        shrink(&mut status.init_container_statuses);
        shrink(&mut status.pod_ips);
    }
}

fn shrink<T>(list: &mut Option<Vec<T>>) {
    list.iter_mut().for_each(Vec::shrink_to_fit);
}

/// What the cache shows of a pod once it is written so.
#[cfg(test)]
pub(crate) fn seen(pod: &v1::Pod) -> Pod {
    serde_json::from_value(serde_json::to_value(pod).unwrap()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_decides_about_a_pod_is_seen() {
        let kept = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]},
            "spec": {
                "nodeName": "n", "hostname": "h", "tolerations": [{"operator": "Exists"}], "affinity": {},
                "containers": [{"name": "c", "ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": "1"}}}],
                "initContainers": [{"name": "i", "restartPolicy": "Always"}],
                "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "d"}}, {"name": "e", "ephemeral": {}}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [
                {"name": "c", "restartCount": 1, "state": {"running": {}}}]},
        });
        let mut whole = kept.clone();
        whole["spec"]["containers"][0]["env"] = json!([{"name": "A"}]);
        whole["spec"]["containers"][0]["image"] = json!("i");
        whole["spec"]["initContainers"][0]["command"] = json!(["x"]);
        whole["spec"]["securityContext"] = json!({});
        let volumes = whole["spec"]["volumes"].as_array_mut().unwrap();
        volumes.insert(1, json!({"name": "s", "secret": {"secretName": "s"}}));
        whole["status"]["containerStatuses"][0]["image"] = json!("i");
        whole["status"]["containerStatuses"][0]["ready"] = json!(true);
        let mut pod: Pod = serde_json::from_value(whole).unwrap();
        trim(&mut pod);
        assert_eq!(pod, serde_json::from_value(kept).unwrap());
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(
            (spec.node_name.as_deref(), spec.containers.len()),
            (Some("n"), 1)
        );
        assert_eq!((pod.claim_of("d"), pod.claim_of("e")), (Some("d"), None));
        assert_eq!(crate::pods::phase(&pod), "Running");
    }

    #[test]
    fn quotas_count_what_they_count_of_the_whole() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        for spec in [
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "a/b": "2"}, "limits": {"memory": "1Gi"}}}],
                "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "300m"}}}, {"name": "i", "resources": {"requests": {"cpu": "5"}}}],
                "overhead": {"cpu": "10m"}}),
            json!({"containers": [{"name": "c"}], "resources": {"requests": {"cpu": "3"}}, "activeDeadlineSeconds": 1}),
            json!({"containers": [{"name": "c"}], "priorityClassName": "p", "affinity": {"podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "t", "namespaces": ["n"]}]}}}),
        ] {
            let overdue = json!({"name": "p", "deletionTimestamp": "1969-12-31T23:00:00Z", "deletionGracePeriodSeconds": 30});
            for (meta, status) in [
                (json!({"name": "p"}), json!({"phase": "Running"})),
                (json!({"name": "p"}), json!({"phase": "Failed"})),
                (overdue, json!({"phase": "Running"})),
            ] {
                let whole: v1::Pod = serde_json::from_value(
                    json!({"metadata": meta, "spec": spec, "status": status}),
                )
                .unwrap();
                let counted = seen(&whole).counted();
                let used = |pod: &v1::Pod| skiff_api::quota::pod_usage(pod, now);
                assert_eq!(used(&counted), used(&whole), "{spec}");
                for scope in [
                    "Terminating",
                    "BestEffort",
                    "PriorityClass",
                    "CrossNamespacePodAffinity",
                ] {
                    let quota = serde_json::from_value(json!({"scopes": [scope]})).unwrap();
                    let taken = |pod: &v1::Pod| skiff_api::quota::in_scope(&quota, Some(pod));
                    assert_eq!(taken(&counted), taken(&whole), "{scope} {spec}");
                }
            }
        }
    }
}
