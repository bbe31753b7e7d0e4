//! API aggregation: group-versions that other servers serve, reached through this one.
//!
//! An `APIService` with a service names such a server. Requests for its group and version go there with the user in
//! request headers, signed for by a client certificate that only this server has; discovery tells of it as of any other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::sync::Notify;

use crate::cache::{Since, Trigger};
use crate::server::{ApiServer, Call};
use crate::webhook::{Client, Trust, tls_client};

mod authentication_config;
mod available;
pub(crate) mod discovery;
mod local;
pub(crate) mod openapi_v2;
pub(crate) mod proxy;

use crate::authn::RequestHeaderSettings;

const GROUP: &str = "apiregistration.k8s.io";

/// How this server shows itself to aggregated servers, and whom it lets speak for users.
#[derive(Clone, Debug)]
pub struct FrontProxy {
    /// The certificate chain shown to aggregated servers, PEM.
    pub certificate_pem: String,
    /// Its key, PEM.
    pub key_pem: String,
    /// The authority of such certificates, PEM: no other than front proxies may have one of it.
    pub authority_pem: String,
    /// The authority of users' client certificates, PEM, for aggregated servers to know.
    pub client_authority_pem: String,
    /// What front proxies are called, and the headers in which they name users, for aggregated servers to know.
    pub headers: RequestHeaderSettings,
}

/// The common name that a front proxy's certificate must have.
pub const FRONT_PROXY_NAME: &str = "front-proxy-client";

/// A group-version that another server serves.
pub(crate) struct Api {
    /// The APIService's name.
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i32,
    pub version_priority: i32,
    /// Namespace, name and port of the service.
    pub service: (String, String, u16),
    /// Whether the last check went well.
    pub available: bool,
    pub client: Result<Arc<Client>, String>,
    /// For connections that are upgraded, which the client cannot share.
    pub tls: Result<Arc<rustls::ClientConfig>, String>,
    /// What the client was made of.
    made_of: MadeOf,
}

/// What an API's server said of itself.
#[derive(Debug, PartialEq)]
struct Said {
    /// The `APIResourceList`.
    resources: Value,
    /// Where its OpenAPI document is, as its index says; `None`: it has none.
    openapi: Option<String>,
    /// What it says in its OpenAPI document of version 2; `None`: it has none.
    openapi_v2: Option<Arc<openapi_v2::Part>>,
}

/// What a change of makes a new client: service, authorities, whether anybody is trusted, our own certificate.
type MadeOf = ((String, String, u16), Vec<u8>, bool, String);

/// All aggregated group-versions, by priority.
pub(crate) type Apis = Vec<Arc<Api>>;

/// What the server knows of aggregated APIs.
#[derive(Default)]
pub(crate) struct Aggregation {
    apis: ArcSwap<Apis>,
    front_proxy: ArcSwapOption<FrontProxy>,
    /// What each group-version's server said that it serves, the last time it did.
    documents: ArcSwap<HashMap<(String, String), Arc<Said>>>,
    /// Counts the changes of both.
    state: AtomicU64,
    /// The table of APIs changed.
    changed: Notify,
    /// The front proxy's certificate changed.
    renewed: Notify,
}

impl Aggregation {
    pub fn apis(&self) -> Arc<Apis> {
        self.apis.load_full()
    }

    /// What tells the present APIs and what they said from those of other times.
    pub fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    pub fn set_front_proxy(&self, front_proxy: FrontProxy) {
        self.front_proxy.store(Some(Arc::new(front_proxy)));
        self.renewed.notify_one();
    }

    pub fn front_proxy(&self) -> Option<Arc<FrontProxy>> {
        self.front_proxy.load_full()
    }

    fn document(&self, api: &Api) -> Option<Arc<Said>> {
        let documents = self.documents.load();
        documents
            .get(&(api.group.clone(), api.version.clone()))
            .cloned()
    }

    fn keep_document(&self, api: &Api, document: Said) {
        let key = (api.group.clone(), api.version.clone());
        if self
            .documents
            .load()
            .get(&key)
            .is_some_and(|have| **have == document)
        {
            return;
        }
        let document = Arc::new(document);
        self.documents.rcu(|documents| {
            let mut documents = HashMap::clone(documents);
            documents.insert(key.clone(), document.clone());
            documents
        });
        self.state.fetch_add(1, Ordering::Release);
    }

    fn find(&self, group: &str, version: &str) -> Option<Arc<Api>> {
        let apis = self.apis.load();
        apis.iter()
            .find(|api| api.group == group && api.version == version)
            .cloned()
    }

    /// What the servers that answer say in their OpenAPI documents of version 2, by priority.
    pub fn openapi_v2(&self) -> Vec<Arc<openapi_v2::Part>> {
        let apis = self.apis();
        let said = apis.iter().filter(|api| api.available);
        said.filter_map(|api| self.document(api)?.openapi_v2.clone())
            .collect()
    }

