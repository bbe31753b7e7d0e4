//! Admission webhooks: who is asked what, and what becomes of the answers. Aggregated APIs have a module of their own.

mod aggregation;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use base64::Engine as _;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_testkit::{HttpsServer, TestCluster};

/// Makes the `response` of a review's `request`, without uid.
type Answer = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

/// A webhook that answers by a function and remembers what it was asked.
struct Webhook {
    server: HttpsServer,
    seen: Arc<Mutex<Vec<Value>>>,
}

#[derive(Clone)]
struct Shared {
    answer: Answer,
    seen: Arc<Mutex<Vec<Value>>>,
}

async fn review(State(shared): State<Shared>, body: axum::body::Bytes) -> String {
    let review: Value = serde_json::from_slice(&body).unwrap();
    let request = &review["request"];
    let mut response = (shared.answer)(request);
    response["uid"] = request["uid"].clone();
    shared.seen.lock().unwrap().push(review.clone());
    if let Some(wait) = response.get("wait").and_then(Value::as_u64) {
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response})
        .to_string()
}

impl Webhook {
    async fn start(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let seen = Arc::default();
        let shared = Shared {
            answer: Arc::new(answer),
            seen: Arc::clone(&seen),
        };
        let routes = Router::new().route("/", post(review)).with_state(shared);
        let names = ["127.0.0.1", "hooks.default.svc"];
        let server = HttpsServer::start(&names, routes).await.unwrap();
        Self { server, seen }
    }

    fn client_config(&self) -> Value {
        let bundle = base64::engine::general_purpose::STANDARD.encode(&self.server.certificate_pem);
        json!({"url": format!("https://{}/", self.server.address), "caBundle": bundle})
    }

