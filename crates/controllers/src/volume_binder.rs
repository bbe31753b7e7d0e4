//! Binds claims to volumes, and says what becomes of volumes whose claims are gone.
//!
//! Making and deleting what is behind a volume is for provisioners: ours is [`crate::dir_provisioner`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{self, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use parking_lot::Mutex;
use skiff_base::SharedClock;
use skiff_client::{
    Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache,
    Subscription, WorkQueue, is_already_exists,
};

use crate::deletion::delete_seen;
use crate::gate::WriteGate;
use crate::seen_pod::Pod;
use crate::volume_plan::{
    self as plan, ClaimStep, ClaimView, PROVISIONED_BY, PROVISIONERS, Told, VolumeStep, annotation,
    claim_ref, phase_of_volume,
};
use crate::volume_recycle::{self, Recycling};
use crate::{Context, pods, volume_protection};

/// The name of this controller.
pub const NAME: &str = "persistent-volume-binder";
/// What its events come from.
const COMPONENT: &str = "persistentvolume-controller";

/// How long to wait for a cache to show a write before looking again.
const CATCH_UP: Duration = Duration::from_millis(200);
/// A volume that could not be emptied is tried again after this time.
const RECYCLE_AGAIN: Duration = Duration::from_secs(15);
/// The index of claims that are not bound, by class.
const UNBOUND_INDEX: &str = "unbound-class";

/// Runs the controller.
pub async fn run(context: Context) {
    let claims = context.caches.of::<PersistentVolumeClaim>();
    let volumes = context.caches.of::<PersistentVolume>();
    let classes = context.caches.of::<StorageClass>();
    let pods = context.caches.of::<Pod>();
    volume_protection::index_claims(&pods);
    claims.add_index(UNBOUND_INDEX, |claim| {
        let bound = annotation(&claim.metadata, plan::BIND_COMPLETED).is_some();
        let class = plan::class_of_claim(claim).to_owned();
        (!bound).then_some(class).into_iter().collect()
    });
    claims.wait_synced().await;
    volumes.wait_synced().await;
    classes.wait_synced().await;
    pods.wait_synced().await;
    let binder = Arc::new(Binder {
        client: context.client(NAME),
        claims,
        volumes,
        classes,
        pods,
        claim_gate: WriteGate::default(),
        volume_gate: WriteGate::default(),
        claim_queue: context.queue(),
        volume_queue: context.queue(),
        recorder: context.recorder(NAME, COMPONENT),
        retries: Mutex::default(),
        clock: context.clock.clone(),
    });
    let _subscriptions = binder.subscribe();
    // One of each: two claims that want the same volume would only get into each other's way.
    let of_claims = context.run(Claims(binder.clone()), binder.claim_queue.clone(), 1);
    let of_volumes = context.run(Volumes(binder.clone()), binder.volume_queue.clone(), 1);
    tokio::join!(of_claims, of_volumes);
}

struct Binder {
    client: Client,
    claims: SharedCache<PersistentVolumeClaim>,
    volumes: SharedCache<PersistentVolume>,
    classes: SharedCache<StorageClass>,
    pods: SharedCache<Pod>,
    claim_gate: WriteGate,
    volume_gate: WriteGate,
    claim_queue: WorkQueue<ObjectKey>,
    volume_queue: WorkQueue<ObjectKey>,
    recorder: EventRecorder,
    /// When volumes that could not be emptied are tried again.
    retries: Mutex<HashMap<ObjectKey, Duration>>,
    clock: SharedClock,
}

struct Claims(Arc<Binder>);
struct Volumes(Arc<Binder>);

/// The key under which all writes to volumes are waited for: any claim may want any volume.
fn any_volume() -> ObjectKey {
    ObjectKey::new("", "")
}

fn key_of_ref(volume: &PersistentVolume) -> Option<ObjectKey> {
    let of = claim_ref(volume)?;
    let (namespace, name) = (of.namespace.as_deref()?, of.name.as_deref()?);
    Some(ObjectKey::new(namespace, name))
}

/// Whether somebody else than this controller made the volume, and is to delete it.
fn is_external(volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    annotation(&volume.metadata, PROVISIONED_BY).is_some()
        || spec.is_some_and(|spec| spec.csi.is_some())
}

