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
        ignored: &[],
    }
}

fn record_update(target: &Target<'_>, old: Option<&Value>, new: &mut Value, manager: &Manager<'_>) {
    let had = new["metadata"]["managedFields"].take();
    let entries = serde_json::from_value(had).unwrap_or_default();
    let record = super::record_update(target, old, new, entries, manager);
    new["metadata"]["managedFields"] = serde_json::to_value(record).unwrap();
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
    let mut live = pod(json!({"first": "x"}), json!([]));
    record_update(&target, None, &mut live, &manager("m"));
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

#[test]
fn what_is_always_there_is_owned_with_what_holds_it() {
    let target = target();
    let container = |resources: Value| json!([{"name": "c", "resources": resources}]);
    let mut live = pod(json!({}), container(json!({})));
    record_update(&target, None, &mut live, &manager("a"));
    let mine = |object: &Value, name| {
        let step = r#"/f:spec/f:containers/k:{"name":"c"}/f:resources"#;
        owned(object, name).pointer(step).cloned()
    };
    assert_eq!(mine(&live, "a"), Some(json!({})));
    let mut next = pod(json!({}), container(json!({"limits": {"cpu": "1"}})));
    next["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
    record_update(&target, Some(&live), &mut next, &manager("b"));
    assert_eq!(
        mine(&next, "b"),
        Some(json!({"f:limits": {".": {}, "f:cpu": {}}}))
    );
}

#[test]
fn an_emptied_record_stays_empty_until_an_apply() {
    let target = target();
    let live = pod(json!({"a": "1"}), json!([]));
    let mut next = pod(json!({"a": "2"}), json!([]));
    record_update(&target, Some(&live), &mut next, &manager("m"));
    assert_eq!(next["metadata"]["managedFields"], json!([]));
    let config = pod(json!({"a": "3"}), json!([]));
    let error = apply(&target, Some(&next), &config, &manager("me"), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1 at 2026-01-02T03:04:05Z: .metadata.labels.a"
    );
}

#[test]
fn what_a_write_cannot_change_gets_no_owner() {
    let target = target();
    let of_status = Manager {
        subresource: "status",
        ignored: &[&["spec"], &["metadata", "labels"]],
        ..manager("kubelet")
    };
    let live = apply(
        &target,
        None,
        &pod(json!({}), json!([])),
        &manager("me"),
        false,
    )
    .unwrap();
    let mut config = pod(json!({"a": "1"}), json!([{"name": "c", "image": "i"}]));
    config["status"] = json!({"phase": "Running"});
    let result = apply(&target, Some(&live), &config, &of_status, false).unwrap();
    assert_eq!(
        owned(&result, "kubelet"),
        json!({"f:status": {"f:phase": {}}})
    );
    let mut updated = live.clone();
    updated["status"] = json!({"phase": "Running"});
    updated["spec"]["nodeName"] = "n".into();
    record_update(&target, Some(&live), &mut updated, &of_status);
    assert_eq!(
        owned(&updated, "kubelet"),
        json!({"f:status": {"f:phase": {}}})
    );
}

#[test]
fn kubectl_takes_over_what_its_client_side_apply_set() {
    let target = target();
    let config = pod(json!({"a": "1"}), json!([]));
    let mut live = config.clone();
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": config.to_string()});
    record_update(
        &target,
        None,
        &mut live,
        &manager("kubectl-client-side-apply"),
    );
    let wanted = pod(json!({"a": "2"}), json!([]));
    let error = apply(&target, Some(&live), &wanted, &manager("me"), false).unwrap_err();
    assert_eq!(error.code, 409);
    let result = apply(&target, Some(&live), &wanted, &manager("kubectl"), false).unwrap();
    assert_eq!(result["metadata"]["labels"]["a"], "2");
    let text =
        result["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
            .as_str()
            .unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), wanted);
    // What was changed since is no longer kubectl's.
    live["metadata"]["labels"]["a"] = "x".into();
    let error = apply(&target, Some(&live), &wanted, &manager("kubectl"), false).unwrap_err();
    assert_eq!(error.code, 409);
}

fn any_first() -> Value {
    pod(json!({"a": "1"}), json!([{"name": "a", "image": "i"}]))
}

proptest! {
    #[test]
    fn owners_converge(configs in proptest::collection::vec(any_pod(), 1..4)) {
        let target = target();
        let names = ["a", "b", "c"];
        let mut live = apply(&target, None, &configs[0], &manager("a"), true).unwrap();
        for _ in 0..2 {
            for (config, name) in configs.iter().zip(names) {
                live = apply(&target, Some(&live), config, &manager(name), true).unwrap();
            }
        }
        // Whatever was forced before, one more round changes nothing but who was last.
        let mut again = live.clone();
        for (config, name) in configs.iter().zip(names) {
            again = apply(&target, Some(&again), config, &manager(name), true).unwrap();
        }
        prop_assert_eq!(live, again);
    }

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
    fn nothing_that_somebody_applied_is_without_an_owner(
        history in proptest::collection::vec((any_pod(), 0..3_usize, any::<bool>()), 1..7)
    ) {
        let target = target();
        let fields = Fields::new(target.schema, target.root);
        let mut live = apply(&target, None, &any_first(), &manager("a"), true).unwrap();
        let mut said = fields.of(&any_first());
        for (config, who, updates) in history {
            let name = ["a", "b", "c"][who];
            said = said.union(&fields.of(&config));
            if updates {
                let mut new = config;
                new["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
                record_update(&target, Some(&live), &mut new, &manager(name));
                live = new;
            } else {
                live = apply(&target, Some(&live), &config, &manager(name), true).unwrap();
            }
            // When the last field with an owner went, owners are not recorded until somebody applies again, as upstream.
            if live["metadata"]["managedFields"] == json!([]) {
                continue;
            }
            let mut owned = FieldSet::default();
            for entry in live["metadata"]["managedFields"].as_array().into_iter().flatten() {
                owned = owned.union(&FieldSet::from_fields_v1(&entry["fieldsV1"]));
            }
            let mut there = live.clone();
            there["metadata"]["managedFields"] = Value::Null;
            // What was emptied is no longer what somebody asked for.
            for (part, list) in [("metadata", "labels"), ("metadata", "finalizers"), ("spec", "containers")] {
                let part = there[part].as_object_mut().unwrap();
                part.retain(|name, value| name != list || (*value != json!({}) && *value != json!([])));
            }
            let there = fields.of(&there).intersection(&said);
            // Nobody owns these.
            let named = FieldSet::of_paths(&[
                &["apiVersion"], &["kind"], &["metadata", "name"], &["metadata", "managedFields"],
            ]);
            let lost = there.difference(&owned).difference(&named);
            prop_assert!(lost.is_empty(), "{:?} of {live}", lost.paths());
        }
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
