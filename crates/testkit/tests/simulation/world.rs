//! An API server, scheduler, controllers and simulated nodes in one thread, on a clock that moves when nothing else does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, ApiServerConfig};
use skiff_base::{Component, Random, SharedClock, Shutdown};
use skiff_controllers::ControllersConfig;
use skiff_scheduler::SchedulerConfig;
use skiff_simulation::SimulationConfig;
use skiff_store::{MemoryStore, Store};
use tokio::task::JoinHandle;

use crate::faults::{Caller, Line, Running};
use crate::journal::{Journal, Rule};
use crate::scene::Scene;
use crate::volumes;

/// When all histories begin. Long ago, so that no certificate of today is in force; nothing here needs one.
pub fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30)
}

/// The parts that can be restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Controllers,
    Scheduler,
    Nodes,
    Server,
}

pub struct World {
    pub clock: SharedClock,
    pub journal: Journal,
    pub line: Arc<Line>,
    store: Arc<dyn Store>,
    random: Random,
    nodes: SimulationConfig,
    parts: [Life; 3],
}

/// A component's run, until it is killed.
struct Life {
    killed: Shutdown,
    run: JoinHandle<()>,
}

impl World {
    pub async fn start(
        clock: SharedClock,
        nodes: SimulationConfig,
        rules: Vec<Box<dyn Rule>>,
    ) -> Self {
        let random = Random::seeded(nodes.seed);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        let journal = Journal::new(clock.clone(), rules);
        tokio::spawn(journal.clone().follow(store.clone()));
        let server = serve(&store, &clock, &random);
        // Faults are drawn apart from names, so that fewer faults do not change the names.
        let draw = Random::seeded(nodes.seed ^ 0xfa17);
        let line = Line::new(clock.clone(), journal.clone(), draw, server);
        let parts = [Part::Controllers, Part::Scheduler, Part::Nodes];
        let parts = parts.map(|part| begin(part, &line, &clock, &random, &nodes));
        let world = Self {
            clock,
            journal,
            line,
            store,
            random,
            nodes,
            parts,
        };
        for name in ["default", "kube-system", "kube-node-lease"] {
            world.make_namespace(name).await;
        }
        world
    }

    /// A namespace, with the service account that pods need.
    pub async fn make_namespace(&self, name: &str) {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.ask("POST", "/api/v1/namespaces", &namespace)
            .await
            .unwrap();
        let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        // Its controller may have been faster.
        let _ = self.ask("POST", &accounts, &account).await;
    }

    /// Kills a part in the middle of what it does, and starts it again.
    pub async fn restart(&mut self, part: Part) {
        self.journal.remark(&format!("killed: {part:?}"));
        if part == Part::Server {
            self.restart_server(0.0).await;
            return;
        }
        let life = &mut self.parts[part as usize];
        life.killed.trigger();
        life.run.abort();
        let _ = (&mut life.run).await;
        *life = begin(part, &self.line, &self.clock, &self.random, &self.nodes);
    }

    /// Kills the server, and starts another on the same store after so many seconds.
    pub async fn restart_server(&self, away: f64) {
        self.line.kill_server();
        self.sleep(away).await;
        let server = serve(&self.store, &self.clock, &self.random);
        self.line.begin_server(server);
    }

    /// Asks as the administrator, whom the faults on the line spare.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
        User(self.line.clone()).ask(method, path, body).await
    }

    /// Makes volumes for claims from now on.
    pub fn provide_volumes(&self) {
        tokio::spawn(volumes::provide(User(self.line.clone())));
    }

    pub async fn sleep(&self, seconds: f64) {
        self.clock.sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// Waits until something holds, for at most so long.
    pub async fn until(&self, limit: Duration, holds: impl Fn(&Scene) -> Result<(), String>) {
        self.until_all(limit, || self.journal.scene(&holds)).await;
    }

    /// The same for what does not depend on what is there alone.
    pub async fn until_all(&self, limit: Duration, holds: impl Fn() -> Result<(), String>) {
        let end = self.clock.monotonic() + limit;
        loop {
            match holds() {
                Ok(()) => return,
                Err(text) if self.clock.monotonic() > end => {
                    self.journal.remark_all();
                    panic!("it never comes to it: {text}");
                }
                Err(_) => self.sleep(1.0).await,
            }
        }
    }
}

/// The administrator.
pub struct User(Arc<Line>);

impl User {
    pub fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// Asks as the administrator, whom the faults on the line spare.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
        let caller = Caller {
            line: self.0.clone(),
            who: "the user".into(),
            killed: Shutdown::new(),
            spared: true,
        };
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(body)
            .map_err(kube::Error::HttpError)?;
        caller.client().request(request).await
    }
}

fn serve(store: &Arc<dyn Store>, clock: &SharedClock, random: &Random) -> Running {
    let config = ApiServerConfig::default();
    Running {
        server: ApiServer::new(config, store.clone(), clock.clone(), random.clone()),
        killed: Shutdown::new(),
    }
}

fn begin(
    part: Part,
    line: &Arc<Line>,
    clock: &SharedClock,
    random: &Random,
    nodes: &SimulationConfig,
) -> Life {
    let killed = Shutdown::new();
    let clients = {
        let (line, killed) = (line.clone(), killed.clone());
        move |who: &str| {
            let caller = Caller {
                line: line.clone(),
                who: who.into(),
                killed: killed.clone(),
                spared: false,
            };
            caller.client()
        }
    };
    let (clock, random) = (clock.clone(), random.clone());
    let component: Arc<dyn Component> = match part {
        Part::Controllers => skiff_controllers::component(
            clients("controllers"),
            Arc::new(clients),
            ControllersConfig::default(),
            clock.clone(),
            random.clone(),
        ),
        Part::Scheduler => skiff_scheduler::component(
            clients("scheduler"),
            SchedulerConfig::default(),
            clock.clone(),
            random.clone(),
        ),
        Part::Nodes | Part::Server => skiff_simulation::component(
            clients("nodes"),
            Arc::new(clients),
            nodes.clone(),
            clock.clone(),
            random.clone(),
        ),
    };
    let run = skiff_base::supervise(component, clock, random, killed.clone());
    Life {
        killed,
        run: tokio::spawn(run),
    }
}
