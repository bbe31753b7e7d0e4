//! The service `kubernetes`, by which pods reach this server: kept with its endpoints, as upstream's server does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use skiff_store::WatchItem;

use crate::request::UserInfo;
use crate::server::ApiServer;

/// When something failed (the namespace is not there yet, the store is full), it is tried again after this time.
const RETRY: Duration = Duration::from_millis(100);
/// Where the objects lie in the store.
const KEYS: [&str; 5] = [
    crate::peers::PREFIX,
    "/registry/servicecidrs/kubernetes",
    "/registry/services/specs/default/kubernetes",
    "/registry/services/endpoints/default/kubernetes",
    "/registry/endpointslices/default/kubernetes",
];

/// Makes the service and its endpoints, and makes them again when someone changes them.
pub(crate) async fn keep(server: Arc<ApiServer>, advertise: SocketAddr) {
    let user = Arc::new(UserInfo::new("system:apiserver", &["system:masters"]));
    loop {
        let changes = changes(&server).await;
        let mut failed = false;
        let (addresses, port) = if server.config.shares_store {
            crate::peers::endpoints(&crate::peers::all(&server, advertise).await)
        } else {
            (vec![advertise.ip()], advertise.port())
        };
        for (path, object) in objects(&server, advertise.port(), &addresses, port) {
            if let Err(error) = reconcile(&server, &user, path, &object).await {
                // The namespace may not be there yet.
                tracing::debug!(error, path, "the service kubernetes could not be written");
                failed = true;
            }
        }
        let pause = async {
            match changes {
                // A watch that breaks off is begun anew.
                Some(mut changes) if !failed => drop(changes.next().await),
                _ => server.clock.sleep(RETRY).await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = server.shutdown.triggered() => return,
        }
    }
}

/// Changes of the objects from now on.
async fn changes(server: &ApiServer) -> Option<impl futures::Stream<Item = ()> + Unpin + use<>> {
    let revision = server.store.revision().await.ok()?;
    let mut watches = Vec::new();
    for key in KEYS {
        watches.push(server.store.watch(key, revision).await.ok()?);
    }
    let changes = futures::stream::select_all(watches);
    Some(Box::pin(changes.filter_map(async |item| {
        let progress = matches!(item, Ok(WatchItem::Progress(_)));
        (!progress).then_some(())
    })))
}

/// Collections and the objects that shall be there. `addresses` are those of all servers, at `port`; `own` is where this
/// one listens.
fn objects(
    server: &ApiServer,
    own: u16,
    addresses: &[IpAddr],
    port: u16,
) -> [(&'static str, Value); 4] {
    let subset: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let ready = |ip: &IpAddr| json!({"addresses": [ip], "conditions": {"ready": true}});
    let endpoints: Vec<Value> = addresses.iter().map(ready).collect();
    let cluster_ip = server.service_range.address(1).to_string();
    let is_v4 = addresses.iter().all(IpAddr::is_ipv4);
    let family = if is_v4 { "IPv4" } else { "IPv6" };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let port = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    [
        (
            "/apis/networking.k8s.io/v1/servicecidrs",
            json!({
                "metadata": {"name": "kubernetes"}, "spec": {"cidrs": [server.config.service_cidr]},
            }),
        ),
        (
            "/api/v1/namespaces/default/services",
            json!({
                "metadata": {"name": "kubernetes", "labels": labels},
                "spec": {
                    "type": "ClusterIP", "clusterIP": cluster_ip, "sessionAffinity": "None",
                    "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": own}],
                },
            }),
        ),
        (
            "/api/v1/namespaces/default/endpoints",
            json!({
                "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
                "subsets": [{"addresses": subset, "ports": port}],
            }),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({
                "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": family,
                "endpoints": endpoints,
                "ports": port,
            }),
        ),
    ]
}

async fn reconcile(
    server: &Arc<ApiServer>,
    user: &Arc<UserInfo>,
    collection: &str,
    wanted: &Value,
) -> Result<(), String> {
    let path = format!("{collection}/kubernetes");
    let (code, have) = call(server, user, Method::GET, &path, None).await;
    if code == StatusCode::NOT_FOUND {
        let (code, answer) = call(server, user, Method::POST, collection, Some(wanted)).await;
        return if code.is_success() || code == StatusCode::CONFLICT {
            Ok(())
        } else {
            Err(answer["message"].to_string())
        };
    }
    // Only what leads to this server is put right; the service itself may carry what others added.
    let parts = ["subsets", "endpoints", "ports", "addressType"];
    let is_endpoints = wanted.get("spec").is_none();
    if code != StatusCode::OK
        || !is_endpoints
        || parts.iter().all(|part| have.get(part) == wanted.get(part))
    {
        return Ok(());
    }
    let mut new = have;
    for part in parts {
        if let Some(value) = wanted.get(part) {
            new[part] = value.clone();
        }
    }
    let (code, answer) = call(server, user, Method::PUT, &path, Some(&new)).await;
    if code.is_success() || code == StatusCode::CONFLICT {
        Ok(())
    } else {
        Err(answer["message"].to_string())
    }
}

pub(crate) async fn call(
    server: &Arc<ApiServer>,
    user: &Arc<UserInfo>,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> (StatusCode, Value) {
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let Ok(request) = Request::builder().method(method).uri(path).body(body) else {
        return (StatusCode::BAD_REQUEST, Value::Null);
    };
    let response = server.handle(request, Some(user.clone())).await;
    let code = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX)
        .await
        .unwrap_or_default();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}
