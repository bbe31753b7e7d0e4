//! Defaults of the rbac.authorization.k8s.io group.

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};

use crate::validation::absent::default_text;

/// The group of roles, users and groups.
const GROUP: &str = "rbac.authorization.k8s.io";

/// A RoleBinding: users and groups are RBAC's, service accounts the core's.
pub fn default_role_binding(binding: &mut RoleBinding) {
    default_reference(&mut binding.role_ref);
    binding
        .subjects
        .iter_mut()
        .flatten()
        .for_each(default_subject);
}

/// A ClusterRoleBinding.
pub fn default_cluster_role_binding(binding: &mut ClusterRoleBinding) {
    default_reference(&mut binding.role_ref);
    binding
        .subjects
        .iter_mut()
        .flatten()
        .for_each(default_subject);
}

fn default_reference(reference: &mut RoleRef) {
    default_text(&mut reference.api_group, GROUP);
}

fn default_subject(subject: &mut Subject) {
    if matches!(subject.kind.as_str(), "User" | "Group") {
        default_text(&mut subject.api_group, GROUP);
    }
}
