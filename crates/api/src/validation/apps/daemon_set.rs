//! DaemonSets.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::text;
use crate::validation::core::pod::{template_warnings, validate_template};
use crate::validation::meta::{
    SelectorRules, has_invalid_value, label_selector, selects_everything, shown_selector,
};
use crate::validation::values::{Bare, immutable, json, non_negative};
use crate::validation::workload::{
    amount, at_most_all, count_or_percent, counts, is_usable, labels_match, not_decremented,
    runs_forever, shown_value,
};

/// What is wrong with a new DaemonSet, its metadata aside.
#[must_use]
pub fn validate_daemon_set(set: &DaemonSet) -> ErrorList {
    spec(set, None)
}

/// What is wrong with a changed DaemonSet, its metadata aside.
#[must_use]
pub fn validate_daemon_set_update(new: &DaemonSet, old: &DaemonSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let selector = |set: &DaemonSet| {
        set.spec
            .clone()
            .map(|spec| spec.selector)
            .unwrap_or_default()
    };
    let (own, before) = (selector(new), selector(old));
    let path = Path::new("spec").child("selector");
    immutable(
        &mut errors,
        &path,
        &own,
        &before,
        shown_selector(Some(&own)),
    );
    errors.extend(spec(new, Some(old)));
    errors
}

fn spec(set: &DaemonSet, old: Option<&DaemonSet>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("spec"), Default::default());
    let spec = set.spec.as_ref().unwrap_or(&none);
    let old = old.and_then(|old| old.spec.as_ref());
    let rules = SelectorRules {
        allow_invalid_values: old.is_some_and(|old| has_invalid_value(&old.selector)),
    };
    let selector_path = path.child("selector");
    label_selector(&mut errors, Some(&spec.selector), rules, &selector_path);
    let template_path = path.child("template");
    if is_usable(&spec.selector) {
        labels_match(&mut errors, &spec.template, &spec.selector, &template_path);
    }
    if selects_everything(&spec.selector) {
        let shown = shown_selector(Some(&spec.selector));
        let detail = "empty selector is invalid for daemonset";
        errors.push(FieldError::invalid(&selector_path, shown, detail));
    }
    let old_template = old.map(|old| &old.template);
    validate_template(&mut errors, &spec.template, old_template, &template_path);
    runs_forever(&mut errors, &spec.template, "DaemonSet", &template_path);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    non_negative(&mut errors, &path.child("minReadySeconds"), min_ready);
    let no_strategy = DaemonSetUpdateStrategy::default();
    let strategy = spec.update_strategy.as_ref().unwrap_or(&no_strategy);
    update_strategy(&mut errors, strategy, &path.child("updateStrategy"));
    let history = spec.revision_history_limit.unwrap_or(0);
    non_negative(&mut errors, &path.child("revisionHistoryLimit"), history);
    errors
}

fn update_strategy(errors: &mut ErrorList, strategy: &DaemonSetUpdateStrategy, path: &Path) {
    let rolling_path = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.push(FieldError::required(&rolling_path, "")),
        ("RollingUpdate", Some(rolling)) => rolling_update(errors, rolling, &rolling_path),
        (kind, _) => {
            let shown = Bare(format!(
                "{{\"Type\":{},\"RollingUpdate\":null}}",
                json(kind).0
            ));
            errors.push(FieldError::not_supported(
                path,
                shown,
                &["RollingUpdate", "OnDelete"],
            ));
        }
    }
}

fn rolling_update(errors: &mut ErrorList, rolling: &RollingUpdateDaemonSet, path: &Path) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let (unavailable_path, surge_path) = (path.child("maxUnavailable"), path.child("maxSurge"));
    count_or_percent(errors, unavailable, &unavailable_path);
    count_or_percent(errors, surge, &surge_path);
    at_most_all(errors, unavailable, &unavailable_path);
    at_most_all(errors, surge, &surge_path);
    match (amount(unavailable) != 0, amount(surge) != 0) {
        (true, true) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(&surge_path, shown_value(surge), detail));
        }
        (false, false) => {
            let detail = "cannot be 0 when maxSurge is 0";
            errors.push(FieldError::required(&unavailable_path, detail));
        }
        _ => {}
    }
}

/// What is wrong with the new status of a DaemonSet.
#[must_use]
pub fn validate_daemon_set_status_update(new: &DaemonSet, old: &DaemonSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("status"), Default::default());
    let status = new.status.as_ref().unwrap_or(&none);
    counts(
        &mut errors,
        &[
            (
                "currentNumberScheduled",
                status.current_number_scheduled.into(),
            ),
            ("numberMisscheduled", status.number_misscheduled.into()),
            (
                "desiredNumberScheduled",
                status.desired_number_scheduled.into(),
            ),
            ("numberReady", status.number_ready.into()),
            (
                "observedGeneration",
                status.observed_generation.unwrap_or(0),
            ),
            (
                "updatedNumberScheduled",
                status.updated_number_scheduled.unwrap_or(0).into(),
            ),
            (
                "numberAvailable",
                status.number_available.unwrap_or(0).into(),
            ),
            (
                "numberUnavailable",
                status.number_unavailable.unwrap_or(0).into(),
            ),
            ("collisionCount", status.collision_count.unwrap_or(0).into()),
        ],
        &path,
    );
    let old = old
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    not_decremented(&mut errors, status.collision_count, old, &path);
    errors
}

/// What the client is told about a DaemonSet.
#[must_use]
pub fn warnings_daemon_set(new: &DaemonSet, old: Option<&DaemonSet>) -> Vec<String> {
    let path = Path::new("spec").child("template");
    let template = new.spec.as_ref().map(|spec| &spec.template);
    let before = old.and_then(|old| old.spec.as_ref().map(|spec| &spec.template));
    if old.is_some() && template == before {
        return Vec::new();
    }
    template
        .map(|t| template_warnings(t, &path))
        .unwrap_or_default()
}
