//! The built-in `metrics.k8s.io/v1beta1`: what nodes and pods use just now.
//!
//! It is an API server of its own behind the aggregation layer, without a socket: [`MetricsServer::answer`] is
//! called in process. What it tells it reads from the kubelets' `/metrics/resource` when somebody asks; an idle
//! cluster is not measured.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http::{Request, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::{Client, Error};
use serde_json::{Value, json};
use skiff_base::SharedClock;
use skiff_client::ApiFailure;
use skiff_client::failure::message;
use skiff_client::own_api::{Answer, OwnApi, failure, no_such_path};
use tokio::sync::Mutex;

use crate::metrics_openapi;
use crate::metrics_samples::{NodeSample, Usage, read, usage};
use crate::seen_pod::Pod;

/// The account that it acts with, and the service that it stands in for.
pub const NAME: &str = "metrics-server";

pub(crate) const API: OwnApi = OwnApi {
    group: "metrics.k8s.io",
    version: "v1beta1",
    service: NAME,
    title: "Kubernetes metrics",
    schemas: "io.k8s.metrics.pkg.apis.metrics.v1beta1.",
};
const GROUP_VERSION: &str = "metrics.k8s.io/v1beta1";
/// What was measured so recently is not measured again.
const FRESH: Duration = Duration::from_secs(10);
/// Two measurements this far apart say nothing about now.
const FAR: Duration = Duration::from_secs(120);
/// How long to measure where there is nothing to compare with.
const SHORT: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

/// The last two measurements of a node.
#[derive(Default)]
struct Samples {
    before: Option<NodeSample>,
    last: Option<NodeSample>,
    /// When the last was taken, on the monotonic clock.
    taken: Duration,
}

/// The metrics API.
pub struct MetricsServer {
    client: Client,
    clock: SharedClock,
    samples: Mutex<HashMap<String, Samples>>,
}

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Resources,
    Nodes,
    Node(&'a str),
    /// In one namespace, or in all.
    Pods(Option<&'a str>),
    Pod(&'a str, &'a str),
}

fn wanted(path: &str) -> Option<Wanted<'_>> {
    let rest = path.strip_prefix(&API.root())?;
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    Some(match parts.as_slice() {
        [] => Wanted::Resources,
        ["nodes"] => Wanted::Nodes,
        ["nodes", name] => Wanted::Node(name),
        ["pods"] => Wanted::Pods(None),
        ["namespaces", namespace, "pods"] => Wanted::Pods(Some(namespace)),
        ["namespaces", namespace, "pods", name] => Wanted::Pod(namespace, name),
        _ => return None,
    })
}

fn resources() -> Answer {
    let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    API.resources(json!([
        resource("nodes", "NodeMetrics", false),
        resource("pods", "PodMetrics", true),
    ]))
}

fn of_error(error: &Error) -> Answer {
    let code = error
        .code()
        .and_then(|code| StatusCode::from_u16(code).ok());
    let code = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = if code == StatusCode::INTERNAL_SERVER_ERROR {
        "InternalError"
    } else {
        ""
    };
    failure(code, reason, &message(error), Value::Null)
}

