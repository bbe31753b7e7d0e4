//! All that the scheduler knows of the cluster, changed by deltas.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use skiff_client::ObjectKey;

use crate::budgets::Budgets;
use crate::counters::{Asking, Counters, Place, Source};
use crate::devices::Devices;
use crate::framework::event;
use crate::kin::Kin;
use crate::nodes::{Images, NodeFacts, NodeRow};
use crate::plugins::{inter_pod_affinity, pod_topology_spread};
use crate::profile::Profile;
use crate::rows::PodRow;
use crate::terms::{Labels, NamespaceLabels};
use crate::topology::Topologies;
use crate::volumes::Volumes;
use crate::wishes::Wishes;

/// Nodes with the pods on them.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Nodes by number. Numbers of nodes that are gone are given out again.
    pub nodes: Vec<NodeRow>,
    by_name: HashMap<Arc<str>, usize>,
    free: Vec<usize>,
    /// How many nodes exist.
    pub ready: usize,
    /// Where each pod with a node is.
    pub placed: BTreeMap<ObjectKey, usize>,
    /// The labels of namespaces.
    pub namespaces: NamespaceLabels,
}

impl Cluster {
    /// The number of a node.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// A pod that is on a node.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<&Arc<PodRow>> {
        self.nodes.get(*self.placed.get(key)?)?.pods.get(key)
    }

    /// The names of all nodes that exist.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        let exist = self.nodes.iter().filter(|node| node.facts.is_some());
        exist.map(|node| node.name.clone()).collect()
    }

    fn labels(&self) -> impl Iterator<Item = (usize, &Labels)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(|(index, node)| Some((index, &node.facts.as_ref()?.labels)))
    }

    fn enter(&mut self, name: &str) -> usize {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let name: Arc<str> = name.into();
        let row = NodeRow {
            name: name.clone(),
            ..NodeRow::default()
        };
        let index = self.free.pop().unwrap_or(self.nodes.len());
        match self.nodes.get_mut(index) {
            Some(slot) => *slot = row,
            None => self.nodes.push(row),
        }
        self.by_name.insert(name, index);
        index
    }

    fn drop_if_empty(&mut self, index: usize) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        if node.facts.is_none() && node.pods.is_empty() {
            self.by_name.remove(&node.name);
            *node = NodeRow::default();
            self.free.push(index);
        }
    }
}

impl Source for Cluster {
    fn places(&self) -> Box<dyn Iterator<Item = Place<'_>> + '_> {
        let nodes = self.nodes.iter().enumerate();
        Box::new(nodes.filter_map(|(index, node)| {
            Some(Place {
                index,
                name: &node.name,
                facts: node.facts.as_ref()?,
            })
        }))
    }

    fn pods<'a>(
        &'a self,
        namespaces: Option<&'a [Box<str>]>,
    ) -> Box<dyn Iterator<Item = (&'a PodRow, usize)> + 'a> {
        let row = |(key, node): (&ObjectKey, &usize)| {
            let pod = self.nodes.get(*node)?.pods.get(key)?;
            Some((&**pod, *node))
        };
        let Some(names) = namespaces else {
            return Box::new(self.placed.iter().filter_map(row));
        };
        Box::new(names.iter().flat_map(move |name| {
            let from = ObjectKey::new(name, "");
            let here = self.placed.range(from..);
            here.take_while(move |(key, _)| key.namespace() == &**name)
                .filter_map(row)
        }))
    }

    fn namespaces(&self) -> &NamespaceLabels {
        &self.namespaces
    }
}

/// What counters answer for one pod, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// About spreading.
    pub spread: pod_topology_spread::AllAsked,
    /// About affinity.
    pub affinity: inter_pod_affinity::AllAsked,
}

