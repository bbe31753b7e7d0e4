//! The cluster as the store has it at one revision, in the few words that rules need.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// The kinds that rules look at; of all others only the writes are noted.
const KINDS: &[&str] = &[
    "configmaps",
    "controllerrevisions",
    "cronjobs",
    "daemonsets",
    "deployments",
    "jobs",
    "nodes",
    "minions",
    "persistentvolumeclaims",
    "persistentvolumes",
    "poddisruptionbudgets",
    "pods",
    "replicasets",
    "resourcequotas",
    "statefulsets",
];

/// An object as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub json: Value,
}

impl Object {
    /// Reads a key and its value, of one of the kinds that rules look at.
    pub fn read(key: &str, value: &[u8]) -> Option<Self> {
        let (kind, namespace, name) = names(key)?;
        Some(Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            json: serde_json::from_slice(value).ok()?,
        })
    }

    pub fn text(&self, pointer: &str) -> &str {
        self.json
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The number there; 0 if there is none.
    pub fn number(&self, pointer: &str) -> i64 {
        self.json
            .pointer(pointer)
            .and_then(Value::as_i64)
            .unwrap_or(0)
    }

    pub fn list(&self, pointer: &str) -> &[Value] {
        self.json
            .pointer(pointer)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    pub fn uid(&self) -> &str {
        self.text("/metadata/uid")
    }

    /// The workload that it belongs to, by its label.
    pub fn app(&self) -> &str {
        self.text("/metadata/labels/app")
    }

    pub fn is_deleted(&self) -> bool {
        !self.text("/metadata/deletionTimestamp").is_empty()
    }

    fn of_owner(&self, what: &str) -> &str {
        let mut owners = self.list("/metadata/ownerReferences").iter();
        let owner = owners.find(|owner| owner["controller"] == true);
        owner
            .and_then(|owner| owner[what].as_str())
            .unwrap_or_default()
    }

    /// Kind and name of its controller.
    pub fn owner(&self) -> (&str, &str) {
        (self.of_owner("kind"), self.of_owner("name"))
    }

    pub fn owner_uid(&self) -> &str {
        self.of_owner("uid")
    }

    pub fn condition(&self, kind: &str) -> bool {
        let mut conditions = self.list("/status/conditions").iter();
        conditions.any(|c| c["type"] == kind && c["status"] == "True")
    }

    pub fn node(&self) -> &str {
        self.text("/spec/nodeName")
    }

    /// A pod whose containers have ended for good.
    pub fn is_over(&self) -> bool {
        matches!(self.text("/status/phase"), "Succeeded" | "Failed")
    }

    /// A pod that is neither over nor on its way out.
    pub fn lives(&self) -> bool {
        !self.is_deleted() && !self.is_over()
    }

    /// A living pod that is ready.
    pub fn serves(&self) -> bool {
        self.lives() && self.condition("Ready")
    }

    pub fn image(&self) -> &str {
        self.text("/spec/containers/0/image")
    }

    /// The number at the end of its name.
    pub fn ordinal(&self) -> i64 {
        let number = self.name.rsplit('-').next().unwrap_or_default();
        number.parse().unwrap_or(-1)
    }

    /// What somebody who reads the last moments of a history wants to know.
    pub fn brief(&self) -> String {
        let deleted = if self.is_deleted() { " deleted" } else { "" };
        match self.kind {
            "pods" => format!(
                "{} {}{} on [{}] {}{deleted}",
                self.text("/status/phase"),
                self.image(),
                if self.condition("Ready") {
                    " ready"
                } else {
                    ""
                },
                self.node(),
                self.owner().1
            ),
            "nodes" => format!(
                "ready={} taints={} {}",
                self.condition("Ready"),
                self.json["spec"]["taints"],
                self.json["metadata"]["annotations"]
            ),
            _ => {
                let mut status = self.json["status"].clone();
                if let Some(status) = status.as_object_mut() {
                    status.remove("conditions");
                }
                format!(
                    "replicas={} status={status}{deleted}",
                    self.json["spec"]["replicas"]
                )
            }
        }
    }
}

/// Kind, namespace and name that a key of the store stands for.
fn names(key: &str) -> Option<(&'static str, &str, &str)> {
    let mut parts = key.strip_prefix("/registry/")?.rsplitn(3, '/');
    let (name, second) = (parts.next()?, parts.next()?);
    let known = |name: &str| KINDS.iter().find(|kind| **kind == name).copied();
    // Objects without a namespace have their kind there.
    if let Some(kind) = known(second) {
        let kind = if kind == "minions" { "nodes" } else { kind };
        return Some((kind, "", name));
    }
    let kind = parts.next()?;
    known(kind.rsplit('/').next()?).map(|kind| (kind, second, name))
}

/// One write, between two states of an object.
pub struct Change<'a> {
    pub before: Option<&'a Object>,
    pub after: Option<&'a Object>,
}

