//! What may be asked for in a history, and whether the cluster has come to it.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_simulation::plan;

use crate::scene::{Object, Scene};

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

/// What may be in a history: a name and the kind. The names tell apart:
/// `dl` is where a quota is, `sp` makes pods in parallel, claims of `sc` go with their pods and those of `sk` are kept,
/// `du` surges, `ji` is indexed, `cr` replaces the Job that is under way.
pub const CAST: &[(&str, &str)] = &[
    ("da", "deployments"),
    ("db", "deployments"),
    ("dl", "deployments"),
    ("so", "statefulsets"),
    ("sp", "statefulsets"),
    ("sc", "statefulsets"),
    ("sk", "statefulsets"),
    ("ds", "daemonsets"),
    ("du", "daemonsets"),
    ("jn", "jobs"),
    ("ji", "jobs"),
    ("cj", "cronjobs"),
    ("cr", "cronjobs"),
];

/// The completions of both Jobs.
const COMPLETIONS: i64 = 4;

/// What was asked for.
pub struct Wanted {
    pub name: &'static str,
    pub kind: &'static str,
    pub replicas: u64,
    pub image: u64,
    /// It was made, and nobody deleted it since.
    pub there: bool,
}

impl Wanted {
    pub fn namespace(&self) -> &'static str {
        if self.name == "dl" {
            LIMITED
        } else {
            "default"
        }
    }

    pub fn path(&self) -> String {
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

    /// Whether its pods have claims.
    pub fn claims(&self) -> bool {
        matches!(self.name, "sc" | "sk")
    }

    pub fn scales(&self) -> bool {
        matches!(self.kind, "deployments" | "statefulsets")
    }

    /// The part of a pod's template that changes.
    pub fn template(&self) -> Value {
        let runs_on = |when: &str| json!({"key": format!("node.kubernetes.io/{when}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let mut template = json!({"metadata": {"labels": {"app": self.name}}, "spec": {
            "terminationGracePeriodSeconds": GRACE.as_secs(),
            "tolerations": [runs_on("not-ready"), runs_on("unreachable")],
            "containers": [{"name": "c", "image": format!("i:{}", self.image), "resources": {"requests": {"cpu": "500m"}}}],
        }});
        if self.name == "du" {
            // A pod that surges would wait for ever on a node that is full.
            template["spec"]["containers"][0]["resources"] = json!({});
        }
        if self.claims() {
            template["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "data", "mountPath": "/data"}]);
        }
        if self.kind.ends_with("jobs") {
            template["spec"]["restartPolicy"] = "Never".into();
            template["metadata"]["annotations"] =
                json!({(plan::RUN_FOR): "8", (plan::FAILS): "0.25"});
        }
        template
    }

    pub fn object(&self) -> Value {
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
                if self.claims() {
                    let policy = if self.name == "sc" {
                        "Delete"
                    } else {
                        "Retain"
                    };
                    spec["persistentVolumeClaimRetentionPolicy"] =
                        json!({"whenDeleted": policy, "whenScaled": policy});
                    spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {"storageClassName": "",
                        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
                }
            }
            "daemonsets" if self.name == "du" => {
                let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
                spec["updateStrategy"] = json!({ "rollingUpdate": rolling });
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
            spec = json!({"schedule": "* * * * *", "concurrencyPolicy": if self.name == "cr" { "Replace" } else { "Forbid" }, "jobTemplate": {"spec": spec}});
        }
        json!({"apiVersion": group, "kind": kind, "metadata": {"name": self.name, "namespace": self.namespace()}, "spec": spec})
    }

    /// Whether everything is as asked, and nothing is left over.
    pub fn is_reached(&self, scene: &Scene) -> Result<(), String> {
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
            "daemonsets" => scene.of_kind("nodes").count() as u64,
            _ if self.name == "dl" => self.replicas.min(HARD_PODS as u64),
            _ => self.replicas,
        };
        let image = format!("i:{}", self.image);
        // With fewer pods than a rollout must keep it goes no further, as upstream: the quota leaves no room for new ones.
        let stuck = self.name == "dl" && self.replicas > HARD_PODS as u64;
        let is_fine = |pod: &&&Object| pod.serves() && (stuck || pod.image() == image);
        let fine = pods.iter().filter(is_fine).count() as u64;
        let told = scene.find(self.kind, self.name).map_or(-1, |object| {
            let ready = if self.kind == "daemonsets" {
                "numberReady"
            } else {
                "readyReplicas"
            };
            object.number(&format!("/status/{ready}"))
        });
        if fine == wanted && pods.len() as u64 == wanted && told == wanted as i64 {
            return Ok(());
        }
        missing(format!(
            "{fine} of {wanted} pods serve {image}, {} are there, {told} are told of",
            pods.len()
        ))
    }
}
