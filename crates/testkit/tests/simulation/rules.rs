//! What holds at every revision, whatever goes wrong on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::journal::Rule;
use crate::runs::Runs;
use crate::scene::{Change, LATELY, Object, Recent, Scene};
use crate::volumes::Claims;
use crate::workload::{
    BUDGET, GRACE, HARD_PODS, HARD_SETTINGS, LIMITED, MAX_SURGE, MAX_UNAVAILABLE,
};

/// All rules, in the order in which they are asked.
pub fn all() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(Placement),
        Box::<Rollouts>::default(),
        Box::<Identities>::default(),
        Box::<Daemons>::default(),
        Box::<Completions>::default(),
        Box::<Runs>::default(),
        Box::<Quota>::default(),
        Box::<Budgets>::default(),
        Box::<Claims>::default(),
        Box::new(Owned),
    ]
}

fn hold(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

/// Every pod is bound once, to a node with room for it, and is gone only when its node says so.
struct Placement;

impl Placement {
    /// Milli-CPUs that a pod asks for.
    fn cpu(pod: &Object) -> i64 {
        let cpu = pod.text("/spec/containers/0/resources/requests/cpu");
        match cpu.strip_suffix('m') {
            Some(milli) => milli.parse().unwrap_or(0),
            None => cpu.parse::<i64>().unwrap_or(0) * 1000,
        }
    }

    fn fits(scene: &Scene, node: &Object) -> Result<(), String> {
        let there = || {
            scene
                .pods()
                .filter(|pod| pod.node() == node.name && !pod.is_over())
        };
        let (count, cpu) = (there().count() as i64, there().map(Self::cpu).sum::<i64>());
        let (most, room): (i64, i64) = (
            node.text("/status/allocatable/pods").parse().unwrap_or(0),
            node.text("/status/allocatable/cpu").parse().unwrap_or(0),
        );
        hold(count <= most && cpu <= room * 1000, || {
            format!(
                "{} has room for {most} pods and {room} CPUs, and has {count} and {cpu}m",
                node.name
            )
        })
    }
}

impl Rule for Placement {
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        if !change.is_of("pods") {
            return Ok(());
        }
        let before = change.before.map_or("", Object::node);
        let name = &change.object().name;
        let Some(after) = change.after else {
            let node = scene.find("nodes", before);
            let ended = change.before.is_some_and(Object::is_over);
            let by = scene.deleter(change.object());
            let lost = node.is_none() || scene.has_moved(before);
            return hold(lost || ended || by == before, || {
                format!("{name} is gone by {by:?} while it may run on {before}")
            });
        };
        if before.is_empty() && !after.node().is_empty() {
            return match scene.find("nodes", after.node()) {
                // Who bound it went by the node that was.
                _ if scene.has_moved(after.node()) => Ok(()),
                Some(node) => Self::fits(scene, node),
                None => Err(format!("{name} is bound to no node: {}", after.node())),
            };
        }
        hold(before == after.node(), || {
            format!("{name} was on {before} and is on {:?}", after.node())
        })
    }
}

/// No Deployment has more pods than its surge allows, and none takes away more of those that serve than it may.
#[derive(Default)]
struct Rollouts {
    wanted: BTreeMap<String, Recent>,
    /// When something else than the rollout took a serving pod.
    upset: BTreeMap<String, Recent>,
    /// When a ReplicaSet was taken over, by Deployment.
    adopted: BTreeMap<String, Recent>,
    /// The numbers that ReplicaSets were told, by uid.
    sets: BTreeMap<String, Recent>,
}

const BY_REPLICA_SETS: &str = "replicaset-controller";

impl Rollouts {
    fn set(&mut self, scene: &Scene, change: &Change<'_>) {
        let set = change.object();
        let told = self.sets.entry(set.uid().to_owned()).or_default();
        let number = |set: &Object| set.number("/spec/replicas");
        if change.before.map(number) != change.after.map(number) {
            told.is_now(scene.now, change.after.map_or(0, number));
        }
        let owner = |set: Option<&Object>| set.map_or("", Object::owner_uid).to_owned();
        if change.before.is_some() && owner(change.before) != owner(change.after) {
            let adopted = self.adopted.entry(set.app().to_owned()).or_default();
            adopted.is_now(scene.now, 1);
        }
    }

    fn living(scene: &Scene, set: &str) -> i64 {
        let mine = |pod: &&Object| pod.lives() && pod.owner_uid() == set;
        scene.pods().filter(mine).count() as i64
    }

    /// The pods of a Deployment, without those that a ReplicaSet has beyond what it was told: it is about to take them away.
    fn count(scene: &Scene, pod: &Object) -> i64 {
        let deployment = scene.deployment(pod);
        let sets = scene.of_kind("replicasets");
        let mine = sets.filter(|set| set.owner_uid() == deployment);
        mine.map(|set| Self::living(scene, set.uid()).min(set.number("/spec/replicas")))
            .sum()
    }
}

