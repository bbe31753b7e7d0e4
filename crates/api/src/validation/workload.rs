//! What kinds that make pods of a template share: selectors, templates, replica counts, rollout limits.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::absent::text;
use super::core::pod::validate_template;
use super::meta::{
    SelectorRules, label_selector, selector_matches, selects_everything, shown_selector,
};
use super::names;
use super::values::{Bare, json, non_negative, one_of};
use crate::field::{ErrorList, FieldError, Path};

/// A selector that has to be there and select something. An absent one decodes as an empty one.
pub(crate) fn selector(errors: &mut ErrorList, selector: &LabelSelector, path: &Path) {
    if selects_everything(selector) {
        errors.push(FieldError::required(path, ""));
    } else {
        label_selector(errors, Some(selector), SelectorRules::default(), path);
    }
}

/// Whether the selector's operators and values make sense, so that it can be applied.
pub(crate) fn is_usable(selector: &LabelSelector) -> bool {
    let mut errors = ErrorList::new();
    label_selector(
        &mut errors,
        Some(selector),
        SelectorRules::default(),
        &Path::default(),
    );
    errors.is_empty()
}

/// A template whose pods the selector has to match, if it is sound itself.
pub(crate) fn selected_template(
    errors: &mut ErrorList,
    template: &PodTemplateSpec,
    old: Option<&PodTemplateSpec>,
    selector: &LabelSelector,
    path: &Path,
) {
    if !is_usable(selector) {
        let path = path_of_selector(path);
        errors.push(FieldError::invalid(
            &path,
            shown_selector(Some(selector)),
            "invalid label selector",
        ));
        return;
    }
    labels_match(errors, template, selector, path);
    validate_template(errors, template, old, path);
}

// `spec.template` to `spec.selector`.
fn path_of_selector(template: &Path) -> Path {
    let spec = template
        .as_str()
        .strip_suffix(".template")
        .unwrap_or_default();
    Path::new(spec).child("selector")
}

/// The template's labels satisfy the selector; a selector that is not there selects nothing.
pub(crate) fn labels_match(
    errors: &mut ErrorList,
    template: &PodTemplateSpec,
    selector: &LabelSelector,
    path: &Path,
) {
    let labels = template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.clone());
    if selects_everything(selector) || !selector_matches(selector, &labels) {
        mismatch(errors, &labels, path);
    }
}

/// What upstream says of labels that the selector does not match.
pub(crate) fn mismatch(
    errors: &mut ErrorList,
    labels: &Option<std::collections::BTreeMap<String, String>>,
    path: &Path,
) {
    errors.push(FieldError::invalid(
        &path.child("metadata").child("labels"),
        json(labels),
        "`selector` does not match template `labels`",
    ));
}

/// Pods of controllers always restart their containers and have no deadline.
pub(crate) fn runs_forever(
    errors: &mut ErrorList,
    template: &PodTemplateSpec,
    kind: &str,
    path: &Path,
) {
    let Some(spec) = &template.spec else { return };
    let path = path.child("spec");
    one_of(
        errors,
        &path.child("restartPolicy"),
        text(&spec.restart_policy),
        &["Always"],
    );
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(
            &path.child("activeDeadlineSeconds"),
            &detail,
        ));
    }
}

/// Counts in a status: none negative.
pub(crate) fn counts(errors: &mut ErrorList, counts: &[(&str, i64)], path: &Path) {
    for (name, count) in counts {
        non_negative(errors, &path.child(name), *count);
    }
}

/// A count that may not be above another.
pub(crate) fn at_most(
    errors: &mut ErrorList,
    (name, count): (&str, i32),
    (limit_name, limit): (&str, i32),
    path: &Path,
) {
    if count > limit {
        let detail = format!("cannot be greater than {limit_name}");
        errors.push(FieldError::invalid(&path.child(name), count, &detail));
    }
}

/// A collision count only grows.
pub(crate) fn not_decremented(
    errors: &mut ErrorList,
    new: Option<i32>,
    old: Option<i32>,
    path: &Path,
) {
    if old.is_some_and(|old| new.is_none_or(|new| new < old)) {
        let path = path.child("collisionCount");
        errors.push(FieldError::invalid(
            &path,
            new.unwrap_or(0),
            "cannot be decremented",
        ));
    }
}

fn shown(value: &IntOrString) -> Bare {
    match value {
        IntOrString::Int(number) => Bare(number.to_string()),
        IntOrString::String(text) => json(text),
    }
}

/// A number or a percentage, not negative.
pub(crate) fn count_or_percent(errors: &mut ErrorList, value: &IntOrString, path: &Path) {
    match value {
        IntOrString::Int(number) => non_negative(errors, path, *number),
        IntOrString::String(percent) => {
            for message in names::percent(percent) {
                errors.push(FieldError::invalid(path, percent, &message));
            }
        }
    }
}

fn percent(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::String(text) if names::percent(text).is_empty() => text
            .strip_suffix('%')
            .map(|number| number.parse().unwrap_or(i64::MAX)),
        _ => None,
    }
}

/// The number, or that of the percentage; what is neither counts as none.
pub(crate) fn amount(value: &IntOrString) -> i64 {
    match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => percent(value).or_else(|| text.parse().ok()).unwrap_or(0),
    }
}

/// A percentage, if it is one, of at most a hundred.
pub(crate) fn at_most_all(errors: &mut ErrorList, value: &IntOrString, path: &Path) {
    if percent(value).is_some_and(|percent| percent > 100) {
        errors.push(FieldError::invalid(
            path,
            shown(value),
            "must not be greater than 100%",
        ));
    }
}

/// The value as upstream prints it.
pub(crate) fn shown_value(value: &IntOrString) -> Bare {
    shown(value)
}

/// The warning about a name that pods' host names are made of.
pub(crate) fn name_warnings(name: &Option<String>) -> Vec<String> {
    let wrong = names::dns_label(text(name));
    if wrong.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        wrong.join(" ")
    )]
}
