//! The webhooks of all configurations, compiled when the configurations change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Hooks;
use crate::admission::expressions::{Conditions, Scope};
use crate::admission::matching::Rule;
use crate::cache::{Since, Trigger};
use crate::server::ApiServer;
use crate::webhook::{Client, ClientConfig};

const GROUP: &str = "admissionregistration.k8s.io";

/// A webhook, ready to be asked.
pub(super) struct Hook {
    /// Different for every webhook of every configuration.
    pub uid: String,
    pub name: String,
    pub configuration: String,
    pub rules: Vec<Rule>,
    /// Whether requests for other versions of a rule's resource count.
    pub equivalent: bool,
    pub namespace_selector: LabelSelector,
    pub object_selector: LabelSelector,
    pub conditions: Conditions,
    /// Whether a request goes on when the webhook cannot be asked.
    pub ignores_failure: bool,
    pub timeout: Duration,
    /// Whether it may be asked on dry runs.
    pub dry_runs: bool,
    /// Whether it is asked again when others change the object after it.
    pub reinvoked: bool,
    /// The version of reviews that it is sent; `None`: it knows none that we know.
    pub version: Option<&'static str>,
    pub client: Result<Arc<Client>, String>,
}

/// The compiled webhooks; `None`: not yet known.
pub(crate) struct Tables {
    mutating: watch::Sender<Option<Hooks>>,
    validating: watch::Sender<Option<Hooks>>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            mutating: watch::Sender::new(None),
            validating: watch::Sender::new(None),
        }
    }
}

impl Tables {
    pub(super) async fn mutating(&self) -> Hooks {
        known(&self.mutating).await
    }

    pub(super) async fn validating(&self) -> Hooks {
        known(&self.validating).await
    }
}

/// The table; just after a start it is waited for, or writes would pass unasked.
async fn known(table: &watch::Sender<Option<Hooks>>) -> Hooks {
    if let Some(hooks) = &*table.borrow() {
        return hooks.clone();
    }
    let mut changes = table.subscribe();
    match changes.wait_for(Option::is_some).await {
        Ok(hooks) => hooks.clone().unwrap_or_default(),
        // The sender lives as long as the server.
        Err(_) => Hooks::default(),
    }
}

/// The fields that webhooks of both sorts have.
struct Parts<'a> {
    name: &'a str,
    client_config: &'a WebhookClientConfig,
    rules: &'a Option<Vec<RuleWithOperations>>,
    match_policy: &'a Option<String>,
    selectors: [&'a Option<LabelSelector>; 2],
    conditions: &'a Option<Vec<MatchCondition>>,
    failure_policy: &'a Option<String>,
    timeout: Option<i32>,
    side_effects: &'a str,
    reinvocation_policy: Option<&'a str>,
    versions: &'a [String],
}

macro_rules! parts {
    ($hook:ident, $reinvocation:expr) => {
        Parts {
            name: &$hook.name,
            client_config: &$hook.client_config,
            rules: &$hook.rules,
            match_policy: &$hook.match_policy,
            selectors: [&$hook.namespace_selector, &$hook.object_selector],
            conditions: &$hook.match_conditions,
            failure_policy: &$hook.failure_policy,
            timeout: $hook.timeout_seconds,
            side_effects: &$hook.side_effects,
            reinvocation_policy: $reinvocation,
            versions: &$hook.admission_review_versions,
        }
    };
}

/// A kind of configuration.
trait Configuration:
    DeserializeOwned
    + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>
{
    const PLURAL: &'static str;
    fn parts(&self) -> Vec<Parts<'_>>;
}

impl Configuration for MutatingWebhookConfiguration {
    const PLURAL: &'static str = "mutatingwebhookconfigurations";
    fn parts(&self) -> Vec<Parts<'_>> {
        let hooks = self.webhooks.iter().flatten();
        hooks
            .map(|hook: &MutatingWebhook| parts!(hook, hook.reinvocation_policy.as_deref()))
            .collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    const PLURAL: &'static str = "validatingwebhookconfigurations";
    fn parts(&self) -> Vec<Parts<'_>> {
        let hooks = self.webhooks.iter().flatten();
        hooks
            .map(|hook: &ValidatingWebhook| parts!(hook, None))
            .collect()
    }
}

