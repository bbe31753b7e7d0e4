//! Tables and properties of the plan of attaching and detaching.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn attached(node: &str, attached: bool) -> Attached {
    Attached {
        name: format!("csi-{node}"),
        node: node.to_owned(),
        attached,
        state: NodeState {
            ready: true,
            ..NodeState::default()
        },
        ..Attached::default()
    }
}

fn observed(exclusive: bool, wanted: &[&str], attached: Vec<Attached>) -> Observed {
    Observed {
        exclusive,
        wanted: wanted.iter().map(|node| (*node).to_owned()).collect(),
        attached,
    }
}

fn take(node: &str, verify: bool) -> Step {
    Step::Detach {
        name: format!("csi-{node}"),
        node: node.to_owned(),
        verify,
    }
}

fn refuse(node: &str, holders: &[&str]) -> Step {
    Step::Refuse {
        node: node.to_owned(),
        holders: holders.iter().map(|node| (*node).to_owned()).collect(),
    }
}

#[test]
fn volumes_go_where_they_are_wanted() {
    let a = || "a".to_owned();
    let going = Attached {
        deleting: true,
        ..attached("a", true)
    };
    let failed = Attached {
        error: Some("no such disk".to_owned()),
        ..attached("a", false)
    };
    let said = Step::Failed {
        node: a(),
        why: Failure::Said("no such disk".to_owned()),
    };
    for (case, observed, expected) in [
        (
            "new",
            observed(true, &["a"], vec![]),
            vec![Step::Attach(a())],
        ),
        (
            "two that share",
            observed(false, &["a", "b"], vec![]),
            vec![Step::Attach(a()), Step::Attach("b".to_owned())],
        ),
        (
            "two that may not",
            observed(true, &["a", "b"], vec![]),
            vec![Step::Attach(a()), refuse("b", &["a"])],
        ),
        (
            "done",
            observed(true, &["a"], vec![attached("a", true)]),
            vec![Step::Report(a())],
        ),
        (
            "pending",
            observed(true, &["a"], vec![attached("a", false)]),
            vec![Step::Wait(ATTACH_TIMEOUT)],
        ),
        ("failed", observed(true, &["a"], vec![failed]), vec![said]),
        (
            "on its way out",
            observed(true, &["a"], vec![going.clone()]),
            vec![],
        ),
        (
            "going elsewhere",
            observed(true, &["b"], vec![going]),
            vec![refuse("b", &["a"])],
        ),
        (
            "moves",
            observed(true, &["b"], vec![attached("a", true)]),
            vec![take("a", true), refuse("b", &["a"])],
        ),
        ("nothing", observed(true, &[], vec![]), vec![]),
    ] {
        assert_eq!(plan(&observed), expected, "{case}");
    }
}

#[test]
fn a_silent_driver_is_told_of() {
    let silent = Attached {
        pending_for: ATTACH_TIMEOUT,
        ..attached("a", false)
    };
    let steps = plan(&observed(true, &["a"], vec![silent]));
    assert_eq!(
        steps[0],
        Step::Failed {
            node: "a".to_owned(),
            why: Failure::Silent
        }
    );
}

#[test]
fn what_is_mounted_is_left_unless_its_node_is_lost() {
    let second = Duration::from_secs(1);
    for (in_use, ready, out_of_service, minutes, expected) in [
        (false, true, false, 0, Some(take("a", true))),
        (true, true, false, 0, Some(Step::Wait(FORCE_AFTER + second))),
        (true, false, false, 5, Some(Step::Wait(second * 61))),
        (true, false, false, 7, Some(take("a", false))),
        // A node that is ready keeps what it has mounted, however long that takes.
        (true, true, false, 70, None),
        (true, false, true, 0, Some(take("a", false))),
        (true, true, true, 0, Some(take("a", false))),
        (false, true, false, 7, Some(take("a", false))),
    ] {
        let state = NodeState {
            in_use,
            ready,
            out_of_service,
        };
        let one = Attached {
            state: state.clone(),
            unwanted_for: Duration::from_secs(60 * minutes),
            ..attached("a", true)
        };
        let steps = plan(&observed(true, &[], vec![one]));
        let expected: Vec<Step> = expected.into_iter().collect();
        assert_eq!(steps, expected, "{state:?} {minutes}");
    }
}

#[test]
fn attachments_are_named_as_upstream_names_them() {
    let name = attachment_name("d.example.org", "h1", "n");
    assert_eq!(
        name,
        "csi-b5bcdab350f75017cc12efb0f6c01d529fd9779552aaa78c0581cabfc95414b0"
    );
}

#[test]
fn nodes_are_read() {
    let name = attachment_name("d.example.org", "h^1", "n");
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"},
        "spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]},
        "status": {"volumesInUse": ["kubernetes.io/csi/d.example.org^h^1"],
            "conditions": [{"type": "Ready", "status": "True"}]}}))
    .unwrap();
    let all = NodeState {
        in_use: true,
        ready: true,
        out_of_service: true,
    };
    assert_eq!(NodeState::of(Some(&node), &name), all);
    let other = attachment_name("d.example.org", "h2", "n");
    assert!(!NodeState::of(Some(&node), &other).in_use);
    let gone = NodeState::of(None, &name);
    assert!(gone.in_use && !gone.ready && !gone.out_of_service);
}

