//! `Endpoints` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Endpoints;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/services/endpoints",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.Endpoints",
    conversion: None,
    ops: &Typed::<EndpointsStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Endpoints", "string", "The addresses behind it."),
    Column::AGE,
];

/// What is special about this kind.
pub struct EndpointsStrategy;

impl Strategy for EndpointsStrategy {
    type Object = Endpoints;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut Endpoints) {
        crate::defaults::core::default_endpoints(object);
    }

    fn validate_create(object: &Endpoints) -> ErrorList {
        crate::validation::core::validate_endpoints(object)
    }

    fn validate_update(new: &Endpoints, old: &Endpoints) -> ErrorList {
        crate::validation::core::validate_endpoints_update(new, old)
    }

    fn warnings(new: &Endpoints, old: Option<&Endpoints>) -> Vec<String> {
        crate::validation::core::warnings_endpoints(new, old)
    }

    fn row(object: &Endpoints, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            addresses(object).into(),
            printing::age(&object.metadata, now),
        ]
    }
}

fn addresses(endpoints: &Endpoints) -> String {
    let (mut list, mut count) = (Vec::new(), 0);
    for subset in endpoints.subsets.iter().flatten() {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        let ports = subset.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            // A headless service may have no ports.
            count += addresses.len();
            list.extend(addresses.iter().map(|address| address.ip.clone()));
        }
        for port in ports {
            count += addresses.len();
            list.extend(
                addresses
                    .iter()
                    .map(|address| match address.ip.contains(':') {
                        true => format!("[{}]:{}", address.ip, port.port),
                        false => format!("{}:{}", address.ip, port.port),
                    }),
            );
        }
    }
    match (endpoints.subsets.as_ref().is_none_or(Vec::is_empty), count) {
        (true, _) => "<none>".to_owned(),
        (false, 0) => String::new(),
        (false, _) => printing::first_three(list),
    }
}
