//! Deployments.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::text;
use crate::validation::core::pod::template_warnings;
use crate::validation::meta::shown_selector;
use crate::validation::values::{Bare, immutable, json, non_negative};
use crate::validation::workload::{
    amount, at_most, at_most_all, count_or_percent, counts, name_warnings, not_decremented,
    runs_forever, selected_template, selector, shown_value,
};

/// What is wrong with a new Deployment, its metadata aside.
#[must_use]
pub fn validate_deployment(deployment: &Deployment) -> ErrorList {
    spec(deployment, None)
}

/// What is wrong with a changed Deployment, its metadata aside.
#[must_use]
pub fn validate_deployment_update(new: &Deployment, old: &Deployment) -> ErrorList {
    let mut errors = spec(new, Some(old));
    let selector = |deployment: &Deployment| {
        deployment
            .spec
            .as_ref()
            .map(|spec| spec.selector.clone())
            .unwrap_or_default()
    };
    let (new, old) = (selector(new), selector(old));
    let path = Path::new("spec").child("selector");
    immutable(&mut errors, &path, &new, &old, shown_selector(Some(&new)));
    errors
}

fn spec(deployment: &Deployment, old: Option<&Deployment>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("spec"), Default::default());
    let spec = deployment.spec.as_ref().unwrap_or(&none);
    non_negative(
        &mut errors,
        &path.child("replicas"),
        spec.replicas.unwrap_or(0),
    );
    selector(&mut errors, &spec.selector, &path.child("selector"));
    let old = old
        .and_then(|old| old.spec.as_ref())
        .map(|spec| &spec.template);
    let template_path = path.child("template");
    selected_template(
        &mut errors,
        &spec.template,
        old,
        &spec.selector,
        &template_path,
    );
    runs_forever(&mut errors, &spec.template, "ReplicaSet", &template_path);
    let no_strategy = DeploymentStrategy::default();
    let strategy_path = path.child("strategy");
    strategy(
        &mut errors,
        spec.strategy.as_ref().unwrap_or(&no_strategy),
        &strategy_path,
    );
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    non_negative(&mut errors, &path.child("minReadySeconds"), min_ready);
    if let Some(limit) = spec.revision_history_limit {
        non_negative(&mut errors, &path.child("revisionHistoryLimit"), limit);
    }
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        non_negative(&mut errors, &path, deadline);
        if deadline <= min_ready {
            let detail = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid(&path, deadline, detail));
        }
    }
    errors
}

fn strategy(errors: &mut ErrorList, strategy: &DeploymentStrategy, path: &Path) {
    let rolling_path = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("Recreate", None) => {}
        ("Recreate", Some(_)) => errors.push(FieldError::forbidden(
            &rolling_path,
            "may not be specified when strategy `type` is 'Recreate'",
        )),
        ("RollingUpdate", None) => errors.push(FieldError::required(
            &rolling_path,
            "this should be defaulted and never be nil",
        )),
        ("RollingUpdate", Some(rolling)) => rolling_update(errors, rolling, &rolling_path),
        (kind, rolling) => {
            let rolling = rolling.as_ref().map_or_else(
                || "null".to_owned(),
                |rolling| {
                    format!(
                        "{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}",
                        json(&rolling.max_unavailable).0,
                        json(&rolling.max_surge).0
                    )
                },
            );
            let value = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", json(kind).0);
            errors.push(FieldError::not_supported(
                path,
                Bare(value),
                &["Recreate", "RollingUpdate"],
            ));
        }
    }
}

fn rolling_update(errors: &mut ErrorList, rolling: &RollingUpdateDeployment, path: &Path) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let unavailable_path = path.child("maxUnavailable");
    count_or_percent(errors, unavailable, &unavailable_path);
    count_or_percent(errors, surge, &path.child("maxSurge"));
    if amount(unavailable) == 0 && amount(surge) == 0 {
        errors.push(FieldError::invalid(
            &unavailable_path,
            shown_value(unavailable),
            "may not be 0 when `maxSurge` is 0",
        ));
    }
    at_most_all(errors, unavailable, &unavailable_path);
}

