//! Topology keys and their domains as numbers: which domain each node is in, kept up as nodes change.

use std::collections::HashMap;

use crate::terms::Labels;

/// The number of a domain of one topology key.
pub type Domain = u32;
/// A node without the label.
pub const NONE: Domain = Domain::MAX;

/// One key.
#[derive(Debug, Default)]
pub struct Key {
    name: Box<str>,
    ids: HashMap<Box<str>, Domain>,
    /// How many nodes each domain has; numbers of empty domains are given out again.
    nodes: Vec<u32>,
    free: Vec<Domain>,
    of_node: Vec<Domain>,
}

impl Key {
    fn set(&mut self, node: usize, value: Option<&str>) {
        if self.of_node.len() <= node {
            self.of_node.resize(node + 1, NONE);
        }
        let new = value.map_or(NONE, |value| self.enter(value));
        let Some(slot) = self.of_node.get_mut(node) else {
            return;
        };
        let old = std::mem::replace(slot, new);
        self.leave(old);
    }

    fn enter(&mut self, value: &str) -> Domain {
        let id = match self.ids.get(value) {
            Some(id) => *id,
            None => {
                let id = self
                    .free
                    .pop()
                    .unwrap_or_else(|| Domain::try_from(self.nodes.len()).unwrap_or(NONE));
                self.ids.insert(value.into(), id);
                if self.nodes.len() <= id as usize {
                    self.nodes.resize(id as usize + 1, 0);
                }
                id
            }
        };
        if let Some(count) = self.nodes.get_mut(id as usize) {
            *count += 1;
        }
        id
    }

    fn leave(&mut self, id: Domain) {
        let Some(count) = self.nodes.get_mut(id as usize) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.ids.retain(|_, known| *known != id);
            self.free.push(id);
        }
    }

    /// The domain of a node; [`NONE`] where it lacks the label.
    #[must_use]
    pub fn of(&self, node: usize) -> Domain {
        self.of_node.get(node).copied().unwrap_or(NONE)
    }

    /// All numbers of domains are below this.
    #[must_use]
    pub fn bound(&self) -> usize {
        self.nodes.len()
    }
}

/// All keys that anybody asked for.
#[derive(Debug, Default)]
pub struct Topologies {
    by_name: HashMap<Box<str>, usize>,
    keys: Vec<Key>,
}

impl Topologies {
    /// The number of a key that is known.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The number of a key; a new one is filled from the labels of all nodes.
    pub fn key<'a>(
        &mut self,
        name: &str,
        nodes: impl Iterator<Item = (usize, &'a Labels)>,
    ) -> usize {
        if let Some(found) = self.by_name.get(name) {
            return *found;
        }
        let mut key = Key {
            name: name.into(),
            ..Key::default()
        };
        for (node, labels) in nodes {
            key.set(node, labels.get(name).map(String::as_str));
        }
        self.keys.push(key);
        self.by_name.insert(name.into(), self.keys.len() - 1);
        self.keys.len() - 1
    }

    /// A key by its number.
    #[must_use]
    pub fn get(&self, key: usize) -> Option<&Key> {
        self.keys.get(key)
    }

    /// The domain of a node for a key.
    #[must_use]
    pub fn domain(&self, key: usize, node: usize) -> Domain {
        self.keys.get(key).map_or(NONE, |found| found.of(node))
    }

    /// A node has these labels now, or is gone.
    pub fn set_node(&mut self, node: usize, labels: Option<&Labels>) {
        for key in &mut self.keys {
            let value = labels.and_then(|labels| labels.get(&*key.name));
            key.set(node, value.map(String::as_str));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(value: &str) -> Labels {
        Labels::from([("zone".to_owned(), value.to_owned())])
    }

    #[test]
    fn domains_come_and_go_with_their_nodes() {
        let mut all = Topologies::default();
        let (a, b) = (zone("a"), zone("b"));
        let key = all.key("zone", [(0, &a), (2, &b)].into_iter());
        assert_eq!(all.key("zone", std::iter::empty()), key);
        let of = |all: &Topologies, node| all.domain(key, node);
        assert_eq!(of(&all, 1), NONE);
        assert_ne!(of(&all, 0), of(&all, 2));
        all.set_node(1, Some(&zone("a")));
        assert_eq!(of(&all, 1), of(&all, 0));
        let freed = of(&all, 2);
        all.set_node(2, None);
        all.set_node(1, Some(&zone("c")));
        assert_eq!((of(&all, 2), of(&all, 1)), (NONE, freed));
        assert_eq!(all.get(key).unwrap().bound(), 2);
    }
}
