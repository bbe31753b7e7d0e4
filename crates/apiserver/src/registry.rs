//! Which resources are served, and where they are kept.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use serde_json::Value;
use skiff_api::{ApiResult, Kind, Object, Scope, Subresource, Verb};

use crate::cache::Entry;
pub use crate::served_kind::{Ops, ServedKind, TableColumn, Text};

/// A served resource: a kind in the version it is asked for, and in the one that is stored.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The kind as served.
    pub kind: Arc<ServedKind>,
    /// The kind as the pipeline works with it and the caches keep it; the same for nearly all.
    pub storage: Arc<ServedKind>,
}

impl From<&'static Kind> for Resource {
    fn from(kind: &'static Kind) -> Self {
        let kind = Arc::new(ServedKind::from(kind));
        Self {
            storage: kind.clone(),
            kind,
        }
    }
}

impl Resource {
    /// Whether objects live in namespaces.
    #[must_use]
    pub fn namespaced(&self) -> bool {
        self.kind.scope == Scope::Namespaced
    }

    /// Whether `verb` can be done with the resource.
    #[must_use]
    pub fn allows(&self, verb: Verb) -> bool {
        self.kind.verbs.contains(&verb)
    }

    /// A subresource by name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.kind.subresources.iter().find(|sub| sub.name == name)
    }

    /// The key of an object.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced() {
            [&self.storage.storage, "/", namespace, "/", name].concat()
        } else {
            [&self.storage.storage, "/", name].concat()
        }
    }

    /// The prefix of the keys of all objects, or of those in a namespace.
    #[must_use]
    pub fn prefix(&self, namespace: &str) -> String {
        if self.namespaced() && !namespace.is_empty() {
            format!("{}/{namespace}/", self.storage.storage)
        } else {
            format!("{}/", self.storage.storage)
        }
    }

    /// Whether the served version is the stored one, so that bytes can be handed out as they are.
    #[must_use]
    pub fn is_storage(&self) -> bool {
        self.kind.conversion.is_none()
    }

    /// A stored object as JSON in the served version.
    #[must_use]
    pub fn served_value(&self, bytes: &[u8]) -> Value {
        self.served(serde_json::from_slice(bytes).unwrap_or_default())
    }

    /// An object as JSON in the served version, from the stored one.
    #[must_use]
    pub fn served(&self, value: Value) -> Value {
        match &self.kind.conversion {
            Some(conversion) => (conversion.from_storage)(value),
            None => value,
        }
    }

    /// A stored object's bytes in the served version.
    #[must_use]
    pub fn served_bytes(&self, bytes: &bytes::Bytes) -> bytes::Bytes {
        if self.is_storage() {
            bytes.clone()
        } else {
            serde_json::to_vec(&self.served_value(bytes))
                .unwrap_or_default()
                .into()
        }
    }

    /// A stored object, typed, in the version of the store.
    pub fn decode_stored(&self, bytes: &[u8]) -> ApiResult<Box<dyn Object>> {
        let value = serde_json::from_slice(bytes).map_err(skiff_api::ApiError::internal)?;
        self.storage
            .ops
            .decode(Cow::Owned(value))
            .map_err(skiff_api::ApiError::internal)
    }

    /// A stored object, typed, in the served version.
    pub fn decode_served(&self, entry: &Entry) -> ApiResult<Box<dyn Object>> {
        self.kind
            .ops
            .decode(Cow::Owned(self.served_value(&entry.bytes)))
            .map_err(skiff_api::ApiError::internal)
    }
}

/// A map from names that shares what did not change with the map it was made of: one shard is copied per change.
#[derive(Clone)]
struct Shards<V> {
    shards: Vec<Arc<HashMap<Text, V>>>,
    hasher: RandomState,
}

/// With thousands of names a shard holds a few dozen.
const SHARDS: usize = 64;

impl<V: Clone + Default> Default for Shards<V> {
    fn default() -> Self {
        Self {
            shards: vec![Arc::default(); SHARDS],
            hasher: RandomState::new(),
        }
    }
}

impl<V: Clone + Default> Shards<V> {
    fn shard(&self, name: &str) -> usize {
        usize::try_from(self.hasher.hash_one(name) % SHARDS as u64).unwrap_or(0)
    }

    fn get(&self, name: &str) -> Option<&V> {
        self.shards.get(self.shard(name))?.get(name)
    }

    /// Changes what is under a name; `change` answers whether anything is left.
    fn change(&mut self, name: &Text, change: impl FnOnce(&mut V) -> bool) {
        let at = self.shard(name);
        let Some(shard) = self.shards.get_mut(at) else {
            return;
        };
        let shard = Arc::make_mut(shard);
        let value = shard.entry(name.clone()).or_default();
        if !change(value) {
            shard.remove(name);
        }
    }

    fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }
}

