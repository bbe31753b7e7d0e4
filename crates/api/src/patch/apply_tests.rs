use proptest::prelude::*;
use serde_json::json;

use super::*;

fn target() -> Target<'static> {
    Target::of(
        crate::kinds()
            .iter()
            .find(|kind| kind.plural == "pods")
            .unwrap(),
    )
    .unwrap()
}

fn manager(name: &str) -> Manager<'_> {
    Manager {
        name,
        api_version: "v1",
        subresource: "",
        now: "2026-01-02T03:04:05Z".parse().unwrap(),
    }
}

fn pod(labels: Value, containers: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels}, "spec": {"containers": containers}})
}

fn owned(object: &Value, name: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries
        .iter()
        .find(|entry| entry["manager"] == name)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn the_applier_owns_what_it_names() {
    let config = pod(
        json!({"a": "1"}),
        json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]),
    );
    let made = apply(&target(), None, &config, &manager("me"), false).unwrap();
    assert_eq!(
        owned(&made, "me"),
        json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
            ".": {}, "f:image": {}, "f:name": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}})
    );
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(entry["time"], "2026-01-02T03:04:05Z");
    assert_eq!(entry["fieldsType"], "FieldsV1");
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_owns_it() {
    let target = target();
    let two = pod(
        json!({"a": "1", "b": "2"}),
        json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]),
    );
    let live = apply(&target, None, &two, &manager("me"), false).unwrap();
    let live = apply(
        &target,
        Some(&live),
        &pod(json!({"b": "2"}), json!([])),
        &manager("you"),
        false,
    )
    .unwrap();
    let one = pod(json!({"z": "9"}), json!([{"name": "d", "image": "i"}]));
    let live = apply(&target, Some(&live), &one, &manager("me"), false).unwrap();
    assert_eq!(live["metadata"]["labels"], json!({"b": "2", "z": "9"}));
    let names: Vec<&Value> = live["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["d"]);
}

#[test]
fn an_element_stays_while_another_owns_a_part_of_it() {
    let target = target();
    let config = pod(json!({}), json!([{"name": "c", "image": "i"}]));
    let live = apply(&target, None, &config, &manager("me"), false).unwrap();
    let mut edited = live.clone();
    edited["spec"]["containers"][0]["image"] = "j".into();
    record_update(&target, Some(&live), &mut edited, &manager("you"));
    let result = apply(
        &target,
        Some(&edited),
        &pod(json!({}), json!([])),
        &manager("me"),
        false,
    )
    .unwrap();
    assert_eq!(result["spec"]["containers"][0]["image"], "j");
}

#[test]
fn conflicts_are_refused_or_forced() {
    let target = target();
    let containers = json!([{"name": "c", "image": "i"}]);
    let live = apply(
        &target,
        None,
        &pod(json!({"a": "1"}), containers.clone()),
        &manager("me"),
        false,
    )
    .unwrap();
    let other = pod(json!({"a": "2"}), json!([{"name": "c", "image": "j"}]));
    let error = apply(
        &target,
        Some(&live),
        &pod(json!({"a": "2"}), containers),
        &manager("you"),
        false,
    )
    .unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"me\": .metadata.labels.a"
    );
    let error = apply(&target, Some(&live), &other, &manager("you"), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"me\":\n- .metadata.labels.a\n- .spec.containers[name=\"c\"].image"
    );
    let forced = apply(&target, Some(&live), &other, &manager("you"), true).unwrap();
    assert_eq!(forced["metadata"]["labels"]["a"], "2");
    assert!(
        owned(&forced, "me")
            .pointer("/f:metadata/f:labels/f:a")
            .is_none()
    );
    assert!(
        owned(&forced, "you")
            .pointer("/f:metadata/f:labels/f:a")
            .is_some()
    );
    // The same value is no conflict: both own it.
    let same = pod(json!({"a": "1"}), json!([]));
    assert!(apply(&target, Some(&live), &same, &manager("you"), false).is_ok());
}

