//! Who of several servers' schedulers and controllers works: each holds a Lease of upstream's name in `kube-system`, and
//! its clients write only as long as it does.

use std::sync::Arc;

use anyhow::Result;
use kube::client::Body;
use skiff_base::{Component, Random, SharedClock};
use skiff_client::{Elected, ElectionConfig, Fence, Fenced};
use skiff_scheduler::configuration::LeaderElection;

use crate::config::{Config, LeadingOptions, StoreKind};

/// The Lease of the scheduler.
const SCHEDULER: &str = "kube-scheduler";
/// The Lease of the controllers.
const CONTROLLERS: &str = "kube-controller-manager";

const NAMESPACE: &str = "kube-system";

/// Which Lease, and how it is held.
pub(crate) struct Office {
    namespace: String,
    name: String,
    options: LeadingOptions,
}

impl Office {
    /// That of the controllers.
    pub fn of_controllers(config: &Config) -> Self {
        Self {
            namespace: NAMESPACE.to_owned(),
            name: CONTROLLERS.to_owned(),
            options: config.leading.clone(),
        }
    }

    /// That of the scheduler: flags outweigh what its file says.
    pub fn of_scheduler(config: &Config, file: &LeaderElection) -> Self {
        let (flags, file) = (config.leading.clone(), file.clone());
        let named = |name: Option<String>| name.filter(|name| !name.is_empty());
        Self {
            namespace: named(file.resource_namespace).unwrap_or_else(|| NAMESPACE.to_owned()),
            name: named(file.resource_name).unwrap_or_else(|| SCHEDULER.to_owned()),
            options: LeadingOptions {
                leader_elect: flags.leader_elect.or(file.leader_elect),
                leader_elect_lease_duration: flags
                    .leader_elect_lease_duration
                    .or(file.lease_duration),
                leader_elect_renew_deadline: flags
                    .leader_elect_renew_deadline
                    .or(file.renew_deadline),
                leader_elect_retry_period: flags.leader_elect_retry_period.or(file.retry_period),
            },
        }
    }
}

/// One candidate for a Lease.
pub(crate) struct Candidate {
    config: ElectionConfig,
    fence: Fence,
    clock: SharedClock,
    random: Random,
}

impl Candidate {
    /// A server's; `None` where nobody is elected. With a store of its own it takes up at once what
    /// it held before it was killed, as nobody else can have taken it.
    pub fn of_server(
        config: &Config,
        office: &Office,
        clock: &SharedClock,
        random: &Random,
    ) -> Result<Option<Arc<Self>>> {
        let shared = config.store == StoreKind::Etcd;
        let own = || config.cluster_name.clone();
        let tail = if shared { random.uuid() } else { own() };
        Self::new(config, office, &tail, shared, (clock, random))
    }

    /// The same for a part alone, which shares its API server with whoever asks.
    pub fn of_part(
        config: &Config,
        office: &Office,
        clock: &SharedClock,
        random: &Random,
    ) -> Result<Option<Arc<Self>>> {
        Self::new(config, office, &random.uuid(), true, (clock, random))
    }

    fn new(
        config: &Config,
        office: &Office,
        tail: &str,
        shared: bool,
        (clock, random): (&SharedClock, &Random),
    ) -> Result<Option<Arc<Self>>> {
        let Some(times) = office.options.times(shared)? else {
            return Ok(None);
        };
        let identity = format!("{}_{tail}", config.node_name);
        Ok(Some(Arc::new(Self {
            config: ElectionConfig {
                lease_duration: times.duration,
                renew_deadline: times.renew_deadline,
                retry_period: times.retry_period,
                ..ElectionConfig::new(&office.namespace, &office.name, &identity)
            },
            fence: Fence::closed(),
            clock: clock.clone(),
            random: random.clone(),
        })))
    }
}

/// `component`, which works while the Lease of `candidate` is held; `client` makes one that may write the Lease.
pub(crate) fn elected(
    candidate: Option<Arc<Candidate>>,
    component: Arc<dyn Component>,
    client: impl FnOnce() -> kube::Client,
) -> Arc<dyn Component> {
    let Some(candidate) = candidate else {
        return component;
    };
    Elected::component(
        component,
        client(),
        candidate.config.clone(),
        candidate.fence.clone(),
        candidate.clock.clone(),
        candidate.random.clone(),
    )
}

/// A client that writes only while the Lease of `candidate` is held.
pub(crate) fn fenced(candidate: Option<&Candidate>, client: kube::Client) -> kube::Client {
    let Some(candidate) = candidate else {
        return client;
    };
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let client = client.clone();
        async move { client.send(request).await }
    });
    let fenced = Fenced::new(service, candidate.fence.clone(), candidate.clock.clone());
    kube::Client::new(fenced, "default")
}

/// The same for a way to the server that is no client yet.
pub(crate) fn fence<S>(candidate: &Candidate, service: S) -> Fenced<S> {
    Fenced::new(service, candidate.fence.clone(), candidate.clock.clone())
}
