//! Who a request is made as, and what users may grant: impersonation, escalation, requesters of certificates.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_apiserver::authz::Authorization;
use skiff_base::{Random, SystemClock};
use skiff_testkit::TestCluster;

fn make<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A cluster with RBAC in which `jane` may do with config maps and pods what `rules` say, in the namespace default.
async fn cluster(rules: Value) -> (TestCluster, Arc<Authorization>, UserInfo) {
    let cluster = TestCluster::start().await.unwrap();
    let authorization = Arc::new(Authorization::new(
        cluster.store.clone(),
        SystemClock::shared(),
        Random::seeded(1),
    ));
    cluster.server.set_authorizer(authorization.clone());
    let roles: Api<ClusterRole> = Api::all(cluster.client());
    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client());
    let basic = json!([{"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]}]);
    for (name, rules, kind, subject) in [
        ("janes", rules, "User", "jane"),
        ("basic", basic, "Group", "system:authenticated"),
    ] {
        let role = make(json!({"metadata": {"name": name}, "rules": rules}));
        roles.create(&PostParams::default(), &role).await.unwrap();
        let binding = make(
            json!({"metadata": {"name": name}, "subjects": [{"kind": kind, "name": subject}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}}),
        );
        bindings
            .create(&PostParams::default(), &binding)
            .await
            .unwrap();
    }
    authorization.load().await.unwrap();
    let jane = UserInfo::new("jane", &["system:authenticated"]);
    (cluster, authorization, jane)
}

async fn whoami(
    client: &kube::Client,
    headers: &[(&str, &str)],
) -> kube::Result<SelfSubjectReview> {
    let mut request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("Content-Type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.request(request.body(b"{}".to_vec()).unwrap()).await
}

#[tokio::test]
async fn those_who_may_act_as_others() {
    let rules = json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["joe"]}]);
    let (cluster, _, jane) = cluster(rules).await;
    let client = cluster.client_as(jane);
    let review = whoami(&client, &[("Impersonate-User", "joe")])
        .await
        .unwrap();
    let user = review.status.unwrap().user_info.unwrap();
    assert_eq!(user.username.as_deref(), Some("joe"));
    assert_eq!(user.groups.unwrap(), ["system:authenticated"]);
    // The constrained right is asked for first, and its refusal is told.
    let refusal = r#"selfsubjectreviews.authentication.k8s.io is forbidden: User "jane" cannot impersonate-on:user-info:create resource "selfsubjectreviews" in API group "authentication.k8s.io" at the cluster scope"#;
    for headers in [
        vec![("Impersonate-User", "jim")],
        vec![
            ("Impersonate-User", "joe"),
            ("Impersonate-Group", "system:masters"),
        ],
        vec![
            ("Impersonate-User", "joe"),
            ("Impersonate-Extra-Scopes", "x"),
        ],
    ] {
        let error = whoami(&client, &headers).await.unwrap_err().to_string();
        assert!(error.contains(refusal), "{error}");
    }
    // The administrator may act as anyone, and has no more rights then than they.
    let as_jim = [("Impersonate-User", "jim"), ("Impersonate-Uid", "7")];
    let review = whoami(&cluster.client(), &as_jim).await.unwrap();
    let user = review.status.unwrap().user_info.unwrap();
    assert_eq!(
        (user.username.as_deref(), user.uid.as_deref()),
        (Some("jim"), Some("7"))
    );
    let request = http::Request::get("/api/v1/namespaces/default/pods")
        .header("Impersonate-User", "jim")
        .body(Vec::new())
        .unwrap();
    let refused = cluster.client().request::<Value>(request).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("jim"), "{refused}");
}

