//! Deletes what lost its owners, and carries out foreground and orphan deletions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use http::Request;
use kube::Client;
use parking_lot::RwLock;
use serde_json::{Value, json};
use skiff_client::reflect::{Metadata, Reflector};
use skiff_client::{
    Change, ObjectKey, Outcome, ReconcileError, Reconciler, WatchSink, WatchSpec, WorkQueue,
    is_conflict, is_not_found,
};
use tokio::sync::Notify;

use crate::Context;
use crate::discovery::{ApiResource, discover};
use crate::garbage_graph::{FOREGROUND, Graph, ORPHAN, Owner, OwnerState, Row};

/// The name of this controller.
pub const NAME: &str = "generic-garbage-collector";

/// How many objects are worked on at once; upstream has 20 workers.
const WORKERS: usize = 8;

/// Feeds the objects of one resource into the graph.
struct Feed {
    resource: usize,
    graph: Arc<RwLock<Graph>>,
    queue: WorkQueue<ObjectKey>,
    waiting: Arc<AtomicUsize>,
    synced: Arc<Notify>,
    seen: std::sync::Once,
}

impl Feed {
    fn look(&self, uids: Vec<Arc<str>>) {
        for uid in uids {
            self.queue.add(ObjectKey::new("", &uid));
        }
    }
}

impl WatchSink<Metadata> for Feed {
    fn replace(&self, items: Vec<Metadata>, _: &str) {
        let mut graph = self.graph.write();
        let mut gone: std::collections::HashSet<Arc<str>> =
            graph.of_resource(self.resource).into_iter().collect();
        let mut look = Vec::new();
        for item in &items {
            if let Some(uid) = item.metadata.uid.as_deref() {
                gone.remove(uid);
            }
            look.extend(graph.put(self.resource, &item.metadata));
        }
        for uid in gone {
            look.extend(graph.remove(&uid));
        }
        drop(graph);
        self.look(look);
        self.seen.call_once(|| {
            if self.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.synced.notify_one();
            }
        });
    }

    fn apply(&self, change: Change<Metadata>) {
        let look = match change {
            Change::Applied(object) => self.graph.write().put(self.resource, &object.metadata),
            Change::Deleted(object) => self
                .graph
                .write()
                .remove(object.metadata.uid.as_deref().unwrap_or_default()),
        };
        self.look(look);
    }

    fn progress(&self, _: &str) {}
}

struct Collector {
    client: Client,
    resources: Vec<ApiResource>,
    graph: Arc<RwLock<Graph>>,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let client = context.client(NAME);
    let resources = loop {
        match discover(&client).await {
            Ok(resources) => break resources,
            Err(error) => tracing::warn!(%error, "discovery failed"),
        }
        context.clock.sleep(std::time::Duration::from_secs(1)).await;
    };
    let wanted = |resource: &ApiResource| {
        resource.serves(&["list", "watch", "delete"]) && resource.plural != "events"
    };
    let resources: Vec<ApiResource> = resources.into_iter().filter(wanted).collect();
    let graph: Arc<RwLock<Graph>> = Arc::default();
    let queue = context.queue();
    let (waiting, synced) = (
        Arc::new(AtomicUsize::new(resources.len())),
        Arc::new(Notify::new()),
    );
    let mut feeds = tokio::task::JoinSet::new();
    for (index, resource) in resources.iter().enumerate() {
        let feed = Feed {
            resource: index,
            graph: graph.clone(),
            queue: queue.clone(),
            waiting: waiting.clone(),
            synced: synced.clone(),
            seen: std::sync::Once::new(),
        };
        let spec = WatchSpec::path(resource.path("")).metadata();
        let reflector = Reflector::new(
            client.clone(),
            spec,
            Arc::new(feed),
            context.clock.clone(),
            context.random.clone(),
        );
        let shutdown = context.shutdown.child();
        feeds.spawn(async move { reflector.run(shutdown).await });
    }
    tokio::select! {
        // An owner that is not in the graph yet would look gone.
        () = synced.notified() => {}
        () = context.shutdown.triggered() => return,
    }
    context
        .run(
            Collector {
                client,
                resources,
                graph,
            },
            queue,
            WORKERS,
        )
        .await;
}

