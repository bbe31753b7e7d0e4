//! `HorizontalPodAutoscaler` (autoscaling/v2): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
    )],
    storage: "/registry/horizontalpodautoscalers",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    conversion: None,
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
        crate::defaults::autoscaling::default_horizontal_pod_autoscaler(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &HorizontalPodAutoscaler) -> ErrorList {
        crate::validation::autoscaling::validate_horizontal_pod_autoscaler(object)
    }

    fn validate_update(new: &HorizontalPodAutoscaler, old: &HorizontalPodAutoscaler) -> ErrorList {
        crate::validation::autoscaling::validate_horizontal_pod_autoscaler_update(new, old)
    }

    fn validate_status_update(
        new: &HorizontalPodAutoscaler,
        old: &HorizontalPodAutoscaler,
    ) -> ErrorList {
        crate::validation::autoscaling::validate_horizontal_pod_autoscaler_status_update(new, old)
    }

    fn row(object: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        let spec = Some(&object.spec);
        let status = object.status.as_ref();
        let reference = spec.map(|spec| {
            format!(
                "{}/{}",
                spec.scale_target_ref.kind, spec.scale_target_ref.name
            )
        });
        let targets = super::targets::targets(
            spec.and_then(|spec| spec.metrics.as_deref())
                .unwrap_or_default(),
            status
                .and_then(|status| status.current_metrics.as_deref())
                .unwrap_or_default(),
        );
        vec![
            object.metadata.name.clone().into(),
            reference.unwrap_or_else(|| "/".to_owned()).into(),
            targets.into(),
            spec.and_then(|spec| spec.min_replicas)
                .map_or_else(|| "<unset>".to_owned(), |min| min.to_string())
                .into(),
            spec.map_or(0, |spec| spec.max_replicas).into(),
            status
                .and_then(|status| status.current_replicas)
                .unwrap_or(0)
                .into(),
            printing::age(&object.metadata, now),
        ]
    }
}