#[test]
fn updates_are_recorded_and_take_ownership() {
    let target = target();
    let mut made = pod(json!({"a": "1"}), json!([{"name": "c", "image": "i"}]));
    record_update(&target, None, &mut made, &manager("kubectl-create"));
    assert_eq!(
        owned(&made, "kubectl-create"),
        json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}})
    );
    let mut changed = made.clone();
    changed["metadata"]["labels"]["a"] = "2".into();
    record_update(&target, Some(&made), &mut changed, &manager("kubectl-edit"));
    assert_eq!(
        owned(&changed, "kubectl-edit"),
        json!({"f:metadata": {"f:labels": {"f:a": {}}}})
    );
    assert!(
        owned(&changed, "kubectl-create")
            .pointer("/f:metadata/f:labels/f:a")
            .is_none()
    );
    let conflicting = pod(json!({"a": "3"}), json!([]));
    let error = apply(&target, Some(&changed), &conflicting, &manager("me"), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1 at 2026-01-02T03:04:05Z: .metadata.labels.a"
    );
    let mut same = changed.clone();
    record_update(&target, Some(&changed), &mut same, &manager("nobody"));
    assert_eq!(same, changed);
}

#[test]
fn many_updaters_are_thrown_together() {
    let target = target();
    let mut live = pod(json!({}), json!([]));
    for i in 0..15 {
        let mut next = live.clone();
        next["metadata"]["labels"][format!("l{i}")] = "x".into();
        record_update(&target, Some(&live), &mut next, &manager(&format!("m{i}")));
        live = next;
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), MAX_UPDATE_MANAGERS);
    assert!(!owned(&live, ANCIENT).is_null());
}

#[test]
fn unknown_fields_and_records_are_refused() {
    let mut config = pod(json!({}), json!([]));
    config["spec"]["foo"] = 1.into();
    let error = apply(&target(), None, &config, &manager("me"), false).unwrap_err();
    assert!(
        error
            .message
            .ends_with(".spec.foo: field not declared in schema"),
        "{}",
        error.message
    );
    let config = json!({"metadata": {"managedFields": []}});
    assert_eq!(
        apply(&target(), None, &config, &manager("me"), false)
            .unwrap_err()
            .code,
        400
    );
}

fn any_pod() -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map("[a-d]", "[12]", 0..4);
    let containers = proptest::collection::btree_map("[a-d]", "[ij]", 0..4);
    let finalizers = proptest::collection::btree_set("[xyz]", 0..3);
    (labels, containers, finalizers).prop_map(|(labels, containers, finalizers)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, image)| json!({"name": name, "image": image}))
            .collect();
        let mut config = pod(json!(labels), containers.into());
        config["metadata"]["finalizers"] = json!(finalizers);
        config
    })
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing(first in any_pod(), second in any_pod()) {
        let target = target();
        let live = apply(&target, None, &first, &manager("a"), true).unwrap();
        let once = apply(&target, Some(&live), &second, &manager("b"), true).unwrap();
        let mut later = manager("b");
        later.now = "2027-01-01T00:00:00Z".parse().unwrap();
        let twice = apply(&target, Some(&once), &second, &later, false).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_lone_applier_gets_what_it_wants(first in any_pod(), second in any_pod()) {
        let target = target();
        let live = apply(&target, None, &first, &manager("a"), false).unwrap();
        let again = apply(&target, Some(&live), &second, &manager("a"), false).unwrap();
        let fresh = apply(&target, None, &second, &manager("a"), false).unwrap();
        prop_assert_eq!(&again["metadata"], &fresh["metadata"]);
        // An emptied list goes; decoding makes it an empty one again.
        let names = |object: &Value| object["spec"]["containers"].as_array().cloned().unwrap_or_default();
        prop_assert_eq!(names(&again), names(&fresh));
    }

    #[test]
    fn sets_are_written_and_read(config in any_pod()) {
        let target = target();
        let set = Fields::new(target.schema, target.root).of(&config);
        prop_assert_eq!(FieldSet::from_fields_v1(&set.to_fields_v1()), set.clone());
        prop_assert_eq!(set.clone().union(&set), set.clone());
        prop_assert!(set.difference(&set).is_empty());
    }
}
