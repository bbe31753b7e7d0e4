//! Metadata of every kind: names, labels, annotations, owners, finalizers, and what an update may not change;
//! label selectors and conditions besides.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    Condition, LabelSelector, LabelSelectorRequirement, ManagedFieldsEntry, ObjectMeta,
    OwnerReference, Time,
};

use super::absent::{entries, items, set, text};
use super::names;
use super::values::{Bare, all_invalid, immutable, json, non_negative};
use crate::field::{ErrorList, FieldError, Path};

/// All annotations of an object together, keys included.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;
const FIELD_MANAGER_MAX: usize = 128;
const SUBRESOURCE_MAX: usize = 256;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a kind says of its names: the name and whether it is a `generateName`.
pub type NameRule<'a> = dyn Fn(&str, bool) -> Vec<String> + 'a;

/// Metadata of a new object, its name made already. `namespaced` is the kind's scope.
#[must_use]
pub fn validate_object_meta(
    meta: &ObjectMeta,
    namespaced: bool,
    name_rule: &NameRule<'_>,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let (name, generate_name) = (text(&meta.name), text(&meta.generate_name));
    if !generate_name.is_empty() {
        let path = path.child("generateName");
        all_invalid(
            &mut errors,
            &path,
            generate_name,
            name_rule(generate_name, true),
        );
    }
    if name.is_empty() {
        errors.push(FieldError::required(
            &path.child("name"),
            "name or generateName is required",
        ));
    } else {
        all_invalid(
            &mut errors,
            &path.child("name"),
            name,
            name_rule(name, false),
        );
    }
    let namespace = text(&meta.namespace);
    let namespace_path = path.child("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(&namespace_path, "")),
        (true, false) => {
            all_invalid(
                &mut errors,
                &namespace_path,
                namespace,
                names::dns_label(namespace),
            );
        }
        (false, false) => {
            errors.push(FieldError::forbidden(
                &namespace_path,
                "not allowed on this type",
            ));
        }
        (false, true) => {}
    }
    non_negative(
        &mut errors,
        &path.child("generation"),
        meta.generation.unwrap_or(0),
    );
    labels(&mut errors, &meta.labels, &path.child("labels"));
    annotations(&mut errors, &meta.annotations, &path.child("annotations"));
    owner_references(
        &mut errors,
        items(&meta.owner_references),
        &path.child("ownerReferences"),
    );
    finalizers(
        &mut errors,
        items(&meta.finalizers),
        &path.child("finalizers"),
    );
    managed_fields(
        &mut errors,
        items(&meta.managed_fields),
        &path.child("managedFields"),
    );
    errors
}

/// Metadata of a changed object against what was stored.
#[must_use]
pub fn validate_object_meta_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if old.deletion_timestamp.is_some() {
        no_new_finalizers(
            &mut errors,
            items(&new.finalizers),
            items(&old.finalizers),
            path,
        );
    }
    if text(&new.resource_version).is_empty() {
        errors.push(FieldError::invalid(
            &path.child("resourceVersion"),
            text(&new.resource_version),
            "must be specified for an update",
        ));
    }
    let generation = new.generation.unwrap_or(0);
    if generation < old.generation.unwrap_or(0) {
        errors.push(FieldError::invalid(
            &path.child("generation"),
            generation,
            "must not be decremented",
        ));
    }
    for (name, new, old) in [
        ("name", &new.name, &old.name),
        ("namespace", &new.namespace, &old.namespace),
        ("uid", &new.uid, &old.uid),
    ] {
        immutable(
            &mut errors,
            &path.child(name),
            &text(new),
            &text(old),
            text(new),
        );
    }
    for (name, new, old) in [
        (
            "creationTimestamp",
            &new.creation_timestamp,
            &old.creation_timestamp,
        ),
        (
            "deletionTimestamp",
            &new.deletion_timestamp,
            &old.deletion_timestamp,
        ),
    ] {
        immutable(
            &mut errors,
            &path.child(name),
            &seconds(new),
            &seconds(old),
            time(new),
        );
    }
    immutable(
        &mut errors,
        &path.child("deletionGracePeriodSeconds"),
        &new.deletion_grace_period_seconds,
        &old.deletion_grace_period_seconds,
        Bare(
            new.deletion_grace_period_seconds
                .map_or_else(|| "null".into(), |n| n.to_string()),
        ),
    );
    labels(&mut errors, &new.labels, &path.child("labels"));
    annotations(&mut errors, &new.annotations, &path.child("annotations"));
    owner_references(
        &mut errors,
        items(&new.owner_references),
        &path.child("ownerReferences"),
    );
    managed_fields(
        &mut errors,
        items(&new.managed_fields),
        &path.child("managedFields"),
    );
    errors
}

