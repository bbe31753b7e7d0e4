//! PersistentVolumeClaims.

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
};

use super::persistent_volume_claim_spec::{ClaimRules, claim_spec};
use super::pod::claim_spec_warnings;
use super::resources::{is_native, resource_quantity};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entries, entry, items, text};
use crate::validation::changes::changes;
use crate::validation::meta::has_invalid_value;
use crate::validation::names;
use crate::validation::quantity::Amount;
use crate::validation::values::{IMMUTABLE, all_invalid, immutable, json};

const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn spec_of(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimSpec {
    claim.spec.clone().unwrap_or_default()
}

/// What is wrong with a new PersistentVolumeClaim, its metadata aside.
#[must_use]
pub fn validate_persistent_volume_claim(claim: &PersistentVolumeClaim) -> ErrorList {
    let mut errors = ErrorList::new();
    claim_spec(
        &mut errors,
        &spec_of(claim),
        ClaimRules::default(),
        &Path::new("spec"),
    );
    errors
}

/// What is wrong with a changed PersistentVolumeClaim, its metadata aside.
#[must_use]
pub fn validate_persistent_volume_claim_update(
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, old_spec, path) = (spec_of(new), spec_of(old), Path::new("spec"));
    let grouped = old_spec
        .data_source
        .as_ref()
        .is_some_and(|source| source.api_group.is_some())
        || old_spec
            .data_source_ref
            .as_ref()
            .is_some_and(|source| source.api_group.is_some());
    let rules = ClaimRules {
        allow_invalid_selector_values: old_spec.selector.as_ref().is_some_and(has_invalid_value),
        allow_invalid_api_group: grouped,
    };
    claim_spec(&mut errors, &spec, rules, &path);
    let (mut rest, mut before) = (spec.clone(), old_spec.clone());
    if text(&before.volume_name).is_empty() {
        before.volume_name = rest.volume_name.clone();
    }
    class_upgrade(&mut errors, new, old, (&mut rest, &before));
    let bound = new
        .status
        .as_ref()
        .is_some_and(|status| text(&status.phase) == "Bound");
    let size = |spec: &PersistentVolumeClaimSpec| {
        spec.resources
            .as_ref()
            .and_then(|r| entry(&r.requests, "storage").cloned())
    };
    if bound {
        if let (Some(requests), Some(size)) = (
            rest.resources
                .as_mut()
                .and_then(|resources| resources.requests.as_mut()),
            size(&old_spec),
        ) {
            requests.insert("storage".into(), size);
        }
        rest.volume_attributes_class_name = before.volume_attributes_class_name.clone();
    }
    if rest != before {
        let detail = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
            changes(&before, &rest)
        );
        errors.push(FieldError::forbidden(&path, &detail));
    }
    let amount = |size: Option<_>| size.as_ref().map_or(Amount::ZERO, Amount::of);
    let capacity = old
        .status
        .as_ref()
        .and_then(|s| entry(&s.capacity, "storage").cloned());
    let wanted = amount(size(&spec));
    if wanted < amount(size(&old_spec)) && wanted <= amount(capacity) {
        let path = path.child("resources").child("requests").child("storage");
        let detail = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(&path, detail));
    }
    let mode = json(&spec.volume_mode);
    let (new_mode, old_mode) = (&spec.volume_mode, &old_spec.volume_mode);
    immutable(
        &mut errors,
        &Path::new("volumeMode"),
        new_mode,
        old_mode,
        mode,
    );
    attributes_class(&mut errors, &spec, &old_spec, old);
    errors
}

/// A class named by the old annotation may move to the field; a claim without class may get one.
fn class_upgrade(
    errors: &mut ErrorList,
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
    (rest, before): (&mut PersistentVolumeClaimSpec, &PersistentVolumeClaimSpec),
) {
    let (annotation, old_annotation) = (
        entry(&new.metadata.annotations, CLASS),
        entry(&old.metadata.annotations, CLASS),
    );
    let fresh = before.storage_class_name.is_none() && rest.storage_class_name.is_some();
    let same = old_annotation.is_some() && old_annotation == rest.storage_class_name.as_ref();
    if fresh && same && annotation.is_none_or(|annotation| Some(annotation) == old_annotation) {
        rest.storage_class_name = None;
        return;
    }
    let (value, old_value) = (
        annotation.map_or("", String::as_str),
        old_annotation.map_or("", String::as_str),
    );
    if value != old_value {
        let path = Path::new("metadata").child("annotations").child(CLASS);
        errors.push(FieldError::invalid(&path, value, IMMUTABLE));
    }
    if fresh && (old_annotation.is_none() || same) {
        rest.storage_class_name = before.storage_class_name.clone();
    }
}

