use super::*;
use crate::seen_pod::seen;
use k8s_openapi::api::core::v1;
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: i64 = 1_000_000;

fn set(change: impl Fn(&mut Value)) -> DaemonSet {
    let mut value = json!({
        "metadata": {"name": "agent", "namespace": "n", "uid": "set", "generation": 2},
        "spec": {"selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": []}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn surging() -> DaemonSet {
    set(|set| {
        set["spec"]["updateStrategy"]["rollingUpdate"] =
            json!({"maxUnavailable": 0, "maxSurge": 1});
    })
}

fn node(name: &str, change: impl Fn(&mut Value)) -> Arc<Node> {
    let mut value = json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": {}});
    change(&mut value);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn tainted(name: &str, key: &str, effect: &str) -> Arc<Node> {
    node(name, |node| {
        node["spec"]["taints"] = json!([{"key": key, "effect": effect}]);
    })
}

fn plain(count: usize) -> Vec<Arc<Node>> {
    (0..count).map(|n| node(&format!("n{n}"), |_| {})).collect()
}

/// `r` ready, `u` running but not ready, `f` failed, `s` succeeded, `d` deleting, `w` waiting for its node; in upper
/// case of an old revision.
fn pod(name: &str, node: &str, state: char) -> Arc<Pod> {
    let hash = if state.is_uppercase() { "old" } else { "new" };
    let state = state.to_ascii_lowercase();
    let phase = match state {
        'f' => "Failed",
        's' => "Succeeded",
        'w' => "Pending",
        _ => "Running",
    };
    let ready = if state == 'r' { "True" } else { "False" };
    let mut value = json!({
        "metadata": {"name": name, "uid": name, "labels": {HASH_LABEL: hash}},
        "spec": {"containers": [], "nodeName": node},
        "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:00Z"}]},
    });
    if state == 'd' {
        value["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
    }
    let mut pod: v1::Pod = serde_json::from_value(value).unwrap();
    if state == 'w' {
        let spec = pod.spec.get_or_insert_default();
        spec.node_name = None;
        for_node(spec, node);
    }
    Arc::new(seen(&pod))
}

/// One word for each node: its pods' states; `.` for none.
fn pods(words: &str) -> Vec<Arc<Pod>> {
    let words = words.split(' ').enumerate();
    words
        .flat_map(|(n, word)| {
            let states = word.chars().filter(|state| *state != '.').enumerate();
            states
                .map(move |(i, state)| pod(&format!("p{n}{i}"), &format!("n{n}"), state))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn observe(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> (Plan, DaemonSetStatus) {
    plan(&Observed {
        set,
        nodes,
        pods,
        hash: "new",
        now: Timestamp::from_second(NOW).unwrap(),
    })
}

fn told(plan: &Plan) -> String {
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
    let created = plan.create.iter().map(|node| format!("+{node}"));
    let deleted = plan.delete.iter().map(|pod| format!("-{}", name(pod)));
    let failed = plan.failed.iter().map(|(_, pod)| format!("f{}", name(pod)));
    let succeeded = plan.succeeded.iter().map(|pod| format!("s{}", name(pod)));
    let all = created.chain(deleted).chain(failed).chain(succeeded);
    all.collect::<Vec<_>>().join(" ")
}

fn check(set: &DaemonSet, cases: &[(&str, &str)]) {
    for (words, expected) in cases {
        let nodes = plain(words.split(' ').count());
        let (plan, _) = observe(set, &nodes, &pods(words));
        assert_eq!(told(&plan), *expected, "{words}");
    }
}

#[test]
fn one_pod_on_every_node() {
    check(
        &set(|_| {}),
        &[
            (". r w", "+n0"),
            ("rr r", "-p01"),
            ("wr r", "-p00"),
            ("f r", "fp00"),
            ("s r", "sp00"),
            // It is waited for before another one comes.
            ("d r", ""),
        ],
    );
    let nodes = plain(1);
    let lost = [
        pod("a", "n0", 'r'),
        pod("b", "gone", 'w'),
        pod("c", "gone", 'r'),
    ];
    assert_eq!(told(&observe(&set(|_| {}), &nodes, &lost).0), "-b");
}

#[test]
fn nodes_that_fit() {
    let chosen = set(|set| {
        set["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    });
    let slow = |name| {
        node(name, |node| {
            node["metadata"]["labels"]["disk"] = "hdd".into()
        })
    };
    let (plan, status) = observe(&chosen, &[slow("n0"), node("n1", |_| {})], &pods("r ."));
    assert_eq!(told(&plan), "+n1 -p00");
    assert_eq!(
        (status.desired_number_scheduled, status.number_misscheduled),
        (1, 1)
    );
    for (key, effect, expected) in [
        ("node.kubernetes.io/not-ready", "NoExecute", "+n0 -p10"),
        ("node.kubernetes.io/unschedulable", "NoSchedule", "+n0 -p10"),
        ("mine", "PreferNoSchedule", "+n0 -p10"),
        ("mine", "NoSchedule", "-p10"),
        ("mine", "NoExecute", "-p10 -p20"),
    ] {
        // n0 has no pod, n1 is none of the set's, n2 has one.
        let nodes = [
            tainted("n0", key, effect),
            slow("n1"),
            tainted("n2", key, effect),
        ];
        let (plan, _) = observe(&chosen, &nodes, &pods(". r r"));
        assert_eq!(told(&plan), expected, "{key} {effect}");
    }
}

#[test]
fn pods_ask_for_their_node_and_bear_much() {
    let set = set(|set| {
        set["metadata"]["annotations"] = json!({GENERATION: "7"});
        set["spec"]["template"]["spec"] = json!({"containers": [], "hostNetwork": true,
            "tolerations": [{"key": "mine", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}}});
    });
    let template = template(&set, "abc");
    let labels = template.metadata.unwrap().labels.unwrap();
    assert_eq!(
        (&*labels[HASH_LABEL], &*labels[GENERATION_LABEL]),
        ("abc", "7")
    );
    let mut spec = template.spec.unwrap();
    assert_eq!(spec.tolerations.as_ref().unwrap().len(), 8);
    for_node(&mut spec, "n5");
    let pod = v1::Pod {
        spec: Some(spec),
        ..v1::Pod::default()
    };
    assert_eq!(target(&seen(&pod)), Some("n5"));
    let selector = serde_json::to_value(&pod).unwrap();
    let terms = selector.pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
    assert_eq!(
        terms,
        Some(
            &json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n5"]}]}])
        )
    );
}

#[test]
fn a_rollout_keeps_to_what_may_be_missing() {
    check(
        &set(|_| {}),
        &[
            ("R R R", "-p00"),
            ("d R R", ""),
            ("u R R", ""),
            ("r R R", "-p10"),
            // Broken ones go at once; so many may be missing.
            ("U U R", "-p00 -p10"),
            ("r r r", ""),
        ],
    );
    let half = set(|set| {
        set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = "50%".into();
    });
    check(&half, &[("R R R", "-p00 -p10"), ("u R R", "-p10")]);
    let by_hand = set(|set| set["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    check(&by_hand, &[("R R", ""), (". R", "+n0")]);
}

#[test]
fn a_surge_makes_new_pods_beside_old_ones() {
    check(
        &surging(),
        &[
            ("R R", "+n0"),
            ("Ru R", ""),
            ("Rr R", "-p00"),
            // The old one is of no use: the new one stays alone.
            ("Uu R", "-p00"),
            ("U R", "+n0 +n1"),
            ("d R", "+n0"),
            ("Ruu R", "-p02"),
            ("r r", ""),
        ],
    );
}

#[test]
fn the_status_counts() {
    let set = set(|set| set["spec"]["minReadySeconds"] = 2_000_000.into());
    let (_, status) = observe(&set, &plain(4), &pods("r R u ."));
    assert_eq!(
        (
            status.desired_number_scheduled,
            status.current_number_scheduled,
            status.number_ready,
            status.updated_number_scheduled,
            status.number_available,
            status.number_unavailable,
            status.observed_generation
        ),
        (4, 3, 2, Some(2), None, Some(4), Some(2))
    );
}

proptest! {
    /// Playing the plan in a world where pods come up ends with one new pod on each node; on the way never more
    /// nodes lack an available pod than may, nor are there more pods than may be.
    #[test]
    fn every_rollout_ends_as_wanted(nodes in 1_usize..5, surges in any::<bool>(), limit in 1_i32..3, slow in 0_usize..4) {
        let set = set(|set| {
            set["spec"]["updateStrategy"]["rollingUpdate"] = if surges {
                json!({"maxUnavailable": 0, "maxSurge": limit})
            } else {
                json!({"maxUnavailable": limit, "maxSurge": 0})
            };
        });
        let all = plain(nodes);
        let mut world: Vec<(String, String, char)> = (0..nodes)
            .map(|n| (format!("p{n}"), format!("n{n}"), 'R'))
            .collect();
        let mut next = 0;
        for round in 0..60 {
            let pods: Vec<_> = world.iter().map(|(name, node, state)| pod(name, node, *state)).collect();
            let (plan, _) = observe(&set, &all, &pods);
            for node in &plan.create {
                next += 1;
                world.push((format!("q{next}"), node.clone(), 'u'));
            }
            for gone in &plan.delete {
                world.retain(|(name, _, _)| Some(name) != gone.metadata.name.as_ref());
            }
            let available = all.iter().filter(|node| {
                world.iter().any(|(_, on, state)| {
                    Some(on) == node.metadata.name.as_ref() && matches!(state, 'r' | 'R')
                })
            });
            let missing = nodes - available.count();
            let limit = usize::try_from(limit).unwrap();
            prop_assert!(missing <= if surges { 0 } else { limit }, "{world:?}");
            prop_assert!(world.len() <= nodes + if surges { limit } else { 0 }, "{world:?}");
            if plan == Plan::default() && round % (slow + 1) == 0
                && let Some((_, _, state)) = world.iter_mut().find(|(_, _, state)| *state == 'u')
            {
                *state = 'r';
            }
        }
        prop_assert_eq!(world.len(), nodes);
        prop_assert!(world.iter().all(|(_, _, state)| *state == 'r'));
    }
}

#[test]
fn a_pod_that_an_earlier_set_of_the_name_left_is_old_though_its_generation_is_the_set_s() {
    let set = set(|set| set["metadata"]["annotations"] = json!({GENERATION: "2"}));
    for (hash, generation, updated) in [
        (Some("old"), Some("2"), 0),
        (Some("new"), Some("1"), 1),
        (None, Some("2"), 1),
        (None, Some("1"), 0),
        (None, None, 0),
    ] {
        let mut left = Pod::clone(&pod("p", "n0", 'r'));
        let labels = left.metadata.labels.get_or_insert_default();
        labels.clear();
        let given = [(HASH_LABEL, hash), (GENERATION_LABEL, generation)];
        labels.extend(
            given
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))),
        );
        let (plan, status) = super::plan(&Observed {
            set: &set,
            nodes: &plain(1),
            pods: &[Arc::new(left)],
            hash: "new",
            now: Timestamp::from_second(NOW).unwrap(),
        });
        assert_eq!(
            status.updated_number_scheduled.unwrap_or(0),
            updated,
            "{hash:?} {generation:?}"
        );
        assert_eq!(
            plan.delete.len(),
            1 - usize::try_from(updated).unwrap(),
            "{hash:?} {generation:?}"
        );
    }
}
