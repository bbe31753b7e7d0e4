//! The cluster.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::json;
use skiff_apiserver::{
    ApiServer, ApiServerConfig, Authenticator, AuthnError, PeerCertificates, UserInfo,
};
use skiff_base::{Random, SharedClock, Shutdown, SystemClock};
use skiff_store::{MemoryStore, Store};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::TestCertificates;

/// How a cluster is made.
pub struct TestOptions {
    /// The store; `None`: a new one in memory.
    pub store: Option<Arc<dyn Store>>,
    /// The clock; `None`: the machine's.
    pub clock: Option<SharedClock>,
    /// The seed of names and uids.
    pub seed: u64,
    /// Where to listen; port 0 for any free one.
    pub address: SocketAddr,
    /// What the server is told.
    pub config: ApiServerConfig,
}

impl Default for TestOptions {
    fn default() -> Self {
        Self {
            store: None,
            clock: None,
            seed: 1,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            config: ApiServerConfig::default(),
        }
    }
}

/// A running API server with the namespaces that every cluster has. It stops when dropped.
pub struct TestCluster {
    /// The server.
    pub server: Arc<ApiServer>,
    /// Its store.
    pub store: Arc<dyn Store>,
    /// Where it listens.
    pub address: SocketAddr,
    shutdown: Shutdown,
    directory: TempDir,
}

/// Whoever comes over TLS is the administrator: clusters for tests of the API, not of identity.
struct EverybodyIsAdmin;

#[async_trait]
impl Authenticator for EverybodyIsAdmin {
    async fn authenticate(
        &self,
        _parts: &http::request::Parts,
        _tls: Option<&PeerCertificates>,
    ) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        Ok(Some(Arc::new(admin())))
    }
}

fn admin() -> UserInfo {
    UserInfo::new(
        "kubernetes-admin",
        &["system:masters", "system:authenticated"],
    )
}

impl TestCluster {
    /// A cluster on a memory store and a random port.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(TestOptions::default()).await
    }

    /// A cluster.
    pub async fn start_with(options: TestOptions) -> anyhow::Result<Self> {
        let clock = options.clock.unwrap_or_else(SystemClock::shared);
        let store = options
            .store
            .unwrap_or_else(|| Arc::new(MemoryStore::new(clock.clone())));
        let server = ApiServer::new(
            options.config,
            store.clone(),
            clock,
            Random::seeded(options.seed),
        );
        server.set_authenticator(Arc::new(EverybodyIsAdmin));
        let certificates = TestCertificates::new()?;
        let listener = TcpListener::bind(options.address)
            .await
            .context("listening")?;
        let address = listener.local_addr()?;
        let shutdown = Shutdown::new();
        let tls = Arc::new(ArcSwap::from_pointee(certificates.server()?));
        let serving = server.clone();
        let until = shutdown.clone();
        tokio::spawn(async move { serving.serve_tls(listener, tls, until).await });
        let directory = tempfile::tempdir()?;
        write_kubeconfig(directory.path(), address, &certificates)?;
        let cluster = Self {
            server,
            store,
            address,
            shutdown,
            directory,
        };
        cluster.make_namespaces().await?;
        Ok(cluster)
    }

    /// A client that calls the server's function, as the administrator.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.client_as(admin())
    }

    /// A client that calls the server's function, as some user.
    #[must_use]
    pub fn client_as(&self, user: UserInfo) -> kube::Client {
        kube::Client::new(self.server.in_process(user), "default")
    }

    /// A client over TLS.
    pub async fn tls_client(&self) -> anyhow::Result<kube::Client> {
        // Several TLS libraries may be linked into a test; this one is ours.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = kube::config::Kubeconfig::read_from(self.kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// Tells the server to stop, as TERM does.
    pub fn begin_shutdown(&self) {
        self.shutdown.trigger();
    }

    /// A kubeconfig for `kubectl`.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    async fn make_namespaces(&self) -> anyhow::Result<()> {
        use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
        use kube::api::{Api, PostParams};
        let namespaces: Api<Namespace> = Api::all(self.client());
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
            match namespaces.create(&PostParams::default(), &namespace).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => drop(other.context("making the namespaces")?),
            }
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), name);
            let account: ServiceAccount =
                serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
            match accounts.create(&PostParams::default(), &account).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => drop(other.context("making the service accounts")?),
            }
        }
        Ok(())
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.shutdown.trigger();
        self.server.stop();
    }
}

fn write_kubeconfig(
    directory: &Path,
    address: SocketAddr,
    certificates: &TestCertificates,
) -> anyhow::Result<()> {
    let (certificate, key) = certificates.client("kubernetes-admin", &["system:masters"])?;
    std::fs::write(directory.join("ca.crt"), certificates.authority_pem())?;
    std::fs::write(directory.join("client.crt"), certificate)?;
    std::fs::write(directory.join("client.key"), key)?;
    let path = |name: &str| directory.join(name).display().to_string();
    // JSON is YAML.
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://{address}"), "certificate-authority": path("ca.crt")}}],
        "users": [{"name": "test", "user": {
            "client-certificate": path("client.crt"), "client-key": path("client.key")}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    std::fs::write(
        directory.join("kubeconfig"),
        serde_json::to_vec_pretty(&kubeconfig)?,
    )?;
    Ok(())
}
