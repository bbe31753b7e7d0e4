//! `HorizontalPodAutoscaler` (autoscaling/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use serde_json::Value;

use crate::conversion;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "autoscaling",
    version: "v1",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "autoscaling",
        "v1",
        "HorizontalPodAutoscaler",
    )],
    storage: "/registry/horizontalpodautoscalers",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    conversion: Some(conversion::AUTOSCALING_V1),
    ops: &Typed::<HorizontalPodAutoscalerStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Reference", "string", "What is scaled."),
    Column::new(
        "Targets",
        "string",
        "The metrics, as they are and as they should be.",
    ),
    Column::new("MinPods", "string", "The fewest pods."),
    Column::new("MaxPods", "string", "The most pods."),
    Column::new("Replicas", "string", "How many pods there are."),
    Column::AGE,
];

/// What is special about this kind.
pub struct HorizontalPodAutoscalerStrategy;

impl Strategy for HorizontalPodAutoscalerStrategy {
    type Object = HorizontalPodAutoscaler;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn default(object: &mut HorizontalPodAutoscaler) {
        crate::defaults::autoscaling::default_horizontal_pod_autoscaler_v1(object);
    }

    crate::kind::keep_status!();

    fn row(object: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        // The metrics of version 2 are in annotations here; the table shows them all the same.
        let stored = serde_json::to_value(object).map(conversion::AUTOSCALING_V1.to_storage);
        let Ok(stored) = stored.and_then(serde_json::from_value) else {
            return Vec::new();
        };
        super::horizontal_pod_autoscaler::HorizontalPodAutoscalerStrategy::row(&stored, now)
    }
}
