//! `Pod` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
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
