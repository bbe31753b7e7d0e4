//! Programs elsewhere that have a say over HTTP: which nodes do, which is best, and who binds.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, Error};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_base::SharedClock;
use skiff_client::failure::message;

use crate::diagnosis::Diagnosis;
use crate::framework::Rejection;
use crate::rows::PodRow;

/// Their scores go to 10, ours to 100.
const SCALE: i64 = 10;

/// One of them, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtenderConfig {
    /// Where it is.
    pub url_prefix: String,
    /// The paths behind that; empty for what it does not do.
    pub filter_verb: String,
    /// For scores.
    pub prioritize_verb: String,
    /// For binding.
    pub bind_verb: String,
    /// For a say in which pods go to make room.
    pub preempt_verb: String,
    /// How much its scores count.
    pub weight: i64,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether names of nodes are enough for it.
    pub node_cache_capable: bool,
    /// It is asked only about pods that use one of these resources; about all if there are none.
    pub managed_resources: BTreeSet<String>,
    /// Managed resources that nodes are not checked for.
    pub ignored_by_scheduler: BTreeSet<String>,
    /// Whether pods are scheduled though it does not answer.
    pub ignorable: bool,
    /// Whether any certificate will do.
    pub insecure: bool,
    /// Whom its certificate is for, where that is not the URL's host; empty for that.
    pub server_name: String,
    /// Authorities that its certificate is checked with, PEM.
    pub authority_pem: Option<String>,
    /// The certificate and key that it wants to see, PEM.
    pub identity_pem: Option<(String, String)>,
}

impl ExtenderConfig {
    /// Whether it has a say about the pod.
    #[must_use]
    pub fn is_interested(&self, pod: &PodRow) -> bool {
        self.managed_resources.is_empty()
            || pod
                .requests
                .others
                .iter()
                .any(|(name, _)| self.managed_resources.contains(&**name))
    }

    fn client(&self) -> Result<Client, String> {
        let url = self
            .url_prefix
            .parse()
            .map_err(|error| format!("{}: {error}", self.url_prefix))?;
        let mut config = kube::Config::new(url);
        config.accept_invalid_certs = self.insecure;
        config.default_retry = false;
        config.tls_server_name = Some(self.server_name.clone()).filter(|name| !name.is_empty());
        if let Some((certificate, key)) = &self.identity_pem {
            use base64::Engine as _;
            let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
            config.auth_info.client_certificate_data = Some(encode(certificate));
            config.auth_info.client_key_data = Some(encode(key).into());
        }
        if let Some(pem) = &self.authority_pem {
            config.root_cert = Some(certificates(pem));
        }
        Client::try_from(config).map_err(|error| error.to_string())
    }
}

fn certificates(pem: &str) -> Vec<Vec<u8>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let all = CertificateDer::pem_slice_iter(pem.as_bytes());
    all.filter_map(Result::ok).map(|der| der.to_vec()).collect()
}

pub(crate) struct Extender {
    pub(crate) config: ExtenderConfig,
    client: Client,
}

/// All of them, in order.
pub struct Extenders {
    pub(crate) all: Vec<Extender>,
    clock: SharedClock,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Filtered {
    #[serde(alias = "Nodes")]
    nodes: Option<Named>,
    #[serde(alias = "NodeNames", alias = "nodenames", alias = "nodeNames")]
    node_names: Option<Vec<String>>,
    #[serde(alias = "FailedNodes", alias = "failedNodes")]
    failed_nodes: Option<HashMap<String, String>>,
    #[serde(
        alias = "FailedAndUnresolvableNodes",
        alias = "failedAndUnresolvableNodes"
    )]
    failed_for_good: Option<HashMap<String, String>>,
    #[serde(alias = "Error")]
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    #[serde(deserialize_with = "none_is_empty")]
    items: Vec<Item>,
}

fn none_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Item>, D::Error> {
    Ok(Option::<Vec<Item>>::deserialize(from)?.unwrap_or_default())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
}

#[derive(Deserialize)]
struct Priority {
    #[serde(alias = "Host")]
    host: String,
    #[serde(alias = "Score")]
    score: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Bound {
    #[serde(alias = "Error")]
    error: String,
}

impl Extenders {
    /// Makes them ready to be asked.
    pub fn new(configs: Vec<ExtenderConfig>, clock: SharedClock) -> Result<Self, String> {
        let make = |config: ExtenderConfig| {
            let client = config.client()?;
            Ok(Extender { config, client })
        };
        let all: Result<Vec<Extender>, String> = configs.into_iter().map(make).collect();
        Ok(Self { all: all?, clock })
    }

    /// Whether any has a say about the pod's nodes.
    #[must_use]
    pub fn are_interested(&self, pod: &PodRow) -> bool {
        self.all.iter().any(|extender| {
            let config = &extender.config;
            (!config.filter_verb.is_empty() || !config.prioritize_verb.is_empty())
                && config.is_interested(pod)
        })
    }

