//! What admission adds to an object, and what it and validation refuse.

use k8s_openapi::api::core::v1::{LimitRange, PersistentVolumeClaim, Pod};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use skiff_testkit::TestCluster;

async fn create<K>(api: &Api<K>, object: Value) -> Result<K, String>
where
    K: serde::de::DeserializeOwned + serde::Serialize + Clone + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    match api.create(&PostParams::default(), &object).await {
        Ok(made) => Ok(made),
        Err(kube::Error::Api(status)) => Err(format!("{} {}", status.code, status.message)),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_claim_and_an_ingress_get_the_default_class() {
    let cluster = TestCluster::start().await.unwrap();
    let classes: Api<StorageClass> = Api::all(cluster.client());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(cluster.client());
    let claim = |name: &str, class: Value| {
        json!({"metadata": {"name": name}, "spec": {"storageClassName": class,
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let class_of = |claim: PersistentVolumeClaim| claim.spec.unwrap().storage_class_name;
    let made = create(&claims, claim("early", Value::Null)).await.unwrap();
    assert_eq!(class_of(made), None);
    for (name, mark) in [("std", "true"), ("other", "false")] {
        create(
            &classes,
            json!({"metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": mark}},
                "provisioner": "p.example.org"}),
        )
        .await
        .unwrap();
    }
    for (name, given, stored) in [
        ("none", Value::Null, Some("std")),
        ("empty", json!(""), Some("")),
        ("own", json!("other"), Some("other")),
    ] {
        let made = class_of(create(&claims, claim(name, given)).await.unwrap());
        assert_eq!(made.as_deref(), stored, "{name}");
    }

    let classes: Api<IngressClass> = Api::all(cluster.client());
    let ingresses: Api<Ingress> = Api::default_namespaced(cluster.client());
    create(
        &classes,
        json!({"metadata": {"name": "front", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
            "spec": {"controller": "example.org/front"}}),
    )
    .await
    .unwrap();
    for (name, annotations, stored) in [
        ("plain", json!({}), Some("front")),
        ("old", json!({"kubernetes.io/ingress.class": "x"}), None),
    ] {
        let made = create(
            &ingresses,
            json!({"metadata": {"name": name, "annotations": annotations},
                "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        )
        .await
        .unwrap();
        assert_eq!(made.spec.unwrap().ingress_class_name.as_deref(), stored);
    }
}

fn pod(name: &str, resources: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

#[tokio::test]
async fn limit_ranges_fill_in_what_containers_leave_out() {
    let cluster = TestCluster::start().await.unwrap();
    let ranges: Api<LimitRange> = Api::default_namespaced(cluster.client());
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    create(
        &ranges,
        json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Container",
            "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "2"}}]}}),
    )
    .await
    .unwrap();
    let made = create(&pods, pod("bare", &json!({}))).await.unwrap();
    assert_eq!(
        serde_json::to_value(&made.spec.unwrap().containers[0].resources).unwrap(),
        json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}})
    );
    assert_eq!(
        made.metadata.annotations.unwrap()["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
    );
    let made = create(
        &pods,
        pod("own", &json!({"limits": {"cpu": "1", "memory": "1Mi"}})),
    )
    .await
    .unwrap();
    assert_eq!(
        serde_json::to_value(&made.spec.unwrap().containers[0].resources).unwrap(),
        json!({"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "1", "memory": "1Mi"}})
    );
    assert!(made.metadata.annotations.is_none());
    let refused = create(&pods, pod("large", &json!({"limits": {"cpu": "3"}}))).await;
    assert_eq!(
        refused.unwrap_err(),
        "403 pods \"large\" is forbidden: maximum cpu usage per Container is 2, but limit is 3"
    );
}

#[tokio::test]
async fn limit_ranges_bound_pods_and_claims() {
    let cluster = TestCluster::start().await.unwrap();
    let ranges: Api<LimitRange> = Api::default_namespaced(cluster.client());
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(cluster.client());
    create(
        &ranges,
        json!({"metadata": {"name": "r"}, "spec": {"limits": [
            {"type": "Pod", "min": {"cpu": "100m"}, "max": {"memory": "1Gi"}, "maxLimitRequestRatio": {"cpu": "2"}},
            {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]}}),
    )
    .await
    .unwrap();
    for (name, resources, why) in [
        (
            "bare",
            json!({}),
            "[minimum cpu usage per Pod is 100m.  No request is specified, maximum memory usage per Pod is 1Gi.  No limit is specified, cpu max limit to request ratio per Pod is 2, but no request is specified or request is 0]",
        ),
        (
            "low",
            json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "100m", "memory": "1Gi"}}),
            "minimum cpu usage per Pod is 100m, but request is 50m",
        ),
        (
            "far",
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "250m", "memory": "1Gi"}}),
            "cpu max limit to request ratio per Pod is 2, but provided ratio is 2.500000",
        ),
    ] {
        let refused = create(&pods, pod(name, &resources)).await.unwrap_err();
        assert_eq!(refused, format!("403 pods \"{name}\" is forbidden: {why}"));
    }
    let good = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "1Gi"}});
    create(&pods, pod("good", &good)).await.unwrap();
    // A pod that is there already is not looked at again.
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    pods.patch("good", &PatchParams::default(), &label)
        .await
        .unwrap();

    let claim = |name: &str, size: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}}}})
    };
    create(&claims, claim("fits", "2Gi")).await.unwrap();
    for (name, size, why) in [
        (
            "small",
            "1Mi",
            "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi",
        ),
        (
            "large",
            "3Gi",
            "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi",
        ),
    ] {
        let refused = create(&claims, claim(name, size)).await.unwrap_err();
        assert_eq!(
            refused,
            format!("403 persistentvolumeclaims \"{name}\" is forbidden: {why}")
        );
    }
}

