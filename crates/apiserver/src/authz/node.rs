//! The node authorizer: a kubelet reads the objects of the pods on its own node, and no others.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, PersistentVolumeClaim, Pod, Volume,
};
use k8s_openapi::api::rbac::v1::PolicyRule;
use parking_lot::RwLock;

use crate::request::Attributes;
use crate::seam::{Authorizer, Decision};

use super::rbac::allows;

/// The store's prefixes that the graph follows.
pub const PREFIXES: [&str; 2] = ["/registry/pods/", "/registry/persistentvolumeclaims/"];

/// What an object is, to the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Referenced {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
}

/// What one pod refers to.
#[derive(Debug)]
struct PodRow {
    node: String,
    references: BTreeSet<(Referenced, String)>,
}

/// Which node may see which objects.
#[derive(Debug, Default)]
pub struct Graph {
    /// By `namespace/name`.
    pods: HashMap<String, PodRow>,
    /// The pods of each node.
    nodes: HashMap<String, BTreeSet<String>>,
    /// Claim `namespace/name` to the volume it is bound to.
    volumes: HashMap<String, String>,
}

impl Graph {
    /// Takes in the state of a key; `None` when it was deleted. Other keys are ignored.
    pub fn put(&mut self, key: &str, value: Option<&[u8]>) {
        if let Some(name) = key.strip_prefix(PREFIXES[0]) {
            self.forget(name);
            if let Some(pod) = value.and_then(|value| serde_json::from_slice::<Pod>(value).ok()) {
                self.add(name, &pod);
            }
        } else if let Some(name) = key.strip_prefix(PREFIXES[1]) {
            let claim =
                value.and_then(|value| serde_json::from_slice::<PersistentVolumeClaim>(value).ok());
            match claim
                .and_then(|claim| claim.spec?.volume_name)
                .filter(|volume| !volume.is_empty())
            {
                Some(volume) => self.volumes.insert(name.to_owned(), volume),
                None => self.volumes.remove(name),
            };
        }
    }

    fn forget(&mut self, name: &str) {
        let Some(row) = self.pods.remove(name) else {
            return;
        };
        if let Some(pods) = self.nodes.get_mut(&row.node) {
            pods.remove(name);
            if pods.is_empty() {
                self.nodes.remove(&row.node);
            }
        }
    }

    fn add(&mut self, name: &str, pod: &Pod) {
        let Some(node) = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .filter(|node| !node.is_empty())
        else {
            return;
        };
        // A mirror pod stands for a file on the node; it gives the node no rights.
        let mirror = pod
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror"));
        let references = if mirror {
            BTreeSet::new()
        } else {
            references(pod)
        };
        self.nodes
            .entry(node.clone())
            .or_default()
            .insert(name.to_owned());
        self.pods
            .insert(name.to_owned(), PodRow { node, references });
    }

    fn sees(&self, node: &str, namespace: &str, what: Referenced, name: &str) -> bool {
        let wanted = (what, name.to_owned());
        let in_namespace = |pod: &str| pod.split_once('/').is_some_and(|(of, _)| of == namespace);
        let mut pods = self
            .nodes
            .get(node)
            .into_iter()
            .flatten()
            .filter(|pod| in_namespace(pod));
        pods.any(|pod| {
            self.pods
                .get(pod)
                .is_some_and(|row| row.references.contains(&wanted))
        })
    }

    fn sees_volume(&self, node: &str, volume: &str) -> bool {
        self.nodes.get(node).into_iter().flatten().any(|pod| {
            let Some(((namespace, _), row)) = pod.split_once('/').zip(self.pods.get(pod)) else {
                return false;
            };
            let mut claims = row
                .references
                .iter()
                .filter(|(what, _)| *what == Referenced::Claim);
            claims.any(|(_, claim)| {
                self.volumes
                    .get(&format!("{namespace}/{claim}"))
                    .is_some_and(|bound| bound == volume)
            })
        })
    }
}

