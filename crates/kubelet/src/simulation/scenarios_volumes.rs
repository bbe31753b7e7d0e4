//! Pods and what they are shown: volumes, environments, tokens.

use serde_json::json;

use crate::simulation::world::World;

#[tokio::test]
async fn an_environment_that_is_not_there_yet() {
    let world = World::new();
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]);
    world.create_simple("p", json!({"env": env}), json!({}));
    world
        .until("waits", |w| {
            w.waiting("p", "c") == "CreateContainerConfigError"
        })
        .await;
    assert!(world.told("Failed: Error: configmap \"m\" not found"));
    // No time has to pass: the object's coming is noticed.
    world.cluster.put_config_map("m", &[("k", "v")]);
    world.until_running("p").await;
    let id = world.runtime.container("c").unwrap().id;
    let envs = world.runtime.state.lock().configs[&id].envs.clone();
    assert!(envs.iter().any(|e| e.key == "A" && e.value == b"v"));
}

#[tokio::test]
async fn a_volume_that_is_not_there_yet_and_then_changes() {
    let world = World::new();
    world.create_simple(
        "p",
        json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
        json!({"volumes": [{"name": "v", "configMap": {"name": "m"}}]}),
    );
    let message =
        "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found";
    world.until("told", |w| w.told(message)).await;
    assert!(world.runtime.log().is_empty());
    world.cluster.put_config_map("m", &[("k", "one")]);
    world.until_running("p").await;
    let file = world
        .root
        .path()
        .join("pods/uid-p/volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    world.cluster.put_config_map("m", &[("k", "two")]);
    world
        .until("updated", |_| {
            std::fs::read_to_string(&file).unwrap() == "two"
        })
        .await;
}

#[tokio::test]
async fn a_token_is_renewed() {
    let world = World::new();
    let source = json!({"serviceAccountToken": {"path": "token"}});
    world.create_simple(
        "p",
        json!({"volumeMounts": [{"name": "t", "mountPath": "/t"}]}),
        json!({"serviceAccountName": "acc", "volumes": [{"name": "t", "projected": {"sources": [source]}}]}),
    );
    world.until_running("p").await;
    let file = world
        .root
        .path()
        .join("pods/uid-p/volumes/kubernetes.io~projected/t/token");
    let first = std::fs::read_to_string(&file).unwrap();
    assert!(first.starts_with("token-acc-"));
    world.pass(150).await;
    world
        .until("renewed", |_| {
            std::fs::read_to_string(&file).unwrap() != first
        })
        .await;
}
