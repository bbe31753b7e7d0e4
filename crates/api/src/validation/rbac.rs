//! Roles and their bindings.

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::absent::{items, text};
use super::meta::{SelectorRules, has_invalid_value, label_selector};
use super::names;
use super::values::{Bare, all_invalid, json, one_of, required};
use crate::field::{ErrorList, FieldError, Path};

const GROUP: &str = "rbac.authorization.k8s.io";

fn rules(errors: &mut ErrorList, rules: &[PolicyRule], namespaced: bool) {
    for (index, rule) in rules.iter().enumerate() {
        policy_rule(errors, rule, namespaced, &Path::new("rules").index(index));
    }
}

/// One rule: verbs, and either resources or paths.
pub fn policy_rule(errors: &mut ErrorList, rule: &PolicyRule, namespaced: bool, path: &Path) {
    if rule.verbs.is_empty() {
        let detail = "verbs must contain at least one value";
        errors.push(FieldError::required(&path.child("verbs"), detail));
    }
    let (groups, resources) = (items(&rule.api_groups), items(&rule.resources));
    let urls = items(&rule.non_resource_urls);
    if urls.is_empty() {
        if groups.is_empty() {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(&path.child("apiGroups"), detail));
        }
        if resources.is_empty() {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(&path.child("resources"), detail));
        }
        return;
    }
    let path = path.child("nonResourceURLs");
    if namespaced {
        let detail = "namespaced rules cannot apply to non-resource URLs";
        errors.push(FieldError::invalid(&path, json(urls), detail));
    }
    if !groups.is_empty() || !resources.is_empty() || !items(&rule.resource_names).is_empty() {
        let detail = "rules cannot apply to both regular resources and non-resource URLs";
        errors.push(FieldError::invalid(&path, json(urls), detail));
    }
}

/// What is wrong with a Role, its metadata aside.
#[must_use]
pub fn validate_role(role: &Role) -> ErrorList {
    let mut errors = ErrorList::new();
    rules(&mut errors, items(&role.rules), true);
    errors
}

/// What is wrong with a changed Role, its metadata aside.
#[must_use]
pub fn validate_role_update(new: &Role, _old: &Role) -> ErrorList {
    validate_role(new)
}

/// What is wrong with a new ClusterRole, its metadata aside.
#[must_use]
pub fn validate_cluster_role(role: &ClusterRole) -> ErrorList {
    cluster_role(role, SelectorRules::default())
}

/// What is wrong with a changed ClusterRole, its metadata aside.
#[must_use]
pub fn validate_cluster_role_update(new: &ClusterRole, old: &ClusterRole) -> ErrorList {
    let selectors = old
        .aggregation_rule
        .as_ref()
        .map(|rule| items(&rule.cluster_role_selectors));
    cluster_role(
        new,
        SelectorRules {
            allow_invalid_values: selectors.unwrap_or_default().iter().any(has_invalid_value),
        },
    )
}

fn cluster_role(role: &ClusterRole, selector_rules: SelectorRules) -> ErrorList {
    let mut errors = ErrorList::new();
    rules(&mut errors, items(&role.rules), false);
    if let Some(rule) = &role.aggregation_rule {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = items(&rule.cluster_role_selectors);
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(&path, detail));
        }
        for (index, selector) in selectors.iter().enumerate() {
            let path = path.index(index);
            let before = errors.len();
            label_selector(&mut errors, Some(selector), selector_rules, &path);
            if errors.len() > before {
                let detail = "invalid label selector.";
                errors.push(FieldError::invalid(&path, Bare("null".into()), detail));
            }
        }
    }
    errors
}

fn reference(errors: &mut ErrorList, reference: &RoleRef, kinds: &[&str]) {
    let path = Path::new("roleRef");
    one_of(
        errors,
        &path.child("apiGroup"),
        text(&reference.api_group),
        &[GROUP],
    );
    one_of(errors, &path.child("kind"), &reference.kind, kinds);
    let (name, path) = (&reference.name, path.child("name"));
    if name.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else {
        all_invalid(errors, &path, name, names::path_segment(name));
    }
}

