//! HorizontalPodAutoscalers.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler,
    MetricIdentifier, MetricSpec, MetricTarget,
};

use super::absent::items;
use super::core::resources::container_resource_name;
use super::names;
use super::quantity::Amount;
use super::values::{NEGATIVE, all_invalid, non_negative, one_of, positive};
use crate::field::{ErrorList, FieldError, Path};

const LONGEST_PERIOD: i32 = 1800;
const LONGEST_WINDOW: i32 = 3600;

/// What is asked of an `apiVersion`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum VersionRule {
    Anything,
    Readable,
    WithGroup,
}

/// What is wrong with a new HorizontalPodAutoscaler, its metadata aside.
#[must_use]
pub fn validate_horizontal_pod_autoscaler(scaler: &HorizontalPodAutoscaler) -> ErrorList {
    scaler_errors(scaler, None)
}

/// What is wrong with a changed HorizontalPodAutoscaler, its metadata aside.
#[must_use]
pub fn validate_horizontal_pod_autoscaler_update(
    new: &HorizontalPodAutoscaler,
    old: &HorizontalPodAutoscaler,
) -> ErrorList {
    scaler_errors(new, Some(old))
}

/// What is wrong with a HorizontalPodAutoscaler whose status changed.
#[must_use]
pub fn validate_horizontal_pod_autoscaler_status_update(
    new: &HorizontalPodAutoscaler,
    _old: &HorizontalPodAutoscaler,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = new.status.clone().unwrap_or_default();
    let path = Path::new("status");
    for (field, number) in [
        ("currentReplicas", status.current_replicas.unwrap_or(0)),
        ("desiredReplicas", status.desired_replicas),
    ] {
        non_negative(&mut errors, &path.child(field), number);
    }
    errors
}

fn scaler_errors(
    new: &HorizontalPodAutoscaler,
    old: Option<&HorizontalPodAutoscaler>,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (&new.spec, Path::new("spec"));
    let old = old.map(|old| &old.spec);
    let least = i32::from(old.is_none_or(|old| old.min_replicas != Some(0)));
    if let Some(min) = spec.min_replicas.filter(|min| *min < least) {
        let detail = format!("must be greater than or equal to {least}");
        errors.push(FieldError::invalid(
            &path.child("minReplicas"),
            min,
            &detail,
        ));
    }
    let (max, max_path) = (spec.max_replicas, path.child("maxReplicas"));
    if max == 0 {
        let detail = "must be set and greater than 0";
        errors.push(FieldError::required(&max_path, detail));
    } else if max < 0 {
        let detail = "must be greater than or equal to 1";
        errors.push(FieldError::invalid(&max_path, max, detail));
    }
    if spec.min_replicas.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(&max_path, max, detail));
    }
    let target = &spec.scale_target_ref;
    let kept = old.is_some_and(|old| {
        let before = &old.scale_target_ref;
        before.api_version == target.api_version && before.kind == target.kind
    });
    let rule = match target.kind.as_str() {
        _ if kept => VersionRule::Anything,
        // The only kind of the core group that can be scaled.
        "ReplicationController" => VersionRule::Readable,
        _ => VersionRule::WithGroup,
    };
    reference(&mut errors, target, rule, &path.child("scaleTargetRef"));
    let was_wrong = old.is_some_and(|old| {
        let objects = items(&old.metrics)
            .iter()
            .filter(|metric| metric.type_ == "Object");
        let mut objects = objects.filter_map(|metric| metric.object.as_ref());
        objects
            .any(|object| version_error(&object.described_object, VersionRule::Readable).is_some())
    });
    let rule = if was_wrong {
        VersionRule::Anything
    } else {
        VersionRule::Readable
    };
    let metrics = items(&spec.metrics);
    let metrics_path = path.child("metrics");
    for (index, metric) in metrics.iter().enumerate() {
        metric_spec(&mut errors, metric, rule, &metrics_path.index(index));
    }
    let outside = |metric: &MetricSpec| matches!(metric.type_.as_str(), "Object" | "External");
    if spec.min_replicas == Some(0) && !metrics.iter().any(outside) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(&metrics_path, detail));
    }
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        for (field, rules) in [
            ("scaleUp", &behavior.scale_up),
            ("scaleDown", &behavior.scale_down),
        ] {
            if let Some(rules) = rules {
                scaling_rules(&mut errors, rules, &path.child(field));
            }
        }
    }
    errors
}

