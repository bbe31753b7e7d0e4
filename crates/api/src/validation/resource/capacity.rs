//! How much of a device's capacity a claim may ask for.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::{
    CapacityRequestPolicy, CapacityRequestPolicyRange, DeviceCapacity,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::items;
use crate::validation::quantity::Amount;

const OPTIONS: usize = 10;

/// What is wrong with a device's capacity. `shared`: it may be given to several claims.
pub(super) fn capacity(errors: &mut ErrorList, one: &DeviceCapacity, shared: bool, path: &Path) {
    let Some(policy) = &one.request_policy else {
        return;
    };
    let path = path.child("requestPolicy");
    if shared {
        request_policy(errors, policy, &one.value, &path);
    } else {
        let detail = "allowMultipleAllocations must be true";
        errors.push(FieldError::forbidden(&path, detail));
    }
}

fn request_policy(
    errors: &mut ErrorList,
    policy: &CapacityRequestPolicy,
    most: &Quantity,
    path: &Path,
) {
    let values = items(&policy.valid_values);
    let (field, default) = match (values.is_empty(), &policy.valid_range) {
        (true, None) => return,
        (false, Some(_)) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            errors.push(FieldError::forbidden(path, detail));
            return;
        }
        (false, None) => ("validValues", &policy.default),
        (true, Some(_)) => ("validRange", &policy.default),
    };
    let Some(default) = default else {
        let detail = format!("required when {field} is defined");
        errors.push(FieldError::required(&path.child("default"), &detail));
        return;
    };
    match &policy.valid_range {
        Some(range) => allowed_range(errors, range, default, most, &path.child(field)),
        None => allowed_values(errors, values, default, most, &path.child(field)),
    }
}

fn allowed_values(
    errors: &mut ErrorList,
    values: &[Quantity],
    default: &Quantity,
    most: &Quantity,
    path: &Path,
) {
    for (index, pair) in values.windows(2).enumerate() {
        if let [before, after] = pair
            && Amount::of(before) > Amount::of(after)
        {
            let detail = "values must be sorted in ascending order";
            errors.push(FieldError::invalid(
                &path.index(index + 1),
                &after.0,
                detail,
            ));
        }
    }
    if values.len() > OPTIONS {
        errors.push(FieldError::too_many(path, values.len(), OPTIONS));
    } else {
        let mut seen = BTreeSet::new();
        let mut twice = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let (amount, path) = (Amount::of(value), path.index(index));
            if amount > Amount::of(most) {
                let detail = format!("option is larger than capacity value: {}", most.0);
                errors.push(FieldError::invalid(&path, &value.0, &detail));
            }
            if !seen.insert(amount.value()) {
                twice.push(FieldError::duplicate(&path, amount.value().to_string()));
            }
        }
        errors.extend(twice);
    }
    let is_default = |value: &Quantity| Amount::of(value) == Amount::of(default);
    if values.len() > OPTIONS || !values.iter().any(is_default) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(path, &default.0, detail));
    }
}

fn allowed_range(
    errors: &mut ErrorList,
    range: &CapacityRequestPolicyRange,
    default: &Quantity,
    most: &Quantity,
    path: &Path,
) {
    let (least_path, most_path) = (path.child("min"), path.child("max"));
    let least = &range.min;
    if least.0.is_empty() {
        let detail = "required when validRange is defined";
        errors.push(FieldError::required(&least_path, detail));
        return;
    }
    let mut above = |a: &Quantity, b: &Quantity, path: &Path, shown: &Quantity, said: &str| {
        if Amount::of(a) > Amount::of(b) {
            let limit = if std::ptr::eq(shown, a) { b } else { a };
            let detail = format!("{said}: {}", limit.0);
            errors.push(FieldError::invalid(path, &shown.0, &detail));
        }
    };
    above(
        least,
        most,
        &least_path,
        least,
        "min is larger than capacity value",
    );
    above(
        least,
        default,
        &least_path,
        default,
        "default is less than min",
    );
    if let Some(top) = &range.max {
        above(least, top, &most_path, least, "min is larger than max");
        above(
            top,
            most,
            &most_path,
            top,
            "max is larger than capacity value",
        );
        above(
            default,
            top,
            &most_path,
            default,
            "default is more than max",
        );
    }
    if let Some(step) = &range.step {
        let path = path.child("step");
        let one = Amount::of(least).plus(Amount::of(step));
        if one > Amount::of(most) {
            let detail = format!(
                "one step {} is larger than capacity value: {}",
                one.canonical(),
                most.0
            );
            errors.push(FieldError::invalid(&path, &step.0, &detail));
        }
        for value in std::iter::once(default).chain(&range.max) {
            let beyond = Amount::of(value).value() - Amount::of(least).value();
            // A step of nothing leads nowhere.
            if beyond.checked_rem(Amount::of(step).value()) != Some(0) {
                let detail = format!(
                    "value is not a multiple of a given step ({}) from ({})",
                    step.0, least.0
                );
                errors.push(FieldError::invalid(&path, &value.0, &detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slices::tests::texts;
    use serde_json::{Value, json};

    #[test]
    fn shared_capacity_has_a_policy() {
        let found = |shared: bool, policy: Value| {
            texts(json!({"name": "d", "allowMultipleAllocations": shared,
                "capacity": {"c": {"value": "10", "requestPolicy": policy}}}))
        };
        let place = "spec.devices[0].capacity[c].requestPolicy";
        let values = json!({"default": "1", "validValues": ["1", "2"]});
        assert_eq!(found(true, values.clone()), [""; 0]);
        assert_eq!(
            found(false, values),
            [format!(
                "{place}: Forbidden: allowMultipleAllocations must be true"
            )]
        );
        assert_eq!(
            found(
                true,
                json!({"default": "3", "validValues": ["2", "1", "20"]})
            ),
            [
                format!(
                    "{place}.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order"
                ),
                format!(
                    "{place}.validValues[2]: Invalid value: \"20\": option is larger than capacity value: 10"
                ),
                format!(
                    "{place}.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy"
                ),
            ]
        );
        assert_eq!(
            found(
                true,
                json!({"default": "1", "validRange": {"min": "2", "max": "20", "step": "4"}})
            ),
            [
                format!(
                    "{place}.validRange.min: Invalid value: \"1\": default is less than min: 2"
                ),
                format!(
                    "{place}.validRange.max: Invalid value: \"20\": max is larger than capacity value: 10"
                ),
                format!(
                    "{place}.validRange.step: Invalid value: \"1\": value is not a multiple of a given step (4) from (2)"
                ),
                format!(
                    "{place}.validRange.step: Invalid value: \"20\": value is not a multiple of a given step (4) from (2)"
                ),
            ]
        );
        assert_eq!(
            found(true, json!({"validRange": {"min": "2"}})),
            [format!(
                "{place}.default: Required value: required when validRange is defined"
            )]
        );
    }
}
