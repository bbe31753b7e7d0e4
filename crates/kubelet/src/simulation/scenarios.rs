//! Whole lives of pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::simulation::world::World;

#[tokio::test]
async fn a_pod_runs_and_goes() {
    let world = World::new();
    world.create_simple(
        "p",
        json!({"env": [{"name": "A", "value": "1"}], "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}),
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    world.until_running("p").await;
    let status = world.pod("p").unwrap().status.unwrap();
    assert!(status.pod_ip.unwrap().starts_with("10.1.0."));
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.1"));
    let events = world.events();
    let reasons: Vec<&str> = events
        .iter()
        .map(|e| e.split(':').next().unwrap())
        .collect();
    assert_eq!(reasons, ["Pulled", "Created", "Started"]);
    let directory = world.root.path().join("pods/uid-p");
    assert!(directory.join("volumes/kubernetes.io~empty-dir/v").is_dir());
    world.delete("p", 30);
    world.until("deleted", |w| w.pod("p").is_none()).await;
    world
        .until("nothing left", |w| {
            w.runtime.state.lock().sandboxes.is_empty()
        })
        .await;
    world.until("directory gone", |_| !directory.exists()).await;
    let log = world.runtime.log();
    assert_eq!(log, ["sandbox", "start c", "exec bye", "stop c 30"]);
    assert!(world.told("Killing: Stopping container c"));
}

#[tokio::test]
async fn a_node_is_taken_down() {
    let mut world = World::new();
    let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}});
    world.create_simple("p", hook, json!({"terminationGracePeriodSeconds": 60}));
    world.until_running("p").await;
    world.stop_kubelet();
    let limit = std::time::Duration::from_secs(7);
    assert_eq!(world.manager.stop_all(limit).await, 1);
    let log = world.runtime.log();
    assert_eq!(log, ["sandbox", "start c", "exec bye", "stop c 7"]);
    // It is no deletion: the pod is there, and runs again with the next kubelet.
    assert_eq!(world.phase("p"), "Running");
    assert_eq!(world.manager.stop_all(limit).await, 0);
    world.start_kubelet().await;
    world.until("again", |w| w.restarts("p", "c") == 1).await;
    world.until_running("p").await;
}

#[tokio::test]
async fn an_idle_pod_is_left_alone() {
    let world = World::new();
    world.create_simple("p", json!({}), json!({}));
    world.until_running("p").await;
    world.pass(5).await;
    let patches = world.cluster.state.lock().patches;
    world.pass(120).await;
    assert_eq!(world.cluster.state.lock().patches, patches);
    assert_eq!(world.events().len(), 3);
}

#[tokio::test]
async fn init_containers_run_in_order() {
    let world = World::new();
    let c = |name: &str| json!({"name": name, "image": "img:1", "imagePullPolicy": "Never"});
    world.create(
        "p",
        json!({"initContainers": [c("i0"), c("i1")], "containers": [c("a"), c("b")]}),
    );
    world
        .until("first", |w| {
            w.runtime.container("i0").is_some_and(|c| c.state == 1)
        })
        .await;
    world
        .until("shown", |w| w.waiting("p", "a") == "PodInitializing")
        .await;
    assert!(world.runtime.container("i1").is_none());
    world.runtime.exit("i0", 1);
    world.until("again", |w| w.restarts("p", "i0") == 1).await;
    world.runtime.exit("i0", 0);
    world
        .until("second", |w| {
            w.runtime.container("i1").is_some_and(|c| c.state == 1)
        })
        .await;
    world.runtime.exit("i1", 0);
    world.until_running("p").await;
    let starts: Vec<String> = world.runtime.log();
    assert_eq!(
        starts,
        [
            "sandbox", "start i0", "start i0", "start i1", "start a", "start b"
        ]
    );
}

