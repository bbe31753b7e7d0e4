//! How autoscalers show their metrics: as they are, and as they should be.

use k8s_openapi::api::autoscaling::v2::{
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const UNKNOWN: &str = "<unknown>";

/// The first two metrics; `<none>` without any.
pub(super) fn targets(metrics: &[MetricSpec], current: &[MetricStatus]) -> String {
    let texts: Vec<String> = metrics
        .iter()
        .enumerate()
        .take(2)
        .map(|(index, metric)| target(metric, current.get(index)))
        .collect();
    match metrics.len() {
        0 => "<none>".to_owned(),
        1 | 2 => texts.join(", "),
        count => format!("{} + {} more...", texts.join(", "), count - 2),
    }
}

fn quantity(quantity: Option<&Quantity>, absent: &str) -> String {
    quantity.map_or(absent, |quantity| &quantity.0).to_owned()
}

fn percent(value: Option<i32>, absent: &str) -> String {
    value.map_or_else(|| absent.to_owned(), |value| format!("{value}%"))
}

/// A metric of the whole: a value, or an average over the pods.
fn of_whole(target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    match &target.average_value {
        Some(wanted) => {
            format!(
                "{}/{} (avg)",
                quantity(
                    current.and_then(|current| current.average_value.as_ref()),
                    UNKNOWN
                ),
                wanted.0
            )
        }
        None => {
            let now = current.map_or_else(
                || UNKNOWN.to_owned(),
                |current| quantity(current.value.as_ref(), "0"),
            );
            format!("{now}/{}", quantity(target.value.as_ref(), "0"))
        }
    }
}

/// A metric of each pod's resources.
fn of_resource(name: &str, target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    match &target.average_value {
        Some(wanted) => {
            let now = current.map_or_else(
                || UNKNOWN.to_owned(),
                |current| quantity(current.average_value.as_ref(), "0"),
            );
            format!("{name}: {now}/{}", wanted.0)
        }
        None => format!(
            "{name}: {}/{}",
            percent(
                current.and_then(|current| current.average_utilization),
                UNKNOWN
            ),
            percent(target.average_utilization, "<auto>")
        ),
    }
}

fn target(metric: &MetricSpec, status: Option<&MetricStatus>) -> String {
    let text = match metric.type_.as_str() {
        "External" => metric.external.as_ref().map(|metric| {
            of_whole(
                &metric.target,
                status
                    .and_then(|status| status.external.as_ref())
                    .map(|status| &status.current),
            )
        }),
        "Object" => metric.object.as_ref().map(|metric| {
            of_whole(
                &metric.target,
                status
                    .and_then(|status| status.object.as_ref())
                    .map(|status| &status.current),
            )
        }),
        "Pods" => metric.pods.as_ref().map(|metric| {
            let now = status
                .and_then(|status| status.pods.as_ref())
                .map(|status| &status.current);
            let now = now.map_or_else(
                || UNKNOWN.to_owned(),
                |now| quantity(now.average_value.as_ref(), "0"),
            );
            format!(
                "{now}/{}",
                quantity(metric.target.average_value.as_ref(), "0")
            )
        }),
        "Resource" => metric.resource.as_ref().map(|metric| {
            let now = status
                .and_then(|status| status.resource.as_ref())
                .map(|status| &status.current);
            of_resource(&metric.name, &metric.target, now)
        }),
        "ContainerResource" => metric.container_resource.as_ref().map(|metric| {
            let now = status
                .and_then(|status| status.container_resource.as_ref())
                .map(|status| &status.current);
            of_resource(&metric.name, &metric.target, now)
        }),
        _ => None,
    };
    text.unwrap_or_else(|| "<unknown type>".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_two_metrics_and_counts_the_rest() {
        let metrics: Vec<MetricSpec> = serde_json::from_value(json!([
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
            {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "a"}, "metric": {"name": "m"},
                "target": {"type": "Value", "value": "2k"}}},
            {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
        ]))
        .unwrap();
        let current: Vec<MetricStatus> = serde_json::from_value(json!([
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12}}},
        ]))
        .unwrap();
        assert_eq!(
            targets(&metrics[..2], &current),
            "cpu: 12%/80%, <unknown>/2k"
        );
        assert_eq!(
            targets(&metrics, &[]),
            "cpu: <unknown>/80%, <unknown>/2k + 1 more..."
        );
        assert_eq!(targets(&metrics[2..], &[]), "<unknown>/1");
        assert_eq!(targets(&[], &[]), "<none>");
    }
}
