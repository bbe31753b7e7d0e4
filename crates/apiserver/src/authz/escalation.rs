//! Nobody grants what they do not have: who writes a role or a binding must hold its rules, or be allowed to `escalate`
//! or `bind`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef,
};
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use crate::request::Attributes;
use crate::write::Target;

use super::rbac::uncovered;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses a create (`old` is `None`) or update that grants more than its user has.
pub(crate) async fn check(
    target: &Target<'_>,
    new: &dyn Object,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    if target.resource.kind.group != GROUP || target.call.user.in_group("system:masters") {
        return Ok(());
    }
    if old.is_some_and(|old| is_for_the_collector(new, old)) {
        return Ok(());
    }
    let rules = if let Some(role) = new.downcast_ref::<ClusterRole>() {
        role.rules.clone()
    } else if let Some(role) = new.downcast_ref::<Role>() {
        role.rules.clone()
    } else if let Some(binding) = new.downcast_ref::<ClusterRoleBinding>() {
        return check_binding(target, &binding.role_ref).await;
    } else if let Some(binding) = new.downcast_ref::<RoleBinding>() {
        return check_binding(target, &binding.role_ref).await;
    } else {
        return Ok(());
    };
    let plural = &*target.resource.kind.plural;
    if is_allowed(target, "escalate", plural, &target.call.info.name).await {
        return Ok(());
    }
    check_rules(target, &rules.unwrap_or_default()).await
}

async fn check_binding(target: &Target<'_>, role: &RoleRef) -> ApiResult<()> {
    let plural = match role.kind.as_str() {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        // Validation says what is wrong.
        _ => return Ok(()),
    };
    if is_allowed(target, "bind", plural, &role.name).await {
        return Ok(());
    }
    let server = &target.call.server;
    let registry = server.registry.load_full();
    let resource = registry
        .stored(GROUP, plural)
        .ok_or_else(ApiError::no_such_path)?;
    let entry = server
        .lookup(resource, target.namespace, &role.name)
        .await?
        .ok_or_else(|| ApiError::not_found(GROUP, plural, &role.name))?;
    let rules = if plural == "roles" {
        entry.decode::<Role>().and_then(|role| role.rules)
    } else {
        entry.decode::<ClusterRole>().and_then(|role| role.rules)
    };
    check_rules(target, &rules.unwrap_or_default()).await
}

async fn is_allowed(target: &Target<'_>, verb: &str, plural: &str, name: &str) -> bool {
    let attributes = Attributes {
        user: target.call.user.clone(),
        verb: verb.to_owned(),
        namespace: target.namespace.to_owned(),
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: plural.to_owned(),
        name: name.to_owned(),
        is_resource: true,
        ..Attributes::default()
    };
    target.call.server.decide(&attributes).await.allowed()
}

async fn check_rules(target: &Target<'_>, wanted: &[PolicyRule]) -> ApiResult<()> {
    let user = &target.call.user;
    let held = target
        .call
        .server
        .authorizer()
        .rules(user, target.namespace)
        .await;
    let resources = held.resources.into_iter().map(|rule| PolicyRule {
        verbs: rule.verbs,
        api_groups: Some(rule.api_groups),
        resources: Some(rule.resources),
        resource_names: Some(rule.resource_names),
        ..PolicyRule::default()
    });
    let paths = held.non_resources.into_iter().map(|rule| PolicyRule {
        verbs: rule.verbs,
        non_resource_urls: Some(rule.paths),
        ..PolicyRule::default()
    });
    let held: Vec<PolicyRule> = resources.chain(paths).collect();
    let missing = uncovered(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = user
        .groups
        .iter()
        .map(|group| format!("{group:?}"))
        .collect();
    let why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        described(&missing)
    );
    let kind = &target.resource.kind;
    Err(ApiError::forbidden(
        &kind.group,
        &kind.plural,
        target.name,
        &why,
    ))
}

/// Rules of one verb each, thrown together by what they are about, a line each.
fn described(missing: &[PolicyRule]) -> String {
    let mut verbs: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    let mut lines = BTreeSet::new();
    for rule in missing {
        let mut parts = Vec::new();
        for (name, list) in [
            ("APIGroups", &rule.api_groups),
            ("Resources", &rule.resources),
            ("NonResourceURLs", &rule.non_resource_urls),
            ("ResourceNames", &rule.resource_names),
        ] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                parts.push(format!("{name}:{}", quoted(list)));
            }
        }
        let about = parts.join(", ");
        if rule.non_resource_urls.is_some() {
            lines.insert(format!("{{{about}, Verbs:{}}}", quoted(&rule.verbs)));
        } else {
            verbs.entry(about).or_default().extend(&rule.verbs);
        }
    }
    for (about, verbs) in verbs {
        lines.insert(format!("{{{about}, Verbs:{}}}", quoted(&verbs)));
    }
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

fn quoted<T: std::fmt::Debug>(list: &[T]) -> String {
    let list: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", list.join(" "))
}

/// Whether only what the garbage collector needs changes: owners and finalizers.
fn is_for_the_collector(new: &dyn Object, old: &dyn Object) -> bool {
    let mut copy = new.clone_box();
    let (meta, old_meta) = (copy.metadata_mut(), old.metadata());
    meta.owner_references.clone_from(&old_meta.owner_references);
    meta.finalizers.clone_from(&old_meta.finalizers);
    meta.managed_fields.clone_from(&old_meta.managed_fields);
    meta.resource_version.clone_from(&old_meta.resource_version);
    copy.to_value() == old.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rules_are_told_by_what_they_are_about() {
        let rule = |verb: &str, resource: &str| PolicyRule {
            verbs: vec![verb.to_owned()],
            api_groups: Some(vec![String::new()]),
            resources: Some(vec![resource.to_owned()]),
            ..PolicyRule::default()
        };
        let path = PolicyRule {
            verbs: vec!["get".to_owned()],
            non_resource_urls: Some(vec!["/metrics".to_owned()]),
            ..PolicyRule::default()
        };
        assert_eq!(
            described(&[
                rule("get", "pods"),
                path,
                rule("list", "pods"),
                rule("get", "nodes")
            ]),
            "{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}\n{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}"
        );
    }
}
