//! Audit: who asked for what, when, and how it was answered, as a policy says and in upstream's format.
//!
//! Without a policy file nothing of this runs. With one, a request that the policy leaves out costs one look at the policy.

mod backend;
mod body;
mod event;
mod log;
mod policy;
mod scope;
mod webhook;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use skiff_base::{SharedClock, Shutdown};

pub use backend::{BackendSettings, BatchSettings, Mode, TruncateSettings};
pub use log::LogSettings;
pub(crate) use scope::Scope;

use crate::connection::Connection;
use crate::request::{Attributes, UserInfo};
use crate::seam::Notes;
use backend::Backend;
use event::{Event, ObjectReference};
use policy::{Policy, Stage, Verdict};

/// A longer user agent is cut off.
const MAX_USER_AGENT: usize = 1024;

/// Why audit could not be set up, or an event not be kept.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuditError(String);

impl AuditError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The webhook that events go to.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSettings {
    /// A kubeconfig file.
    pub config_file: PathBuf,
    /// The pause before the second try; later ones grow.
    pub initial_backoff: Duration,
    /// How events get there.
    pub backend: BackendSettings,
}

/// How audit is set up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditSettings {
    /// Without one there is no audit.
    pub policy_file: Option<PathBuf>,
    /// The log file.
    pub log: Option<(LogSettings, BackendSettings)>,
    /// The webhook.
    pub webhook: Option<WebhookSettings>,
}

/// Audit, set up.
pub struct Audit {
    policy: Policy,
    backends: Vec<Backend>,
    clock: SharedClock,
}

impl Audit {
    /// Sets audit up, in a Tokio runtime; `None`: there is no policy, or nowhere to keep events.
    pub fn start(
        settings: &AuditSettings,
        clock: SharedClock,
        shutdown: &Shutdown,
    ) -> Result<Option<Arc<Self>>, AuditError> {
        let Some(path) = &settings.policy_file else {
            if settings.log.is_some() || settings.webhook.is_some() {
                tracing::info!("No audit policy file provided, no events will be recorded");
            }
            return Ok(None);
        };
        let file = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            AuditError::new(format!(
                "loading audit policy file: failed to read file path \"{file}\": {error}"
            ))
        })?;
        let policy = Policy::parse(&text).map_err(|error| {
            AuditError::new(format!(
                "loading audit policy file: {error}: from file {file}"
            ))
        })?;
        let mut backends = Vec::new();
        if let Some((log, backend)) = &settings.log {
            let sink = log::LogFile::open(log.clone(), clock.clone())?;
            let (clock, shutdown) = (clock.clone(), shutdown.child());
            backends.push(Backend::start(sink, backend.clone(), clock, shutdown));
        }
        if let Some(settings) = &settings.webhook {
            let sink = webhook::Webhook::open(settings, clock.clone())?;
            let (clock, shutdown) = (clock.clone(), shutdown.child());
            backends.push(Backend::start(
                sink,
                settings.backend.clone(),
                clock,
                shutdown,
            ));
        }
        if backends.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self {
            policy,
            backends,
            clock,
        })))
    }

    /// Hands an event on; whether the request may go on.
    async fn record(&self, event: Event) -> bool {
        let event = Arc::new(event);
        let mut fine = true;
        for backend in &self.backends {
            if backend.enqueue(&event).is_none() {
                fine &= backend.send(event.clone()).await;
            }
        }
        fine
    }

    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::try_from(self.clock.now()).unwrap_or_default()
    }

    /// The record of a request, if the policy wants one; `Err`: its arrival had to be recorded and could not be.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        parts: &Parts,
        attributes: &Attributes,
        long_running: bool,
        notes: &Notes,
    ) -> Result<Option<Arc<Scope>>, AuditError> {
        let verdict = self.policy.evaluate(attributes);
        if verdict.level == policy::Level::None {
            return Ok(None);
        }
        let event = self.event(verdict, parts, attributes);
        let scope = Scope::new(self.clone(), verdict, event, long_running, notes.clone());
        if scope.stage(Stage::RequestReceived).await {
            Ok(Some(scope))
        } else {
            scope.forget();
            Err(AuditError::new("failed to store audit event"))
        }
    }

    /// Records a request whose user could not be found out.
    pub(crate) async fn unauthenticated(
        self: &Arc<Self>,
        parts: &Parts,
        attributes: &Attributes,
        notes: &Notes,
    ) {
        let verdict = self.policy.evaluate(attributes);
        if verdict.level == policy::Level::None
            || verdict.omit_stages.contains(Stage::ResponseStarted)
        {
            return;
        }
        let mut event = self.event(verdict, parts, attributes);
        event.stage = Stage::ResponseStarted;
        event.annotations = notes.annotations.lock().clone();
        event.status = Some(event::ResponseStatus {
            code: 401,
            message: attempted(parts),
            ..event::ResponseStatus::default()
        });
        self.record(event).await;
    }

    fn event(&self, verdict: Verdict, parts: &Parts, attributes: &Attributes) -> Event {
        let header = |name: &str| {
            let value = parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.filter(|value| !value.is_empty())
        };
        let audit_id: Arc<str> = match header("audit-id") {
            Some(id) => id.into(),
            None => uuid::Uuid::new_v4().to_string().into(),
        };
        let now = self.now();
        let object = attributes.is_resource.then(|| ObjectReference {
            resource: attributes.resource.clone(),
            namespace: attributes.namespace.clone(),
            name: attributes.name.clone(),
            api_group: attributes.group.clone(),
            api_version: attributes.version.clone(),
            subresource: attributes.subresource.clone(),
            ..ObjectReference::default()
        });
        Event {
            level: verdict.level,
            stage: Stage::RequestReceived,
            audit_id,
            request_uri: parts
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            verb: attributes.verb.clone(),
            user: attributes.user.clone(),
            impersonated: None,
            source_ips: source_ips(parts),
            user_agent: user_agent(header("user-agent").unwrap_or_default()),
            object,
            status: None,
            request_object: None,
            response_object: None,
            received: now,
            staged: now,
            annotations: Default::default(),
        }
    }
}

