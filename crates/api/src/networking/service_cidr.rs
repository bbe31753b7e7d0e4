//! `ServiceCIDR` (networking.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "networking.k8s.io",
        "v1",
        "ServiceCIDR",
    )],
    storage: "/registry/servicecidrs",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.networking.v1.ServiceCIDR",
    conversion: None,
    ops: &Typed::<ServiceCIDRStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("CIDRs", "string", "The ranges of addresses."),
    Column::AGE,
];

/// What is special about this kind.
pub struct ServiceCIDRStrategy;

impl Strategy for ServiceCIDRStrategy {
    type Object = ServiceCIDR;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn default(object: &mut ServiceCIDR) {
        crate::defaults::networking::default_service_cidr(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &ServiceCIDR) -> ErrorList {
        crate::validation::service_ranges::validate_service_cidr(object)
    }

    fn validate_update(new: &ServiceCIDR, old: &ServiceCIDR) -> ErrorList {
        crate::validation::service_ranges::validate_service_cidr_update(new, old)
    }

    fn row(object: &ServiceCIDR, now: Timestamp) -> Vec<Value> {
        let ranges = object
            .spec
            .as_ref()
            .and_then(|spec| spec.cidrs.as_ref())
            .map(|ranges| ranges.join(","));
        vec![
            object.metadata.name.clone().into(),
            ranges.unwrap_or_default().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
