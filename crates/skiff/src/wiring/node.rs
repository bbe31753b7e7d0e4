//! The node: container runtime, pod network, kubelet, service proxy, DNS.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Api, WatchEvent, WatchParams};
use skiff_apiserver::KUBELET_AUTHORITY;
use skiff_base::{Component, Random, SharedClock, Shutdown};
use skiff_kubelet::KubeletConfig;
use skiff_kubelet::volumes::local_dir;
use skiff_network::Cidr;
use skiff_network::dns::Resolvers;
use skiff_network::pod::{PodNetwork, PodNetworkConfig};
use skiff_proxy::{DnsConfig, ProxyConfig};
use skiff_runtime::image::{ImageReference, ImageStore};
use skiff_runtime::{EmbeddedRuntime, RuntimeConfig};
use tokio::sync::watch;

use crate::config::Config;
use crate::demo;
use crate::instance::{Instance, Lock};
use crate::pki::{Pki, Subject};

use super::control_plane::{ControlPlane, KUBELET_CLIENT, within};
use super::network::Network;
use super::{Context, Running, identity, tls};

/// A start that takes longer has gone wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// The bit of the packet mark that upstream's proxy uses for "masquerade".
const MASQUERADE_BIT: u8 = 14;

/// Starts the node's parts; answers when the node is Ready and DNS answers.
pub(crate) async fn start(
    context: &Context,
    plane: &ControlPlane,
    running: &mut Running,
) -> Result<()> {
    let config = &context.config;
    let mut ready: Vec<(&str, watch::Receiver<bool>)> = Vec::new();
    let mut demo = None;
    if config.runs("kubelet") {
        demo = Some(start_kubelet(context, plane, running).await?);
    }
    if config.runs("proxy") {
        let client = identity::client(&plane.server, identity::proxy());
        let proxy = skiff_proxy::service_proxy(
            client,
            proxy_config(config)?,
            context.clock.clone(),
            context.random.clone(),
        );
        ready.push(("service proxy", proxy.ready()));
        running.start(proxy, context);
    }
    if config.runs("dns") {
        let client = identity::client(&plane.server, identity::kube_system("kube-dns"));
        let dns = skiff_proxy::dns(
            client,
            dns_config(config),
            context.clock.clone(),
            context.random.clone(),
        );
        ready.push(("cluster DNS", dns.ready()));
        running.start(dns, context);
    }
    for (what, mut signal) in ready {
        within(what, PATIENCE, signal.wait_for(|ready| *ready))
            .await?
            .map_err(|_| anyhow!("{what} ended early"))?;
        context.progress.done(what);
    }
    if config.runs("kubelet") {
        let client = identity::client(&plane.server, identity::api_server());
        within(
            "the node",
            PATIENCE,
            node_ready(
                Api::all(client),
                &config.node_name,
                config.runs("controllers"),
            ),
        )
        .await??;
        context
            .progress
            .done(&format!("node {} is Ready", config.node_name));
    }
    if let Some(demo) = demo {
        // Now, because on a slow disk it takes longer than everything else.
        running.add(demo.make());
    }
    Ok(())
}

/// The demo image that is still to be made. Pods that want it wait until it is.
struct DemoImage {
    images: Arc<ImageStore>,
    made: watch::Sender<bool>,
}

impl DemoImage {
    async fn make(self) {
        let images = self.images;
        let making = tokio::task::spawn_blocking(move || {
            let program = std::env::current_exe().context("finding this program")?;
            let name: ImageReference = demo::IMAGE.parse()?;
            let made = images.build_from_binary(&name, &program, &["demo"]);
            made.map(drop).context("making the demo image")
        });
        match making.await.map_err(Into::into).flatten() {
            Ok(()) => drop(self.made.send(true)),
            Err(error) => tracing::error!("{error:#}"),
        }
    }
}

async fn start_kubelet(
    context: &Context,
    plane: &ControlPlane,
    running: &mut Running,
) -> Result<DemoImage> {
    let config = &context.config;
    let client = identity::client(&plane.server, identity::node(&config.node_name));
    let range = assigned_range(&client, config).await?;
    let network = Network::open(network_config(config, range)?)
        .await
        .context("setting up the pod network")?;
    context.progress.done("pod network");
    let parts = NodeParts {
        config,
        clock: &context.clock,
        random: &context.random,
        pki: &context.pki,
        clients: &context.pki.authority_pem,
        shutdown: &context.shutdown,
    };
    running.add(network.clone().keep(context.shutdown.child()));
    let (runtime, demo) = parts.runtime(network).await?;
    context.progress.done("container runtime");
    let client = identity::client(&plane.server, identity::node(&config.node_name));
    let component = parts.kubelet(client, runtime, running).await?;
    running.start(component, context);
    Ok(demo)
}

/// What a kubelet and its runtime are made from, beside a control plane or alone.
struct NodeParts<'a> {
    config: &'a Config,
    clock: &'a SharedClock,
    random: &'a Random,
    /// The authority of the kubelet's own certificate.
    pki: &'a Arc<Pki>,
    /// The authority of the kubelet's clients, PEM.
    clients: &'a str,
    shutdown: &'a Shutdown,
}

