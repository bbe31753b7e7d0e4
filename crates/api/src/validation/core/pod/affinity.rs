//! Affinity of pods to nodes and to other pods.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinity,
    PodAffinityTerm, PodAntiAffinity, PodSpec, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::rules::PodRules;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entries, items};
use crate::validation::meta::{self, SelectorRules, label_key, label_selector};
use crate::validation::names;
use crate::validation::values::all_invalid;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// All affinity of a pod.
pub(super) fn affinity(errors: &mut ErrorList, affinity: &Affinity, rules: &PodRules, path: &Path) {
    if let Some(node) = &affinity.node_affinity {
        node_affinity(errors, node, rules, &path.child("nodeAffinity"));
    }
    let selectors = SelectorRules {
        allow_invalid_values: rules.allow_invalid_selector_values,
    };
    if let Some(PodAffinity {
        required_during_scheduling_ignored_during_execution: required,
        preferred_during_scheduling_ignored_during_execution: preferred,
    }) = &affinity.pod_affinity
    {
        let path = path.child("podAffinity");
        pod_terms(errors, items(required), items(preferred), selectors, &path);
    }
    if let Some(PodAntiAffinity {
        required_during_scheduling_ignored_during_execution: required,
        preferred_during_scheduling_ignored_during_execution: preferred,
    }) = &affinity.pod_anti_affinity
    {
        let path = path.child("podAntiAffinity");
        pod_terms(errors, items(required), items(preferred), selectors, &path);
    }
}

fn node_affinity(errors: &mut ErrorList, affinity: &NodeAffinity, rules: &PodRules, path: &Path) {
    if let Some(selector) = &affinity.required_during_scheduling_ignored_during_execution {
        let lax = rules.allow_invalid_node_affinity_values;
        node_selector(errors, selector, lax, &path.child(REQUIRED));
    }
    let preferred = items(&affinity.preferred_during_scheduling_ignored_during_execution);
    for (index, term) in preferred.iter().enumerate() {
        let path = path.child(PREFERRED).index(index);
        weight(errors, term.weight, &path);
        node_term(errors, &term.preference, true, &path.child("preference"));
    }
}

fn weight(errors: &mut ErrorList, weight: i32, path: &Path) {
    if !(1..=100).contains(&weight) {
        let path = path.child("weight");
        errors.push(FieldError::invalid(
            &path,
            weight,
            "must be in the range 1-100",
        ));
    }
}

/// A node selector: at least one term. `lax`: label values are not looked at.
pub(crate) fn node_selector(
    errors: &mut ErrorList,
    selector: &NodeSelector,
    lax: bool,
    path: &Path,
) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.push(FieldError::required(
            &path,
            "must have at least one node selector term",
        ));
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        node_term(errors, term, lax, &path.index(index));
    }
}

fn node_term(errors: &mut ErrorList, term: &NodeSelectorTerm, lax: bool, path: &Path) {
    for (index, requirement) in items(&term.match_expressions).iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        node_expression(errors, requirement, lax, &path);
    }
    for (index, requirement) in items(&term.match_fields).iter().enumerate() {
        node_field(errors, requirement, &path.child("matchFields").index(index));
    }
}

