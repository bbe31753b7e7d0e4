//! `Service` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use serde_json::Value;
use std::collections::BTreeSet;

use crate::field::ErrorList;
use crate::kind::{
    ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, Verb, WriteContext,
};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "proxy",
            kind: ("", "v1", "ServiceProxyOptions"),
            verbs: &[
                Verb::Create,
                Verb::Delete,
                Verb::Get,
                Verb::Patch,
                Verb::Update,
            ],
        },
        Subresource::status("", "v1", "Service"),
    ],
    storage: "/registry/services/specs",
    columns: COLUMNS,
    fields: &[
        ("spec.clusterIP", "/spec/clusterIP"),
        ("spec.type", "/spec/type"),
    ],
    schema: "io.k8s.api.core.v1.Service",
    conversion: None,
    ops: &Typed::<ServiceStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string", "How the service is reached."),
    Column::new("Cluster-IP", "string", "The address inside the cluster."),
    Column::new("External-IP", "string", "The addresses outside."),
    Column::new(
        "Port(s)",
        "string",
        "The ports, with the node ports behind the colon.",
    ),
    Column::AGE,
    Column::new("Selector", "string", "Which pods are behind it.").wide(),
];

/// What is special about this kind.
pub struct ServiceStrategy;

impl Strategy for ServiceStrategy {
    type Object = Service;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;
    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut Service) {
        crate::defaults::core::default_service(object);
    }

    fn prepare_create(object: &mut Service, _: &WriteContext) {
        object.status = Some(k8s_openapi::api::core::v1::ServiceStatus {
            load_balancer: Some(Default::default()),
            ..Default::default()
        });
    }

    crate::kind::keep_status!(update);

    fn validate_create(object: &Service) -> ErrorList {
        crate::validation::core::validate_service(object)
    }

    fn validate_update(new: &Service, old: &Service) -> ErrorList {
        crate::validation::core::validate_service_update(new, old)
    }

    fn validate_status_update(new: &Service, old: &Service) -> ErrorList {
        crate::validation::core::validate_service_status_update(new, old)
    }

    fn warnings(new: &Service, old: Option<&Service>) -> Vec<String> {
        crate::validation::core::warnings_service(new, old)
    }

    fn name_errors(name: &str, prefix: bool) -> Vec<String> {
        // Services may have the names of other DNS labels since 1.36: they may begin with a digit.
        crate::validation::names::label_name(name, prefix)
    }

    fn status_warnings(new: &Service) -> Vec<String> {
        crate::validation::warnings::warnings_service_status(new)
    }

    fn row(object: &Service, now: Timestamp) -> Vec<Value> {
        let Some(spec) = &object.spec else {
            return vec![
                object.metadata.name.clone().into(),
                "".into(),
                "<none>".into(),
                "<unknown>".into(),
                "<none>".into(),
                printing::age(&object.metadata, now),
                "<none>".into(),
            ];
        };
        let cluster_ip = spec
            .cluster_ips
            .as_ref()
            .and_then(|addresses| addresses.first());
        let ports = spec
            .ports
            .iter()
            .flatten()
            .map(port_text)
            .collect::<Vec<_>>()
            .join(",");
        vec![
            object.metadata.name.clone().into(),
            spec.type_.clone().unwrap_or_default().into(),
            printing::text_or(cluster_ip, "<none>"),
            external_addresses(object, spec).into(),
            printing::text_or(Some(&ports), "<none>"),
            printing::age(&object.metadata, now),
            printing::labels(spec.selector.as_ref()).into(),
        ]
    }
}

fn port_text(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or_default();
    match port.node_port {
        Some(node_port) if node_port > 0 => format!("{}:{node_port}/{protocol}", port.port),
        _ => format!("{}/{protocol}", port.port),
    }
}

fn external_addresses(service: &Service, spec: &ServiceSpec) -> String {
    let external = spec.external_ips.clone().unwrap_or_default();
    match spec.type_.as_deref() {
        Some("ClusterIP" | "NodePort") if external.is_empty() => "<none>".to_owned(),
        Some("ClusterIP" | "NodePort") => external.join(","),
        Some("LoadBalancer") => {
            let ingress = service
                .status
                .as_ref()
                .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
            let balancers: BTreeSet<String> = ingress
                .into_iter()
                .flatten()
                .filter_map(|ingress| {
                    ingress
                        .ip
                        .clone()
                        .filter(|ip| !ip.is_empty())
                        .or_else(|| ingress.hostname.clone())
                })
                .filter(|address| !address.is_empty())
                .collect();
            let all: Vec<String> = balancers.into_iter().chain(external).collect();
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        Some("ExternalName") => spec.external_name.clone().unwrap_or_default(),
        _ => "<unknown>".to_owned(),
    }
}
