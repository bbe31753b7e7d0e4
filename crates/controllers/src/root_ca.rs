//! Publishes the certificates that the API server is verified with as ConfigMap `kube-root-ca.crt` in
//! every namespace.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use skiff_client::{
    ApiFailure, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, WatchSpec,
    is_already_exists,
};

use crate::Context;
use crate::service_account::is_active;

/// The name of this controller.
pub const NAME: &str = "root-ca-cert-publisher";

const CONFIG_MAP: &str = "kube-root-ca.crt";
const DATA_KEY: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

struct Publisher {
    client: Client,
    namespaces: SharedCache<Namespace>,
    maps: SharedCache<ConfigMap>,
    certificates: String,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let namespaces = context.caches.of::<Namespace>();
    // Only the maps of that name: other ConfigMaps are none of our business.
    let spec = WatchSpec::all::<ConfigMap>().fields(format!("metadata.name={CONFIG_MAP}"));
    let maps = context.caches.watch::<ConfigMap>(spec);
    let queue = context.queue();
    namespaces.wait_synced().await;
    maps.wait_synced().await;
    let _namespaces = {
        let queue = queue.clone();
        namespaces.on_event(move |event| queue.add(ObjectKey::of(&event.object().metadata)))
    };
    let _maps = {
        let queue = queue.clone();
        maps.on_event(move |event| {
            let namespace = event.object().metadata.namespace.as_deref();
            queue.add(ObjectKey::new("", namespace.unwrap_or_default()));
        })
    };
    let reconciler = Publisher {
        client: context.client(NAME),
        namespaces,
        maps,
        certificates: context.config.root_ca_pem.clone(),
    };
    context.run(reconciler, queue, 1).await;
}

/// The map as it should be: the one there, with our content; none if it is so already.
fn plan(found: Option<&ConfigMap>, namespace: &str, certificates: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([(DATA_KEY.to_owned(), certificates.to_owned())]);
    let described = |map: &ConfigMap| {
        let annotations = map.metadata.annotations.as_ref();
        annotations
            .and_then(|all| all.get(DESCRIPTION.0))
            .is_some_and(|text| text == DESCRIPTION.1)
    };
    let mut map = match found {
        Some(map) if map.data.as_ref() == Some(&data) && described(map) => return None,
        Some(map) => map.clone(),
        None => ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONFIG_MAP.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        },
    };
    map.data = Some(data);
    let annotations = map.metadata.annotations.get_or_insert_default();
    annotations.insert(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned());
    Some(map)
}

#[async_trait]
impl Reconciler for Publisher {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "root_ca_cert_publisher"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let namespace = key.name();
        if !self
            .namespaces
            .get(key)
            .is_some_and(|found| is_active(&found))
        {
            return Ok(Outcome::Done);
        }
        let found = self.maps.get_named(namespace, CONFIG_MAP);
        let Some(map) = plan(found.as_deref(), namespace, &self.certificates) else {
            return Ok(Outcome::Done);
        };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let parameters = PostParams::default();
        let outcome = match found {
            Some(_) => api.replace(CONFIG_MAP, &parameters, &map).await,
            None => api.create(&parameters, &map).await,
        };
        match outcome {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if is_already_exists(&error) || error.has_cause("NamespaceTerminating") => {
                Ok(Outcome::Done)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_mends_and_leaves_alone() {
        let made = plan(None, "web", "PEM").unwrap();
        assert_eq!(made.data.as_ref().unwrap()[DATA_KEY], "PEM");
        assert_eq!(plan(Some(&made), "web", "PEM"), None);
        let mended = plan(Some(&made), "web", "NEW").unwrap();
        assert_eq!(mended.data.unwrap()[DATA_KEY], "NEW");
        let mut spoilt = made.clone();
        spoilt
            .data
            .as_mut()
            .unwrap()
            .insert("other".into(), "x".into());
        assert_eq!(plan(Some(&spoilt), "web", "PEM").as_ref(), Some(&made));
    }
}
