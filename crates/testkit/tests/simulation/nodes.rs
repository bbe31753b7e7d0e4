//! What becomes of pods on simulated nodes.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_simulation::{SimulationConfig, plan};
use skiff_testkit::virtual_time;

use crate::scene::Scene;
use crate::world::{World, epoch};

const LIMIT: Duration = Duration::from_secs(1200);

fn when(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

#[test]
fn pods_leave_a_node_that_falls_silent() {
    virtual_time::run(epoch(), |clock| async move {
        let world = World::start(clock, SimulationConfig::of(6), vec![]).await;
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 30, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        });
        let path = "/apis/apps/v1/namespaces/default/deployments";
        world.ask("POST", path, &deployment).await.unwrap();
        let lost = "simulated-00002";
        let ready = |scene: &Scene, elsewhere: bool| {
            let serving = scene.pods().filter(|pod| pod.serves());
            serving
                .filter(|pod| !elsewhere || pod.node() != lost)
                .count()
        };
        let all = |scene: &Scene| when(ready(scene, false) == 30, "all are ready");
        world.until(LIMIT, all).await;
        assert!(
            world
                .journal
                .scene(|scene| scene.pods().any(|pod| pod.node() == lost))
        );

        let node = format!("/api/v1/nodes/{lost}");
        let silence = |value: Value| json!({"metadata": {"annotations": {(plan::SILENT): value}}});
        world
            .ask("PATCH", &node, &silence(json!("true")))
            .await
            .unwrap();
        // Their tolerations of 300 seconds pass, and others take their places.
        let replaced = |scene: &Scene| when(ready(scene, true) == 30, "they are replaced");
        world.until(LIMIT, replaced).await;
        assert!(world.clock.monotonic() > Duration::from_secs(340));
        // It comes back: what was deleted there goes at last.
        world
            .ask("PATCH", &node, &silence(Value::Null))
            .await
            .unwrap();
        let gone = |scene: &Scene| when(scene.pods().count() == 30, "its old pods are gone");
        world.until(LIMIT, gone).await;
        assert_eq!(world.journal.scene(|scene| ready(scene, false)), 30);
    });
}

#[test]
fn pods_end_as_their_annotations_say() {
    virtual_time::run(epoch(), |clock| async move {
        let world = World::start(clock, SimulationConfig::of(2), vec![]).await;
        let pods = "/api/v1/namespaces/default/pods";
        for (name, policy, code) in [
            ("good", "Never", "0"),
            ("bad", "Never", "4"),
            ("again", "OnFailure", "4"),
        ] {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "annotations": {(plan::RUN_FOR): "5", (plan::EXIT_CODE): code}},
                "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]},
            });
            world.ask("POST", pods, &pod).await.unwrap();
        }
        let ended = |scene: &Scene| {
            let is = |name: &str, phase: &str| {
                let pod = scene.find("pods", name);
                pod.is_some_and(|pod| pod.text("/status/phase") == phase)
            };
            let again = scene.find("pods", "again");
            let restarts = again.map_or(0, |pod| {
                pod.number("/status/containerStatuses/0/restartCount")
            });
            let done = is("good", "Succeeded") && is("bad", "Failed") && restarts >= 2;
            when(done, "each comes to its end")
        };
        world.until(LIMIT, ended).await;
        let again = format!("{pods}/again");
        world.ask("DELETE", &again, &Value::Null).await.unwrap();
        let gone = |scene: &Scene| when(scene.pods().count() == 2, "it is gone");
        world.until(LIMIT, gone).await;
    });
}