fn version_error(to: &CrossVersionObjectReference, rule: VersionRule) -> Option<String> {
    let version = to.api_version.as_deref().unwrap_or_default();
    if rule == VersionRule::Anything {
        None
    } else if version.matches('/').count() > 1 {
        Some(format!("unexpected GroupVersion string: {version}"))
    } else if rule == VersionRule::WithGroup
        && version
            .split_once('/')
            .is_none_or(|(group, _)| group.is_empty())
    {
        Some("apiVersion must specify API group".to_owned())
    } else {
        None
    }
}

fn reference(
    errors: &mut ErrorList,
    to: &CrossVersionObjectReference,
    rule: VersionRule,
    path: &Path,
) {
    for (field, value) in [("kind", &to.kind), ("name", &to.name)] {
        let path = path.child(field);
        if value.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else {
            all_invalid(errors, &path, value, names::path_segment(value));
        }
    }
    if let Some(detail) = version_error(to, rule) {
        let version = to.api_version.as_deref().unwrap_or_default();
        errors.push(FieldError::invalid(
            &path.child("apiVersion"),
            version,
            &detail,
        ));
    }
}

fn scaling_rules(errors: &mut ErrorList, rules: &HPAScalingRules, path: &Path) {
    if let Some(window) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(&path, window, detail));
        }
        if window > LONGEST_WINDOW {
            let detail = format!("must be less than or equal to {LONGEST_WINDOW}");
            errors.push(FieldError::invalid(&path, window, &detail));
        }
    }
    if let Some(policy) = &rules.select_policy {
        let known = ["Disabled", "Max", "Min"];
        one_of(errors, &path.child("selectPolicy"), policy, &known);
    }
    let policies_path = path.child("policies");
    if items(&rules.policies).is_empty() {
        let detail = "must specify at least one Policy";
        errors.push(FieldError::required(&policies_path, detail));
    }
    for (index, policy) in items(&rules.policies).iter().enumerate() {
        scaling_policy(errors, policy, &policies_path.index(index));
    }
    if let Some(tolerance) = &rules.tolerance
        && Amount::of(tolerance).is_negative()
    {
        let path = path.child("tolerance");
        errors.push(FieldError::invalid(&path, &tolerance.0, NEGATIVE));
    }
}

fn scaling_policy(errors: &mut ErrorList, policy: &HPAScalingPolicy, path: &Path) {
    one_of(
        errors,
        &path.child("type"),
        &policy.type_,
        &["Percent", "Pods"],
    );
    positive(errors, &path.child("value"), policy.value);
    let period_path = path.child("periodSeconds");
    positive(errors, &period_path, policy.period_seconds);
    if policy.period_seconds > LONGEST_PERIOD {
        let detail = format!("must be less than or equal to {LONGEST_PERIOD}");
        errors.push(FieldError::invalid(
            &period_path,
            policy.period_seconds,
            &detail,
        ));
    }
}

const SOURCES: [&str; 5] = [
    "ContainerResource",
    "External",
    "Object",
    "Pods",
    "Resource",
];

