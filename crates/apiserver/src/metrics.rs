//! `/metrics`: how many requests were answered how, in Prometheus' text form under upstream's names.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use http::Response;
use parking_lot::RwLock;

use crate::content;
use crate::request::RequestInfo;
use crate::server::ApiServer;

/// What requests are counted by, beside the answer's code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

impl Label {
    /// Of a request. Paths that are no resources, and verbs and names that clients make up, share one.
    fn of(info: &RequestInfo) -> Self {
        Self {
            verb: verb(info).to_ascii_uppercase(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            scope: scope(info),
        }
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match (
        info.is_resource,
        info.name.is_empty(),
        info.namespace.is_empty(),
    ) {
        (false, ..) => "",
        (true, false, _) => "resource",
        (true, true, false) => "namespace",
        (true, true, true) => "cluster",
    }
}

fn verb(info: &RequestInfo) -> &str {
    match info.verb.as_str() {
        "get" | "list" | "watch" | "create" | "update" | "patch" | "delete"
        | "deletecollection" => &info.verb,
        _ => "other",
    }
}

/// The answers of one kind.
struct Counter {
    label: Label,
    code: u16,
    count: AtomicU64,
}

/// Adds what another part of the process measures, in Prometheus' text form.
type MoreMetrics = Box<dyn Fn(&mut String) + Send + Sync>;

/// The counters, by a keyed hash of label and code: counting an answer makes no strings.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: RwLock<HashMap<u64, Counter>>,
    hash: RandomState,
    /// What other parts add.
    more: RwLock<Vec<MoreMetrics>>,
}

/// So many label sets are kept at most: clients can make up resource names.
const MAX_LABELS: usize = 5000;

impl Metrics {
    /// Counts an answer.
    pub fn count(&self, info: &RequestInfo, code: u16) {
        let scope = scope(info);
        if code == 404 && scope.is_empty() {
            return;
        }
        let names = (
            &info.group,
            &info.version,
            &info.resource,
            &info.subresource,
        );
        let key = self.hash.hash_one((verb(info), names, scope, code));
        if let Some(counter) = self.requests.read().get(&key) {
            counter.count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut requests = self.requests.write();
        if requests.len() < MAX_LABELS || requests.contains_key(&key) {
            let counter = requests.entry(key).or_insert_with(|| Counter {
                label: Label::of(info),
                code,
                count: AtomicU64::new(0),
            });
            counter.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn text(&self) -> String {
        let mut text = String::from(
            "# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, group, version, resource, scope, component, and HTTP response code.\n# TYPE apiserver_request_total counter\n",
        );
        let requests = self.requests.read();
        let mut counters: Vec<_> = requests.values().collect();
        counters.sort_by_key(|counter| (&counter.label, counter.code));
        for Counter { label, code, count } in counters {
            let count = count.load(Ordering::Relaxed);
            let _ = writeln!(
                text,
                "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",group={:?},resource={:?},scope={:?},subresource={:?},verb={:?},version={:?}}} {count}",
                label.group,
                label.resource,
                label.scope,
                label.subresource,
                label.verb,
                label.version
            );
        }
        text
    }
}

impl ApiServer {
    /// Has `/metrics` tell of another part of the process too.
    pub fn add_metrics(&self, write: impl Fn(&mut String) + Send + Sync + 'static) {
        self.metrics.more.write().push(Box::new(write));
    }
}

/// Answers a scrape.
pub(crate) fn answer(server: &ApiServer) -> Response<Body> {
    let mut text = server.metrics.text();
    server.flow.metrics(&mut text);
    for write in &*server.metrics.more.read() {
        write(&mut text);
    }
    content::response(200, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_label_and_code() {
        let metrics = Metrics::default();
        let info = RequestInfo::resolve(&http::Method::GET, "/api/v1/namespaces/a/pods", None);
        metrics.count(&info, 200);
        metrics.count(&info, 200);
        let wanted = r#"code="200",component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 2"#;
        assert!(metrics.text().contains(wanted), "{}", metrics.text());
    }
}
