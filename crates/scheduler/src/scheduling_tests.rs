//! Whole decisions: which node, and what is said when there is none.

use crate::fixtures::{cpu, node, pod, pod_with, scene, scene_with};
use crate::profile::Profile;
use serde_json::{Value, json};

fn tainted() -> Value {
    json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})
}

#[test]
fn messages_are_upstreams() {
    let never = json!({"nodeSelector": {"disk": "ssd"}, "preemptionPolicy": "Never"});
    let named = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}}});
    for (spec, nodes, expected) in [
        (json!({}), vec![], "no nodes available to schedule pods"),
        (
            json!({}),
            vec![node("n", tainted())],
            "0/1 nodes are available: 1 node(s) had untolerated taint(s). no new claims to deallocate, \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            cpu("3"),
            vec![
                node("n", tainted()),
                node("m", json!({"status": {"allocatable": {"cpu": "2"}}})),
                node("o", json!({"spec": {"unschedulable": true}})),
            ],
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), \
             1 node(s) were unschedulable. no new claims to deallocate, \
             preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        ),
        (
            never,
            vec![node("n", json!({}))],
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
             no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
        ),
        (
            named,
            vec![node("n", tainted()), node("m", json!({}))],
            "0/2 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity], \
             1 node(s) had untolerated taint(s). no new claims to deallocate, \
             preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        ),
        (
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]}),
            vec![node("n", json!({}))],
            "0/1 nodes are available: persistentvolumeclaim \"x\" not found. no new claims to deallocate, \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
    ] {
        assert_eq!(scene().nodes(nodes).place(&pod("p", spec)), expected);
    }
}

