//! `EndpointSlice` (discovery.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/endpointslices",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    conversion: None,
    ops: &Typed::<EndpointSliceStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("AddressType", "string", "IPv4, IPv6 or FQDN."),
    Column::new("Ports", "string", "The ports it listens on."),
    Column::new("Endpoints", "string", "The addresses behind it."),
    Column::AGE,
];

/// What is special about this kind.
pub struct EndpointSliceStrategy;

impl Strategy for EndpointSliceStrategy {
    type Object = EndpointSlice;
    const HAS_GENERATION: bool = true;

    fn default(object: &mut EndpointSlice) {
        crate::defaults::networking::default_endpoint_slice(object);
    }

    fn validate_create(object: &EndpointSlice) -> ErrorList {
        crate::validation::discovery::validate_endpoint_slice(object)
    }

    fn validate_update(new: &EndpointSlice, old: &EndpointSlice) -> ErrorList {
        crate::validation::discovery::validate_endpoint_slice_update(new, old)
    }

    fn warnings(new: &EndpointSlice, old: Option<&EndpointSlice>) -> Vec<String> {
        crate::validation::discovery::warnings_endpoint_slice(new, old)
    }

    fn is_new_generation(new: &EndpointSlice, old: &EndpointSlice) -> Option<bool> {
        // Whose endpoints they are is a label.
        (new.metadata.labels != old.metadata.labels).then_some(true)
    }

    fn row(object: &EndpointSlice, now: Timestamp) -> Vec<Value> {
        let ports = object
            .ports
            .iter()
            .flatten()
            .map(|port| match (port.port, &port.name) {
                (Some(port), _) => port.to_string(),
                (None, Some(name)) => name.clone(),
                (None, None) => "*".to_owned(),
            });
        let addresses = object
            .endpoints
            .iter()
            .flatten()
            .flat_map(|endpoint| endpoint.addresses.iter().cloned());
        vec![
            object.metadata.name.clone().into(),
            object.address_type.clone().into(),
            printing::first_three(ports.collect()).into(),
            printing::first_three(addresses.collect()).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