#[tokio::test]
async fn pods_take_over_the_overhead_of_their_runtime_class() {
    let cluster = TestCluster::start().await.unwrap();
    let classes: Api<RuntimeClass> = Api::all(cluster.client());
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    create(
        &classes,
        json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"memory": "64Mi"}}}),
    )
    .await
    .unwrap();
    let pod = |class: &str| {
        json!({"metadata": {"name": class}, "spec": {"runtimeClassName": class,
            "containers": [{"name": "c", "image": "i"}]}})
    };
    let made = create(&pods, pod("vm")).await.unwrap();
    let overhead = made.spec.unwrap().overhead.unwrap();
    assert_eq!(overhead["memory"].0, "64Mi");
    assert_eq!(
        create(&pods, pod("none")).await.unwrap_err(),
        "403 pods \"none\" is forbidden: pod rejected: RuntimeClass \"none\" not found"
    );
    let mut alone = pod("vm");
    alone["metadata"]["name"] = json!("alone");
    alone["spec"]["runtimeClassName"] = Value::Null;
    alone["spec"]["overhead"] = json!({"memory": "1Mi"});
    assert_eq!(
        create(&pods, alone).await.unwrap_err(),
        "403 pods \"alone\" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
    );
}

#[tokio::test]
async fn claims_grow_where_their_class_lets_them() {
    let cluster = TestCluster::start().await.unwrap();
    let classes: Api<StorageClass> = Api::all(cluster.client());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(cluster.client());
    let params = PatchParams::default();
    for (name, grows) in [("rigid", false), ("elastic", true)] {
        create(
            &classes,
            json!({"metadata": {"name": name}, "provisioner": "p.example.org", "allowVolumeExpansion": grows}),
        )
        .await
        .unwrap();
        create(
            &claims,
            json!({"metadata": {"name": name}, "spec": {"storageClassName": name, "volumeName": "v",
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .await
        .unwrap();
        let larger = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}));
        let bound = Patch::Merge(
            json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"]}}),
        );
        claims.patch_status(name, &params, &bound).await.unwrap();
        match claims.patch(name, &params, &larger).await {
            Ok(_) => assert!(grows),
            Err(error) => assert!(
                !grows
                    && error
                        .to_string()
                        .contains("only dynamically provisioned pvc can be resized"),
                "{error}"
            ),
        }
    }
}

/// That each kind's rules are in force; what they are is tested beside them.
#[tokio::test]
async fn further_kinds_are_validated() {
    let cluster = TestCluster::start().await.unwrap();
    let default = "/api/v1/namespaces/default";
    let group = |group: &str| format!("/apis/{group}/v1/namespaces/default");
    let cases = [
        (
            format!("{default}/limitranges"),
            json!({"spec": {"limits": [{"type": "Thing"}]}}),
            "spec.limits[0].type: Invalid value",
        ),
        (
            format!("{default}/resourcequotas"),
            json!({"spec": {"hard": {"odd": "1"}}}),
            "spec.hard[odd]: Invalid value",
        ),
        (
            "/api/v1/persistentvolumes".to_owned(),
            json!({"spec": {}}),
            "spec: Required value: must specify a volume type",
        ),
        (
            format!("{}/ingresses", group("networking.k8s.io")),
            json!({"spec": {}}),
            "either `defaultBackend` or `rules` must be specified",
        ),
        (
            format!("{}/networkpolicies", group("networking.k8s.io")),
            json!({"spec": {"podSelector": {}, "ingress": [{"from": [{}]}]}}),
            "spec.ingress[0].from[0]: Required value: must specify a peer",
        ),
        (
            "/apis/networking.k8s.io/v1/ingressclasses".to_owned(),
            json!({"spec": {"controller": "c"}}),
            "spec.controller: Invalid value",
        ),
        (
            format!("{}/horizontalpodautoscalers", group("autoscaling")),
            json!({"spec": {"maxReplicas": 1, "scaleTargetRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}}),
            "apiVersion must specify API group",
        ),
        (
            "/apis/node.k8s.io/v1/runtimeclasses".to_owned(),
            json!({"handler": "A"}),
            "handler: Invalid value",
        ),
        (
            "/apis/storage.k8s.io/v1/csidrivers".to_owned(),
            json!({"spec": {"fsGroupPolicy": "All"}}),
            "spec.fsGroupPolicy: Unsupported value",
        ),
        (
            "/apis/certificates.k8s.io/v1/certificatesigningrequests".to_owned(),
            json!({"spec": {"request": "", "signerName": "a/b/c"}}),
            "spec.usages: Required value",
        ),
    ];
    for (path, mut object, said) in cases {
        object["metadata"] = json!({"name": "x"});
        let request = http::Request::post(&path)
            .header("Content-Type", "application/json")
            .body(object.to_string().into_bytes())
            .unwrap();
        let answer = cluster.client().request::<Value>(request).await;
        match answer.unwrap_err() {
            kube::Error::Api(status) => assert!(
                status.code == 422 && status.message.contains(said),
                "{path}: {status:?}"
            ),
            error => panic!("{path}: {error}"),
        }
    }
}
