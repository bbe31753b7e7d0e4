//! ReplicationControllers.

use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::pod::{template_warnings, validate_template};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::count;
use crate::validation::apps::replica_counts;
use crate::validation::meta::selector_matches;
use crate::validation::values::non_negative;
use crate::validation::workload::{mismatch, name_warnings, runs_forever};

/// What is wrong with a new ReplicationController, its metadata aside.
#[must_use]
pub fn validate_replication_controller(controller: &ReplicationController) -> ErrorList {
    spec(controller, None)
}

/// What is wrong with a changed ReplicationController, its metadata aside.
#[must_use]
pub fn validate_replication_controller_update(
    new: &ReplicationController,
    old: &ReplicationController,
) -> ErrorList {
    spec(new, Some(old))
}

fn template(controller: &ReplicationController) -> Option<&PodTemplateSpec> {
    controller
        .spec
        .as_ref()
        .and_then(|spec| spec.template.as_ref())
}

fn spec(controller: &ReplicationController, old: Option<&ReplicationController>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("spec"), Default::default());
    let spec = controller.spec.as_ref().unwrap_or(&none);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    non_negative(&mut errors, &path.child("minReadySeconds"), min_ready);
    let selective = count(&spec.selector) > 0;
    if !selective {
        errors.push(FieldError::required(&path.child("selector"), ""));
    }
    match spec.replicas {
        None => errors.push(FieldError::required(&path.child("replicas"), "")),
        Some(replicas) => non_negative(&mut errors, &path.child("replicas"), replicas),
    }
    let path = path.child("template");
    let Some(own) = &spec.template else {
        errors.push(FieldError::required(&path, ""));
        return errors;
    };
    let labels = own.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let selector = LabelSelector {
        match_labels: spec.selector.clone(),
        ..LabelSelector::default()
    };
    if selective && !selector_matches(&selector, &labels) {
        mismatch(&mut errors, &labels, &path);
    }
    validate_template(&mut errors, own, old.and_then(template), &path);
    runs_forever(&mut errors, own, "ReplicationController", &path);
    errors
}

/// What is wrong with the new status of a ReplicationController.
#[must_use]
pub fn validate_replication_controller_status_update(
    new: &ReplicationController,
    _old: &ReplicationController,
) -> ErrorList {
    let none = Default::default();
    let status = new.status.as_ref().unwrap_or(&none);
    let path = Path::new("status");
    let mut errors = replica_counts(
        status.replicas,
        status.fully_labeled_replicas.unwrap_or(0),
        status.ready_replicas.unwrap_or(0),
        status.available_replicas.unwrap_or(0),
        &path,
    );
    let generation = status.observed_generation.unwrap_or(0);
    non_negative(&mut errors, &path.child("observedGeneration"), generation);
    errors
}

/// What the client is told about a ReplicationController.
#[must_use]
pub fn warnings_replication_controller(
    new: &ReplicationController,
    old: Option<&ReplicationController>,
) -> Vec<String> {
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
