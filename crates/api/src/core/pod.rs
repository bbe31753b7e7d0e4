//! `Pod` (v1): how it is named, stored, selected and printed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, Time,
};
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{
    ALL_VERBS, CREATE_ONLY, Column, Kind, STATUS_VERBS, Scope, Strategy, Subresource, Typed, Verb,
    WriteContext,
};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "attach",
            kind: ("", "v1", "PodAttachOptions"),
            verbs: &[Verb::Create, Verb::Get],
        },
        Subresource {
            name: "binding",
            kind: ("", "v1", "Binding"),
            verbs: CREATE_ONLY,
        },
        Subresource {
            name: "ephemeralcontainers",
            kind: ("", "v1", "Pod"),
            verbs: STATUS_VERBS,
        },
        Subresource {
            name: "eviction",
            kind: ("policy", "v1", "Eviction"),
            verbs: CREATE_ONLY,
        },
        Subresource {
            name: "exec",
            kind: ("", "v1", "PodExecOptions"),
            verbs: &[Verb::Create, Verb::Get],
        },
        Subresource {
            name: "log",
            kind: ("", "v1", "Pod"),
            verbs: &[Verb::Get],
        },
        Subresource {
            name: "portforward",
            kind: ("", "v1", "PodPortForwardOptions"),
            verbs: &[Verb::Create, Verb::Get],
        },
        Subresource {
            name: "proxy",
            kind: ("", "v1", "PodProxyOptions"),
            verbs: &[
                Verb::Create,
                Verb::Delete,
                Verb::Get,
                Verb::Patch,
                Verb::Update,
            ],
        },
        Subresource {
            name: "resize",
            kind: ("", "v1", "Pod"),
            verbs: STATUS_VERBS,
        },
        Subresource::status("", "v1", "Pod"),
    ],
    storage: "/registry/pods",
    columns: COLUMNS,
    fields: &[
        ("spec.nodeName", "/spec/nodeName"),
        ("spec.restartPolicy", "/spec/restartPolicy"),
        ("spec.schedulerName", "/spec/schedulerName"),
        ("spec.serviceAccountName", "/spec/serviceAccountName"),
        ("spec.hostNetwork", "/spec/hostNetwork"),
        ("status.phase", "/status/phase"),
        ("status.podIP", "/status/podIP"),
        ("status.nominatedNodeName", "/status/nominatedNodeName"),
    ],
    schema: "io.k8s.api.core.v1.Pod",
    conversion: None,
    ops: &Typed::<PodStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string", "How many of the containers are ready."),
    Column::new("Status", "string", "What the pod is up to."),
    Column::new(
        "Restarts",
        "string",
        "How often containers were restarted, and when last.",
    ),
    Column::AGE,
    Column::new("IP", "string", "The address.").wide(),
    Column::new("Node", "string", "The node it is on.").wide(),
    Column::new(
        "Nominated Node",
        "string",
        "The node on which room is being made for the pod.",
    )
    .wide(),
    Column::new(
        "Readiness Gates",
        "string",
        "How many of the extra conditions for readiness hold.",
    )
    .wide(),
];

/// Whether somebody holds the pod back from being scheduled.
fn is_held_back(pod: &Pod) -> bool {
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

/// The condition of such a pod. No scheduler looks at it, so that it has to come from here.
fn held_back(now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    }
}

/// Labels of a pod, or none.
type Labels = Option<BTreeMap<String, String>>;

/// Asks in a selector for the pod's own values of these labels (`In`), or for others (`NotIn`). No selector at all selects
/// nothing and stays so.
fn select_own(
    selector: Option<&mut LabelSelector>,
    keys: Option<&[String]>,
    operator: &str,
    labels: &Labels,
) {
    let Some(selector) = selector else { return };
    for key in keys.unwrap_or_default() {
        let Some(value) = labels.as_ref().and_then(|labels| labels.get(key)) else {
            continue;
        };
        let requirement = LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        };
        selector
            .match_expressions
            .get_or_insert_default()
            .push(requirement);
    }
}

