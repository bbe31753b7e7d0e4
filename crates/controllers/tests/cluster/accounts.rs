//! Token secrets and aggregated roles.

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, DeleteParams};
use serde_json::json;

use crate::running::{make, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_secret_is_filled_and_goes_with_its_account() {
    let running = start().await;
    let client = running.cluster.client();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(client, "default");
    let account = make(&accounts, json!({"metadata": {"name": "robot"}})).await;
    let secret = |account: &str| {
        json!({"metadata": {"name": format!("{account}-token"),
            "annotations": {"kubernetes.io/service-account.name": account}},
            "type": "kubernetes.io/service-account-token"})
    };
    make(&secrets, secret("robot")).await;
    make(&secrets, secret("nobody")).await;
    let filled = until("filled", || async {
        let secret = secrets.get("robot-token").await.unwrap();
        secret.data.as_ref()?.get("token")?;
        Some(secret)
    })
    .await;
    let data = filled.data.unwrap();
    let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
    assert_eq!(text("token"), "token of robot in default/robot-token");
    assert_eq!((&*text("ca.crt"), &*text("namespace")), ("PEM", "default"));
    assert_eq!(
        filled.metadata.annotations.unwrap()["kubernetes.io/service-account.uid"],
        account.metadata.uid.unwrap()
    );
    let gone = |name: &'static str| {
        let secrets = secrets.clone();
        async move { secrets.get_opt(name).await.unwrap().is_none().then_some(()) }
    };
    until("a token of nobody goes", || gone("nobody-token")).await;
    accounts
        .delete("robot", &DeleteParams::default())
        .await
        .unwrap();
    until("the token goes with its account", || gone("robot-token")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_gets_the_rules_of_those_it_selects() {
    let running = start().await;
    let roles: Api<ClusterRole> = Api::all(running.cluster.client());
    let rule = |verb: &str| json!([{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]);
    make(
        &roles,
        json!({"metadata": {"name": "all"}, "rules": null,
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "yes"}}]}}),
    )
    .await;
    for (name, verb) in [("b", "list"), ("a", "get")] {
        let labels = json!({"part": "yes"});
        let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rule(verb)});
        make(&roles, role).await;
    }
    let verbs = |expected: &'static str| {
        let roles = roles.clone();
        async move {
            let rules = roles.get("all").await.unwrap().rules.unwrap_or_default();
            let verbs: Vec<_> = rules.iter().flat_map(|rule| rule.verbs.clone()).collect();
            (verbs.join(" ") == expected).then_some(())
        }
    };
    until("both", || verbs("get list")).await;
    roles.delete("a", &DeleteParams::default()).await.unwrap();
    until("one", || verbs("list")).await;
}
