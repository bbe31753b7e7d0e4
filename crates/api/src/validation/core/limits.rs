//! LimitRanges and ResourceQuotas.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    LimitRange, LimitRangeItem, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::resources::{
    container_resource_name, is_standard_quota, may_overcommit, resource_name, resource_quantity,
};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{count, entries, entry, items};
use crate::validation::names;
use crate::validation::quantity::Amount;
use crate::validation::values::{IMMUTABLE, all_invalid, json};

type List = Option<BTreeMap<String, Quantity>>;

/// What is wrong with a LimitRange, its metadata aside.
#[must_use]
pub fn validate_limit_range(range: &LimitRange) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("limits");
    let mut seen = BTreeSet::new();
    let limits = range.spec.iter().flat_map(|spec| &spec.limits);
    for (index, item) in limits.enumerate() {
        let path = path.index(index);
        let type_path = path.child("type");
        limit_type(&mut errors, &item.type_, &type_path);
        if !seen.insert(&item.type_) {
            errors.push(FieldError::duplicate(&type_path, &item.type_));
        }
        limit_item(&mut errors, item, &path);
    }
    errors
}

fn limit_type(errors: &mut ErrorList, name: &str, path: &Path) {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        all_invalid(errors, path, name, wrong);
    } else if !name.contains('/') && !matches!(name, "Pod" | "Container" | "PersistentVolumeClaim")
    {
        let detail = "must be a standard limit type or fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn limit_item(errors: &mut ErrorList, item: &LimitRangeItem, path: &Path) {
    let is_pod = item.type_ == "Pod";
    let mut keys = BTreeSet::new();
    for (field, list) in [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ] {
        let path_of = path.child(field);
        if is_pod && field.starts_with("default") {
            if count(list) > 0 {
                let detail = "may not be specified when `type` is 'Pod'";
                errors.push(FieldError::forbidden(&path_of, detail));
            }
            continue;
        }
        if field == "maxLimitRequestRatio" {
            claim_bounds(errors, item, path);
        }
        for (name, _) in entries(list) {
            let path = path_of.key(name);
            if is_pod || item.type_ == "Container" {
                container_resource_name(errors, name, &path);
            } else {
                resource_name(errors, name, &path);
            }
            keys.insert(name.as_str());
        }
    }
    for name in keys {
        bounds(errors, item, name, is_pod, path);
        ratio(errors, item, name, path);
    }
}