impl Collector {
    fn path(&self, row: &Row) -> Option<String> {
        Some(format!(
            "{}/{}",
            self.resources.get(row.resource)?.path(&row.namespace),
            row.name
        ))
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        content: &str,
        body: &Value,
    ) -> Result<(), ReconcileError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(body.to_string().into_bytes());
        match self
            .client
            .request::<Value>(request.map_err(kube::Error::HttpError)?)
            .await
        {
            Ok(_) => Ok(()),
            // Gone already, or changed: an event brings it here again.
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, uid: &str, row: &Row, policy: &str) -> Result<(), ReconcileError> {
        let Some(path) = self.path(row) else {
            return Ok(());
        };
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy, "preconditions": {"uid": uid}});
        self.send("DELETE", &path, "application/json", &options)
            .await
    }

    /// Takes owner references and finalizers off; the uid refuses another object of the same name.
    async fn strip(
        &self,
        uid: &str,
        row: &Row,
        owners: &[&str],
        finalizer: Option<&str>,
    ) -> Result<(), ReconcileError> {
        let Some(path) = self.path(row) else {
            return Ok(());
        };
        let mut metadata = json!({"uid": uid});
        if !owners.is_empty() {
            metadata["ownerReferences"] = owners
                .iter()
                .map(|owner| json!({"$patch": "delete", "uid": owner}))
                .collect();
        }
        if let Some(finalizer) = finalizer {
            metadata["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
        }
        self.send(
            "PATCH",
            &path,
            "application/strategic-merge-patch+json",
            &json!({"metadata": metadata}),
        )
        .await
    }

    /// Whether an owner that the graph does not have is really not there.
    async fn is_absent(&self, row: &Row, owner: &Owner) -> Result<bool, ReconcileError> {
        let of = |resource: &&ApiResource| {
            resource.kind == owner.kind && resource.api_version() == owner.api_version
        };
        // A kind that is not served cannot be judged.
        let Some(resource) = self.resources.iter().find(of) else {
            return Ok(false);
        };
        if resource.namespaced && row.namespace.is_empty() {
            return Ok(false);
        }
        let path = format!("{}/{}", resource.path(&row.namespace), owner.name);
        let request = Request::get(path)
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        match self.client.request::<Value>(request).await {
            Ok(found) => Ok(found["metadata"]["uid"] != *owner.uid),
            Err(error) if is_not_found(&error) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    async fn finish_orphaning(&self, uid: &str, row: &Row) -> Result<(), ReconcileError> {
        let dependents: Vec<(Arc<str>, Row)> = self.rows(self.graph.read().dependents_of(uid));
        for (dependent, its) in &dependents {
            self.strip(dependent, its, &[uid], None).await?;
        }
        self.strip(uid, row, &[], Some(ORPHAN)).await
    }

    async fn finish_foreground(&self, uid: &str, row: &Row) -> Result<(), ReconcileError> {
        let dependents = self.rows(self.graph.read().dependents_of(uid));
        let blocking = |its: &Row| {
            its.owners
                .iter()
                .any(|owner| &*owner.uid == uid && owner.blocks)
        };
        if !dependents.iter().any(|(_, its)| blocking(its)) {
            return self.strip(uid, row, &[], Some(FOREGROUND)).await;
        }
        // The dependents are looked at by themselves; the last that goes brings this object here again.
        Ok(())
    }

    fn rows(&self, uids: Vec<Arc<str>>) -> Vec<(Arc<str>, Row)> {
        let graph = self.graph.read();
        uids.into_iter()
            .filter_map(|uid| graph.row(&uid).cloned().map(|row| (uid, row)))
            .collect()
    }

    async fn judge_dependent(&self, uid: &str, row: &Row) -> Result<(), ReconcileError> {
        let states: Vec<(&Owner, OwnerState)> = {
            let graph = self.graph.read();
            row.owners
                .iter()
                .map(|owner| (owner, graph.state(row, owner)))
                .collect()
        };
        let (mut solid, mut waiting, mut absent) = (0, 0, Vec::new());
        for (owner, state) in states {
            match state {
                OwnerState::Solid => solid += 1,
                OwnerState::Waiting => waiting += 1,
                OwnerState::Unseen if self.is_absent(row, owner).await? => absent.push(&*owner.uid),
                OwnerState::Unseen => solid += 1,
            }
        }
        match (solid, waiting) {
            (0, 0) => self.delete(uid, row, "Background").await,
            (0, _) => self.delete(uid, row, "Foreground").await,
            _ if absent.is_empty() => Ok(()),
            _ => self.strip(uid, row, &absent, None).await,
        }
    }
}

#[async_trait]
impl Reconciler for Collector {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let uid = key.name();
        let Some(row) = self.graph.read().row(uid).cloned() else {
            return Ok(Outcome::Done);
        };
        if row.deleting && row.orphan {
            self.finish_orphaning(uid, &row).await?;
        } else if row.deleting && row.foreground {
            self.finish_foreground(uid, &row).await?;
        } else if !row.deleting && !row.owners.is_empty() {
            self.judge_dependent(uid, &row).await?;
        }
        Ok(Outcome::Done)
    }
}
