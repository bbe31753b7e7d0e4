//! The control plane: store, API server, scheduler, controllers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use arc_swap::ArcSwap;
use axum::body::Body;
use futures::TryStreamExt as _;
use http::{Method, Request, StatusCode};
use serde_json::Value;
use skiff_apiserver::audit::Audit;
use skiff_apiserver::authn::tokens::{Reference, Tokens};
use skiff_apiserver::authz::Authorization;
use skiff_apiserver::bootstrap::reconcile::{Reconciled, reconcile};
use skiff_apiserver::encryption::Encryption;
use skiff_apiserver::{
    AdmissionChain, ApiServer, ApiServerConfig, FRONT_PROXY_NAME, FrontProxy, UserInfo, bootstrap,
};
use skiff_controllers::certificate_authority::CertificateAuthority;
use skiff_controllers::metrics_server;
use skiff_controllers::{ClientFactory, ControllersConfig, TokenSigner};
use skiff_scheduler::{SchedulerConfig, explain_api};
use skiff_store::{
    EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, EtcdTls, MemoryStore, Store,
};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::config::{Config, StoreKind};
use crate::kubeconfig;
use crate::pki::{Leaf, Subject};

use super::leading::{self, Candidate, Office};
use super::{Context, Running, access, identity, own_apis, tls};

/// How many bootstrap objects are written at once: the store commits those that wait together.
const BOOTSTRAP_WRITERS: usize = 64;

/// The name under which the API server calls kubelets.
pub(crate) const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// The running API server.
pub(crate) struct ControlPlane {
    pub server: Arc<ApiServer>,
    tokens: Arc<Tokens>,
}

impl ControlPlane {
    /// Starts the API server; answers when it serves.
    pub async fn start(context: &Context, running: &mut Running) -> Result<Self> {
        let config = &context.config;
        let store = open_store(context).await?;
        let (store, encryption) = encrypt(context, store, running).await?;
        context.progress.done("database");

        let tokens = access::tokens(context, &store)?;
        let authorization = Arc::new(Authorization::new(
            store.clone(),
            context.clock.clone(),
            context.random.clone(),
        ));
        let server = ApiServer::new(
            api_config(config)?,
            store.clone(),
            context.clock.clone(),
            context.random.clone(),
        );
        access::authorization(context, &authorization, running)?;
        server.set_authorizer(authorization.clone());
        if let Some(encryption) = encryption {
            server.set_encryption(encryption);
        }
        let audit = config.audit.settings()?;
        if let Some(audit) = Audit::start(&audit, context.clock.clone(), &context.shutdown)? {
            server.set_audit(audit);
        }
        let authentication = access::authentication(context, &tokens, &store, running)?;
        server.set_authenticator(authentication);
        server.set_token_issuer(tokens.clone());
        let subject = Subject {
            common_name: KUBELET_CLIENT.into(),
            client: true,
            ..Subject::default()
        };
        let leaf = context
            .pki
            .leaf("apiserver-kubelet-client", &subject, context.clock.now())?;
        server.set_kubelet_tls(Arc::new(tls::client(&leaf, &context.pki.authority_pem)?));
        let (speaking, authority) = (server.clone(), context.pki.authority_pem.clone());
        running.add(tls::renew(
            context.pki.clone(),
            "apiserver-kubelet-client",
            subject,
            context.clock.clone(),
            context.shutdown.child(),
            move |leaf| {
                speaking.set_kubelet_tls(Arc::new(tls::client(leaf, &authority)?));
                Ok(())
            },
        ));
        show_front_proxy(context, &server, running)?;
        let mut objects = bootstrap::objects();
        objects.push(default_storage_class());
        make_objects(&server, objects).await?;
        if config.runs("controllers") {
            own_apis::serve_metrics(&server, context);
            make_objects(&server, metrics_server::objects()).await?;
        }
        if config.runs("scheduler") {
            make_objects(&server, explain_api::objects()).await?;
        }
        if config.api_server.priority_and_fairness {
            running.add(server.clone().keep_flow_control());
        }
        authorization.load().await?;
        running.start(authorization, context);
        context.progress.done("bootstrap objects");

        serve(context, &server, running).await?;
        write_admin_kubeconfig(context, running)?;
        context.progress.done(&format!(
            "API server at https://{}:{}",
            config.advertise_address, config.api_port
        ));
        Ok(Self { server, tokens })
    }
}

