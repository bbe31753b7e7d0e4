//! Role-based access control: who may do what, judged on an index of roles and bindings.
//!
//! The index follows the store, so a decision never waits for anything. Roles are found through the subjects of
//! their bindings: a decision looks at the user's own bindings only, however many there are in the cluster.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;

use crate::request::{Attributes, UserInfo};

use crate::seam::{Authorizer, Decision, NonResourceRule, ResourceRule, Rules as HeldRules};

/// The store's prefixes of the four kinds, as upstream lays them out.
pub const PREFIXES: [&str; 4] = [
    "/registry/clusterroles/",
    "/registry/clusterrolebindings/",
    "/registry/roles/",
    "/registry/rolebindings/",
];

type Rules = Arc<[PolicyRule]>;

/// A binding as the index keeps it, under the key of each of its subjects.
#[derive(Clone, Debug, PartialEq)]
struct Grant {
    /// The binding's key in the store.
    binding: Arc<str>,
    /// What the decision's reason says of the binding.
    label: Arc<str>,
    cluster_role: bool,
    role: Arc<str>,
}

/// Roles and bindings, by subject.
#[derive(Debug, Default)]
pub struct Index {
    cluster_roles: HashMap<String, Rules>,
    /// By `namespace/name`.
    roles: HashMap<String, Rules>,
    /// By namespace and subject: what is granted elsewhere costs a decision nothing.
    grants: HashMap<String, Vec<Grant>>,
    /// The subjects of each binding, to take it out again.
    subjects: HashMap<String, Vec<String>>,
}

/// A rule that a user holds, and through which binding.
struct Held<'a> {
    rule: &'a PolicyRule,
    grant: &'a Grant,
}

impl Index {
    /// Takes in the state of a key: `None` when it was deleted. Keys of other kinds are ignored, and so is a
    /// value that does not decode: it grants nothing.
    pub fn put(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(prefix) = PREFIXES.iter().position(|prefix| key.starts_with(prefix)) else {
            return;
        };
        let name = &key[PREFIXES[prefix].len()..];
        match prefix {
            0 => set(
                &mut self.cluster_roles,
                name,
                value.and_then(decode::<ClusterRole>).map(|role| role.rules),
            ),
            2 => set(
                &mut self.roles,
                name,
                value.and_then(decode::<Role>).map(|role| role.rules),
            ),
            _ => {
                self.forget_binding(key);
                if prefix == 1 {
                    if let Some(binding) = value.and_then(decode::<ClusterRoleBinding>) {
                        self.add_binding(key, name, None, &binding.role_ref, &binding.subjects);
                    }
                } else if let Some(binding) = value.and_then(decode::<RoleBinding>) {
                    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
                    self.add_binding(
                        key,
                        name,
                        Some(namespace),
                        &binding.role_ref,
                        &binding.subjects,
                    );
                }
            }
        }
    }

    fn forget_binding(&mut self, key: &str) {
        for subject in self.subjects.remove(key).unwrap_or_default() {
            if let Some(grants) = self.grants.get_mut(&subject) {
                grants.retain(|grant| &*grant.binding != key);
                if grants.is_empty() {
                    self.grants.remove(&subject);
                }
            }
        }
    }

    fn add_binding(
        &mut self,
        key: &str,
        name: &str,
        namespace: Option<&str>,
        role: &RoleRef,
        subjects: &Option<Vec<Subject>>,
    ) {
        let cluster_role = role.kind == "ClusterRole";
        let label = match namespace {
            None => format!("ClusterRoleBinding {name:?} of ClusterRole {:?}", role.name),
            Some(namespace) => format!(
                "RoleBinding \"{name}/{namespace}\" of {} {:?}",
                role.kind, role.name
            ),
        };
        let grant = Grant {
            binding: key.into(),
            label: label.as_str().into(),
            cluster_role,
            role: if cluster_role {
                role.name.as_str().into()
            } else {
                format!("{}/{}", namespace.unwrap_or_default(), role.name).into()
            },
        };
        let mut keys = Vec::new();
        for subject in subjects.iter().flatten() {
            let Some((found, described)) = subject_key(subject, namespace) else {
                continue;
            };
            let place = in_place(&found, namespace.unwrap_or_default());
            let grants = self.grants.entry(place.clone()).or_default();
            if !grants.iter().any(|known| known.binding == grant.binding) {
                let label = format!("{label} to {described}").into();
                grants.push(Grant {
                    label,
                    ..grant.clone()
                });
            }
            keys.push(place);
        }
        self.subjects.insert(key.to_owned(), keys);
    }

