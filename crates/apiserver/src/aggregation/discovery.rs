//! What aggregated APIs add to the discovery documents.

use serde_json::{Map, Value, json};

use super::local::group_priority;
use super::{Aggregation, Api, Apis};

fn version_entry(api: &Api) -> Value {
    json!({"groupVersion": format!("{}/{}", api.group, api.version), "version": api.version})
}

/// Where a group of this priority goes in a list of groups.
fn place(groups: &[Value], name: impl Fn(&Value) -> String, priority: i32) -> usize {
    groups
        .iter()
        .position(|group| group_priority(&name(group)) < priority)
        .unwrap_or(groups.len())
}

/// Adds the groups that are available to `/apis`.
pub(crate) fn add_groups(document: &mut Value, apis: &Apis) {
    let Some(groups) = document.get_mut("groups").and_then(Value::as_array_mut) else {
        return;
    };
    let mut added = 0;
    for api in apis.iter().filter(|api| api.available) {
        let version = version_entry(api);
        if let Some(group) = groups
            .iter_mut()
            .find(|group| group["name"] == api.group.as_str())
        {
            if let Some(versions) = group["versions"].as_array_mut() {
                versions.push(version);
            }
            continue;
        }
        let entry = json!({"name": api.group, "versions": [version], "preferredVersion": version});
        let name = |group: &Value| group["name"].as_str().unwrap_or_default().to_owned();
        // Behind those added before, which come first by priority.
        let at = place(groups, name, api.group_priority).max(added);
        groups.insert(at, entry);
        added = at + 1;
    }
}

/// Adds the versions that are available to `/apis/<group>`.
pub(crate) fn with_group(document: Option<Value>, group: &str, apis: &Apis) -> Option<Value> {
    let mut added = apis
        .iter()
        .filter(|api| api.available && api.group == group)
        .map(|api| version_entry(api));
    match document {
        Some(mut document) => {
            if let Some(versions) = document["versions"].as_array_mut() {
                versions.extend(added);
            }
            Some(document)
        }
        None => {
            let first = added.next()?;
            let versions: Vec<Value> = std::iter::once(first.clone()).chain(added).collect();
            Some(json!({
                "kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": versions, "preferredVersion": first,
            }))
        }
    }
}

/// Adds all aggregated APIs to the aggregated document; those that do not answer are stale.
pub(crate) fn add_aggregated(document: &mut Value, aggregation: &Aggregation) {
    let apis = aggregation.apis();
    let Some(items) = document.get_mut("items").and_then(Value::as_array_mut) else {
        return;
    };
    let mut added = 0;
    for api in apis.iter() {
        let said = aggregation.document(api);
        let fresh = if api.available && said.is_some() {
            "Current"
        } else {
            "Stale"
        };
        let mut version = json!({"version": api.version, "freshness": fresh});
        let resources = said
            .as_deref()
            .map(|said| resources(&said.resources))
            .unwrap_or_default();
        if !resources.is_empty() {
            version["resources"] = resources.into();
        }
        if let Some(item) = items
            .iter_mut()
            .find(|item| item["metadata"]["name"] == api.group.as_str())
        {
            if let Some(versions) = item["versions"].as_array_mut() {
                versions.push(version);
            }
            continue;
        }
        let name = |item: &Value| {
            item["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let at = place(items, name, api.group_priority).max(added);
        items.insert(
            at,
            json!({"metadata": {"name": api.group}, "versions": [version]}),
        );
        added = at + 1;
    }
}

/// Adds the OpenAPI documents of aggregated servers to the index at `/openapi/v3`.
pub(crate) fn add_openapi(index: &mut Value, aggregation: &Aggregation) {
    let Some(paths) = index.get_mut("paths").and_then(Value::as_object_mut) else {
        return;
    };
    for api in aggregation.apis().iter().filter(|api| api.available) {
        if let Some(url) = aggregation
            .document(api)
            .and_then(|said| said.openapi.clone())
        {
            let path = format!("apis/{}/{}", api.group, api.version);
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
}

/// The resources of an `APIResourceList`, as the aggregated document has them.
fn resources(list: &Value) -> Vec<Value> {
    let entries = list["resources"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let name = |entry: &Value| entry["name"].as_str().unwrap_or_default().to_owned();
    let kind = |entry: &Value| {
        let part = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        json!({"group": part("group"), "version": part("version"), "kind": part("kind")})
    };
    let plain = entries.iter().filter(|entry| !name(entry).contains('/'));
    plain
        .map(|entry| {
            let own = name(entry);
            let scope = if entry["namespaced"] == true { "Namespaced" } else { "Cluster" };
            let mut resource = Map::new();
            resource.insert("resource".to_owned(), own.clone().into());
            resource.insert("responseKind".to_owned(), kind(entry));
            resource.insert("scope".to_owned(), scope.into());
            resource.insert("singularResource".to_owned(), entry["singularName"].clone());
            for list in ["verbs", "shortNames", "categories"] {
                if entry[list].is_array() {
                    resource.insert(list.to_owned(), entry[list].clone());
                }
            }
            let of_it = entries.iter().filter_map(|entry| {
                let sub = name(entry);
                let sub = sub.strip_prefix(&own)?.strip_prefix('/')?;
                Some(json!({"subresource": sub, "responseKind": kind(entry), "verbs": entry["verbs"]}))
            });
            let subresources: Vec<Value> = of_it.collect();
            if !subresources.is_empty() {
                resource.insert("subresources".to_owned(), subresources.into());
            }
            resource.into()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_resources_becomes_an_aggregated_one() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "fischers", "singularName": "fischer", "namespaced": false, "kind": "Fischer", "verbs": ["get"]},
        ]});
        let made = resources(&list);
        assert_eq!(made.len(), 2);
        assert_eq!(made[0]["scope"], "Namespaced");
        assert_eq!(made[0]["subresources"][0]["subresource"], "status");
        assert_eq!(
            made[1]["responseKind"],
            json!({"group": "", "version": "", "kind": "Fischer"})
        );
        assert_eq!(resources(&Value::Null).len(), 0);
    }
}