impl Binder {
    fn subscribe(self: &Arc<Self>) -> [Subscription; 4] {
        let of_claims = {
            let binder = self.clone();
            self.claims.on_event(move |event| binder.on_claim(event))
        };
        let of_volumes = {
            let binder = self.clone();
            self.volumes.on_event(move |event| binder.on_volume(event))
        };
        let binder = self.clone();
        let of_classes = self.classes.on_event(move |event| {
            if let Event::Added(class) | Event::Updated { new: class, .. } = event {
                let name = class.metadata.name.as_deref().unwrap_or_default();
                binder.wake(name);
                // It may be the default now.
                binder.wake("");
            }
        });
        let queue = self.volume_queue.clone();
        let of_recyclers = self.pods.on_event(move |event| {
            if let Some(volume) = volume_recycle::volume_of(event.object()) {
                queue.add(ObjectKey::new("", volume));
            }
        });
        [of_claims, of_volumes, of_classes, of_recyclers]
    }

    /// Queues the claims of a class that are not bound.
    fn wake(&self, class: &str) {
        for claim in self.claims.by_index(UNBOUND_INDEX, class) {
            self.claim_queue.add(ObjectKey::of(&claim.metadata));
        }
    }

    fn on_claim(&self, event: &Event<PersistentVolumeClaim>) {
        let claim = event.object();
        let gone = matches!(event, Event::Deleted(_));
        if !gone {
            self.claim_queue.add(ObjectKey::of(&claim.metadata));
        }
        let spec = claim.spec.as_ref();
        if let Some(volume) = spec.and_then(|spec| spec.volume_name.as_deref()) {
            self.volume_queue.add(ObjectKey::new("", volume));
        }
    }

    fn on_volume(&self, event: &Event<PersistentVolume>) {
        let volume = event.object();
        let gone = matches!(event, Event::Deleted(_));
        self.volume_queue.add(ObjectKey::of(&volume.metadata));
        if let Some(claim) = key_of_ref(volume) {
            if gone || phase_of_volume(volume) != "Bound" {
                self.claim_queue.add(claim);
            }
        } else if !gone && phase_of_volume(volume) == "Available" {
            let spec = volume.spec.as_ref();
            let class = spec.and_then(|spec| spec.storage_class_name.as_deref());
            self.wake(class.unwrap_or_default());
        }
    }

    fn tell<K: kube::Resource<DynamicType = ()>>(&self, object: &K, told: &Told) {
        self.recorder
            .about(object, told.event_type, told.reason, told.text.clone());
    }

    fn claims_api(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }

    fn volumes_api(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    async fn save_claim(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<PersistentVolumeClaim, kube::Error> {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let api = self.claims_api(claim);
        let answer = api.replace(name, &PostParams::default(), claim).await?;
        let key = ObjectKey::of(&claim.metadata);
        self.claim_gate.wrote(&key, &answer.metadata);
        Ok(answer)
    }

    async fn save_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<bool, kube::Error> {
        let Some(status) = plan::claim_status(claim, phase, volume) else {
            return Ok(false);
        };
        let changed = PersistentVolumeClaim {
            status: Some(status),
            ..claim.clone()
        };
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let api = self.claims_api(claim);
        let answer = api
            .replace_status(name, &PostParams::default(), &changed)
            .await?;
        let key = ObjectKey::of(&claim.metadata);
        self.claim_gate.wrote(&key, &answer.metadata);
        Ok(true)
    }

    async fn save_volume(
        &self,
        volume: &PersistentVolume,
    ) -> Result<PersistentVolume, kube::Error> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let api = self.volumes_api();
        let answer = api.replace(name, &PostParams::default(), volume).await?;
        self.volume_gate.wrote(&any_volume(), &answer.metadata);
        Ok(answer)
    }

    async fn save_phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<bool, kube::Error> {
        if phase_of_volume(volume) == phase {
            return Ok(false);
        }
        let mut changed = volume.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = message.map(str::to_owned);
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let api = self.volumes_api();
        let answer = api
            .replace_status(name, &PostParams::default(), &changed)
            .await?;
        self.volume_gate.wrote(&any_volume(), &answer.metadata);
        Ok(true)
    }

    async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), kube::Error> {
        let volume = match plan::bound_volume(volume, claim) {
            Some(changed) => self.save_volume(&changed).await?,
            None => volume.clone(),
        };
        self.save_phase(&volume, "Bound", None).await?;
        let claim = match plan::bound_claim(claim, &volume) {
            Some(changed) => self.save_claim(&changed).await?,
            None => claim.clone(),
        };
        self.save_claim_status(&claim, "Bound", Some(&volume))
            .await?;
        Ok(())
    }

    /// The names of pods that use the claim and have no node yet.
    fn waiting(&self, key: &ObjectKey) -> Vec<String> {
        let pods = volume_protection::pods_with_claim(&self.pods, key);
        let pods = pods
            .iter()
            .filter(|pod| pods::node_name(pod).is_empty() && !pods::is_terminal(pod));
        pods.filter_map(|pod| pod.metadata.name.clone()).collect()
    }