impl NodeParts<'_> {
    /// The container runtime, and the image that it is to have.
    async fn runtime(&self, network: Network) -> Result<(Arc<EmbeddedRuntime>, DemoImage)> {
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let (made, wait) = watch::channel(false);
        let runtime = open_runtime(self.config, network, Some(wait), clock, random).await?;
        let images = runtime.images().clone();
        Ok((Arc::new(runtime), DemoImage { images, made }))
    }

    /// The kubelet, with what runs beside it: renewal of its certificate, the socket for the node's owner.
    async fn kubelet(
        &self,
        client: kube::Client,
        runtime: Arc<EmbeddedRuntime>,
        running: &mut Running,
    ) -> Result<Arc<dyn Component>> {
        let config = self.config;
        fs::create_dir_all(&config.static_pod_dir)
            .with_context(|| format!("making {}", config.static_pod_dir.display()))?;
        let subject = Subject {
            common_name: format!("system:node:{}", config.node_name),
            organizations: vec!["system:nodes".into()],
            names: vec![
                config.node_name.clone(),
                config.advertise_address.to_string(),
                "127.0.0.1".into(),
                "localhost".into(),
            ],
            client: false,
        };
        let leaf = self.pki.leaf("kubelet", &subject, self.clock.now())?;
        let mut kubelet = kubelet_config(config);
        let (server, shown) = tls::server(&leaf, self.clients)?;
        kubelet.tls = Some(server);
        if !tls::same_authority(self.clients, &self.pki.authority_pem) {
            // The API server does not know our authority: the node's own object tells it.
            let (key, pem) = (KUBELET_AUTHORITY.to_owned(), &self.pki.authority_pem);
            kubelet.annotations.insert(key, pem.clone());
        }
        running.add(tls::renew(
            self.pki.clone(),
            "kubelet",
            subject,
            self.clock.clone(),
            self.shutdown.child(),
            move |leaf| shown.show(leaf),
        ));
        let (drain, shutdown) = (kubelet.drain.clone(), self.shutdown.child());
        let socket =
            super::images::serve(runtime.clone(), drain, &config.data_dir, shutdown).await?;
        running.add(socket);
        Ok(skiff_kubelet::component(
            client,
            runtime.clone(),
            runtime.clone(),
            runtime,
            kubelet,
            self.clock.clone(),
            self.random.clone(),
        ))
    }
}

async fn open_runtime(
    config: &Config,
    network: Network,
    built_in: Option<watch::Receiver<bool>>,
    clock: SharedClock,
    random: Random,
) -> Result<EmbeddedRuntime> {
    let (root, run) = (
        config.data_dir.join("containers"),
        config.data_dir.join("run"),
    );
    for folder in [&root, &run] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut runtime = RuntimeConfig::new(root, run, Arc::new(network), clock, random);
    runtime.built_in = built_in;
    runtime.cgroup_parent = format!("/{}", config.cluster_name);
    runtime.shim_program = std::env::current_exe().context("finding this program")?;
    Ok(EmbeddedRuntime::open(runtime).await?)
}

fn cidr(range: crate::config::Cidr) -> Cidr {
    Cidr::new(range.base, range.prefix)
}

/// The range that the node has been given; before it is registered, the one that the first node will get.
async fn assigned_range(client: &kube::Client, config: &Config) -> Result<Cidr> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes
        .get_opt(&config.node_name)
        .await
        .context("reading this node")?;
    let range = node
        .and_then(|node| node.spec)
        .and_then(|spec| spec.pod_cidr);
    Ok(range
        .and_then(|range| range.parse().ok())
        .unwrap_or_else(|| node_range(config)))
}

/// The first node's range is the first /24 of the pods', as the controllers cut them.
fn node_range(config: &Config) -> Cidr {
    Cidr::new(config.pod_cidr.base, config.pod_cidr.prefix.max(24))
}

fn bridge(config: &Config) -> String {
    // Pod cables are named after it, and an interface's name is short.
    format!(
        "{}0",
        config.cluster_name.chars().take(7).collect::<String>()
    )
}

fn network_config(config: &Config, range: Cidr) -> Result<PodNetworkConfig> {
    let state_dir = config.data_dir.join("network");
    fs::create_dir_all(&state_dir).with_context(|| format!("making {}", state_dir.display()))?;
    Ok(PodNetworkConfig {
        state_dir,
        bridge: bridge(config),
        cidr: range,
        cluster_cidr: cidr(config.pod_cidr),
        service_cidr: Some(cidr(config.service_cidr)),
        mtu: None,
        table_name: format!("{}-pods", config.cluster_name),
    })
}

/// The service proxy's settings.
pub(crate) fn proxy_config(config: &Config) -> Result<ProxyConfig> {
    let held: Vec<Ipv4Addr> = if config.runs("dns") {
        vec![config.cluster_dns]
    } else {
        Vec::new()
    };
    Ok(ProxyConfig {
        node_name: config.node_name.clone(),
        table_name: config.cluster_name.clone(),
        cluster_cidr: cidr(config.pod_cidr),
        service_cidr: Some(cidr(config.service_cidr)),
        held,
        masquerade_bit: MASQUERADE_BIT,
    })
}

