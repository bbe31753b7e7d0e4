//! `IPAddress` (networking.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::IPAddress;
use serde_json::Value;

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

const COLUMNS: &[Column] = &[Column::NAME];

/// What is special about this kind.
pub struct IPAddressStrategy;

impl Strategy for IPAddressStrategy {
    type Object = IPAddress;

    fn row(object: &IPAddress, _: Timestamp) -> Vec<Value> {
        vec![object.metadata.name.clone().into()]
    }
}
