//! Why a pod is pending: what each plugin says of each node, and what would help.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use skiff_client::ObjectKey;

use crate::framework::{Cycle, PreFilter, Rejection, View, plugin};
use crate::metrics;
use crate::plugins::default_preemption;
use crate::plugins::node_affinity::allows;
use crate::plugins::node_declared_features::missing;
use crate::plugins::taint_toleration::bears;
use crate::profile::Profile;
use crate::rows::PodRow;
use crate::state::{Known, State};

/// What one plugin says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The plugin.
    pub plugin: &'static str,
    /// Its reasons, as in events.
    pub reasons: Vec<String>,
    /// What would change its mind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub help: String,
}

/// What all plugins say of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAnswer {
    /// The node.
    pub node: String,
    /// Those that refuse it; none where the pod would fit.
    pub refusals: Vec<Refusal>,
    /// Pods that could be pushed out so that it fits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub victims: Vec<String>,
}

/// Why a pod is pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Namespace and name.
    pub pod: String,
    /// In one word: `Unscheduled`, `Gated`, `Scheduled` or `NotOurs`.
    pub state: &'static str,
    /// The node it has, or that room is being made on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// What was told last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What holds for all nodes alike.
    pub everywhere: Vec<Refusal>,
    /// What holds for each.
    pub nodes: Vec<NodeAnswer>,
}

/// Answers from what the scheduler knows, while it runs. Clones share it.
#[derive(Clone, Default)]
pub struct Explainer {
    state: Arc<Mutex<Option<Arc<State>>>>,
    profiles: Arc<[Profile]>,
}

impl Explainer {
    /// Of the scheduler with those profiles.
    pub(crate) fn new(profiles: &[Profile]) -> Self {
        Self {
            state: Arc::default(),
            profiles: profiles.into(),
        }
    }

    pub(crate) fn set(&self, state: Option<Arc<State>>) {
        *self.state.lock() = state;
    }

    /// Writes what Prometheus reads of the scheduler.
    pub fn write_metrics(&self, text: &mut String) {
        let state = self.state.lock().clone();
        metrics::write(text, &self.profiles, state.as_deref());
    }

    /// Whether the scheduler runs: it may be starting, or stand by for the one of another server.
    #[must_use]
    pub fn knows(&self) -> bool {
        self.state.lock().is_some()
    }

    /// Why that pod is pending; none if it is not known or the scheduler does not run.
    #[must_use]
    pub fn explain(&self, namespace: &str, name: &str) -> Option<Explanation> {
        let state = self.state.lock().clone()?;
        state.explain(&ObjectKey::new(namespace, name))
    }
}

impl State {
    /// Why that pod is pending; none if it is not known.
    #[must_use]
    pub fn explain(&self, key: &ObjectKey) -> Option<Explanation> {
        self.look(|known| explain(known, key))
    }
}

fn explain(known: &mut Known, key: &ObjectKey) -> Option<Explanation> {
    let about = |state, node: &str, message: &str| Explanation {
        pod: key.to_string(),
        state,
        node: node.to_owned(),
        message: message.to_owned(),
        everywhere: Vec::new(),
        nodes: Vec::new(),
    };
    if let Some(index) = known.world.cluster.placed.get(key) {
        let node = known.world.cluster.nodes.get(*index);
        let name = node.map_or("", |node| &*node.name);
        return Some(about("Scheduled", name, ""));
    }
    let pod = known.pending.get(key)?.clone();
    let profiles = known.profiles.clone();
    let Some(profile) = profiles.iter().find(|found| found.name == pod.scheduler) else {
        return Some(about("NotOurs", "", ""));
    };
    if known.queue.is_gated(key) {
        let mut answer = about("Gated", "", &pod.condition.message);
        for found in profile
            .pre_enqueue
            .iter()
            .filter_map(|number| plugin(*number))
        {
            let why = found.pre_enqueue.and_then(|gate| gate(&pod, &known.world));
            answer.everywhere.extend(why.map(|why| Refusal {
                plugin: found.name,
                reasons: vec![why],
                help: match found.name {
                    "SchedulingGates" => "remove the gates from spec.schedulingGates".to_owned(),
                    _ => String::new(),
                },
            }));
        }
        return Some(answer);
    }
    let mut answer = about("Unscheduled", &pod.nominated, &pod.condition.message);
    let asked = known.world.ask(&pod, profile);
    let mut cycle = Cycle::new(&pod, &known.world, profile, &asked);
    look_at_all(&mut cycle, profile, &mut answer);
    Some(answer)
}

fn look_at_all(cycle: &mut Cycle, profile: &Profile, answer: &mut Explanation) {
    for number in &profile.pre_filters {
        let Some(found) = plugin(*number) else {
            continue;
        };
        match found.pre_filter.map(|ask| ask(cycle)) {
            Some(PreFilter::Skip) => cycle.skipped |= 1 << number,
            Some(PreFilter::Reject(rejection)) => {
                answer
                    .everywhere
                    .push(refusal(found.name, &rejection, String::new()));
            }
            _ => {}
        }
    }
    for index in 0..cycle.world.cluster.nodes.len() {
        let Some(view) = View::of(cycle.world, index) else {
            continue;
        };
        let refusals = refusals(cycle, profile, &view);
        let victims = if refusals.is_empty() || !cycle.pod.preempts {
            Vec::new()
        } else {
            let found = default_preemption::victims(cycle, index);
            let victims = found.map(|found| found.victims).unwrap_or_default();
            victims
                .iter()
                .map(|victim| victim.key.to_string())
                .collect()
        };
        answer.nodes.push(NodeAnswer {
            node: view.node.name.to_string(),
            refusals,
            victims,
        });
    }
    answer.nodes.sort_by(|a, b| a.node.cmp(&b.node));
}