/// Puts `matchLabelKeys` and `mismatchLabelKeys` into the selectors that they belong to, so that a later change of the
/// pod's labels changes nothing.
fn merge_label_keys(spec: &mut PodSpec, labels: &Labels) {
    let mut terms: Vec<&mut PodAffinityTerm> = Vec::new();
    if let Some(affinity) = spec.affinity.as_mut() {
        if let Some(near) = affinity.pod_affinity.as_mut() {
            let required = &mut near.required_during_scheduling_ignored_during_execution;
            let preferred = &mut near.preferred_during_scheduling_ignored_during_execution;
            terms.extend(required.iter_mut().flatten());
            let preferred = preferred.iter_mut().flatten();
            terms.extend(preferred.map(|weighted| &mut weighted.pod_affinity_term));
        }
        if let Some(far) = affinity.pod_anti_affinity.as_mut() {
            let required = &mut far.required_during_scheduling_ignored_during_execution;
            let preferred = &mut far.preferred_during_scheduling_ignored_during_execution;
            terms.extend(required.iter_mut().flatten());
            let preferred = preferred.iter_mut().flatten();
            terms.extend(preferred.map(|weighted| &mut weighted.pod_affinity_term));
        }
    }
    for term in terms {
        let selector = &mut term.label_selector;
        let (equal, other) = (&term.match_label_keys, &term.mismatch_label_keys);
        select_own(selector.as_mut(), equal.as_deref(), "In", labels);
        select_own(selector.as_mut(), other.as_deref(), "NotIn", labels);
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let keys = constraint.match_label_keys.as_deref();
        select_own(constraint.label_selector.as_mut(), keys, "In", labels);
    }
}

/// What is special about this kind.
pub struct PodStrategy;

impl Strategy for PodStrategy {
    type Object = Pod;
    const HAS_STATUS: bool = true;

    fn prepare_create(object: &mut Pod, context: &WriteContext) {
        let class = object
            .spec
            .as_ref()
            .map(|spec| crate::validation::core::pod::qos_class(spec).to_owned());
        object.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: class,
            conditions: is_held_back(object).then(|| vec![held_back(context.now)]),
            ..PodStatus::default()
        });
        let labels = &object.metadata.labels;
        if let Some(spec) = object.spec.as_mut() {
            merge_label_keys(spec, labels);
        }
    }

    fn prepare_update(new: &mut Pod, old: &Pod, _: &WriteContext) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut Pod, old: &Pod, _: &WriteContext) {
        new.spec = old.spec.clone();
        new.metadata.deletion_timestamp = old.metadata.deletion_timestamp.clone();
        new.metadata.owner_references = old.metadata.owner_references.clone();
        let status = new.status.get_or_insert_default();
        if status.qos_class.is_none() {
            status.qos_class = old
                .status
                .as_ref()
                .and_then(|status| status.qos_class.clone());
        }
    }

    fn default(object: &mut Pod) {
        crate::defaults::core::default_pod(object);
    }

    fn validate_create(object: &Pod) -> ErrorList {
        crate::validation::core::pod::validate_pod(object)
    }

    fn validate_update(new: &Pod, old: &Pod) -> ErrorList {
        crate::validation::core::pod::validate_pod_update(new, old)
    }

    fn validate_status_update(new: &Pod, old: &Pod) -> ErrorList {
        crate::validation::core::pod::validate_pod_status_update(new, old)
    }

    fn warnings(new: &Pod, old: Option<&Pod>) -> Vec<String> {
        crate::validation::core::pod::warnings_pod(new, old)
    }

    fn row(object: &Pod, now: Timestamp) -> Vec<Value> {
        super::pod_row::row(object, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_keys_become_part_of_the_selectors() {
        let labels: Labels = Some(BTreeMap::from([
            ("app".into(), "web".into()),
            ("v".into(), "2".into()),
        ]));
        let selector = json!({"matchLabels": {"app": "web"}});
        let term = json!({"topologyKey": "zone", "labelSelector": selector, "matchLabelKeys": ["v", "none"]});
        let mut spec: PodSpec = serde_json::from_value(json!({
            "containers": [],
            "affinity": {
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term, {"topologyKey": "zone", "matchLabelKeys": ["v"]}]},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {
                    "topologyKey": "zone", "labelSelector": selector, "mismatchLabelKeys": ["v"]}}]},
            },
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": selector, "matchLabelKeys": ["v"]}],
        }))
        .unwrap();
        merge_label_keys(&mut spec, &labels);
        let value = serde_json::to_value(&spec).unwrap();
        let expressions = |place: &str| {
            value
                .pointer(&format!("{place}/labelSelector/matchExpressions"))
                .cloned()
        };
        let own = json!([{"key": "v", "operator": "In", "values": ["2"]}]);
        let required = "/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution";
        assert_eq!(expressions(&format!("{required}/0")), Some(own.clone()));
        assert_eq!(value.pointer(&format!("{required}/1/labelSelector")), None);
        let preferred = "/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm";
        let others = json!([{"key": "v", "operator": "NotIn", "values": ["2"]}]);
        assert_eq!(expressions(preferred), Some(others));
        assert_eq!(expressions("/topologySpreadConstraints/0"), Some(own));
    }
}
