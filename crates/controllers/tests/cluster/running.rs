//! An API server and all controllers.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::Value;
use skiff_base::{Random, SharedClock, Shutdown, SystemClock};
use skiff_client::Queues;
use skiff_controllers::{ControllersConfig, TokenSigner};
use skiff_testkit::TestCluster;

pub struct Running {
    pub cluster: TestCluster,
    pub queues: Queues,
    shutdown: Shutdown,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

pub async fn start() -> Running {
    start_at(SystemClock::shared()).await
}

/// The controllers go by `clock`, the API server by the machine's.
pub async fn start_at(clock: SharedClock) -> Running {
    start_on(TestCluster::start().await.unwrap(), clock)
}

/// The controllers on an API server that was started before.
pub fn start_on(cluster: TestCluster, clock: SharedClock) -> Running {
    let client = cluster.client();
    let config = ControllersConfig {
        root_ca_pem: "PEM".to_owned(),
        cluster_cidr: "10.42.0.0/16".to_owned(),
        token_signer: Some(TokenSigner::new(|namespace, secret, account, _| {
            Ok(format!("token of {account} in {namespace}/{secret}"))
        })),
        ..ControllersConfig::default()
    };
    let queues = config.queues.clone();
    let own = client.clone();
    let component = skiff_controllers::component(
        client,
        Arc::new(move |_: &str| own.clone()),
        config,
        clock,
        Random::seeded(1),
    );
    let shutdown = Shutdown::new();
    let signal = shutdown.clone();
    tokio::spawn(async move { component.run(signal).await });
    Running {
        cluster,
        queues,
        shutdown,
    }
}

/// Waits until `check` gives something; the limit only ends a test that has failed.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, check: impl Fn() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found)
        .await
        .unwrap_or_else(|_| panic!("{what}"))
}

/// Waits for an event in a namespace that is as wanted.
pub async fn event(
    client: &Client,
    namespace: &str,
    what: &str,
    wanted: impl Fn(&Event) -> bool,
) -> Event {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    until(what, || async {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        all.into_iter().find(|event| wanted(event))
    })
    .await
}

/// Waits for an event in a namespace that says so.
pub async fn told(client: &Client, namespace: &str, text: &str) -> Event {
    let says = |event: &Event| event.message.as_deref() == Some(text);
    event(client, namespace, text, says).await
}

/// Makes an object from JSON.
pub async fn make<K>(api: &Api<K>, object: Value) -> K
where
    K: DeserializeOwned + serde::Serialize + Clone + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}