fn references(pod: &Pod) -> BTreeSet<(Referenced, String)> {
    let mut found = BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    let mut add = |what, name: Option<&String>| {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            found.insert((what, name.clone()));
        }
    };
    add(
        Referenced::ServiceAccount,
        spec.service_account_name.as_ref(),
    );
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(Referenced::Secret, Some(&secret.name));
    }
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    for Container { env, env_from, .. } in containers {
        environment(env.as_deref(), env_from.as_deref(), &mut add);
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        environment(
            container.env.as_deref(),
            container.env_from.as_deref(),
            &mut add,
        );
    }
    for volume in spec.volumes.iter().flatten() {
        volume_references(pod, volume, &mut add);
    }
    found
}

fn environment(
    env: Option<&[EnvVar]>,
    env_from: Option<&[EnvFromSource]>,
    add: &mut dyn FnMut(Referenced, Option<&String>),
) {
    for source in env
        .unwrap_or_default()
        .iter()
        .filter_map(|variable| variable.value_from.as_ref())
    {
        add(
            Referenced::Secret,
            source
                .secret_key_ref
                .as_ref()
                .map(|reference| &reference.name),
        );
        add(
            Referenced::ConfigMap,
            source
                .config_map_key_ref
                .as_ref()
                .map(|reference| &reference.name),
        );
    }
    for source in env_from.unwrap_or_default() {
        add(
            Referenced::Secret,
            source.secret_ref.as_ref().map(|reference| &reference.name),
        );
        add(
            Referenced::ConfigMap,
            source
                .config_map_ref
                .as_ref()
                .map(|reference| &reference.name),
        );
    }
}

fn volume_references(pod: &Pod, volume: &Volume, add: &mut dyn FnMut(Referenced, Option<&String>)) {
    add(
        Referenced::Secret,
        volume
            .secret
            .as_ref()
            .and_then(|source| source.secret_name.as_ref()),
    );
    add(
        Referenced::ConfigMap,
        volume.config_map.as_ref().map(|source| &source.name),
    );
    add(
        Referenced::Claim,
        volume
            .persistent_volume_claim
            .as_ref()
            .map(|source| &source.claim_name),
    );
    if volume.ephemeral.is_some() {
        let claim = format!(
            "{}-{}",
            pod.metadata.name.as_deref().unwrap_or_default(),
            volume.name
        );
        add(Referenced::Claim, Some(&claim));
    }
    let csi = volume
        .csi
        .as_ref()
        .and_then(|source| source.node_publish_secret_ref.as_ref());
    add(Referenced::Secret, csi.map(|reference| &reference.name));
    for source in volume
        .projected
        .iter()
        .filter_map(|projected| projected.sources.as_ref())
        .flatten()
    {
        add(
            Referenced::Secret,
            source.secret.as_ref().map(|source| &source.name),
        );
        add(
            Referenced::ConfigMap,
            source.config_map.as_ref().map(|source| &source.name),
        );
    }
}

/// The authorizer: the graph, and the rules that every node holds.
#[derive(Debug)]
pub struct NodeAuthorizer {
    /// Which node may see what.
    pub graph: RwLock<Graph>,
    rules: Vec<PolicyRule>,
}

impl NodeAuthorizer {
    /// `rules`: those of the ClusterRole `system:node`.
    #[must_use]
    pub fn new(rules: Vec<PolicyRule>) -> Self {
        Self {
            graph: RwLock::default(),
            rules,
        }
    }

