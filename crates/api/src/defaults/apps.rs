//! Defaults of the apps group.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::core::{default_persistent_volume_claim, default_pod_template_spec};
use crate::validation::absent::{default_text, default_value, text};

const ROLLING: &str = "RollingUpdate";
const HISTORY: i32 = 10;
const PROGRESS_SECONDS: i32 = 600;

/// A Deployment: one replica, replaced a quarter at a time.
pub fn default_deployment(deployment: &mut Deployment) {
    let spec = deployment.spec.get_or_insert_with(Default::default);
    default_value(&mut spec.replicas, 1);
    let strategy = spec.strategy.get_or_insert_with(Default::default);
    default_text(&mut strategy.type_, ROLLING);
    if text(&strategy.type_) == ROLLING {
        let rolling = strategy.rolling_update.get_or_insert_with(Default::default);
        default_value(
            &mut rolling.max_unavailable,
            IntOrString::String("25%".into()),
        );
        default_value(&mut rolling.max_surge, IntOrString::String("25%".into()));
    }
    default_value(&mut spec.revision_history_limit, HISTORY);
    default_value(&mut spec.progress_deadline_seconds, PROGRESS_SECONDS);
    default_pod_template_spec(&mut spec.template);
    default_value(&mut deployment.status, Default::default());
}

/// A ReplicaSet: one replica.
pub fn default_replica_set(set: &mut ReplicaSet) {
    let spec = set.spec.get_or_insert_with(Default::default);
    default_value(&mut spec.replicas, 1);
    default_pod_template_spec(spec.template.get_or_insert_with(Default::default));
    default_value(&mut set.status, Default::default());
}

/// A DaemonSet: one node at a time.
pub fn default_daemon_set(set: &mut DaemonSet) {
    let spec = set.spec.get_or_insert_with(Default::default);
    let strategy = spec.update_strategy.get_or_insert_with(Default::default);
    default_text(&mut strategy.type_, ROLLING);
    if text(&strategy.type_) == ROLLING {
        let rolling = strategy.rolling_update.get_or_insert_with(Default::default);
        default_value(&mut rolling.max_unavailable, IntOrString::Int(1));
        default_value(&mut rolling.max_surge, IntOrString::Int(0));
    }
    default_value(&mut spec.revision_history_limit, HISTORY);
    default_pod_template_spec(&mut spec.template);
    default_value(&mut set.status, Default::default());
}

/// A StatefulSet: one replica, in order, claims kept.
pub fn default_stateful_set(set: &mut StatefulSet) {
    let spec = set.spec.get_or_insert_with(Default::default);
    default_text(&mut spec.pod_management_policy, "OrderedReady");
    let strategy = spec.update_strategy.get_or_insert_with(Default::default);
    if text(&strategy.type_).is_empty() {
        strategy.type_ = Some(ROLLING.into());
        default_value(&mut strategy.rolling_update, Default::default());
    }
    if text(&strategy.type_) == ROLLING
        && let Some(rolling) = &mut strategy.rolling_update
    {
        default_value(&mut rolling.partition, 0);
    }
    let retention = spec
        .persistent_volume_claim_retention_policy
        .get_or_insert_with(Default::default);
    default_text(&mut retention.when_deleted, "Retain");
    default_text(&mut retention.when_scaled, "Retain");
    default_value(&mut spec.replicas, 1);
    default_value(&mut spec.revision_history_limit, HISTORY);
    default_pod_template_spec(&mut spec.template);
    spec.volume_claim_templates
        .iter_mut()
        .flatten()
        .for_each(default_persistent_volume_claim);
    default_value(&mut set.status, Default::default());
}
