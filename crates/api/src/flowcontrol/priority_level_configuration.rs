//! `PriorityLevelConfiguration` (flowcontrol.apiserver.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;
use crate::validation::flowcontrol;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    version: "v1",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "flowcontrol.apiserver.k8s.io",
        "v1",
        "PriorityLevelConfiguration",
    )],
    storage: "/registry/prioritylevelconfigurations",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
    conversion: None,
    ops: &Typed::<PriorityLevelConfigurationStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string", "What type it is of."),
    Column::new(
        "NominalConcurrencyShares",
        "string",
        "How large a share of the server the level has.",
    ),
    Column::new("Queues", "string", "How many queues it has."),
    Column::new("HandSize", "string", "How many queues a flow is dealt."),
    Column::new("QueueLengthLimit", "string", "How long each queue may be."),
    Column::AGE,
];

/// What is special about this kind.
pub struct PriorityLevelConfigurationStrategy;

impl Strategy for PriorityLevelConfigurationStrategy {
    type Object = PriorityLevelConfiguration;
    const HAS_STATUS: bool = true;

    fn default(object: &mut PriorityLevelConfiguration) {
        crate::defaults::flowcontrol::default_priority_level_configuration(object);
    }

    fn validate_create(object: &PriorityLevelConfiguration) -> ErrorList {
        flowcontrol::validate_priority_level(object)
    }

    fn validate_status_update(
        new: &PriorityLevelConfiguration,
        _: &PriorityLevelConfiguration,
    ) -> ErrorList {
        flowcontrol::validate_priority_level_status(new)
    }

    crate::kind::keep_status!();

    fn row(object: &PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let limited = spec.and_then(|spec| spec.limited.as_ref());
        let queuing = limited.and_then(|limited| limited.limit_response.as_ref()?.queuing.as_ref());
        let number = |known: bool, value: Option<i32>| match known {
            true => value.unwrap_or(0).into(),
            false => Value::from("<none>"),
        };
        vec![
            object.metadata.name.clone().into(),
            spec.map(|spec| spec.type_.clone())
                .unwrap_or_default()
                .into(),
            number(
                limited.is_some(),
                limited.and_then(|limited| limited.nominal_concurrency_shares),
            ),
            number(
                queuing.is_some(),
                queuing.and_then(|queuing| queuing.queues),
            ),
            number(
                queuing.is_some(),
                queuing.and_then(|queuing| queuing.hand_size),
            ),
            number(
                queuing.is_some(),
                queuing.and_then(|queuing| queuing.queue_length_limit),
            ),
            printing::age(&object.metadata, now),
        ]
    }
}
