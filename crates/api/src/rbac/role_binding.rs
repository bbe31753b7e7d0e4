//! `RoleBinding` (rbac.authorization.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::RoleBinding;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    version: "v1",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/rolebindings",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.rbac.v1.RoleBinding",
    conversion: None,
    ops: &Typed::<RoleBindingStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Role", "string", "The role that is granted."),
    Column::AGE,
    Column::new("Users", "string", "The users it is granted to.").wide(),
    Column::new("Groups", "string", "The groups it is granted to.").wide(),
    Column::new(
        "ServiceAccounts",
        "string",
        "The service accounts it is granted to.",
    )
    .wide(),
];

/// What is special about this kind.
pub struct RoleBindingStrategy;

impl Strategy for RoleBindingStrategy {
    type Object = RoleBinding;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut RoleBinding) {
        crate::defaults::rbac::default_role_binding(object);
    }

    fn name_errors(name: &str, prefix: bool) -> Vec<String> {
        crate::validation::names::path_segment_name(name, prefix)
    }

    fn validate_create(object: &RoleBinding) -> ErrorList {
        crate::validation::rbac::validate_role_binding(object)
    }

    fn validate_update(new: &RoleBinding, old: &RoleBinding) -> ErrorList {
        crate::validation::rbac::validate_role_binding_update(new, old)
    }

    fn row(object: &RoleBinding, now: Timestamp) -> Vec<Value> {
        let [users, groups, accounts] =
            super::subjects::subjects(object.subjects.as_deref().unwrap_or_default());
        let role = format!("{}/{}", object.role_ref.kind, object.role_ref.name);
        vec![
            object.metadata.name.clone().into(),
            role.into(),
            printing::age(&object.metadata, now),
            users.into(),
            groups.into(),
            accounts.into(),
        ]
    }
}
