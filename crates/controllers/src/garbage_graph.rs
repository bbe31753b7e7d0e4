//! Who owns whom: the rows that the garbage collector plans on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;

/// The finalizer of a deletion that leaves the dependents alone.
pub const ORPHAN: &str = "orphan";
/// The finalizer of a deletion that waits for the dependents.
pub const FOREGROUND: &str = "foregroundDeletion";

/// A reference to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: Arc<str>,
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
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

impl Row {
    /// The row of an object.
    pub fn of(resource: usize, meta: &ObjectMeta) -> Self {
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        let owner = |reference: &OwnerReference| Owner {
            uid: reference.uid.as_str().into(),
            api_version: reference.api_version.as_str().into(),
            kind: reference.kind.as_str().into(),
            name: reference.name.clone(),
            blocks: reference.block_owner_deletion == Some(true),
        };
        Self {
            resource,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.iter().flatten().map(owner).collect(),
            deleting: meta.deletion_timestamp.is_some(),
            orphan: finalizers.iter().any(|finalizer| finalizer == ORPHAN),
            foreground: finalizers.iter().any(|finalizer| finalizer == FOREGROUND),
        }
    }
}

/// What is to be done with an object that has owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// It has an owner that stays: the references to these others are taken off.
    Strip(Vec<Arc<str>>),
    /// It goes, with this propagation policy.
    Delete(&'static str),
}

/// Judges an object by the states of its owners, which are in the order of its references.
pub fn verdict(row: &Row, states: &[OwnerState], has_dependents: bool) -> Verdict {
    let is_there = |state: &OwnerState| matches!(state, OwnerState::Solid | OwnerState::Unseen);
    let waiting = states.contains(&OwnerState::Waiting);
    if states.iter().any(is_there) {
        // An owner that waits is let go as well: it would wait for ever for an object that stays.
        let others: Vec<_> = row
            .owners
            .iter()
            .zip(states)
            .filter(|(_, state)| !is_there(state))
            .map(|(owner, _)| owner.uid.clone())
            .collect();
        return if others.is_empty() {
            Verdict::Keep
        } else {
            Verdict::Strip(others)
        };
    }
    Verdict::Delete(match (waiting && has_dependents, row) {
        (true, _) => "Foreground",
        (false, row) if row.orphan => "Orphan",
        (false, row) if row.foreground => "Foreground",
        (false, _) => "Background",
    })
}

/// All objects, by uid.
#[derive(Debug, Default)]
pub struct Graph {
    rows: HashMap<Arc<str>, Row>,
    dependents: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Kinds and versions, kept once however many references name them.
    words: HashSet<Arc<str>>,
}

/// What an owner is to a dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there and stays.
    Solid,
    /// It is being deleted and waits for its dependents.
    Waiting,
    /// It is not in the graph, or not where it should be: the API server is asked. When it has been, this means that
    /// it is there.
    Unseen,
    /// The API server does not have it.
    Absent,
}

impl Graph {
    /// Takes an object in. Answers the uids that are to be looked at.
    pub fn put(&mut self, resource: usize, meta: &ObjectMeta) -> Vec<Arc<str>> {
        let Some(uid) = meta.uid.as_deref().map(Arc::<str>::from) else {
            return Vec::new();
        };
        let mut row = Row::of(resource, meta);
        for owner in &mut row.owners {
            owner.api_version = self.shared(&owner.api_version);
            owner.kind = self.shared(&owner.kind);
        }
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

    fn shared(&mut self, word: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.words.get(word) {
            return known.clone();
        }
        self.words.insert(word.clone());
        word.clone()
    }

    /// The uids of objects with an owner that is not in the graph.
    pub fn with_unseen_owners(&self) -> Vec<Arc<str>> {
        let unseen = |owner: &Owner| !self.rows.contains_key(&owner.uid);
        let rows = self.rows.iter();
        rows.filter(|(_, row)| row.owners.iter().any(unseen))
            .map(|(uid, _)| uid.clone())
            .collect()
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
            Some(found) if found.name != owner.name => OwnerState::Unseen,
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

    #[test]
    fn owners_decide() {
        use OwnerState::{Absent, Solid, Unseen, Waiting};
        let row = Row::of(0, &meta("x", &["a", "b"], &[], false));
        let strip = |uid: &str| Verdict::Strip(vec![uid.into()]);
        for (states, has_dependents, expected) in [
            ([Solid, Solid], false, Verdict::Keep),
            ([Solid, Unseen], false, Verdict::Keep),
            ([Solid, Absent], false, strip("b")),
            ([Waiting, Unseen], true, strip("a")),
            ([Absent, Absent], true, Verdict::Delete("Background")),
            ([Waiting, Absent], true, Verdict::Delete("Foreground")),
            ([Waiting, Waiting], false, Verdict::Delete("Background")),
        ] {
            assert_eq!(
                verdict(&row, &states, has_dependents),
                expected,
                "{states:?}"
            );
        }
        let orphan = Row::of(0, &meta("x", &["a"], &[ORPHAN], false));
        assert_eq!(verdict(&orphan, &[Absent], true), Verdict::Delete("Orphan"));
    }

    #[test]
    fn a_reference_must_name_its_owner_where_it_is() {
        let mut graph = Graph::default();
        graph.put(0, &meta("a", &[], &[], false));
        let mut elsewhere = meta("b", &["a"], &[], false);
        elsewhere.namespace = Some("other".into());
        graph.put(0, &elsewhere);
        let row = graph.row("b").unwrap().clone();
        assert_eq!(graph.state(&row, &row.owners[0]), OwnerState::Unseen);
        graph.put(0, &meta("c", &["gone"], &[], false));
        assert_eq!(graph.with_unseen_owners(), ["c".into()]);
    }
}
