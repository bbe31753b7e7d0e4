use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn claim(change: impl Fn(&mut Value)) -> PersistentVolumeClaim {
    let mut value = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "claim"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "slow",
            "resources": {"requests": {"storage": "5Gi"}}},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn volume(name: &str, change: impl Fn(&mut Value)) -> Arc<PersistentVolume> {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"tier": "gold"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "slow", "capacity": {"storage": "5Gi"},
            "persistentVolumeReclaimPolicy": "Delete"},
        "status": {"phase": "Available"},
    });
    change(&mut value);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn class(name: &str, mode: &str, default: bool) -> Arc<StorageClass> {
    let value = json!({"metadata": {"name": name, "annotations": {DEFAULT_CLASS[0]: default.to_string()}},
        "provisioner": "p", "volumeBindingMode": mode});
    Arc::new(serde_json::from_value(value).unwrap())
}

fn found(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> String {
    let found = find(claim, volumes, false);
    found.map_or_else(String::new, |volume| name_of(&volume.metadata).to_owned())
}

#[test]
fn the_smallest_volume_that_fits() {
    let sized =
        |name: &str, size: &str| volume(name, |v| v["spec"]["capacity"]["storage"] = size.into());
    let volumes = [
        sized("big", "10Gi"),
        sized("right", "6Gi"),
        sized("small", "4Gi"),
        volume("other-class", |v| {
            v["spec"]["storageClassName"] = "fast".into()
        }),
        volume("other-mode", |v| v["spec"]["volumeMode"] = "Block".into()),
        volume("read-only", |v| {
            v["spec"]["accessModes"] = json!(["ReadOnlyMany"])
        }),
        volume("used", |v| v["status"]["phase"] = "Bound".into()),
        volume("taken", |v| {
            v["spec"]["claimRef"] = json!({"namespace": "n", "name": "x"})
        }),
        volume("leaving", |v| {
            v["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()
        }),
    ];
    assert_eq!(found(&claim(|_| {}), &volumes), "right");
    let many = claim(|c| c["spec"]["accessModes"] = json!(["ReadOnlyMany"]));
    assert_eq!(found(&many, &volumes), "read-only");
    let selecting = |tier: &'static str| {
        claim(move |c| c["spec"]["selector"] = json!({"matchLabels": {"tier": tier}}))
    };
    assert_eq!(found(&selecting("gold"), &volumes), "right");
    assert_eq!(found(&selecting("iron"), &volumes), "");
    // One that offers no more ways than asked for comes before a smaller one that does.
    let both = volume("both", |v| {
        v["spec"]["accessModes"] = json!(["ReadWriteOnce", "ReadWriteMany"])
    });
    assert_eq!(found(&claim(|_| {}), &[both, sized("one", "9Gi")]), "one");
    // One that is kept for the claim wins, also where the scheduler is to choose.
    let kept = volume("kept", |v| {
        v["spec"]["capacity"]["storage"] = "50Gi".into();
        v["spec"]["claimRef"] = json!({"namespace": "n", "name": "c"});
    });
    let volumes = [sized("right", "6Gi"), kept];
    assert_eq!(found(&claim(|_| {}), &volumes), "kept");
    assert!(find(&claim(|_| {}), &volumes[..1], true).is_none());
    assert!(find(&claim(|_| {}), &volumes, true).is_some());
}

#[test]
fn what_becomes_of_a_claim() {
    let classes = [
        class("slow", "Immediate", false),
        class("late", "WaitForFirstConsumer", false),
    ];
    let step =
        |claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], waiting: &[String]| {
            let step = claim_step(&ClaimView {
                claim,
                volumes,
                classes: &classes,
                waiting,
            });
            match step {
                ClaimStep::Bind(volume) => format!("bind {}", name_of(&volume.metadata)),
                ClaimStep::AssignClass(class) => format!("class {class}"),
                ClaimStep::Provision(class) => format!("provision {}", name_of(&class.metadata)),
                ClaimStep::Wait(None) => "wait".to_owned(),
                ClaimStep::Wait(Some(told)) => format!("wait {}: {}", told.reason, told.text),
                ClaimStep::Lost(told) => format!("lost {}", told.reason),
            }
        };
    let named = claim(|c| c["spec"]["volumeName"] = "v".into());
    let done = claim(|c| {
        c["spec"]["volumeName"] = "v".into();
        c["metadata"]["annotations"] = json!({BIND_COMPLETED: "yes"});
    });
    let late = claim(|c| c["spec"]["storageClassName"] = "late".into());
    let sent = claim(|c| {
        c["spec"]["storageClassName"] = "late".into();
        c["metadata"]["annotations"] = json!({SELECTED_NODE: "n1"});
    });
    let without = claim(|c| c["spec"]["storageClassName"] = "".into());
    let of = |name: &'static str, uid: &'static str| {
        volume("v", move |v| {
            v["spec"]["claimRef"] = json!({"namespace": "n", "name": name, "uid": uid})
        })
    };
    let free = volume("v", |_| {});
    let small = volume("v", |v| v["spec"]["capacity"]["storage"] = "1Gi".into());
    let one = ["p".to_owned()];
    for (expected, claim, volumes, waiting) in [
        ("bind v", &claim(|_| {}), vec![free.clone()], &[][..]),
        ("provision slow", &claim(|_| {}), vec![], &[]),
        (
            "wait WaitForFirstConsumer: waiting for first consumer to be created before binding",
            &late,
            vec![],
            &[],
        ),
        (
            "wait WaitForPodScheduled: waiting for pod p to be scheduled",
            &late,
            vec![],
            &one,
        ),
        ("provision late", &sent, vec![], &one),
        (
            "wait FailedBinding: no persistent volumes available for this claim and no storage class is set",
            &without,
            vec![],
            &[],
        ),
        ("wait", &named, vec![], &[]),
        ("bind v", &named, vec![free.clone()], &[]),
        (
            "wait VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small",
            &named,
            vec![small],
            &[],
        ),
        ("bind v", &named, vec![of("c", "claim")], &[]),
        ("bind v", &named, vec![of("c", "")], &[]),
        (
            "wait FailedBinding: volume \"v\" already bound to a different claim.",
            &named,
            vec![of("other", "x")],
            &[],
        ),
        ("bind v", &done, vec![of("c", "claim")], &[]),
        ("bind v", &done, vec![free], &[]),
        ("lost ClaimLost", &done, vec![], &[]),
        ("lost ClaimMisbound", &done, vec![of("c", "before")], &[]),
    ] {
        assert_eq!(step(claim, &volumes, waiting), expected);
    }
    let unstated = claim(|c| {
        drop(
            c["spec"]
                .as_object_mut()
                .unwrap()
                .remove("storageClassName"),
        )
    });
    let classes = [
        class("old", "Immediate", false),
        class("best", "Immediate", true),
    ];
    let view = ClaimView {
        claim: &unstated,
        volumes: &[],
        classes: &classes,
        waiting: &[],
    };
    assert_eq!(claim_step(&view), ClaimStep::AssignClass("best".into()));
}

