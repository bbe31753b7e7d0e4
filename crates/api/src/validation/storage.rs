//! StorageClasses.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, StorageClass};

use super::absent::{count, entries, items, text};
use super::meta::label_key;
use super::names;
use super::values::{all_invalid, immutable, json, one_of, required};
use crate::field::{ErrorList, FieldError, Path};

const PARAMETERS: usize = 512;
const PARAMETERS_SIZE: usize = 256 * 1024;

/// What is wrong with a new StorageClass, its metadata aside.
#[must_use]
pub fn validate_storage_class(class: &StorageClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("provisioner");
    required(&mut errors, &path, &class.provisioner);
    if !class.provisioner.is_empty() {
        let name = class.provisioner.to_lowercase();
        all_invalid(&mut errors, &path, &name, names::qualified_name(&name));
    }
    parameters(&mut errors, &class.parameters);
    let policy = text(&class.reclaim_policy);
    if !policy.is_empty() {
        one_of(
            &mut errors,
            &Path::new("reclaimPolicy"),
            policy,
            &["Delete", "Retain"],
        );
    }
    let path = Path::new("volumeBindingMode");
    match &class.volume_binding_mode {
        None => errors.push(FieldError::required(&path, "")),
        Some(mode) => one_of(
            &mut errors,
            &path,
            mode,
            &["Immediate", "WaitForFirstConsumer"],
        ),
    }
    topologies(&mut errors, items(&class.allowed_topologies));
    errors
}

/// The parameters of a class: not too many, with names.
pub(super) fn parameters(errors: &mut ErrorList, parameters: &Option<BTreeMap<String, String>>) {
    let path = Path::new("parameters");
    if count(parameters) > PARAMETERS {
        errors.push(FieldError::too_long(&path, PARAMETERS));
        return;
    }
    if entries(parameters).any(|(key, _)| key.is_empty()) {
        errors.push(FieldError::invalid(&path, "", "field can not be empty."));
    }
    let size: usize = entries(parameters)
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > PARAMETERS_SIZE {
        errors.push(FieldError::too_long(&path, PARAMETERS_SIZE));
    }
}

fn topologies(errors: &mut ErrorList, terms: &[TopologySelectorTerm]) {
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let path = Path::new("allowedTopologies").index(index);
        let mut own: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (index, requirement) in items(&term.match_label_expressions).iter().enumerate() {
            let path = path.child("matchLabelExpressions").index(index);
            let values_path = path.child("values");
            if requirement.values.is_empty() {
                errors.push(FieldError::required(&values_path, ""));
            }
            let mut values = BTreeSet::new();
            for (index, value) in requirement.values.iter().enumerate() {
                if !values.insert(value.as_str()) {
                    errors.push(FieldError::duplicate(&values_path.index(index), value));
                }
            }
            label_key(errors, &requirement.key, &path.child("key"));
            if own.insert(&requirement.key, values).is_some() {
                errors.push(FieldError::duplicate(&path.child("key"), &requirement.key));
            }
        }
        // Upstream's list begins with as many empty terms as there are terms.
        let empty = if own.is_empty() { terms.len() } else { 0 };
        for _ in 0..empty + seen.iter().filter(|other| **other == own).count() {
            let path = path.child("matchLabelExpressions");
            errors.push(FieldError::duplicate(&path, ""));
        }
        seen.push(own);
    }
}

/// What is wrong with a changed StorageClass, its metadata aside: most of it stays.
#[must_use]
pub fn validate_storage_class_update(new: &StorageClass, old: &StorageClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let shown = json(&new.parameters);
    immutable(
        &mut errors,
        &Path::new("parameters"),
        &new.parameters,
        &old.parameters,
        shown,
    );
    let (name, old_name) = (&new.provisioner, &old.provisioner);
    immutable(&mut errors, &Path::new("provisioner"), name, old_name, name);
    for (field, new, old) in [
        ("reclaimPolicy", &new.reclaim_policy, &old.reclaim_policy),
        (
            "volumeBindingMode",
            &new.volume_binding_mode,
            &old.volume_binding_mode,
        ),
    ] {
        immutable(&mut errors, &Path::new(field), new, old, json(new));
    }
    errors
}

