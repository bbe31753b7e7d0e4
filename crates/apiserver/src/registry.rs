//! Which resources are served, and where they are kept.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use skiff_api::{ApiResult, Kind, Object, Scope, Subresource, Verb};

use crate::cache::Entry;

/// A served resource: a kind in the version it is asked for, and in the one that is stored.
pub struct Resource {
    /// The kind as served.
    pub kind: &'static Kind,
    /// The kind as stored; the same for nearly all.
    pub storage: &'static Kind,
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
            format!("{}/{namespace}/{name}", self.storage.storage)
        } else {
            format!("{}/{name}", self.storage.storage)
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
            .decode(value)
            .map_err(skiff_api::ApiError::internal)
    }

    /// A stored object, typed, in the served version.
    pub fn decode_served(&self, entry: &Entry) -> ApiResult<Box<dyn Object>> {
        self.kind
            .ops
            .decode(self.served_value(&entry.bytes))
            .map_err(skiff_api::ApiError::internal)
    }
}

/// All served resources.
#[derive(Default)]
pub struct Registry {
    resources: Vec<Arc<Resource>>,
    by_plural: HashMap<&'static str, Vec<Arc<Resource>>>,
}

impl Registry {
    /// The resources of a table of kinds.
    #[must_use]
    pub fn new(kinds: &'static [Kind]) -> Self {
        let mut registry = Self::default();
        for kind in kinds {
            let storage = kinds
                .iter()
                .find(|other| {
                    kind.conversion.is_some_and(|conversion| {
                        other.conversion.is_none()
                            && other.storage == kind.storage
                            && other.api_version() == conversion.storage_version
                    })
                })
                .unwrap_or(kind);
            let resource = Arc::new(Resource { kind, storage });
            registry
                .by_plural
                .entry(kind.plural)
                .or_default()
                .push(resource.clone());
            registry.resources.push(resource);
        }
        registry
    }

    /// All of them, in discovery's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
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
        let mut resources = self.by_plural.values().flatten();
        resources.any(|resource| resource.kind.group == group)
    }

    /// A resource in the version that is stored.
    #[must_use]
    pub fn stored(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_plural
            .get(plural)?
            .iter()
            .find(|resource| resource.kind.group == group && resource.is_storage())
    }

    /// The resource of a kind.
    #[must_use]
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.resources.iter().find(|resource| {
            resource.kind.kind == kind
                && resource.kind.group == group
                && resource.kind.version == version
        })
    }

    /// Whether the group and version are served.
    #[must_use]
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.resources
            .iter()
            .any(|resource| resource.kind.group == group && resource.kind.version == version)
    }
}
