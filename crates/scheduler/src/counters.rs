//! How many pods of a kind each domain of a topology has: counted once, then kept up with every change.
//!
//! Spreading and affinity ask this of every pod that is scheduled. Pods of one make ask for the same, so that the
//! answer is found by what is asked, and a change costs the same however large the cluster is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Toleration;
use skiff_client::LabelMatcher;

use crate::nodes::NodeFacts;
use crate::plugins::{node_affinity, taint_toleration};
use crate::rows::{NodeWants, PodRow};
use crate::terms::{NamespaceLabels, Namespaces};
use crate::topology::{Domain, NONE, Topologies};

/// More counters than this are kept only while one pod needs them.
const KEPT: usize = 128;

/// Which pods are counted: those that all of these select.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// Namespaces and labels.
    pub terms: Vec<(Namespaces, LabelMatcher)>,
    /// Whether pods on their way out do not count.
    pub only_staying: bool,
}

impl Select {
    /// Whether the pod counts.
    #[must_use]
    pub fn matches(&self, pod: &PodRow, known: &NamespaceLabels) -> bool {
        if self.terms.is_empty() || (self.only_staying && pod.deleting) {
            return false;
        }
        self.terms.iter().all(|(namespaces, matcher)| {
            namespaces.hold(pod.namespace(), known) && matcher.matches(Some(pod.labels()))
        })
    }

    /// The namespaces where such pods are; none where labels of namespaces decide.
    fn namespaces(&self) -> Option<&[Box<str>]> {
        let (namespaces, _) = self.terms.first()?;
        namespaces
            .selector
            .is_none()
            .then_some(namespaces.names.as_slice())
    }

    fn depends_on_namespaces(&self) -> bool {
        self.terms
            .iter()
            .any(|(namespaces, _)| namespaces.selector.is_some())
    }
}

/// On which nodes pods are counted.
#[derive(Clone, Debug, Default)]
pub struct Eligible {
    /// Labels that the node must have.
    pub keys: Vec<Box<str>>,
    /// Nodes that this allows.
    pub allowed_by: Option<Arc<NodeWants>>,
    /// Nodes whose taints these tolerations bear.
    pub borne_by: Option<Arc<[Toleration]>>,
}

impl Eligible {
    fn holds(&self, name: &str, facts: &NodeFacts) -> bool {
        self.keys
            .iter()
            .all(|key| facts.labels.contains_key(&**key))
            && self
                .allowed_by
                .as_ref()
                .is_none_or(|wants| node_affinity::allows(wants, name, facts))
            && self
                .borne_by
                .as_ref()
                .is_none_or(|tolerations| taint_toleration::bears(tolerations, &facts.taints))
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The topology key.
    pub key: Box<str>,
    /// Which pods.
    pub select: Select,
    /// Which nodes.
    pub eligible: Eligible,
}

/// A question with what tells it from others.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The same for the same question.
    pub signature: Arc<str>,
    /// What is asked.
    pub question: Question,
}

impl Asking {
    /// Makes a question ready.
    #[must_use]
    pub fn new(question: Question) -> Self {
        Self {
            signature: format!("{question:?}").into(),
            question,
        }
    }
}

/// A node as counters look at it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Its number.
    pub index: usize,
    /// Its name.
    pub name: &'a str,
    /// Its object.
    pub facts: &'a NodeFacts,
}

/// The answer, kept up.
#[derive(Debug)]
pub struct Counter {
    question: Question,
    key: usize,
    used: u64,
    /// Pods by domain.
    counts: Vec<i64>,
    /// Eligible nodes by domain.
    nodes: Vec<u32>,
    /// How many domains with eligible nodes have so many pods.
    by_count: BTreeMap<i64, u32>,
    domains: usize,
    total: i64,
    eligible: Vec<bool>,
}

impl Counter {
    fn new(question: Question, key: usize) -> Self {
        Self {
            question,
            key,
            used: 0,
            counts: Vec::new(),
            nodes: Vec::new(),
            by_count: BTreeMap::new(),
            domains: 0,
            total: 0,
            eligible: Vec::new(),
        }
    }

    fn grow(&mut self, domain: Domain) {
        let needed = domain as usize + 1;
        if self.counts.len() < needed {
            self.counts.resize(needed, 0);
            self.nodes.resize(needed, 0);
        }
    }

    fn bucket(&mut self, count: i64, more: bool) {
        let entry = self.by_count.entry(count).or_default();
        *entry = if more {
            *entry + 1
        } else {
            entry.saturating_sub(1)
        };
        if *entry == 0 {
            self.by_count.remove(&count);
        }
    }

