//! `Role` (rbac.authorization.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::Role;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    version: "v1",
    kind: "Role",
    plural: "roles",
    singular: "role",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/roles",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.rbac.v1.Role",
    conversion: None,
    ops: &Typed::<RoleStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct RoleStrategy;

impl Strategy for RoleStrategy {
    type Object = Role;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn name_errors(name: &str, prefix: bool) -> Vec<String> {
        crate::validation::names::path_segment_name(name, prefix)
    }

    fn validate_create(object: &Role) -> ErrorList {
        crate::validation::rbac::validate_role(object)
    }

    fn validate_update(new: &Role, old: &Role) -> ErrorList {
        crate::validation::rbac::validate_role_update(new, old)
    }

    fn row(object: &Role, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
