//! The `skiff image` commands on real archives.

use crate::cluster::{Cluster, cannot_run, eventually, text};
use crate::image::BUSYBOX;

#[test]
fn an_imported_image_runs_and_leaves_again() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("image");
    cluster.import_busybox();
    let list = |cluster: &Cluster| text(&cluster.skiff(&["image", "ls"]));
    assert!(list(&cluster).contains("skiff.test/busybox"));
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: echo}}
spec: {{restartPolicy: Never, containers: [{{name: c, image: '{BUSYBOX}', command: [echo, hello]}}]}}"
    ));
    eventually("the end of the pod", || {
        cluster.ask(&["get", "pod", "echo", "-o", "jsonpath={.status.phase}"]) == "Succeeded"
    });
    assert_eq!(cluster.ask(&["logs", "echo"]), "hello\n");
    cluster.ask(&["delete", "pod", "echo"]);
    let output = cluster.skiff(&["image", "rm", BUSYBOX]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!list(&cluster).contains("skiff.test/busybox"));
}
