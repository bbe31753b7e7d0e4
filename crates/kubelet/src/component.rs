//! The kubelet as a component: everything is wired together here.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Component, Random, SharedClock, Shutdown};
use skiff_client::{Event, SharedCache, WatchSpec};
use skiff_runtime::cri::{self, SharedImages, SharedRuntime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::Request;

use crate::cgroups::KernelCgroups;
use crate::cluster::Cluster;
use crate::cluster::kube_cluster::KubeCluster;
use crate::config::KubeletConfig;
use crate::context::Context;
use crate::images::Images;
use crate::logs::rotate;
use crate::manager::Manager;
use crate::node::lease;
use crate::node::machine::Machine;
use crate::node::register::{NodeKeeper, Pressure};
use crate::runtime::Runtime;
use crate::runtime_events;
use crate::server::authorize::Authorizer;
use crate::server::router::{Shared, router};
use crate::server::streams::StreamRuntime;
use crate::volumes::mounter::KernelMounter;
use crate::volumes::{local_dir, teardown};
use crate::{eviction, image_gc, server, static_pods};

/// What a kubelet is made from.
pub struct Kubelet {
    client: Client,
    runtime: Runtime,
    streams: Arc<dyn StreamRuntime>,
    config: KubeletConfig,
    clock: SharedClock,
    random: Random,
}

/// A kubelet over a client to the API and a container runtime.
#[must_use]
pub fn component(
    client: Client,
    runtime: SharedRuntime,
    images: SharedImages,
    streams: Arc<dyn StreamRuntime>,
    config: KubeletConfig,
    clock: SharedClock,
    random: Random,
) -> Arc<dyn Component> {
    Arc::new(Kubelet {
        client,
        runtime: Runtime {
            service: runtime,
            images,
        },
        streams,
        config,
        clock,
        random,
    })
}

/// Removes what a kubelet leaves on its node when nothing runs any more: mounts, pods' directories and logs, control
/// groups.
pub fn remove_everything(config: &KubeletConfig) -> Result<(), ComponentError> {
    let mounter = KernelMounter;
    teardown::remove_pod_directory(&config.root_dir.join("pods"), &mounter)?;
    teardown::remove_pod_directory(&config.log_dir, &mounter)?;
    KernelCgroups::new(&config.cgroup_mount, &config.cgroup_root).remove_everything()?;
    Ok(())
}

#[async_trait]
impl Component for Kubelet {
    fn name(&self) -> &'static str {
        "kubelet"
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        // Everything started here ends with this run, also when it fails half-way.
        let own = shutdown.child();
        let outcome = self.run_parts(own.clone()).await;
        own.trigger();
        outcome
    }
}

impl Kubelet {
    async fn run_parts(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        std::fs::create_dir_all(self.config.root_dir.join("pods"))?;
        std::fs::create_dir_all(&self.config.log_dir)?;
        std::fs::create_dir_all(local_dir::directory(&self.config.root_dir))?;
        let (changed, mut objects_changed) = mpsc::unbounded_channel();
        let cluster = KubeCluster::start(
            self.client.clone(),
            &self.config.node_name,
            self.clock.clone(),
            self.random.clone(),
            shutdown.clone(),
            changed,
        );
        let context = self.context(cluster.clone()).await?;
        let following = shutdown.child();
        let manager = Manager::new(context.clone(), following.clone());
        let mut parts: JoinSet<&'static str> = JoinSet::new();
        self.serve(&manager, &mut parts, &shutdown).await?;
        self.start_parts(&manager, &mut parts, &shutdown);
        self.follow_node(&cluster, &mut parts, &shutdown);
        let pods = self.pods(&shutdown);
        let mut events = pods.subscribe();
        tokio::select! {
            () = pods.wait_synced() => {}
            () = shutdown.triggered() => return Ok(()),
        }
        // Known pods get their workers before anything is called an orphan.
        while let Ok(event) = events.try_recv() {
            route(&manager, event);
        }
        if self.config.static_pod_dir.is_some() {
            let (manager, stop) = (manager.clone(), shutdown.clone());
            static_pods::load(&manager);
            parts.spawn(async move {
                static_pods::run(manager, stop).await;
                "static pods"
            });
        }
        manager.adopt_orphans().await?;
        loop {
            tokio::select! {
                Some(event) = events.recv() => route(&manager, event),
                Some(uid) = objects_changed.recv() => manager.objects_changed(&uid),
                Some(ended) = parts.join_next() => {
                    if shutdown.is_triggered() {
                        return Ok(());
                    }
                    return Err(format!("a part of the kubelet ended: {ended:?}").into());
                }
                limit = self.config.drain.ordered() => {
                    // The workers leave their pods to us.
                    following.trigger();
                    let stopped = manager.stop_all(limit).await;
                    self.config.drain.finish(stopped);
                    shutdown.triggered().await;
                    return Ok(());
                }
                () = shutdown.triggered() => return Ok(()),
            }
        }
    }

