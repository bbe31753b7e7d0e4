//! The table of old versions.

use super::convert::{
    ON_DELETE, binding_from_storage, binding_to_storage, daemon_set_from_storage,
    daemon_set_to_storage, default_path_types, default_selector, deployment_from_storage,
    deployment_to_storage, disruption_budget_from_storage, disruption_budget_to_storage,
    endpoint_slice_from_storage, endpoint_slice_to_storage, ingress_from_storage,
    ingress_to_storage, no_defaults, reversioned,
};
use super::{Conversion, Kind, Old, Subresource, autoscaling};

/// An old version: its API version, the package of its types, the stored kind with its version and package, and then,
/// where they differ, defaults, the two conversions and the subresources.
macro_rules! old {
    ($group:literal $version:literal $kind:literal = $package:literal, $of:path, $stored:literal $from:literal) => {
        old!($group $version $kind = $package, $of, $stored $from, no_defaults)
    };
    ($group:literal $version:literal $kind:literal = $package:literal, $of:path, $stored:literal $from:literal, $default:expr) => {
        old!($group $version $kind = $package, $of, $stored $from, $default,
            |value| reversioned(value, $stored), |value| reversioned(value, concat!($group, "/", $version)))
    };
    ($group:literal $version:literal $kind:literal = $package:literal, $of:path, $stored:literal $from:literal, $default:expr, $to_storage:expr, $from_storage:expr) => {
        Kind {
            group: $group,
            version: $version,
            schema: concat!("io.k8s.api.", $package, ".", $kind),
            subresources: {
                const SUBRESOURCES: &[Subresource] = &[
                    Subresource::status($group, $version, $kind),
                    Subresource::SCALE,
                ];
                subresources(&$of, SUBRESOURCES)
            },
            conversion: Some(Conversion {
                storage_version: $stored,
                to_storage: $to_storage,
                from_storage: $from_storage,
            }),
            ops: &Old {
                stored: $of.ops,
                packages: ($package, $from),
                default: $default,
                to_storage: $to_storage,
            },
            ..$of
        }
    };
}