// Times are kept to the second on the wire.
fn seconds(time: &Option<Time>) -> Option<i64> {
    time.as_ref().map(|time| time.0.as_second())
}

fn time(time: &Option<Time>) -> Bare {
    time.as_ref().map_or_else(|| Bare("null".into()), json)
}

/// Labels: keys and values.
pub fn labels(errors: &mut ErrorList, labels: &Option<BTreeMap<String, String>>, path: &Path) {
    for (key, value) in entries(labels) {
        all_invalid(errors, path, key, names::qualified_name(key));
        all_invalid(errors, path, value, names::label_value(value));
    }
}

/// Annotations: keys, and the size of all together.
pub fn annotations(
    errors: &mut ErrorList,
    annotations: &Option<BTreeMap<String, String>>,
    path: &Path,
) {
    for (key, _) in entries(annotations) {
        // Case does not matter, also in the prefix.
        all_invalid(
            errors,
            path,
            key,
            names::qualified_name(&key.to_lowercase()),
        );
    }
    let size: usize = entries(annotations)
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owner_references(errors: &mut ErrorList, owners: &[OwnerReference], path: &Path) {
    let mut controller: Option<String> = None;
    for owner in owners {
        // Group and version; a version alone is the core group's, more than one slash is nothing.
        let version = match owner.api_version.split('/').collect::<Vec<_>>().as_slice() {
            [version] | [_, version] => *version,
            _ => "",
        };
        if version.is_empty() {
            let path = path.child("apiVersion");
            errors.push(FieldError::invalid(
                &path,
                &owner.api_version,
                "version must not be empty",
            ));
        }
        for (name, value) in [
            ("kind", &owner.kind),
            ("name", &owner.name),
            ("uid", &owner.uid),
        ] {
            if value.is_empty() {
                errors.push(FieldError::invalid(
                    &path.child(name),
                    value,
                    "must not be empty",
                ));
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, json(owner), detail));
        }
        if set(owner.controller) {
            let name = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                None => controller = Some(name),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    );
                    errors.push(FieldError::invalid(path, json(owners), &detail));
                }
            }
        }
    }
}

/// The names of finalizers, and that the two ways to delete dependents are not both set.
pub(crate) fn finalizers(errors: &mut ErrorList, finalizers: &[String], path: &Path) {
    for finalizer in finalizers {
        all_invalid(errors, path, finalizer, names::qualified_name(finalizer));
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN) && has(FOREGROUND) {
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.push(FieldError::invalid(path, json(finalizers), &detail));
    }
}

/// What is wrong with the groups of finalizers: asked of the kinds of Kubernetes' own groups beside the metadata's other
/// rules, not of definitions and custom resources.
#[must_use]
pub fn finalizer_groups(finalizers: &[String], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (index, finalizer) in finalizers.iter().enumerate() {
        finalizer_group(&mut errors, finalizer, &path.index(index));
    }
    errors
}

/// A finalizer without a group must be one of Kubernetes' own.
pub(crate) fn finalizer_group(errors: &mut ErrorList, finalizer: &str, path: &Path) {
    const OWN: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];
    if !finalizer.contains('/') && !OWN.contains(&finalizer) {
        errors.push(FieldError::invalid(
            path,
            finalizer,
            "name is neither a standard finalizer name nor is it fully qualified",
        ));
    }
}

fn no_new_finalizers(errors: &mut ErrorList, new: &[String], old: &[String], path: &Path) {
    let old: BTreeSet<&String> = old.iter().collect();
    let extra: BTreeSet<&String> = new.iter().filter(|name| !old.contains(name)).collect();
    if !extra.is_empty() {
        let list = extra
            .iter()
            .map(|name| format!("{name:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
        );
        errors.push(FieldError::forbidden(&path.child("finalizers"), &detail));
    }
}

fn managed_fields(errors: &mut ErrorList, fields: &[ManagedFieldsEntry], path: &Path) {
    for (index, entry) in fields.iter().enumerate() {
        let path = path.index(index);
        let operation = text(&entry.operation);
        if operation != "Apply" && operation != "Update" {
            let path = path.child("operation");
            errors.push(FieldError::invalid(
                &path,
                operation,
                "must be `Apply` or `Update`",
            ));
        }
        let kind = text(&entry.fields_type);
        if !kind.is_empty() && kind != "FieldsV1" {
            errors.push(FieldError::invalid(
                &path.child("fieldsType"),
                kind,
                "must be `FieldsV1`",
            ));
        }
        field_manager(errors, text(&entry.manager), &path.child("manager"));
        if text(&entry.subresource).len() > SUBRESOURCE_MAX {
            errors.push(FieldError::too_long(
                &path.child("subresource"),
                SUBRESOURCE_MAX,
            ));
        }
    }
}

/// The name of a field manager: at most 128 bytes, printable.
pub fn field_manager(errors: &mut ErrorList, manager: &str, path: &Path) {
    if manager.len() > FIELD_MANAGER_MAX {
        errors.push(FieldError::too_long(path, FIELD_MANAGER_MAX));
    }
    for (position, c) in manager.char_indices() {
        if c.is_control() {
            let detail = format!(
                "invalid character U+{:04X} (at position {position})",
                u32::from(c)
            );
            errors.push(FieldError::invalid(path, manager, &detail));
        }
    }
}

/// How strict a label selector is judged. Values that an old object already had wrong may stay wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct SelectorRules {
    /// Label values in expressions are not looked at.
    pub allow_invalid_values: bool,
}