/// The DNS server's settings.
pub(crate) fn dns_config(config: &Config) -> DnsConfig {
    DnsConfig {
        address: config.cluster_dns,
        port: 53,
        interface: Some(if config.runs("kubelet") {
            bridge(config)
        } else {
            "lo".to_owned()
        }),
        domain: config.cluster_domain.clone(),
        resolvers: Resolvers::File(config.resolv_conf.clone()),
    }
}

fn kubelet_config(config: &Config) -> KubeletConfig {
    let root: PathBuf = config.data_dir.join("kubelet");
    let mut kubelet = KubeletConfig::new(
        &config.node_name,
        &config.advertise_address.to_string(),
        &root,
    );
    kubelet.static_pod_dir = Some(config.static_pod_dir.clone());
    kubelet.resolv_conf.clone_from(&config.resolv_conf);
    kubelet.cluster_dns.servers = vec![config.cluster_dns.to_string()];
    kubelet
        .cluster_dns
        .domain
        .clone_from(&config.cluster_domain);
    kubelet.port = config.kubelet_port;
    kubelet.trusted_clients = vec![KUBELET_CLIENT.to_owned()];
    kubelet.labels.extend(config.node_labels.iter().cloned());
    kubelet.taints = config
        .node_taints
        .iter()
        .map(|taint| Taint {
            key: taint.key.clone(),
            value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
            effect: taint.effect.clone(),
            time_added: None,
        })
        .collect();
    let volumes = local_dir::directory(&root);
    kubelet.annotations.insert(
        local_dir::NODE_DIRECTORY.to_owned(),
        volumes.display().to_string(),
    );
    kubelet.max_pods = config.max_pods;
    kubelet.cgroup_root = format!("/{}/pods", config.cluster_name);
    kubelet
}

/// Takes a kubelet's data directory, and writes down whose it is: `skiff status` and `skiff down` work on it.
pub(crate) fn claim(config: &Config, target: &kube::Config, clock: &SharedClock) -> Result<Lock> {
    fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("making {}", config.data_dir.display()))?;
    let lock = Lock::take(&config.data_dir)?;
    Instance {
        server: Some(target.cluster_url.to_string()),
        ..Instance::new(config, clock.now())
    }
    .write()?;
    Ok(lock)
}

/// A kubelet alone, with the embedded runtime. `authority` is the API server's, PEM; its clients have their certificates
/// from there as well.
pub(crate) async fn kubelet(
    config: &Config,
    client: kube::Client,
    authority: &str,
    (clock, random): (&SharedClock, &Random),
    shutdown: &Shutdown,
    running: &mut Running,
) -> Result<Arc<dyn Component>> {
    let pki = Arc::new(Pki::open(&config.data_dir.join("pki"), clock.now())?);
    let known = Some(authority).filter(|authority| !authority.is_empty());
    let parts = NodeParts {
        config,
        clock,
        random,
        pki: &pki,
        clients: known.unwrap_or(&pki.authority_pem),
        shutdown,
    };
    let range = assigned_range(&client, config).await?;
    let network = Network::open(network_config(config, range)?)
        .await
        .context("setting up the pod network")?;
    running.add(network.clone().keep(shutdown.child()));
    let (runtime, demo) = parts.runtime(network).await?;
    running.add(demo.make());
    parts.kubelet(client, runtime, running).await
}

/// Returns when the node is Ready and, where controllers look after it, takes pods.
async fn node_ready(nodes: Api<Node>, name: &str, looked_after: bool) -> Result<()> {
    let tainted = |node: &Node| {
        let taints = node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default();
        taints
            .iter()
            .any(|taint| taint.key == "node.kubernetes.io/not-ready")
    };
    let ready = |node: &Node| {
        let conditions = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            && !(looked_after && tainted(node))
    };
    let parameters = WatchParams::default().fields(&format!("metadata.name={name}"));
    loop {
        let mut events = Box::pin(nodes.watch(&parameters, "0").await?);
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(node) | WatchEvent::Modified(node) if ready(&node) => {
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}

/// Removes what a node made: pods, networks, mounts, cgroups.
pub async fn remove(config: &Config, clock: SharedClock) -> Result<()> {
    if config.runs("kubelet") {
        let range = PodNetwork::range_in(&config.data_dir.join("network"));
        let range = range.unwrap_or_else(|| node_range(config));
        let network = Network::open(network_config(config, range)?)
            .await
            .context("opening the pod network")?;
        let runtime =
            open_runtime(config, network.clone(), None, clock, Random::from_system()).await?;
        runtime
            .remove_everything()
            .await
            .map_err(|status| anyhow!("removing pods: {}", status.message()))?;
        skiff_kubelet::remove_everything(&kubelet_config(config))
            .map_err(|error| anyhow!("removing the kubelet's files: {error}"))?;
        network.remove_all().await?;
    }
    if config.runs("proxy") {
        skiff_network::nft::KernelTable::open(&config.cluster_name)?
            .remove()
            .await
            .context("removing the service rules")?;
    }
    Ok(())
}