    async fn context(&self, cluster: Arc<dyn Cluster>) -> Result<Arc<Context>, ComponentError> {
        let request = Request::new(cri::VersionRequest::default());
        let version = self.runtime.service.version(request).await?.into_inner();
        Ok(Arc::new(Context {
            machine: Machine::inspect(&self.config),
            images: Images::new(self.runtime.clone(), cluster.clone(), self.clock.clone()),
            cluster,
            runtime: self.runtime.clone(),
            runtime_name: version.runtime_name,
            mounter: Arc::new(KernelMounter),
            cgroups: Arc::new(KernelCgroups::new(
                &self.config.cgroup_mount,
                &self.config.cgroup_root,
            )),
            clock: self.clock.clone(),
            random: self.random.clone(),
            config: self.config.clone(),
        }))
    }

    /// Starts what runs beside the pods: the node's object and lease, eviction, collection, rotation, the runtime's events.
    fn start_parts(
        &self,
        manager: &Arc<Manager>,
        parts: &mut JoinSet<&'static str>,
        shutdown: &Shutdown,
    ) {
        let context = manager.context();
        let (pressed, pressure) = watch::channel(Pressure::default());
        let (evicting, stop) = (manager.clone(), shutdown.clone());
        parts.spawn(async move {
            eviction::run(evicting, pressed, stop).await;
            "eviction"
        });
        let (collected, stop) = (context.clone(), shutdown.clone());
        parts.spawn(async move {
            image_gc::run(collected, stop).await;
            "image collection"
        });
        if self.config.register_node {
            let keeper = NodeKeeper {
                context: context.clone(),
                client: self.client.clone(),
                port: self.config.port,
                pressure,
            };
            let stop = shutdown.clone();
            parts.spawn(async move {
                keeper.run(stop).await;
                "node status"
            });
            let (context, client, stop) = (context.clone(), self.client.clone(), shutdown.clone());
            parts.spawn(async move {
                lease::run(context, client, stop).await;
                "lease"
            });
        }
        let (rotated, stop) = (context.clone(), shutdown.clone());
        parts.spawn(async move {
            rotate::run(rotated, stop).await;
            "log rotation"
        });
        let (watched, stop) = (manager.clone(), shutdown.clone());
        parts.spawn(async move {
            runtime_events::run(watched, stop).await;
            "runtime events"
        });
    }

    /// Starts the kubelet's own server, if there is TLS for it.
    async fn serve(
        &self,
        manager: &Arc<Manager>,
        parts: &mut JoinSet<&'static str>,
        shutdown: &Shutdown,
    ) -> Result<(), ComponentError> {
        let Some(tls) = self.config.tls.clone() else {
            return Ok(());
        };
        let address = (self.config.listen, self.config.port);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot listen on {}:{}: {error}", address.0, address.1))?;
        let authorizer = Authorizer::new(
            self.client.clone(),
            self.clock.clone(),
            &self.config.node_name,
            self.config.trusted_clients.clone(),
        );
        let router = router(Arc::new(Shared {
            manager: manager.clone(),
            authorizer,
            client: self.client.clone(),
            streams: self.streams.clone(),
        }));
        let (clock, stop) = (self.clock.clone(), shutdown.clone());
        parts.spawn(async move {
            server::serve(listener, tls, router, clock, stop).await;
            "server"
        });
        Ok(())
    }

    fn pods(&self, shutdown: &Shutdown) -> SharedCache<Pod> {
        let selector = format!("spec.nodeName={}", self.config.node_name);
        SharedCache::start(
            self.client.clone(),
            WatchSpec::all::<Pod>().fields(selector),
            self.clock.clone(),
            self.random.clone(),
            shutdown.clone(),
        )
    }

    fn follow_node(
        &self,
        cluster: &Arc<KubeCluster>,
        parts: &mut JoinSet<&'static str>,
        shutdown: &Shutdown,
    ) {
        let selector = format!("metadata.name={}", self.config.node_name);
        let nodes: SharedCache<Node> = SharedCache::start(
            self.client.clone(),
            WatchSpec::all::<Node>().fields(selector),
            self.clock.clone(),
            self.random.clone(),
            shutdown.clone(),
        );
        let removals = local_dir::run(
            self.client.clone(),
            self.config.root_dir.clone(),
            Arc::new(KernelMounter),
            nodes.subscribe(),
            shutdown.clone(),
        );
        parts.spawn(async move {
            removals.await;
            "removal of volumes"
        });
        let cluster = cluster.clone();
        let mut events = nodes.subscribe();
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            // The cache lives as long as somebody listens.
            let _nodes = nodes;
            loop {
                tokio::select! {
                    Some(event) = events.recv() => cluster.set_node(event.object().clone()),
                    () = shutdown.triggered() => return,
                }
            }
        });
    }
}

fn route(manager: &Arc<Manager>, event: Event<Pod>) {
    match event {
        Event::Added(pod) => manager.apply(pod),
        Event::Updated { old, new } => {
            // Deleted and made again while the watch was away.
            if old.metadata.uid != new.metadata.uid {
                manager.remove(&old);
            }
            manager.apply(new);
        }
        Event::Deleted(pod) => manager.remove(&pod),
    }
}