/// All served resources. A copy with another resource shares nearly everything with the original.
#[derive(Clone, Default)]
pub struct Registry {
    /// In discovery's order.
    built_in: Arc<Vec<Arc<Resource>>>,
    by_plural: Shards<Vec<Arc<Resource>>>,
    by_kind: Shards<Vec<Arc<Resource>>>,
    /// The versions of a group, each with the number of resources in it.
    groups: Shards<Vec<(Text, usize)>>,
    generation: u64,
}

impl Registry {
    /// The resources of a table of kinds.
    #[must_use]
    pub fn new(kinds: &'static [Kind]) -> Self {
        let served: Vec<Arc<ServedKind>> = kinds
            .iter()
            .map(|kind| Arc::new(ServedKind::from(kind)))
            .collect();
        let mut registry = Self::default();
        let mut built_in = Vec::with_capacity(served.len());
        for kind in &served {
            let storage = served.iter().find(|other| {
                kind.conversion.is_some_and(|conversion| {
                    other.conversion.is_none()
                        && other.storage == kind.storage
                        && other.api_version() == conversion.storage_version
                })
            });
            let resource = Arc::new(Resource {
                kind: kind.clone(),
                storage: storage.unwrap_or(kind).clone(),
            });
            registry.index(&resource);
            built_in.push(resource);
        }
        registry.built_in = Arc::new(built_in);
        registry
    }

    fn index(&mut self, resource: &Arc<Resource>) {
        let kind = &resource.kind;
        let push = |list: &mut Vec<Arc<Resource>>| {
            list.push(resource.clone());
            true
        };
        self.by_plural.change(&kind.plural, push);
        self.by_kind.change(&kind.kind, push);
        self.groups.change(&kind.group, |versions| {
            match versions
                .iter_mut()
                .find(|(version, _)| *version == kind.version)
            {
                Some((_, count)) => *count += 1,
                None => versions.push((kind.version.clone(), 1)),
            }
            true
        });
    }

    fn unindex(&mut self, resource: &Arc<Resource>) {
        let kind = &resource.kind;
        let remove = |list: &mut Vec<Arc<Resource>>| {
            list.retain(|other| !Arc::ptr_eq(other, resource));
            !list.is_empty()
        };
        self.by_plural.change(&kind.plural, remove);
        self.by_kind.change(&kind.kind, remove);
        self.groups.change(&kind.group, |versions| {
            if let Some((_, count)) = versions
                .iter_mut()
                .find(|(version, _)| *version == kind.version)
            {
                *count -= 1;
            }
            versions.retain(|(_, count)| *count > 0);
            !versions.is_empty()
        });
    }

    /// The registry with the versions of a custom resource replaced by others (by none: the resource is served no
    /// more). The cost does not grow with the number of resources.
    #[must_use]
    pub fn with_custom(&self, group: &str, plural: &str, versions: Vec<Resource>) -> Self {
        let mut registry = self.clone();
        registry.generation += 1;
        let old: Vec<Arc<Resource>> = self.custom(group, plural).cloned().collect();
        for resource in &old {
            registry.unindex(resource);
        }
        for resource in versions {
            registry.index(&Arc::new(resource));
        }
        registry
    }

    /// The versions of a custom resource.
    pub fn custom(&self, group: &str, plural: &str) -> impl Iterator<Item = &Arc<Resource>> {
        let list = self.by_plural.get(plural).into_iter().flatten();
        list.filter(move |resource| {
            resource.kind.group == group && resource.kind.as_custom().is_some()
        })
    }

    /// All of them: those that are built in in discovery's order, then the custom ones in none.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.built_in.iter().chain(self.customs())
    }

    /// Those that are built in, in discovery's order.
    pub fn built_in(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.built_in.iter()
    }

    /// The custom ones, in no order.
    pub fn customs(&self) -> impl Iterator<Item = &Arc<Resource>> {
        let all = self.by_plural.values().flatten();
        all.filter(|resource| resource.kind.as_custom().is_some())
    }

    /// Grows with every change.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_plural
            .get(plural)?
            .iter()
            .find(|resource| resource.kind.group == group && resource.kind.version == version)
    }

    /// Whether anything is served under this group, in whatever version.
    #[must_use]
    pub fn serves(&self, group: &str) -> bool {
        self.groups.get(group).is_some()
    }

    /// A resource in the version that is stored.
    #[must_use]
    pub fn stored(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        let of_group = |resource: &&Arc<Resource>| resource.kind.group == group;
        let all = self.by_plural.get(plural)?;
        let mut stored = all.iter().filter(of_group).filter(|resource| {
            let custom = resource.kind.as_custom();
            resource.is_storage() && custom.is_none_or(|custom| custom.version().storage)
        });
        // The version that is stored of a custom resource need not be served.
        stored
            .next()
            .or_else(|| all.iter().filter(of_group).find(|one| one.is_storage()))
    }

    /// The resource of a kind.
    #[must_use]
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.by_kind
            .get(kind)?
            .iter()
            .find(|resource| resource.kind.group == group && resource.kind.version == version)
    }

    /// Whether the group and version are served.
    #[must_use]
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.groups
            .get(group)
            .is_some_and(|versions| versions.iter().any(|(have, _)| have == version))
    }
}
