//! `IngressClass` (networking.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/ingressclasses",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.networking.v1.IngressClass",
    conversion: None,
    ops: &Typed::<IngressClassStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Controller", "string", "What takes care of it."),
    Column::new(
        "Parameters",
        "string",
        "The object that parametrises the class.",
    ),
    Column::AGE,
];

/// What is special about this kind.
pub struct IngressClassStrategy;

impl Strategy for IngressClassStrategy {
    type Object = IngressClass;
    const HAS_GENERATION: bool = true;

    fn default(object: &mut IngressClass) {
        crate::defaults::networking::default_ingress_class(object);
    }

    fn validate_create(object: &IngressClass) -> ErrorList {
        crate::validation::networking::validate_ingress_class(object)
    }

    fn validate_update(new: &IngressClass, old: &IngressClass) -> ErrorList {
        crate::validation::networking::validate_ingress_class_update(new, old)
    }

    fn row(object: &IngressClass, now: Timestamp) -> Vec<Value> {
        let default = object
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get("ingressclass.kubernetes.io/is-default-class"))
            .is_some_and(|value| value == "true");
        let name = object.metadata.name.clone().unwrap_or_default();
        let spec = object.spec.as_ref();
        let parameters = spec
            .and_then(|spec| spec.parameters.as_ref())
            .map(|parameters| {
                let kind = crate::status::qualified(
                    &parameters.kind,
                    parameters.api_group.as_deref().unwrap_or_default(),
                );
                format!("{kind}/{}", parameters.name)
            });
        vec![
            if default {
                format!("{name} (default)").into()
            } else {
                name.into()
            },
            spec.and_then(|spec| spec.controller.clone())
                .unwrap_or_default()
                .into(),
            parameters.unwrap_or_else(|| "<none>".to_owned()).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