    /// Every rule that the user holds in the namespace (`None`: cluster-wide only), and the names of roles that are
    /// bound but do not exist.
    fn held<'a>(
        &'a self,
        user: &UserInfo,
        namespace: Option<&'a str>,
    ) -> (Vec<Held<'a>>, Vec<&'a str>) {
        let subjects = std::iter::once(format!("u:{}", user.name))
            .chain(user.groups.iter().map(|group| format!("g:{group}")));
        let places = [Some(""), namespace];
        let keys = subjects.flat_map(|subject| {
            let places = places.into_iter().flatten();
            places.map(move |place| in_place(&subject, place))
        });
        let mut held = Vec::new();
        let mut missing = Vec::new();
        for grant in keys.filter_map(|key| self.grants.get(&key)).flatten() {
            let roles = if grant.cluster_role {
                &self.cluster_roles
            } else {
                &self.roles
            };
            match roles.get(&*grant.role) {
                Some(rules) => held.extend(rules.iter().map(|rule| Held { rule, grant })),
                None => missing.push(&*grant.role),
            }
        }
        (held, missing)
    }

    /// The rules that the user holds in a namespace (empty: cluster-wide only); for self-subject rule reviews and for
    /// the check that nobody grants what they do not have.
    #[must_use]
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        self.held(user, namespace)
            .0
            .into_iter()
            .map(|held| held.rule.clone())
            .collect()
    }

    /// The rules of a role that a binding refers to.
    #[must_use]
    pub fn rules_of(&self, cluster_role: bool, namespace: &str, name: &str) -> Option<Rules> {
        if cluster_role {
            self.cluster_roles.get(name).cloned()
        } else {
            self.roles.get(&format!("{namespace}/{name}")).cloned()
        }
    }

    /// The decision.
    #[must_use]
    pub fn decide(&self, attributes: &Attributes) -> Decision {
        let namespace =
            Some(attributes.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        let (held, missing) = self.held(&attributes.user, namespace);
        if let Some(held) = held.iter().find(|held| allows(held.rule, attributes)) {
            return Decision::Allow(format!("RBAC: allowed by {}", held.grant.label));
        }
        match missing.as_slice() {
            [] => Decision::NoOpinion(String::new()),
            missing => {
                let errors: Vec<String> = missing
                    .iter()
                    .map(|role| match role.split_once('/') {
                        Some((_, name)) => {
                            format!("role.rbac.authorization.k8s.io {name:?} not found")
                        }
                        None => format!("clusterrole.rbac.authorization.k8s.io {role:?} not found"),
                    })
                    .collect();
                let errors = if errors.len() == 1 {
                    errors.concat()
                } else {
                    format!("[{}]", errors.join(", "))
                };
                Decision::NoOpinion(format!("RBAC: {errors}"))
            }
        }
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes)
        .inspect_err(|error| tracing::warn!(%error, "stored RBAC object does not decode"))
        .ok()
}

fn set(roles: &mut HashMap<String, Rules>, name: &str, rules: Option<Option<Vec<PolicyRule>>>) {
    match rules {
        Some(rules) => roles.insert(name.to_owned(), rules.unwrap_or_default().into()),
        None => roles.remove(name),
    };
}

/// The key that a subject's grants lie under, and what reasons call it. A service account is the user of its name.
fn subject_key(subject: &Subject, namespace: Option<&str>) -> Option<(String, String)> {
    let name = &subject.name;
    match subject.kind.as_str() {
        "User" => Some((format!("u:{name}"), format!("User {name:?}"))),
        "Group" => Some((format!("g:{name}"), format!("Group {name:?}"))),
        "ServiceAccount" => {
            let own = subject.namespace.as_deref();
            let own = own
                .filter(|namespace| !namespace.is_empty())
                .or(namespace)?;
            Some((
                format!("u:system:serviceaccount:{own}:{name}"),
                format!("ServiceAccount \"{name}/{own}\""),
            ))
        }
        _ => None,
    }
}

/// The key of a subject's grants in a namespace; empty for those in the whole cluster.
fn in_place(subject: &str, namespace: &str) -> String {
    format!("{namespace}/{subject}")
}

fn holds(list: Option<&Vec<String>>, wanted: &str) -> bool {
    list.is_some_and(|list| list.iter().any(|entry| entry == "*" || entry == wanted))
}

