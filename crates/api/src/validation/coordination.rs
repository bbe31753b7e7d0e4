//! Leases.

use k8s_openapi::api::coordination::v1::Lease;

use super::absent::text;
use super::names;
use super::values::all_invalid;
use crate::field::{ErrorList, FieldError, Path};

/// What is wrong with a Lease, its metadata aside.
#[must_use]
pub fn validate_lease(lease: &Lease) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("spec"), Default::default());
    let spec = lease.spec.as_ref().unwrap_or(&none);
    if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
        let path = path.child("leaseDurationSeconds");
        errors.push(FieldError::invalid(
            &path,
            seconds,
            "must be greater than 0",
        ));
    }
    if let Some(count) = spec.lease_transitions.filter(|count| *count < 0) {
        let path = path.child("leaseTransitions");
        errors.push(FieldError::invalid(
            &path,
            count,
            "must be greater than or equal to 0",
        ));
    }
    if let Some(strategy) = &spec.strategy {
        // Upstream names the field twice.
        let path = path.child("strategy").child("strategy");
        if strategy.contains('/') {
            all_invalid(
                &mut errors,
                &path,
                strategy,
                names::qualified_name(strategy),
            );
        } else if strategy != "OldestEmulationVersion" {
            errors.push(FieldError::not_supported(
                &path,
                strategy,
                &["OldestEmulationVersion"],
            ));
        }
    }
    if !text(&spec.preferred_holder).is_empty() && text(&spec.strategy).is_empty() {
        let path = path.child("preferredHolder");
        let detail = "may only be specified if `strategy` is defined";
        errors.push(FieldError::forbidden(&path, detail));
    }
    errors
}

/// What is wrong with a changed Lease, its metadata aside.
#[must_use]
pub fn validate_lease_update(new: &Lease, _old: &Lease) -> ErrorList {
    validate_lease(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations() {
        let lease: Lease = serde_json::from_value(json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "x"}})).unwrap_or_default();
        let texts: Vec<String> = validate_lease(&lease)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ]
        );
    }
}
