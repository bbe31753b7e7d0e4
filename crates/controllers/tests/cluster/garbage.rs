//! Deletion of owners: background, foreground, orphan, circles, and many dependents.

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::running::{Running, make, start, told, until};

struct Maps {
    _running: Running,
    client: kube::Client,
    maps: Api<ConfigMap>,
}

impl Maps {
    async fn new() -> Self {
        let running = start().await;
        let client = running.cluster.client();
        Self {
            maps: Api::namespaced(client.clone(), "default"),
            client,
            _running: running,
        }
    }

    /// A ConfigMap that these own.
    async fn make(&self, name: &str, owners: &[&ConfigMap], more: Value) -> ConfigMap {
        let references: Vec<Value> = owners.iter().map(|owner| reference(owner)).collect();
        let mut map = json!({"metadata": {"name": name, "ownerReferences": references}});
        for (key, value) in more.as_object().into_iter().flatten() {
            map["metadata"][key] = value.clone();
        }
        make(&self.maps, map).await
    }

    async fn patch(&self, name: &str, metadata: Value) {
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let parameters = PatchParams::default();
        self.maps.patch(name, &parameters, &patch).await.unwrap();
    }

    async fn gone(&self, name: &str) {
        until(&format!("{name} goes"), || async {
            self.maps
                .get_opt(name)
                .await
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
    }

    async fn owners(&self, name: &str) -> Vec<String> {
        let map = self.maps.get(name).await.unwrap();
        let owners = map.metadata.owner_references.unwrap_or_default();
        owners.into_iter().map(|owner| owner.name).collect()
    }
}

fn reference(owner: &ConfigMap) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.metadata.name,
        "uid": owner.metadata.uid, "blockOwnerDeletion": true})
}

#[tokio::test(flavor = "multi_thread")]
async fn background_takes_the_dependents_that_have_no_other_owner() {
    let world = Maps::new().await;
    let (a, b) = (
        world.make("a", &[], json!({})).await,
        world.make("b", &[], json!({})).await,
    );
    let only = world.make("of-a", &[&a], json!({})).await;
    world.make("of-of-a", &[&only], json!({})).await;
    world.make("of-both", &[&a, &b], json!({})).await;
    let delete = DeleteParams::background();
    world.maps.delete("a", &delete).await.unwrap();
    world.gone("of-a").await;
    world.gone("of-of-a").await;
    until("the reference to what is gone is taken off", || async {
        (world.owners("of-both").await == ["b"]).then_some(())
    })
    .await;
    world.maps.delete("b", &delete).await.unwrap();
    world.gone("of-both").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreground_waits_for_those_that_block() {
    let world = Maps::new().await;
    let a = world.make("a", &[], json!({})).await;
    let held = json!({"finalizers": ["example.com/hold"]});
    world.make("held", &[&a], held).await;
    world.make("free", &[&a], json!({})).await;
    let delete = DeleteParams::foreground();
    world.maps.delete("a", &delete).await.unwrap();
    world.gone("free").await;
    until("the held one is to go", || async {
        let held = world.maps.get("held").await.unwrap();
        held.metadata.deletion_timestamp
    })
    .await;
    let waiting = world.maps.get("a").await.unwrap();
    assert_eq!(waiting.metadata.finalizers.unwrap(), ["foregroundDeletion"]);
    world.patch("held", json!({"finalizers": null})).await;
    world.gone("held").await;
    world.gone("a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreground_lets_go_of_what_another_owner_keeps() {
    let world = Maps::new().await;
    let (a, b) = (
        world.make("a", &[], json!({})).await,
        world.make("b", &[], json!({})).await,
    );
    world.make("of-both", &[&a, &b], json!({})).await;
    let delete = DeleteParams::foreground();
    world.maps.delete("a", &delete).await.unwrap();
    world.gone("a").await;
    assert_eq!(world.owners("of-both").await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_stay_without_their_owner() {
    let world = Maps::new().await;
    let a = world.make("a", &[], json!({})).await;
    world.make("left", &[&a], json!({})).await;
    // The collector learns of dependents by watching: it has seen this one when it has collected a later one.
    let absent = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "none"}]);
    world
        .make("later", &[], json!({"ownerReferences": absent}))
        .await;
    world.gone("later").await;
    let delete = DeleteParams::orphan();
    world.maps.delete("a", &delete).await.unwrap();
    world.gone("a").await;
    assert!(world.owners("left").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_goes_in_the_foreground() {
    let world = Maps::new().await;
    let a = world.make("a", &[], json!({})).await;
    let b = world.make("b", &[&a], json!({})).await;
    let c = world.make("c", &[&b], json!({})).await;
    world
        .patch("a", json!({"ownerReferences": [reference(&c)]}))
        .await;
    let delete = DeleteParams::foreground();
    world.maps.delete("a", &delete).await.unwrap();
    for name in ["a", "b", "c"] {
        world.gone(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_in_another_namespace_is_none_and_people_are_told() {
    let world = Maps::new().await;
    let a = world.make("a", &[], json!({})).await;
    let other: Api<ConfigMap> = Api::namespaced(world.client.clone(), "kube-system");
    make(
        &other,
        json!({"metadata": {"name": "stray", "ownerReferences": [reference(&a)]}}),
    )
    .await;
    until("the stray goes", || async {
        other
            .get_opt("stray")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    // A cluster-scoped object cannot have an owner in a namespace; it is left alone.
    let nodes: Api<Node> = Api::all(world.client.clone());
    make(
        &nodes,
        json!({"metadata": {"name": "n", "ownerReferences": [reference(&a)]}}),
    )
    .await;
    for (namespace, expected) in [("kube-system", "kube-system"), ("default", "")] {
        let uid = a.metadata.uid.clone().unwrap();
        let text = format!(
            "ownerRef [v1/ConfigMap, namespace: {expected}, name: a, uid: {uid}] does not exist in namespace {expected:?}"
        );
        told(&world.client, namespace, &text).await;
    }
    assert!(nodes.get_opt("n").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_dependents_go() {
    let world = Maps::new().await;
    let a = world.make("a", &[], json!({})).await;
    let names: Vec<String> = (0..1000).map(|n| format!("d{n}")).collect();
    for names in names.chunks(50) {
        let owners = [&a];
        let makes = names
            .iter()
            .map(|name| world.make(name, &owners, json!({})));
        futures::future::join_all(makes).await;
    }
    let delete = DeleteParams::background();
    world.maps.delete("a", &delete).await.unwrap();
    until("all go", || async {
        let left = world
            .maps
            .list_metadata(&ListParams::default())
            .await
            .unwrap();
        let mut names = left
            .items
            .iter()
            .filter_map(|map| map.metadata.name.as_deref());
        names.all(|name| !name.starts_with('d')).then_some(())
    })
    .await;
}