    fn shift(&mut self, domain: Domain, by: i64) {
        if domain == NONE || by == 0 {
            return;
        }
        self.grow(domain);
        let (Some(count), Some(nodes)) = (
            self.counts.get_mut(domain as usize),
            self.nodes.get(domain as usize).copied(),
        ) else {
            return;
        };
        let old = *count;
        *count += by;
        let new = *count;
        self.total += by;
        if nodes > 0 {
            self.bucket(old, false);
            self.bucket(new, true);
        }
    }

    fn is_eligible(&self, node: usize) -> bool {
        self.eligible.get(node).copied().unwrap_or(false)
    }

    fn pod(&mut self, pod: &PodRow, node: usize, by: i64, domain: Domain, known: &NamespaceLabels) {
        if self.is_eligible(node) && self.question.select.matches(pod, known) {
            self.shift(domain, by);
        }
    }

    fn enter(&mut self, place: Place<'_>, domain: Domain) {
        if !self.question.eligible.holds(place.name, place.facts) {
            return;
        }
        if self.eligible.len() <= place.index {
            self.eligible.resize(place.index + 1, false);
        }
        if let Some(slot) = self.eligible.get_mut(place.index) {
            *slot = true;
        }
        if domain == NONE {
            return;
        }
        self.grow(domain);
        let count = self.count(domain);
        let Some(nodes) = self.nodes.get_mut(domain as usize) else {
            return;
        };
        *nodes += 1;
        if *nodes == 1 {
            self.domains += 1;
            self.bucket(count, true);
        }
    }

    fn leave(&mut self, node: usize, domain: Domain) {
        if !self.is_eligible(node) {
            return;
        }
        if let Some(slot) = self.eligible.get_mut(node) {
            *slot = false;
        }
        let count = self.count(domain);
        let Some(nodes) = self.nodes.get_mut(domain as usize) else {
            return;
        };
        *nodes = nodes.saturating_sub(1);
        if *nodes == 0 {
            self.domains -= 1;
            self.bucket(count, false);
        }
    }

    /// Pods in a domain.
    #[must_use]
    pub fn count(&self, domain: Domain) -> i64 {
        self.counts.get(domain as usize).copied().unwrap_or(0)
    }

    /// The number of the topology key.
    #[must_use]
    pub fn key(&self) -> usize {
        self.key
    }

    /// How many domains have eligible nodes.
    #[must_use]
    pub fn domains(&self) -> usize {
        self.domains
    }

    /// All pods that count.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.total
    }

    /// Whether a pod counts on a node, for what-if questions.
    #[must_use]
    pub fn counts(&self, pod: &PodRow, node: usize, known: &NamespaceLabels) -> bool {
        self.is_eligible(node) && self.question.select.matches(pod, known)
    }

    /// The fewest pods that any domain with eligible nodes has, if the count of `changed` were different by `by`.
    #[must_use]
    pub fn least(&self, changed: Domain, by: i64) -> i64 {
        let lowest = self.by_count.keys().next().copied().unwrap_or(0);
        let here = self.nodes.get(changed as usize).copied().unwrap_or(0);
        if by == 0 || here == 0 {
            return lowest;
        }
        let own = self.count(changed);
        let mut others = self.by_count.iter();
        let rest = others.find(|(count, domains)| **count != own || **domains > 1);
        rest.map_or(own + by, |(count, _)| (*count).min(own + by))
    }
}

/// All counters that were asked for lately.
#[derive(Debug, Default)]
pub struct Counters {
    all: Vec<Counter>,
    by_signature: HashMap<Arc<str>, usize>,
    signatures: Vec<Arc<str>>,
    turn: u64,
}

/// Feeds a new counter: every node, and every pod in some namespaces or in all.
pub trait Source {
    /// All nodes that exist.
    fn places(&self) -> Box<dyn Iterator<Item = Place<'_>> + '_>;
    /// Pods with the number of their node.
    fn pods<'a>(
        &'a self,
        namespaces: Option<&'a [Box<str>]>,
    ) -> Box<dyn Iterator<Item = (&'a PodRow, usize)> + 'a>;
    /// The labels of namespaces.
    fn namespaces(&self) -> &NamespaceLabels;
}

impl Counters {
    /// The turn of another pod: what it asks for is kept until its turn is over.
    pub fn next_turn(&mut self) {
        self.turn += 1;
    }

    /// The number of the counter with that signature, if it is known.
    pub fn find(&mut self, signature: &str) -> Option<usize> {
        let index = *self.by_signature.get(signature)?;
        self.all.get_mut(index)?.used = self.turn;
        Some(index)
    }

