//! The server itself: its parts, and the way of a request through them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use skiff_api::{ApiError, ApiResult, Kind};
use skiff_base::{Random, SharedClock, Shutdown};
use skiff_store::Store;

use crate::admission::AdmissionChain;
use crate::cache::CacheHub;
use crate::content;
use crate::query::Query;
use crate::registry::Registry;
use crate::request::{Attributes, RequestInfo, UserInfo};
use crate::seam::{
    Authenticator, Authorizer, Decision, MastersOnly, Notes, PeerCertificates, TokenIssuer,
};
use crate::service_holdings::Kept;
use crate::service_ranges::AddressRange;

/// How often history is compacted; states older than this can no longer be read, as upstream.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

/// The group that may do everything.
const MASTERS: &str = "system:masters";

const DEFAULT_SERVICE_CIDR: &str = "10.96.0.0/12";

/// What the server is told at start.
#[derive(Clone)]
pub struct ApiServerConfig {
    /// What `/version` says, for example `v1.36.2+skiff`.
    pub version: String,
    /// The kinds served.
    pub kinds: &'static [Kind],
    /// The addresses of services, for example `10.96.0.0/12`.
    pub service_cidr: String,
    /// The first and the last node port that services get.
    pub node_ports: (u16, u16),
    /// Where the service `kubernetes` leads to: this server as pods reach it. `None`: the service is not kept.
    pub advertise: Option<SocketAddr>,
    /// Whether other servers may work on the same store. They tell each other where they are.
    pub shares_store: bool,
    /// What the server allows its clients.
    pub limits: crate::limits::Limits,
    /// Which admission plugins run, and how.
    pub admission: AdmissionChain,
}

impl Default for ApiServerConfig {
    fn default() -> Self {
        Self {
            version: "v1.36.2+skiff".to_owned(),
            kinds: skiff_api::kinds(),
            service_cidr: DEFAULT_SERVICE_CIDR.to_owned(),
            node_ports: (30000, 32767),
            advertise: None,
            shares_store: false,
            limits: crate::limits::Limits::default(),
            admission: AdmissionChain::default(),
        }
    }
}

/// The API server.
pub struct ApiServer {
    pub(crate) config: ApiServerConfig,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: SharedClock,
    pub(crate) random: Random,
    pub(crate) hub: Arc<CacheHub>,
    pub(crate) registry: ArcSwap<Registry>,
    pub(crate) definitions: crate::crd::Definitions,
    pub(crate) discovery: crate::crd::discovery::Kept,
    pub(crate) shutdown: Shutdown,
    /// When the server was made, on the monotonic clock.
    pub(crate) started: Duration,
    pub(crate) openapi: crate::openapi::OpenApiDocuments,
    pub(crate) metrics: crate::metrics::Metrics,
    pub(crate) service_range: AddressRange,
    /// Who has which addresses and ports; held while a service's are chosen and until it is written.
    pub(crate) service_holdings: Arc<tokio::sync::Mutex<Kept>>,
    /// Set when the server is about to stop: it says that it is not ready, and goes on for a while.
    pub(crate) stopping: std::sync::atomic::AtomicBool,
    audit: ArcSwapOption<crate::audit::Audit>,
    pub(crate) flow: crate::flow::Flow,
    pub(crate) encryption: ArcSwapOption<crate::encryption::Encryption>,
    authenticator: ArcSwapOption<Arc<dyn Authenticator>>,
    authorizer: ArcSwap<Arc<dyn Authorizer>>,
    token_issuer: ArcSwapOption<Arc<dyn TokenIssuer>>,
    kubelet_tls: ArcSwapOption<rustls::ClientConfig>,
    /// The group-versions that other servers serve.
    pub(crate) aggregation: crate::aggregation::Aggregation,
    /// Services that this process stands in for.
    pub(crate) own_services: crate::own_services::OwnServices,
    /// The policies that admission asks.
    pub(crate) policies: crate::admission::policy::Policies,
    /// The webhooks that admission asks.
    pub(crate) webhooks: crate::admission::webhooks::Tables,
}

/// One request on its way through the handlers.
pub(crate) struct Call {
    pub server: Arc<ApiServer>,
    pub info: Arc<RequestInfo>,
    pub user: Arc<UserInfo>,
    pub query: Query,
    pub parts: http::request::Parts,
    /// Warnings for the client, and what admission notes for the audit log.
    pub notes: Notes,
    /// The request's record, when it is audited. A long-running request ends when the last of these goes.
    pub audit: Option<Arc<crate::audit::Scope>>,
}

impl Call {
    pub fn header(&self, name: http::HeaderName) -> &str {
        self.parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    pub fn warn(&self, text: impl Into<String>) {
        self.notes.warn(text);
    }

    /// Notes something for the audit log. What was noted first under a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.notes.annotate(key, value);
    }
}