fn api_config(config: &Config) -> Result<ApiServerConfig> {
    let admission = AdmissionChain::from_file(
        &config.enable_admission_plugins,
        &config.disable_admission_plugins,
        config.admission_control_config_file.as_deref(),
    );
    Ok(ApiServerConfig {
        service_cidr: config.service_cidr.to_string(),
        node_ports: config.node_ports,
        advertise: Some(SocketAddr::new(config.advertise_address, config.api_port)),
        shares_store: config.store == StoreKind::Etcd,
        limits: config.api_server.limits(),
        admission: admission.map_err(anyhow::Error::msg)?,
        kinds: skiff_api::runtime_config::served(&config.runtime_config)
            .map_err(anyhow::Error::msg)?,
        ..ApiServerConfig::default()
    })
}

async fn open_store(context: &Context) -> Result<Arc<dyn Store>> {
    match context.config.store {
        StoreKind::Memory => Ok(Arc::new(MemoryStore::new(context.clock.clone()))),
        StoreKind::Embedded => {
            let path = context.config.data_dir.join("db");
            let store = EmbeddedStore::open(&path, EmbeddedOptions::new(context.clock.clone()));
            Ok(Arc::new(store.with_context(|| {
                format!("opening the database in {}", path.display())
            })?))
        }
        StoreKind::Etcd => {
            let options = etcd_options(context);
            let servers = options.endpoints.join(", ");
            let store = EtcdStore::connect(options).await;
            Ok(Arc::new(store.with_context(|| {
                format!("asking the etcd at {servers}")
            })?))
        }
    }
}

fn etcd_options(context: &Context) -> EtcdOptions {
    let settings = &context.config.etcd;
    let servers = settings.etcd_servers.clone().unwrap_or_default();
    let identity = settings.etcd_certfile.clone();
    EtcdOptions {
        tls: EtcdTls {
            authority: settings.etcd_cafile.clone(),
            identity: identity.zip(settings.etcd_keyfile.clone()),
        },
        prefix: settings.prefix(),
        ..EtcdOptions::new(servers, context.clock.clone())
    }
}

/// Puts encryption at rest over the store: as configured, else Secrets under a key of this cluster's own. A store that is gone
/// with the process has none of its own.
async fn encrypt(
    context: &Context,
    store: Arc<dyn Store>,
    running: &mut Running,
) -> Result<(Arc<dyn Store>, Option<Arc<Encryption>>)> {
    let settings = &context.config.api_server;
    let path = match (&settings.encryption_provider_config, context.config.store) {
        (Some(path), _) => path.clone(),
        (None, StoreKind::Memory) => return Ok((store, None)),
        (None, StoreKind::Embedded | StoreKind::Etcd) => {
            let path = context.config.data_dir.join("encryption.yaml");
            skiff_apiserver::encryption::generate(&path)?;
            path
        }
    };
    let encryption = Encryption::open(&path, context.clock.clone()).await?;
    if settings.encryption_reload {
        running.add(encryption.clone().follow(context.shutdown.child()));
    }
    Ok((encryption.over(store), Some(encryption)))
}

/// Gives the server the certificate that aggregated servers know it by.
fn show_front_proxy(
    context: &Context,
    server: &Arc<ApiServer>,
    running: &mut Running,
) -> Result<()> {
    let authority_pem = access::told_front_proxy_authorities(context)?;
    let headers = context.config.identity.told_request_header();
    let client_authority_pem = context.pki.authority_pem.clone();
    let server = server.clone();
    let show = move |leaf: &Leaf| {
        server.set_front_proxy(FrontProxy {
            certificate_pem: leaf.certificate.clone(),
            key_pem: leaf.key.clone(),
            authority_pem: authority_pem.clone(),
            client_authority_pem: client_authority_pem.clone(),
            headers: headers.clone(),
        });
        Ok(())
    };
    if let Some((certificate, key)) = &context.config.identity.proxy_client {
        let (certificate, key) = (access::read(certificate)?, access::read(key)?);
        return show(&Leaf { certificate, key });
    }
    let pki = Arc::new(access::front_proxy_pki(context)?);
    let subject = Subject {
        common_name: FRONT_PROXY_NAME.into(),
        client: true,
        ..Subject::default()
    };
    let leaf = pki.leaf(FRONT_PROXY_NAME, &subject, context.clock.now())?;
    show(&leaf)?;
    running.add(tls::renew(
        pki,
        FRONT_PROXY_NAME,
        subject,
        context.clock.clone(),
        context.shutdown.child(),
        show,
    ));
    Ok(())
}

