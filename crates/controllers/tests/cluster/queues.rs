//! The metrics of controllers' queues are called as upstream's.

use std::collections::BTreeSet;

use crate::running::{start, until};

/// As upstream 1.36 names them; the provisioner of directories is ours alone.
const NAMES: &str = "ClusterRoleAggregator bootstrap_signer_queue certificate cidrallocator_node claims cronjob csrcleaner daemonset
    deployment device-taint-eviction-controller dir-provisioner dir-provisioner-volumes disruption endpoint endpoint_slice
    endpoint_slice_mirroring ephemeral_volume garbage_collector_attempt_to_delete horizontalpodautoscaler ipaddresses job
    job_orphan_pod namespace node_lifecycle_controller noexec_taint_pod orphaned_pods_nodes pvcprotection pvcs pvprotection
    replicaset replicationmanager resource_claim resourcequota_primary root_ca_cert_publisher serviceaccount
    serviceaccount_tokens_service stale_pod_disruption statefulset token_cleaner ttl_jobs_to_delete ttlcontroller
    vacprotection validatingadmissionpolicy-status volume_expand volumes";

#[tokio::test]
async fn queues_are_called_as_upstream_calls_them() {
    let running = start().await;
    let expected: BTreeSet<&str> = NAMES.split_whitespace().collect();
    let known = || {
        let mut text = String::new();
        running.queues.write(&mut text);
        let depths = text.lines().filter_map(|line| {
            let (name, _) = line
                .strip_prefix("workqueue_depth{name=\"")?
                .split_once('"')?;
            Some(name.to_owned())
        });
        depths.collect::<BTreeSet<String>>()
    };
    until("all controllers have their queues", || async {
        (known().len() >= expected.len()).then_some(())
    })
    .await;
    let known = known();
    let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    assert_eq!(known, expected);
}
