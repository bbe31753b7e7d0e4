//! Does what is planned when its time has come: one queue for all nodes, and few workers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Error};
use parking_lot::Mutex;
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Clock, Component, Random, SharedClock, Shutdown};
use skiff_client::reflect::{Reflector, WatchSpec};
use skiff_client::{
    Change, ObjectKey, WatchSink, WorkQueue, is_already_exists, is_conflict, is_not_found,
};
use tokio::task::JoinSet;

use crate::plan::{self, LEASE_EVERY, Row, STATUS_EVERY, STATUS_LOOK, Step};
use crate::{ClientFactory, SimulationConfig};

/// So much is under way at a time.
const WORKERS: usize = 64;
/// What failed is tried again after this time; a silent node is looked at as often.
const AGAIN: Duration = Duration::from_secs(1);
/// Where the leases of nodes are.
const LEASES: &str = "kube-node-lease";

/// What waits for its time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Task {
    Register(u32),
    Lease(u32),
    Status(u32),
    Pod(ObjectKey),
}

/// All nodes.
pub struct Simulation {
    reader: Client,
    clients: ClientFactory,
    config: SimulationConfig,
    clock: SharedClock,
    random: Random,
}

impl Simulation {
    /// Nodes that do nothing yet.
    pub fn new(
        reader: Client,
        clients: ClientFactory,
        config: SimulationConfig,
        clock: SharedClock,
        random: Random,
    ) -> Self {
        Self {
            reader,
            clients,
            config,
            clock,
            random,
        }
    }
}

#[async_trait]
impl Component for Simulation {
    fn name(&self) -> &'static str {
        "simulated-nodes"
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        let queue = WorkQueue::new(self.clock.clone());
        let shared = Arc::new(Shared {
            config: self.config.clone(),
            clients: (0..self.config.nodes)
                .map(|node| (self.clients)(&self.config.name(node)))
                .collect(),
            clock: self.clock.clone(),
            queue,
            pods: Mutex::default(),
            plans: AtomicU64::default(),
            silent: Mutex::default(),
            known: Mutex::new(vec![Known::default(); self.config.nodes as usize]),
        });
        for node in 0..self.config.nodes {
            shared.queue.add(Task::Register(node));
        }
        let mut tasks = JoinSet::new();
        let of_pods = WatchSpec::all::<Pod>().fields("spec.nodeName!=");
        let of_nodes = WatchSpec::all::<Node>().labels(format!("{}=true", plan::LABEL));
        let (clock, random) = (&self.clock, &self.random);
        let pods = Reflector::<Pod>::new(
            self.reader.clone(),
            of_pods,
            shared.clone(),
            clock.clone(),
            random.clone(),
        );
        let nodes = Reflector::<Node>::new(
            self.reader.clone(),
            of_nodes,
            shared.clone(),
            clock.clone(),
            random.clone(),
        );
        tasks.spawn(pods.run(shutdown.child()));
        tasks.spawn(nodes.run(shutdown.child()));
        for _ in 0..WORKERS {
            tasks.spawn(work(shared.clone()));
        }
        shutdown.triggered().await;
        shared.queue.close();
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}

/// What a node remembers of its own objects.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The uid of the Node, which owns the lease.
    uid: String,
    /// Since when it is ready.
    since: Option<jiff::Timestamp>,
    lease: Option<Lease>,
}

/// What is to be done with a pod. The number tells it from a plan of the same words that was made later.
#[derive(Clone, PartialEq)]
struct Planned {
    number: u64,
    row: Row,
    step: Step,
}

struct Shared {
    config: SimulationConfig,
    clients: Vec<Client>,
    clock: SharedClock,
    queue: WorkQueue<Task>,
    /// Pods that something is to be done with.
    pods: Mutex<HashMap<ObjectKey, Planned>>,
    /// The number of the next plan.
    plans: AtomicU64,
    silent: Mutex<HashSet<u32>>,
    known: Mutex<Vec<Known>>,
}

