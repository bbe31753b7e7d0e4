//! Pods with volumes: where they can go, and what is said where they cannot.

use crate::fixtures::{Scene, merge, node, pod, pod_with, scene};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

fn zoned(name: &str, zone: &str) -> Node {
    node(
        name,
        json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}),
    )
}

fn user(name: &str, claim: &str) -> Pod {
    pod(
        name,
        json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}),
    )
}

fn class(scene: &Scene, extra: Value) {
    let mut object = json!({"metadata": {"name": "c"}, "provisioner": "x.io", "volumeBindingMode": "WaitForFirstConsumer"});
    merge(&mut object, extra);
    let object = serde_json::from_value(object).unwrap();
    scene
        .state
        .with_world(|world| world.volumes.set_class(&object));
}

fn claim(scene: &Scene, name: &str, extra: Value) {
    let mut object = json!({"metadata": {"name": name, "namespace": "a", "uid": format!("uid-{name}")}, "spec": {
        "storageClassName": "c", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    merge(&mut object, extra);
    let object = serde_json::from_value(object).unwrap();
    scene.state.with_world(|world| {
        world.volumes.set_claim(&object);
    });
}

fn volume(scene: &Scene, name: &str, extra: Value) {
    let mut object = json!({"metadata": {"name": name}, "spec": {"storageClassName": "c", "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Available"}});
    merge(&mut object, extra);
    let object = serde_json::from_value(object).unwrap();
    scene
        .state
        .with_world(|world| world.volumes.set_volume(&object));
}

fn bound_to(volume: &str) -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}})
}

/// The volumes that are chosen for the pod, with their claims; claims whose volumes are to be made.
fn planned(scene: &Scene, pod: &Pod) -> String {
    scene.apply(pod);
    match scene.state.decide() {
        Some(crate::decision::Decision::Bind(found)) => {
            let bindings = found.volumes.bindings.iter();
            let mut texts: Vec<String> = bindings
                .map(|(volume, claim)| format!("{volume} for {}", claim.name()))
                .collect();
            let made = found.volumes.provisions.iter();
            texts.extend(made.map(|claim| format!("made for {}", claim.name())));
            texts.join(", ")
        }
        Some(crate::decision::Decision::Report(failure)) => failure.message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_smallest_volume_that_does_is_chosen() {
    let scene = scene().nodes([node("n", json!({}))]);
    class(
        &scene,
        json!({"provisioner": "kubernetes.io/no-provisioner"}),
    );
    claim(
        &scene,
        "d",
        json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}),
    );
    let sized = |size: &str, extra: Value| {
        let mut object = json!({"spec": {"capacity": {"storage": size}}});
        merge(&mut object, extra);
        object
    };
    volume(&scene, "small", sized("1Gi", json!({})));
    volume(&scene, "large", sized("9Gi", json!({})));
    volume(&scene, "right", sized("3Gi", json!({})));
    volume(
        &scene,
        "taken",
        sized(
            "2Gi",
            json!({"spec": {"claimRef": {"namespace": "b", "name": "x"}}}),
        ),
    );
    volume(
        &scene,
        "shared",
        sized("2Gi", json!({"spec": {"accessModes": ["ReadWriteMany"]}})),
    );
    volume(
        &scene,
        "device",
        sized("2Gi", json!({"spec": {"volumeMode": "Block"}})),
    );
    volume(
        &scene,
        "used",
        sized("2Gi", json!({"status": {"phase": "Released"}})),
    );
    volume(
        &scene,
        "dying",
        sized(
            "2Gi",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        ),
    );
    assert_eq!(planned(&scene, &user("p", "d")), "right for d");
    // It is taken for now: the next one gets the next.
    claim(
        &scene,
        "e",
        json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}),
    );
    assert_eq!(planned(&scene, &user("q", "e")), "large for e");
    claim(
        &scene,
        "f",
        json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}),
    );
    let message = planned(&scene, &user("r", "f"));
    assert!(message.starts_with(
        "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind."
    ));
}

#[test]
fn a_volume_that_was_made_for_a_claim_comes_first() {
    let scene = scene().nodes([node("n", json!({}))]);
    class(&scene, json!({}));
    claim(&scene, "d", json!({}));
    volume(&scene, "any", json!({}));
    volume(
        &scene,
        "own",
        json!({"spec": {"capacity": {"storage": "9Gi"}, "claimRef": {"namespace": "a", "name": "d"}}}),
    );
    assert_eq!(planned(&scene, &user("p", "d")), "own for d");
    claim(
        &scene,
        "e",
        json!({"spec": {"selector": {"matchLabels": {"tier": "gold"}}}}),
    );
    assert_eq!(planned(&scene, &user("q", "e")), "made for e");
}

