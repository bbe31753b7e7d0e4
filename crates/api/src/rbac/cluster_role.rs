//! `ClusterRole` (rbac.authorization.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    version: "v1",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/clusterroles",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.rbac.v1.ClusterRole",
    conversion: None,
    ops: &Typed::<ClusterRoleStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct ClusterRoleStrategy;

impl Strategy for ClusterRoleStrategy {
    type Object = ClusterRole;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn name_errors(name: &str, prefix: bool) -> Vec<String> {
        crate::validation::names::path_segment_name(name, prefix)
    }

    fn validate_create(object: &ClusterRole) -> ErrorList {
        crate::validation::rbac::validate_cluster_role(object)
    }

    fn validate_update(new: &ClusterRole, old: &ClusterRole) -> ErrorList {
        crate::validation::rbac::validate_cluster_role_update(new, old)
    }

    fn row(object: &ClusterRole, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