#[tokio::test]
async fn a_crash_loop_backs_off() {
    let world = World::new();
    world.create_simple("p", json!({}), json!({}));
    world.until_running("p").await;
    world.runtime.exit("c", 3);
    // The first restart comes at once.
    world
        .until("restarted", |w| w.restarts("p", "c") == 1 && w.ready("p"))
        .await;
    world.runtime.exit("c", 3);
    world
        .until("held", |w| w.waiting("p", "c") == "CrashLoopBackOff")
        .await;
    let status = world.status("p", "c").unwrap();
    let waiting = status.state.unwrap().waiting.unwrap();
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 10s restarting failed container=c pod=p_ns(uid-p)")
    );
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert_eq!(world.phase("p"), "Running");
    assert!(world.told("BackOff: Back-off restarting failed container c in pod p_ns(uid-p)"));
    world.pass(8).await;
    assert_eq!(world.restarts("p", "c"), 1);
    world.pass(3).await;
    world
        .until("restarted", |w| w.restarts("p", "c") == 2 && w.ready("p"))
        .await;
    world.runtime.exit("c", 3);
    world
        .until("held longer", |w| {
            let state = w
                .status("p", "c")
                .and_then(|s| s.state)
                .and_then(|s| s.waiting);
            state.is_some_and(|s| s.message.unwrap_or_default().contains("back-off 20s"))
        })
        .await;
}

#[tokio::test]
async fn a_missing_image() {
    let world = World::new();
    world.create_simple("p", json!({"image": "nowhere/x:1"}), json!({}));
    world
        .until("failed", |w| w.waiting("p", "c") == "ErrImagePull")
        .await;
    world.pass(6).await;
    world
        .until("backs off", |w| w.waiting("p", "c") == "ImagePullBackOff")
        .await;
    assert!(world.told("Pulling: Pulling image \"nowhere/x:1\""));
    assert!(world.told("Failed: Error: ErrImagePull"));
    assert!(world.told("BackOff: Back-off pulling image \"nowhere/x:1\""));
    assert_eq!(world.phase("p"), "Pending");
    world
        .runtime
        .state
        .lock()
        .images
        .insert("nowhere/x:1".into());
    world.pass(20).await;
    world.until_running("p").await;
}

#[tokio::test]
async fn an_image_that_may_not_be_pulled() {
    let world = World::new();
    world.create_simple(
        "p",
        json!({"image": "registry/x:1", "imagePullPolicy": "Never"}),
        json!({}),
    );
    world
        .until("refused", |w| w.waiting("p", "c") == "ErrImageNeverPull")
        .await;
    world.create_simple("q", json!({"image": "registry/x:1"}), json!({}));
    world.until_running("q").await;
    assert!(world.told("Successfully pulled image \"registry/x:1\" in 0ms (0ms including waiting). Image size: 1234 bytes."));
}

#[tokio::test]
async fn a_command_that_cannot_be_run() {
    let world = World::new();
    world
        .runtime
        .state
        .lock()
        .broken_images
        .insert("img:1".into());
    world.create_simple("p", json!({}), json!({}));
    world
        .until("shown", |w| w.waiting("p", "c") == "RunContainerError")
        .await;
    assert!(world.told("Failed: Error: exec: no such file or directory"));
    world.pass(40).await;
    let tries = world.runtime.state.lock().containers.len();
    assert!(tries <= 3, "{tries} containers");
    world.runtime.state.lock().broken_images.clear();
    world.pass(20).await;
    world.until_running("p").await;
}

#[tokio::test]
async fn a_pod_that_runs_once() {
    let world = World::new();
    let c = |name: &str, more: serde_json::Value| {
        let mut c = json!({"name": name, "image": "img:1", "imagePullPolicy": "Never"});
        for (k, v) in more.as_object().unwrap() {
            c[k] = v.clone();
        }
        c
    };
    world.create(
        "p",
        json!({
            "restartPolicy": "Never",
            "initContainers": [c("side", json!({"restartPolicy": "Always"}))],
            "containers": [c("work", json!({}))],
        }),
    );
    world.until_running("p").await;
    world.runtime.exit("work", 0);
    world.until("done", |w| w.phase("p") == "Succeeded").await;
    world
        .until("sidecar stopped", |w| {
            w.runtime.container("side").unwrap().state == 2
        })
        .await;
    assert_eq!(world.runtime.log().last().unwrap(), "stop side 30");
    // It stays until somebody deletes it.
    world.pass(100).await;
    assert!(world.runtime.container("work").is_some());
    world.delete("p", 30);
    world.until("deleted", |w| w.pod("p").is_none()).await;
    world
        .until("removed", |w| w.runtime.container("work").is_none())
        .await;
}

