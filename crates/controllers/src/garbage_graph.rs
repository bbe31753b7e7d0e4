//! Who owns whom: the rows that the garbage collector plans on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::core::ObjectMeta;

/// The finalizer of a deletion that leaves the dependents alone.
pub const ORPHAN: &str = "orphan";
/// The finalizer of a deletion that waits for the dependents.
pub const FOREGROUND: &str = "foregroundDeletion";

/// A reference to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: Arc<str>,
    pub api_version: String,
    pub kind: String,
    pub name: String,
    /// A foreground deletion of the owner waits for this dependent.
    pub blocks: bool,
}

/// An object as the graph keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which of the discovered resources it is of.
    pub resource: usize,
    pub namespace: String,
    pub name: String,
    pub owners: Vec<Owner>,
    pub deleting: bool,
    pub orphan: bool,
    pub foreground: bool,
}

/// All objects, by uid.
#[derive(Debug, Default)]
pub struct Graph {
    rows: HashMap<Arc<str>, Row>,
    dependents: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

/// What an owner is to a dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there and stays.
    Solid,
    /// It is being deleted and waits for its dependents.
    Waiting,
    /// It is not in the graph: the API server is asked.
    Unseen,
}

impl Graph {
    /// Takes an object in. Answers the uids that are to be looked at.
    pub fn put(&mut self, resource: usize, meta: &ObjectMeta) -> Vec<Arc<str>> {
        let Some(uid) = meta.uid.as_deref().map(Arc::<str>::from) else {
            return Vec::new();
        };
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        let owner =
            |reference: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| Owner {
                uid: reference.uid.as_str().into(),
                api_version: reference.api_version.clone(),
                kind: reference.kind.clone(),
                name: reference.name.clone(),
                blocks: reference.block_owner_deletion == Some(true),
            };
        let row = Row {
            resource,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.iter().flatten().map(owner).collect(),
            deleting: meta.deletion_timestamp.is_some(),
            orphan: finalizers.iter().any(|finalizer| finalizer == ORPHAN),
            foreground: finalizers.iter().any(|finalizer| finalizer == FOREGROUND),
        };
        if self.rows.get(&uid) == Some(&row) {
            return Vec::new();
        }
        let mut look: Vec<Arc<str>> = self.unlink(&uid);
        for owner in &row.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
            look.push(owner.uid.clone());
        }
        if row.deleting {
            look.extend(self.dependents_of(&uid));
        }
        self.rows.insert(uid.clone(), row);
        look.push(uid);
        look
    }

    /// Takes an object out. Answers the uids that are to be looked at: its dependents, and owners that wait for it.
    pub fn remove(&mut self, uid: &str) -> Vec<Arc<str>> {
        let mut look = self.unlink(uid);
        self.rows.remove(uid);
        look.extend(self.dependents_of(uid));
        look
    }

    fn unlink(&mut self, uid: &str) -> Vec<Arc<str>> {
        let owners: Vec<Arc<str>> = self
            .rows
            .get(uid)
            .into_iter()
            .flat_map(|row| &row.owners)
            .map(|owner| owner.uid.clone())
            .collect();
        for owner in &owners {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        owners
    }

    /// The uids of one resource, to find those that went while nobody watched.
    pub fn of_resource(&self, resource: usize) -> Vec<Arc<str>> {
        self.rows
            .iter()
            .filter(|(_, row)| row.resource == resource)
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// An object.
    pub fn row(&self, uid: &str) -> Option<&Row> {
        self.rows.get(uid)
    }

    /// What names `uid` as its owner.
    pub fn dependents_of(&self, uid: &str) -> Vec<Arc<str>> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// What an owner is to `row`. An owner in another namespace is none: upstream does not look there.
    pub fn state(&self, row: &Row, owner: &Owner) -> OwnerState {
        match self.rows.get(&owner.uid) {
            Some(found) if !found.namespace.is_empty() && found.namespace != row.namespace => {
                OwnerState::Unseen
            }
            Some(found) if found.deleting && found.foreground => OwnerState::Waiting,
            Some(_) => OwnerState::Solid,
            None => OwnerState::Unseen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meta(uid: &str, owners: &[&str], finalizers: &[&str], deleting: bool) -> ObjectMeta {
        let owners: Vec<_> = owners.iter().map(|uid| json!({"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid, "blockOwnerDeletion": true})).collect();
        let mut meta = json!({"name": uid, "namespace": "d", "uid": uid, "ownerReferences": owners, "finalizers": finalizers});
        if deleting {
            meta["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(meta).unwrap()
    }

    #[test]
    fn dependents_are_looked_at_when_their_owner_goes() {
        let mut graph = Graph::default();
        graph.put(0, &meta("a", &[], &[], false));
        graph.put(0, &meta("b", &["a"], &[], false));
        let row = graph.row("b").unwrap().clone();
        assert_eq!(graph.state(&row, &row.owners[0]), OwnerState::Solid);
        assert_eq!(graph.remove("a"), ["b".into()]);
        assert_eq!(graph.state(&row, &row.owners[0]), OwnerState::Unseen);
        assert_eq!(graph.remove("b"), ["a".into()]);
        assert!(graph.dependents.is_empty() && graph.rows.is_empty());
    }

    #[test]
    fn a_foreground_deletion_waits() {
        let mut graph = Graph::default();
        graph.put(0, &meta("a", &[], &[], false));
        graph.put(0, &meta("b", &["a"], &[], false));
        let look = graph.put(0, &meta("a", &[], &[FOREGROUND], true));
        assert!(look.contains(&"b".into()) && look.contains(&"a".into()));
        let row = graph.row("b").unwrap().clone();
        assert_eq!(graph.state(&row, &row.owners[0]), OwnerState::Waiting);
        assert!(graph.put(0, &meta("b", &["a"], &[], false)).is_empty());
    }
}