async fn serve(context: &Context, server: &Arc<ApiServer>, running: &mut Running) -> Result<()> {
    let config = &context.config;
    let address = SocketAddr::new(config.bind_address, config.api_port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}; choose another port with --api-port"))?;
    let subject = Subject {
        common_name: "kube-apiserver".into(),
        names: config.server_names(),
        ..Subject::default()
    };
    let leaf = context
        .pki
        .leaf("apiserver", &subject, context.clock.now())?;
    // Which of the two a client's certificate is of decides whether it is a user's or a front proxy's.
    let clients = format!(
        "{}\n{}",
        context.pki.authority_pem,
        access::front_proxy_authorities(context)?
    );
    let (config, shown) = tls::server(&leaf, &clients)?;
    let shared = Arc::new(ArcSwap::new(config));
    running.add(tls::renew(
        context.pki.clone(),
        "apiserver",
        subject,
        context.clock.clone(),
        context.shutdown.child(),
        move |leaf| shown.show(leaf),
    ));
    let (server, shutdown) = (server.clone(), context.shutdown.child());
    running.add(async move { server.serve_tls(listener, shared, shutdown).await });
    Ok(())
}

/// Writes it, and again when its certificate was renewed.
fn write_admin_kubeconfig(context: &Context, running: &mut Running) -> Result<()> {
    let subject = Subject {
        common_name: "kubernetes-admin".into(),
        organizations: vec!["system:masters".into()],
        client: true,
        ..Subject::default()
    };
    let leaf = context.pki.leaf("admin", &subject, context.clock.now())?;
    let config = &context.config;
    let (name, address, path) = (
        config.cluster_name.clone(),
        config.local_server(),
        config.admin_kubeconfig(),
    );
    let authority = context.pki.authority_pem.clone();
    let write = move |leaf: &Leaf| {
        kubeconfig::write(
            &path,
            &kubeconfig::document(&name, &address, &authority, leaf),
        )
    };
    write(&leaf)?;
    running.add(tls::renew(
        context.pki.clone(),
        "admin",
        subject,
        context.clock.clone(),
        context.shutdown.child(),
        write,
    ));
    Ok(())
}

/// Makes what is missing of the objects that every cluster starts with; of what exists, the RBAC policy is mended.
async fn make_objects(server: &Arc<ApiServer>, objects: Vec<Value>) -> Result<()> {
    let (namespaces, others): (Vec<Value>, Vec<Value>) = objects
        .into_iter()
        .partition(|object| object["kind"] == "Namespace");
    for batch in [namespaces, others] {
        futures::stream::iter(batch.into_iter().map(Ok))
            .try_for_each_concurrent(BOOTSTRAP_WRITERS, |object| make(server, object))
            .await?;
    }
    Ok(())
}

/// Claims without a class get a directory of the node that their pod comes to.
fn default_storage_class() -> Value {
    serde_json::json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local-dir", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": skiff_controllers::dir_provisioner::PROVISIONER,
        "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
    })
}

pub(super) async fn make(server: &Arc<ApiServer>, object: Value) -> Result<()> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let Some(found) = skiff_api::kinds()
        .iter()
        .find(|candidate| candidate.kind == kind && group_version(candidate) == version)
    else {
        bail!("{kind} of {version} is not served");
    };
    let root = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let collection = match object
        .pointer("/metadata/namespace")
        .and_then(Value::as_str)
    {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{}", found.plural),
        None => format!("{root}/{}", found.plural),
    };
    let path = format!("{collection}/{name}");
    let (status, existing) = call(server, Method::GET, &path, None).await?;
    if status == StatusCode::OK {
        match reconcile(&existing, &object) {
            Reconciled::Keep => return Ok(()),
            Reconciled::Update(updated) => {
                let (status, answer) = call(server, Method::PUT, &path, Some(&updated)).await?;
                if status.is_success() || status == StatusCode::CONFLICT {
                    return Ok(());
                }
                let why = answer["message"].as_str().unwrap_or("no message");
                bail!("mending {kind} {name}: {why}")
            }
            Reconciled::Recreate => {
                call(server, Method::DELETE, &path, None).await?;
            }
        }
    }
    let (status, answer) = call(server, Method::POST, &collection, Some(&object)).await?;
    if status.is_success() || status == StatusCode::CONFLICT {
        return Ok(());
    }
    bail!(
        "making {kind} {name}: {}",
        answer["message"].as_str().unwrap_or("no message")
    )
}

