//! Evicts pods from nodes whose NoExecute taints they do not tolerate, or no longer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use kube::Client;
use parking_lot::Mutex;
use skiff_base::SharedClock;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
    WorkQueue,
};

use crate::seen_pod::Pod;
use crate::{Context, node_lifecycle, pod_eviction, pods};

/// The name of this controller. It acts as the node controller.
pub const NAME: &str = "taint-eviction-controller";

const WORKERS: usize = 4;
const REASON: &str = "TaintManagerEviction";

/// When a pod must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    GoesNow,
    GoesAfter(Duration),
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
        Some(_) => false,
    }
}

/// Each taint needs a toleration; the shortest time of those that match counts.
fn judge(taints: &[&Taint], tolerations: &[Toleration]) -> Verdict {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        // As upstream: the first toleration that matches a taint is the one that is used.
        let Some(found) = tolerations.iter().find(|found| tolerates(found, taint)) else {
            return Verdict::GoesNow;
        };
        if let Some(seconds) = found.toleration_seconds {
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
        }
    }
    match shortest {
        None => Verdict::Stays,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Verdict::GoesAfter(Duration::from_secs(seconds)),
            _ => Verdict::GoesNow,
        },
    }
}

/// What to do about a pod, given when its eviction is due already, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// An eviction that was due is called off.
    Cancel,
    Evict,
    /// It is due at that time.
    Wait(Duration),
}

fn step(verdict: Verdict, due: Option<Duration>, now: Duration) -> Step {
    match (verdict, due) {
        (Verdict::Stays, None) => Step::Nothing,
        (Verdict::Stays, Some(_)) => Step::Cancel,
        (Verdict::GoesNow, _) => Step::Evict,
        // What is due stays due: other taints that come meanwhile do not prolong it.
        (Verdict::GoesAfter(_), Some(due)) if due <= now => Step::Evict,
        (Verdict::GoesAfter(_), Some(due)) => Step::Wait(due),
        (Verdict::GoesAfter(time), None) => Step::Wait(now + time),
    }
}

type Due = Arc<Mutex<HashMap<ObjectKey, Duration>>>;

struct Evictions {
    client: Client,
    nodes: SharedCache<Node>,
    pods: SharedCache<Pod>,
    /// When each pod must go that tolerates the taints of its node for a time.
    due: Due,
    recorder: EventRecorder,
    clock: SharedClock,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let nodes = context.caches.of::<Node>();
    let pods = context.caches.of::<Pod>();
    pods::index_nodes(&pods);
    let queue = context.queue();
    nodes.wait_synced().await;
    pods.wait_synced().await;
    let evictions = Evictions {
        client: context.client(node_lifecycle::NAME),
        nodes: nodes.clone(),
        pods: pods.clone(),
        due: Due::default(),
        recorder: context.recorder(node_lifecycle::NAME, NAME),
        clock: context.clock.clone(),
    };
    let _nodes = {
        let (queue, pods) = (queue.clone(), pods.clone());
        nodes.on_event(move |event| on_node(event, &pods, &queue))
    };
    let _pods = {
        let (queue, due) = (queue.clone(), evictions.due.clone());
        pods.on_event(move |event| on_pod(event, &nodes, &due, &queue))
    };
    context.run(evictions, queue, WORKERS).await;
}

fn evicting_taints(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let taints = taints.unwrap_or_default().iter();
    taints.filter(|taint| taint.effect == "NoExecute").collect()
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default()
}

fn on_node(event: &Event<Node>, pods: &SharedCache<Pod>, queue: &WorkQueue<ObjectKey>) {
    let node = event.object();
    let changed = match event {
        Event::Added(node) => !evicting_taints(node).is_empty(),
        Event::Updated { old, new } => evicting_taints(old) != evicting_taints(new),
        Event::Deleted(_) => false,
    };
    if changed {
        for pod in pods::on_node(pods, node.metadata.name.as_deref().unwrap_or_default()) {
            queue.add(ObjectKey::of(&pod.metadata));
        }
    }
}

fn on_pod(event: &Event<Pod>, nodes: &SharedCache<Node>, due: &Due, queue: &WorkQueue<ObjectKey>) {
    let pod = event.object();
    let key = ObjectKey::of(&pod.metadata);
    let changed = match event {
        Event::Added(_) => true,
        Event::Updated { old, new } => {
            pods::node_name(old) != pods::node_name(new) || tolerations(old) != tolerations(new)
        }
        Event::Deleted(_) => due.lock().contains_key(&key),
    };
    if !changed {
        return;
    }
    let node = nodes.get_named("", pods::node_name(pod));
    let tainted = node.is_some_and(|node| !evicting_taints(&node).is_empty());
    if tainted || due.lock().contains_key(&key) {
        queue.add(key);
    }
}

