//! StatefulSets and ControllerRevisions.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};
use serde_json::Value;

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, text};
use crate::validation::core::persistent_volume_claim_spec::{ClaimRules, claim_spec};
use crate::validation::core::pod::{template_warnings, validate_template};
use crate::validation::names;
use crate::validation::values::{Bare, all_invalid, immutable, json, non_negative, one_of};
use crate::validation::workload::{
    amount, at_most, at_most_all, count_or_percent, counts, is_usable, labels_match,
    not_decremented, runs_forever, selector, shown_value,
};

/// What is wrong with a new StatefulSet, its metadata aside.
#[must_use]
pub fn validate_stateful_set(set: &StatefulSet) -> ErrorList {
    let mut errors = ErrorList::new();
    spec(&mut errors, &spec_of(set), None);
    errors
}

fn spec_of(set: &StatefulSet) -> StatefulSetSpec {
    set.spec.clone().unwrap_or_default()
}

fn spec(errors: &mut ErrorList, spec: &StatefulSetSpec, old: Option<&StatefulSetSpec>) {
    let path = Path::new("spec");
    let (policy, policy_path) = (
        text(&spec.pod_management_policy),
        path.child("podManagementPolicy"),
    );
    match policy {
        "" => errors.push(FieldError::required(&policy_path, "")),
        "OrderedReady" | "Parallel" => {}
        _ => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.push(FieldError::invalid(&policy_path, policy, detail));
        }
    }
    let no_strategy = StatefulSetUpdateStrategy::default();
    let strategy = spec.update_strategy.as_ref().unwrap_or(&no_strategy);
    update_strategy(errors, strategy, &path.child("updateStrategy"));
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for (name, value) in [
            ("whenDeleted", &retention.when_deleted),
            ("whenScaled", &retention.when_scaled),
        ] {
            one_of(
                errors,
                &path.child(name),
                text(value),
                &["Retain", "Delete"],
            );
        }
    }
    if old.is_none() {
        for (index, claim) in items(&spec.volume_claim_templates).iter().enumerate() {
            let path = path
                .child("volumeClaimTemplates")
                .index(index)
                .child("spec");
            let claim = claim.spec.clone().unwrap_or_default();
            claim_spec(errors, &claim, ClaimRules::default(), &path);
        }
    }
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
    for (name, count) in [
        ("replicas", spec.replicas),
        ("minReadySeconds", spec.min_ready_seconds),
        ("ordinals.start", start),
    ] {
        non_negative(errors, &path.child(name), count.unwrap_or(0));
    }
    let service = text(&spec.service_name);
    if old.is_none() && !service.is_empty() {
        all_invalid(
            errors,
            &path.child("serviceName"),
            service,
            names::dns_label(service),
        );
    }
    selector(errors, &spec.selector, &path.child("selector"));
    template(errors, spec, old, &path);
}

fn template(
    errors: &mut ErrorList,
    spec: &StatefulSetSpec,
    old: Option<&StatefulSetSpec>,
    path: &Path,
) {
    let (selector_path, path) = (path.child("selector"), path.child("template"));
    if is_usable(&spec.selector) {
        // What was wrong before may stay so.
        if old.is_none_or(|old| template_errors(old, Some(old), &path).is_empty()) {
            errors.extend(template_errors(spec, old, &path));
        }
    } else {
        let shown = json(&spec.selector);
        errors.push(FieldError::invalid(&selector_path, shown, ""));
    }
    runs_forever(errors, &spec.template, "StatefulSet", &path);
}

fn template_errors(
    spec: &StatefulSetSpec,
    old: Option<&StatefulSetSpec>,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let judged = with_claims(spec);
    labels_match(&mut errors, &judged, &spec.selector, path);
    validate_template(&mut errors, &judged, old.map(|old| &old.template), path);
    errors
}