/// Whether a rule allows a request.
#[must_use]
pub fn allows(rule: &PolicyRule, attributes: &Attributes) -> bool {
    if !holds(Some(&rule.verbs), &attributes.verb) {
        return false;
    }
    if !attributes.is_resource {
        return rule
            .non_resource_urls
            .iter()
            .flatten()
            .any(|pattern| path_matches(pattern, &attributes.path));
    }
    let names = rule.resource_names.as_deref().unwrap_or_default();
    holds(rule.api_groups.as_ref(), &attributes.group)
        && rule.resources.iter().flatten().any(|resource| {
            resource_matches(resource, &attributes.resource, &attributes.subresource)
        })
        && (names.is_empty() || names.contains(&attributes.name))
}

/// `*` is everything, `pods/log` a subresource, `*/scale` the subresource of every resource.
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((of, sub)) => {
            sub == subresource && !subresource.is_empty() && (of == "*" || of == resource)
        }
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

/// The requested rules that the owner's rules do not cover: what an escalation would gain.
/// Each rule is broken into (verb, group, resource, name) first, as upstream does.
#[must_use]
pub fn uncovered(owned: &[PolicyRule], requested: &[PolicyRule]) -> Vec<PolicyRule> {
    requested
        .iter()
        .flat_map(break_down)
        .filter(|part| !owned.iter().any(|rule| covers(rule, part)))
        .collect()
}

fn break_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for url in rule.non_resource_urls.iter().flatten() {
            parts.push(PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: Some(vec![url.clone()]),
                ..PolicyRule::default()
            });
        }
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let base = PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource.clone()]),
                    ..PolicyRule::default()
                };
                match rule.resource_names.as_deref() {
                    None | Some([]) => parts.push(base),
                    Some(names) => {
                        parts.extend(names.iter().map(|name| PolicyRule {
                            resource_names: Some(vec![name.clone()]),
                            ..base.clone()
                        }));
                    }
                }
            }
        }
    }
    parts
}

/// Whether `owner` covers `part`, which has one verb and one resource or path.
fn covers(owner: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |list: &Option<Vec<String>>, of: &Option<Vec<String>>| {
        of.iter()
            .flatten()
            .all(|wanted| holds(list.as_ref(), wanted))
    };
    if !part
        .verbs
        .iter()
        .all(|verb| holds(Some(&owner.verbs), verb))
    {
        return false;
    }
    if part.non_resource_urls.is_some() {
        return part.non_resource_urls.iter().flatten().all(|url| {
            owner
                .non_resource_urls
                .iter()
                .flatten()
                .any(|have| path_matches(have, url))
        });
    }
    let resource = |wanted: &String| {
        let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
        owner
            .resources
            .iter()
            .flatten()
            .any(|have| have == wanted || resource_matches(have, resource, subresource))
    };
    let names = owner.resource_names.as_deref().unwrap_or_default();
    let names_covered = names.is_empty()
        || part
            .resource_names
            .as_ref()
            .is_some_and(|wanted| wanted.iter().all(|name| names.contains(name)));
    all(&owner.api_groups, &part.api_groups)
        && part.resources.iter().flatten().all(resource)
        && names_covered
}

/// The authorizer: the index behind a lock.
#[derive(Debug, Default)]
pub struct Rbac(pub RwLock<Index>);

