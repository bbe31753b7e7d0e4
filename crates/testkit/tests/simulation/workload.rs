//! What users do, by draw, and what the cluster must have come to in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kube::Error;
use serde_json::{Value, json};
use skiff_base::Random;
use skiff_simulation::plan;

use crate::scene::{Object, Scene};
use crate::world::{Part, World};

/// What Deployments may have beyond the wanted number, and miss of it.
pub const MAX_SURGE: i64 = 2;
pub const MAX_UNAVAILABLE: i64 = 1;
/// So many pods a budget keeps.
pub const BUDGET: i64 = 2;
/// The namespace with a quota, and what it allows.
pub const LIMITED: &str = "limited";
pub const HARD_PODS: usize = 3;
pub const HARD_SETTINGS: usize = 4;
pub const NODES: u32 = 4;
/// What pods have to end when they are deleted.
pub const GRACE: Duration = Duration::from_secs(5);

/// What may be in a history: a name and the kind. Names of StatefulSets that end with `p` are of those that make pods in parallel.
const CAST: &[(&str, &str)] = &[
    ("da", "deployments"),
    ("db", "deployments"),
    ("dl", "deployments"),
    ("so", "statefulsets"),
    ("sp", "statefulsets"),
    ("ds", "daemonsets"),
    ("jn", "jobs"),
    ("ji", "jobs"),
    ("cj", "cronjobs"),
];

/// The completions of both Jobs.
const COMPLETIONS: i64 = 4;

/// What was asked for.
struct Wanted {
    name: &'static str,
    kind: &'static str,
    replicas: u64,
    image: u64,
}