fn user_agent(text: &str) -> String {
    match text.get(..MAX_USER_AGENT) {
        Some(head) if text.len() > MAX_USER_AGENT => format!("{head}...TRUNCATED"),
        _ => text.to_owned(),
    }
}

/// Where a request came from: what proxies say, then the connection's own address.
fn source_ips(parts: &Parts) -> Vec<String> {
    let header = |name: &str| {
        let value = parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    let mut found: Vec<IpAddr> = header("x-forwarded-for")
        .split(',')
        .filter_map(|text| text.trim().parse().ok())
        .collect();
    if let Ok(real) = header("x-real-ip").trim().parse()
        && !found.contains(&real)
    {
        found.push(real);
    }
    let remote = match parts.extensions.get::<Connection>() {
        Some(connection) => connection.remote.ip().to_canonical(),
        // A component in this process.
        None => IpAddr::from([127, 0, 0, 1]),
    };
    if found.last() != Some(&remote) {
        found.push(remote);
    }
    found.iter().map(ToString::to_string).collect()
}

/// What a client tried to show who it is.
fn attempted(parts: &Parts) -> String {
    let authorization = parts
        .headers
        .get(http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim();
    let scheme = authorization
        .split_once(' ')
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    let token = crate::request::query_value(parts.uri.query(), "access_token");
    let mut tried = Vec::new();
    match scheme.as_deref() {
        Some("basic") => tried.push("basic"),
        Some("bearer") => tried.push("bearer"),
        _ => {}
    }
    if token.is_some_and(|token| !token.trim().is_empty()) {
        tried.push("access_token");
    }
    if parts
        .extensions
        .get::<crate::seam::PeerCertificates>()
        .is_some()
    {
        tried.push("x509");
    }
    if tried.is_empty() {
        "Authentication failed, no credentials provided".to_owned()
    } else {
        format!("Authentication failed, attempted: {}", tried.join(", "))
    }
}

/// The attributes of a request without a known user.
pub(crate) fn nobody() -> Arc<UserInfo> {
    Arc::default()
}