#[test]
fn pods_need_their_volumes_until_nothing_runs() {
    let pod = |phase: &str, node: &str, deleting: bool, state: serde_json::Value| -> Pod {
        let mut pod = json!({"metadata": {}, "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "",
                "ready": true, "restartCount": 0, "state": state}]}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    };
    let (running, ended) = (
        json!({"running": {}}),
        json!({"terminated": {"exitCode": 0}}),
    );
    for (pod, expected) in [
        (pod("Running", "n", false, running.clone()), true),
        (pod("Running", "", false, running.clone()), false),
        (pod("Running", "n", true, running.clone()), true),
        (pod("Running", "n", true, ended.clone()), false),
        (pod("Running", "n", false, ended.clone()), true),
        (pod("Succeeded", "n", false, ended), false),
        (pod("Failed", "n", false, running), false),
    ] {
        assert_eq!(needs_volumes(&pod), expected, "{pod:?}");
    }
}

#[test]
fn access_modes_say_who_shares() {
    for (modes, expected) in [
        (json!([]), false),
        (json!(["ReadWriteOnce"]), true),
        (json!(["ReadWriteOncePod"]), true),
        (json!(["ReadWriteOnce", "ReadOnlyMany"]), false),
        (json!(["ReadWriteMany"]), false),
    ] {
        let volume: PersistentVolume =
            serde_json::from_value(json!({"spec": {"accessModes": modes}})).unwrap();
        assert_eq!(is_exclusive(&volume), expected, "{modes}");
    }
}

#[test]
fn the_refused_are_told_of_their_own_namespace_only() {
    let others = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        list.iter().map(owned).collect()
    };
    for (pods, expected) in [
        (
            vec![],
            "Volume is already exclusively attached to one node and can't be attached to another",
        ),
        (
            vec![("a", "x"), ("a", "y")],
            "Volume is already used by pod(s) x, y",
        ),
        (
            vec![("a", "x"), ("b", "y")],
            "Volume is already used by pod(s) x and 1 pod(s) in different namespaces",
        ),
        (
            vec![("b", "y"), ("c", "y")],
            "Volume is already used by 2 pod(s) in different namespaces",
        ),
    ] {
        let text = refusal("pv", "a", &others(&pods));
        assert_eq!(
            text,
            format!("Multi-Attach error for volume \"pv\" {expected}")
        );
    }
}

#[test]
fn a_node_is_told_by_the_name_it_knows() {
    let (one, two) = (
        attachment_name("d", "1", "n"),
        attachment_name("d", "2", "n"),
    );
    let attached = BTreeMap::from([(one, Some("kubernetes.io/csi/d^1".to_owned())), (two, None)]);
    let known = ["kubernetes.io/csi/d^2", "kubernetes.io/csi/d^3"].map(str::to_owned);
    assert_eq!(
        report(&attached, &known, "n"),
        ["kubernetes.io/csi/d^1", "kubernetes.io/csi/d^2"]
    );
    assert_eq!(report(&attached, &[], "n"), ["kubernetes.io/csi/d^1"]);
}

proptest! {
    /// However pods come and go, and whatever the driver has done so far: an exclusive volume is never asked for on two
    /// nodes, nothing wanted is taken away, and what is mounted on a node that answers is left there.
    #[test]
    fn an_exclusive_volume_is_on_one_node(
        wanted in proptest::collection::btree_set(0..4_u8, 0..4),
        there in proptest::collection::btree_map(0..4_u8, (any::<[bool; 5]>(), 0..800_u64), 0..2),
    ) {
        let name = |node: &u8| format!("n{node}");
        let attached: Vec<Attached> = there
            .iter()
            .map(|(node, ([attached, deleting, in_use, ready, out_of_service], seconds))| Attached {
                name: format!("csi-{node}"),
                node: name(node),
                attached: *attached,
                deleting: *deleting,
                state: NodeState { in_use: *in_use, ready: *ready, out_of_service: *out_of_service },
                unwanted_for: Duration::from_secs(*seconds),
                ..Attached::default()
            })
            .collect();
        let observed = Observed { exclusive: true, wanted: wanted.iter().map(name).collect(), attached };
        let steps = plan(&observed);
        let asked = steps.iter().filter(|step| matches!(step, Step::Attach(_))).count();
        prop_assert!(asked + there.len() <= 1.max(there.len()));
        for step in &steps {
            if let Step::Detach { node, .. } = step {
                prop_assert!(!observed.wanted.contains(node));
                let state = &observed.attached[0].state;
                prop_assert!(!state.in_use || !state.ready || state.out_of_service);
            }
        }
        // Every node that wants it is served, refused, or waits for what is there already.
        for node in &observed.wanted {
            let heard = steps.iter().any(|step| match step {
                Step::Attach(other) | Step::Refuse { node: other, .. } => other == node,
                _ => false,
            });
            prop_assert!(heard || observed.attached.iter().any(|at| at.node == *node));
        }
    }
}
