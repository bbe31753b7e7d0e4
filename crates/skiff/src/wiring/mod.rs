//! The one place that puts the parts together: opens the store, starts the API server, then every component with its
//! own identity.

mod access;
mod accounts;
mod control_plane;
mod identity;
pub mod images;
mod leading;
mod network;
mod node;
mod own_apis;
mod part;
mod simulation;
mod tls;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use skiff_base::{Component, Random, SharedClock, Shutdown, SystemClock, supervise};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::instance::{Instance, Lock};
use crate::pki::Pki;
use crate::progress::Progress;

use control_plane::ControlPlane;
pub use identity::part as part_user;
pub use node::remove as remove_node;
pub use part::run as run_part;
pub use tls::use_ring;

/// What all parts of the wiring share.
pub(crate) struct Context {
    pub config: Config,
    pub clock: SharedClock,
    pub random: Random,
    pub pki: Arc<Pki>,
    pub shutdown: Shutdown,
    pub progress: Arc<Progress>,
}

/// The components that run, each restarted when it fails.
#[derive(Default)]
pub(crate) struct Running(JoinSet<()>);

impl Running {
    /// Starts a component under supervision.
    pub fn start(&mut self, component: Arc<dyn Component>, context: &Context) {
        self.0.spawn(supervise(
            component,
            context.clock.clone(),
            context.random.clone(),
            context.shutdown.child(),
        ));
    }

    /// Adds something that ends by itself on shutdown.
    pub fn add(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    async fn end(mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

/// Runs everything that `config` asks for until TERM or INT.
pub async fn run(config: Config, progress: Arc<Progress>) -> Result<()> {
    let data_dir = config.data_dir.clone();
    fs::create_dir_all(&data_dir).with_context(|| format!("making {}", data_dir.display()))?;
    fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o711))?;
    let _lock = Lock::take(&data_dir)?;
    tls::use_ring();
    let clock = SystemClock::shared();
    let now = clock.now();
    let pki = Arc::new(Pki::open(&data_dir.join("pki"), now)?);
    let context = Context {
        config,
        clock,
        random: Random::from_system(),
        pki,
        shutdown: Shutdown::new(),
        progress,
    };
    context.progress.done("certificates");

    let mut running = Running::default();
    let plane = ControlPlane::start(&context, &mut running).await?;
    Instance::new(&context.config, now).write()?;
    control_plane::start_controllers(&context, &plane, &mut running)?;
    simulation::start(&context, &plane, &mut running).await?;
    node::start(&context, &plane, &mut running).await?;
    context.progress.ready();

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("stopping; pods go on");
    context.shutdown.trigger();
    running.end().await;
    plane.server.stop();
    Ok(())
}
