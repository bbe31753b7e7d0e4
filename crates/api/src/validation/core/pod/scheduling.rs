//! What says where and when a pod may run: tolerations, gates, spread, claims on devices.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    PodResourceClaim, PodSchedulingGate, PodSchedulingGroup, PodSpec, Toleration,
    TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::affinity::label_keys;
use super::annotations::MIRROR;
use super::containers::shown_claim;
use super::rules::PodRules;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entries, entry, items, text};
use crate::validation::meta::{SelectorRules, label_key, label_selector};
use crate::validation::names;
use crate::validation::values::{Bare, all_invalid, one_of, positive};

/// Taint effects in the order of messages.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The effect of a taint or a toleration.
pub(crate) fn taint_effect(errors: &mut ErrorList, effect: &str, path: &Path) {
    one_of(errors, path, effect, &EFFECTS);
}

/// The tolerations of a pod or a RuntimeClass.
pub(crate) fn tolerations(
    errors: &mut ErrorList,
    tolerations: &[Toleration],
    rules: &PodRules,
    path: &Path,
) {
    for (index, toleration) in tolerations.iter().enumerate() {
        one_toleration(errors, toleration, rules, &path.index(index));
    }
}

fn one_toleration(errors: &mut ErrorList, toleration: &Toleration, rules: &PodRules, path: &Path) {
    let (key, operator) = (text(&toleration.key), text(&toleration.operator));
    let (value, effect) = (text(&toleration.value), text(&toleration.effect));
    let operator_path = path.child("operator");
    if !key.is_empty() {
        label_key(errors, key, &path.child("key"));
    } else if operator != "Exists" {
        errors.push(FieldError::invalid(
            &operator_path,
            operator,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ));
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        errors.push(FieldError::invalid(
            &path.child("effect"),
            effect,
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        ));
    }
    match operator {
        "Equal" | "" => {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(&operator_path, value, &wrong.join(";")));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&operator_path, value, detail));
            }
        }
        "Lt" | "Gt" if rules.allow_comparing_tolerations => {
            if value.parse::<i64>().map(|number| number.to_string()) != Ok(value.to_owned()) {
                let detail = "must be a valid decimal integer in canonical form";
                errors.push(FieldError::invalid(&path.child("value"), value, detail));
            }
        }
        "Lt" | "Gt" => errors.push(FieldError::not_supported(
            &operator_path,
            operator,
            &["Equal", "Exists", "Lt", "Gt"],
        )),
        _ => errors.push(FieldError::not_supported(
            &operator_path,
            operator,
            &["Equal", "Exists"],
        )),
    }
    if !effect.is_empty() {
        taint_effect(errors, effect, &path.child("effect"));
    }
}

/// Scheduling gates: well-formed and unique.
pub(super) fn gates(errors: &mut ErrorList, gates: &[PodSchedulingGate], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, gate) in gates.iter().enumerate() {
        let path = path.index(index);
        all_invalid(errors, &path, &gate.name, names::qualified_name(&gate.name));
        if !seen.insert(gate.name.as_str()) {
            errors.push(FieldError::duplicate(&path, &gate.name));
        }
    }
}

/// The group of pods that are scheduled together.
pub(super) fn group(errors: &mut ErrorList, group: &PodSchedulingGroup, path: &Path) {
    let path = path.child("podGroupName");
    match &group.pod_group_name {
        None => errors.push(FieldError::invalid(
            &path,
            Bare("null".into()),
            "must specify one of: `podGroupName`",
        )),
        Some(name) => all_invalid(errors, &path, name, names::dns_subdomain(name)),
    }
}

/// Claims on devices.
pub(super) fn claims(
    errors: &mut ErrorList,
    claims: &[PodResourceClaim],
    meta: Option<&ObjectMeta>,
    path: &Path,
) {
    let mirror = meta.is_some_and(|meta| entry(&meta.annotations, MIRROR).is_some());
    let mut seen = BTreeSet::new();
    for (index, claim) in claims.iter().enumerate() {
        if mirror {
            let detail = "static pods do not support resource claims";
            errors.push(FieldError::forbidden(&Path::nameless(), detail));
            continue;
        }
        let path = path.index(index);
        let name_path = path.child("name");
        if claim.name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else if !seen.insert(claim.name.as_str()) {
            errors.push(FieldError::duplicate(&name_path, &claim.name));
        } else {
            all_invalid(
                errors,
                &name_path,
                &claim.name,
                names::dns_label(&claim.name),
            );
        }
        let (name, template) = (
            &claim.resource_claim_name,
            &claim.resource_claim_template_name,
        );
        let detail = match (name, template) {
            (Some(_), Some(_)) => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
            (None, None) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => "",
        };
        if !detail.is_empty() {
            errors.push(FieldError::invalid(&path, shown_claim(claim), detail));
        }
        for (field, name) in [
            ("resourceClaimName", name),
            ("resourceClaimTemplateName", template),
        ] {
            if let Some(name) = name {
                all_invalid(errors, &path.child(field), name, names::dns_subdomain(name));
            }
        }
    }
}

