//! Defaults of the autoscaling group.

use k8s_openapi::api::autoscaling::{v1, v2};

use crate::validation::absent::{default_value, items};
use crate::validation::quantity::canonicalise;

/// A HorizontalPodAutoscaler: at least one replica, 80 % of the requested CPU.
pub fn default_horizontal_pod_autoscaler(autoscaler: &mut v2::HorizontalPodAutoscaler) {
    let spec = &mut autoscaler.spec;
    default_value(&mut spec.min_replicas, 1);
    if items(&spec.metrics).is_empty() {
        spec.metrics = Some(vec![v2::MetricSpec {
            type_: "Resource".into(),
            resource: Some(v2::ResourceMetricSource {
                name: "cpu".into(),
                target: v2::MetricTarget {
                    type_: "Utilization".into(),
                    average_utilization: Some(80),
                    ..Default::default()
                },
            }),
            ..Default::default()
        }]);
    }
    for metric in spec.metrics.iter_mut().flatten() {
        let targets = [
            metric.resource.as_mut().map(|source| &mut source.target),
            metric
                .container_resource
                .as_mut()
                .map(|source| &mut source.target),
            metric.pods.as_mut().map(|source| &mut source.target),
            metric.object.as_mut().map(|source| &mut source.target),
            metric.external.as_mut().map(|source| &mut source.target),
        ];
        for target in targets.into_iter().flatten() {
            target.value.iter_mut().for_each(canonicalise);
            target.average_value.iter_mut().for_each(canonicalise);
        }
    }
    if let Some(behavior) = &mut spec.behavior {
        rules(
            &mut behavior.scale_up,
            Some(0),
            &[("Pods", 4), ("Percent", 100)],
        );
        rules(&mut behavior.scale_down, None, &[("Percent", 100)]);
    }
    default_value(&mut autoscaler.status, Default::default());
}

fn rules(
    rules: &mut Option<v2::HPAScalingRules>,
    stabilization: Option<i32>,
    policies: &[(&str, i32)],
) {
    const PERIOD: i32 = 15;
    let rules = rules.get_or_insert_with(Default::default);
    if rules.stabilization_window_seconds.is_none() {
        rules.stabilization_window_seconds = stabilization;
    }
    default_value(&mut rules.select_policy, "Max".into());
    if rules.policies.is_none() {
        let policy = |(kind, value): &(&str, i32)| v2::HPAScalingPolicy {
            type_: (*kind).to_owned(),
            value: *value,
            period_seconds: PERIOD,
        };
        rules.policies = Some(policies.iter().map(policy).collect());
    }
    rules.tolerance.iter_mut().for_each(canonicalise);
}

/// A HorizontalPodAutoscaler of the old version.
pub fn default_horizontal_pod_autoscaler_v1(autoscaler: &mut v1::HorizontalPodAutoscaler) {
    let spec = &mut autoscaler.spec;
    default_value(&mut spec.min_replicas, 1);
    default_value(&mut autoscaler.status, Default::default());
}