fn claim_bounds(errors: &mut ErrorList, item: &LimitRangeItem, path: &Path) {
    let bounded = [&item.min, &item.max]
        .iter()
        .any(|list| entry(list, "storage").is_some());
    if item.type_ == "PersistentVolumeClaim" && !bounded {
        errors.push(FieldError::required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
}

/// The defaults lie between the bounds, and the request is no more than the limit.
fn bounds(errors: &mut ErrorList, item: &LimitRangeItem, name: &str, is_pod: bool, path: &Path) {
    let (min, max) = (entry(&item.min, name), entry(&item.max, name));
    let unless_pod = |list| if is_pod { None } else { entry(list, name) };
    let (default, request) = (unless_pod(&item.default), unless_pod(&item.default_request));
    // A pair that is in the wrong order, what the two are called, and which of them is shown in which field.
    let pairs = [
        (min, max, "min value", "max value", "min", min),
        (
            min,
            request,
            "min value",
            "default request value",
            "defaultRequest",
            request,
        ),
        (
            request,
            max,
            "default request value",
            "max value",
            "defaultRequest",
            request,
        ),
        (
            request,
            default,
            "default request value",
            "default limit value",
            "defaultRequest",
            request,
        ),
        (min, default, "min value", "default value", "default", min),
        (default, max, "default value", "max value", "default", max),
    ];
    for (low, high, low_name, high_name, field, shown) in pairs {
        if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
            && Amount::of(low) > Amount::of(high)
        {
            let detail = format!(
                "{low_name} {} is greater than {high_name} {}",
                low.0, high.0
            );
            let path = path.child(field).key(name);
            errors.push(FieldError::invalid(&path, &shown.0, &detail));
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "upstream compares and prints the ratio as a floating number"
)]
fn ratio(errors: &mut ErrorList, item: &LimitRangeItem, name: &str, path: &Path) {
    let path_of = path.child("maxLimitRequestRatio").key(name);
    if let Some(ratio) = entry(&item.max_limit_request_ratio, name) {
        let most = Amount::of(ratio);
        if most < Amount::whole(1) {
            let detail = format!("ratio {} is less than 1", ratio.0);
            errors.push(FieldError::invalid(&path_of, &ratio.0, &detail));
        }
        if let (Some(min), Some(max)) = (entry(&item.min, name), entry(&item.max, name)) {
            let (min, max) = (Amount::of(min), Amount::of(max));
            let fits = |amount: Amount| amount.value() < i64::MAX / 1000;
            let (most, reached) = if fits(most) && fits(min) && fits(max) {
                let reached = max.milli_value() as f64 / min.milli_value() as f64;
                (most.milli_value() as f64 / 1000.0, reached)
            } else {
                (most.value() as f64, max.value() as f64 / min.value() as f64)
            };
            if most > reached {
                let detail = format!("ratio {} is greater than max/min = {reached:.6}", ratio.0);
                errors.push(FieldError::invalid(&path_of, &ratio.0, &detail));
            }
        }
    }
    let pair = (
        entry(&item.default, name),
        entry(&item.default_request, name),
    );
    if let (Some(default), Some(request)) = pair
        && item.type_ != "Pod"
        && !may_overcommit(name)
        && Amount::of(default) != Amount::of(request)
    {
        let detail = format!(
            "default value {} must equal to defaultRequest value {} in {name}",
            default.0, request.0
        );
        let path = path.child("defaultRequest").key(name);
        errors.push(FieldError::invalid(&path, &request.0, &detail));
    }
}

/// What is wrong with a new ResourceQuota, its metadata aside.
#[must_use]
pub fn validate_resource_quota(quota: &ResourceQuota) -> ErrorList {
    let mut errors = ErrorList::new();
    quota_spec(&mut errors, quota);
    errors
}

/// What is wrong with a changed ResourceQuota, its metadata aside: the scopes stay.
#[must_use]
pub fn validate_resource_quota_update(new: &ResourceQuota, old: &ResourceQuota) -> ErrorList {
    let mut errors = ErrorList::new();
    quota_spec(&mut errors, new);
    let scopes = |quota: &ResourceQuota| -> Vec<String> {
        let spec = quota.spec.as_ref();
        spec.and_then(|spec| spec.scopes.clone())
            .unwrap_or_default()
    };
    let set = |quota: &ResourceQuota| -> BTreeSet<String> { scopes(quota).into_iter().collect() };
    if set(new) != set(old) {
        let path = Path::new("spec").child("scopes");
        errors.push(FieldError::invalid(&path, json(&scopes(new)), IMMUTABLE));
    }
    errors
}

/// What is wrong with a ResourceQuota whose status changed.
#[must_use]
pub fn validate_resource_quota_status_update(
    new: &ResourceQuota,
    _old: &ResourceQuota,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let none = ResourceQuotaStatus::default();
    let status = new.status.as_ref().unwrap_or(&none);
    let path = Path::new("status");
    quota_list(&mut errors, &status.hard, &path.child("hard"));
    quota_list(&mut errors, &status.used, &path.child("used"));
    errors
}

fn quota_list(errors: &mut ErrorList, list: &List, path: &Path) {
    for (name, quantity) in entries(list) {
        let path = path.key(name);
        resource_name(errors, name, &path);
        if !name.contains('/') && !is_standard_quota(name) {
            let detail = "must be a standard resource for quota";
            errors.push(FieldError::invalid(&path, name, detail));
        }
        resource_quantity(errors, name, quantity, &path);
    }
}

fn quota_spec(errors: &mut ErrorList, quota: &ResourceQuota) {
    let path = Path::new("spec");
    let Some(spec) = &quota.spec else { return };
    quota_list(errors, &spec.hard, &path.child("hard"));
    quota_scopes(errors, spec, &path.child("scopes"));
    scope_selector(
        errors,
        spec,
        &path.child("scopeSelector").child("matchExpressions"),
    );
}

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];

/// Whether a scope says anything about the resource.
fn scope_fits(scope: &str, resource: &str) -> bool {
    let computed = matches!(
        resource,
        "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory"
    );
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => resource == "pods" || computed,
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        _ => true,
    }
}

/// The resources that the quota limits and the scope does not know.
fn unfit<'a>(spec: &'a ResourceQuotaSpec, scope: &'a str) -> impl Iterator<Item = &'a String> {
    entries(&spec.hard)
        .map(|(name, _)| name)
        .filter(move |name| is_standard_quota(name) && !scope_fits(scope, name))
}

fn quota_scopes(errors: &mut ErrorList, spec: &ResourceQuotaSpec, path: &Path) {
    let scopes = items(&spec.scopes);
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(path, json(scopes), detail));
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            wrong("unsupported scope");
        }
        for _ in unfit(spec, scope) {
            wrong("unsupported scope applied to resource");
        }
    }
    for pair in [
        ["BestEffort", "NotBestEffort"],
        ["Terminating", "NotTerminating"],
    ] {
        if pair
            .iter()
            .all(|one| scopes.iter().any(|scope| scope == one))
        {
            wrong("conflicting scopes");
        }
    }
}

