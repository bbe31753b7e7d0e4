//! What discovery tells, kept from one change of the registry to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::Scope;
use skiff_api::discovery_documents::{self as documents, Resource, SubresourceEntry};

use crate::aggregation::{Aggregation, discovery as aggregated};
use crate::registry::{Registry, ServedKind, Text};

/// What is told for one state of the registry.
pub(crate) struct Discovery {
    generation: u64,
    /// The resources of each group: those that are built in in their own order, then the others.
    groups: BTreeMap<String, Vec<Resource>>,
    /// The groups as they come: those that are built in, then the others by name.
    order: Vec<String>,
    /// What distinguishes the OpenAPI documents of custom resources: by group and version, and of all.
    documents: BTreeMap<(String, String), u64>,
    all: u64,
    /// `/apis` in both forms.
    apis: Merged,
    aggregated: Merged,
}

/// A document with what aggregated APIs add, and the state of those that it shows.
#[derive(Default)]
struct Merged(Mutex<Option<(u64, Bytes)>>);

impl Merged {
    fn of(&self, aggregation: &Aggregation, make: impl FnOnce() -> Value) -> Bytes {
        let mut kept = self.0.lock();
        // Read first: what changes meanwhile is in the next one.
        let state = aggregation.state();
        if let Some((_, document)) = kept.as_ref().filter(|(of, _)| *of == state) {
            return document.clone();
        }
        let document = Bytes::from(make().to_string());
        *kept = Some((state, document.clone()));
        document
    }
}

/// The newest state that was asked for.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<Arc<Discovery>>>);

impl Kept {
    /// What is told of a registry.
    pub fn of(&self, registry: &Registry, kinds: &'static [skiff_api::Kind]) -> Arc<Discovery> {
        let mut kept = self.0.lock();
        match &*kept {
            Some(discovery) if discovery.generation == registry.generation() => discovery.clone(),
            _ => {
                let discovery = Arc::new(Discovery::new(registry, kinds));
                *kept = Some(discovery.clone());
                discovery
            }
        }
    }
}

const VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
/// What can be done with a resource whose definition is going away.
const LAST_VERBS: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];

fn custom(kind: &ServedKind) -> Resource {
    let texts = |names: &[&'static str]| names.iter().map(|name| Text::Borrowed(*name)).collect();
    let going = kind
        .as_custom()
        .is_some_and(|custom| custom.definition().terminating);
    let subresources = kind.subresources.iter().rev();
    Resource {
        group: kind.group.clone(),
        version: kind.version.clone(),
        kind: kind.kind.clone(),
        plural: kind.plural.clone(),
        singular: kind.singular.clone(),
        short_names: kind.short_names.clone(),
        categories: kind.categories.clone(),
        namespaced: kind.scope == Scope::Namespaced,
        verbs: if going {
            texts(&LAST_VERBS)
        } else {
            texts(&VERBS)
        },
        subresources: subresources
            .map(|subresource| SubresourceEntry {
                name: subresource.name.into(),
                kind: match subresource.name {
                    "scale" => ("autoscaling".into(), "v1".into(), "Scale".into()),
                    _ => (kind.group.clone(), kind.version.clone(), kind.kind.clone()),
                },
                verbs: texts(&["get", "patch", "update"]),
            })
            .collect(),
    }
}

impl Discovery {
    fn new(registry: &Registry, kinds: &'static [skiff_api::Kind]) -> Self {
        let mut groups: BTreeMap<String, Vec<Resource>> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        for resource in documents::built_in(kinds) {
            let group = resource.group.to_string();
            let served = registry.get(&resource.group, &resource.version, &resource.plural);
            if served.is_none() {
                continue;
            }
            if !groups.contains_key(&group) {
                order.push(group.clone());
            }
            groups.entry(group).or_default().push(resource);
        }
        let mut customs: BTreeMap<String, Vec<Resource>> = BTreeMap::new();
        let (mut hashes, mut all) = (BTreeMap::new(), 0u64);
        for resource in registry.customs() {
            let group = resource.kind.group.to_string();
            if let Some(custom) = resource.kind.as_custom() {
                let fingerprint = custom.definition().fingerprint;
                let place = (group.clone(), resource.kind.version.to_string());
                let one: &mut u64 = hashes.entry(place).or_default();
                *one = one.wrapping_add(fingerprint);
                all = all.wrapping_add(fingerprint);
            }
            customs
                .entry(group)
                .or_default()
                .push(custom(&resource.kind));
        }
        for (group, mut resources) in customs {
            resources.sort_by(|a, b| {
                documents::compare_versions(&a.version, &b.version)
                    .then_with(|| a.plural.cmp(&b.plural))
            });
            if !groups.contains_key(&group) {
                order.push(group.clone());
            }
            groups.entry(group).or_default().extend(resources);
        }
        Self {
            generation: registry.generation(),
            groups,
            order,
            documents: hashes,
            all,
            apis: Merged::default(),
            aggregated: Merged::default(),
        }
    }

    /// The resources of a group.
    pub fn group(&self, group: &str) -> &[Resource] {
        self.groups.get(group).map_or(&[], Vec::as_slice)
    }

    /// The versions of all groups, each with what distinguishes its OpenAPI document from that of built-in kinds alone.
    pub fn documents(&self) -> Vec<(String, String, u64)> {
        let mut versions: Vec<(String, String, u64)> = Vec::new();
        for group in &self.order {
            let start = versions.len();
            for resource in self.group(group) {
                let known = versions.get(start..).is_some_and(|list| {
                    list.iter()
                        .any(|(_, version, _)| *version == resource.version)
                });
                if !known {
                    let version = resource.version.to_string();
                    let hash = self.document(group, &version);
                    versions.push((group.clone(), version, hash));
                }
            }
        }
        versions
    }

    /// The same of one group and version; 0: only built-in kinds are in it.
    pub fn document(&self, group: &str, version: &str) -> u64 {
        let place = (group.to_owned(), version.to_owned());
        self.documents.get(&place).copied().unwrap_or(0)
    }

    /// The same of the document of all.
    pub fn all(&self) -> u64 {
        self.all
    }

    fn beside_core(&self) -> impl Iterator<Item = &[Resource]> {
        let groups = self.order.iter().filter(|group| !group.is_empty());
        groups.map(|group| self.group(group))
    }

    /// `/apis`.
    pub fn apis(&self, aggregation: &Aggregation) -> Bytes {
        self.apis.of(aggregation, || {
            let groups = self
                .beside_core()
                .flat_map(|resources| items(documents::groups(resources), "groups"));
            let groups: Vec<Value> = groups.collect();
            let mut document =
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups});
            aggregated::add_groups(&mut document, &aggregation.apis());
            document
        })
    }

    /// `/apis` with all that is under it.
    pub fn aggregated(&self, aggregation: &Aggregation) -> Bytes {
        self.aggregated.of(aggregation, || {
            let groups = self
                .beside_core()
                .flat_map(|resources| items(documents::aggregated(resources, false), "items"));
            let groups: Vec<Value> = groups.collect();
            let mut document = json!({
                "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
                "metadata": {}, "items": groups,
            });
            aggregated::add_aggregated(&mut document, aggregation);
            document
        })
    }
}

fn items(mut document: Value, name: &str) -> Vec<Value> {
    match document.get_mut(name).map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}
