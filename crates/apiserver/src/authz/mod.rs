//! Who may do what: `system:masters`, then the authorizers of the configuration, by default the node authorizer and RBAC.

pub(crate) mod condition;
pub mod configuration;
pub(crate) mod devices;
pub(crate) mod escalation;
pub mod graph;
pub mod node;
pub mod rbac;
pub mod webhook;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::StreamExt as _;
use k8s_openapi::api::rbac::v1::ClusterRole;
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Backoff, Component, Random, SharedClock, Shutdown};
use skiff_store::{Event, Store, StoreError, WatchItem};

use crate::bootstrap::policy;
use crate::request::{Attributes, UserInfo};
use crate::seam::{Authorizer, Decision, NonResourceRule, ResourceRule, Rules};

use node::NodeAuthorizer;
use rbac::Rbac;

/// One of those who are asked, in the order of the configuration.
enum Link {
    Node,
    Rbac,
    Always(Decision),
    Webhook(Box<webhook::WebhookAuthorizer>),
}

/// Every built-in authorizer. It follows the store ([`Component::run`]); [`Authorization::load`] fills it once.
pub struct Authorization {
    rbac: Rbac,
    node: NodeAuthorizer,
    chain: ArcSwap<Vec<Link>>,
    store: Arc<dyn Store>,
    clock: SharedClock,
    random: Random,
}

impl Authorization {
    /// An authorizer that knows nothing yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: SharedClock, random: Random) -> Self {
        let rules = policy::objects()
            .into_iter()
            .find(|object| {
                object["kind"] == "ClusterRole" && object["metadata"]["name"] == "system:node"
            })
            .and_then(|role| serde_json::from_value::<ClusterRole>(role).ok()?.rules)
            .unwrap_or_default();
        Self {
            rbac: Rbac::default(),
            node: NodeAuthorizer::new(rules),
            chain: ArcSwap::from_pointee(vec![Link::Node, Link::Rbac]),
            store,
            clock,
            random,
        }
    }

    /// Asks those of the configuration from now on, which was validated.
    pub fn configure(
        &self,
        config: &configuration::AuthorizationConfiguration,
    ) -> Result<(), String> {
        let mut chain = Vec::new();
        for authorizer in &config.authorizers {
            chain.push(match authorizer.kind.as_str() {
                "Node" => Link::Node,
                "RBAC" => Link::Rbac,
                "AlwaysAllow" => Link::Always(Decision::Allow(String::new())),
                "AlwaysDeny" => {
                    Link::Always(Decision::NoOpinion("Everything is forbidden.".to_owned()))
                }
                "Webhook" => {
                    let clock = self.clock.clone();
                    Link::Webhook(Box::new(webhook::WebhookAuthorizer::new(
                        authorizer, clock,
                    )?))
                }
                other => return Err(format!("no authorizer is called {other:?}")),
            });
        }
        self.chain.store(Arc::new(chain));
        Ok(())
    }

    fn prefixes() -> impl Iterator<Item = &'static str> {
        rbac::PREFIXES.into_iter().chain(graph::PREFIXES)
    }

    fn put(&self, key: &str, value: Option<&[u8]>) {
        if graph::PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            self.node.graph.write().put(key, value);
        } else {
            self.rbac.0.write().put(key, value);
        }
    }

    /// Reads everything anew; answers the revision read.
    pub async fn load(&self) -> Result<u64, StoreError> {
        let revision = self.store.revision().await?;
        let mut rbac = rbac::Index::default();
        let mut seen = graph::Graph::default();
        for prefix in Self::prefixes() {
            for item in self
                .store
                .range(prefix, None, 0, Some(revision))
                .await?
                .items
            {
                rbac.put(&item.key, Some(&item.value));
                seen.put(&item.key, Some(&item.value));
            }
        }
        *self.rbac.0.write() = rbac;
        *self.node.graph.write() = seen;
        Ok(revision)
    }

    async fn follow(&self) -> Result<(), StoreError> {
        let revision = self.load().await?;
        let mut watches = Vec::new();
        for prefix in Self::prefixes() {
            watches.push(self.store.watch(prefix, revision).await?);
        }
        let mut items = futures::stream::select_all(watches);
        while let Some(item) = items.next().await {
            let WatchItem::Events(events) = item? else {
                continue;
            };
            for event in events {
                match event {
                    Event::Put { current, .. } => self.put(&current.key, Some(&current.value)),
                    Event::Delete { previous, .. } => self.put(&previous.key, None),
                }
            }
        }
        Ok(())
    }

    /// What a user may do through RBAC, for the check that nobody grants what they do not have.
    #[must_use]
    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }
}

#[async_trait]
impl Component for Authorization {
    fn name(&self) -> &'static str {
        "authorization"
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        let mut backoff = Backoff::new(
            std::time::Duration::from_millis(50),
            std::time::Duration::from_secs(5),
        );
        loop {
            tokio::select! {
                () = shutdown.triggered() => return Ok(()),
                ended = self.follow() => match ended {
                    Err(StoreError::Slow | StoreError::Compacted(_)) | Ok(()) => {}
                    Err(error) => return Err(error.into()),
                },
            }
            self.clock.sleep(backoff.next(&self.random)).await;
        }
    }
}

#[async_trait]
impl Authorizer for Authorization {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.in_group("system:masters") {
            return Decision::Allow(String::new());
        }
        let chain = self.chain.load_full();
        let mut reasons = Vec::new();
        for link in &*chain {
            let decision = match link {
                Link::Node => self.node.authorize(attributes).await,
                Link::Rbac => self.rbac.authorize(attributes).await,
                Link::Always(decision) => decision.clone(),
                Link::Webhook(webhook) => webhook.authorize(attributes).await,
            };
            match decision {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> Rules {
        let all = || vec!["*".to_owned()];
        let mut held = Rules::default();
        let mut errors = Vec::new();
        for link in self.chain.load_full().iter() {
            let rules = match link {
                Link::Node => self.node.rules(user, namespace).await,
                Link::Rbac => self.rbac.rules(user, namespace).await,
                Link::Always(Decision::Allow(_)) => Rules {
                    resources: vec![ResourceRule {
                        verbs: all(),
                        api_groups: all(),
                        resources: all(),
                        ..ResourceRule::default()
                    }],
                    non_resources: vec![NonResourceRule {
                        verbs: all(),
                        paths: all(),
                    }],
                    ..Rules::default()
                },
                Link::Always(_) => Rules::default(),
                Link::Webhook(webhook) => webhook.rules(user, namespace).await,
            };
            held.resources.extend(rules.resources);
            held.non_resources.extend(rules.non_resources);
            held.incomplete |= rules.incomplete;
            errors.extend(Some(rules.error).filter(|error| !error.is_empty()));
        }
        held.error = match errors.len() {
            0 | 1 => errors.concat(),
            _ => format!("[{}]", errors.join(", ")),
        };
        held
    }
}
