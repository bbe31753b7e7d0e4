//! The documents that tell clients what is served: `/api`, `/apis` and below, in the old form and the aggregated one.
//!
//! All are pure functions of a list of [`Resource`]s, which holds what is built in and what custom resources add. Its
//! order is the order of the answer: groups and versions as they come first, resources as upstream's by name.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use crate::kind::{Kind, Scope};

/// A piece of a name, which the built-in kinds have for free.
type Text = Cow<'static, str>;

/// What discovery tells about a resource in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of `Kind`")]
pub struct Resource {
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    pub plural: Text,
    pub singular: Text,
    pub short_names: Vec<Text>,
    pub categories: Vec<Text>,
    pub namespaced: bool,
    /// In the order of the alphabet.
    pub verbs: Vec<Text>,
    /// In the order of the alphabet.
    pub subresources: Vec<SubresourceEntry>,
}

/// What discovery tells about a subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubresourceEntry {
    /// The name in the path.
    pub name: Text,
    /// Group, version and kind of what is read and written.
    pub kind: (Text, Text, Text),
    /// In the order of the alphabet.
    pub verbs: Vec<Text>,
}

impl From<&Kind> for Resource {
    fn from(kind: &Kind) -> Self {
        let list = |names: &'static [&'static str]| {
            names.iter().map(|name| Text::Borrowed(name)).collect()
        };
        let verbs = |verbs: &[crate::Verb]| {
            verbs
                .iter()
                .map(|verb| Text::Borrowed(verb.as_str()))
                .collect()
        };
        Self {
            group: kind.group.into(),
            version: kind.version.into(),
            kind: kind.kind.into(),
            plural: kind.plural.into(),
            singular: kind.singular.into(),
            short_names: list(kind.short_names),
            categories: list(kind.categories),
            namespaced: kind.scope == Scope::Namespaced,
            verbs: verbs(kind.verbs),
            subresources: kind
                .subresources
                .iter()
                .map(|subresource| SubresourceEntry {
                    name: subresource.name.into(),
                    kind: (
                        subresource.kind.0.into(),
                        subresource.kind.1.into(),
                        subresource.kind.2.into(),
                    ),
                    verbs: verbs(subresource.verbs),
                })
                .collect(),
        }
    }
}

/// The built-in resources of a server that serves these kinds.
#[must_use]
pub fn built_in(kinds: &[Kind]) -> Vec<Resource> {
    kinds.iter().map(Resource::from).collect()
}