fn metric_spec(errors: &mut ErrorList, metric: &MetricSpec, rule: VersionRule, path: &Path) {
    let type_path = path.child("type");
    let kind = metric.type_.as_str();
    if kind.is_empty() {
        let detail = "must specify a metric source type";
        errors.push(FieldError::required(&type_path, detail));
    }
    one_of(errors, &type_path, kind, &SOURCES);
    let present = [
        ("object", "Object", metric.object.is_some()),
        ("external", "External", metric.external.is_some()),
        ("pods", "Pods", metric.pods.is_some()),
        ("resource", "Resource", metric.resource.is_some()),
        (
            "containerResource",
            "ContainerResource",
            metric.container_resource.is_some(),
        ),
    ];
    // Only the first of several is judged.
    if let Some((field, ..)) = present.iter().find(|(.., there)| *there) {
        source(errors, metric, rule, &path.child(field));
    }
    match present.iter().find(|(_, name, _)| *name == kind) {
        Some((field, _, false)) => errors.push(FieldError::required(
            &path.child(field),
            "must populate information for the given metric source",
        )),
        Some(_) => {}
        None => one_of(errors, &type_path, kind, &SOURCES),
    }
    let given = present.iter().filter(|(.., there)| *there);
    if given.clone().count() > 1 {
        for (field, ..) in given.filter(|(_, name, _)| *name != kind) {
            let detail = "must populate the given metric source only";
            errors.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
}

/// The first source of a metric.
fn source(errors: &mut ErrorList, metric: &MetricSpec, rule: VersionRule, path: &Path) {
    let target_path = path.child("target");
    let average = target_path.child("averageValue");
    if let Some(source) = &metric.object {
        let path_of = path.child("describedObject");
        reference(errors, &source.described_object, rule, &path_of);
        identifier(errors, &source.metric, path);
        metric_target(errors, &source.target, &target_path);
        if source.target.value.is_none() && source.target.average_value.is_none() {
            let detail = "must set either a target value or averageValue";
            errors.push(FieldError::required(&average, detail));
        }
    } else if let Some(source) = &metric.external {
        identifier(errors, &source.metric, path);
        metric_target(errors, &source.target, &target_path);
        match (&source.target.value, &source.target.average_value) {
            (None, None) => errors.push(FieldError::required(
                &average,
                "must set either a target value for metric or a per-pod target",
            )),
            (Some(_), Some(_)) => errors.push(FieldError::forbidden(
                &target_path.child("value"),
                "may not set both a target value for metric and a per-pod target",
            )),
            _ => {}
        }
    } else if let Some(source) = &metric.pods {
        identifier(errors, &source.metric, path);
        metric_target(errors, &source.target, &target_path);
        if source.target.average_value.is_none() {
            let detail = "must specify a positive target averageValue";
            errors.push(FieldError::required(&average, detail));
        }
    } else if let Some(source) = &metric.resource {
        resource_name(errors, &source.name, path);
        resource_target(errors, &source.target, &target_path);
    } else if let Some(source) = &metric.container_resource {
        resource_name(errors, &source.name, path);
        if !source.name.is_empty() {
            container_resource_name(errors, &source.name, &path.child("name"));
        }
        let path = path.child("container");
        if source.container.is_empty() {
            errors.push(FieldError::required(&path, "must specify a container"));
        } else {
            let wrong = names::dns_label(&source.container);
            all_invalid(errors, &path, &source.container, wrong);
        }
        resource_target(errors, &source.target, &target_path);
    }
}

fn resource_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        let detail = "must specify a resource name";
        errors.push(FieldError::required(&path.child("name"), detail));
    }
}

fn resource_target(errors: &mut ErrorList, target: &MetricTarget, path: &Path) {
    metric_target(errors, target, path);
    match (&target.average_utilization, &target.average_value) {
        (None, None) => errors.push(FieldError::required(
            &path.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        )),
        (Some(_), Some(_)) => errors.push(FieldError::forbidden(
            &path.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        )),
        _ => {}
    }
}