/// The template as pods will have it: the claims are volumes, host name and subdomain the controller's.
fn with_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let pod = template.spec.get_or_insert_with(Default::default);
    pod.hostname = None;
    pod.subdomain = None;
    let names: BTreeSet<String> = items(&spec.volume_claim_templates)
        .iter()
        .map(|claim| text(&claim.metadata.name).to_owned())
        .collect();
    if names.is_empty() {
        return template;
    }
    let mut volumes: Vec<Volume> = names
        .iter()
        .map(|name| Volume {
            name: name.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: name.clone(),
                ..PersistentVolumeClaimVolumeSource::default()
            }),
            ..Volume::default()
        })
        .collect();
    let own = pod.volumes.take().unwrap_or_default();
    volumes.extend(
        own.into_iter()
            .filter(|volume| !names.contains(&volume.name)),
    );
    pod.volumes = Some(volumes);
    template
}

fn update_strategy(errors: &mut ErrorList, strategy: &StatefulSetUpdateStrategy, path: &Path) {
    let rolling_path = path.child("rollingUpdate");
    let shown = |rolling: &RollingUpdateStatefulSetStrategy| {
        format!(
            "{{\"Partition\":{},\"MaxUnavailable\":{}}}",
            rolling.partition.unwrap_or(0),
            json(&rolling.max_unavailable).0
        )
    };
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("", _) => errors.push(FieldError::required(path, "")),
        ("OnDelete", None) | ("RollingUpdate", None) => {}
        ("OnDelete", Some(rolling)) => errors.push(FieldError::invalid(
            &rolling_path,
            Bare(shown(rolling)),
            "only allowed for updateStrategy 'RollingUpdate'",
        )),
        ("RollingUpdate", Some(rolling)) => {
            let partition = rolling.partition.unwrap_or(0);
            non_negative(errors, &rolling_path.child("partition"), partition);
            if let Some(unavailable) = &rolling.max_unavailable {
                let path = rolling_path.child("maxUnavailable");
                count_or_percent(errors, unavailable, &path);
                if amount(unavailable) == 0 {
                    errors.push(FieldError::invalid(
                        &path,
                        shown_value(unavailable),
                        "cannot be 0",
                    ));
                }
                at_most_all(errors, unavailable, &path);
            }
        }
        (kind, rolling) => {
            let rolling = rolling.as_ref().map_or_else(|| "null".to_owned(), shown);
            let value = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", json(kind).0);
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid(path, Bare(value), detail));
        }
    }
}

/// What is wrong with a changed StatefulSet, its metadata aside.
#[must_use]
pub fn validate_stateful_set_update(new: &StatefulSet, old: &StatefulSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let (own, old) = (spec_of(new), spec_of(old));
    spec(&mut errors, &own, Some(&old));
    let mut rest = own;
    rest.replicas = old.replicas;
    rest.template = old.template.clone();
    rest.update_strategy = old.update_strategy.clone();
    rest.min_ready_seconds = old.min_ready_seconds;
    rest.ordinals = old.ordinals.clone();
    rest.revision_history_limit = old.revision_history_limit;
    rest.persistent_volume_claim_retention_policy =
        old.persistent_volume_claim_retention_policy.clone();
    if rest != old {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden(&Path::new("spec"), detail));
    }
    errors
}

/// What is wrong with the new status of a StatefulSet.
#[must_use]
pub fn validate_stateful_set_status_update(new: &StatefulSet, old: &StatefulSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, none) = (Path::new("status"), Default::default());
    let status = new.status.as_ref().unwrap_or(&none);
    let parts = [
        ("readyReplicas", status.ready_replicas.unwrap_or(0)),
        ("currentReplicas", status.current_replicas.unwrap_or(0)),
        ("updatedReplicas", status.updated_replicas.unwrap_or(0)),
        ("availableReplicas", status.available_replicas.unwrap_or(0)),
    ];
    counts(&mut errors, &[("replicas", status.replicas.into())], &path);
    for (name, count) in parts {
        counts(&mut errors, &[(name, count.into())], &path);
    }
    counts(
        &mut errors,
        &[
            (
                "observedGeneration",
                status.observed_generation.unwrap_or(0),
            ),
            ("collisionCount", status.collision_count.unwrap_or(0).into()),
        ],
        &path,
    );
    for part in parts {
        at_most(
            &mut errors,
            part,
            ("status.replicas", status.replicas),
            &path,
        );
    }
    let [(_, ready), .., available] = parts;
    at_most(
        &mut errors,
        available,
        ("status.readyReplicas", ready),
        &path,
    );
    let old = old
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    not_decremented(&mut errors, status.collision_count, old, &path);
    errors
}