    /// Asks the class's provisioner for a volume.
    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<(), kube::Error> {
        if class.provisioner.starts_with("kubernetes.io/") {
            // Upstream had provisioners of its own once; volumes of such classes are made by hand.
            let text = format!("no volume plugin matched name: {}", class.provisioner);
            self.recorder
                .about(claim, EventType::Warning, "ProvisioningFailed", text);
            self.save_claim_status(claim, "Pending", None).await?;
            return Ok(());
        }
        let asked = PROVISIONERS
            .iter()
            .all(|name| annotation(&claim.metadata, name) == Some(&class.provisioner));
        let mut claim = claim.clone();
        if !asked {
            let annotations = claim.metadata.annotations.get_or_insert_default();
            for name in PROVISIONERS {
                annotations.insert(name.to_owned(), class.provisioner.clone());
            }
            claim = self.save_claim(&claim).await?;
        }
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
            class.provisioner
        );
        self.recorder
            .about(&claim, EventType::Normal, "ExternalProvisioning", text);
        Ok(())
    }

    /// The claim that the volume names, if it is still the same one. The server has the last word before a volume is
    /// given up.
    async fn claim_of(
        &self,
        volume: &PersistentVolume,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>, kube::Error> {
        let (Some(of), Some(key)) = (claim_ref(volume), key_of_ref(volume)) else {
            return Ok(None);
        };
        let is_it = |claim: &PersistentVolumeClaim| claim.metadata.uid == of.uid;
        if let Some(claim) = self.claims.get(&key).filter(|claim| is_it(claim)) {
            return Ok(Some(claim));
        }
        if matches!(phase_of_volume(volume), "Released" | "Failed") {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), key.namespace());
        let fresh = api.get_opt(key.name()).await?;
        Ok(fresh.filter(is_it).map(Arc::new))
    }

    /// The claim is gone: what the policy says is done, as far as it is ours.
    async fn reclaim(&self, volume: &PersistentVolume) -> Result<(), kube::Error> {
        if !matches!(phase_of_volume(volume), "Released" | "Failed") {
            // The change brings the volume here again.
            self.save_phase(volume, "Released", None).await?;
            return Ok(());
        }
        let (reason, text) = match plan::policy(volume) {
            "Retain" => return Ok(()),
            // Who made it deletes it.
            "Delete" if is_external(volume) => return Ok(()),
            "Delete" => {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                let text = format!(
                    "error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"
                );
                ("VolumeFailedDelete", text)
            }
            "Recycle" => match self.recycle(volume).await? {
                Some(text) => ("VolumeFailedRecycle", text),
                None => return Ok(()),
            },
            _ => (
                "VolumeUnknownReclaimPolicy",
                "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned(),
            ),
        };
        if self.save_phase(volume, "Failed", Some(&text)).await? {
            self.recorder
                .about(volume, EventType::Warning, reason, text);
        }
        Ok(())
    }

    /// One step towards an empty volume; answers why there will be none. The recycler's changes bring the volume here
    /// again.
    async fn recycle(&self, volume: &PersistentVolume) -> Result<Option<String>, kube::Error> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let key = ObjectKey::of(&volume.metadata);
        let recycler = volume_recycle::recycler_name(name);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), volume_recycle::NAMESPACE);
        let found = self.pods.get_named(volume_recycle::NAMESPACE, &recycler);
        let users = key_of_ref(volume).map_or_else(Vec::new, |claim| self.users(&claim));
        let remove = async || match &found {
            Some(pod) => delete_seen(&pods, &pod.metadata, DeleteParams::default()).await,
            None => Ok(false),
        };
        match volume_recycle::recycling(volume, found.as_deref(), &users) {
            Recycling::Unsupported => {
                return Ok(Some("No recycler plugin found for the volume!".to_owned()));
            }
            Recycling::InUse(text) => {
                self.recorder
                    .about(volume, EventType::Normal, "VolumeFailedRecycle", text);
                self.volume_queue.add_after(key, RECYCLE_AGAIN);
            }
            Recycling::Start(_) if self.is_early(&key) => {}
            Recycling::Start(pod) => {
                let api: Api<v1::Pod> =
                    Api::namespaced(self.client.clone(), volume_recycle::NAMESPACE);
                match api.create(&PostParams::default(), &pod).await {
                    Err(error) if !is_already_exists(&error) => return Err(error),
                    _ => {}
                }
            }
            Recycling::Wait => {}
            Recycling::Clear => remove().await.map(drop)?,
            Recycling::Failed(text) => {
                let again = self.clock.monotonic() + RECYCLE_AGAIN;
                self.retries.lock().insert(key.clone(), again);
                self.volume_queue.add_after(key, RECYCLE_AGAIN);
                remove().await?;
                return Ok(Some(text));
            }
            Recycling::Done => {
                let text = "Volume recycled";
                self.recorder
                    .about(volume, EventType::Normal, "VolumeRecycled", text);
                let written = self.save_volume(&plan::unbound_volume(volume)).await?;
                self.save_phase(&written, "Available", None).await?;
                remove().await?;
            }
        }
        Ok(None)
    }

    /// Whether emptying the volume has failed a moment ago.
    fn is_early(&self, key: &ObjectKey) -> bool {
        let mut retries = self.retries.lock();
        let now = self.clock.monotonic();
        retries.retain(|_, again| *again > now);
        retries.contains_key(key)
    }

    /// The pods, as `namespace/name`, that still use a claim that is gone. With a new claim of its name they may be that
    /// one's, which cannot have this volume.
    fn users(&self, claim: &ObjectKey) -> Vec<String> {
        if self.claims.get(claim).is_some() {
            return Vec::new();
        }
        let pods = volume_protection::pods_with_claim(&self.pods, claim);
        let pods = pods.iter().filter(|pod| !pods::is_terminal(pod));
        pods.map(|pod| ObjectKey::of(&pod.metadata).to_string())
            .collect()
    }
}

