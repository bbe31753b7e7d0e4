//! `/metrics`: how many requests were answered how, in Prometheus' text form under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;

use axum::body::Body;
use http::Response;
use parking_lot::Mutex;

use crate::content;
use crate::request::RequestInfo;
use crate::server::ApiServer;

/// What requests are counted by, beside the answer's code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Label {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

impl Label {
    /// Of a request. Paths that are no resources, and verbs and names that clients make up, share one.
    pub fn of(info: &RequestInfo) -> Self {
        let scope = match (
            info.is_resource,
            info.name.is_empty(),
            info.namespace.is_empty(),
        ) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let verb = match info.verb.as_str() {
            "get" | "list" | "watch" | "create" | "update" | "patch" | "delete"
            | "deletecollection" => info.verb.to_ascii_uppercase(),
            _ => "other".to_owned(),
        };
        Self {
            verb,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            scope,
        }
    }
}

/// The counters.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(Label, u16), u64>>,
}

/// So many label sets are kept at most: clients can make up resource names.
const MAX_LABELS: usize = 5000;

impl Metrics {
    /// Counts an answer.
    pub fn count(&self, label: Label, code: u16) {
        if code == 404 && label.scope.is_empty() {
            return;
        }
        let mut requests = self.requests.lock();
        if let Some(count) = requests.get_mut(&(label.clone(), code)) {
            *count += 1;
        } else if requests.len() < MAX_LABELS {
            requests.insert((label, code), 1);
        }
    }

    fn text(&self) -> String {
        let mut text = String::from(
            "# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, group, version, resource, scope, component, and HTTP response code.\n# TYPE apiserver_request_total counter\n",
        );
        for ((label, code), count) in &*self.requests.lock() {
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

/// Answers a scrape.
pub(crate) fn answer(server: &ApiServer) -> Response<Body> {
    let mut text = server.metrics.text();
    server.flow.metrics(&mut text);
    content::response(200, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_label_and_code() {
        let metrics = Metrics::default();
        let info = RequestInfo::resolve(&http::Method::GET, "/api/v1/namespaces/a/pods", None);
        metrics.count(Label::of(&info), 200);
        metrics.count(Label::of(&info), 200);
        let wanted = r#"code="200",component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 2"#;
        assert!(metrics.text().contains(wanted), "{}", metrics.text());
    }
}
