//! Makes sure that every namespace has the ServiceAccount `default`.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use skiff_client::{
    ApiFailure, Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
    is_already_exists,
};

use crate::Context;

/// The name of this controller.
pub const NAME: &str = "service-account-controller";

struct ServiceAccounts {
    client: Client,
    namespaces: SharedCache<Namespace>,
    accounts: SharedCache<ServiceAccount>,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let namespaces = context.caches.of::<Namespace>();
    let accounts = context.caches.of::<ServiceAccount>();
    let queue = context.queue();
    namespaces.wait_synced().await;
    accounts.wait_synced().await;
    let _namespaces = {
        let queue = queue.clone();
        namespaces.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let _accounts = {
        let queue = queue.clone();
        accounts.on_event(move |event| {
            if let Event::Deleted(account) = event {
                let namespace = account.metadata.namespace.as_deref();
                queue.add(ObjectKey::new("", namespace.unwrap_or_default()));
            }
        })
    };
    let reconciler = ServiceAccounts {
        client: context.client(NAME),
        namespaces,
        accounts,
    };
    context.run(reconciler, queue, 1).await;
}

/// Whether things are still made in the namespace.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

#[async_trait]
impl Reconciler for ServiceAccounts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "serviceaccount"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let active = self
            .namespaces
            .get(key)
            .is_some_and(|found| is_active(&found));
        if !active || self.accounts.get_named(key.name(), "default").is_some() {
            return Ok(Outcome::Done);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some("default".to_owned()),
                namespace: Some(key.name().to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let api = Api::namespaced(self.client.clone(), key.name());
        match api.create(&PostParams::default(), &account).await {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if is_already_exists(&error) || error.has_cause("NamespaceTerminating") => {
                Ok(Outcome::Done)
            }
            Err(error) => Err(error.into()),
        }
    }
}
