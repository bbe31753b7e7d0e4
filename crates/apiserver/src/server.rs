//! The server itself: its parts, and the way of a request through them.

use std::collections::HashMap;
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
use parking_lot::Mutex;
use skiff_api::{ApiError, ApiResult, Kind};
use skiff_base::{Random, SharedClock, Shutdown};
use skiff_store::Store;

use crate::cache::CacheHub;
use crate::content;
use crate::query::Query;
use crate::registry::Registry;
use crate::request::{Attributes, RequestInfo, UserInfo};
use crate::seam::{
    Authenticator, Authorizer, Decision, MastersOnly, PeerCertificates, TokenIssuer,
};
use crate::services::AddressRange;

/// How often history is compacted; states older than this can no longer be read, as upstream.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

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
    /// What the server allows its clients.
    pub limits: crate::limits::Limits,
}

impl Default for ApiServerConfig {
    fn default() -> Self {
        Self {
            version: "v1.36.2+skiff".to_owned(),
            kinds: skiff_api::kinds(),
            service_cidr: DEFAULT_SERVICE_CIDR.to_owned(),
            node_ports: (30000, 32767),
            advertise: None,
            limits: crate::limits::Limits::default(),
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
    pub(crate) shutdown: Shutdown,
    pub(crate) openapi:
        Mutex<HashMap<crate::documents::OpenApi, skiff_api::schema::openapi::Document>>,
    pub(crate) metrics: crate::metrics::Metrics,
    pub(crate) service_range: AddressRange,
    /// Held while a service's addresses and ports are chosen and until it is written.
    pub(crate) service_lock: Arc<tokio::sync::Mutex<()>>,
    /// Set when the server is about to stop: it says that it is not ready, and goes on for a while.
    pub(crate) stopping: std::sync::atomic::AtomicBool,
    audit: ArcSwapOption<crate::audit::Audit>,
    pub(crate) flow: crate::flow::Flow,
    pub(crate) encryption: ArcSwapOption<crate::encryption::Encryption>,
    pub(crate) admission: Vec<Arc<dyn crate::admission::Admission>>,
    authenticator: ArcSwapOption<Arc<dyn Authenticator>>,
    authorizer: ArcSwap<Arc<dyn Authorizer>>,
    token_issuer: ArcSwapOption<Arc<dyn TokenIssuer>>,
    kubelet_tls: ArcSwapOption<rustls::ClientConfig>,
    /// Clients of webhooks that have no better place, by configuration.
    #[allow(dead_code, reason = "step one: the callers follow")]
    pub(crate) webhook_clients: crate::webhook::Clients,
}

/// One request on its way through the handlers.
pub(crate) struct Call {
    pub server: Arc<ApiServer>,
    pub info: RequestInfo,
    pub user: Arc<UserInfo>,
    pub query: Query,
    pub parts: http::request::Parts,
    /// Warnings for the client, sent as headers.
    pub warnings: Arc<Mutex<Vec<String>>>,
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
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Notes something for the audit log. What was noted first under a key stays.
    #[allow(dead_code, reason = "admission plugins that note something follow")]
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        if let Some(audit) = &self.audit {
            audit.annotate(&key.into(), &value.into());
        }
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
        let flow = crate::flow::Flow::new(&config.limits, clock.clone());
        let server = Arc::new(Self {
            config,
            store,
            clock,
            random,
            hub,
            registry: ArcSwap::from_pointee(registry),
            shutdown: Shutdown::new(),
            openapi: Mutex::default(),
            metrics: crate::metrics::Metrics::default(),
            service_range,
            service_lock: Arc::default(),
            stopping: std::sync::atomic::AtomicBool::new(false),
            audit: ArcSwapOption::empty(),
            flow,
            encryption: ArcSwapOption::empty(),
            admission: crate::admission::plugins(),
            authenticator: ArcSwapOption::empty(),
            authorizer: ArcSwap::from_pointee(Arc::new(MastersOnly) as Arc<dyn Authorizer>),
            token_issuer: ArcSwapOption::empty(),
            kubelet_tls: ArcSwapOption::empty(),
            webhook_clients: Default::default(),
        });
        tokio::spawn(
            server
                .hub
                .clone()
                .run(server.random.clone(), server.shutdown.clone()),
        );
        tokio::spawn(server.clone().housekeeping());
        if server.config.limits.fairness {
            tokio::spawn(crate::flow::follow(server.clone()));
            let lending = server.clone();
            tokio::spawn(async move { lending.flow.lend(lending.shutdown.clone()).await });
        }
        if let Some(advertise) = server.config.advertise {
            tokio::spawn(crate::kubernetes_service::keep(server.clone(), advertise));
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
        let info = RequestInfo::resolve(&parts.method, parts.uri.path(), parts.uri.query());
        let deadline = match crate::limits::deadline(&self.config.limits, &info, &parts) {
            Ok(deadline) => deadline,
            Err(error) => return content::error_response(&error),
        };
        let late = crate::limits::timed_out(&info);
        let answering = self.clone().recorded(info, parts, body, user);
        match deadline {
            None => answering.await,
            Some(deadline) => tokio::select! {
                biased;
                response = answering => response,
                () = self.clock.sleep(deadline) => content::error_response(&late),
            },
        }
    }

    /// Finds out the user, and records the request if it is audited.
    async fn recorded(
        self: Arc<Self>,
        info: RequestInfo,
        parts: http::request::Parts,
        body: Body,
        user: Option<Arc<UserInfo>>,
    ) -> Response<Body> {
        let audit = self.audit.load_full();
        let user = match user {
            Some(user) => user,
            None => match self.authenticate(&parts).await {
                Ok(user) => user,
                Err(error) => {
                    if let Some(audit) = audit {
                        let nobody = info.attributes(crate::audit::nobody(), parts.uri.query());
                        audit.unauthenticated(&parts, &nobody).await;
                    }
                    return content::error_response(&error);
                }
            },
        };
        let Some(audit) = audit else {
            return self.answer(info, parts, body, user, None).await;
        };
        let attributes = info.attributes(user.clone(), parts.uri.query());
        let long_running = crate::limits::is_long_running(&info);
        match audit.begin(&parts, &attributes, long_running).await {
            Ok(None) => self.answer(info, parts, body, user, None).await,
            Ok(Some(scope)) => {
                let body = scope.watch_request(&parts, body);
                let response = self
                    .answer(info, parts, body, user, Some(scope.clone()))
                    .await;
                scope.answer(response).await
            }
            Err(error) => content::error_response(&ApiError::internal(error)),
        }
    }

    /// Answers a request of a known user.
    async fn answer(
        self: Arc<Self>,
        info: RequestInfo,
        mut parts: http::request::Parts,
        body: Body,
        user: Arc<UserInfo>,
        audit: Option<Arc<crate::audit::Scope>>,
    ) -> Response<Body> {
        let real = user.clone();
        let user = match crate::authn::impersonation::resolve(&self, user, &mut parts.headers).await
        {
            Ok(user) => user,
            Err(error) => return content::error_response(&error),
        };
        if let Some(audit) = audit.as_ref().filter(|_| !Arc::ptr_eq(&real, &user)) {
            audit.impersonated(user.clone());
        }
        let query = Query::parse(parts.uri.query());
        let label = crate::metrics::Label::of(&info);
        let (permit, marks) = match self.flow.admit(&self, &info, &user, &query).await {
            Ok(admitted) => admitted,
            Err(response) => {
                self.metrics.count(label, response.status().as_u16());
                return response;
            }
        };
        let call = Call {
            server: self.clone(),
            info,
            user,
            query,
            parts,
            warnings: Arc::default(),
            audit,
        };
        let warnings = call.warnings.clone();
        let answer = match self.authorize(&call).await {
            Ok(()) => crate::dispatch::dispatch(call, body).await,
            Err(error) => Err(error),
        };
        let mut response = answer.unwrap_or_else(|error| content::error_response(&error));
        drop(permit);
        if let Some(marks) = marks {
            marks.put(response.headers_mut());
        }
        content::add_warnings(&mut response, &warnings.lock());
        self.metrics.count(label, response.status().as_u16());
        response
    }

    async fn authenticate(&self, parts: &http::request::Parts) -> ApiResult<Arc<UserInfo>> {
        let authenticator = self.authenticator().ok_or_else(ApiError::unauthorized)?;
        let certificates = parts.extensions.get::<PeerCertificates>();
        match authenticator.authenticate(parts, certificates).await {
            Ok(Some(user)) => Ok(Arc::new(user)),
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
        if attributes.user.in_group("system:masters") {
            return Decision::Allow(String::new());
        }
        self.authorizer().authorize(attributes).await
    }

    /// Whether the user of an update or apply that makes an object may do that.
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
        let attributes = call
            .info
            .attributes(call.user.clone(), call.parts.uri.query());
        let decision = self.decide(&attributes).await;
        if let Some(audit) = &call.audit {
            let word = if decision.allowed() {
                "allow"
            } else {
                "forbid"
            };
            audit.annotate("authorization.k8s.io/decision", word);
            audit.annotate("authorization.k8s.io/reason", decision.reason());
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
        if user.is_none() && server.config.limits.send_retry_after && server.shutdown.is_triggered()
        {
            return Box::pin(async { Ok(crate::limits::shutting_down()) });
        }
        Box::pin(async move { Ok(server.handle(request.map(Body::new), user).await) })
    }
}
