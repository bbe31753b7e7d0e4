//! `/healthz`, `/livez` and `/readyz`, with their single checks.

use axum::body::Body;
use bytes::Bytes;
use http::Response;

use crate::content;
use crate::server::{ApiServer, Call};

/// A check's name, the endpoints that include it, and whether it passes.
type Check = (
    &'static str,
    &'static [&'static str],
    fn(&ApiServer) -> bool,
);

const ALL: &[&str] = &["healthz", "livez", "readyz"];

const CHECKS: &[Check] = &[
    ("ping", ALL, |_| true),
    ("log", ALL, |_| true),
    ("etcd", ALL, ApiServer::watch_cache_started),
    ("informer-sync", &["readyz"], ApiServer::watch_cache_started),
    ("shutdown", &["readyz"], |server| {
        let stopping = server.stopping.load(std::sync::atomic::Ordering::Relaxed);
        !stopping && !server.shutdown.is_triggered()
    }),
];

/// The paths of the endpoints.
pub(crate) fn paths() -> Vec<String> {
    let single = CHECKS
        .iter()
        .flat_map(|(name, ends, _)| ends.iter().map(move |end| format!("/{end}/{name}")));
    ALL.iter()
        .map(|end| format!("/{end}"))
        .chain(single)
        .collect()
}

/// Answers a health request; `None`: it is none.
pub(crate) fn answer(call: &Call, segments: &[&str]) -> Option<Response<Body>> {
    let (end, single) = match segments {
        [end] => (*end, None),
        [end, single] => (*end, Some(*single)),
        _ => return None,
    };
    if !ALL.contains(&end) {
        return None;
    }
    let encryption = call.server.encryption.load();
    let ailment = encryption
        .as_ref()
        .filter(|encryption| encryption.has_services())
        .map(|encryption| ("kms-providers", encryption.ailment().is_none()));
    let checks = CHECKS
        .iter()
        .filter(|(_, ends, _)| ends.contains(&end))
        .map(|(name, _, passes)| (*name, passes(&call.server)))
        .chain(ailment);
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let mut report = String::new();
    let mut healthy = true;
    let mut any = false;
    for (name, passes) in checks {
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
