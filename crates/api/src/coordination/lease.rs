//! `Lease` (coordination.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/leases",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.coordination.v1.Lease",
    conversion: None,
    ops: &Typed::<LeaseStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Holder", "string", "Who holds the lease."),
    Column::AGE,
];

/// What is special about this kind.
pub struct LeaseStrategy;

impl Strategy for LeaseStrategy {
    type Object = Lease;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut Lease) {
        crate::defaults::other::default_lease(object);
    }

    fn validate_create(object: &Lease) -> ErrorList {
        crate::validation::coordination::validate_lease(object)
    }

    fn validate_update(new: &Lease, old: &Lease) -> ErrorList {
        crate::validation::coordination::validate_lease_update(new, old)
    }

    fn row(object: &Lease, now: Timestamp) -> Vec<Value> {
        let holder = object
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default();
        vec![
            object.metadata.name.clone().into(),
            holder.into(),
            printing::age(&object.metadata, now),
        ]
    }
}