    /// The aggregated API that a request is for.
    pub fn target(&self, call: &Call) -> Option<Arc<Api>> {
        if self.apis.load().is_empty() {
            return None;
        }
        let info = &call.info;
        if info.is_resource {
            // The core has no group, and no other server.
            let named = !info.group.is_empty();
            return named.then(|| self.find(&info.group, &info.version))?;
        }
        let mut segments = info.path.split('/').filter(|segment| !segment.is_empty());
        let mut next = || segments.next().unwrap_or_default();
        match (next(), next(), next()) {
            ("apis", group, version) => self.find(group, version),
            ("openapi", "v3", "apis") => self.find(next(), next()),
            _ => None,
        }
    }
}

impl ApiServer {
    /// How the server shows itself to aggregated servers. May be set again when the certificate is renewed.
    pub fn set_front_proxy(&self, front_proxy: FrontProxy) {
        self.aggregation.set_front_proxy(front_proxy);
    }
}

/// Runs all of aggregation until the server stops.
pub(crate) async fn run(server: Arc<ApiServer>) {
    tokio::select! {
        () = async { tokio::join!(
            keep(&server), available::run(&server), local::run(&server), authentication_config::run(&server),
        ); } => {}
        () = server.shutdown.triggered() => {}
    }
}

/// Keeps the table up to date.
async fn keep(server: &Arc<ApiServer>) {
    loop {
        let registry = server.registry.load_full();
        let Some(resource) = registry.stored(GROUP, "apiservices").cloned() else {
            return;
        };
        let Ok(cache) = server.hub_cache(&resource).await else {
            server.clock.sleep(Duration::from_millis(200)).await;
            continue;
        };
        let changes = cache.subscribe(Trigger::Any);
        'built: loop {
            let (entries, cursor) = cache.snapshot(&resource.prefix(""));
            let services = entries
                .iter()
                .filter_map(|entry| entry.decode::<APIService>());
            rebuild(server, services);
            loop {
                match cache.since(cursor, 1) {
                    Since::Lost => break 'built,
                    Since::Events(events, _) if !events.is_empty() => break,
                    Since::Events(..) => {}
                }
                tokio::select! {
                    () = changes.changed() => {}
                    () = server.aggregation.renewed.notified() => break,
                }
            }
        }
    }
}

fn rebuild(server: &Arc<ApiServer>, services: impl Iterator<Item = APIService>) {
    let before = server.aggregation.apis();
    let front_proxy = server.aggregation.front_proxy();
    let mut apis: Apis = services
        .filter_map(|service| api_of(server, &service, &before, front_proxy.as_deref()))
        .map(Arc::new)
        .collect();
    apis.sort_by(|a, b| {
        (b.group_priority, &a.group, b.version_priority).cmp(&(
            a.group_priority,
            &b.group,
            a.version_priority,
        ))
    });
    server.aggregation.documents.rcu(|documents| {
        let mut documents = HashMap::clone(documents);
        documents.retain(|(group, version), _| {
            apis.iter()
                .any(|api| api.group == *group && api.version == *version)
        });
        documents
    });
    server.aggregation.apis.store(Arc::new(apis));
    server.aggregation.state.fetch_add(1, Ordering::Release);
    server.aggregation.changed.notify_one();
}

fn api_of(
    server: &Arc<ApiServer>,
    object: &APIService,
    before: &Apis,
    front_proxy: Option<&FrontProxy>,
) -> Option<Api> {
    let spec = object.spec.as_ref()?;
    let reference = spec.service.as_ref()?;
    let service = (
        reference.namespace.clone()?,
        reference.name.clone()?,
        u16::try_from(reference.port.unwrap_or(443)).ok()?,
    );
    let bundle = spec
        .ca_bundle
        .as_ref()
        .map(|bundle| bundle.0.clone())
        .unwrap_or_default();
    let anybody = spec.insecure_skip_tls_verify.unwrap_or(false);
    let own = front_proxy
        .map(|proxy| proxy.certificate_pem.clone())
        .unwrap_or_default();
    let made_of = (service.clone(), bundle, anybody, own);
    let name = object.metadata.name.clone()?;
    let known = before
        .iter()
        .find(|api| api.name == name && api.made_of == made_of);
    let (tls, client) = match known {
        Some(api) => (api.tls.clone(), api.client.clone()),
        None => {
            let trust = if anybody {
                Trust::Anybody
            } else {
                Trust::of(&made_of.1)
            };
            let tls = identity(front_proxy).and_then(|identity| tls_client(&trust, identity));
            let client = tls.clone().and_then(|tls| {
                Client::to_service(server, (&service.0, &service.1, service.2), tls).map(Arc::new)
            });
            (tls, client)
        }
    };
    let conditions = object
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let available = conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Available" && condition.status == "True");
    Some(Api {
        name,
        group: spec.group.clone().unwrap_or_default(),
        version: spec.version.clone().unwrap_or_default(),
        group_priority: spec.group_priority_minimum,
        version_priority: spec.version_priority,
        service,
        available,
        client,
        tls,
        made_of,
    })
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(front_proxy: Option<&FrontProxy>) -> Result<Option<Identity>, String> {
    let Some(proxy) = front_proxy else {
        return Ok(None);
    };
    let chain = CertificateDer::pem_slice_iter(proxy.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("front proxy's certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(proxy.key_pem.as_bytes())
        .map_err(|error| format!("front proxy's key: {error}"))?;
    Ok(Some((chain, key)))
}
