//! Deletes what lost its owners, and carries out foreground and orphan deletions.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Request;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::core::ObjectMeta;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_client::{
    ApiFailure, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler,
    is_conflict, is_not_found,
};

use crate::Context;
use crate::garbage_graph::{FOREGROUND, ORPHAN, Owner, OwnerState, Row, Verdict, verdict};
use crate::garbage_watch::{Feeder, World};

/// The name of this controller.
pub const NAME: &str = "generic-garbage-collector";

/// How many objects are worked on at once; upstream has 20 workers.
const WORKERS: usize = 8;
/// When to look again at an object whose owner is there, but not in the graph yet.
const UNSEEN: Duration = Duration::from_secs(30);
/// So many owners are remembered to be absent, as upstream does.
const ABSENT: usize = 500;
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

#[derive(Deserialize)]
struct OnlyMetadata {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// Owners that the server does not have; a thousand dependents of one ask once.
#[derive(Default)]
struct Absent {
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl Absent {
    fn add(&mut self, key: String) {
        if self.known.insert(key.clone()) {
            self.order.push_back(key);
        }
        if self.order.len() > ABSENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

struct Collector {
    client: Client,
    world: Arc<World>,
    absent: Mutex<Absent>,
    recorder: EventRecorder,
    queue: skiff_client::WorkQueue<ObjectKey>,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let client = context.client(NAME);
    let queue = context.queue();
    let feeder = Feeder::new(&context, client.clone(), queue.clone());
    let collector = Collector {
        client,
        world: feeder.world(),
        absent: Mutex::default(),
        recorder: context.recorder(NAME, "garbage-collector-controller"),
        queue: queue.clone(),
    };
    tokio::select! {
        () = feeder.start() => {}
        () = context.shutdown.triggered() => return,
    }
    tokio::select! {
        () = feeder.follow() => {}
        () = context.run(collector, queue, WORKERS) => {}
    }
}

impl Collector {
    fn path(&self, row: &Row) -> Option<String> {
        let resource = self.world.resource(row.resource)?;
        Some(format!("{}/{}", resource.path(&row.namespace), row.name))
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        content: &str,
        body: &Value,
    ) -> Result<Outcome, ReconcileError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(body.to_string().into_bytes());
        let request = request.map_err(kube::Error::HttpError)?;
        match self.client.request_text(request).await {
            Ok(_) => Ok(Outcome::Done),
            // Gone already: an event takes it out of the graph.
            Err(error) if is_not_found(&error) => Ok(Outcome::Done),
            // Changed meanwhile, perhaps in what the graph does not keep.
            Err(error) if is_conflict(&error) => Ok(Outcome::Retry),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(
        &self,
        path: &str,
        latest: &ObjectMeta,
        policy: &str,
    ) -> Result<Outcome, ReconcileError> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy,
            "preconditions": {"uid": latest.uid, "resourceVersion": latest.resource_version}});
        self.send("DELETE", path, "application/json", &options)
            .await
    }

    /// Changes owner references and finalizers; the uid and the version refuse an object that is not what we saw.
    async fn replace_metadata(
        &self,
        path: &str,
        latest: &ObjectMeta,
        changed: Value,
    ) -> Result<Outcome, ReconcileError> {
        let mut metadata = changed;
        metadata["uid"] = json!(latest.uid);
        metadata["resourceVersion"] = json!(latest.resource_version);
        self.send(
            "PATCH",
            path,
            "application/merge-patch+json",
            &json!({"metadata": metadata}),
        )
        .await
    }

    async fn without_owners(
        &self,
        path: &str,
        latest: &ObjectMeta,
        owners: &HashSet<&str>,
    ) -> Result<Outcome, ReconcileError> {
        let left = latest.owner_references.iter().flatten();
        let left: Vec<_> = left.filter(|owner| !owners.contains(&*owner.uid)).collect();
        let changed = json!({"ownerReferences": or_null(left)});
        self.replace_metadata(path, latest, changed).await
    }

    async fn without_finalizer(
        &self,
        uid: &str,
        row: &Row,
        finalizer: &str,
    ) -> Result<Outcome, ReconcileError> {
        let Some((path, latest)) = self.latest(uid, row).await? else {
            return Ok(Outcome::Done);
        };
        let present = latest.finalizers.as_deref().unwrap_or_default();
        if !present.iter().any(|found| found == finalizer) {
            return Ok(Outcome::Done);
        }
        let left: Vec<_> = present.iter().filter(|found| *found != finalizer).collect();
        let changed = json!({"finalizers": or_null(left)});
        self.replace_metadata(&path, &latest, changed).await
    }

    async fn get(&self, path: &str) -> Result<Option<ObjectMeta>, ReconcileError> {
        let request = Request::get(path)
            .header(http::header::ACCEPT, METADATA)
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        match self.client.request::<OnlyMetadata>(request).await {
            Ok(found) => Ok(Some(found.metadata)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The object as the server has it; none if it is gone, in which case the graph learns it.
    async fn latest(
        &self,
        uid: &str,
        row: &Row,
    ) -> Result<Option<(String, ObjectMeta)>, ReconcileError> {
        let Some(path) = self.path(row) else {
            return Ok(None);
        };
        match self.get(&path).await? {
            Some(found) if found.uid.as_deref() == Some(uid) => Ok(Some((path, found))),
            _ => {
                let look = self.world.graph.write().remove(uid);
                for uid in look {
                    self.queue.add(ObjectKey::new("", &uid));
                }
                Ok(None)
            }
        }
    }

    /// What an owner that the graph does not have, or not where the reference looks for it, really is.
    async fn ask(&self, uid: &str, row: &Row, owner: &Owner) -> Result<OwnerState, ReconcileError> {
        // A kind that is not served cannot be judged.
        let Some(resource) = self.world.find(&owner.api_version, &owner.kind) else {
            return Ok(OwnerState::Solid);
        };
        if resource.namespaced && row.namespace.is_empty() {
            self.tell_of_wrong_namespace(uid, row, owner);
            return Ok(OwnerState::Solid);
        }
        let path = format!("{}/{}", resource.path(&row.namespace), owner.name);
        let key = format!("{path} {}", owner.uid);
        let elsewhere = self.world.graph.read().row(&owner.uid).is_some();
        if !self.absent.lock().known.contains(&key) {
            match self.get(&path).await? {
                Some(found) if found.uid.as_deref() == Some(&*owner.uid) => {
                    return Ok(OwnerState::Unseen);
                }
                _ => self.absent.lock().add(key),
            }
        }
        if elsewhere {
            self.tell_of_wrong_namespace(uid, row, owner);
        }
        Ok(OwnerState::Absent)
    }

    fn tell_of_wrong_namespace(&self, uid: &str, row: &Row, owner: &Owner) {
        let Some(resource) = self.world.resource(row.resource) else {
            return;
        };
        let namespace = &row.namespace;
        let text = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        let regarding = ObjectReference {
            api_version: Some(resource.api_version()),
            kind: Some(resource.kind.clone()),
            namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(row.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        self.recorder.record(
            regarding,
            EventType::Warning,
            "OwnerRefInvalidNamespace",
            text,
        );
    }

    async fn finish_orphaning(&self, uid: &str, row: &Row) -> Result<Outcome, ReconcileError> {
        for (dependent, its) in self.dependents(uid) {
            let Some((path, latest)) = self.latest(&dependent, &its).await? else {
                continue;
            };
            let mut owners = latest.owner_references.iter().flatten();
            if owners.any(|owner| owner.uid == uid) {
                let gone = HashSet::from([uid]);
                if self.without_owners(&path, &latest, &gone).await? != Outcome::Done {
                    return Ok(Outcome::Retry);
                }
            }
        }
        self.without_finalizer(uid, row, ORPHAN).await
    }

    async fn finish_foreground(&self, uid: &str, row: &Row) -> Result<Outcome, ReconcileError> {
        let blocks = |its: &Row| {
            let mut owners = its.owners.iter();
            owners.any(|owner| &*owner.uid == uid && owner.blocks)
        };
        // The dependents are looked at by themselves; the last that goes brings this object here again.
        if self.dependents(uid).iter().any(|(_, its)| blocks(its)) {
            return Ok(Outcome::Done);
        }
        self.without_finalizer(uid, row, FOREGROUND).await
    }

    fn dependents(&self, uid: &str) -> Vec<(Arc<str>, Row)> {
        let graph = self.world.graph.read();
        let uids = graph.dependents_of(uid).into_iter();
        uids.filter_map(|uid| graph.row(&uid).cloned().map(|row| (uid, row)))
            .collect()
    }

    async fn judge_dependent(&self, uid: &str, row: &Row) -> Result<Outcome, ReconcileError> {
        // All owners there: nothing to do, and nobody to ask.
        let mut states: Vec<OwnerState> = {
            let graph = self.world.graph.read();
            let owners = row.owners.iter();
            owners.map(|owner| graph.state(row, owner)).collect()
        };
        if states.iter().all(|state| *state == OwnerState::Solid) {
            return Ok(Outcome::Done);
        }
        let Some((path, latest)) = self.latest(uid, row).await? else {
            return Ok(Outcome::Done);
        };
        let row = Row::of(row.resource, &latest);
        states.clear();
        for owner in &row.owners {
            let state = self.world.graph.read().state(&row, owner);
            states.push(match state {
                OwnerState::Unseen => self.ask(uid, &row, owner).await?,
                known => known,
            });
        }
        if row.deleting || row.owners.is_empty() {
            return Ok(Outcome::Done);
        }
        let dependents = self.dependents(uid);
        let circle = dependents
            .iter()
            .any(|(_, its)| its.deleting && its.foreground);
        match verdict(&row, &states, !dependents.is_empty()) {
            Verdict::Keep if states.contains(&OwnerState::Unseen) => Ok(Outcome::After(UNSEEN)),
            Verdict::Keep => Ok(Outcome::Done),
            Verdict::Strip(owners) => {
                let owners = owners.iter().map(|owner| &**owner).collect();
                self.without_owners(&path, &latest, &owners).await
            }
            Verdict::Delete(policy) => {
                if policy == "Foreground" && circle {
                    // An owner waits for this object, which would wait for a dependent that waits as well: perhaps for
                    // the owner. Nobody waits for this one any more.
                    return self.unblock(uid, &row, &path, &latest).await;
                }
                self.delete(&path, &latest, policy).await
            }
        }
    }

    async fn unblock(
        &self,
        uid: &str,
        row: &Row,
        path: &str,
        latest: &ObjectMeta,
    ) -> Result<Outcome, ReconcileError> {
        if row.owners.iter().any(|owner| owner.blocks) {
            let mut owners = latest.owner_references.clone().unwrap_or_default();
            for owner in &mut owners {
                owner.block_owner_deletion = Some(false);
            }
            let changed = json!({"ownerReferences": owners});
            let outcome = self.replace_metadata(path, latest, changed).await?;
            if outcome != Outcome::Done {
                return Ok(outcome);
            }
        }
        match self.get(path).await? {
            Some(latest) if latest.uid.as_deref() == Some(uid) => {
                self.delete(path, &latest, "Foreground").await
            }
            _ => Ok(Outcome::Done),
        }
    }
}

/// An empty list leaves no trace.
fn or_null<T: serde::Serialize>(items: Vec<T>) -> Value {
    if items.is_empty() {
        Value::Null
    } else {
        json!(items)
    }
}

#[async_trait]
impl Reconciler for Collector {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "garbage_collector_attempt_to_delete"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let uid = key.name();
        let Some(row) = self.world.graph.read().row(uid).cloned() else {
            return Ok(Outcome::Done);
        };
        let outcome = if row.deleting && row.orphan {
            self.finish_orphaning(uid, &row).await
        } else if row.deleting && row.foreground {
            self.finish_foreground(uid, &row).await
        } else if !row.deleting && !row.owners.is_empty() {
            self.judge_dependent(uid, &row).await
        } else {
            Ok(Outcome::Done)
        };
        match outcome {
            // The kind went away while we worked.
            Err(ReconcileError::Api(error)) if matches!(error.code(), Some(404 | 405)) => {
                Ok(Outcome::Done)
            }
            outcome => outcome,
        }
    }
}
