//! What users and fate do, by draw.

use std::collections::BTreeMap;

use futures::future::join_all;
use kube::Error;
use serde_json::{Value, json};
use skiff_base::Random;
use skiff_simulation::plan;

use crate::scene::{Object, Scene};
use crate::workload::{BUDGET, CAST, HARD_PODS, HARD_SETTINGS, LIMITED, NODES, Wanted};
use crate::world::{Part, World};

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
                there: true,
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
        if play.wanted.iter().any(Wanted::claims) {
            world.provide_volumes();
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
        match self.draw.below(16) {
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
            11 => self.delete_node(world).await,
            12 => self.lose_many(world).await,
            13 => self.make_anew(world).await,
            14 => {
                world.journal.remark("fate: the server is away");
                world.restart_server(15.0 * self.draw.fraction()).await;
            }
            _ => self.crowd(world).await,
        }
        let longest = if self.draw.below(4) == 0 { 20.0 } else { 2.0 };
        world.sleep(longest * self.draw.fraction()).await;
    }

    async fn scale(&mut self, world: &World) {
        let place = self.draw.below(self.wanted.len() as u64) as usize;
        let replicas = self.draw.below(6);
        if self.wanted[place].scales() && self.wanted[place].there {
            self.wanted[place].replicas = replicas;
            self.change(world, place, json!({ "replicas": replicas }))
                .await;
        }
    }

    async fn update(&mut self, world: &World) {
        let place = self.draw.below(self.wanted.len() as u64) as usize;
        if !self.wanted[place].kind.ends_with("jobs") && self.wanted[place].there {
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

    /// A Node goes: its machine may be lost, or know nothing of it. Or all machines are started anew, and register.
    async fn delete_node(&self, world: &mut World) {
        let there: Vec<u64> = world.journal.scene(|scene| {
            (0..u64::from(NODES))
                .filter(|node| scene.find("nodes", &node_name(*node)).is_some())
                .collect()
        });
        if (there.len() as u64) < 1 + self.draw.below(u64::from(NODES)) {
            return world.restart(Part::Nodes).await;
        }
        let Some(node) = self.one(there) else {
            return;
        };
        let lost = self.draw.below(2) == 0;
        world
            .journal
            .remark(&format!("the user: delete node {node}, lost: {lost}"));
        if lost {
            self.annotate_node(world, node, true).await;
        }
        let path = format!("/api/v1/nodes/{}", node_name(node));
        let _ = world.ask("DELETE", &path, &Value::Null).await;
        world.sleep(60.0 * self.draw.fraction()).await;
    }

    /// A zone, or all but one node, or all nodes fall silent for a while.
    async fn lose_many(&self, world: &World) {
        let which = self.draw.below(6);
        let all: Vec<u64> = (0..u64::from(NODES)).collect();
        let lost: Vec<u64> = match which {
            // Zones go by the number, and there are three.
            0..=2 => all.into_iter().filter(|node| node % 3 == which).collect(),
            3 | 4 => all.into_iter().skip(1).collect(),
            _ => all,
        };
        let remark = format!("fate: nodes {lost:?} are silent");
        world.journal.remark(&remark);
        for node in &lost {
            self.annotate_node(world, *node, true).await;
        }
        world.sleep(30.0 + 60.0 * self.draw.fraction()).await;
        world.journal.remark(&format!("{remark} no more"));
        for node in &lost {
            self.annotate_node(world, *node, false).await;
        }
    }

    /// A workload is deleted, and made again.
    async fn make_anew(&mut self, world: &World) {
        let place = self.draw.below(self.wanted.len() as u64) as usize;
        let wanted = &self.wanted[place];
        // Pods of a Job that were left behind are nobody's for ever.
        let policies = if wanted.kind.ends_with("jobs") { 2 } else { 3 };
        let policy = ["Background", "Foreground", "Orphan"][self.draw.below(policies) as usize];
        world
            .journal
            .remark(&format!("the user: delete {} {policy}", wanted.name));
        let path = format!("{}/{}", wanted.path(), wanted.name);
        let options =
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
        if world.ask("DELETE", &path, &options).await.is_err() {
            return;
        }
        world.sleep(5.0 * self.draw.fraction()).await;
        self.wanted[place].there = self.make(world, place).await;
    }

    /// Whether it could be made: one of the name may be on its way out for long.
    async fn make(&self, world: &World, place: usize) -> bool {
        let wanted = &self.wanted[place];
        for _ in 0..10 {
            match world.ask("POST", &wanted.path(), &wanted.object()).await {
                Ok(_) => return true,
                Err(Error::Api(status)) => {
                    assert!(status.code >= 409, "{}: {status:?}", wanted.name);
                }
                Err(_) => {}
            }
            world.sleep(2.0).await;
        }
        false
    }

    async fn annotate_node(&self, world: &World, node: u64, silent: bool) {
        let value = if silent { json!("true") } else { Value::Null };
        let patch = json!({"metadata": {"annotations": {(plan::SILENT): value}}});
        let path = format!("/api/v1/nodes/{}", node_name(node));
        while let Err(error) = world.ask("PATCH", &path, &patch).await {
            match &error {
                // There is no such node now.
                Error::Api(status) if status.code == 404 => return,
                Error::Api(status) => assert!(status.code > 404, "{error}"),
                _ => {}
            }
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
            let Some(path) = self.one(paths.iter().collect()) else {
                return;
            };
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
    pub async fn calm(&mut self, world: &mut World) {
        world.line.set_weather(0);
        world.journal.remark("calm");
        // What is gone may be gone for good, if there is room without it.
        let missing = |scene: &Scene| u64::from(NODES) - scene.of_kind("nodes").count() as u64;
        let missing = world.journal.scene(missing);
        if missing > 1 || missing == 1 && self.draw.below(2) == 0 {
            world.restart(Part::Nodes).await;
        }
        for node in 0..u64::from(NODES) {
            self.annotate_node(world, node, false).await;
        }
        for place in 0..self.wanted.len() {
            while !self.wanted[place].there {
                self.wanted[place].there = self.make(world, place).await;
            }
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

fn node_name(node: u64) -> String {
    format!("simulated-{node:05}")
}

fn brief(spec: &Value) -> String {
    match spec.pointer("/template/spec/containers/0/image") {
        Some(image) => image.to_string(),
        None => spec.to_string(),
    }
}
