//! Which resources the API server has, in the version that each group prefers.

use std::collections::HashSet;

use http::Request;
use kube::core::discovery::v2::APIGroupDiscoveryList;
use kube::{Client, Error};

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiResource {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural name.
    pub plural: String,
    /// The kind.
    pub kind: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
}

impl ApiResource {
    /// Whether all these verbs are served.
    #[must_use]
    pub fn serves(&self, verbs: &[&str]) -> bool {
        verbs
            .iter()
            .all(|verb| self.verbs.iter().any(|found| found == verb))
    }

    /// `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection, in a namespace or (with an empty one) in all.
    #[must_use]
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        let version = self.api_version();
        let plural = &self.plural;
        if self.namespaced && !namespace.is_empty() {
            format!("/{root}/{version}/namespaces/{namespace}/{plural}")
        } else {
            format!("/{root}/{version}/{plural}")
        }
    }
}

/// All resources, in the order of discovery.
pub async fn discover(client: &Client) -> Result<Vec<ApiResource>, Error> {
    let mut resources = Vec::new();
    for path in ["/api", "/apis"] {
        let request = Request::get(path)
            .header(http::header::ACCEPT, ACCEPT)
            .body(Vec::new())
            .map_err(Error::HttpError)?;
        collect(client.request(request).await?, &mut resources);
    }
    Ok(resources)
}

fn collect(list: APIGroupDiscoveryList, into: &mut Vec<ApiResource>) {
    for group in list.items {
        let name = group
            .metadata
            .and_then(|meta| meta.name)
            .unwrap_or_default();
        let mut known = HashSet::new();
        // Versions come in the order of preference; a resource counts in the first that has it.
        for version in group.versions {
            for resource in version.resources {
                let plural = resource.resource.unwrap_or_default();
                if plural.is_empty() || !known.insert(plural.clone()) {
                    continue;
                }
                let kind = resource.response_kind.and_then(|kind| kind.kind);
                into.push(ApiResource {
                    group: name.clone(),
                    version: version.version.clone().unwrap_or_default(),
                    plural,
                    kind: kind.unwrap_or_default(),
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    verbs: resource.verbs,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_version_counts() {
        let resource = |name: &str| {
            serde_json::json!({"resource": name, "scope": "Namespaced", "verbs": ["list", "delete"],
                "responseKind": {"group": "apps", "version": "v1", "kind": "Thing"}})
        };
        let list = serde_json::from_value(serde_json::json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
            "items": [{"metadata": {"name": "apps"}, "versions": [
                {"version": "v1", "resources": [resource("a")]},
                {"version": "v1beta1", "resources": [resource("a"), resource("b")]},
            ]}],
        }))
        .unwrap();
        let mut found = Vec::new();
        collect(list, &mut found);
        let paths: Vec<_> = found.iter().map(|resource| resource.path("ns")).collect();
        assert_eq!(
            paths,
            [
                "/apis/apps/v1/namespaces/ns/a",
                "/apis/apps/v1beta1/namespaces/ns/b"
            ]
        );
        assert!(found[0].serves(&["delete"]) && !found[0].serves(&["watch"]));
    }
}
