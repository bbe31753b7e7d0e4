//! Makes the claims of pods' generic ephemeral volumes, which go with their pods.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use skiff_client::failure::message;
use skiff_client::{
    ApiFailure, Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler,
    SharedCache,
};

use crate::ownership::{controller_reference, is_controlled_by};
use crate::seen_pod::{Pod, Volume};
use crate::{Context, pods};

/// The name of this controller.
pub const NAME: &str = "ephemeral-volume-controller";
/// What its events come from.
const COMPONENT: &str = "ephemeral_volume";

const WORKERS: usize = 2;

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

/// The claim of a volume of the pod's own.
fn claim(pod: &Pod, volume: &Volume) -> PersistentVolumeClaim {
    let template = volume
        .ephemeral
        .as_ref()
        .and_then(|source| source.volume_claim_template.clone());
    let template = template.unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", volume.name)),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        status: None,
    }
}

/// Runs the controller.
pub async fn run(context: Context) {
    let pods = context.caches.of::<Pod>();
    let claims = context.caches.of::<PersistentVolumeClaim>();
    pods.wait_synced().await;
    claims.wait_synced().await;
    let queue = context.queue();
    let _pods = {
        let queue = queue.clone();
        pods.on_event(move |event| {
            let pod = event.object();
            // A pod's volumes do not change.
            if matches!(event, Event::Added(_)) && ephemeral(pod).next().is_some() {
                queue.add(ObjectKey::of(&pod.metadata));
            }
        })
    };
    let _claims = {
        let queue = queue.clone();
        claims.on_event(move |event| {
            // Somebody else's claim of this name, or the pod's own that was deleted by hand.
            if let Event::Deleted(claim) = event {
                let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
                let owners = claim.metadata.owner_references.iter().flatten();
                for owner in owners.filter(|owner| owner.kind == "Pod") {
                    queue.add(ObjectKey::new(namespace, &owner.name));
                }
            }
        })
    };
    let reconciler = Ephemeral {
        client: context.client(NAME),
        pods,
        claims,
        recorder: context.recorder(NAME, COMPONENT),
    };
    context.run(reconciler, queue, WORKERS).await;
}

struct Ephemeral {
    client: Client,
    pods: SharedCache<Pod>,
    claims: SharedCache<PersistentVolumeClaim>,
    recorder: EventRecorder,
}

#[async_trait]
impl Reconciler for Ephemeral {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "ephemeral_volume"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get(key) else {
            return Ok(Outcome::Done);
        };
        if pods::is_deleting(&pod) || pods::is_terminal(&pod) {
            return Ok(Outcome::Done);
        }
        for volume in ephemeral(&pod) {
            if let Err(text) = self.ensure(key, &pod, claim(&pod, volume)).await {
                let text = format!("ephemeral volume {}: {text}", volume.name);
                self.recorder
                    .about(&*pod, EventType::Warning, "FailedBinding", text.clone());
                return Err(ReconcileError::Other(format!("pod {key}, {text}")));
            }
        }
        Ok(Outcome::Done)
    }
}

impl Ephemeral {
    async fn ensure(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        claim: PersistentVolumeClaim,
    ) -> Result<(), String> {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        if let Some(found) = self.claims.get_named(key.namespace(), name) {
            if is_controlled_by(&found.metadata, &pod.metadata) {
                return Ok(());
            }
            return Err(format!(
                "PVC {}/{name} was not created for pod {key} (pod is not owner)",
                key.namespace()
            ));
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), key.namespace());
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => Ok(()),
            Err(error) if error.has_cause("NamespaceTerminating") => Ok(()),
            Err(error) => Err(format!("create PVC {name}: {}", message(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_claim_is_the_pods_own() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "other", "emptyDir": {}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
                    "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}))
        .unwrap();
        let volumes: Vec<_> = ephemeral(&pod).collect();
        assert_eq!(volumes.len(), 1);
        let claim = claim(&pod, volumes[0]);
        assert_eq!(claim.metadata.name.as_deref(), Some("p-scratch"));
        assert!(is_controlled_by(&claim.metadata, &pod.metadata));
        assert_eq!(claim.metadata.labels.unwrap()["a"], "b");
        assert_eq!(claim.spec.unwrap().access_modes.unwrap(), ["ReadWriteOnce"]);
    }
}
