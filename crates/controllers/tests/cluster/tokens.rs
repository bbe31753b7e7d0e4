//! Bootstrap tokens sign the ConfigMap by which new machines know the cluster, until they expire.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams};
use serde_json::json;

use crate::running::{make, start, until};

#[tokio::test]
async fn a_token_signs_until_it_is_gone_and_goes_when_it_expires() {
    let running = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(running.cluster.client(), "kube-public");
    let secrets: Api<Secret> = Api::namespaced(running.cluster.client(), "kube-system");
    make(
        &maps,
        json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "apiVersion: v1\n"}}),
    )
    .await;
    let token = |id: &str, expiration: &str| {
        json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "expiration": expiration,
                "usage-bootstrap-signing": "true", "usage-bootstrap-authentication": "true"}})
    };
    make(&secrets, token("abcdef", "2999-01-01T00:00:00Z")).await;
    let signatures = || async {
        let map = maps.get("cluster-info").await.unwrap();
        let data = map.data.unwrap_or_default();
        let keys = data
            .into_keys()
            .filter(|key| key.starts_with("jws-kubeconfig-"));
        keys.collect::<Vec<_>>()
    };
    until("it is signed", || async {
        (signatures().await == ["jws-kubeconfig-abcdef"]).then_some(())
    })
    .await;
    make(&secrets, token("oldone", "2020-01-01T00:00:00Z")).await;
    until("the expired token goes", || async {
        secrets
            .get_opt("bootstrap-token-oldone")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    assert_eq!(signatures().await, ["jws-kubeconfig-abcdef"]);
    secrets
        .delete("bootstrap-token-abcdef", &DeleteParams::default())
        .await
        .unwrap();
    until("the signature goes with the token", || async {
        signatures().await.is_empty().then_some(())
    })
    .await;
}