#[test]
fn volumes_are_made_only_where_they_can_be() {
    let topologies = json!([{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": ["b"]}]}]);
    let zones = || scene().nodes([zoned("n", "a"), zoned("m", "b")]);
    let scene = zones();
    class(&scene, json!({"allowedTopologies": topologies}));
    claim(&scene, "d", json!({}));
    assert_eq!(scene.place(&user("p", "d")), "m");
    // Where a driver counts its storage there has to be enough.
    let scene = zones();
    class(&scene, json!({}));
    claim(&scene, "d", json!({}));
    scene.state.with_world(|world| {
        let driver = json!({"metadata": {"name": "x.io"}, "spec": {"storageCapacity": true}});
        world.volumes.set_driver(&serde_json::from_value(driver).unwrap());
        for (name, zone, size) in [("one", "a", "100Mi"), ("two", "b", "5Gi")] {
            let capacity = json!({"metadata": {"name": name, "namespace": "s"}, "storageClassName": "c", "capacity": size,
                "nodeTopology": {"matchLabels": {"topology.kubernetes.io/zone": zone}}});
            world.volumes.set_capacity(&serde_json::from_value(capacity).unwrap());
        }
    });
    assert_eq!(scene.place(&user("p", "d")), "m");
    claim(
        &scene,
        "e",
        json!({"spec": {"resources": {"requests": {"storage": "9Gi"}}}}),
    );
    assert!(
        scene
            .place(&user("q", "e"))
            .contains("2 node(s) did not have enough free storage")
    );
    claim(
        &scene,
        "f",
        json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}}),
    );
    assert!(
        scene
            .place(&user("r", "f"))
            .contains("node(s) did not have enough free storage")
    );
}

#[test]
fn pods_follow_their_volumes() {
    let scene = scene().nodes([zoned("n", "a"), zoned("m", "b")]);
    class(&scene, json!({}));
    claim(&scene, "labelled", bound_to("l"));
    volume(
        &scene,
        "l",
        json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "b__c"}}}),
    );
    assert_eq!(scene.place(&user("p", "labelled")), "m");
    claim(&scene, "elsewhere", bound_to("e"));
    volume(
        &scene,
        "e",
        json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}}),
    );
    assert!(
        scene
            .place(&user("q", "elsewhere"))
            .contains("2 node(s) had no available volume zone")
    );
    claim(&scene, "tied", bound_to("t"));
    volume(
        &scene,
        "t",
        json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}]}]}}}}),
    );
    assert_eq!(scene.place(&user("r", "tied")), "n");
    claim(&scene, "orphan", bound_to("gone"));
    assert!(
        scene
            .place(&user("s", "orphan"))
            .contains("persistentvolume \"gone\" not found")
    );
}

#[test]
fn claims_for_one_pod_are_not_shared() {
    let scene = scene().nodes([node("n", json!({}))]);
    class(&scene, json!({}));
    let mut own = bound_to("v");
    merge(
        &mut own,
        json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}),
    );
    claim(&scene, "d", own);
    volume(&scene, "v", json!({}));
    let scene = scene.on("n", user("first", "d"));
    let message = scene.place(&user("second", "d"));
    assert!(
        message.contains("ReadWriteOncePod access mode already in-use by another pod"),
        "{message}"
    );
    scene.remove(&user("first", "d"));
    assert_eq!(scene.decide(), "second on n");
}

#[test]
fn a_node_takes_so_many_volumes_of_a_driver() {
    let scene = scene().nodes([node("n", json!({}))]);
    class(&scene, json!({}));
    for name in ["a", "b", "c"] {
        claim(&scene, name, bound_to(name));
        volume(
            &scene,
            name,
            json!({"spec": {"csi": {"driver": "x.io", "volumeHandle": name}}}),
        );
    }
    scene.state.with_world(|world| {
        let limits = json!({"metadata": {"name": "n"}, "spec": {"drivers": [
            {"name": "x.io", "nodeID": "n", "allocatable": {"count": 2}}]}});
        world.volumes.set_csi_node(&serde_json::from_value(limits).unwrap());
        let attached = json!({"metadata": {"name": "t"}, "spec": {"attacher": "x.io", "nodeName": "n",
            "source": {"persistentVolumeName": "b"}}});
        world.volumes.set_attachment(&serde_json::from_value(attached).unwrap());
    });
    let scene = scene.on("n", user("first", "a"));
    // A volume that is there already takes no more room.
    assert_eq!(scene.place(&user("again", "a")), "n");
    let message = scene.place(&user("third", "c"));
    assert!(
        message.contains("1 node(s) exceed max volume count"),
        "{message}"
    );
}

#[test]
fn claims_that_are_made_for_a_pod_have_to_be_its_own() {
    let scene = scene().nodes([node("n", json!({}))]);
    class(&scene, json!({}));
    let template = json!({"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {}}}});
    let pod = pod_with(
        "p",
        json!({"spec": {"volumes": [{"name": "v", "ephemeral": template}]}}),
    );
    let message = scene.place(&pod);
    assert!(message.contains(
        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\""
    ));
    scene.remove(&pod);
    claim(&scene, "p-v", json!({}));
    assert!(
        scene
            .place(&pod)
            .contains("PVC a/p-v was not created for pod a/p (pod is not owner)")
    );
    scene.remove(&pod);
    claim(
        &scene,
        "p-v",
        json!({"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p", "controller": true}]}}),
    );
    assert_eq!(planned(&scene, &pod), "made for p-v");
}

#[test]
fn disks_are_had_by_one() {
    let disk = || json!({"volumes": [{"name": "v", "awsElasticBlockStore": {"volumeID": "x"}}]});
    let scene = scene()
        .nodes([node("n", json!({}))])
        .on("n", pod("first", disk()));
    assert!(
        scene
            .place(&pod("second", disk()))
            .contains("1 node(s) had no available disk")
    );
}