#[test]
fn a_full_node_is_no_help_among_equals() {
    let scene = scene()
        .nodes([node("n", json!({}))])
        .on("n", pod("other", cpu("3500m")));
    assert_eq!(
        scene.place(&pod("p", cpu("1"))),
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
}

#[test]
fn the_emptier_and_the_preferred_node_win() {
    let both = || scene().nodes([node("busy", json!({})), node("idle", json!({}))]);
    let placed = both()
        .on("busy", pod("other", cpu("3")))
        .place(&pod("p", cpu("100m")));
    assert_eq!(placed, "idle");
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
    let ssd = node("ssd", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    assert_eq!(both().nodes([ssd]).place(&pod("p", preferred)), "ssd");
}

#[test]
fn images_draw_pods() {
    let image = json!({"status": {"images": [{"names": ["i:latest"], "sizeBytes": 900_000_000}]}});
    let scene = scene().nodes([node("without", json!({})), node("with", image)]);
    assert_eq!(scene.place(&pod("p", json!({}))), "with");
}

#[test]
fn host_ports_and_pod_counts_are_respected() {
    let port = json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let taken = || {
        scene()
            .nodes([node("n", json!({}))])
            .on("n", pod("other", port.clone()))
    };
    let message = taken().place(&pod("p", port.clone()));
    assert!(
        message.contains("1 node(s) didn't have free ports for the requested pod ports."),
        "{message}"
    );
    let freed = taken();
    freed.remove(&pod("other", port.clone()));
    assert_eq!(freed.place(&pod("p", port.clone())), "n");
    let full = scene()
        .nodes([node("n", json!({"status": {"allocatable": {"pods": "1"}}}))])
        .on("n", pod("other", json!({})));
    assert!(
        full.place(&pod("p", json!({})))
            .contains("1 Too many pods.")
    );
}

fn apart(extra: Value) -> Value {
    let mut term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
    crate::fixtures::merge(&mut term, extra);
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

#[test]
fn anti_affinity_keeps_replicas_apart_both_ways() {
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let first = scene().nodes(nodes).on("n1", pod("a", apart(json!({}))));
    assert_eq!(first.place(&pod("b", apart(json!({})))), "n2");
    let one = scene()
        .nodes([node("n1", json!({}))])
        .on("n1", pod("a", apart(json!({}))));
    let message = one.place(&pod("plain", json!({})));
    assert!(
        message.contains("1 node(s) didn't satisfy existing pods anti-affinity rules."),
        "{message}"
    );
    one.remove(&pod("a", json!({})));
    assert_eq!(one.decide(), "plain on n1");
}

#[test]
fn anti_affinity_follows_namespaces_by_label() {
    let nodes = || {
        [
            node("n1", json!({})),
            node("n2", json!({"spec": {"unschedulable": true}})),
        ]
    };
    let elsewhere = apart(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}));
    let scene = scene().nodes(nodes());
    let label = |value: &str| Some([("team".to_owned(), value.to_owned())].into());
    scene
        .state
        .with_world(|world| assert!(world.set_namespace("b", label("x"))));
    let other = pod_with("other", json!({"metadata": {"namespace": "b"}}));
    let scene = scene.on("n1", other);
    let message = scene.place(&pod("p", elsewhere));
    assert!(
        message.contains("1 node(s) didn't match pod anti-affinity rules"),
        "{message}"
    );
}

#[test]
fn affinity_follows_pods_and_lets_the_first_in() {
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    assert_eq!(
        scene()
            .nodes([node("n1", json!({}))])
            .place(&pod("a", near.clone())),
        "n1"
    );
    let nodes = || [node("n1", json!({})), node("n2", json!({}))];
    let scene = scene().nodes(nodes()).on("n2", pod("a", json!({})));
    assert_eq!(scene.place(&pod("b", near.clone())), "n2");
    let stranger = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    let message = crate::fixtures::scene()
        .nodes(nodes())
        .place(&pod("c", stranger));
    assert!(
        message.contains("2 node(s) didn't match pod affinity rules"),
        "{message}"
    );
}

#[test]
fn a_pod_that_waits_for_another_is_tried_when_that_comes() {
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    let scene = scene().nodes([node("n", json!({}))]);
    scene.apply(&pod("p", near));
    assert_eq!(scene.decide(), "p nowhere");
    let scene = scene.on(
        "n",
        pod_with("x", json!({"metadata": {"labels": {"app": "other"}}})),
    );
    assert_eq!(scene.decide(), "nothing");
    let scene = scene.on(
        "n",
        pod_with("db", json!({"metadata": {"labels": {"app": "db"}}})),
    );
    assert_eq!(scene.decide(), "p on n");
}

fn spread(extra: Value) -> Value {
    let mut constraint = json!({"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
    crate::fixtures::merge(&mut constraint, extra);
    json!({"topologySpreadConstraints": [constraint]})
}

#[test]
fn spreading_allows_no_more_than_the_skew() {
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let open = scene().nodes(nodes).on("n1", pod("a", json!({})));
    assert_eq!(open.place(&pod("b", spread(json!({})))), "n2");
    let closed = || {
        [
            node("n1", json!({})),
            node("n2", json!({"spec": {"unschedulable": true}})),
        ]
    };
    let closed = || scene().nodes(closed()).on("n1", pod("a", json!({})));
    let message = closed().place(&pod("b", spread(json!({}))));
    assert!(
        message.contains("1 node(s) didn't match pod topology spread constraints"),
        "{message}"
    );
    assert_eq!(
        closed().place(&pod("b", spread(json!({"maxSkew": 2})))),
        "n1"
    );
    // With fewer domains than wanted the emptiest counts as empty.
    let alone = || {
        scene()
            .nodes([node("n1", json!({}))])
            .on("n1", pod("a", json!({})))
    };
    assert_eq!(alone().place(&pod("b", spread(json!({})))), "n1");
    let message = alone().place(&pod("b", spread(json!({"minDomains": 2}))));
    assert!(
        message.contains("1 node(s) didn't match pod topology spread constraints"),
        "{message}"
    );
    let message = alone().place(&pod("b", spread(json!({"topologyKey": "zone"}))));
    assert!(message.contains("(missing required label)"), "{message}");
}

#[test]
fn spreading_counts_only_nodes_that_the_pod_could_have() {
    let tainted = || {
        scene()
            .nodes([node("n1", json!({})), node("n2", tainted())])
            .on("n1", pod("a", json!({})))
    };
    let message = tainted().place(&pod("b", spread(json!({}))));
    assert!(
        message.contains("didn't match pod topology spread constraints"),
        "{message}"
    );
    assert_eq!(
        tainted().place(&pod("b", spread(json!({"nodeTaintsPolicy": "Honor"})))),
        "n1"
    );
    let mut wants = spread(json!({}));
    wants["nodeSelector"] = json!({"kubernetes.io/hostname": "n1"});
    assert_eq!(tainted().place(&pod("b", wants.clone())), "n1");
    wants["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Ignore");
    let message = tainted().place(&pod("b", wants));
    assert!(
        message.contains("didn't match pod topology spread constraints"),
        "{message}"
    );
}

#[test]
fn spreading_by_revision_counts_that_revision() {
    let revision = |name: &str, hash: &str, spec: Value| {
        pod_with(
            name,
            json!({"metadata": {"labels": {"hash": hash}}, "spec": spec}),
        )
    };
    let scene = scene()
        .nodes([
            node("n1", json!({})),
            node("n2", json!({"spec": {"unschedulable": true}})),
        ])
        .on("n1", revision("old", "1", json!({})));
    let keyed = spread(json!({"matchLabelKeys": ["hash"]}));
    assert_eq!(scene.place(&revision("new", "2", keyed.clone())), "n1");
    assert!(
        scene
            .place(&revision("next", "2", keyed))
            .starts_with("0/2")
    );
}

#[test]
fn pods_of_a_service_are_spread_without_asking() {
    let scene = scene().nodes([node("n1", json!({})), node("n2", json!({}))]);
    scene.state.with_world(|world| {
        let key = skiff_client::ObjectKey::new("a", "s");
        let selector = [("app".to_owned(), "web".to_owned())].into();
        world.kin.set_service(&key, Some(selector));
    });
    // One node is emptier, but has two of the kind.
    let scene = scene
        .on(
            "n1",
            pod_with(
                "x",
                json!({"metadata": {"labels": {"app": "x"}}, "spec": cpu("1")}),
            ),
        )
        .on("n2", pod("a", json!({})))
        .on("n2", pod("b", json!({})));
    assert_eq!(scene.place(&pod("c", json!({}))), "n1");
}

#[test]
fn each_profile_has_its_own_pods_and_plugins() {
    let mut careless = Profile::with_defaults("careless");
    careless.filters.clear();
    let scene = scene_with(vec![Profile::default(), careless]).nodes([node("n", tainted())]);
    assert_eq!(
        scene.place(&pod("p", json!({"schedulerName": "careless"}))),
        "n"
    );
    assert!(scene.place(&pod("q", json!({}))).contains("untolerated"));
    scene.apply(&pod("r", json!({"schedulerName": "other"})));
    assert_eq!(scene.decide(), "nothing");
}

#[test]
fn what_is_counted_does_not_grow_with_the_pods() {
    let mut scene = scene();
    for number in 0..200 {
        scene = scene.nodes([node(&format!("n{number}"), json!({}))]);
    }
    for number in 0..300 {
        let mut spec = apart(json!({}));
        crate::fixtures::merge(&mut spec, spread(json!({"maxSkew": 5})));
        scene.apply(&pod(&format!("p{number}"), spec));
        scene.decide();
    }
    // Two hundred have a node each; all of one make share one shape, one wish and one counter for each question.
    scene.state.read(|known| {
        assert_eq!(known.world.cluster.placed.len(), 200);
        assert_eq!(
            (known.world.counters.len(), known.world.wishes.len()),
            (2, 1)
        );
        assert_eq!(known.shapes(), 1);
    });
}
