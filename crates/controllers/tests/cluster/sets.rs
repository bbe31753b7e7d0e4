//! What StatefulSets and DaemonSets bring about; the test plays scheduler and kubelet.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::running::{Running, make, start, told, until};

struct World {
    running: Running,
    pods: Api<Pod>,
    revisions: Api<ControllerRevision>,
}

impl World {
    async fn new() -> Self {
        let running = start().await;
        let client = running.cluster.client();
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        until("account", || async {
            accounts.get_opt("default").await.unwrap()
        })
        .await;
        Self {
            pods: Api::default_namespaced(client.clone()),
            revisions: Api::default_namespaced(client),
            running,
        }
    }

    /// All pods by name, with their first container's image; those that have no phase get Running and Ready first.
    async fn live(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for pod in self.pods.list(&ListParams::default()).await.unwrap() {
            let name = pod.metadata.name.clone().unwrap();
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            if phase == Some("Pending") {
                let ready = json!({"status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
                // It may be gone by now.
                let _ = self
                    .pods
                    .patch_status(&name, &PatchParams::default(), &Patch::Strategic(&ready))
                    .await;
            }
            let image = pod.spec.unwrap().containers.remove(0).image.unwrap();
            all.push((name, image));
        }
        all.sort();
        all
    }

    async fn until_pods(&self, expected: &[(&str, &str)]) {
        until(&format!("{expected:?}"), || async {
            let live = self.live().await;
            let live: Vec<_> = live.iter().map(|(a, b)| (&**a, &**b)).collect();
            (live == expected).then_some(())
        })
        .await;
    }

    async fn revisions(&self) -> Vec<i64> {
        let all = self.revisions.list(&ListParams::default()).await.unwrap();
        let mut numbers: Vec<_> = all.items.iter().map(|one| one.revision).collect();
        numbers.sort_unstable();
        numbers
    }
}

fn image(image: &str) -> Patch<Value> {
    Patch::Strategic(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}}),
    )
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_rolls_out_and_back_and_keeps_its_claims() {
    let world = World::new().await;
    let client = world.running.cluster.client();
    let sets: Api<StatefulSet> = Api::default_namespaced(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let params = PatchParams::default();
    make(&sets, json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}}, "template": template("db"),
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}}]}}))
    .await;
    world.until_pods(&[("db-0", "v1"), ("db-1", "v1")]).await;
    let pod = world.pods.get("db-1").await.unwrap();
    let labels = pod.metadata.labels.unwrap();
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
    let owner_kind = |claim: &'static str, kind: &'static str| {
        let claims = claims.clone();
        async move {
            let owners = claims
                .get_opt(claim)
                .await
                .unwrap()?
                .metadata
                .owner_references?;
            (owners.len() == 1 && owners[0].kind == kind).then_some(())
        }
    };
    until("the set owns a claim", || {
        owner_kind("data-db-1", "StatefulSet")
    })
    .await;

    sets.patch("db", &params, &image("v2")).await.unwrap();
    world.until_pods(&[("db-0", "v2"), ("db-1", "v2")]).await;
    until("the rollout is complete", || async {
        let status = sets.get("db").await.unwrap().status?;
        let done = status.current_revision == status.update_revision
            && status.updated_replicas == Some(2)
            && status.ready_replicas == Some(2);
        done.then_some(())
    })
    .await;
    assert_eq!(world.revisions().await, [1, 2]);
    // What `kubectl rollout undo` does.
    let first = world.revisions.list(&ListParams::default()).await.unwrap();
    let first = first
        .items
        .into_iter()
        .find(|one| one.revision == 1)
        .unwrap();
    let undo = Patch::Strategic(first.data.unwrap().0);
    sets.patch("db", &params, &undo).await.unwrap();
    world.until_pods(&[("db-0", "v1"), ("db-1", "v1")]).await;
    until("the first revision is the newest", || async {
        (world.revisions().await == [2, 3]).then_some(())
    })
    .await;

    // Scaled down, the claim goes with its pod.
    let one = Patch::Merge(json!({"spec": {"replicas": 1}}));
    sets.patch("db", &params, &one).await.unwrap();
    world.until_pods(&[("db-0", "v1")]).await;
    until("the second claim goes", || async {
        claims
            .get_opt("data-db-1")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    // A pod that has failed comes again under its name.
    let uid = world.pods.get("db-0").await.unwrap().metadata.uid;
    let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    world
        .pods
        .patch_status("db-0", &params, &failed)
        .await
        .unwrap();
    until("another db-0", || async {
        world.live().await;
        let found = world.pods.get_opt("db-0").await.unwrap()?;
        (found.metadata.uid != uid).then_some(())
    })
    .await;
    for text in [
        "Create Pod db-1 in StatefulSet db successful",
        "Create Claim data-db-1 Pod db-1 in StatefulSet db success",
    ] {
        told(&client, "default", text).await;
    }
    sets.delete("db", &DeleteParams::background())
        .await
        .unwrap();
    until("everything goes", || async {
        let pods = world.live().await;
        let claims = claims.list(&ListParams::default()).await.unwrap().items;
        (pods.is_empty() && claims.is_empty() && world.revisions().await.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_adopts_and_releases_pods() {
    let world = World::new().await;
    let sets: Api<StatefulSet> = Api::default_namespaced(world.running.cluster.client());
    let orphan = json!({"metadata": {"name": "db-0", "labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "old"}]}});
    make(&world.pods, orphan).await;
    let stranger = json!({"metadata": {"name": "other", "labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    make(&world.pods, stranger).await;
    make(&sets, json!({"metadata": {"name": "db"}, "spec": {"replicas": 1, "serviceName": "db",
        "updateStrategy": {"type": "OnDelete"}, "selector": {"matchLabels": {"app": "db"}}, "template": template("db")}}))
    .await;
    until("it is adopted", || async {
        world.live().await;
        let owners = world
            .pods
            .get("db-0")
            .await
            .unwrap()
            .metadata
            .owner_references?;
        (owners[0].kind == "StatefulSet").then_some(())
    })
    .await;
    let other = world.pods.get("other").await.unwrap();
    assert!(other.metadata.owner_references.is_none());
    let params = PatchParams::default();
    let label = Patch::Merge(json!({"metadata": {"labels": {"app": "none"}}}));
    world.pods.patch("db-0", &params, &label).await.unwrap();
    until("it is released", || async {
        let pod = world.pods.get("db-0").await.unwrap();
        pod.metadata.owner_references.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_follows_nodes_and_rolls_out_and_back() {
    let world = World::new().await;
    let client = world.running.cluster.client();
    let nodes: Api<Node> = Api::all(client.clone());
    let sets: Api<DaemonSet> = Api::default_namespaced(client);
    let params = PatchParams::default();
    let add = |name: &'static str| {
        let (nodes, params) = (nodes.clone(), params.clone());
        async move {
            make(
                &nodes,
                json!({"metadata": {"name": name, "labels": {"kind": "worker"}}}),
            )
            .await;
            let ready = Patch::Strategic(
                json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x", "message": "x",
                "lastHeartbeatTime": "2099-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
            );
            nodes.patch_status(name, &params, &ready).await.unwrap();
        }
    };
    add("n1").await;
    make(&sets, json!({"metadata": {"name": "agent"}, "spec": {"selector": {"matchLabels": {"app": "agent"}},
        "template": {"metadata": {"labels": {"app": "agent"}},
            "spec": {"nodeSelector": {"kind": "worker"}, "containers": [{"name": "c", "image": "v1"}]}}}}))
    .await;
    let on = |pod: Pod| {
        let terms = serde_json::to_value(pod.spec.unwrap().affinity).unwrap();
        let value = terms.pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0");
        value.unwrap().as_str().unwrap().to_owned()
    };
    let places = |image: &'static str, expected: &'static [&'static str]| {
        let (world, on) = (&world, &on);
        async move {
            until(&format!("{image} on {expected:?}"), || async {
                world.live().await;
                let pods = world.pods.list(&ListParams::default()).await.unwrap().items;
                let all = pods.iter().all(|pod| {
                    pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image)
                });
                let mut found: Vec<_> = pods.into_iter().map(on).collect();
                found.sort();
                (all && found == expected).then_some(())
            })
            .await;
        }
    };
    places("v1", &["n1"]).await;
    add("n2").await;
    places("v1", &["n1", "n2"]).await;
    sets.patch("agent", &params, &image("v2")).await.unwrap();
    places("v2", &["n1", "n2"]).await;
    assert_eq!(world.revisions().await, [1, 2]);
    sets.patch("agent", &params, &image("v1")).await.unwrap();
    places("v1", &["n1", "n2"]).await;
    assert_eq!(world.revisions().await, [2, 3]);
    let settled = |pods: i32| {
        let (world, sets) = (&world, &sets);
        async move {
            until("the status", || async {
                world.live().await;
                let set = sets.get("agent").await.unwrap();
                let status = set.status?;
                (status.desired_number_scheduled == pods
                    && status.number_available == Some(pods)
                    && status.updated_number_scheduled == Some(pods)
                    && status.observed_generation == set.metadata.generation)
                    .then_some(())
            })
            .await;
        }
    };
    // From here on nothing but the node's change makes the controller look: its pod was never bound.
    settled(2).await;
    let label = Patch::Merge(json!({"metadata": {"labels": {"kind": "spare"}}}));
    nodes.patch("n2", &params, &label).await.unwrap();
    places("v1", &["n1"]).await;
    settled(1).await;
    // A pod that has failed is replaced.
    let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    let name = world.live().await.remove(0).0;
    world
        .pods
        .patch_status(&name, &params, &failed)
        .await
        .unwrap();
    until("another pod", || async {
        let live = world.live().await;
        (live.len() == 1 && live[0].0 != name).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_made_by_hand_stays_beside_its_like_until_the_daemon_set_changes() {
    let world = World::new().await;
    let client = world.running.cluster.client();
    let sets: Api<DaemonSet> = Api::default_namespaced(client.clone());
    let revisions: Api<ControllerRevision> = Api::default_namespaced(client);
    let of = |app: &'static str, count: usize| {
        let revisions = revisions.clone();
        async move {
            let what = format!("{count} revisions of {app}");
            until(&what, || async {
                let wanted = ListParams::default().labels(&format!("app={app}"));
                let found = revisions.list(&wanted).await.unwrap().items;
                (found.len() == count).then_some(found)
            })
            .await
        }
    };
    let make_set = async |name: &str| {
        let spec = json!({"selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}});
        make(&sets, json!({"metadata": {"name": name}, "spec": spec})).await;
    };
    make_set("agent").await;
    let mut second = of("agent", 1).await.remove(0);
    second.metadata.name = Some("second".to_owned());
    second.metadata.resource_version = None;
    second.revision = 2;
    let params = PostParams::default();
    revisions.create(&params, &second).await.unwrap();
    // What woke the first set would have had its turn before this one.
    make_set("later").await;
    of("later", 1).await;
    of("agent", 2).await;
    let note = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    sets.patch("agent", &PatchParams::default(), &note)
        .await
        .unwrap();
    let left = of("agent", 1).await.remove(0);
    assert_eq!(left.metadata.name.as_deref(), Some("second"));
}