/// Everything.
#[derive(Debug, Default)]
pub struct World {
    /// Nodes and pods.
    pub cluster: Cluster,
    /// Topology keys.
    pub topologies: Topologies,
    /// Pods by domain.
    pub counters: Counters,
    /// What pods on nodes wish.
    pub wishes: Wishes,
    /// Images.
    pub images: Images,
    /// Storage.
    pub volumes: Volumes,
    /// Devices.
    pub devices: Devices,
    /// How many pods on nodes use a claim.
    pub claim_users: HashMap<ObjectKey, u32>,
    /// Budgets.
    pub budgets: Budgets,
    /// Selectors of services and controllers.
    pub kin: Kin,
}

/// How a node changed.
#[derive(Debug)]
pub struct NodeChange {
    /// What that amounts to.
    pub events: u32,
    /// As it was; none if it is new.
    pub old: Option<NodeFacts>,
    /// Its number.
    pub index: usize,
}

impl World {
    /// The number of the counter that answers a question.
    pub fn counter(&mut self, asking: &Asking) -> usize {
        if let Some(known) = self.counters.find(&asking.signature) {
            return known;
        }
        let (cluster, topologies) = (&self.cluster, &mut self.topologies);
        let key = topologies.key(&asking.question.key, cluster.labels());
        self.counters.add(asking, key, topologies, cluster)
    }

    /// Asks the counters for what the pod needs.
    pub fn ask(&mut self, pod: &PodRow, profile: &Profile) -> Asked {
        self.counters.next_turn();
        Asked {
            spread: pod_topology_spread::ask(self, pod, profile),
            affinity: inter_pod_affinity::ask(self, pod),
        }
    }

    /// Puts a pod on a node, which need not exist.
    pub fn place(&mut self, pod: Arc<PodRow>, name: &str) {
        self.unplace(&pod.key);
        let index = self.cluster.enter(name);
        for key in Wishes::keys(&pod) {
            self.topologies.key(key, self.cluster.labels());
        }
        self.wishes.add(&pod, index, &self.topologies);
        let known = &self.cluster.namespaces;
        self.counters.pod(&pod, index, 1, &self.topologies, known);
        for (name, _) in pod.claims() {
            let key = ObjectKey::new(pod.namespace(), &name);
            *self.claim_users.entry(key).or_default() += 1;
        }
        self.cluster.placed.insert(pod.key.clone(), index);
        if let Some(node) = self.cluster.nodes.get_mut(index) {
            node.add(pod);
        }
    }

    /// Takes a pod off its node.
    pub fn unplace(&mut self, key: &ObjectKey) -> Option<Arc<PodRow>> {
        let index = self.cluster.placed.remove(key)?;
        let pod = self.cluster.nodes.get_mut(index)?.remove(key)?;
        self.wishes.remove(&pod, index, &self.topologies);
        let known = &self.cluster.namespaces;
        self.counters.pod(&pod, index, -1, &self.topologies, known);
        for (name, _) in pod.claims() {
            let key = ObjectKey::new(pod.namespace(), &name);
            if let Some(users) = self.claim_users.get_mut(&key) {
                *users = users.saturating_sub(1);
                if *users == 0 {
                    self.claim_users.remove(&key);
                }
            }
        }
        self.cluster.drop_if_empty(index);
        Some(pod)
    }

    /// Takes in a node.
    pub fn set_node(&mut self, node: &Node) -> NodeChange {
        let mut facts = NodeFacts::of(node);
        facts.images = self.images.of(node);
        let index = self
            .cluster
            .enter(node.metadata.name.as_deref().unwrap_or_default());
        let row = self.cluster.nodes.get_mut(index);
        let old = row.as_ref().and_then(|row| row.facts.clone());
        if let Some(old) = &old {
            self.images.leave(&old.images);
        }
        let events = node_events(old.as_ref(), &facts);
        // What is counted depends on labels and taints only.
        let recount = old
            .as_ref()
            .is_none_or(|old| old.labels != facts.labels || old.taints != facts.taints);
        if !recount {
            if let Some(row) = row {
                row.facts = Some(facts);
            }
            return NodeChange { events, old, index };
        }
        self.forget_facts(index);
        self.topologies.set_node(index, Some(&facts.labels));
        self.cluster.ready += 1;
        if let Some(row) = self.cluster.nodes.get_mut(index) {
            row.facts = Some(facts);
        }
        self.recall_facts(index);
        NodeChange { events, old, index }
    }