/// What the client is told about a StatefulSet.
#[must_use]
pub fn warnings_stateful_set(new: &StatefulSet, old: Option<&StatefulSet>) -> Vec<String> {
    let (spec, path) = (spec_of(new), Path::new("spec"));
    let mut warnings = Vec::new();
    if old.is_none_or(|old| old.metadata.generation != new.metadata.generation) {
        warnings = template_warnings(&spec.template, &path.child("template"));
    }
    for (index, claim) in items(&spec.volume_claim_templates).iter().enumerate() {
        let mut path = path.child("volumeClaimTemplates").index(index);
        // Upstream's paths differ so, the capital letter included.
        if old.is_some() {
            path = path.child("Spec");
        }
        let claim = claim.spec.clone().unwrap_or_default();
        warnings.extend(crate::validation::core::pod::claim_spec_warnings(
            &claim, &path,
        ));
    }
    if spec.revision_history_limit.is_some_and(|limit| limit < 0) {
        let path = path.child("revisionHistoryLimit");
        warnings.push(format!(
            "{path}: a negative value retains all historical revisions; a value >= 0 is recommended"
        ));
    }
    warnings
}

fn revision(revision: &ControllerRevision) -> ErrorList {
    let mut errors = ErrorList::new();
    non_negative(&mut errors, &Path::new("revision"), revision.revision);
    errors
}

/// What is wrong with a new ControllerRevision, its metadata aside.
#[must_use]
pub fn validate_controller_revision(new: &ControllerRevision) -> ErrorList {
    let mut errors = revision(new);
    let path = Path::new("data");
    match new.data.as_ref().map(|data| &data.0) {
        None | Some(Value::Null) => {
            errors.push(FieldError::required(&path, "data is mandatory"));
        }
        Some(Value::Object(_)) => {}
        Some(_) => {
            errors.push(FieldError::required(
                &path,
                "data must be a valid JSON object",
            ));
        }
    }
    errors
}

/// What is wrong with a changed ControllerRevision, its metadata aside: its data stays.
#[must_use]
pub fn validate_controller_revision_update(
    new: &ControllerRevision,
    old: &ControllerRevision,
) -> ErrorList {
    let mut errors = revision(new);
    immutable(
        &mut errors,
        &Path::new("data"),
        &new.data,
        &old.data,
        json(&new.data),
    );
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(more: Value) -> StatefulSet {
        let mut spec = json!({"selector": {"matchLabels": {"app": "db"}}, "template": {
            "metadata": {"labels": {"app": "db"}},
            "spec": {"containers": [{"name": "db", "image": "db:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]});
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let document = json!({"metadata": {"name": "db"}, "spec": spec});
        let mut set: StatefulSet = serde_json::from_value(document).unwrap_or_default();
        crate::defaults::apps::default_stateful_set(&mut set);
        set
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn claims_are_volumes() {
        assert_eq!(
            texts(&validate_stateful_set(&set(json!({})))),
            Vec::<String>::new()
        );
        assert_eq!(
            texts(&validate_stateful_set(&set(
                json!({"volumeClaimTemplates": [], "podManagementPolicy": "Odd", "serviceName": "A"})
            ))),
            [
                "spec.podManagementPolicy: Invalid value: \"Odd\": must be 'OrderedReady' or 'Parallel'",
                "spec.serviceName: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\"",
            ]
        );
    }

    #[test]
    fn what_stays() {
        let old = set(json!({}));
        assert!(validate_stateful_set_update(&set(json!({"replicas": 3})), &old).is_empty());
        let errors = validate_stateful_set_update(&set(json!({"serviceName": "x"})), &old);
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0]
                .body
                .starts_with("Forbidden: updates to statefulset spec")
        );
    }
}
