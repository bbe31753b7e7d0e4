//! `CustomResourceDefinition` (apiextensions.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionStatus,
};
use serde_json::Value;

use super::validation;
use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, WriteContext};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
    )],
    storage: "/registry/apiextensions.k8s.io/customresourcedefinitions",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    conversion: None,
    ops: &Typed::<CustomResourceDefinitionStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// Remembers that objects may be stored in the version that is the one to store from now on.
fn note_stored_version(object: &mut CustomResourceDefinition) {
    let stored = object.spec.versions.iter().find(|version| version.storage);
    let Some(name) = stored.map(|version| version.name.clone()) else {
        return;
    };
    let status = object.status.get_or_insert_default();
    let versions = status.stored_versions.get_or_insert_default();
    if !versions.contains(&name) {
        versions.push(name);
    }
}

/// What is special about this kind.
pub struct CustomResourceDefinitionStrategy;

impl Strategy for CustomResourceDefinitionStrategy {
    type Object = CustomResourceDefinition;
    const HAS_STATUS: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut CustomResourceDefinition) {
        let names = &mut object.spec.names;
        let absent = |name: &Option<String>| name.as_ref().is_none_or(String::is_empty);
        if absent(&names.singular) {
            names.singular = Some(names.kind.to_lowercase());
        }
        if absent(&names.list_kind) && !names.kind.is_empty() {
            names.list_kind = Some(format!("{}List", names.kind));
        }
        let conversion = object
            .spec
            .conversion
            .get_or_insert_with(|| CustomResourceConversion {
                strategy: "None".to_owned(),
                webhook: None,
            });
        let service = conversion
            .webhook
            .as_mut()
            .and_then(|webhook| webhook.client_config.as_mut()?.service.as_mut());
        if let Some(service) = service {
            service.port.get_or_insert(443);
        }
    }

    fn prepare_create(object: &mut CustomResourceDefinition, _: &WriteContext) {
        object.status = Some(CustomResourceDefinitionStatus::default());
        note_stored_version(object);
    }

    fn prepare_update(
        new: &mut CustomResourceDefinition,
        old: &CustomResourceDefinition,
        _: &WriteContext,
    ) {
        new.status.clone_from(&old.status);
        note_stored_version(new);
    }

    fn prepare_status_update(
        new: &mut CustomResourceDefinition,
        old: &CustomResourceDefinition,
        _: &WriteContext,
    ) {
        // Upstream keeps the metadata that such a write brings; its own finalizer is taken this way.
        new.spec.clone_from(&old.spec);
    }

    fn validate_create(object: &CustomResourceDefinition) -> ErrorList {
        validation::validate(object)
    }

    fn validate_update(
        new: &CustomResourceDefinition,
        old: &CustomResourceDefinition,
    ) -> ErrorList {
        validation::validate_update(new, old)
    }

    fn warnings(
        new: &CustomResourceDefinition,
        old: Option<&CustomResourceDefinition>,
    ) -> Vec<String> {
        let had = old.map(validation::unrecognized_formats);
        let had = had.unwrap_or_default();
        let formats = validation::unrecognized_formats(new).into_iter();
        formats
            .filter(|format| !had.contains(format))
            .map(|format| format!("unrecognized format {format:?}"))
            .collect()
    }

    fn row(object: &CustomResourceDefinition, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
