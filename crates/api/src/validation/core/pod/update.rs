//! What may change in a pod once it is there.

use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, NodeAffinity, NodeSelectorTerm, Pod, PodSchedulingGate, PodSpec,
    Toleration,
};

use super::rules::PodRules;
use super::{annotations, metadata_and_spec, scheduling};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entries, entry, items, text};
use crate::validation::changes::changes;
use crate::validation::names;
use crate::validation::values::{Bare, internal_term, internal_terms, json};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The spec of a pod, or an empty one.
pub(super) fn spec_of(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// The rules for a pod that was `old`.
pub(super) fn rules_after(old: &Pod) -> PodRules {
    PodRules {
        pod: true,
        ..PodRules::after(old.spec.as_ref(), Some(&old.metadata))
    }
}

/// What all updates of a pod's spec begin with.
pub(super) fn begin(errors: &mut ErrorList, new: &Pod, old: &Pod, spec: &PodSpec) -> PodRules {
    let rules = rules_after(old);
    metadata_and_spec(errors, new, spec, &rules);
    rules
}

/// The annotations of a changed pod.
pub(super) fn annotation_changes(errors: &mut ErrorList, new: &Pod, old: &Pod, rules: &PodRules) {
    let path = Path::new("metadata").child("annotations");
    annotations::update(errors, new, old, &path);
    let spec = spec_of(new);
    annotations::annotations(errors, &new.metadata, &spec, rules, &path);
}

/// What is wrong with a changed Pod, its metadata aside.
#[must_use]
pub fn validate_pod_update(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, old_spec) = (spec_of(new), spec_of(old));
    let rules = begin(&mut errors, new, old, &spec);
    annotation_changes(&mut errors, new, old, &rules);
    let path = Path::new("spec");
    if !containers(
        &mut errors,
        &spec.containers,
        &old_spec.containers,
        &path.child("containers"),
    ) {
        return errors;
    }
    let (init, old_init) = (
        items(&spec.init_containers),
        items(&old_spec.init_containers),
    );
    if !containers(&mut errors, init, old_init, &path.child("initContainers")) {
        return errors;
    }
    if !deadline(
        &mut errors,
        &spec,
        &old_spec,
        &path.child("activeDeadlineSeconds"),
    ) {
        return errors;
    }
    added_tolerations(
        &mut errors,
        items(&spec.tolerations),
        items(&old_spec.tolerations),
        &rules,
        &path.child("tolerations"),
    );
    removed_gates(
        &mut errors,
        items(&spec.scheduling_gates),
        items(&old_spec.scheduling_gates),
        &path.child("schedulingGates"),
    );
    if spec == old_spec {
        return errors;
    }
    let rest = without_updatable(&mut errors, spec, &old_spec, &path);
    if rest != old_spec {
        let detail = format!(
            "pod updates may not change fields other than {UPDATABLE}\n{}",
            changes(&old_spec, &rest)
        );
        errors.push(FieldError::forbidden(&path, &detail));
    }
    errors
}

fn containers(errors: &mut ErrorList, new: &[Container], old: &[Container], path: &Path) -> bool {
    if new.len() != old.len() {
        let detail = "pod updates may not add or remove containers";
        errors.push(FieldError::forbidden(path, detail));
        return false;
    }
    for (index, container) in new.iter().enumerate() {
        let path = path.index(index);
        if text(&container.image).is_empty() {
            errors.push(FieldError::required(&path.child("image"), ""));
        }
        super::containers::image_spaces(errors, container, &path);
    }
    true
}

fn deadline(errors: &mut ErrorList, new: &PodSpec, old: &PodSpec, path: &Path) -> bool {
    let most = i64::from(i32::MAX);
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(seconds), _) if !(0..=most).contains(&seconds) => {
            errors.push(FieldError::invalid(
                path,
                seconds,
                &names::range_error(0, most),
            ));
            false
        }
        (Some(seconds), Some(before)) if before < seconds => {
            let detail = "must be less than or equal to previous value";
            errors.push(FieldError::invalid(path, seconds, detail));
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, Bare("null".into()), detail));
            true
        }
        _ => true,
    }
}

