//! `Namespace` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{Column, Kind, Scope, Strategy, Subresource, Typed, Verb, WriteContext};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: &[
        Verb::Create,
        Verb::Delete,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ],
    subresources: &[
        Subresource {
            name: "finalize",
            kind: ("", "v1", "Namespace"),
            verbs: &[Verb::Update],
        },
        Subresource::status("", "v1", "Namespace"),
    ],
    storage: "/registry/namespaces",
    columns: COLUMNS,
    fields: &[("status.phase", "/status/phase")],
    schema: "io.k8s.api.core.v1.Namespace",
    conversion: None,
    ops: &Typed::<NamespaceStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "Active or Terminating."),
    Column::AGE,
];

/// What is special about this kind.
pub struct NamespaceStrategy;

impl Strategy for NamespaceStrategy {
    type Object = Namespace;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn prepare_create(object: &mut Namespace, _: &WriteContext) {
        // The namespace controller takes this finalizer off when the content is gone.
        let finalizers = object
            .spec
            .get_or_insert_default()
            .finalizers
            .get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
            finalizers.push("kubernetes".to_owned());
        }
        object.status = Some(NamespaceStatus {
            phase: Some("Active".to_owned()),
            ..NamespaceStatus::default()
        });
    }

    fn prepare_update(new: &mut Namespace, old: &Namespace, _: &WriteContext) {
        new.spec = old.spec.clone();
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut Namespace, old: &Namespace, _: &WriteContext) {
        new.spec = old.spec.clone();
    }

    fn name_errors(name: &str, prefix: bool) -> Vec<String> {
        crate::validation::names::label_name(name, prefix)
    }

    fn default(object: &mut Namespace) {
        crate::defaults::core::default_namespace(object);
    }

    fn validate_create(object: &Namespace) -> ErrorList {
        crate::validation::core::validate_namespace(object)
    }

    fn validate_update(new: &Namespace, old: &Namespace) -> ErrorList {
        crate::validation::core::validate_namespace_update(new, old)
    }

    fn validate_status_update(new: &Namespace, old: &Namespace) -> ErrorList {
        crate::validation::core::validate_namespace_status_update(new, old)
    }

    fn row(object: &Namespace, now: Timestamp) -> Vec<Value> {
        let phase = object
            .status
            .as_ref()
            .and_then(|status| status.phase.clone())
            .unwrap_or_default();
        vec![
            object.metadata.name.clone().into(),
            phase.into(),
            printing::age(&object.metadata, now),
        ]
    }
}