impl Rule for Rollouts {
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        let object = change.object();
        if object.kind == "deployments" {
            let wanted = self.wanted.entry(object.name.clone()).or_default();
            wanted.is_now(scene.now, object.number("/spec/replicas"));
            return Ok(());
        }
        if object.kind == "replicasets" {
            self.set(scene, change);
            return Ok(());
        }
        let Some(wanted) = self
            .wanted
            .get(object.app())
            .filter(|_| object.kind == "pods")
        else {
            return Ok(());
        };
        let app = object.app();
        if change.before.is_none() {
            let unheard = scene.unheard(BY_REPLICA_SETS);
            let own = self.sets.get(object.owner_uid());
            let (own, there) = (
                own.map_or(0, |set| set.most(scene.now)),
                Self::living(scene, object.owner_uid()),
            );
            hold(there <= own + unheard, || {
                format!("{} is one of {there} pods of {own} of its set", object.name)
            })?;
            let (count, most) = (
                Self::count(scene, object),
                wanted.most(scene.now) + MAX_SURGE + unheard,
            );
            let adopted = self
                .adopted
                .get(app)
                .map_or(0, |adopted| adopted.count(scene.now));
            return hold(count <= most || adopted > 0, || {
                format!("{app} has {count} pods of at most {most}")
            });
        }
        if !change.ends(Object::serves) {
            return Ok(());
        }
        let upset = self.upset.entry(app.to_owned()).or_default();
        let asked = change.after.is_some_and(Object::is_deleted);
        if !asked || scene.deleter(object) != BY_REPLICA_SETS {
            upset.is_now(scene.now, 1);
            return Ok(());
        }
        let serving = scene.pods_of(app).filter(|pod| pod.serves()).count() as i64;
        let least = wanted.least(scene.now) - MAX_UNAVAILABLE - upset.count(scene.now);
        hold(serving >= least, || {
            format!("{app} is left with {serving} pods that serve of at least {least}")
        })
    }
}

/// A StatefulSet makes its pods in order, and takes none of them while a higher one is not ready.
#[derive(Default)]
struct Identities {
    wanted: BTreeMap<String, Recent>,
    upset: BTreeMap<String, Recent>,
}

pub const BY_STATEFUL_SETS: &str = "statefulset-controller";

impl Rule for Identities {
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        let object = change.object();
        if object.kind == "statefulsets" {
            let wanted = self.wanted.entry(object.name.clone()).or_default();
            wanted.is_now(scene.now, object.number("/spec/replicas"));
            return Ok(());
        }
        let app = object.app();
        let Some(wanted) = self.wanted.get(app).filter(|_| object.kind == "pods") else {
            return Ok(());
        };
        let upset = self.upset.entry(app.to_owned()).or_default();
        let ordinal = object.ordinal();
        let others = || scene.pods_of(app).filter(|pod| pod.ordinal() != ordinal);
        if change.before.is_none() {
            hold(ordinal < wanted.most(scene.now), || {
                format!(
                    "{} was made and {} are wanted",
                    object.name,
                    wanted.most(scene.now)
                )
            })?;
            let below = others().filter(|pod| pod.ordinal() < ordinal && pod.serves());
            let (below, calm) = (below.count() as i64, upset.count(scene.now) == 0);
            return hold(below >= ordinal || !calm || app.ends_with('p'), || {
                format!(
                    "{} was made when only {below} below it are ready",
                    object.name
                )
            });
        }
        if !change.ends(Object::serves) {
            return Ok(());
        }
        let asked = change.after.is_some_and(Object::is_deleted);
        if !asked || scene.deleter(object) != BY_STATEFUL_SETS {
            upset.is_now(scene.now, 1);
            return Ok(());
        }
        let least = wanted.least(scene.now);
        let idle = others().find(|pod| (ordinal..least).contains(&pod.ordinal()) && !pod.serves());
        hold(idle.is_none() || upset.count(scene.now) > 0, || {
            format!(
                "{} is taken while {} is not ready",
                object.name,
                idle.map_or("", |pod| &pod.name)
            )
        })
    }
}

/// No node has two living pods of one DaemonSet, one more where it surges, and a rollout takes no more away than it may.
#[derive(Default)]
struct Daemons {
    /// When something else than the rollout took a serving pod, or a node came.
    upset: BTreeMap<String, Recent>,
    /// Since when pods serve, by uid.
    since: BTreeMap<String, Duration>,
}

const BY_DAEMON_SETS: &str = "daemon-set-controller";

