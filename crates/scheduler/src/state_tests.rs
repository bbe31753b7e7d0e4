//! The state as watches, decisions and failed bindings change it.

use super::*;
use crate::fixtures::{Scene, cpu, node, pod, pod_with, scene};
use proptest::prelude::*;
use serde_json::json;

fn sized(name: &str, amount: &str) -> Node {
    node(name, json!({"status": {"allocatable": {"cpu": amount}}}))
}

fn one(name: &str) -> Pod {
    pod(name, cpu("1"))
}

fn on(name: &str, node: &str) -> Pod {
    let mut spec = cpu("1");
    spec["nodeName"] = json!(node);
    pod(name, spec)
}

fn bind(scene: &Scene) -> Assignment {
    match scene.state.decide() {
        Some(Decision::Bind(assignment)) => assignment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_assumed_pod_takes_its_room_until_it_is_gone() {
    let scene = scene().nodes([sized("n", "1")]);
    scene.apply(&one("a"));
    scene.apply(&one("b"));
    assert_eq!(
        [scene.decide(), scene.decide(), scene.decide()],
        ["a on n", "b nowhere", "nothing"]
    );
    // The watch still shows the old state; that changes nothing.
    scene.apply(&one("a"));
    assert_eq!(scene.decide(), "nothing");
    scene.apply(&on("a", "n"));
    scene.pass(20);
    assert_eq!(scene.decide(), "nothing");
    scene.remove(&on("a", "n"));
    assert_eq!(scene.decide(), "b on n");
}

#[test]
fn a_failed_binding_frees_the_room_and_is_tried_again() {
    let scene = scene().nodes([sized("n", "1")]);
    scene.apply(&one("a"));
    let assignment = bind(&scene);
    scene.state.binding_failed(&assignment);
    assert_eq!(scene.decide(), "nothing");
    scene.pass(1);
    assert_eq!(scene.decide(), "a on n");
    scene.remove(&one("a"));
    scene.state.binding_failed(&assignment);
    scene.pass(100);
    assert_eq!(scene.decide(), "nothing");
}

#[test]
fn only_what_helps_wakes() {
    let scene = scene().nodes([sized("n", "500m")]);
    scene.apply(&one("a"));
    assert_eq!(scene.decide(), "a nowhere");
    scene.pass(20);
    // A heartbeat tells nothing new, and a little more is not enough.
    let scene = scene.nodes([sized("n", "500m"), sized("n", "600m")]);
    assert_eq!(scene.decide(), "nothing");
    assert_eq!(scene.nodes([sized("n", "2")]).decide(), "a on n");
}

#[test]
fn a_pod_that_nothing_helps_is_tried_after_five_minutes() {
    let scene = scene().nodes([sized("n", "500m")]);
    scene.apply(&one("a"));
    assert_eq!(scene.decide(), "a nowhere");
    scene.pass(299);
    assert_eq!(scene.decide(), "nothing");
    scene.pass(1);
    assert_eq!(scene.decide(), "a nowhere");
}

#[test]
fn other_schedulers_gated_and_dying_pods_are_left_alone() {
    let scene = scene().nodes([sized("n", "8")]);
    let other = pod("other", json!({"schedulerName": "mine"}));
    let gated = pod("gated", json!({"schedulingGates": [{"name": "g"}]}));
    let dying = pod_with(
        "dying",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    for pod in [other, gated, dying] {
        scene.apply(&pod);
    }
    assert_eq!(scene.decide(), "nothing");
    scene.apply(&pod("gated", json!({})));
    assert_eq!(scene.decide(), "gated on n");
}

#[test]
fn a_node_that_goes_and_comes_back_keeps_count_of_its_pods() {
    let scene = scene();
    scene.apply(&on("early", "n"));
    let scene = scene.nodes([sized("m", "1"), sized("n", "1")]);
    scene.state.remove_node("m");
    scene.apply(&one("a"));
    assert_eq!(scene.decide(), "a nowhere");
    scene.remove(&on("early", "n"));
    assert_eq!(scene.decide(), "a on n");
}

fn important(name: &str, priority: i32, amount: &str) -> Pod {
    let mut spec = cpu(amount);
    spec["priority"] = json!(priority);
    pod(name, spec)
}

#[test]
fn room_is_made_for_the_more_important() {
    let scene = scene()
        .nodes([sized("n", "2"), sized("m", "2")])
        .on("n", important("low", 1, "1"))
        .on("n", important("mid", 5, "1"))
        .on("m", important("high", 90, "2"));
    let wanted = important("p", 50, "1");
    scene.apply(&wanted);
    let failure = scene.failure();
    assert_eq!(
        failure.message,
        "0/2 nodes are available: 2 Insufficient cpu."
    );
    assert_eq!(failure.nomination, Nomination::Set("n".into()));
    let preemption = failure.preemption.unwrap();
    let victims: Vec<&str> = preemption
        .victims
        .iter()
        .map(|pod| pod.key.name())
        .collect();
    assert_eq!(victims, ["low"]);
    // Less important pods do not take the room that is being made.
    scene.remove(&important("low", 1, "1"));
    scene.apply(&important("late", 2, "1"));
    assert_eq!(scene.decide(), "late nowhere");
    assert_eq!(scene.decide(), "nothing");
    scene
        .state
        .room_made(&ObjectKey::of(&wanted.metadata), &preemption.victims, false);
    assert_eq!(scene.decide(), "p on n");
}

#[test]
fn victims_are_sent_away_once() {
    let scene = scene()
        .nodes([sized("n", "2")])
        .on("n", important("low", 1, "1"))
        .on("n", important("lower", 1, "1"));
    scene.apply(&important("p", 50, "2"));
    let failure = scene.failure();
    let preemption = failure.preemption.unwrap();
    assert_eq!(preemption.victims.len(), 2);
    scene.remove(&important("low", 1, "1"));
    let key = ObjectKey::new("a", "p");
    scene.state.room_made(&key, &preemption.victims, false);
    assert_eq!(scene.decide(), "nothing");
    // Whatever makes it try again, the other one is on its way out, which may not have been seen yet.
    let mut changed = important("p", 50, "2");
    changed.metadata.labels = Some([("x".to_owned(), "y".to_owned())].into());
    changed.status = serde_json::from_value(json!({"nominatedNodeName": "n"})).unwrap();
    scene.apply(&changed);
    assert!(scene.failure().preemption.is_none());
    scene.remove(&important("lower", 1, "1"));
    assert_eq!(scene.decide(), "p on n");
}

#[test]
fn nobody_makes_room_who_may_not() {
    let full = || {
        scene()
            .nodes([sized("n", "1")])
            .on("n", important("low", 1, "1"))
    };
    let mut spec = cpu("1");
    spec["priority"] = json!(50);
    spec["preemptionPolicy"] = json!("Never");
    let scene = full();
    scene.apply(&pod("p", spec));
    let failure = scene.failure();
    assert!(failure.preemption.is_none() && failure.message.ends_with("preemptionPolicy=Never."));
    let scene = full();
    scene.apply(&important("p", 1, "1"));
    assert!(scene.failure().preemption.is_none());
    // Room that would not be enough is not made.
    let scene = full();
    scene.apply(&important("p", 50, "2"));
    assert!(scene.failure().preemption.is_none());
}

#[test]
fn a_pod_waits_for_victims_that_are_on_their_way() {
    let scene = scene()
        .nodes([sized("n", "1")])
        .on("n", important("low", 1, "1"));
    scene.apply(&important("p", 50, "1"));
    assert!(scene.failure().preemption.is_some());
    let mut going = serde_json::to_value(important("low", 1, "1")).unwrap();
    crate::fixtures::merge(
        &mut going,
        json!({
        "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": "n"},
        "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}}),
    );
    scene.apply(&serde_json::from_value(going).unwrap());
    scene.state.room_made(&ObjectKey::new("a", "p"), &[], false);
    let mut changed = important("p", 50, "1");
    changed.metadata.labels = Some([("x".to_owned(), "y".to_owned())].into());
    changed.status = serde_json::from_value(json!({"nominatedNodeName": "n"})).unwrap();
    scene.apply(&changed);
    let failure = scene.failure();
    assert!(
        failure
            .message
            .ends_with("preemption: not eligible due to a terminating pod on the nominated node."),
        "{}",
        failure.message
    );
    assert_eq!(failure.nomination, Nomination::Keep);
}

#[test]
fn budgets_are_spared_where_that_is_possible() {
    let protected = |name: &str, node: &str| {
        let mut object = serde_json::to_value(on(name, node)).unwrap();
        object["metadata"]["labels"] = json!({"app": "protected"});
        serde_json::from_value::<Pod>(object).unwrap()
    };
    let scene = scene()
        .nodes([sized("n", "1"), sized("m", "1")])
        .on("n", protected("a", "n"))
        .on("m", important("b", 10, "1"));
    scene.state.with_world(|world| {
        let budget = json!({"metadata": {"name": "x", "namespace": "a"},
            "spec": {"selector": {"matchLabels": {"app": "protected"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        world.budgets.set(&serde_json::from_value(budget).unwrap());
    });
    scene.apply(&important("p", 50, "1"));
    // The other's victim is more important, but no budget is broken.
    assert_eq!(scene.failure().nomination, Nomination::Set("m".into()));
}

#[test]
fn volumes_are_chosen_and_awaited() {
    let class = json!({"metadata": {"name": "c"}, "provisioner": "x", "volumeBindingMode": "WaitForFirstConsumer"});
    let claim = |extra: serde_json::Value| {
        let mut claim = json!({"metadata": {"name": "d", "namespace": "a", "uid": "u"}, "spec": {
            "storageClassName": "c", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        crate::fixtures::merge(&mut claim, extra);
        serde_json::from_value(claim).unwrap()
    };
    let volume = |extra: serde_json::Value| {
        let mut volume = json!({"metadata": {"name": "v"}, "spec": {"storageClassName": "c", "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"], "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["m"]}]}]}}},
            "status": {"phase": "Available"}});
        crate::fixtures::merge(&mut volume, extra);
        serde_json::from_value(volume).unwrap()
    };
    let user = pod(
        "p",
        json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "d"}}]}),
    );
    let scene = scene().nodes([sized("n", "1"), sized("m", "1")]);
    scene.state.with_world(|world| {
        world
            .volumes
            .set_class(&serde_json::from_value(class.clone()).unwrap());
        world.volumes.set_claim(&claim(json!({})));
        world.volumes.set_volume(&volume(json!({})));
    });
    scene.apply(&user);
    let assignment = bind(&scene);
    if &*assignment.node == "n" {
        // A volume is made where there is none.
        assert_eq!(assignment.volumes.provisions, [ObjectKey::new("a", "d")]);
    } else {
        assert_eq!(
            assignment.volumes.bindings,
            [("v".into(), ObjectKey::new("a", "d"))]
        );
    }
    scene.state.binding_failed(&assignment);
    scene.pass(1);
    scene.state.remove_node("n");
    let assignment = bind(&scene);
    assert_eq!(
        assignment.volumes.bindings,
        [("v".into(), ObjectKey::new("a", "d"))]
    );
    assert_eq!(scene.state.volumes_ready(&assignment), Ok(false));
    // Nobody else gets it meanwhile.
    scene
        .state
        .with_world(|world| assert!(world.volumes.chosen.contains_key("v")));
    scene.state.with_world(|world| {
        world.volumes.set_claim(&claim(
            json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": "v"}}),
        ));
    });
    assert_eq!(scene.state.volumes_ready(&assignment), Ok(true));
    scene.state.bound(&assignment);
    scene
        .state
        .with_world(|world| assert!(world.volumes.chosen.is_empty()));
}

#[test]
fn claims_that_cannot_be_had_are_told() {
    let user = pod(
        "p",
        json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "d"}}]}),
    );
    let scene = scene().nodes([sized("n", "1")]);
    scene.state.with_world(|world| {
        let claim = json!({"metadata": {"name": "d", "namespace": "a"}, "spec": {}});
        world
            .volumes
            .set_claim(&serde_json::from_value(claim).unwrap());
    });
    assert!(scene.place(&user).starts_with(
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. no new claims"
    ));
}

#[test]
fn pods_that_want_it_leave_a_node_that_stops_matching() {
    let labelled = |value: &str| node("n", json!({"metadata": {"labels": {"disk": value}}}));
    let user = |name: &str, annotation: &str| {
        pod_with(
            name,
            json!({"metadata": {"annotations": {crate::rows::REQUIRED_DURING_EXECUTION: annotation}},
            "spec": {"nodeSelector": {"disk": "ssd"}}}),
        )
    };
    let scene = scene()
        .nodes([labelled("ssd")])
        .on("n", user("stays", "false"))
        .on("n", user("leaves", "true"));
    assert_eq!(scene.decide(), "nothing");
    let scene = scene.nodes([labelled("hdd")]);
    assert_eq!(
        [scene.decide(), scene.decide()],
        ["leaves off n", "nothing"]
    );
    // One that is seen there only afterwards leaves as well.
    assert_eq!(scene.on("n", user("late", "true")).decide(), "late off n");
}

#[derive(Clone, Debug)]
enum Step {
    Node(u8, u8, bool),
    NoNode(u8),
    Pod(u8, u8, u8),
    NoPod(u8),
    Decide,
    Fail,
    Confirm,
    Namespace(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..5u8, 0..3u8, any::<bool>())
            .prop_map(|(node, zone, taint)| Step::Node(node, zone, taint)),
        (0..5u8).prop_map(Step::NoNode),
        (0..12u8, 0..6u8, 0..4u8).prop_map(|(pod, kind, priority)| Step::Pod(pod, kind, priority)),
        (0..12u8).prop_map(Step::NoPod),
        Just(Step::Decide),
        Just(Step::Decide),
        Just(Step::Fail),
        Just(Step::Confirm),
        any::<bool>().prop_map(Step::Namespace),
    ];
    prop::collection::vec(step, 1..60)
}

fn zoned(number: u8, zone: u8, taint: bool) -> Node {
    let name = format!("n{number}");
    let taints = if taint {
        json!([{"key": "k", "effect": "NoSchedule"}])
    } else {
        json!([])
    };
    node(
        &name,
        json!({"metadata": {"labels": {"zone": format!("z{zone}")}}, "spec": {"taints": taints},
        "status": {"allocatable": {"cpu": "3", "pods": "4"}}}),
    )
}

fn varied(number: u8, kind: u8, priority: u8) -> Pod {
    let select = json!({"matchLabels": {"app": "web"}});
    let term = json!({"topologyKey": "zone", "labelSelector": select});
    let wide = json!({"topologyKey": "zone", "labelSelector": select, "namespaceSelector": {"matchLabels": {"t": "x"}}});
    let mut spec = cpu("1");
    spec["priority"] = json!(priority);
    let more = match kind {
        0 => json!({}),
        1 => {
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
        }
        2 => {
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
        }
        3 => {
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "nodeTaintsPolicy": "Honor",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": select}]})
        }
        4 => {
            json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 5, "podAffinityTerm": wide}]}}})
        }
        _ => json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": select}]}),
    };
    crate::fixtures::merge(&mut spec, more);
    pod(&format!("p{number}"), spec)
}