/// What is wrong with a new CSIDriver, its metadata aside.
#[must_use]
pub fn validate_csi_driver(driver: &CSIDriver) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (&driver.spec, Path::new("spec"));
    for (field, there) in [
        ("attachedRequired", spec.attach_required.is_some()),
        ("podInfoOnMount", spec.pod_info_on_mount.is_some()),
        ("storageCapacity", spec.storage_capacity.is_some()),
    ] {
        if !there {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    if let Some(policy) = &spec.fs_group_policy {
        let known = ["File", "None", "ReadWriteOnceWithFSType"];
        one_of(&mut errors, &path.child("fsGroupPolicy"), policy, &known);
    }
    token_requests(&mut errors, spec, &path.child("tokenRequests"));
    for mode in items(&spec.volume_lifecycle_modes) {
        let known = ["Persistent", "Ephemeral"];
        one_of(
            &mut errors,
            &path.child("volumeLifecycleModes"),
            mode,
            &known,
        );
    }
    if spec.se_linux_mount.is_none() {
        errors.push(FieldError::required(&path.child("seLinuxMount"), ""));
    }
    if let Some(period) = spec
        .node_allocatable_update_period_seconds
        .filter(|s| *s < 10)
    {
        let path = path.child("nodeAllocatableUpdatePeriodSeconds");
        let detail = "must be greater than or equal to 10 seconds";
        errors.push(FieldError::invalid(&path, period, detail));
    }
    if let Some(in_secrets) = spec.service_account_token_in_secrets
        && items(&spec.token_requests).is_empty()
    {
        let path = path.child("serviceAccountTokenInSecrets");
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(FieldError::invalid(&path, json(&in_secrets), detail));
    }
    errors
}

fn token_requests(errors: &mut ErrorList, spec: &CSIDriverSpec, path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, request) in items(&spec.token_requests).iter().enumerate() {
        let path = path.index(index);
        if !seen.insert(&request.audience) {
            errors.push(FieldError::duplicate(
                &path.child("audience"),
                &request.audience,
            ));
            continue;
        }
        let Some(seconds) = request.expiration_seconds else {
            continue;
        };
        let path = path.child("expirationSeconds");
        if seconds < 600 {
            let detail = "may not specify a duration less than 10 minutes";
            errors.push(FieldError::invalid(&path, seconds, detail));
        }
        if seconds > 1 << 32 {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.push(FieldError::invalid(&path, seconds, detail));
        }
    }
}

/// What is wrong with a changed CSIDriver, its metadata aside.
#[must_use]
pub fn validate_csi_driver_update(new: &CSIDriver, old: &CSIDriver) -> ErrorList {
    let mut errors = validate_csi_driver(new);
    let (spec, before, path) = (&new.spec, &old.spec, Path::new("spec"));
    immutable(
        &mut errors,
        &path.child("attachedRequired"),
        &spec.attach_required,
        &before.attach_required,
        json(&spec.attach_required),
    );
    immutable(
        &mut errors,
        &path.child("volumeLifecycleModes"),
        &spec.volume_lifecycle_modes,
        &before.volume_lifecycle_modes,
        json(&spec.volume_lifecycle_modes),
    );
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let texts = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut class: StorageClass =
            serde_json::from_value(json!({"reclaimPolicy": "Recycle"})).unwrap_or_default();
        crate::defaults::storage::default_storage_class(&mut class);
        assert_eq!(
            texts(validate_storage_class(&class)),
            [
                "provisioner: Required value",
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            ]
        );
        let mut other = class.clone();
        other.provisioner = "example.com/disk".into();
        assert_eq!(
            texts(validate_storage_class_update(&other, &class)),
            ["provisioner: Invalid value: \"example.com/disk\": field is immutable"]
        );
    }

    #[test]
    fn drivers() {
        let texts = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut driver: CSIDriver = serde_json::from_value(json!({"spec": {}})).unwrap();
        crate::defaults::storage::default_csi_driver(&mut driver);
        assert_eq!(texts(validate_csi_driver(&driver)), [""; 0]);
        let mut other = driver.clone();
        other.spec.attach_required = Some(false);
        other.spec.fs_group_policy = Some("All".to_owned());
        other.spec.token_requests = serde_json::from_value(
            json!([{"audience": "a", "expirationSeconds": 60}, {"audience": "a"}]),
        )
        .unwrap();
        assert_eq!(
            texts(validate_csi_driver_update(&other, &driver)),
            [
                "spec.fsGroupPolicy: Unsupported value: \"All\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                "spec.attachedRequired: Invalid value: false: field is immutable",
            ]
        );
    }
}
