//! `Service` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, Verb};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "proxy",
            kind: ("", "v1", "ServiceProxyOptions"),
            verbs: &[
                Verb::Create,
                Verb::Delete,
                Verb::Get,
                Verb::Patch,
                Verb::Update,
            ],
        },
        Subresource::status("", "v1", "Service"),
    ],
    storage: "/registry/services/specs",
    columns: COLUMNS,
    fields: &[
        ("spec.clusterIP", "/spec/clusterIP"),
        ("spec.type", "/spec/type"),
    ],
    schema: "io.k8s.api.core.v1.Service",
    conversion: None,
    ops: &Typed::<ServiceStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct ServiceStrategy;

impl Strategy for ServiceStrategy {
    type Object = Service;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn row(object: &Service, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