fn node_expression(
    errors: &mut ErrorList,
    requirement: &NodeSelectorRequirement,
    lax: bool,
    path: &Path,
) {
    let values = items(&requirement.values);
    let values_path = path.child("values");
    let mut needed = |bad: bool, detail: &str| {
        if bad {
            errors.push(FieldError::required(&values_path, detail));
        }
    };
    match requirement.operator.as_str() {
        "In" | "NotIn" => needed(
            values.is_empty(),
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
        "Gt" | "Lt" => needed(
            values.len() != 1,
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.push(FieldError::forbidden(
                    &values_path,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
        }
        operator => unknown_operator(errors, operator, path),
    }
    label_key(errors, &requirement.key, &path.child("key"));
    if !lax {
        for (index, value) in values.iter().enumerate() {
            all_invalid(
                errors,
                &values_path.index(index),
                value,
                names::label_value(value),
            );
        }
    }
}

fn unknown_operator(errors: &mut ErrorList, operator: &str, path: &Path) {
    errors.push(FieldError::invalid(
        &path.child("operator"),
        operator,
        "not a valid selector operator",
    ));
}

fn node_field(errors: &mut ErrorList, requirement: &NodeSelectorRequirement, path: &Path) {
    let values = items(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() == 1 => {}
        "In" | "NotIn" => errors.push(FieldError::required(
            &path.child("values"),
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        )),
        operator => unknown_operator(errors, operator, path),
    }
    if requirement.key != "metadata.name" {
        errors.push(FieldError::invalid(
            &path.child("key"),
            &requirement.key,
            "not a valid field selector key",
        ));
        return;
    }
    for (index, value) in values.iter().enumerate() {
        let path = path.child("values").index(index);
        all_invalid(errors, &path, value, names::dns_subdomain(value));
    }
}

fn pod_terms(
    errors: &mut ErrorList,
    required: &[PodAffinityTerm],
    preferred: &[WeightedPodAffinityTerm],
    selectors: SelectorRules,
    path: &Path,
) {
    for (index, term) in required.iter().enumerate() {
        pod_term(errors, term, selectors, &path.child(REQUIRED).index(index));
    }
    for (index, term) in preferred.iter().enumerate() {
        let path = path.child(PREFERRED).index(index);
        weight(errors, term.weight, &path);
        pod_term(
            errors,
            &term.pod_affinity_term,
            selectors,
            &path.child("podAffinityTerm"),
        );
    }
}

fn pod_term(errors: &mut ErrorList, term: &PodAffinityTerm, selectors: SelectorRules, path: &Path) {
    label_selector(
        errors,
        term.label_selector.as_ref(),
        selectors,
        &path.child("labelSelector"),
    );
    label_selector(
        errors,
        term.namespace_selector.as_ref(),
        selectors,
        &path.child("namespaceSelector"),
    );
    for namespace in items(&term.namespaces) {
        all_invalid(
            errors,
            &path.child("namespace"),
            namespace,
            names::dns_label(namespace),
        );
    }
    label_keys(
        errors,
        items(&term.match_label_keys),
        items(&term.mismatch_label_keys),
        term.label_selector.as_ref(),
        path,
    );
    let key_path = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.push(FieldError::required(&key_path, "can not be empty"));
    }
    label_key(errors, &term.topology_key, &key_path);
}

/// Label keys whose values a pod's selector takes from the pod itself.
pub(super) fn label_keys(
    errors: &mut ErrorList,
    matching: &[String],
    differing: &[String],
    selector: Option<&LabelSelector>,
    path: &Path,
) {
    for (name, keys) in [
        ("matchLabelKeys", matching),
        ("mismatchLabelKeys", differing),
    ] {
        let path = path.child(name);
        if selector.is_none() && !keys.is_empty() {
            errors.push(FieldError::forbidden(
                &path,
                "must not be specified when labelSelector is not set",
            ));
            continue;
        }
        for (index, key) in keys.iter().enumerate() {
            label_key(errors, key, &path.index(index));
        }
    }
    if let Some(selector) = selector {
        let positions: BTreeMap<&str, usize> = matching
            .iter()
            .enumerate()
            .map(|(index, key)| (key.as_str(), index))
            .collect();
        let mut selected: BTreeSet<&str> = entries(&selector.match_labels)
            .map(|(key, _)| key.as_str())
            .collect();
        for expression in items(&selector.match_expressions) {
            let key = expression.key.as_str();
            if let Some(index) = positions.get(key)
                && selected.contains(key)
            {
                errors.push(FieldError::invalid(
                    &path.index(*index),
                    key,
                    "exists in both matchLabelKeys and labelSelector",
                ));
            }
            selected.insert(key);
        }
    }
    for (index, key) in matching.iter().enumerate() {
        if differing.contains(key) {
            errors.push(FieldError::invalid(
                &path.child("matchLabelKeys").index(index),
                key,
                "exists in both matchLabelKeys and mismatchLabelKeys",
            ));
        }
    }
}

fn all_pod_terms(spec: &PodSpec) -> Vec<&PodAffinityTerm> {
    let mut terms = Vec::new();
    let Some(affinity) = &spec.affinity else {
        return terms;
    };
    if let Some(pods) = &affinity.pod_affinity {
        terms.extend(items(
            &pods.required_during_scheduling_ignored_during_execution,
        ));
        let preferred = items(&pods.preferred_during_scheduling_ignored_during_execution);
        terms.extend(preferred.iter().map(|term| &term.pod_affinity_term));
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        terms.extend(items(
            &pods.required_during_scheduling_ignored_during_execution,
        ));
        let preferred = items(&pods.preferred_during_scheduling_ignored_during_execution);
        terms.extend(preferred.iter().map(|term| &term.pod_affinity_term));
    }
    terms
}

/// Whether an affinity term selects by a value that is no label value.
pub(super) fn has_invalid_selector_value(spec: &PodSpec) -> bool {
    all_pod_terms(spec)
        .iter()
        .flat_map(|term| [&term.label_selector, &term.namespace_selector])
        .flatten()
        .any(meta::has_invalid_value)
}

/// Whether required node affinity names a value that is no label value.
pub(super) fn has_invalid_node_value(spec: &PodSpec) -> bool {
    spec.affinity
        .iter()
        .flat_map(|affinity| &affinity.node_affinity)
        .flat_map(|affinity| &affinity.required_during_scheduling_ignored_during_execution)
        .any(has_invalid_selector_terms)
}

/// Whether a node selector names a value that is no label value.
pub(crate) fn has_invalid_selector_terms(selector: &NodeSelector) -> bool {
    selector
        .node_selector_terms
        .iter()
        .flat_map(|term| items(&term.match_expressions))
        .flat_map(|requirement| items(&requirement.values))
        .any(|value| !names::label_value(value).is_empty())
}