impl WatchSink<Pod> for Shared {
    fn replace(&self, items: Vec<Pod>, _resource_version: &str) {
        let there: HashSet<ObjectKey> = items
            .iter()
            .map(|pod| ObjectKey::of(&pod.metadata))
            .collect();
        self.pods.lock().retain(|key, _| there.contains(key));
        items.iter().for_each(|pod| self.look(pod));
    }

    fn apply(&self, change: Change<Pod>) {
        match change {
            Change::Applied(pod) => self.look(&pod),
            Change::Deleted(pod) => drop(self.pods.lock().remove(&ObjectKey::of(&pod.metadata))),
        }
    }

    fn progress(&self, _resource_version: &str) {}
}

impl WatchSink<Node> for Shared {
    fn replace(&self, items: Vec<Node>, _resource_version: &str) {
        items.iter().for_each(|node| self.hear(node));
    }

    fn apply(&self, change: Change<Node>) {
        // A machine that was lost does not come back because its object goes.
        if let Change::Applied(node) = &change {
            self.hear(node);
        }
    }

    fn progress(&self, _resource_version: &str) {}
}

fn says_nothing(node: &Node) -> bool {
    let annotations = node.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(plan::SILENT))
}

/// Whether somebody else wrote that it is not ready.
fn is_doubted(node: &Node) -> bool {
    let status = node.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status != "True")
}

async fn work(shared: Arc<Shared>) {
    while let Some(task) = shared.queue.next().await {
        match shared.carry_out(&task).await {
            Ok(Some(delay)) => shared.queue.add_after(task.clone(), delay),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(?task, %error, "will try again");
                shared.queue.add_after(task.clone(), AGAIN);
            }
        }
        shared.queue.done(&task);
    }
}

