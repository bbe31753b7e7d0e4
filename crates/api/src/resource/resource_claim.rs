//! `ResourceClaim` (resource.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;
use crate::validation::expressions::{ExpressionChecker, Unchecked};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "resource.k8s.io",
    version: "v1",
    kind: "ResourceClaim",
    plural: "resourceclaims",
    singular: "resourceclaim",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "resource.k8s.io",
        "v1",
        "ResourceClaim",
    )],
    storage: "/registry/resourceclaims",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.resource.v1.ResourceClaim",
    conversion: None,
    ops: &Typed::<ResourceClaimStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "State",
        "string",
        "Whether the claim is pending, allocated, reserved.",
    ),
    Column::AGE,
];

/// What is special about this kind.
pub struct ResourceClaimStrategy;

impl Strategy for ResourceClaimStrategy {
    type Object = ResourceClaim;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn default(object: &mut ResourceClaim) {
        crate::defaults::resource::default_resource_claim(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &ResourceClaim) -> ErrorList {
        Self::validate_create_with(object, &Unchecked)
    }

    fn validate_create_with(object: &ResourceClaim, checker: &dyn ExpressionChecker) -> ErrorList {
        crate::validation::resource::validate_resource_claim(object, checker)
    }

    fn validate_update(new: &ResourceClaim, old: &ResourceClaim) -> ErrorList {
        crate::validation::resource::validate_resource_claim_update(new, old)
    }

    fn validate_status_update(new: &ResourceClaim, old: &ResourceClaim) -> ErrorList {
        crate::validation::resource::validate_resource_claim_status_update(new, old)
    }

    fn row(object: &ResourceClaim, now: Timestamp) -> Vec<Value> {
        let status = object.status.as_ref();
        let deleted = object.metadata.deletion_timestamp.is_some();
        let allocated = status.is_some_and(|status| status.allocation.is_some());
        let reserved = allocated
            && status
                .and_then(|status| status.reserved_for.as_ref())
                .is_some_and(|users| !users.is_empty());
        let states = [
            ("deleted", deleted),
            ("pending", !deleted && !allocated),
            ("allocated", allocated),
            ("reserved", reserved),
        ];
        let state = states
            .iter()
            .filter(|(_, holds)| *holds)
            .map(|(state, _)| *state)
            .collect::<Vec<_>>()
            .join(",");
        vec![
            object.metadata.name.clone().into(),
            state.into(),
            printing::age(&object.metadata, now),
        ]
    }
}