fn metric_target(errors: &mut ErrorList, target: &MetricTarget, path: &Path) {
    let (kind, type_path) = (target.type_.as_str(), path.child("type"));
    if kind.is_empty() {
        let detail = "must specify a metric target type";
        errors.push(FieldError::required(&type_path, detail));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&type_path, kind, detail));
    }
    for (field, quantity) in [
        ("value", &target.value),
        ("averageValue", &target.average_value),
    ] {
        if let Some(quantity) = quantity
            && Amount::of(quantity) <= Amount::ZERO
        {
            let path = path.child(field);
            errors.push(FieldError::invalid(&path, &quantity.0, "must be positive"));
        }
    }
    if let Some(utilization) = target.average_utilization.filter(|percent| *percent < 1) {
        let path = path.child("averageUtilization");
        errors.push(FieldError::invalid(
            &path,
            utilization,
            "must be greater than 0",
        ));
    }
}

fn identifier(errors: &mut ErrorList, metric: &MetricIdentifier, path: &Path) {
    let path = path.child("metric").child("name");
    if metric.name.is_empty() {
        errors.push(FieldError::required(&path, "must specify a metric name"));
    } else {
        all_invalid(
            errors,
            &path,
            &metric.name,
            names::path_segment(&metric.name),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn scaler(more: Value) -> HorizontalPodAutoscaler {
        let mut spec = json!({"maxReplicas": 3, "minReplicas": 1,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}});
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn autoscalers() {
        let cpu = |target: Value| json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        let cases = [
            (
                json!({"metrics": cpu(json!({"type": "Utilization", "averageUtilization": 50}))}),
                vec![],
            ),
            (
                json!({"maxReplicas": 0, "minReplicas": 0, "scaleTargetRef": {"apiVersion": "v1", "kind": "Pod", "name": ""}}),
                vec![
                    "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                    "spec.maxReplicas: Required value: must be set and greater than 0",
                    "spec.scaleTargetRef.name: Required value",
                    "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
                    "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
                ],
            ),
            (
                json!({"minReplicas": 4, "metrics": cpu(json!({"type": "Percent", "averageUtilization": 0}))}),
                vec![
                    "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
                    "spec.metrics[0].resource.target.type: Invalid value: \"Percent\": must be either Utilization, Value, or AverageValue",
                    "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                ],
            ),
            (
                json!({"metrics": [{"type": "Pods", "external": {"metric": {"name": "a/b"}, "target": {"type": "Value", "value": "0"}}}]}),
                vec![
                    "spec.metrics[0].external.metric.name: Invalid value: \"a/b\": may not contain '/'",
                    "spec.metrics[0].external.target.value: Invalid value: \"0\": must be positive",
                    "spec.metrics[0].pods: Required value: must populate information for the given metric source",
                ],
            ),
            (
                json!({"behavior": {"scaleUp": {"stabilizationWindowSeconds": 4000, "selectPolicy": "Any"},
                    "scaleDown": {"policies": [{"type": "Nodes", "value": 0, "periodSeconds": 2000}]}}}),
                vec![
                    "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to 3600",
                    "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Any\": supported values: \"Disabled\", \"Max\", \"Min\"",
                    "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
                    "spec.behavior.scaleDown.policies[0].type: Unsupported value: \"Nodes\": supported values: \"Percent\", \"Pods\"",
                    "spec.behavior.scaleDown.policies[0].value: Invalid value: 0: must be greater than zero",
                    "spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 2000: must be less than or equal to 1800",
                ],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(
                texts(&validate_horizontal_pod_autoscaler(&scaler(spec))),
                expected
            );
        }
        // What is odd may stay.
        let odd =
            scaler(json!({"scaleTargetRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}));
        assert_eq!(validate_horizontal_pod_autoscaler(&odd).len(), 1);
        assert!(validate_horizontal_pod_autoscaler_update(&odd, &odd).is_empty());
        let controller = scaler(
            json!({"scaleTargetRef": {"apiVersion": "v1", "kind": "ReplicationController", "name": "p"}}),
        );
        assert!(validate_horizontal_pod_autoscaler(&controller).is_empty());
    }
}
