//! Somebody sets the clock by an hour, forward or back.

use serde_json::json;

use crate::simulation::world::World;

const HOUR: i64 = 3600;

#[tokio::test]
async fn a_crash_loop_goes_on_and_others_are_left_alone() {
    for step in [HOUR, -HOUR] {
        let world = World::new();
        world.create_simple("p", json!({}), json!({}));
        world.create_simple("calm", json!({"name": "calm"}), json!({}));
        world.until_running("p").await;
        world.until_running("calm").await;
        world.runtime.exit("c", 3);
        world
            .until("restarted", |w| w.restarts("p", "c") == 1 && w.ready("p"))
            .await;
        world.runtime.exit("c", 3);
        world
            .until("held", |w| w.waiting("p", "c") == "CrashLoopBackOff")
            .await;
        world.clock.step(step);
        // Whatever the clock says, a hold lasts no longer than it was meant to.
        world.pass(12).await;
        world
            .until("restarted again", |w| w.restarts("p", "c") == 2)
            .await;
        assert_eq!(world.restarts("calm", "calm"), 0);
        assert!(world.ready("calm"));
    }
}

#[tokio::test]
async fn a_pod_that_could_not_start_is_tried_again() {
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
    world.clock.step(-HOUR);
    world.runtime.state.lock().broken_images.clear();
    world.pass(20).await;
    world.until_running("p").await;
}

#[tokio::test]
async fn tokens_that_the_clock_made_useless_are_replaced() {
    for step in [HOUR, -HOUR] {
        let world = World::new();
        let source = json!({"serviceAccountToken": {"path": "token"}});
        world.create_simple(
            "p",
            json!({"volumeMounts": [{"name": "t", "mountPath": "/t"}]}),
            json!({"serviceAccountName": "acc", "volumes": [{"name": "t", "projected": {"sources": [source]}}]}),
        );
        world.until_running("p").await;
        let tokens = || world.cluster.state.lock().tokens;
        world.pass(2).await;
        let before = tokens();
        world.clock.step(step);
        // Workers look around once a minute, well before the token's 100 seconds are over.
        world.pass(62).await;
        world.until("a new token", |_| tokens() == before + 1).await;
    }
}