fn scope_selector(errors: &mut ErrorList, spec: &ResourceQuotaSpec, path: &Path) {
    const EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
    let Some(selector) = &spec.scope_selector else {
        return;
    };
    for requirement in items(&selector.match_expressions) {
        let scope = requirement.scope_name.as_str();
        if !SCOPES.contains(&scope) {
            let path = path.child("scopeName");
            errors.push(FieldError::invalid(&path, scope, "unsupported scope"));
        }
        for _ in unfit(spec, scope) {
            let detail = "unsupported scope applied to resource";
            errors.push(FieldError::invalid(path, json(selector), detail));
        }
        let operator = requirement.operator.as_str();
        let without_values =
            SCOPES.contains(&scope) && !matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if without_values && operator != "Exists" {
            let path = path.child("operator");
            errors.push(FieldError::invalid(&path, operator, EXISTS));
        }
        let values = items(&requirement.values);
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::invalid(
                &path.child("values"),
                json(values),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(FieldError::invalid(
                &path.child("operator"),
                operator,
                "not a valid selector operator",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn limit_ranges() {
        let range = |limits: Value| -> LimitRange {
            serde_json::from_value(json!({"spec": {"limits": limits}})).unwrap()
        };
        let cases = [
            (
                json!([{"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "default": {"cpu": "2"},
                    "defaultRequest": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}}]),
                vec![],
            ),
            (
                json!([{"type": "Thing"}, {"type": "Pod", "default": {"cpu": "1"}}, {"type": "Pod", "max": {"storage": "1"}}]),
                vec![
                    "spec.limits[0].type: Invalid value: \"Thing\": must be a standard limit type or fully qualified",
                    "spec.limits[1].default: Forbidden: may not be specified when `type` is 'Pod'",
                    "spec.limits[2].type: Duplicate value: \"Pod\"",
                    "spec.limits[2].max[storage]: Invalid value: \"storage\": must be a standard resource for containers",
                ],
            ),
            (
                json!([{"type": "PersistentVolumeClaim", "default": {"storage": "1Gi"}}]),
                vec![
                    "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
                ],
            ),
            (
                json!([{"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"}, "default": {"cpu": "1"},
                    "defaultRequest": {"cpu": "2500m"}}]),
                vec![
                    "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2",
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2500m\": min value 3 is greater than default request value 2500m",
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2500m\": default request value 2500m is greater than max value 2",
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2500m\": default request value 2500m is greater than default limit value 1",
                    "spec.limits[0].default[cpu]: Invalid value: \"3\": min value 3 is greater than default value 1",
                ],
            ),
            (
                json!([{"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3", "memory": "500m"}}]),
                vec![
                    "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
                    "spec.limits[0].maxLimitRequestRatio[memory]: Invalid value: \"500m\": ratio 500m is less than 1",
                ],
            ),
        ];
        for (limits, expected) in cases {
            assert_eq!(texts(&validate_limit_range(&range(limits))), expected);
        }
    }

    #[test]
    fn quotas() {
        let quota = |spec: Value| -> ResourceQuota {
            serde_json::from_value(json!({"spec": spec})).unwrap()
        };
        let cases = [
            (
                json!({"hard": {"pods": "3", "cpu": "500m", "count/deployments.apps": "1"}, "scopes": ["NotTerminating"]}),
                vec![],
            ),
            (
                json!({"hard": {"pods": "1500m", "storage": "-1"}}),
                vec![
                    "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                    "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota",
                    "spec.hard[storage]: Invalid value: \"-1\": must be greater than or equal to 0",
                ],
            ),
            (
                json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort", "NotBestEffort", "Odd"]}),
                vec![
                    "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]: unsupported scope applied to resource",
                    "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]: unsupported scope",
                    "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]: conflicting scopes",
                ],
            ),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"},
                    {"scopeName": "PriorityClass", "operator": "Is"}]}}),
                vec![
                    "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                    "spec.scopeSelector.matchExpressions.operator: Invalid value: \"Is\": not a valid selector operator",
                ],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(texts(&validate_resource_quota(&quota(spec))), expected);
        }
        let (old, new) = (quota(json!({})), quota(json!({"scopes": ["Terminating"]})));
        assert_eq!(
            texts(&validate_resource_quota_update(&new, &old)),
            ["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"]
        );
    }
}