impl Wanted {
    fn namespace(&self) -> &'static str {
        if self.name == "dl" {
            LIMITED
        } else {
            "default"
        }
    }

    fn path(&self) -> String {
        let group = if self.kind.ends_with("jobs") {
            "batch"
        } else {
            "apps"
        };
        format!(
            "/apis/{group}/v1/namespaces/{}/{}",
            self.namespace(),
            self.kind
        )
    }

    fn scales(&self) -> bool {
        matches!(self.kind, "deployments" | "statefulsets")
    }

    /// The part of a pod's template that changes.
    fn template(&self) -> Value {
        let runs_on = |when: &str| json!({"key": format!("node.kubernetes.io/{when}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let mut template = json!({"metadata": {"labels": {"app": self.name}}, "spec": {
            "terminationGracePeriodSeconds": GRACE.as_secs(),
            "tolerations": [runs_on("not-ready"), runs_on("unreachable")],
            "containers": [{"name": "c", "image": format!("i:{}", self.image), "resources": {"requests": {"cpu": "500m"}}}],
        }});
        if self.kind.ends_with("jobs") {
            template["spec"]["restartPolicy"] = "Never".into();
            template["metadata"]["annotations"] =
                json!({(plan::RUN_FOR): "8", (plan::FAILS): "0.25"});
        }
        template
    }

    fn object(&self) -> Value {
        let kind = match self.kind {
            "deployments" => "Deployment",
            "statefulsets" => "StatefulSet",
            "daemonsets" => "DaemonSet",
            "jobs" => "Job",
            _ => "CronJob",
        };
        let mut spec =
            json!({"selector": {"matchLabels": {"app": self.name}}, "template": self.template()});
        if self.scales() {
            spec["replicas"] = self.replicas.into();
        }
        let group = if self.kind.ends_with("jobs") {
            "batch/v1"
        } else {
            "apps/v1"
        };
        match self.kind {
            "deployments" => {
                let rolling = json!({"maxSurge": MAX_SURGE, "maxUnavailable": MAX_UNAVAILABLE});
                spec["strategy"] = json!({ "rollingUpdate": rolling });
            }
            "statefulsets" => {
                spec["serviceName"] = "s".into();
                if self.name.ends_with('p') {
                    spec["podManagementPolicy"] = "Parallel".into();
                }
            }
            "daemonsets" => {}
            _ => {
                let mode = if self.name == "ji" {
                    "Indexed"
                } else {
                    "NonIndexed"
                };
                spec = json!({"completions": COMPLETIONS, "parallelism": 2, "backoffLimit": 1000,
                    "completionMode": mode, "template": self.template()});
            }
        }
        if self.kind == "cronjobs" {
            spec["completions"] = 1.into();
            spec = json!({"schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": spec}});
        }
        json!({"apiVersion": group, "kind": kind, "metadata": {"name": self.name, "namespace": self.namespace()}, "spec": spec})
    }

    /// Whether everything is as asked, and nothing is left over.
    fn is_reached(&self, scene: &Scene) -> Result<(), String> {
        let missing = |what: String| Err(format!("{}: {what}", self.name));
        let pods: Vec<&Object> = scene.pods_of(self.name).collect();
        let wanted = match self.kind {
            "jobs" => {
                let job = scene.find("jobs", self.name);
                let done = job.is_some_and(|job| {
                    job.condition("Complete") && job.number("/status/succeeded") == COMPLETIONS
                });
                let held = pods
                    .iter()
                    .any(|pod| !pod.list("/metadata/finalizers").is_empty() || !pod.is_over());
                return if done && !held {
                    Ok(())
                } else {
                    missing(format!("{:?}", job.map(Object::brief)))
                };
            }
            "cronjobs" => {
                let mine = |job: &&Object| job.owner() == ("CronJob", self.name);
                let open = scene
                    .of_kind("jobs")
                    .filter(mine)
                    .filter(|job| !job.condition("Complete"))
                    .count();
                let kept = scene.of_kind("jobs").filter(mine).count();
                return if open == 0 && kept <= 3 {
                    Ok(())
                } else {
                    missing(format!("{kept} Jobs, {open} open"))
                };
            }
            "daemonsets" => u64::from(NODES),
            _ if self.name == "dl" => self.replicas.min(HARD_PODS as u64),
            _ => self.replicas,
        };
        let image = format!("i:{}", self.image);
        // With fewer pods than a rollout must keep it goes no further, as upstream: the quota leaves no room for new ones.
        let stuck = self.name == "dl" && self.replicas > HARD_PODS as u64;
        let is_fine = |pod: &&&Object| pod.serves() && (stuck || pod.image() == image);
        let fine = pods.iter().filter(is_fine).count() as u64;
        if fine == wanted && pods.len() as u64 == wanted {
            return Ok(());
        }
        missing(format!(
            "{fine} of {wanted} pods serve {image}, {} are there",
            pods.len()
        ))
    }
}

/// A user, and fate.
pub struct Play {
    draw: Random,
    wanted: Vec<Wanted>,
    limited: bool,
    made: u64,
}

