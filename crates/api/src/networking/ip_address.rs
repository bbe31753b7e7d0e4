//! `IPAddress` (networking.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::IPAddress;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/ipaddresses",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.networking.v1.IPAddress",
    conversion: None,
    ops: &Typed::<IPAddressStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("ParentRef", "string", "What the address belongs to."),
];

/// What is special about this kind.
pub struct IPAddressStrategy;

impl Strategy for IPAddressStrategy {
    type Object = IPAddress;

    fn validate_create(object: &IPAddress) -> ErrorList {
        crate::validation::service_ranges::validate_ip_address(object)
    }

    fn validate_update(new: &IPAddress, old: &IPAddress) -> ErrorList {
        crate::validation::service_ranges::validate_ip_address_update(new, old)
    }

    fn name_errors(name: &str, _: bool) -> Vec<String> {
        crate::validation::service_ranges::ip_address_name(name)
    }

    fn row(object: &IPAddress, _: Timestamp) -> Vec<Value> {
        let parent = &object.spec.parent_ref;
        let group = parent.group.as_deref().unwrap_or_default();
        let resource = crate::status::qualified(&parent.resource, group).to_lowercase();
        let parent = match parent
            .namespace
            .as_deref()
            .filter(|namespace| !namespace.is_empty())
        {
            Some(namespace) => format!("{resource}/{namespace}/{}", parent.name),
            None => format!("{resource}/{}", parent.name),
        };
        vec![object.metadata.name.clone().into(), parent.into()]
    }
}
