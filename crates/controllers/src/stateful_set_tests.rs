use super::*;
use crate::seen_pod::seen;
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: i64 = 1_000_000;

fn set(change: impl Fn(&mut Value)) -> StatefulSet {
    let mut value = json!({
        "metadata": {"name": "db", "namespace": "n", "uid": "set", "generation": 2},
        "spec": {"replicas": 3, "serviceName": "peers", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

/// `r` ready, `p` pending, `u` running but not ready, `f` failed, `d` deleting, `n` without a phase.
fn pod(ordinal: i64, state: char, revision: &str) -> Arc<Pod> {
    let phase = match state {
        'p' => "Pending",
        'f' => "Failed",
        'n' => "",
        _ => "Running",
    };
    let ready = if matches!(state, 'r' | 'd') {
        "True"
    } else {
        "False"
    };
    let mut value = json!({
        "metadata": {"name": format!("db-{ordinal}"), "uid": format!("pod{ordinal}"), "labels": {
            NAME_LABEL: format!("db-{ordinal}"), REVISION_LABEL: revision}},
        "spec": {"containers": []},
        "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:00Z"}]},
    });
    if state == 'd' {
        value["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn version(name: &str) -> Version {
    let template =
        json!({"metadata": {"labels": {"app": "db", "v": name}}, "spec": {"containers": []}});
    Version {
        name: name.into(),
        template: serde_json::from_value(template).unwrap(),
    }
}

fn plan_for(set: &StatefulSet, pods: &[Arc<Pod>]) -> Plan {
    plan_with(set, pods, &|_| None)
}

fn plan_with(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    claim: &dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> Plan {
    plan(&Observed {
        set,
        current: &version("old"),
        update: &version("new"),
        collisions: 0,
        pods,
        claim,
        now: Timestamp::from_second(NOW).unwrap(),
    })
}

/// Pods from ordinal 0 on: a letter for the state, in upper case where the pod is of the old revision.
fn pods(states: &str) -> Vec<Arc<Pod>> {
    let pods = states.chars().zip(0..).filter(|(state, _)| *state != '.');
    pods.map(|(state, ordinal)| {
        let revision = if state.is_uppercase() { "old" } else { "new" };
        pod(ordinal, state.to_ascii_lowercase(), revision)
    })
    .collect()
}

fn told(plan: &Plan) -> String {
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    let actions = plan.phases.iter().flatten().map(|action| match action {
        Action::Create { pod, .. } => {
            let pod = seen(pod);
            format!("+{}={}", name(&pod), revision_of(&pod))
        }
        Action::Supply { pod, .. } => format!("supply {}", name(pod)),
        Action::Own(claim) => format!("own {}", claim.metadata.name.clone().unwrap()),
        Action::TellConflict(claim) => format!("conflict {claim}"),
        Action::Mend { pod, .. } => format!("mend {}", name(pod)),
        Action::Delete(pod) => format!("-{}", name(pod)),
    });
    actions.collect::<Vec<_>>().join(" ")
}

#[test]
fn pods_come_in_order() {
    let set = set(|_| {});
    for (states, expected) in [
        ("", "+db-0=new"),
        ("n", ""),
        ("p", ""),
        ("u", ""),
        ("r", "+db-1=new"),
        ("rr", "+db-2=new"),
        ("rrr", ""),
        // A hole is filled first, an ended pod is made anew, one on its way out is waited for.
        (".rr", "+db-0=new"),
        ("rfr", "-db-1"),
        ("rdr", ""),
        // What is beyond goes one at a time, from the end, when all others are well.
        ("rrrrr", "-db-4"),
        ("rurrr", ""),
        ("rrrru", "-db-4"),
        ("rrruu", ""),
        ("rrrff", "-db-4"),
        ("rrrrd", ""),
    ] {
        assert_eq!(told(&plan_for(&set, &pods(states))), expected, "{states}");
    }
}

#[test]
fn in_parallel_all_come_and_go_at_once() {
    let set = set(|set| set["spec"]["podManagementPolicy"] = "Parallel".into());
    for (states, expected) in [
        ("", "+db-0=new +db-1=new +db-2=new"),
        ("p.u", "+db-1=new"),
        ("rrfrr", "-db-2 -db-4 -db-3"),
        ("RRR", "-db-2"),
        ("RRp", ""),
        ("RFr", "-db-1"),
    ] {
        assert_eq!(told(&plan_for(&set, &pods(states))), expected, "{states}");
    }
}

#[test]
fn a_rollout_goes_from_the_end_to_the_partition() {
    for (partition, states, expected) in [
        (0, "RRR", "-db-2"),
        (0, "RRd", ""),
        (0, "RR", "+db-2=new"),
        (0, "RRp", ""),
        (0, "RRr", "-db-1"),
        (2, "RRr", ""),
        (2, "R.r", "+db-1=old"),
        // A broken pod of the old revision blocks an ordered rollout, as upstream documents.
        (0, "RRU", ""),
    ] {
        let set = set(|set| {
            set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = partition.into();
        });
        let told = told(&plan_for(&set, &pods(states)));
        assert_eq!(told, expected, "{partition} {states}");
    }
    let by_hand = set(|set| set["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    assert_eq!(told(&plan_for(&by_hand, &pods("RRR"))), "");
    assert_eq!(told(&plan_for(&by_hand, &pods("RR"))), "+db-2=new");
    // Without a partition the first pods, as many as there are of the old revision, stay of it.
    let unstated = set(|set| {
        set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
        set["status"] = json!({"replicas": 3, "currentReplicas": 2});
    });
    assert_eq!(told(&plan_for(&unstated, &pods("R"))), "+db-1=old");
    let two = set(|set| {
        set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = 2.into();
    });
    assert_eq!(told(&plan_for(&two, &pods("RRR"))), "-db-2 -db-1");
}

#[test]
fn ordinals_start_where_the_set_says() {
    let set = set(|set| set["spec"]["ordinals"] = json!({"start": 2}));
    assert_eq!(told(&plan_for(&set, &pods("..rr"))), "+db-4=new");
    assert_eq!(told(&plan_for(&set, &pods("r.rrr"))), "-db-0");
    for (name, expected) in [
        ("db-3", Some(3)),
        ("db-03", None),
        ("db-", None),
        ("db-+1", None),
        ("other-1", None),
        ("db-x-1", None),
        ("db-99999999999", None),
    ] {
        let mut pod = (*pod(0, 'r', "new")).clone();
        pod.metadata.name = Some(name.into());
        assert_eq!(ordinal(&set, &pod), expected, "{name}");
    }
}

#[test]
fn a_new_pod_knows_who_it_is() {
    let set = set(|set| {
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
    });
    let plan = plan_for(&set, &[]);
    let Action::Create { pod, missing, .. } = &plan.phases[0][0] else {
        panic!("{plan:?}");
    };
    let labels = pod.metadata.labels.as_ref().unwrap();
    assert_eq!(
        (
            &*labels[NAME_LABEL],
            &*labels[INDEX_LABEL],
            &*labels[REVISION_LABEL]
        ),
        ("db-0", "0", "new")
    );
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("db-0"));
    assert_eq!(spec.subdomain.as_deref(), Some("peers"));
    assert_eq!(missing[0].metadata.name.as_deref(), Some("data-db-0"));
}

#[test]
fn claims_are_made_and_mended() {
    let set = set(|set| {
        set["spec"]["replicas"] = 1.into();
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
        set["spec"]["persistentVolumeClaimRetentionPolicy"] =
            json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    });
    let claim = |meta: Value| {
        let mut meta = meta;
        meta["name"] = "data-db-0".into();
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": meta})).unwrap();
        Arc::new(claim)
    };
    let owned = |kind: &str, name: &str, uid: &str| {
        let version = if kind == "Pod" { "v1" } else { "apps/v1" };
        claim(
            json!({"ownerReferences": [{"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true}]}),
        )
    };
    let with = |pods: &[Arc<Pod>], found: Option<Arc<PersistentVolumeClaim>>| {
        told(&plan_with(&set, pods, &|name| {
            (name == "data-db-0").then(|| found.clone()).flatten()
        }))
    };
    let mounted = |state| {
        let mut whole = v1::Pod::default();
        claims::update_storage(&set, &mut whole, 0);
        let mut pod = Pod::clone(&pod(0, state, "new"));
        let volumes = seen(&whole).spec.and_then(|spec| spec.volumes);
        pod.spec.get_or_insert_default().volumes = volumes;
        vec![Arc::new(pod)]
    };
    assert_eq!(with(&mounted('p'), None), "supply db-0");
    assert_eq!(with(&mounted('p'), Some(claim(json!({})))), "own data-db-0");
    assert_eq!(with(&mounted('r'), Some(claim(json!({})))), "own data-db-0");
    assert_eq!(
        with(&mounted('r'), Some(owned("StatefulSet", "db", "set"))),
        ""
    );
    assert_eq!(
        with(&pods("r"), Some(owned("StatefulSet", "db", "set"))),
        "mend db-0"
    );
    // While the claim still goes with an earlier pod or set of this name, making the pod is tried and put off.
    for (owner, puts_off) in [
        (owned("Pod", "db-0", "before"), true),
        (owned("StatefulSet", "db", "before"), true),
        (owned("StatefulSet", "db", "set"), false),
    ] {
        let plan = plan_with(&set, &[], &|name| {
            (name == "data-db-0").then(|| owner.clone())
        });
        let actions = plan.phases.iter().flatten();
        let left: Vec<_> = actions
            .filter_map(|action| match action {
                Action::Create { leaving, .. } => Some(leaving.join(" ")),
                _ => None,
            })
            .collect();
        assert_eq!(left, [if puts_off { "data-db-0" } else { "" }]);
    }
}

#[test]
fn the_status_counts() {
    let set = set(|set| set["spec"]["minReadySeconds"] = 10.into());
    let status = plan_for(&set, &pods("RrP")).status;
    assert_eq!(
        (
            status.replicas,
            status.ready_replicas,
            status.available_replicas,
            status.current_replicas,
            status.updated_replicas
        ),
        (3, Some(2), Some(2), Some(2), Some(1))
    );
    assert_eq!(status.current_revision.as_deref(), Some("old"));
    assert_eq!(status.update_revision.as_deref(), Some("new"));
    let done = plan_for(&set, &pods("rrr")).status;
    assert_eq!(done.current_revision.as_deref(), Some("new"));
    assert_eq!(done.current_replicas, Some(3));
    // The pod that is just being replaced counts no more.
    let rolling = plan_for(&set, &pods("RRR")).status;
    assert_eq!(rolling.current_replicas, Some(2));
}

#[test]
fn a_set_on_its_way_out_only_counts() {
    let set = set(|set| set["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    let plan = plan_for(&set, &pods("rf"));
    assert!(plan.phases.is_empty());
    assert_eq!(plan.status.replicas, 2);
}

proptest! {
    /// Whatever the pods look like: playing the plan against a world in which pods come up, and broken ones of the
    /// new revision heal, ends with all replicas of the new revision; no ordinal is made while it is there; and in
    /// order not more than one pod is missing or unavailable by our doing.
    #[test]
    fn every_start_ends_as_wanted(
        states in "[rRpPuUfFd.]{0,6}",
        replicas in 0_i64..5,
        parallel in any::<bool>(),
    ) {
        let set = set(|set| {
            set["spec"]["replicas"] = replicas.into();
            if parallel {
                set["spec"]["podManagementPolicy"] = "Parallel".into();
            }
        });
        let mut world: BTreeMap<i64, (char, &str)> = pods(&states)
            .iter()
            .zip(states.chars().filter(|state| *state != '.'))
            .map(|(pod, state)| {
                let revision = if state.is_uppercase() { "old" } else { "new" };
                (ordinal(&set, pod).unwrap(), (state.to_ascii_lowercase(), revision))
            })
            .collect();
        for _ in 0..60 {
            let pods: Vec<_> = world
                .iter()
                .map(|(ordinal, (state, revision))| pod(*ordinal, *state, revision))
                .collect();
            let plan = plan_for(&set, &pods);
            let mut deleted = 0;
            for action in plan.phases.iter().flatten() {
                match action {
                    Action::Create { pod, .. } => {
                        let number = ordinal(&set, &seen(pod)).unwrap();
                        prop_assert!((0..replicas).contains(&number));
                        let before = world.insert(number, ('p', "new"));
                        prop_assert!(before.is_none());
                    }
                    Action::Delete(pod) => {
                        let state = world.get_mut(&ordinal(&set, pod).unwrap()).unwrap();
                        prop_assert_ne!(state.0, 'd');
                        state.0 = 'd';
                        deleted += 1;
                    }
                    other => prop_assert!(matches!(other, Action::Mend { .. }), "{:?}", other),
                }
            }
            prop_assert!(parallel || deleted <= 1 || states.contains(['f', 'F']));
            if plan.phases.is_empty() {
                // The rest of the world moves on.
                world.retain(|_, (state, _)| *state != 'd');
                for (state, _) in world.values_mut() {
                    if matches!(*state, 'p' | 'u') {
                        *state = 'r';
                    }
                }
            }
        }
        let expected: BTreeMap<i64, (char, &str)> =
            (0..replicas).map(|ordinal| (ordinal, ('r', "new"))).collect();
        prop_assert_eq!(world, expected);
    }
}