fn group_version(kind: &skiff_api::Kind) -> String {
    if kind.group.is_empty() {
        kind.version.to_owned()
    } else {
        format!("{}/{}", kind.group, kind.version)
    }
}

async fn call(
    server: &Arc<ApiServer>,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value)> {
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body)?;
    let response = match server
        .in_process(identity::api_server())
        .oneshot(request)
        .await
    {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 22).await?;
    Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
}

/// Starts scheduler and controllers, each under its own name, and as candidates for their Leases.
pub(crate) fn start_controllers(
    context: &Context,
    plane: &ControlPlane,
    running: &mut Running,
) -> Result<()> {
    let config = &context.config;
    let (clock, random) = (context.clock.clone(), context.random.clone());
    let candidate = |office: &Office| Candidate::of_server(config, office, &clock, &random);
    if config.runs("controllers") {
        let user = || UserInfo::new("system:kube-controller-manager", &["system:authenticated"]);
        let candidate = candidate(&Office::of_controllers(config))?;
        let reader = identity::client_of(&plane.server, user(), candidate.as_deref());
        let (server, lease) = (plane.server.clone(), candidate.clone());
        let clients: ClientFactory = Arc::new(move |name| {
            identity::client_of(&server, identity::kube_system(name), lease.as_deref())
        });
        let mut settings = controllers_config(config, context.pki.authority_pem.clone());
        settings.token_signer = Some(token_signer(plane.tokens.clone()));
        let authority =
            CertificateAuthority::new(&context.pki.authority_pem, &context.pki.authority_key()?);
        settings.authority =
            Some(authority.map_err(|why| anyhow!("the cluster's authority: {why}"))?);
        let queues = settings.queues.clone();
        plane.server.add_metrics(move |text| queues.write(text));
        let component =
            skiff_controllers::component(reader, clients, settings, clock.clone(), random.clone());
        let own = || identity::client(&plane.server, user());
        running.start(leading::elected(candidate, component, own), context);
    }
    if config.runs("scheduler") {
        let settings = scheduler_config(config)?;
        let office = Office::of_scheduler(config, &settings.leader_election);
        let candidate = candidate(&office).context("the scheduler's leader election")?;
        let client =
            identity::client_of(&plane.server, identity::scheduler(), candidate.as_deref());
        let (scheduler, explainer) =
            skiff_scheduler::explained(client, settings, clock.clone(), random.clone());
        let measured = explainer.clone();
        plane
            .server
            .add_metrics(move |text| measured.write_metrics(text));
        own_apis::serve_explanations(&plane.server, explainer);
        let own = || identity::client(&plane.server, identity::scheduler());
        running.start(leading::elected(candidate, scheduler, own), context);
    }
    Ok(())
}

/// The scheduler's settings: those of its file, or the defaults.
pub(crate) fn scheduler_config(config: &Config) -> Result<SchedulerConfig> {
    let Some(path) = &config.scheduler_config else {
        return Ok(SchedulerConfig::default());
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the scheduler's configuration {}", path.display()))?;
    skiff_scheduler::configuration::read(&text)
        .with_context(|| format!("the scheduler's configuration {}", path.display()))
}

fn token_signer(tokens: Arc<Tokens>) -> TokenSigner {
    TokenSigner::new(move |namespace, secret, account, uid| {
        let account = Reference {
            name: account.to_owned(),
            uid: uid.to_owned(),
        };
        let token = tokens.issue_for_secret(namespace, secret, &account);
        token.map_err(|error| error.to_string())
    })
}

/// The controllers' settings.
pub(crate) fn controllers_config(config: &Config, root_ca_pem: String) -> ControllersConfig {
    ControllersConfig {
        cluster_cidr: config.pod_cidr.to_string(),
        node_cidr_mask_size: config.pod_cidr.prefix.max(24),
        root_ca_pem,
        ..ControllersConfig::default()
    }
}

/// Answers when `ready` says so, or fails after `limit`.
pub(crate) async fn within<T>(
    what: &str,
    limit: Duration,
    ready: impl Future<Output = T>,
) -> Result<T> {
    tokio::time::timeout(limit, ready)
        .await
        .with_context(|| format!("{what} was not ready within {} s", limit.as_secs()))
}