impl Shared {
    /// What the API says of a node.
    fn hear(&self, node: &Node) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let Some(number) = self.config.number(name) else {
            return;
        };
        if says_nothing(node) {
            self.silent.lock().insert(number);
            return;
        }
        self.silent.lock().remove(&number);
        if is_doubted(node) {
            self.queue.add_after(Task::Status(number), STATUS_LOOK);
        }
    }

    fn look(&self, pod: &Pod) {
        let Some(row) = plan::row(&self.config, pod) else {
            return;
        };
        let key = row.key.clone();
        match plan::next(&self.config, &row, timestamp(&*self.clock)) {
            Some((delay, step)) => {
                let planned = Planned {
                    number: self.plans.fetch_add(1, Ordering::Relaxed),
                    row,
                    step: step.clone(),
                };
                let before = self.pods.lock().insert(key.clone(), planned);
                // What was planned already keeps its time.
                if before.is_none_or(|before| before.step != step) {
                    self.queue.add_after(Task::Pod(key), delay);
                }
            }
            None => drop(self.pods.lock().remove(&key)),
        }
    }

    /// Does a task. What is returned is when it is to be done again, if ever.
    async fn carry_out(&self, task: &Task) -> Result<Option<Duration>, Error> {
        match task {
            Task::Register(node) => self.register(*node).await.map(|()| None),
            Task::Lease(node) | Task::Status(node) if self.silent.lock().contains(node) => {
                Ok(Some(AGAIN))
            }
            Task::Lease(node) => self.renew(*node).await.map(|()| Some(LEASE_EVERY)),
            Task::Status(node) => match self.report(*node).await {
                // Somebody deleted the node: a kubelet would only come back when it is started anew.
                Err(error) if is_not_found(&error) => Ok(None),
                other => other.map(|()| Some(STATUS_EVERY)),
            },
            Task::Pod(key) => self.step(key).await,
        }
    }

    async fn register(&self, node: u32) -> Result<(), Error> {
        let nodes: Api<Node> = Api::all(self.clients[node as usize].clone());
        let name = self.config.name(node);
        let made = nodes
            .create(&PostParams::default(), &plan::node(&self.config, node))
            .await;
        let made = match made {
            Err(error) if is_already_exists(&error) => nodes.get(&name).await?,
            other => other?,
        };
        {
            let mut known = self.known.lock();
            known[node as usize].uid = made.metadata.uid.unwrap_or_default();
            known[node as usize].since = Some(timestamp(&*self.clock));
        }
        // The sign of life before the word that it is ready, and the nodes not all in the same instant.
        self.renew(node).await?;
        self.report(node).await?;
        let part = f64::from(node) / f64::from(self.config.nodes.max(1));
        self.queue
            .add_after(Task::Lease(node), LEASE_EVERY.mul_f64(part));
        self.queue
            .add_after(Task::Status(node), STATUS_EVERY.mul_f64(part));
        Ok(())
    }

    /// Gives the sign of life. A lease that is no longer as this node knows it is read again the next time.
    async fn renew(&self, node: u32) -> Result<(), Error> {
        let renewed = self.write_lease(node).await;
        let stale = |error: &Error| is_conflict(error) || is_not_found(error);
        if renewed.as_ref().is_err_and(stale) {
            self.known.lock()[node as usize].lease = None;
        }
        renewed
    }

    async fn write_lease(&self, node: u32) -> Result<(), Error> {
        let leases: Api<Lease> = Api::namespaced(self.clients[node as usize].clone(), LEASES);
        let name = self.config.name(node);
        let Known { uid, lease, .. } = self.known.lock()[node as usize].clone();
        let found = match lease {
            Some(lease) => Some(lease),
            None => leases.get_opt(&name).await?,
        };
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid,
            ..OwnerReference::default()
        };
        let exists = found.is_some();
        let mut lease = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASES.to_owned()),
                ..ObjectMeta::default()
            },
            ..Lease::default()
        });
        lease.metadata.owner_references = Some(vec![owner]);
        lease.metadata.managed_fields = None;
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(40),
            renew_time: Some(skiff_client::micro_timestamp(&*self.clock)),
            ..LeaseSpec::default()
        });
        let mut stored = if exists {
            leases
                .replace(&name, &PostParams::default(), &lease)
                .await?
        } else {
            leases.create(&PostParams::default(), &lease).await?
        };
        stored.metadata.managed_fields = None;
        self.known.lock()[node as usize].lease = Some(stored);
        Ok(())
    }

    async fn report(&self, node: u32) -> Result<(), Error> {
        let nodes: Api<Node> = Api::all(self.clients[node as usize].clone());
        let now = timestamp(&*self.clock);
        let since = self.known.lock()[node as usize].since.unwrap_or(now);
        let status = plan::node_status(&self.config, node, since, now);
        let patch = Patch::Strategic(&status);
        nodes
            .patch_status(&self.config.name(node), &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    async fn step(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(planned) = self.pods.lock().get(key).cloned() else {
            return Ok(None);
        };
        let Planned { row, step, .. } = &planned;
        if self.silent.lock().contains(&row.node) {
            return Ok(Some(AGAIN));
        }
        let pods: Api<Pod> =
            Api::namespaced(self.clients[row.node as usize].clone(), key.namespace());
        let now = timestamp(&*self.clock);
        let done = match plan::patch(row, step, now) {
            Some(status) => {
                let patch = Patch::Strategic(&status);
                let params = PatchParams::default();
                pods.patch_status(key.name(), &params, &patch)
                    .await
                    .map(drop)
            }
            None => {
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(Preconditions {
                        uid: Some(row.uid.clone()),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                pods.delete(key.name(), &params).await.map(drop)
            }
        };
        match done {
            // Another pod of the name: the watch tells.
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => Err(error),
            _ => {
                let mut pods = self.pods.lock();
                // What was heard meanwhile is another plan, even in the same words: it may have been answered by none yet.
                let Some(newer) = pods.get_mut(key).filter(|newer| **newer != planned) else {
                    pods.remove(key);
                    return Ok(None);
                };
                match plan::next(&self.config, &newer.row, timestamp(&*self.clock)) {
                    Some((delay, step)) => {
                        newer.step = step;
                        Ok(Some(delay))
                    }
                    None => {
                        pods.remove(key);
                        Ok(None)
                    }
                }
            }
        }
    }
}

fn timestamp(clock: &dyn Clock) -> jiff::Timestamp {
    let Time(now) = skiff_client::timestamp(clock);
    now
}
