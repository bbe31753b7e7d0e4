//! Feeds the garbage collector's graph: watches the metadata of every kind that can be deleted, and takes kinds in and
//! out as the API server serves them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use kube::Client;
use parking_lot::RwLock;
use skiff_base::Shutdown;
use skiff_client::reflect::{Metadata, Reflector};
use skiff_client::{Change, ObjectKey, SharedCache, WatchSink, WatchSpec, WorkQueue};
use tokio::sync::{mpsc, watch};

use crate::Context;
use crate::discovery::{ApiResource, discover};
use crate::garbage_graph::Graph;

/// How long the collector waits for the first lists: absence is asked of the server anyway, so a kind that cannot be
/// listed must not stop the others.
const PATIENCE: Duration = Duration::from_secs(30);
/// A kind is served some time after its definition has changed: when to look.
const LOOKS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// The graph, with what its rows' numbers of resources mean.
#[derive(Default)]
pub struct World {
    pub graph: RwLock<Graph>,
    /// None for a resource that is served no longer; numbers are not given twice.
    resources: RwLock<Vec<Option<Watched>>>,
}

struct Watched {
    resource: Arc<ApiResource>,
    end: Shutdown,
}

impl World {
    /// The resource of that number.
    pub fn resource(&self, number: usize) -> Option<Arc<ApiResource>> {
        let resources = self.resources.read();
        let watched = resources.get(number)?.as_ref()?;
        Some(watched.resource.clone())
    }

    /// The resource of a kind, whatever version of its group a reference names.
    pub fn find(&self, api_version: &str, kind: &str) -> Option<Arc<ApiResource>> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let resources = self.resources.read();
        let mut served = resources.iter().flatten();
        let found = served
            .find(|watched| watched.resource.kind == kind && watched.resource.group == group)?;
        Some(found.resource.clone())
    }
}

fn look(queue: &WorkQueue<ObjectKey>, uids: impl IntoIterator<Item = Arc<str>>) {
    for uid in uids {
        queue.add(ObjectKey::new("", &uid));
    }
}

/// Feeds the objects of one resource into the graph.
struct Feed {
    number: usize,
    world: Arc<World>,
    queue: WorkQueue<ObjectKey>,
    synced: watch::Sender<usize>,
    seen: Once,
}

impl WatchSink<Metadata> for Feed {
    fn replace(&self, items: Vec<Metadata>, _: &str) {
        let mut uids = Vec::new();
        {
            let mut graph = self.world.graph.write();
            let mut gone: HashSet<Arc<str>> = graph.of_resource(self.number).into_iter().collect();
            for item in &items {
                if let Some(uid) = item.metadata.uid.as_deref() {
                    gone.remove(uid);
                }
                uids.extend(graph.put(self.number, &item.metadata));
            }
            for uid in gone {
                uids.extend(graph.remove(&uid));
            }
        }
        look(&self.queue, uids);
        self.seen.call_once(|| {
            self.synced
                .send_modify(|waiting| *waiting = waiting.saturating_sub(1));
        });
    }

    fn apply(&self, change: Change<Metadata>) {
        let mut graph = self.world.graph.write();
        let uids = match change {
            Change::Applied(object) => graph.put(self.number, &object.metadata),
            Change::Deleted(object) => {
                graph.remove(object.metadata.uid.as_deref().unwrap_or_default())
            }
        };
        drop(graph);
        look(&self.queue, uids);
    }

    fn progress(&self, _: &str) {}
}

/// Keeps the graph in step with the API server.
pub struct Feeder {
    client: Client,
    context: Context,
    world: Arc<World>,
    queue: WorkQueue<ObjectKey>,
    /// How many first lists are still to come.
    synced: watch::Sender<usize>,
}

impl Feeder {
    pub fn new(context: &Context, client: Client, queue: WorkQueue<ObjectKey>) -> Self {
        Self {
            client,
            context: context.clone(),
            world: Arc::default(),
            queue,
            synced: watch::Sender::new(0),
        }
    }