#[tokio::test]
async fn a_deadline_fails_the_pod() {
    let world = World::new();
    world.create_simple("p", json!({}), json!({"activeDeadlineSeconds": 30}));
    world.until_running("p").await;
    world.pass(29).await;
    assert_eq!(world.phase("p"), "Running");
    world.pass(3).await;
    world.until("failed", |w| w.phase("p") == "Failed").await;
    let status = world.pod("p").unwrap().status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert!(!world.ready("p"));
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts() {
    let world = World::new();
    let probe = json!({"exec": {"command": ["check"]}, "periodSeconds": 2, "failureThreshold": 2, "terminationGracePeriodSeconds": 7});
    world.create_simple("p", json!({"livenessProbe": probe}), json!({}));
    world.until_running("p").await;
    world.pass(10).await;
    assert_eq!(world.restarts("p", "c"), 0);
    world
        .runtime
        .state
        .lock()
        .exec_codes
        .insert("check".into(), 1);
    world.pass(4).await;
    world
        .until("restarted", |w| w.restarts("p", "c") == 1)
        .await;
    assert!(world.told("Unhealthy: Liveness probe failed: out"));
    assert!(world.told("Killing: Container c failed liveness probe, will be restarted"));
    assert!(world.runtime.log().contains(&"stop c 7".to_owned()));
}

#[tokio::test]
async fn readiness_and_startup() {
    let world = World::new();
    let codes = |startup: i32, ready: i32| {
        let mut state = world.runtime.state.lock();
        state.exec_codes.insert("up".into(), startup);
        state.exec_codes.insert("ready".into(), ready);
    };
    codes(1, 1);
    let probe = |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 20});
    world.create_simple(
        "p",
        json!({"startupProbe": probe("up"), "readinessProbe": probe("ready")}),
        json!({}),
    );
    world.until("running", |w| w.phase("p") == "Running").await;
    world.pass(3).await;
    assert_eq!(world.status("p", "c").unwrap().started, Some(false));
    assert!(!world.runtime.log().contains(&"exec ready".to_owned()));
    codes(0, 1);
    world.pass(2).await;
    world
        .until("started", |w| {
            w.status("p", "c").unwrap().started == Some(true)
        })
        .await;
    assert!(!world.ready("p"));
    codes(0, 0);
    world.pass(2).await;
    world.until_running("p").await;
    codes(0, 1);
    world.pass(22).await;
    world.until("not ready", |w| !w.ready("p")).await;
    assert_eq!(world.restarts("p", "c"), 0);
}

#[tokio::test]
async fn a_new_kubelet_finds_everything_running() {
    let mut world = World::new();
    for name in ["p", "q", "r"] {
        world.create_simple(name, json!({}), json!({}));
        world.until_running(name).await;
    }
    let before = world.runtime.state.lock().containers.clone();
    world.stop_kubelet();
    world.pass(5).await;
    // Meanwhile one pod is deleted for good, and a container of another ends.
    world.cluster.drop_pod("r");
    let q = world
        .pod("q")
        .unwrap()
        .status
        .unwrap()
        .container_statuses
        .unwrap()[0]
        .container_id
        .clone()
        .unwrap();
    let log = world.runtime.log().len();
    world.start_kubelet().await;
    world
        .until("orphan gone", |w| {
            w.runtime.state.lock().sandboxes.len() == 2
        })
        .await;
    world.pass(5).await;
    let after = world.runtime.state.lock().containers.clone();
    assert_eq!(after.len(), 2);
    for (id, container) in after {
        assert_eq!(before[&id].started_at, container.started_at);
    }
    assert_eq!(world.restarts("p", "c"), 0);
    let now = world.status("q", "c").unwrap().container_id.unwrap();
    assert_eq!(now, q);
    assert_eq!(world.runtime.log()[log..], ["stop c 30"]);
}

#[tokio::test]
async fn less_time_to_end_than_before() {
    let world = World::new();
    world.runtime.state.lock().stubborn.insert("c".into());
    world.create_simple(
        "p",
        json!({}),
        json!({"terminationGracePeriodSeconds": 1000}),
    );
    world.until_running("p").await;
    world.delete("p", 1000);
    world
        .until("stopping", |w| {
            w.runtime.log().contains(&"stop c 1000".to_owned())
        })
        .await;
    world.pass(5).await;
    assert!(world.pod("p").is_some());
    world.delete("p", 3);
    world
        .until("hurried", |w| {
            w.runtime.log().contains(&"stop c 3".to_owned())
        })
        .await;
    world.pass(5).await;
    world.until("deleted", |w| w.pod("p").is_none()).await;
}