    fn decide(&self, attributes: &Attributes) -> Decision {
        let Some(node) = attributes
            .user
            .name
            .strip_prefix("system:node:")
            .filter(|_| attributes.user.in_group("system:nodes"))
        else {
            return Decision::NoOpinion(String::new());
        };
        if !attributes.is_resource {
            return self.by_rules(attributes);
        }
        let graph = self.graph.read();
        let (verb, namespace, name) = (
            attributes.verb.as_str(),
            attributes.namespace.as_str(),
            attributes.name.as_str(),
        );
        let read = matches!(verb, "get" | "list" | "watch");
        let related = |sees: bool| {
            if sees {
                Decision::Allow(String::new())
            } else {
                Decision::NoOpinion(format!(
                    "no relationship found between node '{node}' and this object"
                ))
            }
        };
        let refuse = |why: &str| Decision::NoOpinion(why.to_owned());
        match (
            attributes.group.as_str(),
            attributes.resource.as_str(),
            attributes.subresource.as_str(),
        ) {
            ("", "secrets" | "configmaps", "") if !read => {
                refuse("can only read resources of this type")
            }
            ("", "secrets" | "configmaps", "") if name.is_empty() => refuse("No Object name found"),
            ("", "secrets", "") => related(graph.sees(node, namespace, Referenced::Secret, name)),
            ("", "configmaps", "") => {
                // Every pod mounts the cluster's root certificate.
                let root = name == "kube-root-ca.crt"
                    && graph.nodes.get(node).is_some_and(|pods| {
                        pods.iter()
                            .any(|pod| pod.starts_with(&format!("{namespace}/")))
                    });
                related(root || graph.sees(node, namespace, Referenced::ConfigMap, name))
            }
            ("", "persistentvolumeclaims", "") if verb == "get" => {
                related(graph.sees(node, namespace, Referenced::Claim, name))
            }
            ("", "persistentvolumes", "") if verb == "get" => {
                related(graph.sees_volume(node, name))
            }
            ("", "serviceaccounts", "token") if verb == "create" => {
                related(graph.sees(node, namespace, Referenced::ServiceAccount, name))
            }
            ("", "serviceaccounts", "") if verb == "get" => {
                related(graph.sees(node, namespace, Referenced::ServiceAccount, name))
            }
            ("", "nodes", "") if verb != "create" && name != node => {
                refuse("node can only access its own Node API object")
            }
            ("coordination.k8s.io", "leases", _) => self.lease(attributes, node),
            ("storage.k8s.io", "csinodes", _) if verb != "create" && name != node => {
                refuse("can only access CSINode with the same name as the requesting node")
            }
            ("", "pods", "")
                if matches!(verb, "list" | "watch")
                    && !selects_node(&attributes.field_selector, node) =>
            {
                refuse("can only list/watch pods with spec.nodeName field selector")
            }
            ("", "pods", "") if verb == "get" => {
                let sees = graph
                    .nodes
                    .get(node)
                    .is_some_and(|pods| pods.contains(&format!("{namespace}/{name}")));
                related(sees)
            }
            _ => self.by_rules(attributes),
        }
    }

    fn lease(&self, attributes: &Attributes, node: &str) -> Decision {
        let refuse = |why: &str| Decision::NoOpinion(why.to_owned());
        if !matches!(
            attributes.verb.as_str(),
            "get" | "create" | "update" | "patch" | "delete"
        ) {
            return refuse("can only get, create, update, patch, or delete a node lease");
        }
        if attributes.namespace != "kube-node-lease" {
            return refuse("can only access leases in the \"kube-node-lease\" system namespace");
        }
        if attributes.verb != "create" && attributes.name != node {
            return refuse("can only access node lease with the same name as the requesting node");
        }
        Decision::Allow(String::new())
    }

    fn by_rules(&self, attributes: &Attributes) -> Decision {
        if self.rules.iter().any(|rule| allows(rule, attributes)) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }
}

fn selects_node(field_selector: &str, node: &str) -> bool {
    field_selector.split(',').any(|term| {
        let value = term
            .trim()
            .strip_prefix("spec.nodeName=")
            .map(|value| value.strip_prefix('=').unwrap_or(value));
        value == Some(node)
    })
}

