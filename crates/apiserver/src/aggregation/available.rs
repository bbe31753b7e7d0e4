//! Whether aggregated APIs answer: the condition `Available` of their APIServices.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::future::join_all;
use http::{Method, Request};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::openapi_v2::Part;
use super::proxy::set_identity;
use super::{Api, Said};
use crate::cache::{ResourceCache, Trigger};
use crate::kubernetes_service::call;
use crate::registry::Resource;
use crate::request::UserInfo;
use crate::server::ApiServer;

/// A healthy API is looked at again after this time, as upstream does.
const RESYNC: Duration = Duration::from_secs(30);
/// One that fails is, after a time that doubles.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Changes of services come in bursts.
const GATHER: Duration = Duration::from_millis(50);
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 3;
const DOCUMENT_LIMIT: usize = 16 << 20;

/// A condition: status, reason, message.
type Verdict = (&'static str, &'static str, String);

/// When an API is looked at next, and what it was judged by.
#[derive(Default)]
struct Watched {
    due: Duration,
    failures: u32,
    /// Revisions of the service and its slices.
    seen: Vec<u64>,
}

/// Checks all aggregated APIs, by events and by time, until the server stops.
pub(super) async fn run(server: &Arc<ApiServer>) {
    let mut watched: HashMap<String, Watched> = HashMap::new();
    loop {
        let apis = server.aggregation.apis();
        if apis.is_empty() {
            watched.clear();
            server.aggregation.changed.notified().await;
            continue;
        }
        let Some(places) = Places::of(server).await else {
            server.clock.sleep(FIRST_RETRY).await;
            continue;
        };
        watched.retain(|name, _| apis.iter().any(|api| api.name == *name));
        let now = server.clock.monotonic();
        let due: Vec<_> = apis
            .iter()
            .filter(|api| {
                let seen = places.revisions(api);
                let state = watched.entry(api.name.clone()).or_default();
                let changed = std::mem::replace(&mut state.seen, seen) != state.seen;
                changed || state.due <= now || !api.available && state.failures == 0
            })
            .collect();
        let outcomes = join_all(due.iter().map(|api| check(server, &places, api))).await;
        for (api, fine) in due.iter().zip(outcomes) {
            let state = watched.entry(api.name.clone()).or_default();
            state.failures = if fine {
                0
            } else {
                state.failures.saturating_add(1)
            };
            let pause = match state.failures {
                0 => RESYNC,
                failures => (FIRST_RETRY * 2u32.saturating_pow(failures.min(12))).min(RESYNC),
            };
            state.due = server.clock.monotonic() + pause;
        }
        let next = watched
            .values()
            .map(|state| state.due)
            .min()
            .unwrap_or(RESYNC);
        let pause = next.saturating_sub(server.clock.monotonic());
        tokio::select! {
            () = server.clock.sleep(pause) => {}
            () = server.aggregation.changed.notified() => {}
            () = places.changed() => server.clock.sleep(GATHER).await,
        }
    }
}

/// The caches that say where services lead.
struct Places {
    services: (
        Arc<Resource>,
        Arc<ResourceCache>,
        crate::cache::Subscription,
    ),
    slices: (
        Arc<Resource>,
        Arc<ResourceCache>,
        crate::cache::Subscription,
    ),
}

impl Places {
    async fn of(server: &ApiServer) -> Option<Self> {
        let open = async |group: &str, plural: &str| {
            let resource = server.registry.load().stored(group, plural)?.clone();
            let cache = server.hub_cache(&resource).await.ok()?;
            let subscription = cache.subscribe(Trigger::Any);
            Some((resource, cache, subscription))
        };
        Some(Self {
            services: open("", "services").await?,
            slices: open("discovery.k8s.io", "endpointslices").await?,
        })
    }

    async fn changed(&self) {
        tokio::select! {
            () = self.services.2.changed() => {}
            () = self.slices.2.changed() => {}
        }
    }

    fn slice_entries(&self, api: &Api) -> Vec<Arc<crate::cache::Entry>> {
        let (resource, cache, _) = &self.slices;
        let (mut entries, _) = cache.list(&resource.prefix(&api.service.0), None, 0);
        entries.retain(|entry| {
            entry
                .labels(&resource.storage)
                .get("kubernetes.io/service-name")
                == Some(&api.service.1)
        });
        entries
    }

    fn revisions(&self, api: &Api) -> Vec<u64> {
        let (resource, cache, _) = &self.services;
        let service = cache.get(&resource.key(&api.service.0, &api.service.1));
        let own = service.map_or(0, |entry| entry.revision);
        std::iter::once(own)
            .chain(self.slice_entries(api).iter().map(|entry| entry.revision))
            .collect()
    }

