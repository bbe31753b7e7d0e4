//! PodDisruptionBudgets and PriorityClasses.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::absent::{items, set, text};
use super::meta::{self, SelectorRules, has_invalid_value, label_selector, shown_selector};
use super::values::{Bare, immutable, json, one_of, required_one_of};
use super::workload::{at_most_all, count_or_percent, counts};
use crate::field::{ErrorList, FieldError, Path};

/// The highest priority that users may define.
const HIGHEST: i32 = 1_000_000_000;
const SYSTEM: &str = "system-";

/// What is wrong with a new PodDisruptionBudget, its metadata aside.
#[must_use]
pub fn validate_pod_disruption_budget(budget: &PodDisruptionBudget) -> ErrorList {
    budget_spec(budget, SelectorRules::default())
}

/// What is wrong with a changed PodDisruptionBudget, its metadata aside.
#[must_use]
pub fn validate_pod_disruption_budget_update(
    new: &PodDisruptionBudget,
    old: &PodDisruptionBudget,
) -> ErrorList {
    let selector = old.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    budget_spec(
        new,
        SelectorRules {
            allow_invalid_values: selector.is_some_and(has_invalid_value),
        },
    )
}

fn budget_spec(budget: &PodDisruptionBudget, rules: SelectorRules) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("spec"), Default::default());
    let spec = budget.spec.as_ref().unwrap_or(&none);
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let shown = format!(
            "{{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
            json(&spec.min_available).0,
            shown_selector(spec.selector.as_ref()).0,
            json(&spec.max_unavailable).0,
            json(&spec.unhealthy_pod_eviction_policy).0
        );
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&path, Bare(shown), detail));
    }
    for (name, value) in [
        ("minAvailable", &spec.min_available),
        ("maxUnavailable", &spec.max_unavailable),
    ] {
        if let Some(value) = value {
            count_or_percent(&mut errors, value, &path.child(name));
            at_most_all(&mut errors, value, &path.child(name));
        }
    }
    label_selector(
        &mut errors,
        spec.selector.as_ref(),
        rules,
        &path.child("selector"),
    );
    if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
        let path = path.child("unhealthyPodEvictionPolicy");
        one_of(
            &mut errors,
            &path,
            policy,
            &["AlwaysAllow", "IfHealthyBudget"],
        );
    }
    errors
}

/// What is wrong with the new status of a PodDisruptionBudget.
#[must_use]
pub fn validate_pod_disruption_budget_status_update(
    new: &PodDisruptionBudget,
    _old: &PodDisruptionBudget,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("status"), Default::default());
    let status = new.status.as_ref().unwrap_or(&none);
    meta::conditions(
        &mut errors,
        items(&status.conditions),
        &path.child("conditions"),
    );
    counts(
        &mut errors,
        &[
            (
                "disruptionsAllowed",
                status.disruptions_allowed.unwrap_or(0).into(),
            ),
            ("currentHealthy", status.current_healthy.unwrap_or(0).into()),
            ("desiredHealthy", status.desired_healthy.unwrap_or(0).into()),
            ("expectedPods", status.expected_pods.unwrap_or(0).into()),
        ],
        &path,
    );
    errors
}

/// What is wrong with a new PriorityClass, its metadata aside but for names that are the system's.
#[must_use]
pub fn validate_priority_class(class: &PriorityClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let (name, value) = (text(&class.metadata.name), class.value.unwrap_or(0));
    if name.starts_with(SYSTEM) {
        if let Some(error) = system_class_error(name, value, set(class.global_default)) {
            let path = Path::new("metadata").child("name");
            let detail = format!(
                "priority class names with '{SYSTEM}' prefix are reserved for system use only. error: {error}"
            );
            errors.push(FieldError::forbidden(&path, &detail));
        }
    } else if value > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(FieldError::forbidden(&Path::new("value"), &detail));
    }
    if let Some(policy) = &class.preemption_policy {
        let path = Path::new("preemptionPolicy");
        required_one_of(
            &mut errors,
            &path,
            policy,
            &["PreemptLowerPriority", "Never"],
        );
    }
    errors
}

fn system_class_error(name: &str, value: i32, default: bool) -> Option<String> {
    let own = match name {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => return Some(format!("{name} is not a known system priority class")),
    };
    if value != own {
        Some(format!("value of {name} PriorityClass must be {own}"))
    } else if default {
        Some(format!(
            "globalDefault of {name} PriorityClass must be false"
        ))
    } else {
        None
    }
}

/// What is wrong with a changed PriorityClass, its metadata aside.
#[must_use]
pub fn validate_priority_class_update(new: &PriorityClass, old: &PriorityClass) -> ErrorList {
    let mut errors = ErrorList::new();
    if new.value.unwrap_or(0) != old.value.unwrap_or(0) {
        let detail = "may not be changed in an update.";
        errors.push(FieldError::forbidden(&Path::new("value"), detail));
    }
    let path = Path::new("preemptionPolicy");
    let (policy, old_policy) = (&new.preemption_policy, &old.preemption_policy);
    immutable(&mut errors, &path, policy, old_policy, json(policy));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn budgets_and_classes() {
        let texts = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let budget: PodDisruptionBudget =
            serde_json::from_value(json!({"spec": {"minAvailable": "150%"}})).unwrap_or_default();
        assert_eq!(
            texts(validate_pod_disruption_budget(&budget)),
            ["spec.minAvailable: Invalid value: \"150%\": must not be greater than 100%"]
        );
        let class: PriorityClass =
            serde_json::from_value(json!({"metadata": {"name": "system-mine"}, "value": 1}))
                .unwrap_or_default();
        assert_eq!(
            texts(validate_priority_class(&class)),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class"
            ]
        );
    }
}