/// What is wrong with the new status of a Deployment.
#[must_use]
pub fn validate_deployment_status_update(new: &Deployment, old: &Deployment) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("status"), Default::default());
    let status = new.status.as_ref().unwrap_or(&none);
    let replicas = status.replicas.unwrap_or(0);
    let (updated, ready, available) = (
        status.updated_replicas.unwrap_or(0),
        status.ready_replicas.unwrap_or(0),
        status.available_replicas.unwrap_or(0),
    );
    counts(
        &mut errors,
        &[
            (
                "observedGeneration",
                status.observed_generation.unwrap_or(0),
            ),
            ("replicas", replicas.into()),
            ("updatedReplicas", updated.into()),
            ("readyReplicas", ready.into()),
            ("availableReplicas", available.into()),
            (
                "unavailableReplicas",
                status.unavailable_replicas.unwrap_or(0).into(),
            ),
            (
                "terminatingReplicas",
                status.terminating_replicas.unwrap_or(0).into(),
            ),
            ("collisionCount", status.collision_count.unwrap_or(0).into()),
        ],
        &path,
    );
    for (name, count) in [
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ] {
        at_most(
            &mut errors,
            (name, count),
            ("status.replicas", replicas),
            &path,
        );
    }
    at_most(
        &mut errors,
        ("availableReplicas", available),
        ("readyReplicas", ready),
        &path,
    );
    let old = old
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    not_decremented(&mut errors, status.collision_count, old, &path);
    errors
}

/// What the client is told about a Deployment.
#[must_use]
pub fn warnings_deployment(new: &Deployment, old: Option<&Deployment>) -> Vec<String> {
    let template = |deployment: &Deployment| deployment.spec.clone().map(|spec| spec.template);
    let path = Path::new("spec").child("template");
    let own = template(new)
        .map(|t| template_warnings(&t, &path))
        .unwrap_or_default();
    match old {
        None => [name_warnings(&new.metadata.name), own].concat(),
        Some(old) if old.metadata.generation == new.metadata.generation => Vec::new(),
        Some(_) => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn errors(spec: Value) -> Vec<String> {
        let document = json!({"metadata": {"name": "web"}, "spec": spec});
        let mut deployment: Deployment = serde_json::from_value(document).unwrap_or_default();
        crate::defaults::apps::default_deployment(&mut deployment);
        validate_deployment(&deployment)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn template(labels: Value) -> Value {
        json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}})
    }

    #[test]
    fn table() {
        let good = template(json!({"app": "web"}));
        let selector = json!({"matchLabels": {"app": "web"}});
        let table = [
            (json!({"selector": selector, "template": good}), vec![]),
            (
                json!({"template": good}),
                vec![
                    "spec.selector: Required value".to_owned(),
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`".to_owned(),
                ],
            ),
            (
                json!({"selector": selector, "template": template(json!({"app": "db"}))}),
                vec!["spec.template.metadata.labels: Invalid value: {\"app\":\"db\"}: `selector` does not match template `labels`".to_owned()],
            ),
            (
                json!({"selector": selector, "template": good, "replicas": -1, "progressDeadlineSeconds": 5, "minReadySeconds": 5}),
                vec![
                    "spec.replicas: Invalid value: -1: must be greater than or equal to 0".to_owned(),
                    "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds".to_owned(),
                ],
            ),
            (
                json!({"selector": selector, "template": good, "strategy": {"type": "Recreate", "rollingUpdate": {}}}),
                vec!["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'".to_owned()],
            ),
            (
                json!({"selector": selector, "template": good, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}),
                vec!["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0".to_owned()],
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(errors(spec.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn the_selector_stays() {
        let of = |app: &str| -> Deployment {
            serde_json::from_value(json!({"spec": {
                "selector": {"matchLabels": {"app": app}}, "template": template(json!({"app": app}))
            }}))
            .unwrap_or_default()
        };
        let (mut new, mut old) = (of("db"), of("web"));
        crate::defaults::apps::default_deployment(&mut new);
        crate::defaults::apps::default_deployment(&mut old);
        let errors = validate_deployment_update(&new, &old);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"db\"}}: field is immutable"
            ]
        );
    }
}