    /// What is wrong with the way to the API's server; `None`: nothing, it can be asked.
    fn judge(&self, api: &Api) -> Option<Verdict> {
        let (resource, cache, _) = &self.services;
        let service = cache.get(&resource.key(&api.service.0, &api.service.1));
        let service: Option<Service> = service.and_then(|entry| entry.decode());
        let slices: Vec<EndpointSlice> = self
            .slice_entries(api)
            .iter()
            .filter_map(|entry| entry.decode())
            .collect();
        judge(&api.service, service.as_ref(), &slices)
    }
}

fn judge(
    place: &(String, String, u16),
    service: Option<&Service>,
    slices: &[EndpointSlice],
) -> Option<Verdict> {
    let (namespace, name, port) = place;
    let wrong = |reason, message| Some(("False", reason, message));
    let Some(service) = service else {
        return wrong(
            "ServiceNotFound",
            format!("service/{name} in {namespace:?} is not present"),
        );
    };
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref().unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let ports = spec.ports.unwrap_or_default();
    let Some(found) = ports.iter().find(|entry| entry.port == i32::from(*port)) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return wrong("ServicePortError", message);
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return wrong("EndpointsNotFound", message);
    }
    let port_name = found.name.as_deref().unwrap_or_default();
    let serves = |slice: &EndpointSlice| {
        let ready = slice.endpoints.iter().flatten().any(|endpoint| {
            endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true)
        });
        ready
            && slice.ports.iter().flatten().any(|port| {
                port.name.as_deref().unwrap_or_default() == port_name && port.port.is_some()
            })
    };
    if slices.iter().any(serves) {
        return None;
    }
    let message = format!(
        "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
    );
    wrong("MissingEndpoints", message)
}

/// Checks one API and writes what came of it; answers whether it is fine.
async fn check(server: &Arc<ApiServer>, places: &Places, api: &Api) -> bool {
    let (namespace, name, _) = &api.service;
    let own = server.own_services.stands_in(server, namespace, name).await;
    let wrong = if own { None } else { places.judge(api) };
    let verdict = match wrong {
        Some(verdict) => verdict,
        None => match ask(server, api).await {
            Ok(document) => {
                server.aggregation.keep_document(api, document);
                ("True", "Passed", "all checks passed".to_owned())
            }
            Err(message) => ("False", "FailedDiscoveryCheck", message),
        },
    };
    let fine = verdict.0 == "True";
    write(server, api, verdict).await && fine
}

/// What the API's server says that it serves.
async fn ask(server: &Arc<ApiServer>, api: &Api) -> Result<Said, String> {
    let path = format!("/apis/{}/{}", api.group, api.version);
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match get(server, api, &path).await {
            // What it serves is told to clients where it is told well.
            Ok(resources) => {
                let index = get(server, api, "/openapi/v3").await.unwrap_or_default();
                let url =
                    index["paths"][path.trim_start_matches('/')]["serverRelativeURL"].as_str();
                let wanted = format!("/openapi/v3{path}");
                let openapi_v2 = openapi_v2(server, api).await;
                return Ok(Said {
                    resources,
                    openapi: url
                        .filter(|url| url.starts_with(&wanted))
                        .map(str::to_owned),
                    openapi_v2,
                });
            }
            Err(error) => last = error,
        }
    }
    let url = api
        .client
        .as_ref()
        .map(|client| client.url().to_owned())
        .unwrap_or_default();
    Err(format!(
        "failing or missing response from {url}{path}: {last}"
    ))
}

/// What the API's server says in its document of version 2; as before where it says that nothing changed.
async fn openapi_v2(server: &Arc<ApiServer>, api: &Api) -> Option<Arc<Part>> {
    let before = server.aggregation.document(api);
    let before = before.and_then(|said| said.openapi_v2.clone());
    let etag = before.as_ref().map_or("", |part| part.etag.as_str());
    let answer = fetch(server, api, "/openapi/v2", etag).await.ok()?;
    if answer.status() == http::StatusCode::NOT_MODIFIED {
        return before;
    }
    let etag = answer.headers().get(http::header::ETAG);
    let etag = etag.and_then(|etag| etag.to_str().ok());
    let etag = etag.unwrap_or_default().to_owned();
    let document: Value = serde_json::from_slice(answer.body()).ok()?;
    let part = Part::of(&document, etag, &api.group, &api.version);
    Some(match before {
        Some(before) if *before == part => before,
        _ => Arc::new(part),
    })
}