    /// A webhook of a configuration, with changes.
    fn hook(&self, name: &str, rule: Value, changes: &Value) -> Value {
        let mut hook = json!({
            "name": name, "clientConfig": self.client_config(), "rules": [rule], "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        });
        for (key, value) in changes.as_object().unwrap() {
            hook[key] = value.clone();
        }
        hook
    }

    fn requests(&self) -> Vec<Value> {
        let mut seen = self.seen.lock().unwrap();
        std::mem::take(&mut *seen)
            .into_iter()
            .map(|review| review["request"].clone())
            .collect()
    }
}

fn rule(operations: &[&str], resource: &str) -> Value {
    json!({"operations": operations, "apiGroups": ["*"], "apiVersions": ["*"], "resources": [resource]})
}

fn patched(operations: &Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

fn from<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str, data: &Value) -> ConfigMap {
    from(json!({"metadata": {"name": name}, "data": data}))
}

async fn create<K: Clone + Serialize + DeserializeOwned + std::fmt::Debug>(
    api: &Api<K>,
    object: &K,
) -> Result<K, String> {
    told(api.create(&PostParams::default(), object).await)
}

fn told<T>(outcome: kube::Result<T>) -> Result<T, String> {
    outcome.map_err(|error| match error {
        kube::Error::Api(status) => {
            format!("{} {}: {}", status.code, status.reason, status.message)
        }
        error => panic!("{error}"),
    })
}

/// Makes a configuration of both sorts and waits until it is in force: a marker object of the test is asked about.
async fn configure(cluster: &TestCluster, mutating: &[Value], validating: &[Value]) {
    let marker =
        Webhook::start(|_| json!({"allowed": false, "status": {"message": "in force"}})).await;
    let selected = json!({"objectSelector": {"matchLabels": {"marker": "yes"}}});
    let last = |name: &str| marker.hook(name, rule(&["CREATE"], "configmaps"), &selected);
    // Each sort is compiled on its own, so each has its marker.
    let mut hooks = mutating.to_vec();
    hooks.push(last("marker.mutating.example.com"));
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    create(
        &configurations,
        &from(json!({"metadata": {"name": "test"}, "webhooks": hooks})),
    )
    .await
    .unwrap();
    in_force(cluster).await;
    let mut hooks = mutating.to_vec();
    hooks.truncate(mutating.len());
    let patch = json!({"webhooks": hooks});
    configurations
        .patch("test", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    let mut hooks = validating.to_vec();
    hooks.push(last("marker.validating.example.com"));
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    create(
        &configurations,
        &from(json!({"metadata": {"name": "test"}, "webhooks": hooks})),
    )
    .await
    .unwrap();
    in_force(cluster).await;
}

async fn in_force(cluster: &TestCluster) {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "kube-public");
    let marker = from(
        json!({"metadata": {"name": "marker", "labels": {"marker": "yes"}}, "data": {"a": "b"}}),
    );
    for _ in 0..500 {
        match create(&maps, &marker).await {
            Err(text) if text.contains("in force") => return,
            Err(text) => panic!("{text}"),
            Ok(_) => drop(
                maps.delete("marker", &DeleteParams::default())
                    .await
                    .unwrap(),
            ),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the configuration did not come into force");
}

#[tokio::test]
async fn a_validating_webhook_refuses_with_its_own_words_and_code() {
    let cluster = TestCluster::start().await.unwrap();
    let webhook = Webhook::start(|request| match request["object"]["data"]["say"].as_str() {
        Some("no") => json!({"allowed": false, "status": {"message": "it said no"}}),
        Some("reason") => json!({"allowed": false, "status": {"reason": "because of it"}}),
        Some("teapot") => json!({"allowed": false, "status": {"code": 418, "message": "tea"}}),
        Some("nothing") => json!({"allowed": false}),
        Some("warn") => json!({"allowed": true, "warnings": ["careful"]}),
        _ => json!({"allowed": true}),
    })
    .await;
    let hook = webhook.hook("deny.example.com", rule(&["*"], "configmaps"), &json!({}));
    configure(&cluster, &[], &[hook]).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let denied = "admission webhook \"deny.example.com\" denied the request";
    for (say, told) in [
        ("no", format!("400 : {denied}: it said no")),
        (
            "reason",
            format!("400 because of it: {denied}: because of it"),
        ),
        ("teapot", format!("418 : {denied}: tea")),
        ("nothing", format!("400 : {denied} without explanation")),
    ] {
        assert_eq!(
            create(&maps, &config_map("a", &json!({"say": say})))
                .await
                .unwrap_err(),
            told
        );
    }
    webhook.requests();
    create(&maps, &config_map("a", &json!({"say": "warn"})))
        .await
        .unwrap();
    let asked = webhook.requests().remove(0);
    assert_eq!(
        asked["kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    assert_eq!(
        asked["resource"],
        json!({"group": "", "version": "v1", "resource": "configmaps"})
    );
    assert_eq!(
        (&asked["namespace"], &asked["name"], &asked["operation"]),
        (&json!("default"), &json!("a"), &json!("CREATE"))
    );
    assert_eq!(asked["options"]["kind"], "CreateOptions");
    assert_eq!(asked["userInfo"]["username"], "kubernetes-admin");
    assert_eq!(
        (&asked["oldObject"], &asked["dryRun"]),
        (&Value::Null, &json!(false))
    );
    assert_eq!(asked["object"]["apiVersion"], "v1");
    // Updates by patch, with the object before.
    let patch = Patch::Merge(json!({"data": {"say": "no"}}));
    let refused = told(
        maps.patch("a", &PatchParams::default(), &patch)
            .await
            .map(drop),
    );
    assert_eq!(refused.unwrap_err(), format!("400 : {denied}: it said no"));
    let asked = webhook.requests().remove(0);
    assert_eq!(
        (&asked["operation"], &asked["oldObject"]["data"]["say"]),
        (&json!("UPDATE"), &json!("warn"))
    );
    assert_eq!(asked["options"]["kind"], "UpdateOptions");
    // Deletions, of a collection too.
    maps.delete("a", &DeleteParams::background()).await.unwrap();
    let asked = webhook.requests().remove(0);
    assert_eq!(
        (&asked["operation"], &asked["object"], &asked["name"]),
        (&json!("DELETE"), &Value::Null, &json!("a"))
    );
    assert_eq!(asked["oldObject"]["metadata"]["name"], "a");
    assert_eq!(
        asked["options"],
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "propagationPolicy": "Background"})
    );
    create(&maps, &config_map("b", &json!({}))).await.unwrap();
    webhook.requests();
    maps.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
    let asked = webhook.requests().remove(0);
    assert_eq!(
        (
            &asked["operation"],
            &asked["name"],
            &asked["oldObject"]["metadata"]["name"]
        ),
        (&json!("DELETE"), &Value::Null, &json!("b"))
    );
}

#[tokio::test]
async fn mutating_webhooks_follow_each_other_and_defaults_are_filled_in_again() {
    let cluster = TestCluster::start().await.unwrap();
    let first = Webhook::start(|request| {
        assert_eq!(
            request["object"]["metadata"]["uid"],
            Value::Null,
            "it is not made yet"
        );
        match request["object"]["data"]["start"].as_str() {
            Some(_) => patched(&json!([{"op": "add", "path": "/data/stage-1", "value": "yes"}])),
            None => json!({"allowed": true}),
        }
    })
    .await;
    let second = Webhook::start(
        |request| match request["object"]["data"]["stage-1"].as_str() {
            Some(_) => patched(&json!([{"op": "add", "path": "/data/stage-2", "value": "yes"}])),
            None => json!({"allowed": true}),
        },
    )
    .await;
    let pods = Webhook::start(|_| {
        patched(&json!([{"op": "add", "path": "/spec/initContainers", "value": [{"name": "added", "image": "i"}]}]))
    })
    .await;
    let hooks = [
        first.hook(
            "first.example.com",
            rule(&["CREATE"], "configmaps"),
            &json!({}),
        ),
        second.hook(
            "second.example.com",
            rule(&["CREATE"], "configmaps"),
            &json!({}),
        ),
        pods.hook("pods.example.com", rule(&["CREATE"], "pods"), &json!({})),
    ];
    configure(&cluster, &hooks, &[]).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let made = create(&maps, &config_map("a", &json!({"start": "yes"})))
        .await
        .unwrap();
    let data: Vec<String> = made.data.unwrap().into_keys().collect();
    assert_eq!(data, ["stage-1", "stage-2", "start"]);
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let api: Api<Pod> = Api::default_namespaced(cluster.client());
    let pod = from(
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    );
    let made = create(&api, &pod).await.unwrap();
    let added = &made.spec.unwrap().init_containers.unwrap()[0];
    assert_eq!(added.termination_message_policy.as_deref(), Some("File"));
    assert_eq!(added.image_pull_policy.as_deref(), Some("Always"));
    // Another way to begin a name: the webhook is not shown the name that is to be, and may not lose it.
    let generated = from(json!({"metadata": {"generateName": "g-"}, "data": {"start": "yes"}}));
    let made = create(&maps, &generated).await.unwrap();
    assert!(made.metadata.name.unwrap().starts_with("g-"));
}

#[tokio::test]
async fn a_webhook_is_asked_again_when_others_changed_the_object_after_it() {
    let cluster = TestCluster::start().await.unwrap();
    let counter = Webhook::start(|_| json!({"allowed": true})).await;
    let never = Webhook::start(|_| json!({"allowed": true})).await;
    let changer = Webhook::start(
        |request| match request["object"]["data"]["changed"].as_str() {
            None => patched(&json!([{"op": "add", "path": "/data/changed", "value": "yes"}])),
            Some(_) => json!({"allowed": true}),
        },
    )
    .await;
    let hooks = [
        counter.hook(
            "a.example.com",
            rule(&["CREATE"], "configmaps"),
            &json!({"reinvocationPolicy": "IfNeeded"}),
        ),
        never.hook("b.example.com", rule(&["CREATE"], "configmaps"), &json!({})),
        changer.hook(
            "c.example.com",
            rule(&["CREATE"], "configmaps"),
            &json!({"reinvocationPolicy": "IfNeeded"}),
        ),
    ];
    configure(&cluster, &hooks, &[]).await;
    for webhook in [&counter, &never, &changer] {
        webhook.requests();
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    create(&maps, &config_map("a", &json!({"x": "y"})))
        .await
        .unwrap();
    let asked = counter.requests();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1]["object"]["data"]["changed"], "yes");
    assert_eq!((never.requests().len(), changer.requests().len()), (1, 1));
}

#[tokio::test]
async fn selectors_policies_and_scopes_choose_who_is_asked() {
    let cluster = TestCluster::start().await.unwrap();
    let webhook = Webhook::start(|_| json!({"allowed": true})).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    create(
        &namespaces,
        &from(json!({"metadata": {"name": "chosen", "labels": {"team": "a"}}})),
    )
    .await
    .unwrap();
    let scalers = |version: &str| json!({"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": [version], "resources": ["horizontalpodautoscalers"]});
    let team = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    let chosen = json!({"objectSelector": {"matchLabels": {"pick": "me"}}});
    let hooks = [
        webhook.hook(
            "namespace.example.com",
            rule(&["CREATE"], "configmaps"),
            &team,
        ),
        webhook.hook(
            "object.example.com",
            rule(&["CREATE"], "configmaps"),
            &chosen,
        ),
        webhook.hook("equivalent.example.com", scalers("v1"), &json!({})),
        webhook.hook(
            "exact.example.com",
            scalers("v1"),
            &json!({"matchPolicy": "Exact"}),
        ),
        webhook.hook(
            "all.example.com",
            rule(&["CREATE"], "*/*"),
            &json!({"objectSelector": {"matchLabels": {"pick": "you"}}}),
        ),
    ];
    configure(&cluster, &[], &hooks).await;
    webhook.requests();
    let of = |namespace: &str| -> Api<ConfigMap> { Api::namespaced(cluster.client(), namespace) };
    create(&of("default"), &config_map("a", &json!({})))
        .await
        .unwrap();
    assert_eq!(webhook.requests().len(), 0);
    create(&of("chosen"), &config_map("a", &json!({})))
        .await
        .unwrap();
    assert_eq!(webhook.requests().len(), 1);
    create(
        &of("default"),
        &from(json!({"metadata": {"name": "b", "labels": {"pick": "me"}}})),
    )
    .await
    .unwrap();
    assert_eq!(webhook.requests().len(), 1);
    create(
        &of("default"),
        &from(json!({"metadata": {"name": "c", "labels": {"pick": "you"}}})),
    )
    .await
    .unwrap();
    assert_eq!(webhook.requests().len(), 1);
    let scaler: k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler = from(json!({
        "metadata": {"name": "s"}, "spec": {"maxReplicas": 3, "minReplicas": 1,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}}));
    create(&Api::default_namespaced(cluster.client()), &scaler)
        .await
        .unwrap();
    let asked = webhook.requests();
    assert_eq!(asked.len(), 1, "the exact one is for another version");
    assert_eq!(
        (
            &asked[0]["resource"]["version"],
            &asked[0]["requestResource"]["version"]
        ),
        (&json!("v1"), &json!("v2"))
    );
    assert_eq!(
        asked[0]["object"]["spec"]["targetCPUUtilizationPercentage"],
        50
    );
}

#[tokio::test]
async fn failures_end_the_request_or_are_passed_over() {
    let cluster = TestCluster::start().await.unwrap();
    let slow = Webhook::start(|_| json!({"allowed": true, "wait": 3000})).await;
    let wrong = Webhook::start(|_| json!({"allowed": true, "patchType": "JSONPatch"})).await;
    let only = |label: &str, more: Value| {
        let mut changes = json!({"objectSelector": {"matchLabels": {"for": label}}});
        for (key, value) in more.as_object().unwrap() {
            changes[key] = value.clone();
        }
        changes
    };
    let maps = rule(&["CREATE"], "configmaps");
    let gone = json!({"clientConfig": {"service": {"namespace": "default", "name": "gone", "path": "/x"}}});
    let hooks = [
        slow.hook(
            "slow.example.com",
            maps.clone(),
            &only("slow", json!({"timeoutSeconds": 1})),
        ),
        slow.hook(
            "ignored.example.com",
            maps.clone(),
            &only(
                "ignored",
                json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"}),
            ),
        ),
        wrong.hook("wrong.example.com", maps.clone(), &only("wrong", json!({}))),
        slow.hook("gone.example.com", maps.clone(), &only("gone", gone)),
        wrong.hook("effects.example.com", maps, &only("dry", json!({}))),
    ];
    configure(&cluster, &[], &hooks).await;
    let api: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let map = |label: &str| {
        from::<ConfigMap>(json!({"metadata": {"name": label, "labels": {"for": label}}}))
    };
    let text = create(&api, &map("slow")).await.unwrap_err();
    assert!(text.starts_with("500 InternalError: Internal error occurred: failed calling webhook \"slow.example.com\": failed to call webhook: Post \"https://127.0.0.1:"), "{text}");
    assert!(
        text.ends_with("/?timeout=1s\": context deadline exceeded"),
        "{text}"
    );
    create(&api, &map("ignored")).await.unwrap();
    assert_eq!(
        create(&api, &map("wrong")).await.unwrap_err(),
        "500 InternalError: Internal error occurred: failed calling webhook \"wrong.example.com\": received invalid webhook response: validating webhook may not return response.patchType"
    );
    assert_eq!(
        create(&api, &map("gone")).await.unwrap_err(),
        "500 InternalError: Internal error occurred: failed calling webhook \"gone.example.com\": failed to call webhook: Post \"https://gone.default.svc:443/x?timeout=10s\": service \"gone\" not found"
    );
}

#[tokio::test]
async fn a_service_is_reached_by_its_endpoints_and_its_own_name() {
    let cluster = TestCluster::start().await.unwrap();
    let webhook =
        Webhook::start(|_| json!({"allowed": false, "status": {"message": "by service"}})).await;
    let service: k8s_openapi::api::core::v1::Service = from(
        json!({"metadata": {"name": "hooks"}, "spec": {"ports": [{"name": "https", "port": 8443}]}}),
    );
    create(&Api::default_namespaced(cluster.client()), &service)
        .await
        .unwrap();
    let slice: k8s_openapi::api::discovery::v1::EndpointSlice = from(json!({
        "metadata": {"name": "hooks-1", "labels": {"kubernetes.io/service-name": "hooks"}}, "addressType": "IPv4",
        "ports": [{"name": "https", "port": webhook.server.address.port()}],
        "endpoints": [{"addresses": ["127.0.0.1"]}]}));
    // Written past validation, which refuses loopback addresses: the test's webhook has no other.
    let bytes = serde_json::to_vec(&slice).unwrap();
    cluster
        .store
        .create("/registry/endpointslices/default/hooks-1", bytes.into(), 0)
        .await
        .unwrap();
    let mut config = webhook.client_config();
    config.as_object_mut().unwrap().remove("url");
    config["service"] = json!({"namespace": "default", "name": "hooks", "port": 8443});
    let hook = webhook.hook(
        "service.example.com",
        rule(&["CREATE"], "configmaps"),
        &json!({"clientConfig": config,
        "objectSelector": {"matchLabels": {"for": "it"}}}),
    );
    configure(&cluster, &[], &[hook]).await;
    let api: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let map = from(json!({"metadata": {"name": "a", "labels": {"for": "it"}}}));
    let text = create(&api, &map).await.unwrap_err();
    assert_eq!(
        text,
        "400 : admission webhook \"service.example.com\" denied the request: by service"
    );
}

#[tokio::test]
async fn subresources_and_connections_are_admitted_as_what_they_are() {
    let cluster = TestCluster::start().await.unwrap();
    let webhook = Webhook::start(|request| match request["operation"].as_str() {
        Some("CONNECT") => {
            json!({"allowed": false, "status": {"message": "attaching is not allowed"}})
        }
        _ => json!({"allowed": true}),
    })
    .await;
    let hooks = [
        webhook.hook(
            "a.example.com",
            rule(&["CONNECT"], "pods/attach"),
            &json!({}),
        ),
        webhook.hook(
            "b.example.com",
            rule(&["*"], "deployments/scale"),
            &json!({}),
        ),
        webhook.hook(
            "c.example.com",
            rule(&["*"], "pods/*"),
            &json!({"failurePolicy": "Ignore"}),
        ),
    ];
    configure(&cluster, &[], &hooks).await;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let pod = from(
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    );
    create(&pods, &pod).await.unwrap();
    webhook.requests();
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let request = http::Request::post("/api/v1/namespaces/default/pods/p/binding")
        .body(binding.to_string().into_bytes())
        .unwrap();
    cluster.client().request::<Value>(request).await.unwrap();
    let asked = webhook.requests();
    assert_eq!(
        asked.len(),
        1,
        "what the server makes of a binding is not asked about: {asked:?}"
    );
    assert_eq!(
        (&asked[0]["kind"]["kind"], &asked[0]["subResource"]),
        (&json!("Binding"), &json!("binding"))
    );
    assert_eq!(asked[0]["object"]["target"]["name"], "n");
    let request =
        http::Request::get("/api/v1/namespaces/default/pods/p/attach?stdin=true&container=c")
            .body(Vec::new())
            .unwrap();
    let text = told(cluster.client().request::<Value>(request).await).unwrap_err();
    assert_eq!(
        text,
        "400 : admission webhook \"a.example.com\" denied the request: attaching is not allowed"
    );
    let asked = webhook.requests().remove(0);
    assert_eq!(
        asked["object"],
        json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true, "stdout": true, "stderr": true, "container": "c"})
    );
    assert_eq!(
        (&asked["options"], &asked["name"]),
        (&Value::Null, &json!("p"))
    );
    let deployment: k8s_openapi::api::apps::v1::Deployment = from(
        json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
    );
    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> =
        Api::default_namespaced(cluster.client());
    create(&deployments, &deployment).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
    deployments
        .patch_scale("d", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let asked = webhook.requests();
    let asked = asked.last().unwrap();
    assert_eq!(
        asked["kind"],
        json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
    );
    assert_eq!(
        (
            &asked["object"]["spec"]["replicas"],
            &asked["oldObject"]["spec"]["replicas"]
        ),
        (&json!(4), &json!(1))
    );
}

#[tokio::test]
async fn configurations_themselves_cannot_be_guarded_and_dry_runs_need_no_side_effects() {
    let cluster = TestCluster::start().await.unwrap();
    let webhook = Webhook::start(|_| json!({"allowed": false})).await;
    let all = json!({"operations": ["*"], "apiGroups": ["admissionregistration.k8s.io"], "apiVersions": ["*"], "resources": ["*/*"]});
    configure(
        &cluster,
        &[],
        &[webhook.hook("all.example.com", all, &json!({}))],
    )
    .await;
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    create(
        &configurations,
        &from(json!({"metadata": {"name": "other"}})),
    )
    .await
    .unwrap();
    configurations
        .delete("other", &DeleteParams::default())
        .await
        .unwrap();
    configurations
        .delete("test", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(webhook.requests().len(), 0);
}

#[tokio::test]
async fn match_conditions_choose_and_fail_by_the_failure_policy() {
    let cluster = TestCluster::start().await.unwrap();
    let webhook = Webhook::start(|_| json!({"allowed": true})).await;
    let conditions = |list: &[&str]| {
        let list: Vec<Value> = list
            .iter()
            .enumerate()
            .map(|(index, text)| json!({"name": format!("c{index}"), "expression": text}))
            .collect();
        json!({"matchConditions": list})
    };
    let maps = rule(&["CREATE"], "configmaps");
    let named = |name: &str| format!("object.metadata.name == '{name}'");
    let hooks = [
        webhook.hook(
            "skip.example.com",
            maps.clone(),
            &conditions(&["object.metadata.name != 'skip-me'", "request.namespace == 'default'"]),
        ),
        webhook.hook(
            "broken.example.com",
            maps.clone(),
            &conditions(&[&named("broken"), "object.data.missing == 'x'"]),
        ),
        webhook.hook(
            "allowed.example.com",
            maps,
            &conditions(&[&named("asked"), "authorizer.group('').resource('pods').namespace('default').check('create').allowed()"]),
        ),
    ];
    configure(&cluster, &hooks, &[]).await;
    webhook.requests();
    let api: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    create(&api, &config_map("plain", &json!({"a": "b"})))
        .await
        .unwrap();
    assert_eq!(webhook.requests().len(), 1);
    create(&api, &config_map("skip-me", &json!({"a": "b"})))
        .await
        .unwrap();
    assert_eq!(webhook.requests().len(), 0);
    create(&api, &config_map("asked", &json!({"a": "b"})))
        .await
        .unwrap();
    assert_eq!(webhook.requests().len(), 2);
    let text = create(&api, &config_map("broken", &json!({"a": "b"})))
        .await
        .unwrap_err();
    assert!(text.starts_with("403 Forbidden: configmaps \"broken\" is forbidden: expression 'object.data.missing == 'x''"), "{text}");
    // Expressions are read when they are written.
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let hook = webhook.hook(
        "bad.example.com",
        rule(&["CREATE"], "configmaps"),
        &conditions(&["1 +"]),
    );
    let text = create(
        &configurations,
        &from(json!({"metadata": {"name": "bad"}, "webhooks": [hook]})),
    )
    .await
    .unwrap_err();
    assert!(text.starts_with("422 Invalid: ") && text.contains("webhooks[0].matchConditions[0].expression: Invalid value: \"1 +\": compilation failed"), "{text}");
}
