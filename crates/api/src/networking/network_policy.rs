//! `NetworkPolicy` (networking.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/networkpolicies",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.networking.v1.NetworkPolicy",
    conversion: None,
    ops: &Typed::<NetworkPolicyStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Pod-Selector", "string", "Which pods the policy is for."),
    Column::AGE,
];

/// What is special about this kind.
pub struct NetworkPolicyStrategy;

impl Strategy for NetworkPolicyStrategy {
    type Object = NetworkPolicy;
    const HAS_GENERATION: bool = true;

    fn default(object: &mut NetworkPolicy) {
        crate::defaults::networking::default_network_policy(object);
    }

    fn validate_create(object: &NetworkPolicy) -> ErrorList {
        crate::validation::networking::validate_network_policy(object)
    }

    fn validate_update(new: &NetworkPolicy, old: &NetworkPolicy) -> ErrorList {
        crate::validation::networking::validate_network_policy_update(new, old)
    }

    fn warnings(new: &NetworkPolicy, _old: Option<&NetworkPolicy>) -> Vec<String> {
        crate::validation::networking::warnings_network_policy(new)
    }

    fn row(object: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let selector = object
            .spec
            .as_ref()
            .and_then(|spec| spec.pod_selector.as_ref());
        vec![
            object.metadata.name.clone().into(),
            printing::selector(selector).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