/// One document of the API's server, null where it is no JSON.
async fn get(server: &Arc<ApiServer>, api: &Api, path: &str) -> Result<Value, String> {
    let answer = fetch(server, api, path, "").await?;
    Ok(serde_json::from_slice(answer.body()).unwrap_or_default())
}

/// An answer of the API's server: a success, or that the document is still the one with this tag (unless it is empty).
async fn fetch(
    server: &Arc<ApiServer>,
    api: &Api,
    path: &str,
    etag: &str,
) -> Result<http::Response<bytes::Bytes>, String> {
    let client = api.client.as_ref().map_err(Clone::clone)?;
    let url = format!("{}{path}", client.url());
    let mut request = Request::get(&url)
        .header(http::header::ACCEPT, "application/json")
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let checker = UserInfo::new("system:kube-aggregator", &["system:masters"]);
    set_identity(request.headers_mut(), &checker);
    if let (false, Ok(etag)) = (etag.is_empty(), etag.parse()) {
        request
            .headers_mut()
            .insert(http::header::IF_NONE_MATCH, etag);
    }
    let exchange = async {
        let response = client
            .send(request)
            .await
            .map_err(|error| format!("Get {url:?}: {error}"))?;
        let unchanged = response.status() == http::StatusCode::NOT_MODIFIED && !etag.is_empty();
        if !response.status().is_success() && !unchanged {
            return Err(format!(
                "bad status from {url}: {}",
                response.status().as_u16()
            ));
        }
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(Body::new(body), DOCUMENT_LIMIT).await;
        Ok(http::Response::from_parts(parts, bytes.unwrap_or_default()))
    };
    tokio::select! {
        outcome = exchange => outcome,
        () = server.clock.sleep(CHECK_TIMEOUT) => Err(format!("Get {url:?}: context deadline exceeded")),
    }
}

/// Writes the condition where it changed.
async fn write(server: &Arc<ApiServer>, api: &Api, (status, reason, message): Verdict) -> bool {
    let user = Arc::new(UserInfo::new("system:apiserver", &["system:masters"]));
    let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{}", api.name);
    let (code, mut object) = call(server, &user, Method::GET, &path, None).await;
    if !code.is_success() {
        return false;
    }
    let now = server.now().to_string();
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .cloned();
    let mut conditions = conditions.unwrap_or_default();
    let old = conditions
        .iter()
        .position(|condition| condition["type"] == "Available");
    let since = match old.map(|at| &conditions[at]) {
        Some(old)
            if old["status"] == status && old["reason"] == reason && old["message"] == message =>
        {
            return true;
        }
        Some(old) if old["status"] == status => old["lastTransitionTime"].clone(),
        _ => json!(now),
    };
    let new = json!({
        "type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    match old {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
    object["status"] = json!({"conditions": conditions});
    let (code, answer) = call(
        server,
        &user,
        Method::PUT,
        &format!("{path}/status"),
        Some(&object),
    )
    .await;
    if !code.is_success() && code != http::StatusCode::CONFLICT {
        tracing::warn!(api = api.name, error = %answer["message"], "the condition of an APIService was not written");
    }
    code.is_success()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_server_is_judged_in_upstreams_words() {
        let place = ("ns".to_owned(), "svc".to_owned(), 443);
        let service = |port: i32| -> Service {
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"type": "ClusterIP", "ports": [{"port": port}]}}),
            )
            .unwrap()
        };
        let slice = |ready: bool| -> EndpointSlice {
            serde_json::from_value(
                json!({"metadata": {}, "addressType": "IPv4", "ports": [{"name": "", "port": 8443}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]}),
            )
            .unwrap()
        };
        let told = |service: Option<&Service>, slices: &[EndpointSlice]| {
            judge(&place, service, slices)
                .map(|(status, reason, message)| format!("{status} {reason}: {message}"))
        };
        assert_eq!(
            told(None, &[]).unwrap(),
            "False ServiceNotFound: service/svc in \"ns\" is not present"
        );
        assert_eq!(
            told(Some(&service(80)), &[]).unwrap(),
            "False ServicePortError: service/svc in \"ns\" is not listening on port 443"
        );
        assert_eq!(
            told(Some(&service(443)), &[]).unwrap(),
            "False EndpointsNotFound: cannot find endpointslices for service/svc in \"ns\""
        );
        assert_eq!(
            told(Some(&service(443)), &[slice(false)]).unwrap(),
            "False MissingEndpoints: endpointslices for service/svc in \"ns\" have no addresses with port name \"\""
        );
        assert_eq!(
            told(Some(&service(443)), &[slice(false), slice(true)]),
            None
        );
    }
}