/// Clients that are in use, so that an unchanged webhook keeps its connections when others change.
type Kept = HashMap<ClientConfig, Arc<Client>>;

fn client_config(config: &WebhookClientConfig) -> Result<ClientConfig, String> {
    let service = config.service.as_ref().map(|service| {
        (
            service.namespace.as_str(),
            service.name.as_str(),
            service.port,
            service.path.as_deref(),
        )
    });
    let bundle = config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice());
    ClientConfig::new(config.url.as_deref(), service, bundle.unwrap_or_default())
}

fn compile(
    server: &Arc<ApiServer>,
    configuration: &str,
    parts: &Parts<'_>,
    index: usize,
    before: &Kept,
    kept: &mut Kept,
) -> Hook {
    let client = client_config(parts.client_config).and_then(|config| {
        let known = kept.get(&config).or_else(|| before.get(&config)).cloned();
        let client = match known {
            Some(client) => client,
            None => Arc::new(Client::new(server, &config)?),
        };
        kept.insert(config, client.clone());
        Ok(client)
    });
    let [namespace_selector, object_selector] = parts
        .selectors
        .map(|selector| selector.clone().unwrap_or_default());
    let seconds = parts
        .timeout
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or(10);
    Hook {
        uid: format!("{configuration}/{}/{index}", parts.name),
        name: parts.name.to_owned(),
        configuration: configuration.to_owned(),
        rules: parts.rules.iter().flatten().map(Rule::from).collect(),
        equivalent: parts.match_policy.as_deref() == Some("Equivalent"),
        namespace_selector,
        object_selector,
        conditions: Conditions::new(
            parts.conditions.as_deref().unwrap_or_default(),
            false,
            &Scope::new(false),
        ),
        ignores_failure: parts.failure_policy.as_deref() == Some("Ignore"),
        timeout: Duration::from_secs(seconds),
        dry_runs: matches!(parts.side_effects, "None" | "NoneOnDryRun"),
        reinvoked: parts.reinvocation_policy == Some("IfNeeded"),
        version: parts
            .versions
            .iter()
            .find_map(|version| match version.as_str() {
                "v1" => Some("v1"),
                "v1beta1" => Some("v1beta1"),
                _ => None,
            }),
        client,
    }
}

/// Keeps both tables up to date until the server stops.
pub(crate) async fn keep(server: Arc<ApiServer>) {
    tokio::join!(
        keep_one::<MutatingWebhookConfiguration>(&server, &server.webhooks.mutating),
        keep_one::<ValidatingWebhookConfiguration>(&server, &server.webhooks.validating),
    );
}

async fn keep_one<C: Configuration>(server: &Arc<ApiServer>, table: &watch::Sender<Option<Hooks>>) {
    let mut kept = Kept::new();
    while !server.shutdown.is_triggered() {
        tokio::select! {
            () = follow::<C>(server, table, &mut kept) => {}
            () = server.shutdown.triggered() => {}
        }
    }
}

/// Compiles the configurations now and with every change, until the cache is built anew.
async fn follow<C: Configuration>(
    server: &Arc<ApiServer>,
    table: &watch::Sender<Option<Hooks>>,
    kept: &mut Kept,
) {
    let registry = server.registry.load_full();
    let Some(resource) = registry.stored(GROUP, C::PLURAL) else {
        // A server of other kinds has no webhooks.
        table.send_replace(Some(Hooks::default()));
        return server.shutdown.triggered().await;
    };
    let Ok(cache) = server.hub_cache(resource).await else {
        return;
    };
    let changes = cache.subscribe(Trigger::Any);
    loop {
        // The keys end with the names, so this is the order by name.
        let (entries, cursor) = cache.snapshot(&resource.prefix(""));
        let mut now = Kept::new();
        let mut hooks = Vec::new();
        for entry in &entries {
            let Some(configuration) = entry.decode::<C>() else {
                continue;
            };
            for (index, parts) in configuration.parts().iter().enumerate() {
                let hook = compile(server, entry.name(), parts, index, kept, &mut now);
                hooks.push(Arc::new(hook));
            }
        }
        *kept = now;
        table.send_replace(Some(hooks.into()));
        loop {
            match cache.since(cursor, 1) {
                Since::Lost => return,
                Since::Events(events, _) if events.is_empty() => changes.changed().await,
                Since::Events(..) => break,
            }
        }
    }
}
