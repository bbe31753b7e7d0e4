//! Ranges of services' addresses: added, used, kept as long as they are needed; and addresses that went astray.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use skiff_base::SystemClock;
use skiff_testkit::{TestCluster, TestOptions};

use crate::running::{Running, event, make, start_on, until};

/// A server that keeps its own service and repairs addresses, with a range of six addresses.
async fn small() -> Running {
    let mut options = TestOptions::default();
    options.config.service_cidr = "10.99.0.0/29".to_owned();
    options.config.advertise = Some(SocketAddr::from(([192, 0, 2, 1], 6443)));
    let cluster = TestCluster::start_with(options).await.unwrap();
    start_on(cluster, SystemClock::shared())
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
}

fn condition(range: &ServiceCIDR) -> (String, String) {
    let status = range.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    ready.map_or_else(Default::default, |ready| {
        (ready.status.clone(), ready.reason.clone())
    })
}

#[tokio::test]
async fn a_full_cluster_takes_addresses_from_an_added_range() {
    let running = small().await;
    let client = running.cluster.client();
    let ranges: Api<ServiceCIDR> = Api::all(client.clone());
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let ready = async |name: &str| {
        until(&format!("{name} is ready"), || async {
            let range = ranges.get_opt(name).await.unwrap()?;
            let finalizers = range.metadata.finalizers.clone().unwrap_or_default();
            (condition(&range).0 == "True"
                && finalizers == ["networking.k8s.io/service-cidr-finalizer"])
            .then_some(())
        })
        .await;
    };
    ready("kubernetes").await;
    until("the service kubernetes", || async {
        services.get_opt("kubernetes").await.unwrap()
    })
    .await;
    // Six addresses, one of which `kubernetes` has.
    for number in 1..6 {
        make(&services, service(&format!("s{number}"))).await;
    }
    let one_more: Service = serde_json::from_value(service("more")).unwrap();
    let full = services
        .create(&Default::default(), &one_more)
        .await
        .unwrap_err();
    assert!(full.to_string().contains("range is full"), "{full}");
    make(
        &ranges,
        json!({"metadata": {"name": "added"}, "spec": {"cidrs": ["10.98.0.0/29"]}}),
    )
    .await;
    ready("added").await;
    let more = services
        .create(&Default::default(), &one_more)
        .await
        .unwrap();
    let address = more.spec.unwrap().cluster_ip.unwrap();
    assert!(address.starts_with("10.98.0."), "{address}");

    // Its service keeps the range.
    ranges
        .delete("added", &DeleteParams::default())
        .await
        .unwrap();
    until("the range says why it stays", || async {
        let range = ranges.get("added").await.unwrap();
        (condition(&range) == ("False".to_owned(), "Terminating".to_owned())).then_some(())
    })
    .await;
    let mut another = one_more.clone();
    another.metadata.name = Some("another".to_owned());
    let full = services
        .create(&Default::default(), &another)
        .await
        .unwrap_err();
    assert!(full.to_string().contains("range is full"), "{full}");
    services
        .delete("more", &DeleteParams::default())
        .await
        .unwrap();
    until("the range goes", || async {
        ranges
            .get_opt("added")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn addresses_and_services_are_made_to_agree() {
    let running = small().await;
    let client = running.cluster.client();
    let addresses: Api<IPAddress> = Api::all(client.clone());
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let (lost, stray) = ("10.99.0.2", "10.99.0.5");
    let mut wanted = service("lost");
    wanted["spec"]["clusterIP"] = json!(lost);
    make(&services, wanted).await;
    addresses
        .delete(lost, &DeleteParams::default())
        .await
        .unwrap();
    // One that says it is of this service, which has another.
    make(&addresses, json!({"metadata": {"name": stray, "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        "ipaddress.kubernetes.io/ip-family": "IPv4"}}, "spec": {"parentRef": {"resource": "services",
        "namespace": "default", "name": "lost"}}})).await;
    // Somebody else's, which no service can have.
    make(&addresses, json!({"metadata": {"name": "10.99.0.4"}, "spec": {"parentRef": {
        "group": "gateway.networking.k8s.io", "resource": "gateways", "namespace": "default", "name": "g"}}}))
    .await;
    let mut wants = service("wants");
    wants["spec"]["clusterIP"] = json!("10.99.0.4");
    let wants: Service = serde_json::from_value(wants).unwrap();
    let refused = services
        .create(&Default::default(), &wants)
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("provided IP is already allocated"),
        "{refused}"
    );
    until("the lost one is back and the stray one gone", || async {
        let back = addresses.get_opt(lost).await.unwrap();
        let gone = addresses.get_opt(stray).await.unwrap().is_none();
        (back?.spec.parent_ref.name == "lost" && gone).then_some(())
    })
    .await;
    addresses.get("10.99.0.4").await.unwrap();
    for reason in ["ClusterIPNotAllocated", "IPAddressWrongReference"] {
        let is_it = |event: &Event| event.reason.as_deref() == Some(reason);
        event(&client, "default", reason, is_it).await;
    }
}