#[test]
fn what_becomes_of_a_volume() {
    let bound = |change: &dyn Fn(&mut Value)| {
        volume("v", |v| {
            v["spec"]["claimRef"] = json!({"namespace": "n", "name": "c", "uid": "claim"});
            change(v);
        })
    };
    let to = |name: &'static str| claim(move |c| c["spec"]["volumeName"] = name.into());
    let provisioned = bound(&|v| v["metadata"]["annotations"] = json!({PROVISIONED_BY: "p"}));
    let plain = bound(&|_| {});
    assert_eq!(
        volume_step(&volume("v", |_| {}), None),
        VolumeStep::Phase("Available")
    );
    assert_eq!(volume_step(&plain, None), VolumeStep::Reclaim);
    assert_eq!(
        volume_step(&plain, Some(&to("v"))),
        VolumeStep::Phase("Bound")
    );
    assert_eq!(volume_step(&plain, Some(&to("w"))), VolumeStep::Unbind);
    assert_eq!(
        volume_step(&provisioned, Some(&to("w"))),
        VolumeStep::Reclaim
    );
    assert_eq!(
        volume_step(&plain, Some(&claim(|_| {}))),
        VolumeStep::WakeClaim
    );
    let block = claim(|c| c["spec"]["volumeMode"] = "Block".into());
    assert!(matches!(
        volume_step(&plain, Some(&block)),
        VolumeStep::Mismatch(..)
    ));
    let kept = volume("v", |v| {
        v["spec"]["claimRef"] = json!({"namespace": "n", "name": "c"})
    });
    assert_eq!(
        volume_step(&kept, Some(&to("v"))),
        VolumeStep::Phase("Available")
    );
}

