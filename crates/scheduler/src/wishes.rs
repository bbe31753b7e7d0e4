//! What pods that are on nodes wish of pods that come: their affinity, grouped by what it says and counted by
//! domain, so that a newcomer asks each different wish once and not every pod.

use std::collections::HashMap;
use std::sync::Arc;

use crate::rows::{PodRow, Shape};
use crate::terms::{NamespaceLabels, Term};
use crate::topology::{Domain, NONE, Topologies};

/// How much it is wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strength {
    /// The newcomer must not be near.
    Never,
    /// They needed to be near such a pod themselves, and would be near another.
    Needed,
    /// They would like it near, or far where the weight is negative.
    Liked(i64),
}

/// One wish of any number of pods.
#[derive(Debug)]
pub struct Wish {
    term: Term,
    /// How much.
    pub strength: Strength,
    key: usize,
    counts: Vec<i64>,
    pods: usize,
}

impl Wish {
    fn shift(&mut self, domain: Domain, by: i64) {
        if domain == NONE {
            return;
        }
        if self.counts.len() <= domain as usize {
            self.counts.resize(domain as usize + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(domain as usize) {
            *count += by;
        }
    }

    /// How many pods of a domain wish it.
    #[must_use]
    pub fn count(&self, domain: Domain) -> i64 {
        self.counts.get(domain as usize).copied().unwrap_or(0)
    }

    /// The number of the topology key.
    #[must_use]
    pub fn key(&self) -> usize {
        self.key
    }

    /// Whether it is about the newcomer.
    #[must_use]
    pub fn is_about(&self, pod: &PodRow, known: &NamespaceLabels) -> bool {
        self.term.matches(pod.namespace(), pod.labels(), known)
    }

    /// Whether a pod with that shape wishes it, and how often.
    #[must_use]
    pub fn stated_by(&self, shape: &Shape) -> i64 {
        let same = |(strength, term): &(Strength, &Term)| {
            *strength == self.strength && term.signature == self.term.signature
        };
        i64::try_from(stated(shape).filter(same).count()).unwrap_or(i64::MAX)
    }
}

fn stated(shape: &Shape) -> impl Iterator<Item = (Strength, &Term)> {
    let terms = &shape.terms;
    let far = terms.far.iter().map(|term| (Strength::Never, term));
    let near = terms.near.iter().map(|term| (Strength::Needed, term));
    let soft = terms
        .soft
        .iter()
        .map(|(weight, term)| (Strength::Liked(*weight), term));
    far.chain(near).chain(soft)
}

/// All wishes of pods on nodes.
#[derive(Debug, Default)]
pub struct Wishes {
    all: Vec<Option<Wish>>,
    free: Vec<usize>,
    by_what: HashMap<(Strength, Arc<str>), usize>,
    /// Wishes about pods of listed namespaces.
    by_namespace: HashMap<Box<str>, Vec<usize>>,
    /// Wishes about pods of namespaces that are selected by label.
    anywhere: Vec<usize>,
}

impl Wishes {
    /// The topology keys that the pod's wishes are about.
    pub fn keys(pod: &PodRow) -> impl Iterator<Item = &str> {
        stated(&pod.shape).map(|(_, term)| &*term.key)
    }

    /// A pod is on a node now. All its topology keys are known.
    pub fn add(&mut self, pod: &PodRow, node: usize, topologies: &Topologies) {
        for (strength, term) in stated(&pod.shape) {
            let Some(key) = topologies.find(&term.key) else {
                continue;
            };
            let index = self.enter(strength, term, key);
            if let Some(Some(wish)) = self.all.get_mut(index) {
                wish.pods += 1;
                wish.shift(topologies.domain(key, node), 1);
            }
        }
    }

    fn enter(&mut self, strength: Strength, term: &Term, key: usize) -> usize {
        let what = (strength, term.signature.clone());
        if let Some(found) = self.by_what.get(&what) {
            return *found;
        }
        let wish = Wish {
            term: term.clone(),
            strength,
            key,
            counts: Vec::new(),
            pods: 0,
        };
        let index = self.free.pop().unwrap_or(self.all.len());
        match self.all.get_mut(index) {
            Some(slot) => *slot = Some(wish),
            None => self.all.push(Some(wish)),
        }
        self.by_what.insert(what, index);
        if term.namespaces.selector.is_some() {
            self.anywhere.push(index);
        } else {
            for name in &term.namespaces.names {
                self.by_namespace
                    .entry(name.clone())
                    .or_default()
                    .push(index);
            }
        }
        index
    }

    /// A pod is no longer on a node whose domains are still known.
    pub fn remove(&mut self, pod: &PodRow, node: usize, topologies: &Topologies) {
        for (strength, term) in stated(&pod.shape) {
            let what = (strength, term.signature.clone());
            let Some(index) = self.by_what.get(&what).copied() else {
                continue;
            };
            let Some(Some(wish)) = self.all.get_mut(index) else {
                continue;
            };
            wish.shift(topologies.domain(wish.key, node), -1);
            wish.pods = wish.pods.saturating_sub(1);
            if wish.pods == 0 {
                self.forget(index, &what);
            }
        }
    }

    fn forget(&mut self, index: usize, what: &(Strength, Arc<str>)) {
        self.by_what.remove(what);
        let Some(wish) = self.all.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.free.push(index);
        self.anywhere.retain(|found| *found != index);
        for name in &wish.term.namespaces.names {
            if let Some(list) = self.by_namespace.get_mut(name) {
                list.retain(|found| *found != index);
                if list.is_empty() {
                    self.by_namespace.remove(name);
                }
            }
        }
    }

    /// The domains of a node change: its pods' wishes are taken away (`by` is -1) before, and put back (1) after.
    pub fn move_node<'a>(
        &mut self,
        node: usize,
        pods: impl Iterator<Item = &'a PodRow>,
        by: i64,
        topologies: &Topologies,
    ) {
        for pod in pods {
            for (strength, term) in stated(&pod.shape) {
                let what = (strength, term.signature.clone());
                let index = self.by_what.get(&what).copied();
                if let Some(Some(wish)) = index.and_then(|index| self.all.get_mut(index)) {
                    wish.shift(topologies.domain(wish.key, node), by);
                }
            }
        }
    }

    /// The wishes that are about a pod.
    pub fn about<'a>(
        &'a self,
        pod: &'a PodRow,
        known: &'a NamespaceLabels,
    ) -> impl Iterator<Item = &'a Wish> {
        let listed = self.by_namespace.get(pod.namespace()).into_iter().flatten();
        let wishes = listed.chain(&self.anywhere);
        wishes
            .filter_map(|index| self.all.get(*index)?.as_ref())
            .filter(|wish| wish.is_about(pod, known))
    }

    /// How many different wishes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_what.len()
    }

    /// Whether nothing is wished.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_what.is_empty()
    }

    /// What is wished, how much, by how many and where. For tests.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .all
            .iter()
            .flatten()
            .map(|wish| {
                let counts = wish
                    .counts
                    .iter()
                    .enumerate()
                    .filter(|(_, count)| **count != 0);
                format!(
                    "{:?} {} {} {:?}",
                    wish.strength,
                    wish.term.signature,
                    wish.pods,
                    counts.collect::<Vec<_>>()
                )
            })
            .collect();
        lines.sort();
        lines
    }
}
