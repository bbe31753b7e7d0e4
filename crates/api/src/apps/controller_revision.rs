//! `ControllerRevision` (apps/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/controllerrevisions",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.apps.v1.ControllerRevision",
    conversion: None,
    ops: &Typed::<ControllerRevisionStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Controller", "string", "What takes care of it."),
    Column::new("Revision", "string", "The number of the revision."),
    Column::AGE,
];

/// What is special about this kind.
pub struct ControllerRevisionStrategy;

impl Strategy for ControllerRevisionStrategy {
    type Object = ControllerRevision;

    fn validate_create(object: &ControllerRevision) -> ErrorList {
        crate::validation::apps::validate_controller_revision(object)
    }

    fn validate_update(new: &ControllerRevision, old: &ControllerRevision) -> ErrorList {
        crate::validation::apps::validate_controller_revision_update(new, old)
    }

    fn row(object: &ControllerRevision, now: Timestamp) -> Vec<Value> {
        let controller = object
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map_or_else(
                || "<none>".to_owned(),
                |owner| {
                    let group = owner
                        .api_version
                        .rsplit_once('/')
                        .map_or("", |(group, _)| group);
                    let kind = crate::status::qualified(&owner.kind, group).to_lowercase();
                    format!("{kind}/{}", owner.name)
                },
            );
        vec![
            object.metadata.name.clone().into(),
            controller.into(),
            object.revision.into(),
            printing::age(&object.metadata, now),
        ]
    }
}