/// What must hold whatever happens.
fn check(scene: &Scene) {
    scene.state.read(|known| {
        assert!(known.world.is_consistent());
        for row in &known.world.cluster.nodes {
            let Some(facts) = &row.facts else {
                continue;
            };
            assert!(
                row.usage.requested.cpu <= facts.allocatable.cpu,
                "{}",
                row.name
            );
            assert!(row.usage.pods <= facts.max_pods, "{}", row.name);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_kept_up_is_what_counting_anew_says(steps in steps()) {
        let scene = scene();
        let mut under_way: Vec<Assignment> = Vec::new();
        for step in steps {
            match step {
                Step::Node(number, zone, taint) => scene.state.apply_node(&zoned(number, zone, taint)),
                Step::NoNode(number) => scene.state.remove_node(&format!("n{number}")),
                Step::Pod(number, kind, priority) => {
                    let pod = varied(number, kind, priority);
                    let key = ObjectKey::of(&pod.metadata);
                    // A pod that has a node is not seen without one again.
                    let placed = scene.state.read(|known| known.world.cluster.placed.contains_key(&key));
                    if !placed {
                        scene.apply(&pod);
                    }
                }
                Step::NoPod(number) => scene.state.remove_pod(&ObjectKey::new("a", &format!("p{number}"))),
                Step::Decide => {
                    scene.pass(1);
                    match scene.state.decide() {
                        Some(Decision::Bind(assignment)) => under_way.push(assignment),
                        Some(Decision::Report(failure)) => {
                            let priority = failure.pod.priority;
                            for victim in failure.preemption.iter().flat_map(|found| &found.victims) {
                                prop_assert!(victim.priority < priority);
                            }
                            scene.state.room_made(&failure.pod.key, &[], true);
                        }
                        _ => {}
                    }
                }
                Step::Fail => {
                    if let Some(assignment) = under_way.pop() {
                        scene.state.binding_failed(&assignment);
                    }
                }
                Step::Confirm => {
                    if let Some(assignment) = under_way.pop() {
                        scene.state.bound(&assignment);
                    }
                }
                Step::Namespace(labelled) => scene.state.with_world(|world| {
                    let value = if labelled { "x" } else { "y" };
                    world.set_namespace("a", Some([("t".to_owned(), value.to_owned())].into()));
                }),
            }
            check(&scene);
        }
    }
}
