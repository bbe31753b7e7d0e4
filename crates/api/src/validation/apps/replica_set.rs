//! ReplicaSets.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::field::{ErrorList, Path};
use crate::validation::core::pod::template_warnings;
use crate::validation::meta::shown_selector;
use crate::validation::values::{immutable, non_negative};
use crate::validation::workload::{
    at_most, counts, name_warnings, runs_forever, selected_template, selector,
};

/// What is wrong with a new ReplicaSet, its metadata aside.
#[must_use]
pub fn validate_replica_set(set: &ReplicaSet) -> ErrorList {
    spec(set, None)
}

/// What is wrong with a changed ReplicaSet, its metadata aside.
#[must_use]
pub fn validate_replica_set_update(new: &ReplicaSet, old: &ReplicaSet) -> ErrorList {
    let mut errors = spec(new, Some(old));
    let selector = |set: &ReplicaSet| {
        set.spec
            .as_ref()
            .map(|spec| spec.selector.clone())
            .unwrap_or_default()
    };
    let (new, old) = (selector(new), selector(old));
    let path = Path::new("spec").child("selector");
    immutable(&mut errors, &path, &new, &old, shown_selector(Some(&new)));
    errors
}

fn template(set: &ReplicaSet) -> Option<&PodTemplateSpec> {
    set.spec.as_ref().and_then(|spec| spec.template.as_ref())
}

fn spec(set: &ReplicaSet, old: Option<&ReplicaSet>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none, no_template) = (Path::new("spec"), Default::default(), Default::default());
    let spec = set.spec.as_ref().unwrap_or(&none);
    non_negative(
        &mut errors,
        &path.child("replicas"),
        spec.replicas.unwrap_or(0),
    );
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    non_negative(&mut errors, &path.child("minReadySeconds"), min_ready);
    selector(&mut errors, &spec.selector, &path.child("selector"));
    let path = path.child("template");
    let own = template(set).unwrap_or(&no_template);
    selected_template(
        &mut errors,
        own,
        old.and_then(template),
        &spec.selector,
        &path,
    );
    runs_forever(&mut errors, own, "ReplicaSet", &path);
    errors
}

/// What is wrong with the new status of a ReplicaSet.
#[must_use]
pub fn validate_replica_set_status_update(new: &ReplicaSet, _old: &ReplicaSet) -> ErrorList {
    let (path, none) = (Path::new("status"), Default::default());
    let status = new.status.as_ref().unwrap_or(&none);
    let mut errors = replica_counts(
        status.replicas,
        status.fully_labeled_replicas.unwrap_or(0),
        status.ready_replicas.unwrap_or(0),
        status.available_replicas.unwrap_or(0),
        &path,
    );
    let late = errors.split_off(
        errors
            .iter()
            .take_while(|error| error.body.contains("greater than or equal"))
            .count(),
    );
    counts(
        &mut errors,
        &[
            (
                "observedGeneration",
                status.observed_generation.unwrap_or(0),
            ),
            (
                "terminatingReplicas",
                status.terminating_replicas.unwrap_or(0).into(),
            ),
        ],
        &path,
    );
    errors.extend(late);
    errors
}

/// The counts that ReplicaSets and ReplicationControllers keep: none negative, none above its whole.
pub(crate) fn replica_counts(
    replicas: i32,
    labeled: i32,
    ready: i32,
    available: i32,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let parts = [
        ("fullyLabeledReplicas", labeled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ];
    counts(&mut errors, &[("replicas", replicas.into())], path);
    for (name, count) in parts {
        counts(&mut errors, &[(name, count.into())], path);
    }
    for part in parts {
        at_most(&mut errors, part, ("status.replicas", replicas), path);
    }
    at_most(
        &mut errors,
        ("availableReplicas", available),
        ("readyReplicas", ready),
        path,
    );
    errors
}

/// What the client is told about a ReplicaSet.
#[must_use]
pub fn warnings_replica_set(new: &ReplicaSet, old: Option<&ReplicaSet>) -> Vec<String> {
    let path = Path::new("spec").child("template");
    let own = template(new)
        .map(|t| template_warnings(t, &path))
        .unwrap_or_default();
    match old {
        None => [name_warnings(&new.metadata.name), own].concat(),
        Some(old) if old.metadata.generation == new.metadata.generation => Vec::new(),
        Some(_) => own,
    }
}
