//! What was measured, as the metrics APIs tell it: `metrics.k8s.io`, `custom.metrics.k8s.io` and
//! `external.metrics.k8s.io`, whoever serves them.

use http::Request;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, LabelSelector, ObjectMeta};
use kube::{Client, Error};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use skiff_api::validation::quantity::Amount;
use skiff_client::failure::message;

use crate::discovery::discover;
use crate::hpa_replicas::{Reading, Readings};

/// The window of custom metrics that do not tell theirs.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);

#[derive(Deserialize)]
struct PodMetricsList {
    items: Vec<PodMetrics>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: ObjectMeta,
    #[serde(default)]
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: std::collections::BTreeMap<String, Quantity>,
}

#[derive(Deserialize)]
struct ValueList {
    items: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Value {
    #[serde(default)]
    described_object: CrossVersionObjectReference,
    #[serde(default)]
    timestamp: Timestamp,
    #[serde(alias = "window")]
    window_seconds: Option<i64>,
    value: Quantity,
}

impl Value {
    fn thousandths(&self) -> i64 {
        Amount::of(&self.value).milli_value()
    }
}

/// A duration as Go writes it, as far as windows of metrics go: `1m30s`, `15.2s`.
fn window(text: &str) -> SignedDuration {
    text.parse().unwrap_or(WINDOW)
}

/// Reads metrics with the autoscaler's own identity.
pub(crate) struct MetricsReader {
    client: Client,
}

impl MetricsReader {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, Error> {
        let request = Request::get(path)
            .body(Vec::new())
            .map_err(Error::HttpError)?;
        self.client.request(request).await
    }

    /// What the pods, or one container of each, use of a resource.
    pub async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
    ) -> Result<Readings, String> {
        let query = query(&[("labelSelector", selector)]);
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods{query}");
        let list: PodMetricsList = self.get(path).await.map_err(|error| {
            format!(
                "unable to fetch metrics from resource metrics API: {}",
                message(&error)
            )
        })?;
        if list.items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        Ok(of_pods(list, resource, container))
    }

    /// A metric of each of the pods.
    pub async fn of_pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &MetricIdentifier,
    ) -> Result<Readings, String> {
        let labels = shown(metric.selector.as_ref());
        let query = query(&[
            ("labelSelector", selector),
            ("metricLabelSelector", &labels),
        ]);
        let name = &metric.name;
        let list = self
            .custom(&format!("namespaces/{namespace}/pods/*/{name}{query}"))
            .await?;
        if list.items.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        let readings = list.items.into_iter().map(|item| {
            let reading = Reading {
                value: item.thousandths(),
                at: item.timestamp,
                window: item
                    .window_seconds
                    .map_or(WINDOW, SignedDuration::from_secs),
            };
            (item.described_object.name, reading)
        });
        Ok(readings.collect())
    }

    /// A metric of one object, in thousandths.
    pub async fn of_object(
        &self,
        namespace: &str,
        object: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
    ) -> Result<i64, String> {
        let labels = shown(metric.selector.as_ref());
        let query = query(&[("metricLabelSelector", &labels)]);
        let group = object.api_version.as_deref().unwrap_or_default();
        let group = group.split_once('/').map_or("", |(group, _)| group);
        let (kind, name) = (&object.kind, &metric.name);
        let path = if group.is_empty() && kind == "Namespace" {
            format!("namespaces/{namespace}/metrics/{name}{query}")
        } else {
            let known = discover(&self.client).await;
            let known = known.map_err(|error| custom_failed(&message(&error)))?;
            let mut known = known.into_iter();
            let found = known.find(|found| found.kind == *kind && found.group == group);
            let found = found.ok_or_else(|| {
                custom_failed(&format!("no matches for kind {kind:?} in group {group:?}"))
            })?;
            let plural = if group.is_empty() {
                found.plural
            } else {
                format!("{}.{group}", found.plural)
            };
            format!(
                "namespaces/{namespace}/{plural}/{}/{name}{query}",
                object.name
            )
        };
        let list = self.custom(&path).await?;
        match list.items.as_slice() {
            [one] => Ok(one.thousandths()),
            items => Err(custom_failed(&format!(
                "the custom metrics API server returned {} results when we asked for exactly one",
                items.len()
            ))),
        }
    }

    async fn custom(&self, path: &str) -> Result<ValueList, String> {
        let failed = |error: Error| custom_failed(&message(&error));
        let group: APIGroup = self
            .get("/apis/custom.metrics.k8s.io".to_owned())
            .await
            .map_err(failed)?;
        let newest = group
            .versions
            .iter()
            .any(|found| found.version == "v1beta2");
        let version = if newest { "v1beta2" } else { "v1beta1" };
        self.get(format!("/apis/custom.metrics.k8s.io/{version}/{path}"))
            .await
            .map_err(failed)
    }

    /// The values of a metric of the world outside, in thousandths.
    pub async fn external(
        &self,
        namespace: &str,
        metric: &MetricIdentifier,
    ) -> Result<Vec<i64>, String> {
        let labels = shown(metric.selector.as_ref());
        let query = query(&[("labelSelector", &labels)]);
        let name = &metric.name;
        let path =
            format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{name}{query}");
        let list: ValueList = self.get(path).await.map_err(|error| {
            format!(
                "unable to fetch metrics from external metrics API: {}",
                message(&error)
            )
        })?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(list.items.iter().map(Value::thousandths).collect())
    }
}

