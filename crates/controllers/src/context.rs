//! What every controller is given: caches, its own identity, time, randomness and settings.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use skiff_base::{Random, SharedClock, Shutdown};
use skiff_client::{
    Caches, EventRecorder, EventStyle, ObjectKey, Queues, Reconciler, WorkQueue, run_workers,
};

/// Makes a client with the identity of the controller of that name
/// (`system:serviceaccount:kube-system:<name>`).
pub type ClientFactory = Arc<dyn Fn(&str) -> Client + Send + Sync>;

type Sign = dyn Fn(&str, &str, &str, &str) -> Result<String, String> + Send + Sync;

/// Signs the tokens of secrets of type `kubernetes.io/service-account-token`.
#[derive(Clone)]
pub struct TokenSigner(Arc<Sign>);

impl TokenSigner {
    /// `sign` is given namespace, name of the secret, name and uid of the account.
    #[must_use]
    pub fn new(
        sign: impl Fn(&str, &str, &str, &str) -> Result<String, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(sign))
    }

    pub(crate) fn sign(
        &self,
        namespace: &str,
        secret: &str,
        account: &str,
        uid: &str,
    ) -> Result<String, String> {
        (self.0)(namespace, secret, account, uid)
    }
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSigner")
    }
}

/// Settings of the controllers.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// The range that the nodes' pod ranges are cut from, for example `10.42.0.0/16`; empty: nodes get none.
    pub cluster_cidr: String,
    /// The length of a node's prefix; 0 for upstream's default (24 in IPv4, 64 in IPv6).
    pub node_cidr_mask_size: u8,
    /// The certificates that the API server's is verified with, published in each namespace.
    pub root_ca_pem: String,
    /// So many terminated pods are kept; upstream's default is 12500, 0 keeps all.
    pub terminated_pod_threshold: usize,
    /// Signs the tokens of secrets; without it they are not filled.
    pub token_signer: Option<TokenSigner>,
    /// Signs certificates that were asked for and approved; without it they are not.
    pub authority: Option<crate::certificate_authority::CertificateAuthority>,
    /// Where the controllers tell of their queues.
    pub queues: Queues,
}

impl Default for ControllersConfig {
    fn default() -> Self {
        Self {
            cluster_cidr: String::new(),
            node_cidr_mask_size: 0,
            root_ca_pem: String::new(),
            terminated_pod_threshold: 12500,
            token_signer: None,
            authority: None,
            queues: Queues::default(),
        }
    }
}

/// What every controller is given.
#[derive(Clone)]
pub struct Context {
    /// The shared caches.
    pub caches: Arc<Caches>,
    /// The client of the controller manager itself, which the shared caches read with.
    pub manager: Client,
    /// Clients by controller name.
    pub clients: ClientFactory,
    /// Time.
    pub clock: SharedClock,
    /// Randomness.
    pub random: Random,
    /// Settings.
    pub config: Arc<ControllersConfig>,
    /// When to stop.
    pub shutdown: Shutdown,
}

impl Context {
    /// The client of the controller `name`.
    #[must_use]
    pub fn client(&self, name: &str) -> Client {
        (self.clients)(name)
    }

    /// A recorder of events that come from `component`, written by the controller `name`.
    #[must_use]
    pub fn recorder(&self, name: &str, component: &str) -> EventRecorder {
        EventRecorder::new(
            self.client(name),
            component,
            "",
            EventStyle::Core,
            self.clock.clone(),
            self.random.clone(),
        )
    }

    /// An empty queue.
    #[must_use]
    pub fn queue(&self) -> WorkQueue<ObjectKey> {
        WorkQueue::new(self.clock.clone())
    }

    /// The wall clock in whole seconds.
    #[must_use]
    pub fn now(&self) -> Time {
        skiff_client::timestamp(&*self.clock)
    }

    /// Runs a reconciler until the end.
    pub async fn run(
        &self,
        reconciler: impl Reconciler,
        queue: WorkQueue<ObjectKey>,
        workers: usize,
    ) {
        let (name, whose) = (reconciler.queue(), reconciler.name());
        self.config.queues.tell(name, whose, &queue);
        run_workers(Arc::new(reconciler), queue, workers, self.shutdown.clone()).await;
    }
}
