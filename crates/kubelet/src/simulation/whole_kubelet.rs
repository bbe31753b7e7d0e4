//! The component as it is wired, over a client and a runtime.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_base::{Random, Shutdown, SystemClock};

use crate::config::KubeletConfig;
use crate::server::streams::NoStreams;
use crate::simulation::api_server::ApiServer;
use crate::simulation::fake_runtime::FakeRuntime;

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), wait).await;
    assert!(outcome.is_ok(), "waited in vain: {what}");
}

fn condition(object: &Value, kind: &str) -> String {
    let list = object["status"]["conditions"].as_array();
    let mut found = list.into_iter().flatten().filter(|c| c["type"] == kind);
    let status = found
        .next()
        .map(|c| c["status"].as_str().unwrap_or_default());
    status.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn registers_runs_reports_and_cleans_up() {
    let api = ApiServer::new();
    let clock = SystemClock::shared();
    let runtime = FakeRuntime::new(clock.clone());
    runtime.state.lock().images.insert("img:1".into());
    let root = tempfile::tempdir().unwrap();
    let mut config = KubeletConfig::new("node", "192.168.0.1", root.path());
    config.cgroup_mount = root.path().join("no-cgroups");
    config.static_pod_dir = Some(root.path().join("manifests"));
    std::fs::create_dir(root.path().join("manifests")).unwrap();
    let kubelet = crate::component(
        api.client(),
        runtime.clone(),
        runtime.clone(),
        std::sync::Arc::new(NoStreams),
        config,
        clock,
        Random::seeded(1),
    );
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let running = tokio::spawn(async move { kubelet.run(stop).await });

    until("registered", || api.get("nodes", "", "node").is_some()).await;
    until("lease", || {
        api.get("leases", "kube-node-lease", "node").is_some()
    })
    .await;
    let node = api.get("nodes", "", "node").unwrap();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "node");
    assert_eq!(
        node["status"]["nodeInfo"]["kubeletVersion"],
        "v1.36.2+skiff"
    );

    let map = json!({"metadata": {"name": "m", "namespace": "ns"}, "data": {"k": "v1"}});
    api.put("configmaps", map.clone());
    api.put(
        "pods",
        json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u1"},
            "spec": {
                "nodeName": "node",
                "containers": [{
                    "name": "c", "image": "img:1", "imagePullPolicy": "Never",
                    "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                }],
                "volumes": [{"name": "v", "configMap": {"name": "m"}}],
            },
        }),
    );
    let pod = || api.get("pods", "ns", "p").unwrap_or_default();
    until("ready", || condition(&pod(), "Ready") == "True").await;
    assert_eq!(pod()["status"]["phase"], "Running");
    let reasons = || -> Vec<String> {
        let events = api.list("events").into_iter();
        events
            .map(|e| e["reason"].as_str().unwrap().to_owned())
            .collect()
    };
    until("events", || reasons().contains(&"Started".to_owned())).await;

    let file = root
        .path()
        .join("pods/u1/volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "v1");
    let mut changed = map;
    changed["data"]["k"] = json!("v2");
    api.put("configmaps", changed);
    until("updated", || {
        std::fs::read_to_string(&file).unwrap() == "v2"
    })
    .await;

    static_pods(&api, root.path()).await;

    let mut going = pod();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    going["metadata"]["deletionGracePeriodSeconds"] = json!(1);
    api.put("pods", going);
    until("deleted", || api.get("pods", "ns", "p").is_none()).await;
    until("nothing left", || {
        let state = runtime.state.lock();
        state.sandboxes.is_empty() && state.containers.is_empty()
    })
    .await;
    until("directory gone", || !root.path().join("pods/u1").exists()).await;

    shutdown.trigger();
    running.await.unwrap().unwrap();
}

/// A manifest comes, changes and goes.
async fn static_pods(api: &ApiServer, root: &std::path::Path) {
    let manifest = "metadata: {name: s}\nspec: {containers: [{name: sc, image: 'img:1', imagePullPolicy: Never}]}\n";
    std::fs::write(root.join("manifests/s.yaml"), manifest).unwrap();
    let mirror = || api.get("pods", "default", "s-node").unwrap_or_default();
    until("mirror is ready", || {
        condition(&mirror(), "Ready") == "True"
    })
    .await;
    let changed = manifest.replace("sc", "other");
    std::fs::write(root.join("manifests/s.yaml"), changed).unwrap();
    until("the new version", || {
        let pod = mirror();
        condition(&pod, "Ready") == "True"
            && pod["status"]["containerStatuses"][0]["name"] == "other"
    })
    .await;
    std::fs::remove_file(root.join("manifests/s.yaml")).unwrap();
    until("mirror gone", || mirror().is_null()).await;
}