fn asks_for_all() -> serde_json::Value {
    let code = json!({"operator": "In", "values": [3]});
    json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "img:1", "imagePullPolicy": "IfNotPresent"}],
        "containers": [
            {"name": "a", "image": "img:1", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Never",
             "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": code}]},
            {"name": "b", "image": "img:1", "imagePullPolicy": "IfNotPresent"},
        ],
    })
}

#[tokio::test]
async fn one_container_restarts_all() {
    let mut world = World::new();
    world.create("p", asks_for_all());
    let runs = |w: &World, attempt: u32| {
        let found = w.runtime.container("i");
        found.is_some_and(|i| i.metadata.unwrap().attempt == attempt && i.finished_at == 0)
    };
    world.until("first", |w| runs(w, 0)).await;
    world.runtime.exit("i", 0);
    world.until_running("p").await;
    world.runtime.exit("a", 3);
    world.until("again", |w| runs(w, 1)).await;
    // Neither the sandbox nor its volumes were made anew; nobody was given time, and nothing is held back.
    assert_eq!(
        world.runtime.log(),
        [
            "sandbox", "start i", "start a", "start b", "stop b 0", "start i"
        ]
    );
    world.runtime.exit("i", 0);
    world.until_running("p").await;
    world
        .until("counted", |w| {
            w.restarts("p", "a") == 1 && w.restarts("p", "b") == 1
        })
        .await;
    assert!(world.told("Killing: killing"));
    // A kubelet that was away finds that it was asked for.
    world.stop_kubelet();
    world.runtime.exit("a", 3);
    world.start_kubelet().await;
    world.until("once more", |w| runs(w, 2)).await;
    world.runtime.exit("i", 0);
    world.until_running("p").await;
    world
        .until("counted", |w| {
            w.restarts("p", "a") == 2 && w.restarts("p", "b") == 2
        })
        .await;
    world.runtime.exit("a", 0);
    world.runtime.exit("b", 0);
    world.until("over", |w| w.phase("p") == "Succeeded").await;
}

fn node(disk: &str) -> Node {
    let node = json!({"metadata": {"name": "node", "labels": {"disk": disk}}});
    serde_json::from_value(node).unwrap()
}

#[tokio::test]
async fn a_label_that_only_the_scheduler_has_seen_yet_counts() {
    let world = World::new();
    world.cluster.state.lock().node_seen = Some(Arc::new(node("slow")));
    world.cluster.state.lock().node = Some(node("fast"));
    world.create_simple("p", json!({}), json!({"nodeSelector": {"disk": "fast"}}));
    world.until_running("p").await;
    assert!(!world.told("NodeAffinity"));
    world.create_simple("q", json!({}), json!({"nodeSelector": {"disk": "none"}}));
    world.until("failed", |w| w.phase("q") == "Failed").await;
    let status = world.pod("q").unwrap().status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NodeAffinity"));
    assert!(world.told("NodeAffinity: Predicate NodeAffinity failed"));
}

#[tokio::test]
async fn without_an_answer_the_labels_seen_last_decide() {
    let world = World::new();
    world.cluster.state.lock().node_seen = Some(Arc::new(node("slow")));
    world.create_simple("p", json!({}), json!({"nodeSelector": {"disk": "fast"}}));
    world.until("failed", |w| w.phase("p") == "Failed").await;
    assert!(world.runtime.log().is_empty());
}

#[tokio::test]
async fn a_pod_that_does_not_fit_is_refused() {
    let world = World::new();
    let cpu = json!({"resources": {"requests": {"cpu": "3"}}});
    world.create_simple("p", cpu.clone(), json!({}));
    world.until_running("p").await;
    world.create_simple("q", cpu, json!({}));
    world.until("failed", |w| w.phase("q") == "Failed").await;
    let status = world.pod("q").unwrap().status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert!(status.container_statuses.is_none());
    assert_eq!(
        status.message.as_deref(),
        Some(
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 3000, capacity: 4000"
        )
    );
}
