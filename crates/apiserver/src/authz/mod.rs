//! Who may do what: `system:masters`, the node authorizer, RBAC, in that order.

pub(crate) mod escalation;
pub mod graph;
pub mod node;
pub mod rbac;

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use k8s_openapi::api::rbac::v1::ClusterRole;
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Backoff, Component, Random, SharedClock, Shutdown};
use skiff_store::{Event, Store, StoreError, WatchItem};

use crate::bootstrap::policy;
use crate::request::{Attributes, UserInfo};
use crate::seam::{Authorizer, Decision, Rules};

use node::NodeAuthorizer;
use rbac::Rbac;

/// Every built-in authorizer. It follows the store ([`Component::run`]); [`Authorization::load`] fills it once.
pub struct Authorization {
    rbac: Rbac,
    node: NodeAuthorizer,
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
            store,
            clock,
            random,
        }
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
        let node = self.node.authorize(attributes).await;
        if !matches!(node, Decision::NoOpinion(_)) {
            return node;
        }
        match self.rbac.authorize(attributes).await {
            Decision::NoOpinion(why) if why.is_empty() => node,
            decision => decision,
        }
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> Rules {
        self.rbac.rules(user, namespace).await
    }
}