fn subjects(errors: &mut ErrorList, subjects: &[Subject], namespaced: bool) {
    for (index, subject) in subjects.iter().enumerate() {
        one_subject(
            errors,
            subject,
            namespaced,
            &Path::new("subjects").index(index),
        );
    }
}

fn one_subject(errors: &mut ErrorList, subject: &Subject, namespaced: bool, path: &Path) {
    let (name_path, group_path) = (path.child("name"), path.child("apiGroup"));
    required(errors, &name_path, &subject.name);
    let group = text(&subject.api_group);
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                let wrong = names::dns_subdomain(&subject.name);
                all_invalid(errors, &name_path, &subject.name, wrong);
            }
            one_of(errors, &group_path, group, &[""]);
            if !namespaced {
                required(errors, &path.child("namespace"), text(&subject.namespace));
            }
        }
        "User" | "Group" => one_of(errors, &group_path, group, &[GROUP]),
        kind => one_of(
            errors,
            &path.child("kind"),
            kind,
            &["ServiceAccount", "User", "Group"],
        ),
    }
}

fn kept(errors: &mut ErrorList, new: &RoleRef, old: &RoleRef) {
    if new != old {
        let shown = format!(
            "{{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}",
            json(text(&new.api_group)).0,
            json(&new.kind).0,
            json(&new.name).0
        );
        let path = Path::new("roleRef");
        errors.push(FieldError::invalid(
            &path,
            Bare(shown),
            "cannot change roleRef",
        ));
    }
}

/// What is wrong with a new RoleBinding, its metadata aside.
#[must_use]
pub fn validate_role_binding(binding: &RoleBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    reference(&mut errors, &binding.role_ref, &["Role", "ClusterRole"]);
    subjects(&mut errors, items(&binding.subjects), true);
    errors
}

/// What is wrong with a changed RoleBinding, its metadata aside.
#[must_use]
pub fn validate_role_binding_update(new: &RoleBinding, old: &RoleBinding) -> ErrorList {
    let mut errors = validate_role_binding(new);
    kept(&mut errors, &new.role_ref, &old.role_ref);
    errors
}

/// What is wrong with a new ClusterRoleBinding, its metadata aside.
#[must_use]
pub fn validate_cluster_role_binding(binding: &ClusterRoleBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    reference(&mut errors, &binding.role_ref, &["ClusterRole"]);
    subjects(&mut errors, items(&binding.subjects), false);
    errors
}

/// What is wrong with a changed ClusterRoleBinding, its metadata aside.
#[must_use]
pub fn validate_cluster_role_binding_update(
    new: &ClusterRoleBinding,
    old: &ClusterRoleBinding,
) -> ErrorList {
    let mut errors = validate_cluster_role_binding(new);
    kept(&mut errors, &new.role_ref, &old.role_ref);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn roles() {
        let role: Role = serde_json::from_value(json!({"rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            {"apiGroups": [""]},
            {"verbs": ["get"], "nonResourceURLs": ["/x"]}
        ]}))
        .unwrap_or_default();
        assert_eq!(
            texts(&validate_role(&role)),
            [
                "rules[1].verbs: Required value: verbs must contain at least one value",
                "rules[1].resources: Required value: resource rules must supply at least one resource",
                "rules[2].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            ]
        );
    }

    #[test]
    fn bindings() {
        let of = |name: &str| {
            let mut binding: ClusterRoleBinding = serde_json::from_value(json!({
                "roleRef": {"kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": "a"}, {"kind": "User", "name": "b"}, {"kind": "Robot", "name": "c"}]
            }))
            .unwrap_or_default();
            crate::defaults::rbac::default_cluster_role_binding(&mut binding);
            binding
        };
        assert_eq!(
            texts(&validate_cluster_role_binding_update(&of("x"), &of("y"))),
            [
                "subjects[0].namespace: Required value",
                "subjects[2].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
                "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"x\"}: cannot change roleRef",
            ]
        );
    }
}