#[async_trait]
impl Reconciler for Evictions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "noexec_taint_pod"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let pod = self.pods.get(key);
        let verdict = pod.as_ref().map_or(Verdict::Stays, |pod| self.judge(pod));
        let due = self.due.lock().get(key).copied();
        let now = self.clock.monotonic();
        let step = step(verdict, due, now);
        match (step, pod) {
            (Step::Nothing, _) => {}
            (Step::Cancel, _) => {
                self.due.lock().remove(key);
                self.tell(key, format!("Cancelling deletion of Pod {key}"));
            }
            (Step::Wait(at), _) => {
                self.due.lock().insert(key.clone(), at);
                return Ok(Outcome::After(at.saturating_sub(now)));
            }
            (Step::Evict, Some(pod)) => {
                if !pods::is_deleting(&pod) {
                    self.tell(key, format!("Marking for deletion Pod {key}"));
                    self.evict(key, &pod).await?;
                }
                self.due.lock().remove(key);
            }
            (Step::Evict, None) => {}
        }
        Ok(Outcome::Done)
    }
}

impl Evictions {
    fn judge(&self, pod: &Pod) -> Verdict {
        match self.nodes.get_named("", pods::node_name(pod)) {
            Some(node) => judge(&evicting_taints(&node), tolerations(pod)),
            None => Verdict::Stays,
        }
    }

    fn tell(&self, key: &ObjectKey, text: String) {
        let regarding = pod_eviction::regarding(key);
        self.recorder
            .record(regarding, EventType::Normal, REASON, text);
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), ReconcileError> {
        let condition = pods::disruption_target(
            pod,
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            &skiff_client::timestamp(&*self.clock),
        );
        pod_eviction::evict(&self.client, key, pod, condition).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn taint(key: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            ..Taint::default()
        }
    }

    fn tolerations(of: serde_json::Value) -> Vec<Toleration> {
        serde_json::from_value(of).unwrap()
    }

    #[test]
    fn every_taint_must_be_tolerated_and_the_shortest_time_counts() {
        let (a, b) = (taint("a"), taint("b"));
        let after = |seconds| Verdict::GoesAfter(Duration::from_secs(seconds));
        let exists = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        for (taints, of, expected) in [
            (vec![], json!([]), Verdict::Stays),
            (vec![&a], json!([]), Verdict::GoesNow),
            (vec![&a], json!([exists("a", None)]), Verdict::Stays),
            (vec![&a], json!([exists("b", None)]), Verdict::GoesNow),
            (vec![&a, &b], json!([exists("a", None)]), Verdict::GoesNow),
            (vec![&a], json!([exists("a", Some(30))]), after(30)),
            (vec![&a], json!([exists("a", Some(0))]), Verdict::GoesNow),
            (vec![&a], json!([exists("a", Some(-1))]), Verdict::GoesNow),
            (
                vec![&a, &b],
                json!([exists("a", Some(30)), exists("b", Some(10))]),
                after(10),
            ),
            (
                vec![&a, &b],
                json!([exists("a", Some(30)), exists("b", None)]),
                after(30),
            ),
            (
                vec![&a, &b],
                json!([{"operator": "Exists"}]),
                Verdict::Stays,
            ),
            (
                vec![&a],
                json!([{"key": "a", "operator": "Equal", "value": "x"}]),
                Verdict::GoesNow,
            ),
            (vec![&a], json!([{"key": "a"}]), Verdict::Stays),
            (
                vec![&a],
                json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]),
                Verdict::GoesNow,
            ),
        ] {
            assert_eq!(judge(&taints, &tolerations(of.clone())), expected, "{of}");
        }
    }

    #[test]
    fn what_is_due_stays_due_until_the_taint_goes() {
        let second = Duration::from_secs;
        let later = Verdict::GoesAfter(second(30));
        assert_eq!(step(later, None, second(5)), Step::Wait(second(35)));
        assert_eq!(
            step(later, Some(second(35)), second(20)),
            Step::Wait(second(35))
        );
        assert_eq!(step(later, Some(second(35)), second(35)), Step::Evict);
        assert_eq!(
            step(Verdict::Stays, Some(second(35)), second(9)),
            Step::Cancel
        );
        assert_eq!(step(Verdict::Stays, None, second(9)), Step::Nothing);
        assert_eq!(
            step(Verdict::GoesNow, Some(second(35)), second(9)),
            Step::Evict
        );
    }
}