    /// Takes a node out of all counts.
    fn forget_facts(&mut self, index: usize) {
        let cluster = &mut self.cluster;
        let Some(row) = cluster
            .nodes
            .get_mut(index)
            .filter(|row| row.facts.is_some())
        else {
            return;
        };
        let pods = row.pods.values().map(AsRef::as_ref);
        self.counters
            .leave(index, pods.clone(), &self.topologies, &cluster.namespaces);
        self.wishes.move_node(index, pods, -1, &self.topologies);
        row.facts = None;
        cluster.ready -= 1;
    }

    /// Takes a node into all counts.
    fn recall_facts(&mut self, index: usize) {
        let Some(row) = self.cluster.nodes.get(index) else {
            return;
        };
        let Some(facts) = &row.facts else {
            return;
        };
        let place = Place {
            index,
            name: &row.name,
            facts,
        };
        let pods = row.pods.values().map(AsRef::as_ref);
        let known = &self.cluster.namespaces;
        self.counters
            .enter(place, pods.clone(), &self.topologies, known);
        self.wishes.move_node(index, pods, 1, &self.topologies);
    }

    /// A node is gone; pods on it are still counted there.
    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.cluster.find(name) else {
            return;
        };
        let facts = self
            .cluster
            .nodes
            .get(index)
            .and_then(|row| row.facts.as_ref());
        if let Some(facts) = facts {
            self.images.leave(&facts.images);
        }
        self.forget_facts(index);
        self.topologies.set_node(index, None);
        self.cluster.drop_if_empty(index);
    }

    /// The labels of a namespace; none if it is gone. Answers whether they are different.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> bool {
        let old = self.cluster.namespaces.get(name);
        if old == labels.as_ref() {
            return false;
        }
        match labels {
            Some(labels) => drop(self.cluster.namespaces.insert(name.into(), labels)),
            None => drop(self.cluster.namespaces.remove(name)),
        }
        self.counters.forget_namespaces();
        true
    }

    /// Whether all that is kept up says what counting anew would say. For tests.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let mut wishes = Wishes::default();
        for (key, index) in &self.cluster.placed {
            if let Some(pod) = self
                .cluster
                .nodes
                .get(*index)
                .and_then(|row| row.pods.get(key))
            {
                wishes.add(pod, *index, &self.topologies);
            }
        }
        let usage = self.cluster.nodes.iter().all(|row| {
            let mut usage = crate::nodes::Usage::default();
            row.pods.values().for_each(|pod| usage.add(pod));
            let sorted = |usage: &crate::nodes::Usage| {
                let mut usage = usage.clone();
                usage.requested.others.retain(|(_, amount)| *amount != 0);
                usage.requested.others.sort();
                usage.ports.sort_by(|a, b| {
                    (a.port, &a.ip, &a.protocol).cmp(&(b.port, &b.ip, &b.protocol))
                });
                usage
            };
            sorted(&usage) == sorted(&row.usage)
        });
        usage
            && self.devices.is_consistent()
            && self.counters.agree_with(&self.topologies, &self.cluster)
            && wishes.summary() == self.wishes.summary()
    }
}

fn node_events(old: Option<&NodeFacts>, new: &NodeFacts) -> u32 {
    let Some(old) = old else {
        return event::NODE_ADDED;
    };
    let mut events = 0;
    if old.labels != new.labels {
        events |= event::NODE_LABELS;
    }
    if old.taints != new.taints || old.unschedulable != new.unschedulable {
        events |= event::NODE_TAINTS;
    }
    if old.allocatable != new.allocatable || old.max_pods != new.max_pods {
        events |= event::NODE_ALLOCATABLE;
    }
    if old.features != new.features {
        events |= event::NODE_FEATURES;
    }
    events
}
