//! Which requests a policy or webhook is for: rules, selectors and match conditions.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, RuleWithOperations,
};

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, text};
use crate::validation::expressions::{
    ExpressionChecker, ExpressionResult, ExpressionUse, expression,
};
use crate::validation::meta::{SelectorRules, label_selector};
use crate::validation::names;
use crate::validation::values::{all_invalid, json, one_of};

/// What may be done when an expression or a webhook fails.
pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
/// How exact a rule's resource must be the request's.
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
/// Whether something that changes objects is run again when others changed them after it.
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
/// The operations of what changes objects; there is nothing to change in a deletion.
pub(super) const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const MAX_CONDITIONS: usize = 64;

/// A rule, with or without resource names.
struct Rule<'a> {
    groups: &'a [String],
    versions: &'a [String],
    operations: &'a [String],
    resources: &'a [String],
    scope: Option<&'a String>,
}

/// A webhook's rule.
pub fn rule(errors: &mut ErrorList, rule: &RuleWithOperations, path: &Path) {
    let rule = Rule {
        groups: items(&rule.api_groups),
        versions: items(&rule.api_versions),
        operations: items(&rule.operations),
        resources: items(&rule.resources),
        scope: rule.scope.as_ref(),
    };
    check_rule(errors, &rule, path);
}

fn named_rule(errors: &mut ErrorList, rule: &NamedRuleWithOperations, path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, name) in items(&rule.resource_names).iter().enumerate() {
        let path = path.child("resourceNames").index(index);
        all_invalid(errors, &path, name, names::path_segment(name));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
    }
    let rule = Rule {
        groups: items(&rule.api_groups),
        versions: items(&rule.api_versions),
        operations: items(&rule.operations),
        resources: items(&rule.resources),
        scope: rule.scope.as_ref(),
    };
    check_rule(errors, &rule, path);
}

/// A list of which `*` is to be the only element.
fn lonely_star(errors: &mut ErrorList, values: &[String], others: &str, path: &Path) {
    if values.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if values.len() > 1 && values.iter().any(|value| value == "*") {
        let detail = format!("if '*' is present, must not specify other {others}");
        errors.push(FieldError::invalid(path, json(values), &detail));
    }
}

fn check_rule(errors: &mut ErrorList, rule: &Rule<'_>, path: &Path) {
    let operations = path.child("operations");
    lonely_star(errors, rule.operations, "operations", &operations);
    for (index, operation) in rule.operations.iter().enumerate() {
        one_of(errors, &operations.index(index), operation, OPERATIONS);
    }
    lonely_star(errors, rule.groups, "API groups", &path.child("apiGroups"));
    let versions = path.child("apiVersions");
    lonely_star(errors, rule.versions, "API versions", &versions);
    for (index, version) in rule.versions.iter().enumerate() {
        if version.is_empty() {
            errors.push(FieldError::required(&versions.index(index), ""));
        }
    }
    resources(errors, rule.resources, &path.child("resources"));
    if let Some(scope) = rule.scope {
        one_of(errors, &path.child("scope"), scope, SCOPES);
    }
}

fn resources(errors: &mut ErrorList, resources: &[String], path: &Path) {
    if resources.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    let mut all_subresources = BTreeSet::new();
    let mut all_resources = BTreeSet::new();
    let mut plain = false;
    for (index, resource) in resources.iter().enumerate() {
        let path = path.index(index);
        if resource.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let Some((name, subresource)) = resource.split_once('/') else {
            plain = resource != "*";
            continue;
        };
        let mut covered = |by: String| {
            let detail = format!("if '{by}' is present, must not specify {resource}");
            errors.push(FieldError::invalid(&path, resource, &detail));
        };
        if all_subresources.contains(name) {
            covered(format!("{name}/*"));
        }
        if all_resources.contains(subresource) {
            covered(format!("*/{subresource}"));
        }
        if subresource == "*" {
            all_subresources.insert(name);
        }
        if name == "*" {
            all_resources.insert(subresource);
        }
    }
    let has = |wanted: &str| resources.iter().any(|resource| resource == wanted);
    if resources.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, json(resources), detail));
    }
    if has("*") && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, json(resources), detail));
    }
}

/// What a policy or a binding is for.
pub(super) fn match_resources(errors: &mut ErrorList, resources: &MatchResources, path: &Path) {
    let policy = path.child("matchPolicy");
    match &resources.match_policy {
        None => errors.push(FieldError::required(&policy, "")),
        Some(value) => one_of(errors, &policy, value, MATCH_POLICIES),
    }
    for (selector, name) in [
        (&resources.namespace_selector, "namespaceSelector"),
        (&resources.object_selector, "objectSelector"),
    ] {
        let path = path.child(name);
        if selector.is_none() {
            errors.push(FieldError::required(&path, ""));
        }
        label_selector(errors, selector.as_ref(), SelectorRules::default(), &path);
    }
    for (rules, name) in [
        (&resources.resource_rules, "resourceRules"),
        (&resources.exclude_resource_rules, "excludeResourceRules"),
    ] {
        for (index, rule) in items(rules).iter().enumerate() {
            named_rule(errors, rule, &path.child(name).index(index));
        }
    }
}

/// The operations of rules of what changes objects.
pub(super) fn mutating_operations(errors: &mut ErrorList, resources: &MatchResources, path: &Path) {
    let path = path.child("resourceRules").child("operations");
    for rule in items(&resources.resource_rules) {
        for operation in items(&rule.operations) {
            one_of(errors, &path, operation, MUTATING_OPERATIONS);
        }
    }
}

/// The failure policy of a policy.
pub(super) fn failure_policy(errors: &mut ErrorList, value: &Option<String>, path: &Path) {
    match value {
        None => errors.push(FieldError::required(path, "")),
        Some(value) => one_of(errors, path, value, FAILURE_POLICIES),
    }
}

/// The conditions under which a policy or webhook is asked. `params`: they may use `params`.
pub fn match_conditions(
    errors: &mut ErrorList,
    conditions: &[MatchCondition],
    params: bool,
    checker: &dyn ExpressionChecker,
    path: &Path,
) {
    if conditions.len() > MAX_CONDITIONS {
        errors.push(FieldError::too_many(path, conditions.len(), MAX_CONDITIONS));
    }
    let purpose = ExpressionUse {
        params,
        authorizer: true,
        patch_types: false,
        result: ExpressionResult::Bool,
    };
    let mut scope = checker.scope(false);
    let mut seen = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let (at, trimmed) = (path.child("expression"), condition.expression.trim());
        if trimmed.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else {
            expression(errors, &mut *scope, trimmed, purpose, &at);
        }
        let at = path.child("name");
        if condition.name.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let name = condition.name.as_str();
        all_invalid(errors, &at, name, names::qualified_name(name));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
    }
}

/// What upstream says of names that only files may have.
const STATIC_SUFFIX: &str = ".static.k8s.io";

/// What a client is told of a name that is kept for configurations from files.
#[must_use]
pub fn name_warnings(name: &Option<String>) -> Vec<String> {
    if !text(name).ends_with(STATIC_SUFFIX) {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: names ending with {STATIC_SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
    )]
}