    /// Counts what a question asks for and keeps it. `key` is the number of its topology key.
    pub fn add(
        &mut self,
        asking: &Asking,
        key: usize,
        topologies: &Topologies,
        source: &dyn Source,
    ) -> usize {
        let signature = &asking.signature;
        let mut counter = Counter::new(asking.question.clone(), key);
        counter.used = self.turn;
        for place in source.places() {
            counter.enter(place, topologies.domain(key, place.index));
        }
        let namespaces = counter.question.select.namespaces().map(<[_]>::to_vec);
        for (pod, node) in source.pods(namespaces.as_deref()) {
            counter.pod(
                pod,
                node,
                1,
                topologies.domain(key, node),
                source.namespaces(),
            );
        }
        let oldest = self.all.iter().enumerate().min_by_key(|(_, old)| old.used);
        let reused = oldest
            .filter(|(_, old)| self.all.len() >= KEPT && old.used < self.turn)
            .map(|(index, _)| index);
        let index = match reused {
            Some(index) => {
                if let Some(old) = self.signatures.get(index) {
                    self.by_signature.remove(old);
                }
                if let (Some(slot), Some(name)) =
                    (self.all.get_mut(index), self.signatures.get_mut(index))
                {
                    *slot = counter;
                    *name = signature.clone();
                }
                index
            }
            None => {
                self.all.push(counter);
                self.signatures.push(signature.clone());
                self.all.len() - 1
            }
        };
        self.by_signature.insert(signature.clone(), index);
        index
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether nothing was asked yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A counter by its number.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Counter> {
        self.all.get(index)
    }

    /// A pod is on a node now (`by` is 1) or no longer (-1).
    pub fn pod(
        &mut self,
        pod: &PodRow,
        node: usize,
        by: i64,
        topologies: &Topologies,
        known: &NamespaceLabels,
    ) {
        for counter in &mut self.all {
            let domain = topologies.domain(counter.key, node);
            counter.pod(pod, node, by, domain, known);
        }
    }

    /// A node is there now, with these pods. Its domains are known already.
    pub fn enter<'a>(
        &mut self,
        place: Place<'_>,
        pods: impl Iterator<Item = &'a PodRow> + Clone,
        topologies: &Topologies,
        known: &NamespaceLabels,
    ) {
        for counter in &mut self.all {
            let domain = topologies.domain(counter.key, place.index);
            counter.enter(place, domain);
            for pod in pods.clone() {
                counter.pod(pod, place.index, 1, domain, known);
            }
        }
    }

    /// A node is about to go, with these pods. Its domains are still known.
    pub fn leave<'a>(
        &mut self,
        node: usize,
        pods: impl Iterator<Item = &'a PodRow> + Clone,
        topologies: &Topologies,
        known: &NamespaceLabels,
    ) {
        for counter in &mut self.all {
            let domain = topologies.domain(counter.key, node);
            for pod in pods.clone() {
                counter.pod(pod, node, -1, domain, known);
            }
            counter.leave(node, domain);
        }
    }

    /// Labels of a namespace have changed: what depends on them is counted anew when it is asked for.
    pub fn forget_namespaces(&mut self) {
        let mut index = 0;
        while index < self.all.len() {
            let stale = self
                .all
                .get(index)
                .is_some_and(|counter| counter.question.select.depends_on_namespaces());
            if stale {
                self.all.swap_remove(index);
                self.signatures.swap_remove(index);
            } else {
                index += 1;
            }
        }
        self.by_signature = self.signatures.iter().cloned().zip(0..).collect();
    }

    /// Whether each counter says what counting anew would say. For tests.
    #[must_use]
    pub fn agree_with(&self, topologies: &Topologies, source: &dyn Source) -> bool {
        self.all
            .iter()
            .zip(&self.signatures)
            .all(|(counter, signature)| {
                let mut anew = Self::default();
                let asking = Asking {
                    signature: signature.clone(),
                    question: counter.question.clone(),
                };
                anew.add(&asking, counter.key, topologies, source);
                let trim = |counts: &[i64]| {
                    let end = counts.iter().rposition(|count| *count != 0);
                    counts
                        .get(..end.map_or(0, |end| end + 1))
                        .map(<[_]>::to_vec)
                };
                anew.get(0).is_some_and(|fresh| {
                    trim(&fresh.counts) == trim(&counter.counts)
                        && fresh.by_count == counter.by_count
                        && fresh.domains == counter.domains
                        && fresh.total == counter.total
                })
            })
    }
}