impl Play {
    /// Makes what this history is about.
    pub async fn begin(world: &World, seed: u64) -> Self {
        let draw = Random::seeded(seed ^ 0x5eed);
        let size = 2 + draw.below(2);
        let mut names: Vec<&(&str, &str)> = CAST.iter().collect();
        let mut play = Self {
            draw,
            wanted: Vec::new(),
            limited: false,
            made: 0,
        };
        for _ in 0..size {
            let (name, kind) = names.remove(play.draw.below(names.len() as u64) as usize);
            let wanted = Wanted {
                name,
                kind,
                replicas: 1 + play.draw.below(4),
                image: 1,
            };
            play.limited |= wanted.namespace() == LIMITED;
            play.wanted.push(wanted);
        }
        play.limited |= play.draw.below(3) == 0;
        if play.limited {
            world.make_namespace(LIMITED).await;
            let hard = json!({"pods": HARD_PODS, "count/configmaps": HARD_SETTINGS});
            let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
            play.insist(
                world,
                "POST",
                &format!("/api/v1/namespaces/{LIMITED}/resourcequotas"),
                &quota,
            )
            .await;
            world.sleep(5.0).await;
        }
        for wanted in &play.wanted {
            play.insist(world, "POST", &wanted.path(), &wanted.object())
                .await;
            if matches!(wanted.kind, "deployments" | "statefulsets") {
                let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": wanted.name},
                    "spec": {"minAvailable": BUDGET, "selector": {"matchLabels": {"app": wanted.name}}}});
                let path = format!(
                    "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
                    wanted.namespace()
                );
                play.insist(world, "POST", &path, &budget).await;
            }
        }
        play
    }

    /// Asks until it is answered: a server that was just started may not be ready.
    async fn insist(&self, world: &World, method: &str, path: &str, body: &Value) {
        loop {
            match world.ask(method, path, body).await {
                Ok(_) => return,
                Err(Error::Api(status))
                    if (400..429).contains(&status.code) && status.code != 409 =>
                {
                    panic!("{method} {path}: {status:?}");
                }
                Err(Error::Api(status)) if status.code == 409 && method == "POST" => return,
                Err(_) => world.sleep(0.5).await,
            }
        }
    }

    fn one<T>(&self, all: Vec<T>) -> Option<T> {
        let place = self.draw.below(all.len() as u64) as usize;
        all.into_iter().nth(place)
    }

    /// One thing that a user or fate does, and a while.
    pub async fn step(&mut self, world: &mut World) {
        match self.draw.below(12) {
            0..=2 => self.scale(world).await,
            3 | 4 => self.update(world).await,
            5 => self.remove(world, false).await,
            6 | 7 => self.remove(world, true).await,
            8 => self.silence(world).await,
            9 => {
                let parts = [
                    Part::Controllers,
                    Part::Scheduler,
                    Part::Nodes,
                    Part::Server,
                ];
                world.restart(parts[self.draw.below(4) as usize]).await;
            }
            10 => self.interfere(world).await,
            _ => self.crowd(world).await,
        }
        let longest = if self.draw.below(4) == 0 { 20.0 } else { 2.0 };
        world.sleep(longest * self.draw.fraction()).await;
    }

    async fn scale(&mut self, world: &World) {
        let place = self.draw.below(self.wanted.len() as u64) as usize;
        let replicas = self.draw.below(6);
        if self.wanted[place].scales() {
            self.wanted[place].replicas = replicas;
            self.change(world, place, json!({ "replicas": replicas }))
                .await;
        }
    }

    async fn update(&mut self, world: &World) {
        let place = self.draw.below(self.wanted.len() as u64) as usize;
        if !self.wanted[place].kind.ends_with("jobs") {
            self.wanted[place].image += 1;
            let template = self.wanted[place].template();
            self.change(world, place, json!({ "template": template }))
                .await;
        }
    }

    async fn change(&self, world: &World, place: usize, spec: Value) {
        let wanted = &self.wanted[place];
        world
            .journal
            .remark(&format!("the user: {} {}", wanted.name, brief(&spec)));
        let path = format!("{}/{}", wanted.path(), wanted.name);
        self.insist(world, "PATCH", &path, &json!({ "spec": spec }))
            .await;
    }

    /// Deletes a pod, or asks that it be evicted.
    async fn remove(&self, world: &World, evict: bool) {
        let pods: Vec<(String, String)> = world.journal.scene(|scene| {
            let pods = scene.pods().filter(|pod| pod.lives());
            let path =
                |pod: &Object| format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
            pods.map(|pod| (path(pod), pod.name.clone())).collect()
        });
        let Some((path, name)) = self.one(pods) else {
            return;
        };
        world.journal.remark(&format!(
            "the user: {} {name}",
            if evict { "evict" } else { "delete" }
        ));
        // It may have gone meanwhile, and a budget may refuse.
        let _ = if evict {
            let eviction =
                json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
            world
                .ask("POST", &format!("{path}/eviction"), &eviction)
                .await
        } else {
            world.ask("DELETE", &path, &Value::Null).await
        };
    }

    async fn silence(&self, world: &World) {
        let (node, silent) = (self.draw.below(u64::from(NODES)), self.draw.below(2) == 0);
        world
            .journal
            .remark(&format!("fate: node {node} is silent: {silent}"));
        self.annotate_node(world, node, silent).await;
    }

    async fn annotate_node(&self, world: &World, node: u64, silent: bool) {
        let value = if silent { json!("true") } else { Value::Null };
        let patch = json!({"metadata": {"annotations": {(plan::SILENT): value}}});
        let path = format!("/api/v1/nodes/simulated-{node:05}");
        while let Err(error) = world.ask("PATCH", &path, &patch).await {
            assert!(
                !matches!(&error, Error::Api(status) if status.code < 404),
                "{error}"
            );
            world.sleep(0.5).await;
        }
    }

    /// Writes what nobody minds on objects that others are about to write.
    async fn interfere(&self, world: &World) {
        let paths: Vec<String> = world.journal.scene(|scene| {
            let of = |object: &Object| {
                let group = match object.kind {
                    "pods" => "/api/v1",
                    "jobs" | "cronjobs" => "/apis/batch/v1",
                    "poddisruptionbudgets" => "/apis/policy/v1",
                    "deployments" | "replicasets" | "statefulsets" | "daemonsets" => {
                        "/apis/apps/v1"
                    }
                    _ => return None,
                };
                Some(format!(
                    "{group}/namespaces/{}/{}/{}",
                    object.namespace, object.kind, object.name
                ))
            };
            scene.objects.values().filter_map(of).collect()
        });
        for number in 0..4 {
            let path = &paths[self.draw.below(paths.len() as u64) as usize];
            let patch = json!({"metadata": {"annotations": {"somebody": number.to_string()}}});
            let _ = world.ask("PATCH", path, &patch).await;
        }
    }

    /// Many make ConfigMaps at once where a quota allows few.
    async fn crowd(&mut self, world: &World) {
        if !self.limited {
            return;
        }
        let path = format!("/api/v1/namespaces/{LIMITED}/configmaps");
        self.made += 1;
        let made: Vec<Value> = (0..6)
            .map(|number| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("s{}-{number}", self.made)}}))
            .collect();
        join_all(made.iter().map(|object| world.ask("POST", &path, object))).await;
        let there: Vec<String> = world.journal.scene(|scene| {
            let mine = scene
                .of_kind("configmaps")
                .filter(|map| map.namespace == LIMITED && map.name.starts_with('s'));
            mine.map(|map| map.name.clone()).collect()
        });
        for name in there {
            if self.draw.below(2) == 0 {
                let _ = world
                    .ask("DELETE", &format!("{path}/{name}"), &Value::Null)
                    .await;
            }
        }
    }

    /// Ends all trouble.
    pub async fn calm(&self, world: &World) {
        world.line.set_weather(0);
        world.journal.remark("calm");
        for node in 0..u64::from(NODES) {
            self.annotate_node(world, node, false).await;
        }
        for wanted in self
            .wanted
            .iter()
            .filter(|wanted| wanted.kind == "cronjobs")
        {
            let path = format!("{}/{}", wanted.path(), wanted.name);
            self.insist(world, "PATCH", &path, &json!({"spec": {"suspend": true}}))
                .await;
        }
    }

    /// Whether all is as asked.
    pub fn is_settled(&self, scene: &Scene) -> Result<(), String> {
        for wanted in &self.wanted {
            wanted.is_reached(scene)?;
        }
        let Some(quota) = scene.find("resourcequotas", "q") else {
            return Ok(());
        };
        let mut there: BTreeMap<&str, usize> = BTreeMap::new();
        for object in scene
            .objects
            .values()
            .filter(|object| object.namespace == LIMITED)
        {
            *there.entry(object.kind).or_default() += 1;
        }
        for (kind, name) in [("pods", "pods"), ("configmaps", "count~1configmaps")] {
            let (used, real) = (
                quota.text(&format!("/status/used/{name}")),
                there.get(kind).copied().unwrap_or(0),
            );
            if used != real.to_string() {
                return Err(format!("the quota counts {used:?} {kind} of {real}"));
            }
        }
        Ok(())
    }
}

fn brief(spec: &Value) -> String {
    match spec.pointer("/template/spec/containers/0/image") {
        Some(image) => image.to_string(),
        None => spec.to_string(),
    }
}