    pub fn world(&self) -> Arc<World> {
        self.world.clone()
    }

    /// Starts the watches; answers when the first lists are there.
    pub async fn start(&self) {
        while let Err(error) = self.follow_discovery().await {
            tracing::warn!(%error, "discovery failed");
            self.context.clock.sleep(Duration::from_secs(1)).await;
        }
        let mut waiting = self.synced.subscribe();
        tokio::select! {
            _ = waiting.wait_for(|waiting| *waiting == 0) => {}
            () = self.context.clock.sleep(PATIENCE) => {}
        }
    }

    /// Follows the definitions of kinds for ever. Kinds of other servers (APIServices) come the same way.
    pub async fn follow(self) {
        let (sender, mut changed) = mpsc::channel(1);
        let mut subscriptions = Vec::new();
        let mut definitions: Vec<SharedCache<Metadata>> = Vec::new();
        for kind in ["CustomResourceDefinition", "APIService"] {
            let served = self.world.resources.read();
            let mut found = served.iter().flatten();
            let Some(watched) = found.find(|watched| watched.resource.kind == kind) else {
                continue;
            };
            let spec = WatchSpec::path(watched.resource.path("")).metadata();
            let cache = self.context.caches.watch::<Metadata>(spec);
            let sender = sender.clone();
            subscriptions.push(cache.on_event(move |_| {
                // One that waits stands for all.
                let _ = sender.try_send(());
            }));
            definitions.push(cache);
        }
        while changed.recv().await.is_some() {
            for pause in LOOKS {
                self.context.clock.sleep(pause).await;
                if let Err(error) = self.follow_discovery().await {
                    tracing::debug!(%error, "discovery failed");
                }
            }
        }
        drop((subscriptions, definitions));
    }

    /// Starts watches for what is served newly and ends those of what is served no longer.
    async fn follow_discovery(&self) -> Result<(), kube::Error> {
        let mut served = discover(&self.client).await?;
        served.retain(|resource| {
            resource.serves(&["list", "watch", "delete"]) && resource.plural != "events"
        });
        let mut ended = Vec::new();
        let mut known = HashSet::new();
        {
            let mut resources = self.world.resources.write();
            for (number, slot) in resources.iter_mut().enumerate() {
                let Some(watched) = slot else { continue };
                if served.contains(&watched.resource) {
                    known.insert((*watched.resource).clone());
                } else {
                    watched.end.trigger();
                    *slot = None;
                    ended.push(number);
                }
            }
        }
        for number in ended {
            let mut graph = self.world.graph.write();
            let mut uids = Vec::new();
            for uid in graph.of_resource(number) {
                uids.extend(graph.remove(&uid));
            }
            drop(graph);
            look(&self.queue, uids);
        }
        served.retain(|resource| !known.contains(resource));
        if served.is_empty() {
            return Ok(());
        }
        for resource in served {
            self.watch(resource);
        }
        // Owners of kinds that could not be asked for can be now.
        look(&self.queue, self.world.graph.read().with_unseen_owners());
        Ok(())
    }

    fn watch(&self, resource: ApiResource) {
        let end = self.context.shutdown.child();
        let spec = WatchSpec::path(resource.path("")).metadata();
        let number = {
            let mut resources = self.world.resources.write();
            resources.push(Some(Watched {
                resource: Arc::new(resource),
                end: end.clone(),
            }));
            resources.len() - 1
        };
        self.synced.send_modify(|waiting| *waiting += 1);
        let feed = Feed {
            number,
            world: self.world.clone(),
            queue: self.queue.clone(),
            synced: self.synced.clone(),
            seen: Once::new(),
        };
        let reflector = Reflector::new(
            self.client.clone(),
            spec,
            Arc::new(feed),
            self.context.clock.clone(),
            self.context.random.clone(),
        );
        tokio::spawn(reflector.run(end));
    }
}
