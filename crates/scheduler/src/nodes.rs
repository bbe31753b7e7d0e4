//! What the scheduler remembers of nodes: a row each, with no more than it reads.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use skiff_client::ObjectKey;

use crate::plugins::node_declared_features::{Features, declared};
use crate::resources::{Resources, thousandths};
use crate::rows::{HostPort, PodRow};
use crate::terms::Labels;

/// The number of an image.
pub type ImageId = u32;

/// Images as numbers, and how many nodes have each.
#[derive(Debug, Default)]
pub struct Images {
    ids: HashMap<Box<str>, ImageId>,
    nodes: Vec<u32>,
    free: Vec<ImageId>,
}

impl Images {
    fn enter(&mut self, name: &str) -> ImageId {
        let id = match self.ids.get(name) {
            Some(id) => *id,
            None => {
                let id = self
                    .free
                    .pop()
                    .unwrap_or_else(|| ImageId::try_from(self.nodes.len()).unwrap_or(ImageId::MAX));
                self.ids.insert(name.into(), id);
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

    /// A node that had these images is gone or has others now.
    pub fn leave(&mut self, images: &[(ImageId, i64)]) {
        let mut emptied = false;
        for (id, _) in images {
            if let Some(count) = self.nodes.get_mut(*id as usize) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.free.push(*id);
                    emptied = true;
                }
            }
        }
        if emptied {
            let nodes = &self.nodes;
            self.ids
                .retain(|_, id| nodes.get(*id as usize).is_some_and(|count| *count > 0));
        }
    }

    /// The number of an image that some node has, and how many nodes have it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<(ImageId, u32)> {
        let id = *self.ids.get(name)?;
        self.nodes.get(id as usize).map(|count| (id, *count))
    }

    /// The images of a node with their sizes, sorted by number.
    #[must_use]
    pub fn of(&mut self, node: &Node) -> Vec<(ImageId, i64)> {
        let images = node
            .status
            .iter()
            .flat_map(|status| status.images.iter().flatten());
        let mut found: Vec<(ImageId, i64)> = Vec::new();
        let mut again: Vec<(ImageId, i64)> = Vec::new();
        for image in images {
            for name in image.names.iter().flatten() {
                let id = self.enter(&normal_image(name));
                if found.iter().any(|(known, _)| *known == id) {
                    again.push((id, 0));
                } else {
                    found.push((id, image.size_bytes.unwrap_or(0)));
                }
            }
        }
        self.leave(&again);
        found.sort_unstable();
        found
    }
}

/// The name of an image with a tag.
#[must_use]
pub fn normal_image(name: &str) -> String {
    if name.rfind(':') <= name.rfind('/') {
        format!("{name}:latest")
    } else {
        name.to_owned()
    }
}

/// What of a node comes from its object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Labels.
    pub labels: Labels,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Whether it takes no new pods.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// Images that it has, with their sizes, sorted by number.
    pub images: Vec<(ImageId, i64)>,
    /// What its kubelet declares that pods may need.
    pub features: Features,
}

impl NodeFacts {
    /// The facts of a node, but for its images.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let spec = node.spec.as_ref();
        Self {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: Resources::from_map(allocatable),
            max_pods: allocatable
                .and_then(|all| all.get("pods"))
                .map_or(0, |quantity| thousandths(quantity) / 1000),
            images: Vec::new(),
            features: status
                .and_then(|status| status.declared_features.as_deref())
                .map_or(0, declared),
        }
    }

    /// The size of an image there.
    #[must_use]
    pub fn image(&self, id: ImageId) -> Option<i64> {
        let at = self
            .images
            .binary_search_by_key(&id, |(known, _)| *known)
            .ok()?;
        self.images.get(at).map(|(_, size)| *size)
    }
}

/// What the pods of a node take up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// What they ask for in all.
    pub requested: Resources,
    /// What they are taken to use in all: CPU and memory.
    pub compared: (i64, i64),
    /// Host ports that are taken.
    pub ports: Vec<HostPort>,
    /// How many there are.
    pub pods: i64,
}

impl Usage {
    /// One pod more.
    pub fn add(&mut self, pod: &PodRow) {
        self.requested.add(&pod.requests);
        self.compared.0 += pod.compared.0;
        self.compared.1 += pod.compared.1;
        self.ports.extend(pod.shape.ports.iter().cloned());
        self.pods += 1;
    }

    /// One pod less.
    pub fn subtract(&mut self, pod: &PodRow) {
        self.requested.subtract(&pod.requests);
        self.requested.others.retain(|(_, amount)| *amount != 0);
        self.compared.0 -= pod.compared.0;
        self.compared.1 -= pod.compared.1;
        for port in &pod.shape.ports {
            if let Some(index) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(index);
            }
        }
        self.pods -= 1;
    }
}

/// A node with the pods on it.
#[derive(Debug, Default)]
pub struct NodeRow {
    /// The name; empty where the place is free.
    pub name: Arc<str>,
    /// What its object says; none while only pods name it.
    pub facts: Option<NodeFacts>,
    /// What its pods take up.
    pub usage: Usage,
    /// Its pods.
    pub pods: HashMap<ObjectKey, Arc<PodRow>>,
    /// Pods without a node that room is being made for here.
    pub nominated: Vec<Arc<PodRow>>,
}

impl NodeRow {
    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodRow>) {
        self.remove(&pod.key);
        self.usage.add(&pod);
        self.pods.insert(pod.key.clone(), pod);
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<PodRow>> {
        let pod = self.pods.remove(key)?;
        self.usage.subtract(&pod);
        Some(pod)
    }

    /// The value of a label; none where there is none.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.facts.as_ref()?.labels.get(key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_have_tags() {
        for (name, expected) in [
            ("web", "web:latest"),
            ("r.io:5000/web", "r.io:5000/web:latest"),
            ("r.io/web:1", "r.io/web:1"),
            ("web@sha256:1", "web@sha256:1"),
        ] {
            assert_eq!(normal_image(name), expected);
        }
    }

    #[test]
    fn images_are_counted_by_node() {
        let mut images = Images::default();
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"images": [
            {"names": ["a", "a:latest", "b:1"], "sizeBytes": 5}]}}))
            .unwrap();
        let first = images.of(&node);
        let second = images.of(&node);
        assert_eq!(first, second);
        assert_eq!(first.len(), 2);
        assert_eq!(images.find("a:latest").unwrap().1, 2);
        images.leave(&first);
        images.leave(&second);
        assert_eq!(images.find("a:latest"), None);
        assert_eq!(images.of(&node).len(), 2);
    }
}