#[async_trait::async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        self.0.read().decide(attributes)
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> HeldRules {
        let mut held = HeldRules::default();
        for rule in self.0.read().rules_for(user, namespace) {
            if let Some(paths) = rule.non_resource_urls.filter(|paths| !paths.is_empty()) {
                held.non_resources.push(NonResourceRule {
                    verbs: rule.verbs,
                    paths,
                });
            } else {
                held.resources.push(ResourceRule {
                    verbs: rule.verbs,
                    api_groups: rule.api_groups.unwrap_or_default(),
                    resources: rule.resources.unwrap_or_default(),
                    resource_names: rule.resource_names.unwrap_or_default(),
                });
            }
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn index(entries: &[(&str, serde_json::Value)]) -> Index {
        let mut index = Index::default();
        for (key, value) in entries {
            index.put(key, Some(value.to_string().as_bytes()));
        }
        index
    }

    fn role(kind: &str, rules: serde_json::Value) -> serde_json::Value {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {}, "rules": rules})
    }

    fn bind(
        kind: &str,
        role_kind: &str,
        role: &str,
        subject: serde_json::Value,
    ) -> serde_json::Value {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role}, "subjects": [subject]})
    }

    fn request(
        user: &str,
        groups: &[&str],
        verb: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            user: Arc::new(UserInfo::new(user, groups)),
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        }
    }

    fn allowed(index: &Index, attributes: &Attributes) -> bool {
        matches!(index.decide(attributes), Decision::Allow(_))
    }

    #[test]
    fn a_role_binding_reaches_its_namespace_only() {
        let index = index(&[
            (
                "/registry/clusterroles/reader",
                role(
                    "ClusterRole",
                    json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]),
                ),
            ),
            (
                "/registry/rolebindings/dev/read",
                bind(
                    "RoleBinding",
                    "ClusterRole",
                    "reader",
                    json!({"kind": "User", "name": "ann"}),
                ),
            ),
        ]);
        assert!(allowed(
            &index,
            &request("ann", &[], "list", "pods", "dev", "")
        ));
        assert!(!allowed(
            &index,
            &request("ann", &[], "list", "pods", "prod", "")
        ));
        assert!(!allowed(
            &index,
            &request("ann", &[], "list", "pods", "", "")
        ));
        assert!(!allowed(
            &index,
            &request("bob", &[], "list", "pods", "dev", "")
        ));
        assert!(!allowed(
            &index,
            &request("ann", &[], "delete", "pods", "dev", "x")
        ));
        assert!(!allowed(
            &index,
            &request("ann", &[], "get", "pods/log", "dev", "x")
        ));
    }

    #[test]
    fn service_accounts_groups_names_and_subresources() {
        let rules = json!([
            {"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["lock"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["*/scale"]}]);
        let index = index(&[
            ("/registry/roles/dev/r", role("Role", rules)),
            (
                "/registry/rolebindings/dev/a",
                bind(
                    "RoleBinding",
                    "Role",
                    "r",
                    json!({"kind": "ServiceAccount", "name": "robot"}),
                ),
            ),
        ]);
        let robot = "system:serviceaccount:dev:robot";
        assert!(allowed(
            &index,
            &request(robot, &[], "update", "configmaps", "dev", "lock")
        ));
        assert!(!allowed(
            &index,
            &request(robot, &[], "update", "configmaps", "dev", "other")
        ));
        assert!(allowed(
            &index,
            &request(
                robot,
                &[],
                "get",
                "replicationcontrollers/scale",
                "dev",
                "x"
            )
        ));
        assert!(!allowed(
            &index,
            &request(robot, &[], "get", "replicationcontrollers", "dev", "x")
        ));
    }

    #[test]
    fn a_deleted_binding_grants_nothing_and_a_missing_role_is_named() {
        let mut index = index(&[(
            "/registry/clusterrolebindings/b",
            bind(
                "ClusterRoleBinding",
                "ClusterRole",
                "gone",
                json!({"kind": "Group", "name": "ops"}),
            ),
        )]);
        let attributes = request("ann", &["ops"], "get", "nodes", "", "n");
        assert_eq!(
            index.decide(&attributes),
            Decision::NoOpinion(
                "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found".into()
            )
        );
        index.put("/registry/clusterrolebindings/b", None);
        assert_eq!(
            index.decide(&attributes),
            Decision::NoOpinion(String::new())
        );
        assert!(index.grants.is_empty());
    }

    #[test]
    fn non_resource_paths_match_by_prefix() {
        let index = index(&[
            (
                "/registry/clusterroles/h",
                role(
                    "ClusterRole",
                    json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/openapi/*"]}]),
                ),
            ),
            (
                "/registry/clusterrolebindings/b",
                bind(
                    "ClusterRoleBinding",
                    "ClusterRole",
                    "h",
                    json!({"kind": "User", "name": "ann"}),
                ),
            ),
        ]);
        let path = |path: &str| Attributes {
            is_resource: false,
            path: path.into(),
            ..request("ann", &[], "get", "", "", "")
        };
        assert!(allowed(&index, &path("/healthz")));
        assert!(allowed(&index, &path("/openapi/v3")));
        assert!(!allowed(&index, &path("/metrics")));
    }

    #[test]
    fn nobody_grants_what_they_do_not_have() {
        let rule = |verbs: &[&str], resources: &[&str]| PolicyRule {
            verbs: verbs.iter().map(ToString::to_string).collect(),
            api_groups: Some(vec![String::new()]),
            resources: Some(resources.iter().map(ToString::to_string).collect()),
            ..PolicyRule::default()
        };
        let owned = [rule(&["get", "list"], &["pods"])];
        assert!(uncovered(&owned, &[rule(&["get"], &["pods"])]).is_empty());
        assert_eq!(
            uncovered(&owned, &[rule(&["get", "delete"], &["pods", "secrets"])]).len(),
            3
        );
        assert!(uncovered(&[rule(&["*"], &["*"])], &[rule(&["delete"], &["pods/log"])]).is_empty());
    }
}