impl ApiServer {
    /// A server over a store. It works at once; background work (the watch cache, compaction) needs a Tokio runtime
    /// and ends with [`ApiServer::stop`].
    #[must_use]
    pub fn new(
        config: ApiServerConfig,
        store: Arc<dyn Store>,
        clock: SharedClock,
        random: Random,
    ) -> Arc<Self> {
        let hub = CacheHub::new(store.clone(), clock.clone());
        let registry = Registry::new(config.kinds);
        let service_range = AddressRange::parse(&config.service_cidr).unwrap_or_else(|| {
            tracing::error!(
                range = config.service_cidr,
                "no range of addresses; the default is used"
            );
            AddressRange::DEFAULT
        });
        let started = clock.monotonic();
        let flow = crate::flow::Flow::new(&config.limits, clock.clone());
        let server = Arc::new(Self {
            config,
            store,
            clock,
            random,
            hub,
            registry: ArcSwap::from_pointee(registry),
            definitions: crate::crd::Definitions::default(),
            discovery: crate::crd::discovery::Kept::default(),
            shutdown: Shutdown::new(),
            started,
            openapi: crate::openapi::OpenApiDocuments::default(),
            metrics: crate::metrics::Metrics::default(),
            service_range,
            service_holdings: Arc::new(tokio::sync::Mutex::new(Kept::new(service_range))),
            stopping: std::sync::atomic::AtomicBool::new(false),
            audit: ArcSwapOption::empty(),
            flow,
            encryption: ArcSwapOption::empty(),
            authenticator: ArcSwapOption::empty(),
            authorizer: ArcSwap::from_pointee(Arc::new(MastersOnly) as Arc<dyn Authorizer>),
            token_issuer: ArcSwapOption::empty(),
            kubelet_tls: ArcSwapOption::empty(),
            aggregation: Default::default(),
            own_services: Default::default(),
            policies: Default::default(),
            webhooks: Default::default(),
        });
        tokio::spawn(
            server
                .hub
                .clone()
                .run(server.random.clone(), server.shutdown.clone()),
        );
        tokio::spawn(server.clone().housekeeping());
        tokio::spawn(crate::admission::policy::keep(server.clone()));
        if server.config.limits.fairness {
            tokio::spawn(crate::flow::follow(server.clone()));
            let lending = server.clone();
            tokio::spawn(async move { lending.flow.lend(lending.shutdown.clone()).await });
        }
        tokio::spawn(crate::admission::webhooks::keep(server.clone()));
        tokio::spawn(crate::aggregation::run(server.clone()));
        tokio::spawn(crate::crd::run(server.clone()));
        if let Some(advertise) = server.config.advertise {
            tokio::spawn(crate::kubernetes_service::keep(server.clone(), advertise));
            if server.config.shares_store {
                tokio::spawn(crate::peers::announce(server.clone(), advertise));
            }
            tokio::spawn(crate::service_repair::keep(server.clone()));
            tokio::spawn(crate::authn::legacy_tracking::keep(server.clone()));
        }
        server
    }

    /// Who finds out the users of requests that come over the network. Without one, they all get 401.
    pub fn set_authenticator(&self, authenticator: Arc<dyn Authenticator>) {
        self.authenticator.store(Some(Arc::new(authenticator)));
    }

