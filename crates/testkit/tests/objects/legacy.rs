//! Versions that upstream has removed, served where they are asked for.

use http::Method;
use serde_json::{Value, json};
use skiff_apiserver::{AdmissionChain, ApiServerConfig};
use skiff_testkit::{TestCluster, TestOptions};

use crate::requests::{get, patch, post, send};

async fn cluster(versions: &[&str]) -> TestCluster {
    let versions: Vec<String> = versions.iter().map(|name| (*name).to_owned()).collect();
    let enable = ["PodPreset".to_owned()];
    TestCluster::start_with(TestOptions {
        config: ApiServerConfig {
            kinds: skiff_api::runtime_config::served(&versions).unwrap(),
            admission: AdmissionChain::new(&enable, &[], &Default::default()).unwrap(),
            ..ApiServerConfig::default()
        },
        ..TestOptions::default()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_deployment_of_old_is_stored_as_a_new_one() {
    let cluster = cluster(&["extensions/v1beta1=true"]).await;
    let spec = json!({"replicas": 2, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let body = |version: &str, name: &str, spec: &Value| json!({"apiVersion": version, "kind": "Deployment", "metadata": {"name": name}, "spec": spec});
    let old_path = "/apis/extensions/v1beta1/namespaces/default/deployments";
    let new_path = "/apis/apps/v1/namespaces/default/deployments";
    let made = post(&cluster, old_path, body("extensions/v1beta1", "old", &spec)).await;
    assert_eq!(
        (made.code, &made.object["apiVersion"]),
        (201, &json!("extensions/v1beta1")),
        "{made:?}"
    );
    let mut twin = spec.clone();
    twin["selector"] = json!({"matchLabels": {"a": "b"}});
    let made = post(&cluster, new_path, body("apps/v1", "new", &twin)).await;
    assert_eq!(made.code, 201, "{made:?}");
    let read = |name: &'static str| {
        let cluster = &cluster;
        async move { get(cluster, &format!("{new_path}/{name}")).await.object }
    };
    assert_eq!(read("old").await["spec"], read("new").await["spec"]);

    // Both versions see both objects, and each can be changed through each.
    let listed = get(&cluster, old_path).await.object;
    assert_eq!(listed["apiVersion"], "extensions/v1beta1");
    assert_eq!(listed["kind"], "DeploymentList");
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    let changed = patch(
        &cluster,
        &format!("{old_path}/new"),
        json!({"spec": {"replicas": 5}}),
    )
    .await;
    assert_eq!(changed.code, 200, "{changed:?}");
    assert_eq!(read("new").await["spec"]["replicas"], 5);
    let mut whole = get(&cluster, &format!("{old_path}/old")).await.object;
    whole["spec"]["paused"] = true.into();
    let put = send(&cluster, Method::PUT, &format!("{old_path}/old"), &whole).await;
    assert_eq!(put.code, 200, "{put:?}");
    assert_eq!(read("old").await["spec"]["paused"], true);
    let scale = get(&cluster, &format!("{old_path}/old/scale")).await;
    assert_eq!(scale.object["spec"]["replicas"], 2, "{scale:?}");

    // Who is who: discovery, schemas, unknown fields.
    let groups = get(&cluster, "/apis/extensions").await.object;
    assert_eq!(
        groups["preferredVersion"]["groupVersion"],
        "extensions/v1beta1"
    );
    let resources = get(&cluster, "/apis/extensions/v1beta1").await.object;
    assert!(
        resources["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == "deployments/scale")
    );
    let schemas = get(&cluster, "/openapi/v3/apis/extensions/v1beta1")
        .await
        .object;
    let spec = &schemas["components"]["schemas"]["io.k8s.api.extensions.v1beta1.DeploymentSpec"];
    assert!(
        spec["properties"]["rollbackTo"].is_object() && spec["properties"]["template"].is_object()
    );
    let unknown = body("extensions/v1beta1", "x", &json!({"replica": 1}));
    let refused = post(
        &cluster,
        &format!("{old_path}?fieldValidation=Strict"),
        unknown,
    )
    .await;
    assert_eq!(
        refused.error(),
        (
            400,
            "Deployment in version \"v1beta1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replica\""
        )
    );
}

#[tokio::test]
async fn old_versions_are_not_served_unasked() {
    let cluster = TestCluster::start().await.unwrap();
    for path in [
        "/apis/extensions/v1beta1/deployments",
        "/apis/batch/v2alpha1/cronjobs",
        "/apis/settings.k8s.io/v1alpha1/podpresets",
    ] {
        assert_eq!(get(&cluster, path).await.code, 404, "{path}");
    }
    let groups = get(&cluster, "/apis").await.object.to_string();
    assert!(!groups.contains("extensions/"), "{groups}");
}

#[tokio::test]
async fn ingresses_budgets_and_cron_jobs_of_old() {
    let cluster = cluster(&["api/legacy=true"]).await;
    let ingress = json!({"apiVersion": "networking.k8s.io/v1beta1", "kind": "Ingress", "metadata": {"name": "i"},
        "spec": {"backend": {"serviceName": "s", "servicePort": 80}}});
    let made = post(
        &cluster,
        "/apis/networking.k8s.io/v1beta1/namespaces/default/ingresses",
        ingress.clone(),
    )
    .await;
    assert_eq!(made.code, 201, "{made:?}");
    let mut ingress = ingress;
    ingress["metadata"]["name"] = "j".into();
    ingress["apiVersion"] = "extensions/v1beta1".into();
    let made = post(
        &cluster,
        "/apis/extensions/v1beta1/namespaces/default/ingresses",
        ingress,
    )
    .await;
    assert_eq!(
        (made.code, &made.object["spec"]["backend"]["serviceName"]),
        (201, &json!("s")),
        "{made:?}"
    );
    let stored = get(
        &cluster,
        "/apis/networking.k8s.io/v1/namespaces/default/ingresses/i",
    )
    .await
    .object;
    assert_eq!(
        stored["spec"]["defaultBackend"],
        json!({"service": {"name": "s", "port": {"number": 80}}})
    );
    let job = json!({"spec": {"template": {"spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}}}});
    let cron = json!({"apiVersion": "batch/v2alpha1", "kind": "CronJob", "metadata": {"name": "c"},
        "spec": {"schedule": "*/1 * * * *", "jobTemplate": job}});
    let made = post(
        &cluster,
        "/apis/batch/v2alpha1/namespaces/default/cronjobs",
        cron,
    )
    .await;
    assert_eq!(
        (made.code, &made.object["spec"]["concurrencyPolicy"]),
        (201, &json!("Allow")),
        "{made:?}"
    );
    let table = get(&cluster, "/apis/batch/v1/namespaces/default/cronjobs/c")
        .await
        .object;
    assert_eq!(table["apiVersion"], "batch/v1");
    let managers: Vec<&Value> = table["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["apiVersion"])
        .collect();
    assert_eq!(managers, ["batch/v2alpha1"]);
}

#[tokio::test]
async fn presets_are_put_into_pods() {
    let cluster = cluster(&["settings.k8s.io/v1alpha1=true"]).await;
    let presets = "/apis/settings.k8s.io/v1alpha1/namespaces/default/podpresets";
    let preset = json!({"apiVersion": "settings.k8s.io/v1alpha1", "kind": "PodPreset", "metadata": {"name": "db"},
        "spec": {"selector": {"matchLabels": {"role": "web"}}, "env": [{"name": "DB_PORT", "value": "6379"}],
            "volumeMounts": [{"mountPath": "/cache", "name": "cache"}], "volumes": [{"name": "cache", "emptyDir": {}}]}});
    let made = post(&cluster, presets, preset).await;
    assert_eq!(made.code, 201, "{made:?}");
    let pod = |name: &str, role: &str| {
        json!({"metadata": {"name": name, "labels": {"role": role}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
    };
    let made = post(&cluster, "/api/v1/namespaces/default/pods", pod("a", "web")).await;
    assert_eq!(made.code, 201, "{made:?}");
    let container = &made.object["spec"]["containers"][0];
    assert_eq!(
        container["env"],
        json!([{"name": "DB_PORT", "value": "6379"}])
    );
    assert_eq!(
        made.object["spec"]["volumes"][0],
        json!({"name": "cache", "emptyDir": {}})
    );
    let other = post(&cluster, "/api/v1/namespaces/default/pods", pod("b", "db")).await;
    assert_eq!(other.object["spec"]["containers"][0]["env"], Value::Null);
    let empty = json!({"apiVersion": "settings.k8s.io/v1alpha1", "kind": "PodPreset", "metadata": {"name": "x"}, "spec": {"selector": {}}});
    assert_eq!(post(&cluster, presets, empty).await.code, 422);
}