/// `/api`: the versions of the core group; `address` is where clients reach the server (`10.0.0.1:6443`).
#[must_use]
pub fn core_versions(resources: &[Resource], address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": versions(resources, ""),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`: the groups.
#[must_use]
pub fn groups(resources: &[Resource]) -> Value {
    let groups: Vec<Value> = group_names(resources)
        .into_iter()
        .map(|group| group_entry(resources, group))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`; `None` if the group is not served.
#[must_use]
pub fn group(resources: &[Resource], group: &str) -> Option<Value> {
    if group.is_empty() || versions(resources, group).is_empty() {
        return None;
    }
    let Value::Object(entry) = group_entry(resources, group) else {
        return None;
    };
    let mut document = Map::new();
    document.insert("kind".to_owned(), "APIGroup".into());
    document.insert("apiVersion".to_owned(), "v1".into());
    document.extend(entry);
    Some(document.into())
}

/// `/api/v1` and `/apis/<group>/<version>`; `None` if the version is not served.
#[must_use]
pub fn resource_list(resources: &[Resource], group: &str, version: &str) -> Option<Value> {
    let mut entries = Vec::new();
    for resource in resources
        .iter()
        .filter(|resource| resource.group == group && resource.version == version)
    {
        entries.push(resource_entry(resource));
        entries.extend(
            resource
                .subresources
                .iter()
                .map(|subresource| subresource_entry(resource, subresource)),
        );
    }
    if entries.is_empty() {
        return None;
    }
    let mut document = Map::new();
    document.insert("kind".to_owned(), "APIResourceList".into());
    // Upstream's old core document has no version of its own.
    if !group.is_empty() {
        document.insert("apiVersion".to_owned(), "v1".into());
    }
    document.insert(
        "groupVersion".to_owned(),
        group_version(group, version).into(),
    );
    document.insert("resources".to_owned(), entries.into());
    Some(document.into())
}

/// `/api` (`core`) and `/apis` as `APIGroupDiscoveryList` in `apidiscovery.k8s.io/v2`.
#[must_use]
pub fn aggregated(resources: &[Resource], core: bool) -> Value {
    let names = if core {
        vec![""]
    } else {
        group_names(resources)
    };
    let items: Vec<Value> = names
        .into_iter()
        .map(|group| {
            let versions: Vec<Value> = versions(resources, group)
                .into_iter()
                .map(|version| {
                    let of_version: Vec<Value> = resources
                        .iter()
                        .filter(|resource| resource.group == group && resource.version == version)
                        .map(aggregated_entry)
                        .collect();
                    json!({"version": version, "resources": of_version, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({})
            } else {
                json!({"name": group})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// The order of the versions of a custom resource: `v2`, `v1`, `v1beta1`, `v1alpha1`, then all others by name.
#[must_use]
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (version_rank(a), version_rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Stability, major and minor number, greater ones first in the order of versions.
fn version_rank(version: &str) -> Option<(u8, u64, u64)> {
    let number = |text: &str| match text.starts_with('0')
        || !text.bytes().all(|byte| byte.is_ascii_digit())
    {
        true => None,
        false => text.parse::<u64>().ok(),
    };
    let rest = version.strip_prefix('v')?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (major, rest) = (number(rest.get(..end)?)?, rest.get(end..)?);
    let (stability, minor) = match (rest, rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        ("", _, _) => return Some((2, major, 0)),
        (_, Some(minor), _) => (1, minor),
        (_, _, Some(minor)) => (0, minor),
        _ => return None,
    };
    Some((stability, major, number(minor)?))
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// The groups beside the core, as they come first.
fn group_names(resources: &[Resource]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for resource in resources {
        if !resource.group.is_empty() && !names.contains(&&*resource.group) {
            names.push(&resource.group);
        }
    }
    names
}

/// The versions of a group, as they come first; the first is preferred.
fn versions<'a>(resources: &'a [Resource], group: &str) -> Vec<&'a str> {
    let mut versions: Vec<&str> = Vec::new();
    for resource in resources.iter().filter(|resource| resource.group == group) {
        if !versions.contains(&&*resource.version) {
            versions.push(&resource.version);
        }
    }
    versions
}

fn group_entry(resources: &[Resource], group: &str) -> Value {
    let versions: Vec<Value> = versions(resources, group)
        .into_iter()
        .map(|version| json!({"groupVersion": group_version(group, version), "version": version}))
        .collect();
    let preferred = versions.first().cloned().unwrap_or(Value::Null);
    json!({"name": group, "versions": versions, "preferredVersion": preferred})
}

fn insert_lists(entry: &mut Map<String, Value>, resource: &Resource) {
    for (key, list) in [
        ("shortNames", &resource.short_names),
        ("categories", &resource.categories),
    ] {
        if !list.is_empty() {
            entry.insert(key.to_owned(), json!(list));
        }
    }
}

fn resource_entry(resource: &Resource) -> Value {
    let mut entry = Map::new();
    entry.insert("name".to_owned(), json!(resource.plural));
    entry.insert("singularName".to_owned(), json!(resource.singular));
    entry.insert("namespaced".to_owned(), resource.namespaced.into());
    entry.insert("kind".to_owned(), json!(resource.kind));
    entry.insert("verbs".to_owned(), json!(resource.verbs));
    insert_lists(&mut entry, resource);
    entry.into()
}

/// Whether a subresource is of a group and version other than its resource's.
fn foreign(resource: &Resource, subresource: &SubresourceEntry) -> bool {
    subresource.kind.0 != resource.group || subresource.kind.1 != resource.version
}

fn subresource_entry(resource: &Resource, subresource: &SubresourceEntry) -> Value {
    let mut entry = Map::new();
    entry.insert(
        "name".to_owned(),
        format!("{}/{}", resource.plural, subresource.name).into(),
    );
    entry.insert("singularName".to_owned(), "".into());
    entry.insert("namespaced".to_owned(), resource.namespaced.into());
    if foreign(resource, subresource) {
        entry.insert("group".to_owned(), json!(subresource.kind.0));
        entry.insert("version".to_owned(), json!(subresource.kind.1));
    }
    entry.insert("kind".to_owned(), json!(subresource.kind.2));
    entry.insert("verbs".to_owned(), json!(subresource.verbs));
    entry.into()
}

fn aggregated_entry(resource: &Resource) -> Value {
    let mut entry = Map::new();
    entry.insert("resource".to_owned(), json!(resource.plural));
    // Group and version stand only where they are not those of the list.
    entry.insert(
        "responseKind".to_owned(),
        json!({"group": "", "version": "", "kind": resource.kind}),
    );
    entry.insert(
        "scope".to_owned(),
        if resource.namespaced {
            "Namespaced"
        } else {
            "Cluster"
        }
        .into(),
    );
    entry.insert("singularResource".to_owned(), json!(resource.singular));
    entry.insert("verbs".to_owned(), json!(resource.verbs));
    insert_lists(&mut entry, resource);
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|subresource| {
            let (group, version) = match foreign(resource, subresource) {
                true => (&*subresource.kind.0, &*subresource.kind.1),
                false => ("", ""),
            };
            json!({
                "subresource": subresource.name,
                "responseKind": {"group": group, "version": version, "kind": subresource.kind.2},
                "verbs": subresource.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        entry.insert("subresources".to_owned(), subresources.into());
    }
    entry.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_stability_and_number() {
        let mut versions = [
            "v1alpha1", "foo", "v2", "v10", "v1", "v2beta1", "v2beta10", "v01", "v1beta",
        ];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(
            versions,
            [
                "v10", "v2", "v1", "v2beta10", "v2beta1", "v1alpha1", "foo", "v01", "v1beta"
            ]
        );
    }

    #[test]
    fn documents_agree_with_each_other() {
        let resources = built_in(crate::kinds());
        let all = groups(&resources);
        for entry in all["groups"].as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            let document = group(&resources, name).unwrap();
            assert_eq!(document["preferredVersion"], entry["preferredVersion"]);
            for version in entry["versions"].as_array().unwrap() {
                let list =
                    resource_list(&resources, name, version["version"].as_str().unwrap()).unwrap();
                assert_eq!(list["groupVersion"], version["groupVersion"]);
            }
        }
        assert!(group(&resources, "").is_none());
        assert!(group(&resources, "nobody.example").is_none());
        assert!(resource_list(&resources, "apps", "v9").is_none());
        let core = aggregated(&resources, true);
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        let apis = aggregated(&resources, false);
        assert_eq!(
            apis["items"].as_array().unwrap().len(),
            all["groups"].as_array().unwrap().len()
        );
    }

    #[test]
    fn subresources_of_other_groups_say_so() {
        let list = resource_list(&built_in(crate::kinds()), "apps", "v1").unwrap();
        let entry = |name: &str| {
            list["resources"]
                .as_array()
                .unwrap()
                .iter()
                .find(|entry| entry["name"] == name)
                .unwrap()
                .clone()
        };
        assert_eq!(entry("deployments/scale")["group"], "autoscaling");
        assert!(entry("deployments/status").get("group").is_none());
        assert_eq!(entry("deployments/status")["singularName"], "");
        assert_eq!(entry("deployments")["shortNames"], json!(["deploy"]));
    }
}