#[test]
fn binding_and_letting_go() {
    let (claim, free) = (claim(|_| {}), volume("v", |_| {}));
    let bound = bound_volume(&free, &claim).unwrap();
    assert!(bound_volume(&bound, &claim).is_none());
    assert!(annotation(&bound.metadata, BOUND_BY_CONTROLLER).is_some());
    let back = unbound_volume(&bound);
    assert!(claim_ref(&back).is_none());
    let kept = volume("v", |v| {
        v["spec"]["claimRef"] = json!({"namespace": "n", "name": "c"})
    });
    let completed = bound_volume(&kept, &claim).unwrap();
    assert!(annotation(&completed.metadata, BOUND_BY_CONTROLLER).is_none());
    let back = unbound_volume(&completed);
    assert_eq!(claim_ref(&back).unwrap().name.as_deref(), Some("c"));
    assert!(claim_ref(&back).unwrap().uid.is_none());
    let ours = bound_claim(&claim, &bound).unwrap();
    assert!(bound_claim(&ours, &bound).is_none());
    let status = claim_status(&ours, "Bound", Some(&bound)).unwrap();
    assert_eq!(status.capacity.as_ref().unwrap()[STORAGE].0, "5Gi");
    let mut there = ours.clone();
    there.status = Some(status);
    // It has grown, and what is in it has not yet.
    let sized = |size: &str| {
        let mut grown = bound.clone();
        let annotations = grown.metadata.annotations.get_or_insert_default();
        annotations.insert(PRE_RESIZE.to_owned(), size.to_owned());
        let status = claim_status(&ours, "Bound", Some(&grown)).unwrap();
        status.capacity.unwrap()[STORAGE].0.clone()
    };
    assert_eq!((sized("3Gi"), sized("x")), ("3Gi".into(), "5Gi".into()));
    assert!(claim_status(&there, "Bound", Some(&bound)).is_none());
    assert!(
        claim_status(&there, "Lost", None)
            .unwrap()
            .capacity
            .is_none()
    );
}

proptest! {
    /// A volume that is found is free or kept for the claim, and has what was asked for; a free one that fits is
    /// never passed over.
    #[test]
    fn what_is_found_fits(sizes in proptest::collection::vec((1_u32..12, any::<bool>(), any::<bool>()), 0..6), wanted in 1_u32..12) {
        let claim = claim(|c| c["spec"]["resources"]["requests"]["storage"] = format!("{wanted}Gi").into());
        let volumes: Vec<_> = sizes.iter().enumerate().map(|(n, (size, free, class))| volume(&format!("v{n}"), |v| {
            v["spec"]["capacity"]["storage"] = format!("{size}Gi").into();
            if !free {
                v["spec"]["claimRef"] = json!({"namespace": "n", "name": "other", "uid": "x"});
            }
            if !class {
                v["spec"]["storageClassName"] = "fast".into();
            }
        })).collect();
        let best = sizes.iter().filter(|(size, free, class)| *free && *class && *size >= wanted).map(|(size, _, _)| *size).min();
        let found = find(&claim, &volumes, false).map(|volume| capacity(volume).value() / (1 << 30));
        prop_assert_eq!(found, best.map(i64::from));
    }
}
