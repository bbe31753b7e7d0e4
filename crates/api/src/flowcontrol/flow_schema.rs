//! `FlowSchema` (flowcontrol.apiserver.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;
use crate::validation::flowcontrol;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    version: "v1",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "flowcontrol.apiserver.k8s.io",
        "v1",
        "FlowSchema",
    )],
    storage: "/registry/flowschemas",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.flowcontrol.v1.FlowSchema",
    conversion: None,
    ops: &Typed::<FlowSchemaStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "PriorityLevel",
        "string",
        "The level requests of the flow run at.",
    ),
    Column::new(
        "MatchingPrecedence",
        "string",
        "Lower numbers are matched first.",
    ),
    Column::new(
        "DistinguisherMethod",
        "string",
        "What tells flows of the schema apart.",
    ),
    Column::AGE,
    Column::new("MissingPL", "string", "Whether the level does not exist."),
];

/// What is special about this kind.
pub struct FlowSchemaStrategy;

impl Strategy for FlowSchemaStrategy {
    type Object = FlowSchema;
    const HAS_STATUS: bool = true;

    fn default(object: &mut FlowSchema) {
        crate::defaults::flowcontrol::default_flow_schema(object);
    }

    fn validate_create(object: &FlowSchema) -> ErrorList {
        flowcontrol::validate_flow_schema(object)
    }

    fn validate_status_update(new: &FlowSchema, _: &FlowSchema) -> ErrorList {
        flowcontrol::validate_flow_schema_status(new)
    }

    crate::kind::keep_status!();

    fn row(object: &FlowSchema, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let distinguisher = spec.and_then(|spec| spec.distinguisher_method.as_ref());
        let conditions = object
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let dangling = conditions
            .iter()
            .find(|condition| condition.type_.as_deref() == Some("Dangling"));
        vec![
            object.metadata.name.clone().into(),
            spec.map(|spec| spec.priority_level_configuration.name.clone())
                .unwrap_or_default()
                .into(),
            spec.and_then(|spec| spec.matching_precedence)
                .unwrap_or(0)
                .into(),
            distinguisher
                .map_or("<none>", |method| &method.type_)
                .into(),
            printing::age(&object.metadata, now),
            dangling
                .map_or("?", |condition| {
                    condition.status.as_deref().unwrap_or_default()
                })
                .into(),
        ]
    }
}