/// A label selector, where there is one.
pub fn label_selector(
    errors: &mut ErrorList,
    selector: Option<&LabelSelector>,
    rules: SelectorRules,
    path: &Path,
) {
    let Some(selector) = selector else { return };
    labels(errors, &selector.match_labels, &path.child("matchLabels"));
    for (index, requirement) in items(&selector.match_expressions).iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        selector_requirement(errors, requirement, rules, &path);
    }
}

fn selector_requirement(
    errors: &mut ErrorList,
    requirement: &LabelSelectorRequirement,
    rules: SelectorRules,
    path: &Path,
) {
    let values = items(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.push(FieldError::required(
                    &path.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.push(FieldError::forbidden(
                    &path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
        }
        operator => errors.push(FieldError::invalid(
            &path.child("operator"),
            operator,
            "not a valid selector operator",
        )),
    }
    label_key(errors, &requirement.key, &path.child("key"));
    if !rules.allow_invalid_values {
        for (index, value) in values.iter().enumerate() {
            let path = path.child("values").index(index);
            all_invalid(errors, &path, value, names::label_value(value));
        }
    }
}

/// The key of a label.
pub fn label_key(errors: &mut ErrorList, key: &str, path: &Path) {
    all_invalid(errors, path, key, names::qualified_name(key));
}

/// Whether a selector selects everything (upstream: has neither labels nor expressions).
#[must_use]
pub fn selects_everything(selector: &LabelSelector) -> bool {
    super::absent::count(&selector.match_labels) + items(&selector.match_expressions).len() == 0
}

/// Whether the labels satisfy the selector. Unknown operators match nothing.
#[must_use]
pub fn selector_matches(
    selector: &LabelSelector,
    labels: &Option<BTreeMap<String, String>>,
) -> bool {
    let label = |key: &str| super::absent::entry(labels, key);
    entries(&selector.match_labels).all(|(key, value)| label(key) == Some(value))
        && items(&selector.match_expressions)
            .iter()
            .all(|requirement| {
                let value = label(&requirement.key);
                let listed = value.is_some_and(|value| items(&requirement.values).contains(value));
                match requirement.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
}

/// Whether an expression of the selector has a value that is no label value.
#[must_use]
pub fn has_invalid_value(selector: &LabelSelector) -> bool {
    items(&selector.match_expressions)
        .iter()
        .flat_map(|requirement| items(&requirement.values))
        .any(|value| !names::label_value(value).is_empty())
}

/// A label selector as upstream prints it in messages.
pub(crate) fn shown_selector(selector: Option<&LabelSelector>) -> Bare {
    let Some(selector) = selector else {
        return Bare("null".into());
    };
    let mut parts = Vec::new();
    if super::absent::count(&selector.match_labels) > 0 {
        parts.push(format!(
            "\"matchLabels\":{}",
            json(&selector.match_labels).0
        ));
    }
    let expressions: Vec<String> = items(&selector.match_expressions)
        .iter()
        .map(|requirement| {
            let values = items(&requirement.values);
            let values = if values.is_empty() {
                String::new()
            } else {
                format!(",\"values\":{}", json(values).0)
            };
            format!(
                "{{\"key\":{},\"operator\":{}{values}}}",
                json(&requirement.key).0,
                json(&requirement.operator).0
            )
        })
        .collect();
    if !expressions.is_empty() {
        parts.push(format!("\"matchExpressions\":[{}]", expressions.join(",")));
    }
    Bare(format!("{{{}}}", parts.join(",")))
}

/// Conditions of the shared type: unique types, known statuses, well-formed reasons.
pub fn conditions(errors: &mut ErrorList, conditions: &[Condition], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if !seen.insert(condition.type_.as_str()) {
            errors.push(FieldError::duplicate(&path.child("type"), &condition.type_));
        }
        one_condition(errors, condition, &path);
    }
}

fn one_condition(errors: &mut ErrorList, condition: &Condition, path: &Path) {
    label_key(errors, &condition.type_, &path.child("type"));
    super::values::one_of(
        errors,
        &path.child("status"),
        &condition.status,
        &["False", "True", "Unknown"],
    );
    let generation = condition.observed_generation.unwrap_or(0);
    if generation < 0 {
        errors.push(FieldError::invalid(
            &path.child("observedGeneration"),
            generation,
            "must be greater than or equal to zero",
        ));
    }
    if condition.last_transition_time.0.as_second() == 0 {
        errors.push(FieldError::required(&path.child("lastTransitionTime"), ""));
    }
    let (reason, reason_path) = (&condition.reason, path.child("reason"));
    if reason.is_empty() {
        errors.push(FieldError::required(&reason_path, ""));
    } else {
        let body = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let valid = reason.starts_with(|c: char| c.is_ascii_alphabetic())
            && reason.ends_with(body)
            && reason.chars().all(|c| body(c) || matches!(c, ',' | ':'));
        if !valid {
            let message = names::pattern_error(
                "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
                "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
                &[
                    "my_name",
                    "MY_NAME",
                    "MyName",
                    "ReasonA,ReasonB",
                    "ReasonA:ReasonB",
                ],
            );
            errors.push(FieldError::invalid(&reason_path, reason, &message));
        }
        if reason.len() > 1024 {
            errors.push(FieldError::too_long(&reason_path, 1024));
        }
    }
    if condition.message.len() > 32 * 1024 {
        errors.push(FieldError::too_long(&path.child("message"), 32 * 1024));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn meta(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap_or_default()
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn new_errors(value: Value, namespaced: bool) -> Vec<String> {
        let path = Path::new("metadata");
        let meta = meta(value);
        let mut errors = validate_object_meta(&meta, namespaced, &names::subdomain_name, &path);
        let finalizers = items(&meta.finalizers);
        errors.extend(finalizer_groups(finalizers, &path.child("finalizers")));
        texts(&errors)
    }

    #[test]
    fn new_objects() {
        let table: [(Value, bool, &[&str]); 6] = [
            (json!({"name": "a", "namespace": "b"}), true, &[]),
            (
                json!({"namespace": "b"}),
                false,
                &[
                    "metadata.name: Required value: name or generateName is required",
                    "metadata.namespace: Forbidden: not allowed on this type",
                ],
            ),
            (
                json!({"name": "a"}),
                true,
                &["metadata.namespace: Required value"],
            ),
            (
                json!({"name": "a", "labels": {"x/": "ok"}}),
                false,
                &[
                    "metadata.labels: Invalid value: \"x/\": name part must be non-empty",
                    "metadata.labels: Invalid value: \"x/\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (
                json!({"name": "a", "finalizers": ["mine", "orphan", "foregroundDeletion"]}),
                false,
                &[
                    "metadata.finalizers: Invalid value: [\"mine\",\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
                    "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
                ],
            ),
            (
                json!({"name": "a", "ownerReferences": [{"apiVersion": "", "kind": "K", "name": "", "uid": "u"}]}),
                false,
                &[
                    "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty",
                    "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
                ],
            ),
        ];
        for (value, namespaced, expected) in table {
            assert_eq!(new_errors(value.clone(), namespaced), expected, "{value}");
        }
    }

    #[test]
    fn annotations_have_a_limit() {
        let value = "x".repeat(ANNOTATIONS_MAX);
        assert_eq!(
            new_errors(json!({"name": "a", "annotations": {"k": value}}), false),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
    }

    #[test]
    fn changed_objects() {
        let old = meta(
            json!({"name": "a", "uid": "1", "resourceVersion": "1", "generation": 2,
            "deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["x/a"]}),
        );
        let new =
            meta(json!({"name": "b", "uid": "2", "generation": 1, "finalizers": ["x/a", "x/b"]}));
        assert_eq!(
            texts(&validate_object_meta_update(
                &new,
                &old,
                &Path::new("metadata")
            )),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/b\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: null: field is immutable",
            ]
        );
    }

    #[test]
    fn selectors() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}, {"key": "old", "operator": "DoesNotExist"}]
        }))
        .unwrap_or_default();
        let labels = |value: Value| serde_json::from_value(value).unwrap_or_default();
        assert!(selector_matches(&selector, &labels(json!({"app": "web"}))));
        assert!(!selector_matches(
            &selector,
            &labels(json!({"app": "web", "tier": "db"}))
        ));
        assert!(!selector_matches(
            &selector,
            &labels(json!({"app": "web", "old": ""}))
        ));
        assert!(!selector_matches(&selector, &None));
        assert_eq!(
            shown_selector(Some(&selector)).0,
            r#"{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"tier","operator":"NotIn","values":["db"]},{"key":"old","operator":"DoesNotExist"}]}"#
        );
    }
}