fn added_tolerations(
    errors: &mut ErrorList,
    new: &[Toleration],
    old: &[Toleration],
    rules: &PodRules,
    path: &Path,
) {
    let same = |a: &Toleration, b: &Toleration| {
        (&a.key, &a.operator, &a.value, &a.effect) == (&b.key, &b.operator, &b.value, &b.effect)
    };
    if old.iter().any(|old| !new.iter().any(|new| same(new, old))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    scheduling::tolerations(errors, new, rules, path);
}

fn removed_gates(
    errors: &mut ErrorList,
    new: &[PodSchedulingGate],
    old: &[PodSchedulingGate],
    path: &Path,
) {
    for (index, gate) in new
        .iter()
        .enumerate()
        .filter(|(_, gate)| !old.contains(gate))
    {
        let detail = format!(
            "only deletion is allowed, but found new scheduling gate '{}'",
            gate.name
        );
        errors.push(FieldError::forbidden(
            &path.index(index).child("name"),
            &detail,
        ));
    }
}

/// The new spec with everything set back that may change, after judging what may change only in part.
fn without_updatable(
    errors: &mut ErrorList,
    mut spec: PodSpec,
    old: &PodSpec,
    path: &Path,
) -> PodSpec {
    for (container, old) in spec.containers.iter_mut().zip(&old.containers) {
        container.image = old.image.clone();
    }
    let init = spec.init_containers.iter_mut().flatten();
    for (container, old) in init.zip(items(&old.init_containers)) {
        container.image = old.image.clone();
    }
    spec.active_deadline_seconds = old.active_deadline_seconds;
    spec.scheduling_gates = old.scheduling_gates.clone();
    spec.tolerations = old.tolerations.clone();
    if old
        .termination_grace_period_seconds
        .is_some_and(|seconds| seconds < 0)
        && spec.termination_grace_period_seconds == Some(1)
    {
        spec.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if items(&old.scheduling_gates).is_empty() {
        return spec;
    }
    // A pod that waits may still be told more about where to run.
    if spec.node_selector != old.node_selector {
        let kept = entries(&old.node_selector)
            .all(|(key, value)| entry(&spec.node_selector, key) == Some(value));
        if !kept {
            errors.push(FieldError::invalid(
                &path.child("nodeSelector"),
                json(&spec.node_selector),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            ));
        }
        spec.node_selector = old.node_selector.clone();
    }
    let old_affinity = old
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.clone());
    let new_affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.clone());
    if old_affinity != new_affinity {
        let path = path.child("affinity").child("nodeAffinity");
        node_affinity(errors, new_affinity.as_ref(), old_affinity.as_ref(), &path);
        let mut affinity = spec.affinity.take().unwrap_or_default();
        affinity.node_affinity = old_affinity;
        let empty = affinity == Default::default() && old.affinity.is_none();
        spec.affinity = (!empty).then_some(affinity);
    }
    spec
}

fn node_affinity(
    errors: &mut ErrorList,
    new: Option<&NodeAffinity>,
    old: Option<&NodeAffinity>,
    path: &Path,
) {
    let terms = |affinity: Option<&NodeAffinity>| {
        affinity
            .and_then(|a| {
                a.required_during_scheduling_ignored_during_execution
                    .clone()
            })
            .map(|selector| selector.node_selector_terms)
    };
    let Some(old) = terms(old) else { return };
    let new = terms(new).unwrap_or_default();
    let path = path
        .child("requiredDuringSchedulingIgnoredDuringExecution")
        .child("nodeSelectorTerms");
    if !old.is_empty() && old.len() != new.len() {
        errors.push(FieldError::invalid(
            &path,
            json(&internal_terms(&new)),
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        ));
        return;
    }
    for (index, (new, old)) in new.iter().zip(&old).enumerate() {
        if !only_adds(new, old) {
            errors.push(FieldError::invalid(
                &path.index(index),
                json(&internal_term(new)),
                "only additions are allowed (no mutations or deletions)",
            ));
        }
    }
}

fn only_adds(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let (expressions, fields) = (items(&old.match_expressions), items(&old.match_fields));
    let (new_expressions, new_fields) = (items(&new.match_expressions), items(&new.match_fields));
    if expressions.is_empty() && fields.is_empty() {
        return new_expressions.is_empty() && new_fields.is_empty();
    }
    new_expressions.starts_with(expressions) && new_fields.starts_with(fields)
}

/// What is wrong with a pod whose ephemeral containers changed.
#[must_use]
pub fn validate_pod_ephemeral_containers_update(new: &Pod, old: &Pod) -> ErrorList {
    if entry(&old.metadata.annotations, annotations::MIRROR).is_some() {
        let detail = "static pods do not support ephemeral containers";
        return vec![FieldError::forbidden(&Path::nameless(), detail)];
    }
    let mut errors = ErrorList::new();
    let (spec, old_spec) = (spec_of(new), spec_of(old));
    let rules = begin(&mut errors, new, old, &spec);
    annotation_changes(&mut errors, new, old, &rules);
    let path = Path::new("spec").child("ephemeralContainers");
    let containers: &[EphemeralContainer] = items(&spec.ephemeral_containers);
    for before in items(&old_spec.ephemeral_containers) {
        let name = &before.name;
        let detail = match containers
            .iter()
            .rev()
            .find(|container| container.name == *name)
        {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(after) if after != before => format!(
                "existing ephemeral containers {name:?} may not be changed\n{}",
                changes(before, after)
            ),
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(&path, &detail));
    }
    errors
}
