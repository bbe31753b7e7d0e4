//! `/healthz`, `/livez` and `/readyz`, with their single checks.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Response;

use crate::content;
use crate::server::{ApiServer, Call};

/// How long the store has for an answer, as upstream's flag for it says.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// A check's name, the endpoints that include it, and whether it passes.
type Check = (
    &'static str,
    &'static [&'static str],
    fn(&ApiServer) -> bool,
);

/// The check that asks the store, which may be far away.
const STORE: &str = "etcd";

const ALL: &[&str] = &["healthz", "livez", "readyz"];

const CHECKS: &[Check] = &[
    ("ping", ALL, |_| true),
    ("log", ALL, |_| true),
    (
        "autoregister-completion",
        ALL,
        ApiServer::watch_cache_started,
    ),
    (
        "loopback-serving-certificate",
        &["healthz", "livez"],
        |_| true,
    ),
    (STORE, ALL, ApiServer::watch_cache_started),
    ("informer-sync", &["readyz"], ApiServer::watch_cache_started),
    ("shutdown", &["readyz"], |server| {
        let stopping = server.stopping.load(std::sync::atomic::Ordering::Relaxed);
        !stopping && !server.shutdown.is_triggered()
    }),
];

/// What upstream does after its server has started, each told by a check of its own. Here it is part of the start, or done
/// by a component beside it; the checks pass as soon as the server works.
const AFTER_START: &[&str] = &[
    "aggregator-reload-proxy-client-cert",
    "apiservice-discovery-controller",
    "apiservice-openapi-controller",
    "apiservice-openapiv3-controller",
    "apiservice-registration-controller",
    "apiservice-status-local-available-controller",
    "apiservice-status-remote-available-controller",
    "apiservice-wait-for-first-sync",
    "bootstrap-controller",
    "crd-informer-synced",
    "generic-apiserver-start-informers",
    "kube-apiserver-autoregistration",
    "peer-endpoint-reconciler-controller",
    "priority-and-fairness-config-consumer",
    "priority-and-fairness-config-producer",
    "priority-and-fairness-filter",
    "rbac/bootstrap-roles",
    "scheduling/bootstrap-system-priority-classes",
    "start-apiextensions-controllers",
    "start-apiextensions-informers",
    "start-apiserver-admission-initializer",
    "start-cluster-authentication-info-controller",
    "start-kube-aggregator-informers",
    "start-kube-apiserver-identity-lease-controller",
    "start-kube-apiserver-identity-lease-garbage-collector",
    "start-kubernetes-service-cidr-controller",
    "start-legacy-token-tracking-controller",
    "start-service-ip-repair-controllers",
    "start-system-namespaces-controller",
    "storage-object-count-tracker-hook",
    "storage-readiness",
];

fn after_start() -> impl Iterator<Item = String> {
    AFTER_START
        .iter()
        .map(|name| format!("poststarthook/{name}"))
}

async fn store_answers(server: &ApiServer) -> bool {
    tokio::select! {
        answer = server.store.revision() => answer.is_ok(),
        () = server.clock.sleep(STORE_TIMEOUT) => false,
    }
}

/// The paths of the endpoints.
pub(crate) fn paths() -> Vec<String> {
    let single = CHECKS
        .iter()
        .flat_map(|(name, ends, _)| ends.iter().map(move |end| format!("/{end}/{name}")));
    let hooks = ALL
        .iter()
        .flat_map(|end| after_start().map(move |name| format!("/{end}/{name}")));
    ALL.iter()
        .map(|end| format!("/{end}"))
        .chain(single)
        .chain(hooks)
        .collect()
}

/// Answers a scrape of the checks: one gauge each.
pub(crate) async fn indicators(server: &ApiServer) -> Response<Body> {
    let stored = store_answers(server).await;
    let mut text = String::from(
        "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n# TYPE kubernetes_healthcheck gauge\n",
    );
    let after = || after_start().map(|name| (name, server.watch_cache_started()));
    for end in ALL {
        let own = CHECKS.iter().filter(|(_, ends, _)| ends.contains(end));
        let own = own.map(|(name, _, passes)| {
            (
                (*name).to_owned(),
                passes(server) && (stored || *name != STORE),
            )
        });
        for (name, passes) in own.chain(after()) {
            let value = u8::from(passes);
            text.push_str(&format!(
                "kubernetes_healthcheck{{name=\"{name}\",type=\"{end}\"}} {value}\n"
            ));
        }
    }
    content::response(200, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

/// Answers a health request; `None`: it is none.
pub(crate) async fn answer(call: &Call, segments: &[&str]) -> Option<Response<Body>> {
    let (end, rest) = segments.split_first()?;
    let (end, rest) = (*end, rest.join("/"));
    let single = Some(rest.as_str()).filter(|rest| !rest.is_empty());
    if !ALL.contains(&end) {
        return None;
    }
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let asked = match single {
        Some(name) => name == STORE,
        None => !excluded.contains(&STORE),
    };
    let stored = !asked || store_answers(&call.server).await;
    let encryption = call.server.encryption.load_full();
    let ailment = encryption
        .as_ref()
        .filter(|encryption| encryption.has_services())
        .map(|encryption| ("kms-providers", encryption.ailment().is_none()));
    let checks = CHECKS
        .iter()
        .filter(|(_, ends, _)| ends.contains(&end))
        .map(|(name, _, passes)| {
            let passes = passes(&call.server) && (stored || *name != STORE);
            ((*name).to_owned(), passes)
        })
        .chain(after_start().map(|name| (name, call.server.watch_cache_started())))
        .chain(ailment.map(|(name, passes)| (name.to_owned(), passes)));
    let mut report = String::new();
    let mut healthy = true;
    let mut any = false;
    for (name, passes) in checks {
        let name = name.as_str();
        if single.is_some_and(|single| single != name) {
            continue;
        }
        any = true;
        if single.is_none() && excluded.contains(&name) {
            report.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if passes {
            report.push_str(&format!("[+]{name} ok\n"));
        } else {
            healthy = false;
            report.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    if !any {
        return None;
    }
    if !healthy {
        report.push_str(&format!("{end} check failed\n"));
        return Some(content::response(
            500,
            "text/plain; charset=utf-8",
            report.into(),
        ));
    }
    let text: Bytes = if call.query.has("verbose") && single.is_none() {
        report.push_str(&format!("{end} check passed\n"));
        report.into()
    } else {
        Bytes::from_static(b"ok")
    };
    Some(content::response(200, "text/plain; charset=utf-8", text))
}
