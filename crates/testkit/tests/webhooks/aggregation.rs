//! Aggregated APIs: an extension server behind an APIService, as clients and the server itself see it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use base64::Engine as _;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use skiff_apiserver::{FrontProxy, UserInfo};
use skiff_testkit::{HttpsServer, TestCertificates, TestCluster};

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// What the extension server was asked: path and headers.
type Seen = Arc<Mutex<Vec<(String, HeaderMap)>>>;

async fn extension(
    State(seen): State<Seen>,
    uri: Uri,
    headers: HeaderMap,
) -> axum::response::Response {
    seen.lock()
        .unwrap()
        .push((uri.to_string(), headers.clone()));
    let body = match uri.path() {
        "/apis/wardle.example.com/v1alpha1" => json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
            "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]}]}),
        "/openapi/v2" => {
            let tag = "\"1\"";
            if headers
                .get("if-none-match")
                .is_some_and(|asked| asked == tag)
            {
                return StatusCode::NOT_MODIFIED.into_response();
            }
            let path = "/apis/wardle.example.com/v1alpha1/flunders";
            let kinds =
                json!([{"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"}]);
            let document = json!({
                "swagger": "2.0",
                "paths": {(path): {"get": {"operationId": "listFlunder", "responses": {"200": {
                    "description": "OK", "schema": {"$ref": "#/definitions/com.example.Flunder"}}}}}},
                "definitions": {
                    "com.example.Flunder": {"type": "object", "x-kubernetes-group-version-kind": kinds, "properties": {
                        "metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}},
                    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "object", "description": "another one"},
                },
            });
            return ([("etag", tag)], axum::Json(document)).into_response();
        }
        "/openapi/v3" => json!({"paths": {"apis/wardle.example.com/v1alpha1":
            {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1"}}}),
        "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders/away" => {
            return (
                StatusCode::FOUND,
                [("location", "https://169.254.169.254/")],
            )
                .into_response();
        }
        path if path.starts_with("/apis/wardle.example.com/v1alpha1/") => {
            json!({"kind": "Flunder", "path": path})
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    axum::Json(body).into_response()
}

async fn ask(
    cluster: &TestCluster,
    user: Option<UserInfo>,
    path: &str,
) -> Result<Value, (u16, String)> {
    let client = match user {
        Some(user) => cluster.client_as(user),
        None => cluster.client(),
    };
    let request = http::Request::get(path)
        .header("x-remote-user", "forged")
        .header("x-remote-group", "system:masters")
        .body(Vec::new())
        .unwrap();
    match client.request_text(request).await {
        Ok(text) => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
        Err(kube::Error::Api(status)) => Err((status.code, status.message.clone())),
        Err(error) => panic!("{error}"),
    }
}

/// An API service's condition, once it is as wanted.
async fn condition(cluster: &TestCluster, name: &str, wanted: &str) -> Value {
    let mut last = Value::Null;
    for _ in 0..500 {
        let object = ask(cluster, None, &format!("{API_SERVICES}/{name}"))
            .await
            .unwrap_or_default();
        last = object["status"]["conditions"][0].clone();
        if last["reason"] == wanted {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name}: {last}");
}

#[tokio::test]
async fn an_extension_server_is_reached_through_the_api_server() {
    let cluster = TestCluster::start().await.unwrap();
    let certificates = TestCertificates::new().unwrap();
    let (certificate_pem, key_pem) = certificates.client("front-proxy-client", &[]).unwrap();
    cluster.server.set_front_proxy(FrontProxy {
        certificate_pem,
        key_pem,
        authority_pem: certificates.authority_pem().to_owned(),
        client_authority_pem: "users".to_owned(),
        headers: Default::default(),
    });
    let seen = Seen::default();
    let routes = Router::new().fallback(extension).with_state(seen.clone());
    let server = HttpsServer::start(&["api.wardle.svc"], routes)
        .await
        .unwrap();
    let object = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1alpha1.wardle.example.com"},
        "spec": {"group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "caBundle": base64::engine::general_purpose::STANDARD.encode(&server.certificate_pem),
            "service": {"namespace": "wardle", "name": "api"}}});
    let request = http::Request::post(API_SERVICES)
        .body(object.to_string().into_bytes())
        .unwrap();
    let made: Value = cluster.client().request(request).await.unwrap();
    assert_eq!(made["spec"]["service"]["port"], 443);
    let name = "v1alpha1.wardle.example.com";
    let judged = condition(&cluster, name, "ServiceNotFound").await;
    assert_eq!(
        judged["message"],
        "service/api in \"wardle\" is not present"
    );
    assert_eq!(
        ask(&cluster, None, "/apis/wardle.example.com/v1alpha1")
            .await
            .unwrap_err()
            .0,
        503
    );
    // Stale in the aggregated document, and not in the other.
    let groups = ask(&cluster, None, "/apis").await.unwrap();
    assert!(!groups["groups"].to_string().contains("wardle"));

    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(cluster.client());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "wardle"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let services: Api<Service> = Api::namespaced(cluster.client(), "wardle");
    let service = serde_json::from_value(
        json!({"metadata": {"name": "api"}, "spec": {"ports": [{"name": "https", "port": 443}]}}),
    );
    services
        .create(&PostParams::default(), &service.unwrap())
        .await
        .unwrap();
    condition(&cluster, name, "EndpointsNotFound").await;
    let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "api-1", "namespace": "wardle", "labels": {"kubernetes.io/service-name": "api"}}, "addressType": "IPv4",
        "ports": [{"name": "https", "port": server.address.port()}], "endpoints": [{"addresses": ["127.0.0.1"]}]}))
    .unwrap();
    // Past validation, which refuses loopback addresses: the test's server has no other.
    let bytes = serde_json::to_vec(&slice).unwrap();
    cluster
        .store
        .create("/registry/endpointslices/wardle/api-1", bytes.into(), 0)
        .await
        .unwrap();
    let judged = condition(&cluster, name, "Passed").await;
    assert_eq!(
        (&judged["status"], &judged["message"]),
        (&json!("True"), &json!("all checks passed"))
    );

    // Discovery and OpenAPI know it.
    for _ in 0..200 {
        if ask(&cluster, None, "/apis")
            .await
            .unwrap()
            .to_string()
            .contains("wardle")
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let groups = ask(&cluster, None, "/apis").await.unwrap();
    let group = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .find(|group| group["name"] == "wardle.example.com")
        .unwrap();
    assert_eq!(
        group["preferredVersion"]["groupVersion"],
        "wardle.example.com/v1alpha1"
    );
    let index = ask(&cluster, None, "/openapi/v3").await.unwrap();
    assert_eq!(
        index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"],
        "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1"
    );

    // A request comes with the user's own name, whatever it says itself.
    seen.lock().unwrap().clear();
    let mut user = UserInfo::new("jane", &["system:masters"]);
    user.extra
        .insert("example.com/scopes".to_owned(), vec!["a".to_owned()]);
    let path = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders/x?pretty=true";
    let answer = ask(&cluster, Some(user), path).await.unwrap();
    assert_eq!(answer["kind"], "Flunder");
    let (asked, headers) = seen.lock().unwrap().last().cloned().unwrap();
    assert_eq!(asked, path);
    let all = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        (all("x-remote-user"), all("x-remote-group")),
        (vec!["jane".to_owned()], vec!["system:masters".to_owned()])
    );
    assert_eq!(all("x-remote-extra-example.com%2fscopes"), ["a"]);
    assert!(!headers.contains_key("authorization"));

    // Its document of version 2 is part of ours; a definition that differs from ours has another name.
    let request = http::Request::get("/openapi/v2").body(Vec::new()).unwrap();
    let whole = cluster.client().request_text(request).await.unwrap();
    let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
    assert!(whole["paths"]["/apis/wardle.example.com/v1alpha1/flunders"]["get"].is_object());
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let definitions = &whole["definitions"];
    assert_eq!(
        definitions["com.example.Flunder"]["properties"]["metadata"]["$ref"],
        format!("#/definitions/{meta}_v2")
    );
    assert_eq!(
        definitions[format!("{meta}_v2")]["description"],
        "another one"
    );
    assert_ne!(definitions[meta]["description"], "another one");

    // CVE-2022-3172: its redirects do not reach the client.
    let away = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders/away";
    let request = http::Request::get(away).body(Vec::new()).unwrap();
    let response = cluster
        .client()
        .send(request.map(kube::client::Body::from))
        .await
        .unwrap();
    assert_eq!(response.status(), 502);
    assert!(response.headers().get("location").is_none());

    // What extension servers read.
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "kube-system");
    let data = maps
        .get("extension-apiserver-authentication")
        .await
        .unwrap()
        .data
        .unwrap();
    assert_eq!(data["client-ca-file"], "users");
    assert_eq!(
        data["requestheader-allowed-names"],
        "[\"front-proxy-client\"]"
    );
    assert_eq!(
        data["requestheader-client-ca-file"],
        certificates.authority_pem()
    );
    assert_eq!(
        data["requestheader-username-headers"],
        "[\"X-Remote-User\"]"
    );

    drop(server);
    services
        .delete("api", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    condition(&cluster, name, "ServiceNotFound").await;
}

#[tokio::test]
async fn what_is_served_here_has_api_services_of_its_own() {
    let cluster = TestCluster::start().await.unwrap();
    let judged = condition(&cluster, "v1.apps", "Local").await;
    assert_eq!(judged["message"], "Local APIServices are always available");
    condition(&cluster, "v1.", "Local").await;
    let object = ask(&cluster, None, &format!("{API_SERVICES}/v1."))
        .await
        .unwrap();
    assert_eq!(
        object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"],
        "onstart"
    );
    assert_eq!(
        object["spec"],
        json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1})
    );
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.custom.example.com"},
        "spec": {"group": "custom.example.com", "scope": "Namespaced", "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let collection = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let request = http::Request::post(collection)
        .body(definition.to_string().into_bytes())
        .unwrap();
    cluster.client().request::<Value>(request).await.unwrap();
    condition(&cluster, "v1.custom.example.com", "Local").await;
    let object = ask(
        &cluster,
        None,
        &format!("{API_SERVICES}/v1.custom.example.com"),
    )
    .await
    .unwrap();
    assert_eq!(
        object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"],
        "true"
    );
    assert_eq!(
        (
            &object["spec"]["groupPriorityMinimum"],
            &object["spec"]["versionPriority"]
        ),
        (&json!(1000), &json!(100))
    );
    let request = http::Request::delete(format!("{collection}/foos.custom.example.com"))
        .body(Vec::new())
        .unwrap();
    cluster.client().request::<Value>(request).await.unwrap();
    for _ in 0..500 {
        if ask(
            &cluster,
            None,
            &format!("{API_SERVICES}/v1.custom.example.com"),
        )
        .await
        .is_err()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the APIService stayed");
}
