use super::*;
use jiff::Timestamp;
use serde_json::json;

fn node(conditions: &[(&str, &str)], taints: serde_json::Value) -> Node {
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(kind, status)| json!({"type": kind, "status": status}))
        .collect();
    serde_json::from_value(
        json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"taints": taints}, "status": {"conditions": conditions}}),
    )
    .unwrap()
}

fn names(taints: Option<Vec<Taint>>) -> Option<Vec<String>> {
    let name = |taint: &Taint| format!("{}:{}", taint.key, taint.effect);
    taints.map(|taints| taints.iter().map(name).collect())
}

fn epoch() -> Time {
    Time(Timestamp::UNIX_EPOCH)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn taints_follow_conditions_and_others_taints_stay() {
    let admitted = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, {"key": "mine", "effect": "NoExecute"}]);
    let plan = |node: &Node| names(taints(node, Evicting::Yes, &epoch()));
    assert_eq!(
        plan(&node(&[("Ready", "True")], admitted.clone())),
        Some(vec!["mine:NoExecute".into()])
    );
    assert_eq!(plan(&node(&[], admitted)), None);
    let both = plan(&node(
        &[("Ready", "Unknown"), ("DiskPressure", "True")],
        json!([]),
    ));
    assert_eq!(
        both.unwrap(),
        [
            "node.kubernetes.io/unreachable:NoSchedule",
            "node.kubernetes.io/unreachable:NoExecute",
            "node.kubernetes.io/disk-pressure:NoSchedule"
        ]
    );
    let mine = json!([{"key": "mine", "effect": "NoExecute"}]);
    assert_eq!(plan(&node(&[("Ready", "True")], mine)), None);
}

#[test]
fn the_taint_that_evicts_waits_its_turn_and_is_swapped_at_once() {
    let down = node(&[("Ready", "Unknown")], json!([]));
    let later = names(taints(&down, Evicting::Later, &epoch())).unwrap();
    assert_eq!(later, ["node.kubernetes.io/unreachable:NoSchedule"]);
    let not_ready = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]);
    let swapped = node(&[("Ready", "Unknown")], not_ready.clone());
    let later = names(taints(&swapped, Evicting::Later, &epoch())).unwrap();
    assert_eq!(
        later,
        [
            "node.kubernetes.io/unreachable:NoSchedule",
            "node.kubernetes.io/unreachable:NoExecute"
        ]
    );
    let blind = names(taints(&swapped, Evicting::No, &epoch())).unwrap();
    assert_eq!(blind, ["node.kubernetes.io/unreachable:NoSchedule"]);
    assert!(waits_for_eviction(&down) && !waits_for_eviction(&swapped));
}

#[test]
fn a_silent_node_is_unknown_once() {
    let mut node = node(&[("Ready", "True"), ("Custom", "True")], json!([]));
    let conditions = silent(&node, &epoch()).unwrap();
    let told: Vec<_> = conditions
        .iter()
        .map(|found| {
            let reason = found.reason.as_deref().unwrap();
            format!("{} {} {reason}", found.type_, found.status)
        })
        .collect();
    assert_eq!(
        told,
        [
            "Ready Unknown NodeStatusUnknown",
            "MemoryPressure Unknown NodeStatusNeverUpdated",
            "DiskPressure Unknown NodeStatusNeverUpdated",
            "PIDPressure Unknown NodeStatusNeverUpdated"
        ]
    );
    node.status.as_mut().unwrap().conditions = Some(conditions);
    assert_eq!(silent(&node, &epoch()), None);
}

#[test]
fn signs_of_life_count_from_when_they_are_seen() {
    let mut node = node(&[("Ready", "True")], json!([]));
    let mut health = Health::met(seconds(100));
    assert_eq!(health.left(&node, seconds(120)), seconds(30));
    let renewed = MicroTime(Timestamp::UNIX_EPOCH);
    health.saw_lease(Some(&renewed), seconds(120));
    assert_eq!(health.left(&node, seconds(120)), GRACE);
    // The same renewal again is none; nor is a lease without a time.
    health.saw_lease(Some(&renewed), seconds(140));
    health.saw_lease(None, seconds(140));
    assert_eq!(health.left(&node, seconds(170)), Duration::ZERO);
    let status = node.status.as_mut().unwrap();
    status.conditions.as_mut().unwrap()[0].last_heartbeat_time = Some(epoch());
    health.saw_status(&node, seconds(170));
    assert_eq!(health.left(&node, seconds(170)), GRACE);
    node.status = None;
    assert_eq!(health.left(&node, seconds(170)), STARTUP_GRACE);
}

#[test]
fn a_zone_that_is_mostly_down_is_left_alone() {
    let nodes = |ready: usize, down: usize, zone: &str| -> Vec<Node> {
        let make = |status: &str| {
            let mut node = node(&[("Ready", status)], json!([]));
            node.metadata.labels =
                Some([("topology.kubernetes.io/zone".to_owned(), zone.to_owned())].into());
            node
        };
        let down = std::iter::repeat_with(|| make("Unknown")).take(down);
        std::iter::repeat_with(|| make("True"))
            .take(ready)
            .chain(down)
            .collect()
    };
    for (ready, down, expected) in [
        (0, 1, Pace::Blind),
        (1, 0, Pace::One(EVICTION_PACE)),
        (2, 2, Pace::One(EVICTION_PACE)),
        (2, 3, Pace::None),
        (30, 40, Pace::One(SLOW_PACE)),
    ] {
        assert_eq!(
            pace(&nodes(ready, down, "a"), ":a"),
            expected,
            "{ready} {down}"
        );
    }
    let two_zones = [nodes(0, 3, "a"), nodes(1, 0, "b")].concat();
    assert_eq!(pace(&two_zones, ":a"), Pace::One(EVICTION_PACE));
}

#[test]
fn old_labels_follow_the_new() {
    let mut node = node(&[], json!([]));
    assert!(labels(&node).is_empty());
    node.metadata.labels = Some(
        [
            ("kubernetes.io/os".to_owned(), "linux".to_owned()),
            ("kubernetes.io/arch".to_owned(), "amd64".to_owned()),
            ("beta.kubernetes.io/arch".to_owned(), "amd64".to_owned()),
        ]
        .into(),
    );
    assert_eq!(
        labels(&node),
        [("beta.kubernetes.io/os", "linux".to_owned())].into()
    );
}
