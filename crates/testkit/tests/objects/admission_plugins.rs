//! Plugins that run only when they are asked for.

use serde_json::{Value, json};
use skiff_apiserver::{AdmissionChain, ApiServerConfig};
use skiff_testkit::{TestCluster, TestOptions};

use crate::requests::{patch, post};

async fn cluster(enable: &[&str], disable: &[&str], configurations: Value) -> TestCluster {
    let names =
        |list: &[&str]| -> Vec<String> { list.iter().map(|name| (*name).to_owned()).collect() };
    let configurations = serde_json::from_value(configurations).unwrap();
    let admission = AdmissionChain::new(&names(enable), &names(disable), &configurations).unwrap();
    TestCluster::start_with(TestOptions {
        config: ApiServerConfig {
            admission,
            ..ApiServerConfig::default()
        },
        ..TestOptions::default()
    })
    .await
    .unwrap()
}

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, spec: Value) -> Value {
    let mut whole =
        json!({"containers": [{"name": "a", "image": "i:1", "imagePullPolicy": "Never"}]});
    whole
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole})
}

#[tokio::test]
async fn pods_are_made_to_fit() {
    let cluster = cluster(
        &["AlwaysPullImages", "ExtendedResourceToleration", "PodNodeSelector", "PodTolerationRestriction",
            "LimitPodHardAntiAffinityTopology"],
        &["DefaultTolerationSeconds"],
        json!({"PodNodeSelector": {"podNodeSelectorPluginConfig": {"clusterDefaultNodeSelector": "disk=slow"}}}),
    )
    .await;
    let made = post(
        &cluster,
        PODS,
        pod(
            "a",
            json!({"containers": [{"name": "a", "image": "i:1", "imagePullPolicy": "Never",
        "resources": {"limits": {"example.com/gpu": "1"}}}]}),
        ),
    )
    .await;
    let spec = &made.object["spec"];
    assert_eq!(
        spec["containers"][0]["imagePullPolicy"], "Always",
        "{made:?}"
    );
    assert_eq!(spec["nodeSelector"], json!({"disk": "slow"}));
    assert_eq!(
        spec["tolerations"],
        json!([{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])
    );
    let conflict = post(
        &cluster,
        PODS,
        pod("b", json!({"nodeSelector": {"disk": "fast"}})),
    )
    .await;
    assert_eq!(
        conflict.error(),
        (
            403,
            "pods \"b\" is forbidden: pod node label selector conflicts with its namespace node label selector"
        )
    );
    let annotations = json!({"metadata": {"annotations": {
        "scheduler.alpha.kubernetes.io/node-selector": "",
        "scheduler.alpha.kubernetes.io/defaultTolerations": "[{\"key\": \"a\", \"operator\": \"Exists\"}]",
        "scheduler.alpha.kubernetes.io/tolerationsWhitelist": "[{\"key\": \"a\", \"operator\": \"Exists\"}]"}}});
    assert_eq!(
        patch(&cluster, "/api/v1/namespaces/default", annotations)
            .await
            .code,
        200
    );
    let made = post(&cluster, PODS, pod("c", json!({}))).await;
    assert_eq!(
        made.object["spec"]["tolerations"],
        json!([{"key": "a", "operator": "Exists"}])
    );
    assert_eq!(made.object["spec"]["nodeSelector"], Value::Null);
    let other = post(
        &cluster,
        PODS,
        pod(
            "d",
            json!({"tolerations": [{"key": "b", "operator": "Exists"}]}),
        ),
    )
    .await;
    assert_eq!(
        other.error(),
        (
            500,
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist"
        )
    );
    let wide = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "zone", "labelSelector": {}}]}}});
    assert_eq!(post(&cluster, PODS, pod("e", wide)).await.code, 403);
}

#[tokio::test]
async fn namespaces_come_by_themselves_and_events_are_counted() {
    let cluster = cluster(
        &["NamespaceAutoProvision", "EventRateLimit", "DenyServiceExternalIPs"],
        &[],
        json!({"EventRateLimit": {"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration",
            "limits": [{"type": "Namespace", "qps": 1, "burst": 2}]}}),
    )
    .await;
    let made = post(
        &cluster,
        "/api/v1/namespaces/new/configmaps",
        json!({"metadata": {"name": "a"}}),
    )
    .await;
    assert_eq!(made.code, 201, "{made:?}");
    let event = |name: &str| {
        json!({"metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"}, "reason": "r", "type": "Normal"})
    };
    let mut answers = Vec::new();
    for name in ["a", "b", "c"] {
        answers.push(post(&cluster, "/api/v1/namespaces/default/events", event(name)).await);
    }
    let codes: Vec<u16> = answers.iter().map(|answer| answer.code).collect();
    assert_eq!(codes, [201, 201, 429]);
    assert_eq!(
        answers[2].error().1,
        "Too many requests: limit reached on type Namespace for key default"
    );
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]}});
    let refused = post(&cluster, "/api/v1/namespaces/default/services", service).await;
    assert_eq!(
        refused.error(),
        (
            403,
            "services \"s\" is forbidden: Use of external IPs is denied by admission control"
        )
    );
}

#[tokio::test]
async fn a_pod_takes_the_zone_of_its_node() {
    let cluster = cluster(&[], &[], json!({})).await;
    let node = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z", "other": "x"}}});
    assert_eq!(post(&cluster, "/api/v1/nodes", node).await.code, 201);
    post(&cluster, PODS, pod("a", json!({}))).await;
    let bound = post(
        &cluster,
        &format!("{PODS}/a/binding"),
        json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}}),
    )
    .await;
    assert_eq!(bound.code, 201, "{bound:?}");
    let read = crate::requests::get(&cluster, &format!("{PODS}/a")).await;
    assert_eq!(
        read.object["metadata"]["labels"],
        json!({"topology.kubernetes.io/zone": "z"})
    );
}