impl Daemons {
    /// The node that a pod is for.
    fn place(pod: &Object) -> &str {
        let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        pod.text(&format!("{terms}/0/matchFields/0/values/0"))
    }
}

impl Rule for Daemons {
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        let object = change.object();
        // Tainted nodes are not to have a pod, and are not counted.
        let taints = |node: Option<&Object>| node.map(|node| node.json["spec"]["taints"].clone());
        if object.kind == "nodes" && taints(change.before) != taints(change.after) {
            let all = self.upset.values_mut();
            all.for_each(|upset| upset.is_now(scene.now, 1));
        }
        if object.owner().0 != "DaemonSet" || object.kind != "pods" {
            return Ok(());
        }
        let (app, node) = (object.app(), Self::place(object));
        let surge = i64::from(app == "du");
        let upset = self.upset.entry(app.to_owned()).or_default();
        if change.before.is_none() {
            let mine = |pod: &&Object| {
                pod.lives() && Self::place(pod) == node && pod.owner_uid() == object.owner_uid()
            };
            let count = scene.pods_of(app).filter(mine).count() as i64;
            return hold(count <= 1 + surge + scene.unheard(BY_DAEMON_SETS), || {
                format!("{count} pods of {app} on {node}")
            });
        }
        if change.after.is_some_and(Object::serves) && !change.before.is_some_and(Object::serves) {
            self.since.insert(object.uid().to_owned(), scene.now);
        }
        if !change.ends(Object::serves) {
            return Ok(());
        }
        let asked = change.after.is_some_and(Object::is_deleted);
        if !asked || scene.deleter(object) != BY_DAEMON_SETS {
            upset.is_now(scene.now, 1);
            return Ok(());
        }
        // From a node that is gone its pods are to go too, and who has not heard that a pod serves takes it first.
        let since = self.since.get(object.uid());
        let heard = since.is_some_and(|since| *since + LATELY < scene.now);
        if scene.find("nodes", node).is_none() || scene.has_moved(node) || !heard {
            return Ok(());
        }
        let idle = |name: &str| {
            let mut there = scene.pods_of(app);
            !there.any(|pod| pod.serves() && Self::place(pod) == name)
        };
        let idle = if surge == 1 {
            i64::from(idle(node))
        } else {
            let mut nodes: Vec<&Object> = scene.of_kind("nodes").collect();
            nodes.retain(|node| node.list("/spec/taints").is_empty() && idle(&node.name));
            nodes.len() as i64 - 1
        };
        hold(idle <= upset.count(scene.now), || {
            format!("{} is taken while too few pods of {app} serve", object.name)
        })
    }
}

/// No completion of a Job is lost, and none counts twice.
#[derive(Default)]
struct Completions {
    /// The pods that succeeded and those that failed or were deleted, by Job; their uids, or indexes.
    succeeded: BTreeMap<String, BTreeSet<String>>,
    failed: BTreeMap<String, BTreeSet<String>>,
    /// Of these, the pods that nothing holds back any more.
    released: BTreeMap<String, BTreeSet<String>>,
}

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

impl Completions {
    fn pod(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        let pod = change.object();
        let job = pod.owner_uid();
        if pod.owner().0 != "Job" {
            return Ok(());
        }
        let index = pod.text("/metadata/annotations/batch.kubernetes.io~1job-completion-index");
        let what = if index.is_empty() { pod.uid() } else { index };
        let phase = pod.text("/status/phase");
        if phase == "Succeeded" {
            let all = self.succeeded.entry(job.to_owned()).or_default();
            all.insert(what.to_owned());
            // It was deleted, and made it all the same.
            let all = self.failed.entry(job.to_owned()).or_default();
            all.remove(pod.uid());
        } else if phase == "Failed" || pod.is_deleted() || change.after.is_none() {
            let all = self.failed.entry(job.to_owned()).or_default();
            all.insert(pod.uid().to_owned());
        }
        let held = |pod: &Object| {
            pod.list("/metadata/finalizers")
                .iter()
                .any(|f| f == TRACKING)
        };
        if phase != "Succeeded" || !change.ends(held) {
            return Ok(());
        }
        let released = self.released.entry(job.to_owned()).or_default();
        released.insert(what.to_owned());
        let (count, job) = (released.len() as i64, scene.of_uid("jobs", job));
        let job = job.filter(|job| !job.is_deleted());
        let known = job.map_or(count, |job| Self::counted(job, "succeeded"));
        hold(known >= count, || {
            format!(
                "{} is let go, and its Job counts {known} of {count}",
                pod.name
            )
        })
    }

    /// What a Job's status has counted, and what it says it is about to.
    fn counted(job: &Object, which: &str) -> i64 {
        let waiting = job.list(&format!("/status/uncountedTerminatedPods/{which}"));
        job.number(&format!("/status/{which}")) + waiting.len() as i64
    }
}