#[tokio::test]
async fn acting_as_another_may_be_limited_to_some_requests() {
    let rules = json!([
        {"verbs": ["impersonate:user-info"], "apiGroups": ["authentication.k8s.io"], "resources": ["users", "groups"], "resourceNames": ["joe", "dev"]},
        {"verbs": ["impersonate:serviceaccount"], "apiGroups": ["authentication.k8s.io"], "resources": ["serviceaccounts"]},
        {"verbs": ["impersonate-on:user-info:create", "impersonate-on:serviceaccount:create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
    ]);
    let (cluster, _, jane) = cluster(rules).await;
    let client = cluster.client_as(jane);
    let as_joe = [("Impersonate-User", "joe"), ("Impersonate-Group", "dev")];
    let user = whoami(&client, &as_joe).await.unwrap().status.unwrap();
    let user = user.user_info.unwrap();
    assert_eq!(user.groups.unwrap(), ["dev", "system:authenticated"]);
    let as_account = [("Impersonate-User", "system:serviceaccount:a:b")];
    let user = whoami(&client, &as_account).await.unwrap().status.unwrap();
    assert_eq!(
        user.user_info.unwrap().groups.unwrap(),
        [
            "system:serviceaccounts",
            "system:serviceaccounts:a",
            "system:authenticated"
        ]
    );
    for (headers, refusal) in [
        (
            vec![("Impersonate-User", "jim")],
            r#"users.authentication.k8s.io "jim" is forbidden: User "jane" cannot impersonate:user-info resource "users" in API group "authentication.k8s.io" at the cluster scope"#,
        ),
        (
            vec![
                ("Impersonate-User", "joe"),
                ("Impersonate-Group", "system:masters"),
            ],
            "impersonating the system:masters group is not allowed",
        ),
        (
            vec![("Impersonate-User", "system:node:n1")],
            "cannot impersonate-on:arbitrary-node:create resource",
        ),
    ] {
        let error = whoami(&client, &headers).await.unwrap_err().to_string();
        assert!(error.contains(refusal), "{error}");
    }
    // Nothing else is allowed under that name.
    let list = http::Request::get("/api/v1/pods").header("Impersonate-User", "joe");
    let refused = client
        .request::<Value>(list.body(Vec::new()).unwrap())
        .await;
    let refused = refused.unwrap_err().to_string();
    let why = r#"pods is forbidden: User "jane" cannot impersonate-on:user-info:list resource "pods" in API group "" at the cluster scope"#;
    assert!(refused.contains(why), "{refused}");
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let rules = json!([
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps"]},
        {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"]},
    ]);
    let (cluster, authorization, jane) = cluster(rules).await;
    let role = |name: &str, verbs: Value| -> Role {
        make(json!({"metadata": {"name": name}, "rules": [
            {"verbs": verbs, "apiGroups": [""], "resources": ["configmaps", "pods"]}]}))
    };
    // Jane's own wildcard holds `escalate` and `bind`: taken from her here.
    let roles: Api<ClusterRole> = Api::all(cluster.client());
    let mut janes = roles.get("janes").await.unwrap();
    janes.rules.as_mut().unwrap()[1].verbs = ["create", "update", "get"].map(str::to_owned).into();
    roles
        .replace("janes", &PostParams::default(), &janes)
        .await
        .unwrap();
    authorization.load().await.unwrap();

    let own: Api<Role> = Api::default_namespaced(cluster.client_as(jane.clone()));
    let refused = own
        .create(&PostParams::default(), &role("r", json!(["get", "delete"])))
        .await
        .unwrap_err();
    let kube::Error::Api(status) = refused else {
        panic!("{refused}")
    };
    assert_eq!(status.code, 403);
    assert_eq!(
        status.message,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"delete\"]}\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"delete\"]}"
    );
    let mut held = role("r", json!(["get"]));
    held.rules.as_mut().unwrap()[0].resources = Some(vec!["configmaps".to_owned()]);
    own.create(&PostParams::default(), &held).await.unwrap();

    let bindings: Api<RoleBinding> = Api::default_namespaced(cluster.client_as(jane));
    let binding = |role: &str| -> RoleBinding {
        make(
            json!({"metadata": {"name": role}, "subjects": [{"kind": "User", "name": "joe", "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role}}),
        )
    };
    bindings
        .create(&PostParams::default(), &binding("r"))
        .await
        .unwrap();
    let everything: Api<Role> = Api::default_namespaced(cluster.client());
    everything
        .create(&PostParams::default(), &role("all", json!(["*"])))
        .await
        .unwrap();
    let refused = bindings
        .create(&PostParams::default(), &binding("all"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused
            .contains("rolebindings.rbac.authorization.k8s.io \"all\" is forbidden: user \"jane\"")
            && refused.contains("Verbs:[\"*\"]"),
        "{refused}"
    );
    let refused = bindings
        .create(&PostParams::default(), &binding("none"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("roles.rbac.authorization.k8s.io \"none\" not found"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_server_says_who_asks_for_a_certificate() {
    let rules = json!([{"verbs": ["create"], "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"]}]);
    let (cluster, _, mut jane) = cluster(rules).await;
    jane.uid = "7".to_owned();
    jane.extra
        .insert("example.com/team".to_owned(), vec!["a".to_owned()]);
    let requests: Api<CertificateSigningRequest> = Api::all(cluster.client_as(jane));
    let request: CertificateSigningRequest = make(
        json!({"metadata": {"name": "r"}, "spec": {"signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
        "username": "admin", "uid": "1", "groups": ["system:masters"], "extra": {"a": ["b"]},
        "request": base64_request()}}),
    );
    let made = requests
        .create(&PostParams::default(), &request)
        .await
        .unwrap();
    assert_eq!(made.spec.username.as_deref(), Some("jane"));
    assert_eq!(made.spec.uid.as_deref(), Some("7"));
    assert_eq!(made.spec.groups.unwrap(), ["system:authenticated"]);
    assert_eq!(
        made.spec.extra.unwrap().into_iter().collect::<Vec<_>>(),
        [("example.com/team".to_owned(), vec!["a".to_owned()])]
    );
}

#[tokio::test]
async fn certificates_are_approved_and_signed_by_those_who_may() {
    let rules = json!([
        {"verbs": ["create", "get", "update"], "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests",
            "certificatesigningrequests/approval", "certificatesigningrequests/status"]},
        {"verbs": ["approve"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.org/*"]}]);
    let (cluster, _, jane) = cluster(rules).await;
    let requests: Api<CertificateSigningRequest> = Api::all(cluster.client_as(jane));
    let create = |name: &str, signer: &str, request: String| {
        let object: CertificateSigningRequest = make(json!({"metadata": {"name": name},
            "spec": {"signerName": signer, "usages": ["client auth"], "request": request}}));
        let requests = requests.clone();
        async move { requests.create(&PostParams::default(), &object).await }
    };
    let client = "kubernetes.io/kube-apiserver-client";
    let said = |outcome: kube::Result<CertificateSigningRequest>| outcome.unwrap_err().to_string();
    let why = said(create("m", client, request_of("system:masters")).await);
    assert!(
        why.contains("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"),
        "{why}"
    );
    let forged = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUFBPQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";
    let why = said(create("f", client, forged.to_owned()).await);
    assert!(why.contains("spec.request: Invalid value: "), "{why}");

    let approved = json!([{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]);
    for (name, signer, may) in [("a", client, false), ("b", "example.org/any", true)] {
        let mut request = create(name, signer, base64_request()).await.unwrap();
        let conditions = make(approved.clone());
        request.status.get_or_insert_default().conditions = Some(conditions);
        let note = [("note".to_owned(), "kept".to_owned())];
        request.metadata.annotations = Some(note.into());
        let params = PostParams::default();
        let outcome = requests
            .replace_subresource("approval", name, &params, &request)
            .await;
        match outcome {
            Ok(approved) => {
                assert!(may, "{name}");
                assert_eq!(approved.metadata.annotations.unwrap()["note"], "kept");
            }
            Err(error) => assert!(
                !may && error.to_string().contains(
                    "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\""
                ),
                "{error}"
            ),
        }
    }
    let mut signed = requests.get("b").await.unwrap();
    signed.status.get_or_insert_default().certificate = Some(k8s_openapi::ByteString(
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec(),
    ));
    let params = PostParams::default();
    let outcome = requests.replace_status("b", &params, &signed).await;
    let why = outcome.unwrap_err().to_string();
    assert!(
        why.contains("user not permitted to sign requests with signerName"),
        "{why}"
    );
}

/// A request for a certificate as PEM in base64.
fn base64_request() -> String {
    request_of("team")
}

/// The same, of a member of a group.
fn request_of(group: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = &mut params.distinguished_name;
    name.push(rcgen::DnType::CommonName, "joe");
    name.push(rcgen::DnType::OrganizationName, group);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let value = serde_json::to_value(k8s_openapi::ByteString(pem.into_bytes())).unwrap();
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_apply_that_makes_an_object_needs_the_right_to() {
    let rules =
        json!([{"verbs": ["patch", "update"], "apiGroups": [""], "resources": ["configmaps"]}]);
    let (cluster, _, jane) = cluster(rules).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client_as(jane));
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let params = kube::api::PatchParams::apply("me");
    let refused = maps
        .patch("m", &params, &kube::api::Patch::Apply(&map))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("cannot create resource \\\"configmaps\\\"")
            || refused.contains("cannot create resource \"configmaps\""),
        "{refused}"
    );
    let all: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    assert!(
        all.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

/// WebSockets begin with GET: the right to read must not be enough to run commands in a pod.
#[tokio::test]
async fn who_may_only_get_streams_into_no_pod() {
    let streams = ["pods/exec", "pods/attach", "pods/portforward"];
    let rules = |verbs: &[&str]| json!([{"verbs": verbs, "apiGroups": [""], "resources": streams}]);
    for (verbs, allowed) in [(&["get"][..], false), (&["get", "create"], true)] {
        let (cluster, _, jane) = cluster(rules(verbs)).await;
        for subresource in ["exec", "attach", "portforward"] {
            let path = format!("/api/v1/namespaces/default/pods/p/{subresource}?command=id");
            let request = http::Request::get(path).body(Vec::new()).unwrap();
            let answer = cluster.client_as(jane.clone()).request_text(request).await;
            let kube::Error::Api(status) = answer.unwrap_err() else {
                panic!("no status")
            };
            if allowed {
                assert_eq!(status.message, "pods \"p\" not found");
            } else {
                assert_eq!(status.code, 403);
                assert_eq!(
                    status.message,
                    format!(
                        "pods \"p\" is forbidden: User \"jane\" cannot create resource \"pods/{subresource}\" in API group \"\" \
                         in the namespace \"default\""
                    )
                );
            }
        }
    }
}
