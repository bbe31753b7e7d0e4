//! What the controllers' cache holds of a pod: what none of them reads is left out, for there may be many thousands.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};

/// Leaves out of a pod how its containers are run; what decides about it stays. So a pod of the cache cannot be written
/// back whole.
pub fn trim(pod: &mut Pod) {
    if let Some(owners) = &mut pod.metadata.owner_references {
        owners.shrink_to_fit();
    }
    if let Some(spec) = &mut pod.spec {
        trim_spec(spec);
    }
    if let Some(status) = &mut pod.status {
        trim_status(status);
    }
}

fn trim_spec(spec: &mut PodSpec) {
    spec.dns_config = None;
    spec.host_aliases = None;
    spec.image_pull_secrets = None;
    spec.security_context = None;
    spec.service_account = None;
    spec.topology_spread_constraints = None;
    let init = spec.init_containers.iter_mut();
    for containers in init.chain([&mut spec.containers]) {
        containers.iter_mut().for_each(trim_container);
        containers.shrink_to_fit();
    }
    if let Some(volumes) = &mut spec.volumes {
        // Only claims concern anybody but the node.
        volumes.retain(|volume| {
            volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
        });
        volumes.shrink_to_fit();
    }
    if let Some(tolerations) = &mut spec.tolerations {
        tolerations.shrink_to_fit();
    }
}

fn trim_container(container: &mut Container) {
    // What is named stays.
    *container = Container {
        name: std::mem::take(&mut container.name),
        ports: container.ports.take(),
        resources: container.resources.take(),
        restart_policy: container.restart_policy.take(),
        restart_policy_rules: container.restart_policy_rules.take(),
        ..Container::default()
    };
}

fn trim_status(status: &mut PodStatus) {
    if let Some(conditions) = &mut status.conditions {
        conditions.shrink_to_fit();
    }
    let lists = [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for statuses in lists.into_iter().flatten() {
        statuses.iter_mut().for_each(trim_container_status);
        statuses.shrink_to_fit();
    }
}

fn trim_container_status(status: &mut ContainerStatus) {
    status.allocated_resources = None;
    status.allocated_resources_status = None;
    status.container_id = None;
    status.image = String::new();
    status.image_id = String::new();
    status.user = None;
    status.volume_mounts = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_decides_about_a_pod_stays() {
        let kept = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]},
            "spec": {
                "nodeName": "n", "hostname": "h", "tolerations": [{"operator": "Exists"}], "affinity": {},
                "containers": [{"name": "c", "ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": "1"}}}],
                "initContainers": [{"name": "i", "restartPolicy": "Always"}],
                "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "d"}}, {"name": "e", "ephemeral": {}}],
            },
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 1, "state": {"running": {}}}]},
        });
        let mut whole = kept.clone();
        whole["spec"]["containers"][0]["env"] = json!([{"name": "A"}]);
        whole["spec"]["containers"][0]["image"] = json!("i");
        whole["spec"]["initContainers"][0]["command"] = json!(["x"]);
        whole["spec"]["securityContext"] = json!({});
        let volumes = whole["spec"]["volumes"].as_array_mut().unwrap();
        volumes.insert(1, json!({"name": "s", "secret": {"secretName": "s"}}));
        whole["status"]["containerStatuses"][0]["image"] = json!("i");
        whole["status"]["containerStatuses"][0]["containerID"] = json!("c://1");
        let mut pod: Pod = serde_json::from_value(whole).unwrap();
        trim(&mut pod);
        assert_eq!(pod, serde_json::from_value(kept).unwrap());
    }
}