/// How pods spread over topology domains.
pub(super) fn spread(
    errors: &mut ErrorList,
    constraints: &[TopologySpreadConstraint],
    rules: &PodRules,
    path: &Path,
) {
    for (index, constraint) in constraints.iter().enumerate() {
        let later = constraints.get(index + 1..).unwrap_or_default();
        one_constraint(errors, constraint, later, rules, &path.index(index));
    }
}

fn one_constraint(
    errors: &mut ErrorList,
    constraint: &TopologySpreadConstraint,
    later: &[TopologySpreadConstraint],
    rules: &PodRules,
    path: &Path,
) {
    let (key, action) = (&constraint.topology_key, &constraint.when_unsatisfiable);
    positive(errors, &path.child("maxSkew"), constraint.max_skew);
    if key.is_empty() {
        errors.push(FieldError::required(
            &path.child("topologyKey"),
            "can not be empty",
        ));
    }
    one_of(
        errors,
        &path.child("whenUnsatisfiable"),
        action,
        &["DoNotSchedule", "ScheduleAnyway"],
    );
    if later
        .iter()
        .any(|other| (&other.topology_key, &other.when_unsatisfiable) == (key, action))
    {
        let path = path.child("{topologyKey, whenUnsatisfiable}");
        errors.push(FieldError::duplicate(&path, format!("{{{key}, {action}}}")));
    }
    if let Some(domains) = constraint.min_domains {
        let path = path.child("minDomains");
        positive(errors, &path, domains);
        if action != "DoNotSchedule" {
            let detail =
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.push(FieldError::invalid(&path, domains, &detail));
        }
    }
    for (name, policy) in [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ] {
        if let Some(policy) = policy {
            one_of(errors, &path.child(name), policy, &["Honor", "Ignore"]);
        }
    }
    if rules.loose_spread_keys {
        loose_keys(errors, constraint, &path.child("matchLabelKeys"));
    } else {
        keys(errors, constraint, path);
    }
    if !rules.allow_invalid_spread_selector {
        label_selector(
            errors,
            constraint.label_selector.as_ref(),
            SelectorRules::default(),
            &path.child("labelSelector"),
        );
    }
}

fn keys(errors: &mut ErrorList, constraint: &TopologySpreadConstraint, path: &Path) {
    let matching = items(&constraint.match_label_keys);
    label_keys(
        errors,
        matching,
        &[],
        constraint.label_selector.as_ref(),
        path,
    );
}

// The rule before pods' selectors were completed by the server.
fn loose_keys(errors: &mut ErrorList, constraint: &TopologySpreadConstraint, path: &Path) {
    let keys = items(&constraint.match_label_keys);
    if keys.is_empty() {
        return;
    }
    let selected: BTreeSet<&str> = match &constraint.label_selector {
        Some(selector) => entries(&selector.match_labels)
            .map(|(key, _)| key.as_str())
            .chain(
                items(&selector.match_expressions)
                    .iter()
                    .map(|e| e.key.as_str()),
            )
            .collect(),
        None => {
            let detail = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(path, detail));
            BTreeSet::new()
        }
    };
    for (index, key) in keys.iter().enumerate() {
        let path = path.index(index);
        label_key(errors, key, &path);
        if selected.contains(key.as_str()) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(&path, key, detail));
        }
    }
}

/// Whether a spread constraint has a selector that is not well-formed.
pub(super) fn has_invalid_spread_selector(spec: &PodSpec) -> bool {
    items(&spec.topology_spread_constraints)
        .iter()
        .any(|constraint| {
            let mut errors = ErrorList::new();
            let selector = constraint.label_selector.as_ref();
            label_selector(
                &mut errors,
                selector,
                SelectorRules::default(),
                &Path::default(),
            );
            !errors.is_empty()
        })
}

/// Whether a spread constraint has label keys that today's rule refuses.
pub(super) fn has_invalid_spread_keys(spec: &PodSpec) -> bool {
    items(&spec.topology_spread_constraints)
        .iter()
        .any(|constraint| {
            let mut errors = ErrorList::new();
            keys(&mut errors, constraint, &Path::default());
            !errors.is_empty()
        })
}