#[async_trait::async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        self.decide(attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::UserInfo;
    use serde_json::json;
    use std::sync::Arc;

    fn authorizer() -> NodeAuthorizer {
        let rule = PolicyRule {
            verbs: vec!["get".into(), "list".into(), "watch".into()],
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["pods".into(), "nodes".into(), "services".into()]),
            ..PolicyRule::default()
        };
        let authorizer = NodeAuthorizer::new(vec![rule]);
        let pod = json!({"metadata": {"name": "web", "namespace": "dev"}, "spec": {"nodeName": "n1", "serviceAccountName": "robot",
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "settings"}}]}],
            "volumes": [{"name": "s", "secret": {"secretName": "key"}}, {"name": "d", "persistentVolumeClaim": {"claimName": "disk"}}]}});
        authorizer
            .graph
            .write()
            .put("/registry/pods/dev/web", Some(pod.to_string().as_bytes()));
        let claim = json!({"metadata": {}, "spec": {"volumeName": "pv1"}});
        authorizer.graph.write().put(
            "/registry/persistentvolumeclaims/dev/disk",
            Some(claim.to_string().as_bytes()),
        );
        authorizer
    }

    fn ask(
        authorizer: &NodeAuthorizer,
        node: &str,
        verb: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        selector: &str,
    ) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes {
            user: Arc::new(UserInfo::new(
                &format!("system:node:{node}"),
                &["system:nodes"],
            )),
            verb: verb.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            is_resource: true,
            field_selector: selector.into(),
            ..Attributes::default()
        };
        authorizer.decide(&attributes).allowed()
    }

    #[test]
    fn a_node_sees_what_its_pods_name_and_nothing_else() {
        let authorizer = authorizer();
        for (resource, namespace, name) in [
            ("secrets", "dev", "key"),
            ("configmaps", "dev", "settings"),
            ("configmaps", "dev", "kube-root-ca.crt"),
            ("persistentvolumeclaims", "dev", "disk"),
            ("persistentvolumes", "", "pv1"),
            ("pods", "dev", "web"),
            ("services", "dev", "any"),
        ] {
            assert!(
                ask(&authorizer, "n1", "get", resource, namespace, name, ""),
                "{resource} {name}"
            );
            if resource != "services" {
                assert!(
                    !ask(&authorizer, "n2", "get", resource, namespace, name, ""),
                    "{resource} {name}"
                );
            }
        }
        assert!(!ask(
            &authorizer,
            "n1",
            "get",
            "secrets",
            "dev",
            "other",
            ""
        ));
        assert!(!ask(&authorizer, "n1", "get", "secrets", "prod", "key", ""));
        assert!(!ask(
            &authorizer,
            "n1",
            "delete",
            "secrets",
            "dev",
            "key",
            ""
        ));
        assert!(!ask(&authorizer, "n1", "list", "secrets", "dev", "", ""));
        assert!(ask(
            &authorizer,
            "n1",
            "create",
            "serviceaccounts/token",
            "dev",
            "robot",
            ""
        ));
        assert!(!ask(
            &authorizer,
            "n1",
            "create",
            "serviceaccounts/token",
            "dev",
            "admin",
            ""
        ));
        assert!(ask(
            &authorizer,
            "n1",
            "watch",
            "pods",
            "",
            "",
            "spec.nodeName=n1"
        ));
        assert!(!ask(
            &authorizer,
            "n1",
            "watch",
            "pods",
            "",
            "",
            "spec.nodeName=n2"
        ));
        assert!(!ask(&authorizer, "n1", "get", "nodes", "", "n2", ""));
    }

    #[test]
    fn rights_go_with_the_pod() {
        let authorizer = authorizer();
        authorizer.graph.write().put("/registry/pods/dev/web", None);
        assert!(!ask(&authorizer, "n1", "get", "secrets", "dev", "key", ""));
        assert!(authorizer.graph.read().nodes.is_empty());
    }
}
