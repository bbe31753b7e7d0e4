//! Extenders have a say in which pods go to make room.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_client::failure::message;

use crate::decision::Offer;
use crate::extender::{Extender, Extenders};
use crate::rows::PodRow;

/// The pods that may go, by node.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    #[serde(alias = "NodeNameToMetaVictims", alias = "nodeNameToMetaVictims")]
    victims: Option<BTreeMap<String, Option<MetaVictims>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetaVictims {
    #[serde(alias = "Pods")]
    pods: Option<Vec<MetaPod>>,
    #[serde(alias = "NumPDBViolations", alias = "numPDBViolations")]
    violations: i64,
}

#[derive(Deserialize)]
struct MetaPod {
    #[serde(alias = "UID")]
    uid: String,
}

impl Extenders {
    /// Whether any has a say about pods that go for this one.
    #[must_use]
    pub fn negotiate_for(&self, pod: &PodRow) -> bool {
        self.all.iter().any(|extender| negotiates(extender, pod))
    }

    /// Asks one after another; each hears what the one before made of the offers. `find` knows the pods of nodes.
    pub async fn negotiate(
        &self,
        cluster: &Client,
        pod: &PodRow,
        mut offers: Vec<Offer>,
        find: impl Fn(&str, &str) -> Option<Arc<PodRow>>,
    ) -> Result<Vec<Offer>, String> {
        let object = fetch(cluster, pod).await?;
        for extender in self.all.iter().filter(|found| negotiates(found, pod)) {
            if offers.is_empty() {
                break;
            }
            let body = if extender.config.node_cache_capable {
                json!({"Pod": object, "NodeNameToVictims": null, "NodeNameToMetaVictims": by_uid(&offers)})
            } else {
                let whole = in_whole(cluster, &offers).await?;
                json!({"Pod": object, "NodeNameToVictims": whole, "NodeNameToMetaVictims": null})
            };
            let answer: Result<Answer, String> = self
                .send(extender, &extender.config.preempt_verb, &body)
                .await;
            match answer.and_then(|answer| read(extender, answer, &find)) {
                Ok(kept) => offers = kept,
                Err(why) if extender.config.ignorable => {
                    let extender = &extender.config.url_prefix;
                    tracing::info!(extender, why, "an extender is skipped");
                }
                Err(why) => return Err(why),
            }
        }
        Ok(offers)
    }
}

fn negotiates(extender: &Extender, pod: &PodRow) -> bool {
    !extender.config.preempt_verb.is_empty() && extender.config.is_interested(pod)
}

async fn fetch(cluster: &Client, pod: &PodRow) -> Result<Value, String> {
    let api: Api<Pod> = Api::namespaced(cluster.clone(), pod.key.namespace());
    let object = api.get(pod.key.name()).await;
    let object = object.map_err(|error| message(&error))?;
    serde_json::to_value(&object).map_err(|error| error.to_string())
}

fn by_uid(offers: &[Offer]) -> HashMap<&str, Value> {
    let each = offers.iter().map(|offer| {
        let pods = offer.victims.iter().map(|pod| json!({"UID": &*pod.uid}));
        let pods: Vec<Value> = pods.collect();
        (
            &*offer.node,
            json!({"Pods": pods, "NumPDBViolations": offer.violations}),
        )
    });
    each.collect()
}

async fn in_whole<'a>(
    cluster: &Client,
    offers: &'a [Offer],
) -> Result<HashMap<&'a str, Value>, String> {
    let mut all = HashMap::new();
    for offer in offers {
        let mut pods = Vec::new();
        for victim in &offer.victims {
            pods.push(fetch(cluster, victim).await?);
        }
        all.insert(
            &*offer.node,
            json!({"Pods": pods, "NumPDBViolations": offer.violations}),
        );
    }
    Ok(all)
}

fn read(
    extender: &Extender,
    answer: Answer,
    find: &impl Fn(&str, &str) -> Option<Arc<PodRow>>,
) -> Result<Vec<Offer>, String> {
    let mut kept = Vec::new();
    for (node, victims) in answer.victims.unwrap_or_default() {
        let victims = victims.unwrap_or_default();
        let mut pods = Vec::new();
        for pod in victims.pods.unwrap_or_default() {
            let known = find(&node, &pod.uid).ok_or_else(|| {
                format!(
                    "extender: {} claims to preempt pod (UID: &{{{}}}) on node: {node}, but the pod is not found on that node",
                    extender.config.url_prefix, pod.uid
                )
            })?;
            pods.push(known);
        }
        if pods.is_empty() && extender.config.ignorable {
            continue;
        }
        if pods.is_empty() {
            return Err(format!(
                "expected at least one victim pod on node \"{node}\""
            ));
        }
        kept.push(Offer {
            node: node.as_str().into(),
            victims: pods,
            violations: victims.violations,
        });
    }
    Ok(kept)
}
