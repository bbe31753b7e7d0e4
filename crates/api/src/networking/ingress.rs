//! `Ingress` (networking.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::networking::v1::IngressRule;
use serde_json::Value;
use std::collections::BTreeSet;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, WriteContext};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("networking.k8s.io", "v1", "Ingress")],
    storage: "/registry/ingress",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.networking.v1.Ingress",
    conversion: None,
    ops: &Typed::<IngressStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Class", "string", "The class that serves it."),
    Column::new("Hosts", "string", "The hosts it is for."),
    Column::new("Address", "string", "Where it is reached."),
    Column::new("Ports", "string", "The ports it listens on."),
    Column::AGE,
];

/// What is special about this kind.
pub struct IngressStrategy;

impl Strategy for IngressStrategy {
    type Object = Ingress;
    const HAS_STATUS: bool = true;

    fn default(object: &mut Ingress) {
        crate::defaults::networking::default_ingress(object);
    }

    fn prepare_create(object: &mut Ingress, _: &WriteContext) {
        object.status = Some(k8s_openapi::api::networking::v1::IngressStatus {
            load_balancer: Some(Default::default()),
        });
    }

    crate::kind::keep_status!(update);

    fn validate_create(object: &Ingress) -> ErrorList {
        crate::validation::networking::validate_ingress(object)
    }

    fn validate_update(new: &Ingress, old: &Ingress) -> ErrorList {
        crate::validation::networking::validate_ingress_update(new, old)
    }

    fn validate_status_update(new: &Ingress, old: &Ingress) -> ErrorList {
        crate::validation::networking::validate_ingress_status_update(new, old)
    }

    fn warnings(new: &Ingress, old: Option<&Ingress>) -> Vec<String> {
        crate::validation::networking::warnings_ingress(new, old)
    }

    fn status_warnings(new: &Ingress) -> Vec<String> {
        crate::validation::warnings::warnings_ingress_status(new)
    }

    fn row(object: &Ingress, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let rules = spec
            .and_then(|spec| spec.rules.as_deref())
            .unwrap_or_default();
        let balancers = object
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
        let addresses: BTreeSet<&str> = balancers
            .into_iter()
            .flatten()
            .filter_map(|ingress| {
                ingress
                    .ip
                    .as_deref()
                    .filter(|ip| !ip.is_empty())
                    .or(ingress.hostname.as_deref())
            })
            .filter(|address| !address.is_empty())
            .collect();
        let tls = spec
            .and_then(|spec| spec.tls.as_ref())
            .is_some_and(|tls| !tls.is_empty());
        vec![
            object.metadata.name.clone().into(),
            spec.and_then(|spec| spec.ingress_class_name.as_deref())
                .unwrap_or("<none>")
                .into(),
            hosts(rules).into(),
            addresses.into_iter().collect::<Vec<_>>().join(",").into(),
            if tls { "80, 443" } else { "80" }.into(),
            printing::age(&object.metadata, now),
        ]
    }
}

fn hosts(rules: &[IngressRule]) -> String {
    let (mut hosts, mut more) = (Vec::new(), false);
    for rule in rules {
        more |= hosts.len() == 3;
        match rule.host.as_deref() {
            Some(host) if !more && !host.is_empty() => hosts.push(host),
            _ => {}
        }
    }
    match (hosts.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, false) => hosts.join(","),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules.len() - 3),
    }
}
