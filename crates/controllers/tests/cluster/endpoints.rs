//! Endpoints that people write by hand.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;

use crate::running::{make, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_by_hand_are_mirrored_and_the_mirror_goes_with_them() {
    let running = start().await;
    let client = running.cluster.client();
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let service = json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}});
    make(&services, service).await;
    let subsets = json!([{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]);
    make(
        &endpoints,
        json!({"metadata": {"name": "db"}, "subsets": subsets}),
    )
    .await;
    let mirrors = || async {
        let selected = ListParams::default().labels("kubernetes.io/service-name=db");
        let slices = slices.list(&selected).await.unwrap().items;
        let endpoints = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        let addresses: Vec<String> = endpoints
            .flat_map(|found| found.addresses.clone())
            .collect();
        addresses.join(" ")
    };
    until("a mirror", || async {
        (mirrors().await == "192.0.2.7").then_some(())
    })
    .await;
    endpoints
        .delete("db", &DeleteParams::default())
        .await
        .unwrap();
    until("no mirror", || async {
        mirrors().await.is_empty().then_some(())
    })
    .await;
}
