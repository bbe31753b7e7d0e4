//! The node authorizer: a kubelet reads the objects of the pods on its own node, and no others.

use k8s_openapi::api::rbac::v1::PolicyRule;
use parking_lot::RwLock;

use crate::request::{Attributes, UserInfo};
use crate::seam::{Authorizer, Decision, Rules};
use crate::selector::parse_fields;

use super::graph::{Graph, Referenced};
use super::rbac::allows;

/// The node whose kubelet the user is; an empty name for a member of the group whose name is of another form.
#[must_use]
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    user.in_group("system:nodes").then_some(name)
}

/// The authorizer: the graph, and the rules that every node holds.
#[derive(Debug)]
pub struct NodeAuthorizer {
    /// Which node may see what.
    pub graph: RwLock<Graph>,
    rules: Vec<PolicyRule>,
}

fn refuse(why: impl Into<String>) -> Decision {
    Decision::NoOpinion(why.into())
}

fn allow() -> Decision {
    Decision::Allow(String::new())
}

/// Whether a field selector asks for this value of a field, and no other.
fn selects(attributes: &Attributes, field: &str, value: &str) -> bool {
    let terms = parse_fields(&attributes.field_selector).unwrap_or_default();
    let mut terms = terms.iter();
    terms.any(|term| term.field == field && term.value == value && !term.negated)
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
        let Some(node) = node_of(&attributes.user) else {
            return refuse("");
        };
        if node.is_empty() {
            return refuse(format!("unknown node for user {:?}", attributes.user.name));
        }
        if !attributes.is_resource {
            return self.by_rules(attributes);
        }
        let status = attributes.subresource == "status";
        match (attributes.group.as_str(), attributes.resource.as_str()) {
            ("", "secrets") => self.read(attributes, node, Referenced::Secret),
            ("", "configmaps") => self.read(attributes, node, Referenced::ConfigMap),
            ("", "persistentvolumeclaims") if status => {
                if !matches!(attributes.verb.as_str(), "update" | "patch") {
                    return refuse("can only get/update/patch this type");
                }
                self.named(attributes, node, |graph| {
                    let (namespace, name) = (&attributes.namespace, &attributes.name);
                    graph.sees(node, namespace, Referenced::Claim, name)
                })
            }
            ("", "persistentvolumeclaims") => self.get(attributes, node, |graph| {
                let (namespace, name) = (&attributes.namespace, &attributes.name);
                graph.sees(node, namespace, Referenced::Claim, name)
            }),
            ("", "persistentvolumes") => self.get(attributes, node, |graph| {
                graph.sees_volume(node, &attributes.name)
            }),
            ("resource.k8s.io", "resourceclaims") => self.get(attributes, node, |graph| {
                let (namespace, name) = (&attributes.namespace, &attributes.name);
                graph.sees(node, namespace, Referenced::ResourceClaim, name)
            }),
            ("storage.k8s.io", "volumeattachments") => self.get(attributes, node, |graph| {
                graph.attaches(node, &attributes.name)
            }),
            ("", "serviceaccounts") => self.account(attributes, node),
            ("coordination.k8s.io", "leases") => lease(attributes, node),
            ("storage.k8s.io", "csinodes") => csi_node(attributes, node),
            ("resource.k8s.io", "resourceslices") => self.slice(attributes, node),
            ("", "nodes") => own_node(attributes, node),
            ("", "pods") => self.pod(attributes, node),
            // Not served here; nodes have no rights on it.
            ("certificates.k8s.io", "podcertificaterequests") => refuse(""),
            _ => self.by_rules(attributes),
        }
    }

    /// An object with a name, that the graph must lead to the node from.
    fn named(
        &self,
        attributes: &Attributes,
        node: &str,
        leads: impl FnOnce(&Graph) -> bool,
    ) -> Decision {
        if attributes.name.is_empty() {
            return refuse("No Object name found");
        }
        match leads(&self.graph.read()) {
            true => allow(),
            false => refuse(format!(
                "no relationship found between node '{node}' and this object"
            )),
        }
    }

    fn get(
        &self,
        attributes: &Attributes,
        node: &str,
        leads: impl FnOnce(&Graph) -> bool,
    ) -> Decision {
        if attributes.verb != "get" {
            return refuse("can only get individual resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return refuse("cannot get subresource");
        }
        self.named(attributes, node, leads)
    }

    fn read(&self, attributes: &Attributes, node: &str, what: Referenced) -> Decision {
        if !matches!(attributes.verb.as_str(), "get" | "list" | "watch") {
            return refuse("can only read resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if attributes.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        self.named(attributes, node, |graph| {
            graph.sees(node, &attributes.namespace, what, &attributes.name)
        })
    }

    fn account(&self, attributes: &Attributes, node: &str) -> Decision {
        if attributes.verb == "get" && attributes.subresource.is_empty() {
            return self.read(attributes, node, Referenced::ServiceAccount);
        }
        if attributes.verb != "create" || attributes.name.is_empty() {
            return refuse("can only create tokens for individual service accounts");
        }
        if attributes.subresource != "token" {
            return refuse("can only create token subresource of serviceaccount");
        }
        self.named(attributes, node, |graph| {
            let (namespace, name) = (&attributes.namespace, &attributes.name);
            graph.sees(node, namespace, Referenced::ServiceAccount, name)
        })
    }

    fn slice(&self, attributes: &Attributes, node: &str) -> Decision {
        if !attributes.subresource.is_empty() {
            return refuse("cannot authorize ResourceSlice subresources");
        }
        match attributes.verb.as_str() {
            // NodeRestriction sees the object's node.
            "create" => allow(),
            "get" | "update" | "patch" | "delete" => self.named(attributes, node, |graph| {
                graph.offers(node, &attributes.name)
            }),
            "watch" | "list" | "deletecollection" => {
                match selects(attributes, "spec.nodeName", node) {
                    true => allow(),
                    false => refuse(
                        "can only list/watch/deletecollection resourceslices with nodeName field selector",
                    ),
                }
            }
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn pod(&self, attributes: &Attributes, node: &str) -> Decision {
        let runs = |graph: &Graph| graph.runs(node, &attributes.namespace, &attributes.name);
        match (attributes.subresource.as_str(), attributes.verb.as_str()) {
            ("", "get") => self.get(attributes, node, runs),
            ("", "list" | "watch") if selects(attributes, "spec.nodeName", node) => allow(),
            ("", "list" | "watch") if !attributes.name.is_empty() => {
                self.named(attributes, node, runs)
            }
            ("", "list" | "watch") => {
                refuse("can only list/watch pods with spec.nodeName field selector")
            }
            // NodeRestriction sees whose pods they are.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                allow()
            }
            _ => refuse(""),
        }
    }

    fn by_rules(&self, attributes: &Attributes) -> Decision {
        if self.rules.iter().any(|rule| allows(rule, attributes)) {
            allow()
        } else {
            refuse("")
        }
    }
}

fn own_node(attributes: &Attributes, node: &str) -> Decision {
    match (attributes.subresource.as_str(), attributes.verb.as_str()) {
        // NodeRestriction sees whose they are.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
        ("", "get" | "list" | "watch") => match attributes.name.as_str() {
            own if own == node => allow(),
            "" => refuse(format!(
                "node '{node}' cannot read all nodes, only its own Node object"
            )),
            other => refuse(format!(
                "node '{node}' cannot read '{other}', only its own Node object"
            )),
        },
        _ => refuse(""),
    }
}

const OWN_VERBS: [&str; 5] = ["get", "create", "update", "patch", "delete"];

fn lease(attributes: &Attributes, node: &str) -> Decision {
    if !OWN_VERBS.contains(&attributes.verb.as_str()) {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if attributes.namespace != "kube-node-lease" {
        return refuse("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if attributes.verb != "create" && attributes.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    allow()
}

fn csi_node(attributes: &Attributes, node: &str) -> Decision {
    if !OWN_VERBS.contains(&attributes.verb.as_str()) {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !attributes.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if attributes.verb != "create" && attributes.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    allow()
}

#[async_trait::async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        self.decide(attributes)
    }

    async fn rules(&self, user: &UserInfo, _namespace: &str) -> Rules {
        let is_node = node_of(user).is_some();
        let error = match is_node {
            true => "node authorizer does not support user rule resolution".to_owned(),
            false => String::new(),
        };
        Rules {
            incomplete: is_node,
            error,
            ..Rules::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            "volumes": [{"name": "s", "secret": {"secretName": "key"}}, {"name": "d", "persistentVolumeClaim": {"claimName": "disk"}},
                {"name": "t", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}]}});
        authorizer
            .graph
            .write()
            .put("/registry/pods/dev/web", Some(pod.to_string().as_bytes()));
        for (key, object) in [
            (
                "/registry/persistentvolumes/pv1",
                json!({"spec": {"claimRef": {"namespace": "dev", "name": "disk"},
                    "csi": {"driver": "d", "volumeHandle": "h", "nodeStageSecretRef": {"namespace": "storage", "name": "stage"},
                        "controllerExpandSecretRef": {"namespace": "storage", "name": "expand"}}}}),
            ),
            (
                "/registry/volumeattachments/va1",
                json!({"spec": {"nodeName": "n1", "attacher": "a", "source": {}}}),
            ),
            (
                "/registry/resourceslices/s1",
                json!({"spec": {"nodeName": "n1"}}),
            ),
        ] {
            let text = object.to_string();
            authorizer.graph.write().put(key, Some(text.as_bytes()));
        }
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
        let (group, resource) = match resource {
            "volumeattachments" => ("storage.k8s.io", resource),
            "resourceslices" => ("resource.k8s.io", resource),
            _ => ("", resource),
        };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes {
            group: group.into(),
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
            ("secrets", "storage", "stage"),
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
        assert!(ask(&authorizer, "n1", "get", "nodes", "", "n1", ""));
        assert!(!ask(&authorizer, "n1", "delete", "nodes", "", "n1", ""));
        assert!(!ask(&authorizer, "n1", "list", "nodes", "", "", ""));
        // What the controller alone needs of a volume is not for kubelets.
        assert!(!ask(
            &authorizer,
            "n1",
            "get",
            "secrets",
            "storage",
            "expand",
            ""
        ));
        for (verb, resource, name, selector) in [
            ("get", "volumeattachments", "va1", ""),
            ("get", "resourceslices", "s1", ""),
            ("delete", "resourceslices", "s1", ""),
            ("list", "resourceslices", "", "spec.nodeName=n1"),
        ] {
            assert!(
                ask(&authorizer, "n1", verb, resource, "", name, selector),
                "{verb} {resource}"
            );
            assert!(
                !ask(&authorizer, "n2", verb, resource, "", name, selector),
                "{verb} {resource}"
            );
        }
        assert!(!ask(
            &authorizer,
            "n1",
            "list",
            "resourceslices",
            "",
            "",
            "spec.nodeName!=n1"
        ));
        assert!(ask(
            &authorizer,
            "n1",
            "patch",
            "persistentvolumeclaims/status",
            "dev",
            "disk",
            ""
        ));
        assert!(!ask(
            &authorizer,
            "n2",
            "patch",
            "persistentvolumeclaims/status",
            "dev",
            "disk",
            ""
        ));
    }

    #[test]
    fn rights_go_with_the_pod() {
        let authorizer = authorizer();
        authorizer.graph.write().put("/registry/pods/dev/web", None);
        assert!(!ask(&authorizer, "n1", "get", "secrets", "dev", "key", ""));
        assert!(authorizer.graph.read().is_empty());
    }
}
