//! Tokens and reviews, what a deletion says of dependents, watches of what is forgotten, tables, discovery: as requests on the wire.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_apiserver::authn::{Authentication, Tokens};
use skiff_apiserver::authz::Authorization;
use skiff_base::{Random, SystemClock};
use skiff_testkit::TestCluster;
use tower::ServiceExt;

const JSON: &str = "application/json";

/// The answer's code and body.
async fn ask(cluster: &TestCluster, method: &str, path: &str, body: &Value) -> (u16, Value) {
    ask_as(cluster, "admin", "system:masters", method, path, body, JSON).await
}

async fn ask_as(
    cluster: &TestCluster,
    user: &str,
    group: &str,
    method: &str,
    path: &str,
    body: &Value,
    accept: &str,
) -> (u16, Value) {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, accept)
        .header(CONTENT_TYPE, JSON)
        .body(http_body_util::Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let service = cluster.server.in_process(UserInfo::new(user, &[group]));
    let answer = service.oneshot(request).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// A cluster whose server makes and reads tokens.
async fn with_tokens() -> TestCluster {
    let cluster = TestCluster::start().await.unwrap();
    let (store, clock) = (cluster.store.clone(), SystemClock::shared());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let tokens = Tokens::new(&key, "https://issuer", store.clone(), clock.clone()).unwrap();
    let tokens = Arc::new(tokens);
    cluster.server.set_token_issuer(tokens.clone());
    let authentication = Authentication::new(tokens, store, clock, true);
    cluster.server.set_authenticator(Arc::new(authentication));
    cluster
}

#[tokio::test]
async fn a_token_is_who_it_says_and_may_what_its_account_may() {
    let cluster = with_tokens().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "robot"}});
    let (code, made) = ask(&cluster, "POST", accounts, &account).await;
    assert_eq!(code, 201);
    let path = format!("{accounts}/robot/token");
    let (code, granted) = ask(
        &cluster,
        "POST",
        &path,
        &json!({"spec": {"expirationSeconds": 900}}),
    )
    .await;
    assert_eq!(code, 201, "{granted}");
    let token = granted["status"]["token"].as_str().unwrap();
    let (code, refused) = ask(
        &cluster,
        "POST",
        &path,
        &json!({"spec": {"expirationSeconds": 5}}),
    )
    .await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(
        refused["details"]["causes"][0]["field"],
        "spec.expirationSeconds"
    );

    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = |token: &str| json!({"spec": {"token": token}});
    let (code, seen) = ask(&cluster, "POST", reviews, &review(token)).await;
    assert_eq!(code, 201);
    assert_eq!(seen["status"]["authenticated"], true, "{seen}");
    let user = &seen["status"]["user"];
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(user["uid"], made["metadata"]["uid"]);
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[2] = "AAAA";
    for wrong in [parts.join("."), "x".to_owned()] {
        let (_, seen) = ask(&cluster, "POST", reviews, &review(&wrong)).await;
        assert_ne!(seen["status"]["authenticated"], true, "{seen}");
    }
    // A token goes with its account.
    ask(
        &cluster,
        "DELETE",
        &format!("{accounts}/robot"),
        &Value::Null,
    )
    .await;
    let (_, seen) = ask(&cluster, "POST", reviews, &review(token)).await;
    assert_ne!(seen["status"]["authenticated"], true, "{seen}");
}