impl Rule for Completions {
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        if change.is_of("pods") {
            return self.pod(scene, change);
        }
        let Some(job) = change.after.filter(|job| job.kind == "jobs") else {
            return Ok(());
        };
        for (which, seen) in [("succeeded", &self.succeeded), ("failed", &self.failed)] {
            let (count, most) = (
                Self::counted(job, which),
                seen.get(job.uid()).map_or(0, BTreeSet::len) as i64,
            );
            hold(count <= most, || {
                format!("{} counts {count} {which} of {most} pods", job.name)
            })?;
            let before = change
                .before
                .map_or(0, |job| job.number(&format!("/status/{which}")));
            let now = job.number(&format!("/status/{which}"));
            hold(now >= before, || {
                format!("{} counted {before} {which} and now {now}", job.name)
            })?;
        }
        let (done, wanted) = (
            job.number("/status/succeeded"),
            job.number("/spec/completions"),
        );
        hold(!job.condition("Complete") || done >= wanted, || {
            format!("{} is complete with {done} of {wanted}", job.name)
        })
    }

    fn at_end(&self, scene: &Scene) -> Result<(), String> {
        for job in scene.of_kind("jobs") {
            for (which, seen) in [("succeeded", &self.succeeded), ("failed", &self.failed)] {
                let real = seen.get(job.uid()).map_or(0, BTreeSet::len) as i64;
                let count = job.number(&format!("/status/{which}"));
                hold(count == real, || {
                    format!("{} counts {count} {which} pods of {real}", job.name)
                })?;
            }
            let active = job.number("/status/active");
            hold(active == 0, || {
                format!("{} has {active} active pods", job.name)
            })?;
        }
        Ok(())
    }
}

/// A namespace never holds more than its quota allows. A pod that should have ended by now is no longer counted, as upstream.
#[derive(Default)]
struct Quota {
    /// When pods were deleted, by uid.
    deleted: BTreeMap<String, Duration>,
}

impl Rule for Quota {
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        let object = change.object();
        if object.namespace != LIMITED {
            return Ok(());
        }
        if object.kind == "pods" && object.is_deleted() {
            let uid = object.uid().to_owned();
            self.deleted.entry(uid).or_insert(scene.now);
        }
        if change.before.is_some() {
            return Ok(());
        }
        let there = |kind| {
            let here = |object: &&Object| object.namespace == LIMITED;
            scene.of_kind(kind).filter(here)
        };
        let counts = |pod: &&Object| {
            let deleted = self.deleted.get(pod.uid());
            !pod.is_over() && deleted.is_none_or(|at| *at + GRACE > scene.now)
        };
        let (pods, settings) = (
            there("pods").filter(counts).count(),
            there("configmaps").count(),
        );
        hold(pods <= HARD_PODS && settings <= HARD_SETTINGS, || {
            format!("{pods} pods of {HARD_PODS}, {settings} ConfigMaps of {HARD_SETTINGS}")
        })
    }
}

/// An eviction leaves as many healthy pods as the budget asks for.
#[derive(Default)]
struct Budgets {
    upset: BTreeMap<String, Recent>,
}

impl Rule for Budgets {
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        let (pod, app) = (change.object(), change.object().app());
        if pod.kind != "pods"
            || !change.ends(Object::serves)
            || scene.find("poddisruptionbudgets", app).is_none()
        {
            return Ok(());
        }
        let asked = change.after.is_some_and(Object::is_deleted);
        let upset = self.upset.entry(app.to_owned()).or_default();
        if !asked || scene.deleter(pod) != "an eviction" {
            upset.is_now(scene.now, 1);
            return Ok(());
        }
        let left = scene.pods_of(app).filter(|pod| pod.serves()).count() as i64;
        hold(left >= BUDGET - upset.count(scene.now), || {
            format!("an eviction leaves {left} pods of {app}")
        })
    }
}

/// In the end nothing is left whose owners are all gone.
struct Owned;

impl Rule for Owned {
    fn see(&mut self, _scene: &Scene, _change: &Change<'_>) -> Result<(), String> {
        Ok(())
    }

    fn at_end(&self, scene: &Scene) -> Result<(), String> {
        let there: BTreeSet<&str> = scene.objects.values().map(Object::uid).collect();
        let left = scene.objects.values().find(|object| {
            let owners = object.list("/metadata/ownerReferences");
            let gone = |owner: &Value| !there.contains(owner["uid"].as_str().unwrap_or_default());
            !owners.is_empty() && owners.iter().all(gone)
        });
        left.map_or(Ok(()), |object| {
            Err(format!(
                "{} {} has lost its owners",
                object.kind, object.name
            ))
        })
    }
}