fn attributes_class(
    errors: &mut ErrorList,
    spec: &PersistentVolumeClaimSpec,
    old_spec: &PersistentVolumeClaimSpec,
    old: &PersistentVolumeClaim,
) {
    let class = &spec.volume_attributes_class_name;
    let current = old
        .status
        .as_ref()
        .is_some_and(|s| s.current_volume_attributes_class_name.is_some());
    if *class == old_spec.volume_attributes_class_name || !current {
        return;
    }
    let what = match class.as_deref() {
        None => "nil",
        Some("") => "empty string",
        Some(_) => return,
    };
    let path = Path::new("spec").child("volumeAttributesClassName");
    let detail = format!(
        "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
    );
    errors.push(FieldError::forbidden(&path, &detail));
}

/// What is wrong with the new status of a PersistentVolumeClaim.
#[must_use]
pub fn validate_persistent_volume_claim_status_update(
    new: &PersistentVolumeClaim,
    _old: &PersistentVolumeClaim,
) -> ErrorList {
    let mut errors = ErrorList::new();
    if text(&new.metadata.resource_version).is_empty() {
        errors.push(FieldError::required(&Path::new("resourceVersion"), ""));
    }
    if items(&spec_of(new).access_modes).is_empty() {
        errors.push(FieldError::required(
            &Path::new("Spec").child("accessModes"),
            "",
        ));
    }
    let (none, path) = (PersistentVolumeClaimStatus::default(), Path::new("status"));
    let status = new.status.as_ref().unwrap_or(&none);
    let negative = |errors: &mut ErrorList, quantity, path: &Path| {
        let value = Amount::of(quantity).value();
        if value < 0 {
            let detail = "must be a valid resource quantity";
            errors.push(FieldError::invalid(path, value, detail));
        }
        value < 0
    };
    for (name, quantity) in entries(&status.capacity) {
        negative(&mut errors, quantity, &path.child("capacity").key(name));
    }
    let statuses = path.child("allocatedResourceStatuses");
    const STATES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    for (name, state) in entries(&status.allocated_resource_statuses) {
        resource_key(&mut errors, name, &statuses);
        if !STATES.contains(&state.as_str()) {
            let mut sorted = STATES;
            sorted.sort_unstable();
            // Upstream shows the resource, not the state.
            errors.push(FieldError::not_supported(&statuses, name, &sorted));
        }
    }
    let allocated = path.child("allocatedResources");
    for (name, quantity) in entries(&status.allocated_resources) {
        if resource_key(&mut errors, name, &allocated)
            && !negative(&mut errors, quantity, &allocated.key(name))
        {
            resource_quantity(&mut errors, "storage", quantity, &allocated.key(name));
        }
    }
    errors
}

fn resource_key(errors: &mut ErrorList, name: &str, path: &Path) -> bool {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        all_invalid(errors, path, name, wrong);
        return false;
    }
    if is_native(name) && name != "storage" {
        errors.push(FieldError::not_supported(path, name, &["storage"]));
        return false;
    }
    true
}

/// What the client is told about a PersistentVolumeClaim.
#[must_use]
pub fn warnings_persistent_volume_claim(
    new: &PersistentVolumeClaim,
    _old: Option<&PersistentVolumeClaim>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if entry(&new.metadata.annotations, CLASS).is_some() {
        let path = Path::new("metadata").child("annotations").key(CLASS);
        warnings.push(format!(
            "{path}: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    warnings.extend(claim_spec_warnings(&spec_of(new), &Path::new("spec")));
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value, phase: &str) -> PersistentVolumeClaim {
        let document = json!({"metadata": {"name": "c"}, "spec": spec, "status": {"phase": phase}});
        let mut claim: PersistentVolumeClaim = serde_json::from_value(document).unwrap_or_default();
        crate::defaults::core::default_persistent_volume_claim(&mut claim);
        claim
    }

    #[test]
    fn specs() {
        let texts = |spec: Value| -> Vec<String> {
            let errors = validate_persistent_volume_claim(&claim(spec, "Pending"));
            errors.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            texts(
                json!({"accessModes": ["ReadWriteOncePod", "ReadWriteOnce", "Odd"], "resources": {"requests": {"storage": "0"}}})
            ),
            [
                "spec.accessModes: Unsupported value: \"Odd\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            ]
        );
    }

    #[test]
    fn growth() {
        let of = |size: &str| {
            let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
            claim(spec, "Bound")
        };
        assert!(validate_persistent_volume_claim_update(&of("2Gi"), &of("1Gi")).is_empty());
        let mut old = of("2Gi");
        if let Some(status) = &mut old.status {
            status.capacity = of("2Gi")
                .spec
                .and_then(|s| s.resources)
                .and_then(|r| r.requests);
        }
        let errors = validate_persistent_volume_claim_update(&of("1Gi"), &old);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
            ]
        );
    }
}