/// As many of `all` (status, scale) as the stored kind has.
const fn subresources(stored: &Kind, all: &'static [Subresource]) -> &'static [Subresource] {
    match (stored.subresources.len(), all) {
        (0, _) | (_, []) => &[],
        (1, [status, ..]) => std::slice::from_ref(status),
        _ => all,
    }
}

use crate::admissionregistration::{
    mutating_admission_policy as mutating_policy,
    mutating_admission_policy_binding as mutating_binding,
    validating_admission_policy as validating_policy,
    validating_admission_policy_binding as validating_binding,
};
use crate::apps::{controller_revision, daemon_set, deployment, replica_set, stateful_set};
use crate::autoscaling::horizontal_pod_autoscaler as autoscaler;
use crate::batch::cron_job;
use crate::networking::{ingress, ingress_class, ip_address, network_policy, service_cidr};
use crate::rbac::{cluster_role, cluster_role_binding, role, role_binding};
use crate::resource::{device_class, resource_claim, resource_claim_template, resource_slice};
use crate::storage::{
    csi_driver, csi_node, csi_storage_capacity, storage_class, volume_attachment,
    volume_attributes_class,
};

#[rustfmt::skip]
pub(super) static KINDS: [Kind; 51] = [
    old!("apps" "v1beta2" "ControllerRevision" = "apps.v1beta2", controller_revision::KIND, "apps/v1" "apps.v1"),
    old!("apps" "v1beta2" "DaemonSet" = "apps.v1beta2", daemon_set::KIND, "apps/v1" "apps.v1"),
    old!("apps" "v1beta2" "Deployment" = "apps.v1beta2", deployment::KIND, "apps/v1" "apps.v1"),
    old!("apps" "v1beta2" "ReplicaSet" = "apps.v1beta2", replica_set::KIND, "apps/v1" "apps.v1"),
    old!("apps" "v1beta2" "StatefulSet" = "apps.v1beta2", stateful_set::KIND, "apps/v1" "apps.v1"),
    old!("apps" "v1beta1" "ControllerRevision" = "apps.v1beta1", controller_revision::KIND, "apps/v1" "apps.v1"),
    old!("apps" "v1beta1" "Deployment" = "apps.v1beta1", deployment::KIND, "apps/v1" "apps.v1", default_selector,
        deployment_to_storage, |value| deployment_from_storage(value, "apps/v1beta1")),
    old!("apps" "v1beta1" "StatefulSet" = "apps.v1beta1", stateful_set::KIND, "apps/v1" "apps.v1", ON_DELETE),
    old!("autoscaling" "v2beta2" "HorizontalPodAutoscaler" = "autoscaling.v2beta2", autoscaler::KIND, "autoscaling/v2" "autoscaling.v2"),
    old!("autoscaling" "v2beta1" "HorizontalPodAutoscaler" = "autoscaling.v2beta1", autoscaler::KIND, "autoscaling/v2" "autoscaling.v2",
        no_defaults, autoscaling::to_storage, autoscaling::from_storage),
    old!("batch" "v1beta1" "CronJob" = "batch.v1beta1", cron_job::KIND, "batch/v1" "batch.v1"),
    old!("batch" "v2alpha1" "CronJob" = "batch.v2alpha1", cron_job::KIND, "batch/v1" "batch.v1"),
    old!("networking.k8s.io" "v1beta1" "Ingress" = "networking.v1beta1", ingress::KIND, "networking.k8s.io/v1" "networking.v1",
        default_path_types, ingress_to_storage, |value| ingress_from_storage(value, "networking.k8s.io/v1beta1")),
    old!("networking.k8s.io" "v1beta1" "IngressClass" = "networking.v1beta1", ingress_class::KIND, "networking.k8s.io/v1" "networking.v1"),
    old!("networking.k8s.io" "v1beta1" "IPAddress" = "networking.v1beta1", ip_address::KIND, "networking.k8s.io/v1" "networking.v1"),
    old!("networking.k8s.io" "v1beta1" "ServiceCIDR" = "networking.v1beta1", service_cidr::KIND, "networking.k8s.io/v1" "networking.v1"),
    old!("policy" "v1beta1" "PodDisruptionBudget" = "policy.v1beta1", crate::policy::pod_disruption_budget::KIND, "policy/v1" "policy.v1",
        no_defaults, disruption_budget_to_storage, disruption_budget_from_storage),
    old!("rbac.authorization.k8s.io" "v1beta1" "ClusterRole" = "rbac.v1beta1", cluster_role::KIND, "rbac.authorization.k8s.io/v1" "rbac.v1"),
    old!("rbac.authorization.k8s.io" "v1beta1" "ClusterRoleBinding" = "rbac.v1beta1", cluster_role_binding::KIND, "rbac.authorization.k8s.io/v1" "rbac.v1"),
    old!("rbac.authorization.k8s.io" "v1beta1" "Role" = "rbac.v1beta1", role::KIND, "rbac.authorization.k8s.io/v1" "rbac.v1"),
    old!("rbac.authorization.k8s.io" "v1beta1" "RoleBinding" = "rbac.v1beta1", role_binding::KIND, "rbac.authorization.k8s.io/v1" "rbac.v1"),
    old!("rbac.authorization.k8s.io" "v1alpha1" "ClusterRole" = "rbac.v1alpha1", cluster_role::KIND, "rbac.authorization.k8s.io/v1" "rbac.v1"),
    old!("rbac.authorization.k8s.io" "v1alpha1" "ClusterRoleBinding" = "rbac.v1alpha1", cluster_role_binding::KIND, "rbac.authorization.k8s.io/v1" "rbac.v1",
        no_defaults, binding_to_storage, binding_from_storage),
    old!("rbac.authorization.k8s.io" "v1alpha1" "Role" = "rbac.v1alpha1", role::KIND, "rbac.authorization.k8s.io/v1" "rbac.v1"),
    old!("rbac.authorization.k8s.io" "v1alpha1" "RoleBinding" = "rbac.v1alpha1", role_binding::KIND, "rbac.authorization.k8s.io/v1" "rbac.v1",
        no_defaults, binding_to_storage, binding_from_storage),
    old!("storage.k8s.io" "v1beta1" "CSIDriver" = "storage.v1beta1", csi_driver::KIND, "storage.k8s.io/v1" "storage.v1"),
    old!("storage.k8s.io" "v1beta1" "CSINode" = "storage.v1beta1", csi_node::KIND, "storage.k8s.io/v1" "storage.v1"),
    old!("storage.k8s.io" "v1beta1" "CSIStorageCapacity" = "storage.v1beta1", csi_storage_capacity::KIND, "storage.k8s.io/v1" "storage.v1"),
    old!("storage.k8s.io" "v1beta1" "StorageClass" = "storage.v1beta1", storage_class::KIND, "storage.k8s.io/v1" "storage.v1"),
    old!("storage.k8s.io" "v1beta1" "VolumeAttachment" = "storage.v1beta1", volume_attachment::KIND, "storage.k8s.io/v1" "storage.v1"),
    old!("storage.k8s.io" "v1beta1" "VolumeAttributesClass" = "storage.v1beta1", volume_attributes_class::KIND, "storage.k8s.io/v1" "storage.v1"),
    old!("admissionregistration.k8s.io" "v1beta1" "MutatingAdmissionPolicy" = "admissionregistration.v1beta1", mutating_policy::KIND,
        "admissionregistration.k8s.io/v1" "admissionregistration.v1"),
    old!("admissionregistration.k8s.io" "v1beta1" "MutatingAdmissionPolicyBinding" = "admissionregistration.v1beta1", mutating_binding::KIND,
        "admissionregistration.k8s.io/v1" "admissionregistration.v1"),
    old!("admissionregistration.k8s.io" "v1beta1" "ValidatingAdmissionPolicy" = "admissionregistration.v1beta1", validating_policy::KIND,
        "admissionregistration.k8s.io/v1" "admissionregistration.v1"),
    old!("admissionregistration.k8s.io" "v1beta1" "ValidatingAdmissionPolicyBinding" = "admissionregistration.v1beta1", validating_binding::KIND,
        "admissionregistration.k8s.io/v1" "admissionregistration.v1"),
    old!("admissionregistration.k8s.io" "v1alpha1" "MutatingAdmissionPolicy" = "admissionregistration.v1alpha1", mutating_policy::KIND,
        "admissionregistration.k8s.io/v1" "admissionregistration.v1"),
    old!("admissionregistration.k8s.io" "v1alpha1" "MutatingAdmissionPolicyBinding" = "admissionregistration.v1alpha1", mutating_binding::KIND,
        "admissionregistration.k8s.io/v1" "admissionregistration.v1"),
    old!("scheduling.k8s.io" "v1beta1" "PriorityClass" = "scheduling.v1beta1", crate::scheduling::priority_class::KIND, "scheduling.k8s.io/v1" "scheduling.v1"),
    old!("scheduling.k8s.io" "v1alpha1" "PriorityClass" = "scheduling.v1alpha1", crate::scheduling::priority_class::KIND, "scheduling.k8s.io/v1" "scheduling.v1"),
    old!("coordination.k8s.io" "v1beta1" "Lease" = "coordination.v1beta1", crate::coordination::lease::KIND, "coordination.k8s.io/v1" "coordination.v1"),
    old!("node.k8s.io" "v1beta1" "RuntimeClass" = "node.v1beta1", crate::node::runtime_class::KIND, "node.k8s.io/v1" "node.v1"),
    old!("discovery.k8s.io" "v1beta1" "EndpointSlice" = "discovery.v1beta1", crate::discovery::endpoint_slice::KIND, "discovery.k8s.io/v1" "discovery.v1",
        no_defaults, endpoint_slice_to_storage, endpoint_slice_from_storage),
    old!("resource.k8s.io" "v1beta2" "DeviceClass" = "resource.v1beta2", device_class::KIND, "resource.k8s.io/v1" "resource.v1"),
    old!("resource.k8s.io" "v1beta2" "ResourceClaim" = "resource.v1beta2", resource_claim::KIND, "resource.k8s.io/v1" "resource.v1"),
    old!("resource.k8s.io" "v1beta2" "ResourceClaimTemplate" = "resource.v1beta2", resource_claim_template::KIND, "resource.k8s.io/v1" "resource.v1"),
    old!("resource.k8s.io" "v1beta2" "ResourceSlice" = "resource.v1beta2", resource_slice::KIND, "resource.k8s.io/v1" "resource.v1"),
    old!("extensions" "v1beta1" "DaemonSet" = "extensions.v1beta1", daemon_set::KIND, "apps/v1" "apps.v1",
        ON_DELETE, daemon_set_to_storage, daemon_set_from_storage),
    old!("extensions" "v1beta1" "Deployment" = "extensions.v1beta1", deployment::KIND, "apps/v1" "apps.v1",
        default_selector, deployment_to_storage, |value| deployment_from_storage(value, "extensions/v1beta1")),
    old!("extensions" "v1beta1" "Ingress" = "extensions.v1beta1", ingress::KIND, "networking.k8s.io/v1" "networking.v1",
        default_path_types, ingress_to_storage, |value| ingress_from_storage(value, "extensions/v1beta1")),
    old!("extensions" "v1beta1" "NetworkPolicy" = "extensions.v1beta1", network_policy::KIND, "networking.k8s.io/v1" "networking.v1"),
    old!("extensions" "v1beta1" "ReplicaSet" = "extensions.v1beta1", replica_set::KIND, "apps/v1" "apps.v1", default_selector),
];