/// The values of a query's parameter.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let code = digit(rest.next())? * 16 + digit(rest.next())?;
                bytes.push(u8::try_from(code).ok()?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

fn selection(query: &str) -> ListParams {
    let of = |name: &str| parameter(query, name).filter(|text| !text.is_empty());
    ListParams {
        label_selector: of("labelSelector"),
        field_selector: of("fieldSelector"),
        ..ListParams::default()
    }
}

fn metadata(meta: &ObjectMeta, now: Timestamp) -> Value {
    let now = Timestamp::from_second(now.as_second()).unwrap_or_default();
    let mut shown = json!({"name": meta.name, "creationTimestamp": now});
    if let Some(namespace) = &meta.namespace {
        shown["namespace"] = json!(namespace);
    }
    if let Some(labels) = &meta.labels {
        shown["labels"] = json!(labels);
    }
    shown
}

fn shown_usage(usage: Usage) -> Value {
    json!({"cpu": format!("{}n", usage.nano_cores), "memory": format!("{}Ki", usage.memory / 1024)})
}

fn shown_window(window: Duration) -> String {
    format!("{}.{:03}s", window.as_secs(), window.subsec_millis())
}

fn list(kind: &str, items: Vec<Value>) -> Answer {
    let list = json!({"kind": kind, "apiVersion": GROUP_VERSION, "metadata": {}, "items": items});
    (200, list)
}

impl MetricsServer {
    /// `client` acts as the service account `kube-system/metrics-server`.
    #[must_use]
    pub fn new(client: Client, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            client,
            clock,
            samples: Mutex::default(),
        })
    }

    /// Answers a request that was authorized already: code and JSON body.
    pub async fn answer(&self, method: &str, path: &str, query: &str) -> Answer {
        if let Some(answer) = API.common(method, path, metrics_openapi::document) {
            return answer;
        }
        let outcome = match wanted(path) {
            Some(Wanted::Resources) => return resources(),
            Some(Wanted::Nodes) => self.nodes(&selection(query)).await,
            Some(Wanted::Node(name)) => self.node(name).await,
            Some(Wanted::Pods(namespace)) => self.pods(namespace, &selection(query)).await,
            Some(Wanted::Pod(namespace, name)) => self.pod(namespace, name).await,
            None => return no_such_path(),
        };
        outcome.unwrap_or_else(|error| of_error(&error))
    }

    async fn nodes(&self, params: &ListParams) -> Result<Answer, Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let nodes = api.list(params).await?.items;
        let items = self.measured(&nodes).await;
        Ok(list("NodeMetricsList", items))
    }

    async fn node(&self, name: &str) -> Result<Answer, Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let Some(node) = api.get_opt(name).await? else {
            return Ok(API.not_found("nodes", name));
        };
        let found = self.measured(&[node]).await.pop();
        Ok(found.map_or_else(|| API.not_found("nodes", name), |found| (200, found)))
    }

    async fn measured(&self, nodes: &[Node]) -> Vec<Value> {
        let names = nodes
            .iter()
            .filter_map(|node| node.metadata.name.as_deref());
        let mut samples = self.samples.lock().await;
        self.measure(&mut samples, names.collect()).await;
        let items = nodes.iter().filter_map(|node| {
            let found = samples.get(node.metadata.name.as_deref()?)?;
            let (before, last) = (found.before.as_ref()?, found.last.as_ref()?);
            let window = last.since(before);
            let used = usage(before.node?, last.node?, window)?;
            Some(json!({"kind": "NodeMetrics", "apiVersion": GROUP_VERSION, "metadata": metadata(&node.metadata, last.at),
                "timestamp": last.at, "window": shown_window(window), "usage": shown_usage(used)}))
        });
        items.collect()
    }

    async fn pods(&self, namespace: Option<&str>, params: &ListParams) -> Result<Answer, Error> {
        let api: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let pods = api.list(params).await?.items;
        let items = self.measured_pods(&pods).await;
        Ok(list("PodMetricsList", items))
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Answer, Error> {
        let full = format!("{namespace}/{name}");
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let Some(pod) = api.get_opt(name).await? else {
            return Ok(API.not_found("pods", &full));
        };
        let found = self.measured_pods(&[pod]).await.pop();
        Ok(found.map_or_else(|| API.not_found("pods", &full), |found| (200, found)))
    }

    async fn measured_pods(&self, pods: &[Pod]) -> Vec<Value> {
        let running = pods
            .iter()
            .filter(|pod| crate::pods::phase(pod) == "Running");
        let names = running.clone().map(crate::pods::node_name);
        let mut samples = self.samples.lock().await;
        let names = names.filter(|name| !name.is_empty()).collect();
        self.measure(&mut samples, names).await;
        let items = running.filter_map(|pod| {
            let found = samples.get(crate::pods::node_name(pod))?;
            let (before, last) = (found.before.as_ref()?, found.last.as_ref()?);
            let window = last.since(before);
            let meta = &pod.metadata;
            let key = (meta.namespace.clone()?, meta.name.clone()?);
            let (older, newer) = (before.pods.get(&key)?, last.pods.get(&key)?);
            let mut containers = Vec::new();
            for (name, now) in newer {
                // One that is new or was started again has no past to compare with yet.
                let used = usage(*older.get(name)?, *now, window)?;
                containers.push(json!({"name": name, "usage": shown_usage(used)}));
            }
            Some(json!({"kind": "PodMetrics", "apiVersion": GROUP_VERSION, "metadata": metadata(meta, last.at),
                "timestamp": last.at, "window": shown_window(window), "containers": containers}))
        });
        items.collect()
    }

    /// Sees to it that each of the nodes has two measurements that tell of now, where its kubelet answers.
    async fn measure(&self, all: &mut HashMap<String, Samples>, nodes: BTreeSet<&str>) {
        let now = self.clock.monotonic();
        let due = nodes.into_iter().filter(|node| {
            let taken = all.get(*node).map(|found| found.taken);
            taken.is_none_or(|taken| now.saturating_sub(taken) >= FRESH)
        });
        let due: Vec<&str> = due.collect();
        self.take(all, &due).await;
        let alone = due.into_iter().filter(|node| {
            let found = all.get(*node);
            found.is_some_and(|found| {
                let (Some(last), before) = (&found.last, &found.before) else {
                    return false;
                };
                before
                    .as_ref()
                    .is_none_or(|before| last.since(before) > FAR)
            })
        });
        let alone: Vec<&str> = alone.collect();
        if !alone.is_empty() {
            self.clock.sleep(SHORT).await;
            self.take(all, &alone).await;
        }
        // Nodes that nobody asks for any more.
        all.retain(|_, found| now.saturating_sub(found.taken) < Duration::from_secs(3600));
    }

    async fn take(&self, all: &mut HashMap<String, Samples>, nodes: &[&str]) {
        let samples = join_all(nodes.iter().map(|node| self.scrape(node))).await;
        for (node, sample) in nodes.iter().zip(samples) {
            let found = all.entry((*node).to_owned()).or_default();
            found.taken = self.clock.monotonic();
            match sample {
                Ok(sample) => found.before = found.last.replace(sample),
                Err(error) => {
                    tracing::debug!(node, %error, "cannot be measured");
                    *found = Samples {
                        taken: found.taken,
                        ..Samples::default()
                    };
                }
            }
        }
    }

    async fn scrape(&self, node: &str) -> Result<NodeSample, String> {
        let path = format!("/api/v1/nodes/{node}/proxy/metrics/resource");
        let request = Request::get(path).body(Vec::new());
        let request = request.map_err(|error| error.to_string())?;
        let text = tokio::select! {
            text = self.client.request_text(request) => text.map_err(|error| message(&error))?,
            () = self.clock.sleep(TIMEOUT) => return Err("the kubelet does not answer".to_owned()),
        };
        let now = Timestamp::try_from(self.clock.now()).unwrap_or_default();
        Ok(read(&text, now))
    }
}