    /// Asks which of the nodes do, and adds their scores. Refusals go into `diagnosis`.
    pub async fn ask(
        &self,
        cluster: &Client,
        pod: &PodRow,
        mut nodes: Vec<(Arc<str>, i64)>,
        diagnosis: &mut Diagnosis,
    ) -> Result<Vec<(Arc<str>, i64)>, String> {
        let api: Api<Pod> = Api::namespaced(cluster.clone(), pod.key.namespace());
        let object = api
            .get(pod.key.name())
            .await
            .map_err(|error| message(&error))?;
        let object = serde_json::to_value(&object).map_err(|error| error.to_string())?;
        let interested = || {
            self.all
                .iter()
                .filter(|found| found.config.is_interested(pod))
        };
        for extender in interested().filter(|found| !found.config.filter_verb.is_empty()) {
            if nodes.is_empty() {
                break;
            }
            match self
                .filter(extender, cluster, &object, &nodes, diagnosis)
                .await
            {
                Ok(kept) => nodes.retain(|(name, _)| kept.contains(&**name)),
                Err(why) if extender.config.ignorable => {
                    tracing::info!(
                        extender = extender.config.url_prefix,
                        why,
                        "an extender is skipped"
                    );
                }
                Err(why) => return Err(why),
            }
        }
        for extender in interested().filter(|found| !found.config.prioritize_verb.is_empty()) {
            let verb = &extender.config.prioritize_verb;
            let body = self.arguments(extender, cluster, &object, &nodes).await?;
            let scores: Vec<Priority> = match self.send(extender, verb, &body).await {
                Ok(scores) => scores,
                Err(why) => {
                    tracing::debug!(
                        extender = extender.config.url_prefix,
                        why,
                        "an extender gave no scores"
                    );
                    continue;
                }
            };
            let scores: HashMap<String, i64> = scores
                .into_iter()
                .map(|found| (found.host, found.score))
                .collect();
            for (name, total) in &mut nodes {
                let score = scores.get(&**name).copied().unwrap_or(0);
                *total += score * extender.config.weight * SCALE;
            }
        }
        Ok(nodes)
    }

    async fn filter(
        &self,
        extender: &Extender,
        cluster: &Client,
        pod: &Value,
        nodes: &[(Arc<str>, i64)],
        diagnosis: &mut Diagnosis,
    ) -> Result<BTreeSet<String>, String> {
        let body = self.arguments(extender, cluster, pod, nodes).await?;
        let answer: Filtered = self
            .send(extender, &extender.config.filter_verb, &body)
            .await?;
        if !answer.error.is_empty() {
            return Err(answer.error);
        }
        let for_good = answer.failed_for_good.unwrap_or_default();
        for why in for_good.values() {
            diagnosis.refuse_elsewhere(Rejection::unresolvable(why.clone()));
        }
        for (name, why) in answer.failed_nodes.unwrap_or_default() {
            if !for_good.contains_key(&name) {
                diagnosis.refuse_elsewhere(Rejection::resolvable(why));
            }
        }
        let kept: BTreeSet<String> = match (answer.node_names, answer.nodes) {
            (Some(names), _) if extender.config.node_cache_capable => names.into_iter().collect(),
            (_, Some(list)) => list
                .items
                .into_iter()
                .filter_map(|item| item.metadata.name)
                .collect(),
            _ => BTreeSet::new(),
        };
        if let Some(stranger) = kept
            .iter()
            .find(|name| !nodes.iter().any(|(known, _)| **known == ***name))
        {
            return Err(format!(
                "extender \"{}\" claims a filtered node \"{stranger}\" which is not found in the input node list",
                extender.config.url_prefix
            ));
        }
        Ok(kept)
    }

    async fn arguments(
        &self,
        extender: &Extender,
        cluster: &Client,
        pod: &Value,
        nodes: &[(Arc<str>, i64)],
    ) -> Result<Value, String> {
        let names: Vec<&str> = nodes.iter().map(|(name, _)| &**name).collect();
        if extender.config.node_cache_capable {
            return Ok(json!({"Pod": pod, "Nodes": null, "NodeNames": names}));
        }
        let api: Api<Node> = Api::all(cluster.clone());
        let all = api
            .list(&ListParams::default())
            .await
            .map_err(|error| message(&error))?;
        let items: Vec<Node> = all
            .items
            .into_iter()
            .filter(|node| {
                node.metadata
                    .name
                    .as_deref()
                    .is_some_and(|name| names.contains(&name))
            })
            .collect();
        Ok(json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null}))
    }

    /// Binds by the first that wants to. None if none does.
    pub async fn bind(&self, pod: &PodRow, node: &str) -> Option<Result<(), String>> {
        let binds = |found: &&Extender| {
            !found.config.bind_verb.is_empty() && found.config.is_interested(pod)
        };
        for extender in self.all.iter().filter(binds) {
            let body = json!({
                "PodName": pod.key.name(), "PodNamespace": pod.key.namespace(),
                "PodUID": &*pod.uid, "Node": node,
            });
            let answer: Result<Bound, String> =
                self.send(extender, &extender.config.bind_verb, &body).await;
            let outcome = answer.and_then(|bound| {
                if bound.error.is_empty() {
                    Ok(())
                } else {
                    Err(bound.error)
                }
            });
            if outcome.is_err() && extender.config.ignorable {
                continue;
            }
            return Some(outcome);
        }
        None
    }

    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        extender: &Extender,
        verb: &str,
        body: &Value,
    ) -> Result<T, String> {
        let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        let request = http::Request::post(format!("/{verb}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| error.to_string())?;
        let answer = tokio::select! {
            answer = extender.client.request_text(request) => answer,
            () = self.clock.sleep(extender.config.timeout) => {
                return Err(format!("{}/{verb}: no answer in time", extender.config.url_prefix));
            }
        };
        let url = format!(
            "{}/{verb}",
            extender.config.url_prefix.trim_end_matches('/')
        );
        let text = answer.map_err(|error| match &error {
            Error::Api(status) => format!(
                "failed {verb} with extender at URL {url}, code {}",
                status.code
            ),
            _ => format!("{url}: {}", message(&error)),
        })?;
        serde_json::from_str(&text).map_err(|error| format!("{url}: {error}"))
    }
}