#[async_trait]
impl Reconciler for Claims {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "claims"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let binder = &self.0;
        let Some(claim) = binder.claims.get(key) else {
            binder.claim_gate.forget(key);
            return Ok(Outcome::Done);
        };
        let caught_up = binder.claim_gate.is_open(key, &binder.claims)
            & binder.volume_gate.is_open(&any_volume(), &binder.volumes);
        if !caught_up {
            return Ok(Outcome::After(CATCH_UP));
        }
        // Only a claim that names no volume has a choice.
        let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
        let volumes = match named.filter(|name| !name.is_empty()) {
            Some(name) => Vec::from_iter(binder.volumes.get_named("", name)),
            None => binder.volumes.list(),
        };
        let step = plan::claim_step(&ClaimView {
            claim: &claim,
            volumes: &volumes,
            classes: &binder.classes.list(),
            waiting: &binder.waiting(key),
        });
        match step {
            ClaimStep::Bind(volume) => binder.bind(&claim, &volume).await?,
            ClaimStep::AssignClass(class) => {
                let mut changed = (*claim).clone();
                let spec = changed.spec.get_or_insert_default();
                spec.storage_class_name = Some(class);
                binder.save_claim(&changed).await?;
            }
            ClaimStep::Provision(class) => binder.provision(&claim, &class).await?,
            ClaimStep::Wait(told) => {
                if let Some(told) = told {
                    binder.tell(&*claim, &told);
                }
                binder.save_claim_status(&claim, "Pending", None).await?;
            }
            ClaimStep::Lost(told) => {
                let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
                if phase != Some("Lost") {
                    binder.save_claim_status(&claim, "Lost", None).await?;
                    binder.tell(&*claim, &told);
                }
            }
        }
        Ok(Outcome::Done)
    }
}

#[async_trait]
impl Reconciler for Volumes {
    fn name(&self) -> &'static str {
        "persistent-volume-binder-volumes"
    }

    fn queue(&self) -> &'static str {
        "volumes"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let binder = &self.0;
        let Some(volume) = binder.volumes.get(key) else {
            return Ok(Outcome::Done);
        };
        if !binder.volume_gate.is_open(&any_volume(), &binder.volumes) {
            return Ok(Outcome::After(CATCH_UP));
        }
        let claim = binder.claim_of(&volume).await?;
        match plan::volume_step(&volume, claim.as_deref()) {
            VolumeStep::Phase(phase) => drop(binder.save_phase(&volume, phase, None).await?),
            VolumeStep::Reclaim => binder.reclaim(&volume).await?,
            VolumeStep::Unbind => {
                let changed = plan::unbound_volume(&volume);
                let written = binder.save_volume(&changed).await?;
                binder.save_phase(&written, "Available", None).await?;
            }
            VolumeStep::WakeClaim => {
                if let Some(claim) = claim {
                    binder.claim_queue.add(ObjectKey::of(&claim.metadata));
                }
            }
            VolumeStep::Mismatch(of_volume, of_claim) => {
                binder.tell(&*volume, &of_volume);
                if let Some(claim) = claim {
                    binder.tell(&*claim, &of_claim);
                }
            }
        }
        Ok(Outcome::Done)
    }
}