    /// Who decides what users may do. Without one, only `system:masters` may do anything.
    pub fn set_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.authorizer.store(Arc::new(authorizer));
    }

    /// Who signs service-account tokens.
    pub fn set_token_issuer(&self, issuer: Arc<dyn TokenIssuer>) {
        self.token_issuer.store(Some(Arc::new(issuer)));
    }

    /// How kubelets (and pods and services over HTTPS) are spoken to: the server's client certificate, and whom it
    /// trusts. May be set again when the certificate is renewed.
    pub fn set_kubelet_tls(&self, tls: Arc<rustls::ClientConfig>) {
        self.kubelet_tls.store(Some(tls));
    }

    /// Keeps the flow schemas and priority levels that every cluster has, until the server stops.
    pub async fn keep_flow_control(self: Arc<Self>) {
        crate::flow::keep(self).await;
    }

    /// Who records what is asked and answered.
    pub fn set_audit(&self, audit: Arc<crate::audit::Audit>) {
        self.audit.store(Some(audit));
    }

    /// The encryption that the store lies behind, for the health check of its key management services.
    pub fn set_encryption(&self, encryption: Arc<crate::encryption::Encryption>) {
        self.encryption.store(Some(encryption));
    }

    pub(crate) fn kubelet_tls(&self) -> Option<Arc<rustls::ClientConfig>> {
        self.kubelet_tls.load_full()
    }

    pub(crate) fn authenticator(&self) -> Option<Arc<dyn Authenticator>> {
        self.authenticator
            .load_full()
            .map(|authenticator| (*authenticator).clone())
    }

    pub(crate) fn authorizer(&self) -> Arc<dyn Authorizer> {
        (**self.authorizer.load()).clone()
    }

    pub(crate) fn token_issuer(&self) -> Option<Arc<dyn TokenIssuer>> {
        self.token_issuer
            .load_full()
            .map(|issuer| (*issuer).clone())
    }

    /// Ends background work and all watches.
    pub fn stop(&self) {
        self.shutdown.trigger();
    }

    /// The service for requests from the network: users are found out by the authenticator.
    #[must_use]
    pub fn service(self: &Arc<Self>) -> ApiService {
        ApiService {
            server: self.clone(),
            user: None,
        }
    }

    /// The service for a component in the same process: a function call, no socket, under the identity given.
    #[must_use]
    pub fn in_process(self: &Arc<Self>, user: UserInfo) -> ApiService {
        ApiService {
            server: self.clone(),
            user: Some(Arc::new(user)),
        }
    }

    async fn housekeeping(self: Arc<Self>) {
        let mut compact_to = 0;
        loop {
            tokio::select! {
                () = self.clock.sleep(COMPACTION_INTERVAL) => {}
                () = self.shutdown.triggered() => return,
            }
            self.hub.expire();
            if compact_to > 0
                && let Err(error) = self.store.compact(compact_to).await
            {
                tracing::warn!(%error, revision = compact_to, "compaction failed");
            }
            compact_to = self.store.revision().await.unwrap_or(0);
        }
    }

    /// Whether the watch on the store runs.
    pub(crate) fn watch_cache_started(&self) -> bool {
        self.hub.is_started()
    }

    /// Answers a request.
    pub async fn handle(
        self: &Arc<Self>,
        request: Request<Body>,
        user: Option<Arc<UserInfo>>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let (body, left) = crate::unread::watched(body);
        let handled = AssertUnwindSafe(self.clone().route(parts, body, user))
            .catch_unwind()
            .await;
        left.drain(&self.clock).await;
        handled.unwrap_or_else(|_| {
            tracing::error!("a request handler panicked");
            content::error_response(&ApiError::internal(
                "the server has received a request that it cannot handle",
            ))
        })
    }

    async fn route(
        self: Arc<Self>,
        parts: http::request::Parts,
        body: Body,
        user: Option<Arc<UserInfo>>,
    ) -> Response<Body> {
        let info = Arc::new(RequestInfo::resolve(
            &parts.method,
            parts.uri.path(),
            parts.uri.query(),
        ));
        let deadline = match crate::limits::deadline(&self.config.limits, &info, &parts) {
            Ok(deadline) => deadline,
            Err(error) => return content::error_response(&error),
        };
        let answering = self.clone().recorded(info.clone(), parts, body, user);
        let Some(deadline) = deadline else {
            return answering.await;
        };
        // Most answers are there at once, and set no alarm.
        let mut answering = std::pin::pin!(answering);
        if let Poll::Ready(response) = futures::poll!(&mut answering) {
            return response;
        }
        tokio::select! {
            biased;
            response = answering => response,
            () = self.clock.sleep(deadline) => {
                content::error_response(&crate::limits::timed_out(&info))
            }
        }
    }

    /// Finds out the user, and records the request if it is audited.
    async fn recorded(
        self: Arc<Self>,
        info: Arc<RequestInfo>,
        mut parts: http::request::Parts,
        body: Body,
        user: Option<Arc<UserInfo>>,
    ) -> Response<Body> {
        let notes = Notes::default();
        parts.extensions.insert(notes.clone());
        let audit = self.audit.load_full();
        let user = match user {
            Some(user) => user,
            None => match self.authenticate(&parts).await {
                Ok(user) => user,
                Err(error) => {
                    if let Some(audit) = audit {
                        let nobody = info.attributes(crate::audit::nobody(), parts.uri.query());
                        audit.unauthenticated(&parts, &nobody, &notes).await;
                    }
                    return content::error_response(&error);
                }
            },
        };
        if let Some((namespace, name)) = notes.unmarked_secret.lock().take() {
            tokio::spawn(crate::authn::used_secret::mark(
                self.clone(),
                namespace,
                name,
            ));
        }
        let Some(audit) = audit else {
            return self.answer(info, parts, body, user, notes, None).await;
        };
        let attributes = info.attributes(user.clone(), parts.uri.query());
        let long_running = crate::limits::is_long_running(&info);
        match audit.begin(&parts, &attributes, long_running, &notes).await {
            Ok(None) => self.answer(info, parts, body, user, notes, None).await,
            Ok(Some(scope)) => {
                let body = scope.watch_request(&parts, body);
                let response = self
                    .answer(info, parts, body, user, notes, Some(scope.clone()))
                    .await;
                scope.answer(response).await
            }
            Err(error) => content::error_response(&ApiError::internal(error)),
        }
    }

    /// Answers a request of a known user.
    async fn answer(
        self: Arc<Self>,
        info: Arc<RequestInfo>,
        mut parts: http::request::Parts,
        body: Body,
        user: Arc<UserInfo>,
        notes: Notes,
        audit: Option<Arc<crate::audit::Scope>>,
    ) -> Response<Body> {
        let real = user.clone();
        let user = match crate::authn::impersonation::resolve(&self, user, &info, &mut parts).await
        {
            Ok(user) => user,
            Err(error) => return content::error_response(&error),
        };
        if let Some(audit) = audit.as_ref().filter(|_| !Arc::ptr_eq(&real, &user)) {
            audit.impersonated(user.clone());
        }
        let query = Query::parse(parts.uri.query());
        let (permit, marks) = match self.flow.admit(&self, &info, &user, &query).await {
            Ok(admitted) => admitted,
            Err(response) => {
                self.metrics.count(&info, response.status().as_u16());
                return response;
            }
        };
        let call = Call {
            server: self.clone(),
            info: info.clone(),
            user,
            query,
            parts,
            notes: notes.clone(),
            audit,
        };
        let answer = match self.authorize(&call).await {
            Ok(()) => crate::dispatch::dispatch(call, body).await,
            Err(error) => Err(error),
        };
        drop(permit);
        let mut response = answer.unwrap_or_else(|error| content::error_response(&error));
        if let Some(marks) = marks {
            marks.put(response.headers_mut());
        }
        content::add_warnings(&mut response, &notes.warnings.lock());
        self.metrics.count(&info, response.status().as_u16());
        response
    }

    async fn authenticate(&self, parts: &http::request::Parts) -> ApiResult<Arc<UserInfo>> {
        let authenticator = self.authenticator().ok_or_else(ApiError::unauthorized)?;
        let certificates = parts.extensions.get::<PeerCertificates>();
        match authenticator.authenticate(parts, certificates).await {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(ApiError::unauthorized()),
            Err(error) => {
                tracing::debug!(%error, "authentication failed");
                Err(ApiError::unauthorized())
            }
        }
    }

    /// Whether a user may do something.
    pub(crate) async fn decide(&self, attributes: &Attributes) -> Decision {
        // The group that may do everything, whatever the authorizer: the way in when rules are broken.
        if attributes.user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        self.authorizer().authorize(attributes).await
    }

    /// Whether the user of a request that creates something, though not by its own verb, may do that.
    pub(crate) async fn authorize_create(&self, call: &Call) -> ApiResult<()> {
        let attributes = Attributes {
            verb: "create".to_owned(),
            ..call
                .info
                .attributes(call.user.clone(), call.parts.uri.query())
        };
        self.check(&attributes).await
    }

    async fn authorize(&self, call: &Call) -> ApiResult<()> {
        if call.user.in_group(MASTERS) && call.audit.is_none() {
            return Ok(());
        }
        let attributes = call
            .info
            .attributes(call.user.clone(), call.parts.uri.query());
        let decision = self.decide(&attributes).await;
        if call.audit.is_some() {
            let word = if decision.allowed() {
                "allow"
            } else {
                "forbid"
            };
            call.annotate("authorization.k8s.io/decision", word);
            call.annotate("authorization.k8s.io/reason", decision.reason());
        }
        if decision.allowed() {
            return Ok(());
        }
        Err(crate::denied::denial(&attributes, decision.reason()))
    }

    /// The refusal of what a user may not do.
    pub(crate) async fn check(&self, attributes: &Attributes) -> ApiResult<()> {
        let decision = self.decide(attributes).await;
        if decision.allowed() {
            return Ok(());
        }
        Err(crate::denied::denial(attributes, decision.reason()))
    }

    /// Reads a request body up to the limit.
    pub(crate) async fn read_body(body: Body) -> ApiResult<Bytes> {
        match axum::body::to_bytes(body, crate::limits::MAX_BODY).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => {
                let too_long = std::error::Error::source(&error)
                    .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
                if too_long {
                    Err(crate::limits::too_large())
                } else {
                    Err(ApiError::bad_request(format!("reading the body: {error}")))
                }
            }
        }
    }
}

/// The server as a tower service.
#[derive(Clone)]
pub struct ApiService {
    server: Arc<ApiServer>,
    user: Option<Arc<UserInfo>>,
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { server, user } = self.clone();
        Box::pin(async move { Ok(server.handle(request.map(Body::new), user).await) })
    }
}
