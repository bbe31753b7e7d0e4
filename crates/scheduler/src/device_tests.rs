//! Pods with device claims, from what is known to what is decided.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};
use skiff_client::ObjectKey;

use crate::decision::{Assignment, Decision, Failure};
use crate::fixtures::{Scene, merge, node, pod, pod_with, scene};
use crate::plugins::dynamic_resources::GiveUp;

fn slice(node: &str, devices: &[&str]) -> ResourceSlice {
    let devices: Vec<Value> = devices.iter().map(|name| json!({"name": name})).collect();
    serde_json::from_value(
        json!({"metadata": {"name": format!("slice-{node}")}, "spec": {
        "driver": "d", "nodeName": node, "devices": devices,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}}),
    )
    .unwrap()
}

fn claim(name: &str, extra: Value) -> ResourceClaim {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "a", "uid": format!("uid-{name}"), "resourceVersion": "1"},
        "spec": {"devices": {"requests": [
            {"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}}]}},
    });
    merge(&mut object, extra);
    serde_json::from_value(object).unwrap()
}

fn user(name: &str, claim: &str) -> Pod {
    pod(
        name,
        json!({"resourceClaims": [{"name": "c", "resourceClaimName": claim}]}),
    )
}

fn has(device: &str, node: &str) -> Value {
    json!({"allocation": {"devices": {"results": [
        {"request": "r", "driver": "d", "pool": node, "device": device}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": [node]}]}]}}})
}

impl Scene {
    fn claim(&self, claim: ResourceClaim) {
        self.state
            .change(|known, now| known.set_device_claim(claim, now));
    }

    fn class(&self, extra: Value) {
        let mut object = json!({"metadata": {"name": "gpu"}, "spec": {}});
        merge(&mut object, extra);
        let class: DeviceClass = serde_json::from_value(object).unwrap();
        self.state
            .change(|known, now| known.set_device_class("gpu", Some(class), now));
    }

    fn slice(&self, slice: ResourceSlice) {
        self.state
            .change(|known, now| known.set_device_slice(slice, now));
    }

    fn bind(&self) -> Assignment {
        match self.state.decide() {
            Some(Decision::Bind(found)) => found,
            other => panic!("{other:?}"),
        }
    }

    fn why(&self) -> String {
        let Failure { message, .. } = self.failure();
        message
    }
}

fn one_device() -> Scene {
    let scene = scene().nodes([node("n", json!({})), node("m", json!({}))]);
    scene.class(json!({}));
    scene.slice(slice("n", &["x"]));
    scene
}

const NO_VICTIMS: &str = "still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";

#[test]
fn a_pod_goes_where_the_device_is_and_the_next_one_waits_for_it() {
    let scene = one_device();
    scene.claim(claim("first", json!({})));
    scene.claim(claim("second", json!({})));
    scene.apply(&user("p", "first"));
    scene.apply(&user("q", "second"));
    let assignment = scene.bind();
    assert_eq!(&*assignment.node, "n");
    let booking = &assignment.devices.claims[0];
    let devices = booking
        .allocation
        .as_ref()
        .unwrap()
        .devices
        .clone()
        .unwrap();
    assert_eq!(devices.results.unwrap()[0].device, "x");
    // It is not written yet, and taken all the same.
    assert_eq!(
        scene.why(),
        format!("0/2 nodes are available: 2 cannot allocate all claims. {NO_VICTIMS}")
    );
    let mut written = claim("first", json!({"metadata": {"resourceVersion": "2"}}));
    written.status = serde_json::from_value(has("x", "n")).unwrap();
    scene.state.assume_claim(written);
    scene.state.bound(&assignment);
    scene.pass(5);
    assert_eq!(scene.decide(), "nothing");
    // What the watch brings late is not believed.
    scene.claim(claim("first", json!({})));
    assert_eq!(scene.decide(), "nothing");
    scene.claim(claim(
        "first",
        json!({"metadata": {"resourceVersion": "3"}}),
    ));
    assert_eq!(scene.decide(), "q on n");
    assert!(scene.state.read(|known| known.world.is_consistent()));
}

#[test]
fn a_failed_binding_frees_the_devices() {
    let scene = one_device();
    scene.claim(claim("first", json!({})));
    scene.claim(claim("second", json!({})));
    scene.apply(&user("p", "first"));
    let assignment = scene.bind();
    scene.apply(&user("q", "second"));
    assert_eq!(scene.decide(), "q nowhere");
    scene.state.binding_failed(&assignment);
    scene.pass(1);
    let [first, second] = [scene.decide(), scene.decide()];
    assert!(
        first.ends_with("on n") && second.ends_with("nowhere"),
        "{first} {second}"
    );
    assert!(scene.state.read(|known| known.world.is_consistent()));
}

#[test]
fn pods_are_not_tried_before_their_claims_are_there() {
    let scene = one_device();
    let waiting = |statuses: Value| {
        pod_with(
            "p",
            json!({"spec": {"resourceClaims": [{"name": "c", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": statuses}}),
        )
    };
    scene.apply(&waiting(json!([])));
    assert_eq!(scene.decide(), "nothing");
    scene.apply(&waiting(
        json!([{"name": "c", "resourceClaimName": "made"}]),
    ));
    assert_eq!(scene.decide(), "nothing");
    let owned = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p", "controller": true}]}});
    scene.claim(claim("made", owned));
    assert_eq!(scene.decide(), "p on n");
}

#[test]
fn what_no_node_can_help_with_is_told_once() {
    let scene = scene().nodes([node("n", json!({}))]);
    scene.claim(claim("c", json!({})));
    scene.apply(&user("p", "c"));
    assert_eq!(
        scene.why(),
        "0/1 nodes are available: request r: device class gpu does not exist. no new claims to deallocate, \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    scene.pass(5);
    scene.class(json!({}));
    assert_eq!(scene.decide(), "p nowhere");
    scene.pass(5);
    scene.slice(slice("n", &["x"]));
    assert_eq!(scene.decide(), "p on n");
}

#[test]
fn faults_of_selectors_are_errors() {
    let scene = one_device();
    scene.claim(claim("c", json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {
        "deviceClassName": "gpu", "selectors": [{"cel": {"expression": "device.attributes['d'].no"}}]}}]}}})));
    scene.apply(&user("p", "c"));
    let failure = scene.failure();
    assert_eq!(failure.reason, "SchedulerError");
    assert_eq!(
        failure.message,
        "running \"DynamicResources\" filter plugin: claim a/c: selector #0: CEL runtime error: no such key: no"
    );
}

#[test]
fn a_claim_with_devices_elsewhere_gives_them_up() {
    let scene = one_device();
    let mut allocated = claim("c", json!({}));
    allocated.status = serde_json::from_value(has("x", "n")).unwrap();
    scene.claim(allocated);
    let mut stuck = user("p", "c");
    stuck.spec.as_mut().unwrap().node_selector =
        Some([("kubernetes.io/hostname".into(), "m".into())].into());
    scene.apply(&stuck);
    let failure = scene.failure();
    assert_eq!(
        failure.message,
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 resourceclaim not available on the node. \
         deallocation of ResourceClaim completed, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    assert!(matches!(failure.give_up, Some(GiveUp::Devices(_))));
}

#[test]
fn devices_stand_for_extended_resources() {
    let wants = json!({"containers": [{"name": "c", "image": "i", "resources": {
        "requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}}}]});
    let scene = one_device();
    scene.apply(&pod("p", wants.clone()));
    assert!(
        scene
            .why()
            .starts_with("0/2 nodes are available: 2 Insufficient example.com/gpu.")
    );
    scene.pass(5);
    scene.class(json!({"spec": {"extendedResourceName": "example.com/gpu"}}));
    let assignment = scene.bind();
    let booking = &assignment.devices.claims[0];
    let mapping = &booking.mappings.as_ref().unwrap()[0];
    assert_eq!(
        (
            mapping.container_name.as_str(),
            mapping.request_name.as_str()
        ),
        ("c", "container-0-request-0")
    );
    assert_eq!(
        booking.claim.metadata.generate_name.as_deref(),
        Some("p-extended-resources-")
    );
    // A second one finds the device taken, a third a node that has the resource without devices.
    scene.apply(&pod("q", wants.clone()));
    assert_eq!(scene.decide(), "q nowhere");
    scene.state.apply_node(&node(
        "own",
        json!({"status": {"allocatable": {"example.com/gpu": "1"}}}),
    ));
    let assignment = scene.bind();
    assert_eq!(
        (&*assignment.node, assignment.devices.claims.len()),
        ("own", 0)
    );
    scene.remove(&pod("q", wants));
    assert_eq!(scene.state.explain(&ObjectKey::new("a", "q")), None);
}

#[test]
fn nodes_with_better_alternatives_are_preferred() {
    let scene = one_device();
    scene.slice(slice("m", &["y", "best"]));
    let alternative = |name: &str, device: &str| json!({"name": name, "deviceClassName": "gpu", "count": 1, "selectors": [{"cel": {"expression": device}}]});
    let two = |first: &str, second: &str| {
        claim(
            "c",
            json!({"spec": {"devices": {"requests": [{"name": "r", "firstAvailable": [
            alternative("a", first), alternative("b", second)]}]}}}),
        )
    };
    let mut better = slice("m", &["best"]);
    better.spec.devices.as_mut().unwrap()[0].attributes =
        serde_json::from_value(json!({"good": {"bool": true}})).unwrap();
    scene.slice(better);
    scene.claim(two("has(device.attributes['d'].good)", "true"));
    scene.apply(&user("p", "c"));
    assert_eq!(scene.decide(), "p on m");
}
