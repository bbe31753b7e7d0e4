//! `ResourceSlice` (resource.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceSlice;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed, WriteContext};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "resource.k8s.io",
    version: "v1",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/resourceslices",
    columns: COLUMNS,
    fields: &[
        ("spec.nodeName", "/spec/nodeName"),
        ("spec.driver", "/spec/driver"),
    ],
    schema: "io.k8s.api.resource.v1.ResourceSlice",
    conversion: None,
    ops: &Typed::<ResourceSliceStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Node", "string", "The node it is on."),
    Column::new("Driver", "string", "The driver it belongs to."),
    Column::new("Pool", "string", "The pool of devices it is part of."),
    Column::AGE,
];

/// What is special about this kind.
pub struct ResourceSliceStrategy;

impl Strategy for ResourceSliceStrategy {
    type Object = ResourceSlice;
    const HAS_GENERATION: bool = true;

    fn default(object: &mut ResourceSlice) {
        crate::defaults::resource::default_resource_slice(object);
    }

    fn prepare_create(object: &mut ResourceSlice, context: &WriteContext) {
        crate::defaults::resource::default_taint_times(object, context.now);
    }

    fn prepare_update(new: &mut ResourceSlice, _: &ResourceSlice, context: &WriteContext) {
        crate::defaults::resource::default_taint_times(new, context.now);
    }

    fn validate_create(object: &ResourceSlice) -> ErrorList {
        crate::validation::resource::validate_resource_slice(object)
    }

    fn validate_update(new: &ResourceSlice, old: &ResourceSlice) -> ErrorList {
        crate::validation::resource::validate_resource_slice_update(new, old)
    }

    fn warnings(new: &ResourceSlice, _: Option<&ResourceSlice>) -> Vec<String> {
        crate::validation::warnings::warnings_resource_slice(new)
    }

    fn row(object: &ResourceSlice, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        vec![
            object.metadata.name.clone().into(),
            spec.node_name.clone().unwrap_or_default().into(),
            spec.driver.clone().into(),
            spec.pool.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