fn refusals(cycle: &Cycle, profile: &Profile, view: &View) -> Vec<Refusal> {
    let mut all = Vec::new();
    for number in &profile.filters {
        let Some(found) = plugin(*number).filter(|_| cycle.skipped & (1 << number) == 0) else {
            continue;
        };
        if let Some(Err(rejection)) = found.filter.map(|filter| filter(cycle, view)) {
            all.push(refusal(
                found.name,
                &rejection,
                help(found.name, cycle.pod, view),
            ));
        }
    }
    all
}

fn refusal(plugin: &'static str, rejection: &Rejection, help: String) -> Refusal {
    Refusal {
        plugin,
        reasons: rejection.reasons().map(ToOwned::to_owned).collect(),
        help,
    }
}

/// What would change a plugin's mind about a node.
fn help(plugin: &str, pod: &PodRow, view: &View) -> String {
    let name = &view.node.name;
    match plugin {
        "NodeUnschedulable" => format!("kubectl uncordon {name}"),
        "TaintToleration" => {
            let unborne = view.facts.taints.iter();
            let unborne =
                unborne.filter(|taint| !bears(&pod.shape.tolerations, std::slice::from_ref(taint)));
            let texts: Vec<String> = unborne
                .map(|taint| match taint.value.as_deref() {
                    Some(value) if !value.is_empty() => {
                        format!("{}={value}:{}", taint.key, taint.effect)
                    }
                    _ => format!("{}:{}", taint.key, taint.effect),
                })
                .collect();
            format!("tolerate, or take away from the node: {}", texts.join(", "))
        }
        "NodeAffinity" => {
            let selector = pod.shape.wants.selector.iter();
            let missing: Vec<String> = selector
                .filter(|(key, value)| view.facts.labels.get(*key) != Some(*value))
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            if missing.is_empty() && !allows(&pod.shape.wants, name, view.facts) {
                "label the node so that one of the pod's required node affinity terms matches"
                    .to_owned()
            } else {
                format!("label the node: {}", missing.join(", "))
            }
        }
        "NodeResourcesFit" => resources(pod, view),
        "NodeDeclaredFeatures" => {
            let names: Vec<&str> = missing(pod.shape.needs, view.facts.features).collect();
            format!("the node's kubelet does not declare {}", names.join(", "))
        }
        "NodePorts" => "free the host port on the node, or use another".to_owned(),
        _ => String::new(),
    }
}

fn resources(pod: &PodRow, view: &View) -> String {
    let mut texts: Vec<String> = Vec::new();
    if view.usage.pods >= view.facts.max_pods {
        texts.push(format!(
            "the node takes {} pods and has {}",
            view.facts.max_pods, view.usage.pods
        ));
    }
    let (wanted, used, all) = (
        &pod.requests,
        &view.usage.requested,
        &view.facts.allocatable,
    );
    let others = wanted.others.iter().map(|(name, _)| &**name);
    for name in ["cpu", "memory", "ephemeral-storage"]
        .into_iter()
        .chain(others)
    {
        let (wanted, free) = (wanted.get(name), all.get(name) - used.get(name));
        if wanted > 0 && wanted > free {
            let unit = if name == "cpu" { "m" } else { "" };
            let never = if wanted > all.get(name) {
                ", more than the whole node has"
            } else {
                ""
            };
            texts.push(format!(
                "{name}: asks for {wanted}{unit}, {free}{unit} are free{never}"
            ));
        }
    }
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{cpu, node, pod, scene};
    use serde_json::json;

    #[test]
    fn all_plugins_are_heard_for_each_node() {
        let scene = scene().nodes([
            node("a", json!({"spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]},
                "status": {"allocatable": {"cpu": "1"}}})),
            node("b", json!({})),
        ]);
        let mut spec = cpu("2");
        spec["nodeSelector"] = json!({"disk": "ssd"});
        scene.apply(&pod("p", spec));
        assert_eq!(scene.decide(), "p nowhere");
        let answer = scene.state.explain(&ObjectKey::new("a", "p")).unwrap();
        let plugins = |index: usize| -> Vec<&str> {
            answer.nodes[index]
                .refusals
                .iter()
                .map(|found| found.plugin)
                .collect()
        };
        assert_eq!(
            plugins(0),
            [
                "NodeUnschedulable",
                "TaintToleration",
                "NodeAffinity",
                "NodeResourcesFit"
            ]
        );
        assert_eq!(plugins(1), ["NodeAffinity"]);
        let help: Vec<&str> = answer.nodes[0]
            .refusals
            .iter()
            .map(|found| found.help.as_str())
            .collect();
        assert_eq!(
            help,
            [
                "kubectl uncordon a",
                "tolerate, or take away from the node: k:NoSchedule",
                "label the node: disk=ssd",
                "cpu: asks for 2000m, 1000m are free, more than the whole node has"
            ]
        );
        assert!(scene.state.explain(&ObjectKey::new("a", "q")).is_none());
    }

    #[test]
    fn gates_are_named() {
        let scene = scene();
        scene.apply(&pod("p", json!({"schedulingGates": [{"name": "g"}]})));
        let answer = scene.state.explain(&ObjectKey::new("a", "p")).unwrap();
        assert_eq!((answer.state, answer.everywhere.len()), ("Gated", 1));
    }
}