/// What a cluster needs for this API to be served.
#[must_use]
pub fn objects() -> Vec<Value> {
    const RBAC: &str = "rbac.authorization.k8s.io/v1";
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let reads = ["get", "list", "watch"];
    let labels: BTreeMap<String, &str> = ["admin", "edit", "view"]
        .map(|role| {
            let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
            (label, "true")
        })
        .into();
    vec![
        json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": "system:aggregated-metrics-reader", "labels": labels},
            "rules": [rule(&["metrics.k8s.io"], &["pods", "nodes"], &reads)]}),
        json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": "system:metrics-server"}, "rules": [
            rule(&[""], &["nodes/metrics", "nodes/proxy"], &["get"]), rule(&[""], &["pods", "nodes"], &reads)]}),
        json!({"apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": "system:metrics-server"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:metrics-server"},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": "kube-system"}]}),
        API.api_service(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries() {
        let at = |path: &'static str| wanted(path);
        assert_eq!(at("/apis/metrics.k8s.io/v1beta1"), Some(Wanted::Resources));
        assert_eq!(
            at("/apis/metrics.k8s.io/v1beta1/nodes/a"),
            Some(Wanted::Node("a"))
        );
        assert_eq!(
            at("/apis/metrics.k8s.io/v1beta1/pods"),
            Some(Wanted::Pods(None))
        );
        assert_eq!(
            at("/apis/metrics.k8s.io/v1beta1/namespaces/n/pods/p"),
            Some(Wanted::Pod("n", "p"))
        );
        assert_eq!(at("/apis/metrics.k8s.io/v1beta1/namespaces/n"), None);
        assert_eq!(at("/openapi/v3"), None);
        let query = "limit=5&labelSelector=a%3Db%2Cc+in+%28d%29";
        assert_eq!(
            parameter(query, "labelSelector").as_deref(),
            Some("a=b,c in (d)")
        );
        assert_eq!(parameter(query, "other"), None);
        assert_eq!(parameter("labelSelector=%zz", "labelSelector"), None);
        assert_eq!(shown_window(Duration::from_millis(15_042)), "15.042s");
    }
}
