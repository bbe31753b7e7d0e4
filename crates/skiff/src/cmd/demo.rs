//! `skiff up --demo`: deploys the demo application behind a Service and prints its address.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::json;

use crate::cli::wait_for;
use crate::config::Config;
use crate::demo;
use crate::say::say;

const NAME: &str = "demo";
const REPLICAS: i32 = 2;
/// A demo that takes longer has gone wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deploys, waits until it serves, prints where.
pub fn run(config: &Config) -> Result<()> {
    wait_for(async {
        crate::wiring::use_ring();
        let target = crate::kubeconfig::target(&config.admin_kubeconfig()).await?;
        let client = kube::Client::try_from(target)?;
        let parameters = PatchParams::apply("skiff").force();
        let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
        deployments
            .patch(NAME, &parameters, &Patch::Apply(deployment()))
            .await
            .context("deploying the demo")?;
        let services: Api<Service> = Api::default_namespaced(client);
        let service = services
            .patch(NAME, &parameters, &Patch::Apply(service()))
            .await
            .context("exposing the demo")?;
        tokio::time::timeout(PATIENCE, ready(&deployments))
            .await
            .context("the demo's pods were not ready in time; see kubectl describe pods")??;
        let port = service
            .spec
            .and_then(|spec| spec.ports?.first()?.node_port)
            .context("the demo's Service has no node port")?;
        say!(
            "The demo runs at http://{}:{port}/",
            config.advertise_address
        );
        Ok(())
    })
}

async fn ready(deployments: &Api<Deployment>) -> Result<()> {
    let parameters = WatchParams::default().fields(&format!("metadata.name={NAME}"));
    loop {
        let mut events = Box::pin(deployments.watch(&parameters, "0").await?);
        while let Some(event) = events.try_next().await? {
            if let WatchEvent::Added(deployment) | WatchEvent::Modified(deployment) = event
                && deployment
                    .status
                    .and_then(|status| status.ready_replicas)
                    .unwrap_or(0)
                    >= REPLICAS
            {
                return Ok(());
            }
        }
    }
}

fn deployment() -> serde_json::Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": {"app": NAME}},
            "template": {"metadata": {"labels": {"app": NAME}}, "spec": {"containers": [{
                "name": NAME, "image": demo::IMAGE, "ports": [{"containerPort": 8080}],
                "env": [field("POD_NAMESPACE", "metadata.namespace"), field("NODE_NAME", "spec.nodeName")],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 5},
            }]}},
        },
    })
}

fn service() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {"type": "NodePort", "selector": {"app": NAME}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}