impl Change<'_> {
    pub fn object(&self) -> &Object {
        self.after
            .or(self.before)
            .expect("a change has a state before or after")
    }

    pub fn is_of(&self, kind: &str) -> bool {
        self.object().kind == kind
    }

    /// Whether it is what made this change that something no longer holds.
    pub fn ends(&self, holds: impl Fn(&Object) -> bool) -> bool {
        self.before.is_some_and(&holds) && !self.after.is_some_and(&holds)
    }
}

/// Everything at one revision, and who asked for what of late.
#[derive(Default)]
pub struct Scene {
    pub now: Duration,
    pub objects: BTreeMap<String, Object>,
    /// Who asked last that a pod be deleted, by namespace and name.
    deleters: BTreeMap<String, String>,
    /// When and for whom a pod was made, or may have been, without that anybody heard of it.
    unheard: Vec<(Duration, String)>,
    /// When a node came or went last, by name.
    moved: BTreeMap<String, Duration>,
}

/// Answers get lost, watches lag and leaders look away: what was so this long ago may still be what somebody goes by.
pub const LATELY: Duration = Duration::from_secs(40);

impl Scene {
    pub fn asked_to_delete(&mut self, who: &str, namespace: &str, pod: &str) {
        self.deleters
            .insert(format!("{namespace}/{pod}"), who.to_owned());
    }

    pub fn unheard_creation(&mut self, who: &str, now: Duration) {
        self.unheard.push((now, who.to_owned()));
    }

    /// Notes that there is something at a key from now on, or no more.
    pub fn note_node(&mut self, key: &str, there: bool) {
        let Some(name) = key.strip_prefix("/registry/minions/") else {
            return;
        };
        if there != self.objects.contains_key(key) {
            self.moved.insert(name.to_owned(), self.now);
        }
    }

    /// Whether a node came or went lately.
    pub fn has_moved(&self, node: &str) -> bool {
        let moved = self.moved.get(node);
        moved.is_some_and(|at| *at + LATELY >= self.now)
    }

    pub fn deleter(&self, pod: &Object) -> &str {
        self.deleters
            .get(&format!("{}/{}", pod.namespace, pod.name))
            .map_or("", String::as_str)
    }

    /// How many pods `who` may have made of late without having heard of it.
    pub fn unheard(&self, who: &str) -> i64 {
        let recent = |(at, by): &&(Duration, String)| by == who && *at + LATELY >= self.now;
        self.unheard.iter().filter(recent).count() as i64
    }

    pub fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &Object> {
        self.objects
            .values()
            .filter(move |object| object.kind == kind)
    }

    pub fn pods(&self) -> impl Iterator<Item = &Object> {
        self.of_kind("pods")
    }

    pub fn pods_of(&self, app: &str) -> impl Iterator<Item = &Object> {
        self.pods().filter(move |pod| pod.app() == app)
    }

    pub fn of_uid(&self, kind: &'static str, uid: &str) -> Option<&Object> {
        self.of_kind(kind).find(|object| object.uid() == uid)
    }

    /// The Deployment that a pod belongs to, by way of its ReplicaSet.
    pub fn deployment(&self, pod: &Object) -> &str {
        self.of_uid("replicasets", pod.owner_uid())
            .map_or("", Object::owner_uid)
    }

    pub fn find(&self, kind: &'static str, name: &str) -> Option<&Object> {
        self.of_kind(kind).find(|object| object.name == name)
    }
}

/// What a number was lately, the value before that included.
#[derive(Default)]
pub struct Recent(Vec<(Duration, i64)>);

impl Recent {
    pub fn is_now(&mut self, now: Duration, value: i64) {
        self.0.push((now, value));
    }

    fn values(&self, now: Duration) -> impl Iterator<Item = i64> {
        let old = self.0.iter().rposition(|(at, _)| *at + LATELY < now);
        self.0[old.unwrap_or(0)..].iter().map(|(_, value)| *value)
    }

    pub fn most(&self, now: Duration) -> i64 {
        self.values(now).max().unwrap_or(0)
    }

    pub fn least(&self, now: Duration) -> i64 {
        self.values(now).min().unwrap_or(0)
    }

    /// How many were noted lately.
    pub fn count(&self, now: Duration) -> i64 {
        let recent = |(at, _): &&(Duration, i64)| *at + LATELY >= now;
        self.0.iter().filter(recent).count() as i64
    }
}