#[tokio::test]
async fn reviews_of_access_answer_as_requests_would_be() {
    let cluster = TestCluster::start().await.unwrap();
    let (store, clock) = (cluster.store.clone(), SystemClock::shared());
    let authorization = Arc::new(Authorization::new(store, clock, Random::seeded(1)));
    cluster.server.set_authorizer(authorization.clone());
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    ask(&cluster, "POST", &format!("{rbac}/roles"), &role).await;
    let binding = json!({"metadata": {"name": "reader"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    let (code, made) = ask(&cluster, "POST", &format!("{rbac}/rolebindings"), &binding).await;
    assert_eq!(code, 201, "{made}");
    let cluster_wide = "/apis/rbac.authorization.k8s.io/v1";
    let basic = json!({"metadata": {"name": "basic"}, "rules": [{"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"]}]});
    ask(
        &cluster,
        "POST",
        &format!("{cluster_wide}/clusterroles"),
        &basic,
    )
    .await;
    let all = json!({"metadata": {"name": "basic"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "basic"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:authenticated"}]});
    ask(
        &cluster,
        "POST",
        &format!("{cluster_wide}/clusterrolebindings"),
        &all,
    )
    .await;
    authorization.load().await.unwrap();
    let pods = "/api/v1/namespaces/default/pods";
    for (verb, namespace, allowed) in [
        ("get", "default", true),
        ("delete", "default", false),
        ("get", "kube-system", false),
    ] {
        let attributes = json!({"namespace": namespace, "verb": verb, "resource": "pods"});
        let review = json!({"spec": {"user": "jane", "resourceAttributes": attributes}});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let (_, seen) = ask(&cluster, "POST", path, &review).await;
        assert_eq!(seen["status"]["allowed"], allowed, "{verb} {namespace}");
        let review = json!({"spec": {"resourceAttributes": attributes}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let group = "system:authenticated";
        let (_, seen) = ask_as(&cluster, "jane", group, "POST", path, &review, JSON).await;
        assert_eq!(seen["status"]["allowed"], allowed, "{verb} {namespace}");
    }
    let group = "system:authenticated";
    let (code, _) = ask_as(
        &cluster,
        "jane",
        group,
        "GET",
        &format!("{pods}/p"),
        &Value::Null,
        JSON,
    )
    .await;
    assert_eq!(code, 404);
    let (code, refused) = ask_as(&cluster, "jane", group, "GET", pods, &Value::Null, JSON).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    // Rules are those of the roles alone; that this group may do everything is none.
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let review = json!({"spec": {"namespace": "default"}});
    for (group, expected) in [("system:authenticated", 2), ("system:masters", 1)] {
        let (_, seen) = ask_as(&cluster, "jane", group, "POST", path, &review, JSON).await;
        let rules = seen["status"]["resourceRules"].as_array().map(Vec::len);
        assert_eq!(rules, Some(expected), "{seen}");
    }
}

#[tokio::test]
async fn a_deletion_says_what_becomes_of_dependents() {
    let cluster = TestCluster::start().await.unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        let name = policy.to_lowercase();
        ask(&cluster, "POST", maps, &json!({"metadata": {"name": name}})).await;
        let path = format!("{maps}/{name}?propagationPolicy={policy}");
        let (code, going) = ask(&cluster, "DELETE", &path, &Value::Null).await;
        assert_eq!(code, 200);
        assert_eq!(going["metadata"]["finalizers"], json!([finalizer]));
        assert!(going["metadata"]["deletionTimestamp"].is_string());
    }
    ask(&cluster, "POST", maps, &json!({"metadata": {"name": "b"}})).await;
    let options =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    let (code, gone) = ask(&cluster, "DELETE", &format!("{maps}/b"), &options).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")));
    let wrong = format!("{maps}/foreground?propagationPolicy=Sideways");
    let (code, refused) = ask(&cluster, "DELETE", &wrong, &Value::Null).await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test]
async fn a_watch_of_what_is_forgotten_is_told_so() {
    let cluster = TestCluster::start().await.unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    let (_, made) = ask(&cluster, "POST", maps, &json!({"metadata": {"name": "m"}})).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let (code, event) = ask(
        &cluster,
        "GET",
        &format!("{maps}?watch=1&timeoutSeconds=1&resourceVersion=1"),
        &Value::Null,
    )
    .await;
    // The window of recent changes begins after the start of the server.
    assert_eq!((code, &event["type"]), (200, &json!("ERROR")), "{event}");
    assert_eq!(
        (&event["object"]["code"], &event["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    let (code, event) = ask(
        &cluster,
        "GET",
        &format!("{maps}?watch=1&timeoutSeconds=1&resourceVersion={version}"),
        &Value::Null,
    )
    .await;
    assert_eq!((code, event), (200, Value::Null));
    let (code, refused) = ask(
        &cluster,
        "GET",
        &format!("{maps}?watch=1&resourceVersion=x"),
        &Value::Null,
    )
    .await;
    // Upstream's storage error, as it is.
    assert_eq!(code, 500, "{refused}");
}

#[tokio::test]
async fn tables_and_discovery_have_their_own_forms() {
    let cluster = TestCluster::start().await.unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "b", "c": "d"}});
    ask(&cluster, "POST", maps, &map).await;
    let admin = ("admin", "system:masters");
    let get = async |path: &str, accept: &str| {
        ask_as(
            &cluster,
            admin.0,
            admin.1,
            "GET",
            path,
            &Value::Null,
            accept,
        )
        .await
    };
    let (code, table) = get(maps, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    assert_eq!((code, &table["kind"]), (200, &json!("Table")));
    let columns = table["columnDefinitions"].as_array().unwrap();
    let names: Vec<&str> = columns
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    assert_eq!(names, ["Name", "Data", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "m");
    assert_eq!(table["rows"][0]["cells"][1], 2);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let (code, _) = get(maps, "application/json;as=Chair;v=v1;g=meta.k8s.io").await;
    assert_eq!(code, 406);
    // A review is no object of which there could be a table.
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (code, _) = ask_as(&cluster, admin.0, admin.1, "POST", reviews, &review, table).await;
    assert_eq!(code, 406);

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let (_, groups) = get("/apis", accept).await;
    assert_eq!(groups["kind"], "APIGroupDiscoveryList");
    let items = groups["items"].as_array().unwrap();
    let apps = items
        .iter()
        .find(|group| group["metadata"]["name"] == "apps")
        .unwrap();
    let resources = apps["versions"][0]["resources"].as_array().unwrap();
    let deployments = resources
        .iter()
        .find(|found| found["resource"] == "deployments")
        .unwrap();
    assert_eq!(deployments["shortNames"], json!(["deploy"]));
    let parts = deployments["subresources"].as_array().unwrap();
    let parts: Vec<&str> = parts
        .iter()
        .filter_map(|part| part["subresource"].as_str())
        .collect();
    assert_eq!(parts, ["scale", "status"]);
    let (_, plain) = get("/apis/apps/v1", JSON).await;
    assert_eq!(plain["kind"], "APIResourceList");
}

#[tokio::test]
async fn events_are_selected_by_the_fields_of_the_version_asked() {
    let cluster = TestCluster::start().await.unwrap();
    for (name, from) in [("e1", "c1"), ("e2", "c2")] {
        let event = json!({"metadata": {"name": name}, "eventTime": "2026-11-21T10:00:00.000000Z", "type": "Normal",
            "reason": "r", "action": "a", "reportingController": from, "reportingInstance": "i",
            "regarding": {"kind": "Pod", "name": name, "namespace": "default"}});
        let path = "/apis/events.k8s.io/v1/namespaces/default/events";
        let (code, said) = ask(&cluster, "POST", path, &event).await;
        assert_eq!(code, 201, "{said}");
    }
    let new = "/apis/events.k8s.io/v1/events?fieldSelector=";
    let old = "/api/v1/events?fieldSelector=";
    for (path, names) in [
        (format!("{new}reportingController=c1"), Some("e1")),
        (format!("{new}regarding.name=e2"), Some("e2")),
        (format!("{new}involvedObject.name=e2"), None),
        (format!("{old}reportingComponent=c1"), Some("e1")),
        (format!("{old}involvedObject.name=e2"), Some("e2")),
        (format!("{old}regarding.name=e2"), None),
    ] {
        let (code, list) = ask(&cluster, "GET", &path, &Value::Null).await;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let found: Vec<_> = items.iter().map(|item| &item["metadata"]["name"]).collect();
        match names {
            Some(name) => assert_eq!(found, [&json!(name)], "{path}"),
            None => assert_eq!(code, 400, "{path}"),
        }
    }
}

#[tokio::test]
async fn administrators_access_to_devices_needs_a_label_of_the_namespace() {
    let cluster = TestCluster::start().await.unwrap();
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let templates = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";
    let devices = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "adminAccess": true}}]});
    let claim = json!({"metadata": {"name": "a"}, "spec": {"devices": devices}});
    let template = json!({"metadata": {"name": "a"}, "spec": {"spec": {"devices": devices}}});
    for (path, body) in [(claims, &claim), (templates, &template)] {
        let (code, refused) = ask(&cluster, "POST", path, body).await;
        assert_eq!(code, 422, "{refused}");
        assert_eq!(
            refused["details"]["causes"][0],
            json!({"reason": "FieldValueForbidden", "field": "spec.devices.requests[0].adminAccess",
                "message": "Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"})
        );
    }
    let label = json!({"metadata": {"name": "default", "labels": {"resource.kubernetes.io/admin-access": "true"}}});
    let (code, answer) = ask(&cluster, "PUT", "/api/v1/namespaces/default", &label).await;
    assert_eq!(code, 200, "{answer}");
    for (path, body) in [(claims, &claim), (templates, &template)] {
        let (code, made) = ask(&cluster, "POST", path, body).await;
        assert_eq!(code, 201, "{made}");
    }
}

#[tokio::test]
async fn who_gives_claims_devices_must_be_allowed_that_beside_the_status() {
    let cluster = TestCluster::start().await.unwrap();
    let store: Arc<dyn skiff_store::Store> = cluster.store.clone();
    let clock = SystemClock::shared();
    let authorization = Arc::new(Authorization::new(store, clock, Random::seeded(1)));
    cluster.server.set_authorizer(authorization.clone());
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let devices = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]});
    let claim = json!({"metadata": {"name": "a"}, "spec": {"devices": devices}});
    assert_eq!(ask(&cluster, "POST", claims, &claim).await.0, 201);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = |resources: &[&str], verbs: &[&str]| json!({"metadata": {"name": "giver"}, "rules": [{"apiGroups": ["resource.k8s.io"], "resources": resources, "verbs": verbs}]});
    let binding = json!({"metadata": {"name": "giver"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "giver"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "giver"}]});
    let roles = format!("{rbac}/clusterroles");
    let first = rules(&["resourceclaims/status"], &["update", "patch"]);
    assert_eq!(ask(&cluster, "POST", &roles, &first).await.0, 201);
    let bindings = format!("{rbac}/clusterrolebindings");
    assert_eq!(ask(&cluster, "POST", &bindings, &binding).await.0, 201);
    authorization.load().await.unwrap();
    let (_, now) = ask(&cluster, "GET", &format!("{claims}/a"), &Value::Null).await;
    let mut given = now.clone();
    given["status"] = json!({"allocation": {"devices": {"results": [
        {"request": "r", "driver": "d.example", "pool": "p", "device": "x"}]}}});
    let status = format!("{claims}/a/status");
    let give = async |given: &Value| {
        let group = "system:authenticated";
        ask_as(&cluster, "giver", group, "PUT", &status, given, JSON).await
    };
    let (code, refused) = give(&given).await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["details"]["causes"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("Forbidden: changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"update\" permission: "),
        "{message}"
    );
    let both = rules(
        &["resourceclaims/status", "resourceclaims/binding"],
        &["update"],
    );
    let (code, answer) = ask(&cluster, "PUT", &format!("{roles}/giver"), &both).await;
    assert_eq!(code, 200, "{answer}");
    authorization.load().await.unwrap();
    let (code, answer) = give(&given).await;
    assert_eq!(code, 200, "{answer}");
    // What a driver says of its devices.
    given = answer;
    given["status"]["devices"] =
        json!([{"driver": "d.example", "pool": "p", "device": "x", "data": {"k": "v"}}]);
    let (code, refused) = give(&given).await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(refused["details"]["causes"][0]["field"], "status.devices");
    let driver = rules(
        &[
            "resourceclaims/status",
            "resourceclaims/binding",
            "resourceclaims/driver",
        ],
        &["update", "arbitrary-node:update"],
    );
    assert_eq!(
        ask(&cluster, "PUT", &format!("{roles}/giver"), &driver)
            .await
            .0,
        200
    );
    authorization.load().await.unwrap();
    let (code, answer) = give(&given).await;
    assert_eq!(code, 200, "{answer}");
}