fn custom_failed(why: &str) -> String {
    format!("unable to fetch metrics from custom metrics API: {why}")
}

fn of_pods(list: PodMetricsList, resource: &str, container: Option<&str>) -> Readings {
    let mut readings = Readings::new();
    for pod in list.items {
        let used = |found: &ContainerMetrics| {
            let amount = found.usage.get(resource)?;
            Some(Amount::of(amount).milli_value())
        };
        let value = match container {
            Some(name) => {
                let mut all = pod.containers.iter();
                all.find(|found| found.name == name).and_then(used)
            }
            // One that is missing leaves the sum unknown.
            None if pod.containers.is_empty() => None,
            None => pod.containers.iter().map(used).sum(),
        };
        if let Some(value) = value {
            let reading = Reading {
                value,
                at: pod.timestamp,
                window: window(&pod.window),
            };
            readings.insert(pod.metadata.name.unwrap_or_default(), reading);
        }
    }
    readings
}

/// A selector as it goes into a query.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return String::new();
    };
    let labels = selector.match_labels.iter().flatten();
    let mut parts: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    for found in selector.match_expressions.iter().flatten() {
        let key = &found.key;
        let values = found.values.as_deref().unwrap_or_default().join(",");
        parts.push(match found.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        });
    }
    parts.join(",")
}

/// The query of a URL; what is empty is left out.
fn query(pairs: &[(&str, &str)]) -> String {
    let mut query = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    query.push(char::from(byte));
                }
                _ => query.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_and_their_containers() {
        let list = || -> PodMetricsList {
            serde_json::from_value(json!({"items": [
                {"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15.5s", "containers": [
                    {"name": "x", "usage": {"cpu": "100m", "memory": "1Ki"}}, {"name": "y", "usage": {"cpu": "250000000n"}}]},
                {"metadata": {"name": "b"}, "timestamp": "2026-01-01T00:00:00Z", "window": "1m0s", "containers": []},
            ]}))
            .unwrap()
        };
        let values = |resource: &str, container: Option<&str>| {
            let readings = of_pods(list(), resource, container);
            readings
                .into_iter()
                .map(|(name, reading)| (name, reading.value, reading.window.as_millis()))
                .collect::<Vec<_>>()
        };
        assert_eq!(values("cpu", None), [("a".to_owned(), 350, 15_500)]);
        assert_eq!(values("cpu", Some("x")), [("a".to_owned(), 100, 15_500)]);
        assert_eq!(values("memory", None), []);
        assert_eq!(
            values("memory", Some("x")),
            [("a".to_owned(), 1_024_000, 15_500)]
        );
        assert_eq!(window("1m0s"), SignedDuration::from_mins(1));
    }

    #[test]
    fn queries() {
        let selector = serde_json::from_value(json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]}))
        .unwrap();
        let text = shown(Some(&selector));
        assert_eq!(text, "a=b,c in (d,e),!f");
        assert_eq!(
            query(&[("x", ""), ("y", &text), ("z", "1")]),
            "?y=a%3Db%2Cc%20in%20%28d%2Ce%29%2C%21f&z=1"
        );
    }
}
