//! `Node` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;
use std::collections::BTreeSet;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, Verb};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "proxy",
            kind: ("", "v1", "NodeProxyOptions"),
            verbs: &[
                Verb::Create,
                Verb::Delete,
                Verb::Get,
                Verb::Patch,
                Verb::Update,
            ],
        },
        Subresource::status("", "v1", "Node"),
    ],
    storage: "/registry/minions",
    columns: COLUMNS,
    fields: &[("spec.unschedulable", "/spec/unschedulable")],
    schema: "io.k8s.api.core.v1.Node",
    conversion: None,
    ops: &Typed::<NodeStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Status",
        "string",
        "Whether the node is ready and takes pods.",
    ),
    Column::new("Roles", "string", "What the node is for."),
    Column::AGE,
    Column::new("Version", "string", "The version of the kubelet."),
    Column::new("Internal-IP", "string", "The address inside the cluster.").wide(),
    Column::new("External-IP", "string", "The address outside.").wide(),
    Column::new("OS-Image", "string", "The operating system.").wide(),
    Column::new("Kernel-Version", "string", "The kernel.").wide(),
    Column::new("Container-Runtime", "string", "The container runtime.").wide(),
];

/// What is special about this kind.
pub struct NodeStrategy;

impl Strategy for NodeStrategy {
    type Object = Node;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    // A kubelet registers its node together with the status, so a creator may set it.
    crate::kind::keep_status!(update);

    fn default(object: &mut Node) {
        crate::defaults::core::default_node(object);
    }

    fn validate_create(object: &Node) -> ErrorList {
        crate::validation::core::validate_node(object)
    }

    fn validate_update(new: &Node, old: &Node) -> ErrorList {
        crate::validation::core::validate_node_update(new, old)
    }

    fn validate_status_update(new: &Node, old: &Node) -> ErrorList {
        crate::validation::core::validate_node_status_update(new, old)
    }

    fn warnings(new: &Node, old: Option<&Node>) -> Vec<String> {
        crate::validation::core::warnings_node(new, old)
    }

    fn row(object: &Node, now: Timestamp) -> Vec<Value> {
        let status = object.status.as_ref();
        let info = status.and_then(|status| status.node_info.as_ref());
        let kernel = match info {
            None => "<unknown>".to_owned(),
            Some(info) => {
                let version = if info.kernel_version.is_empty() {
                    "<unknown>"
                } else {
                    &info.kernel_version
                };
                match info.architecture.as_str() {
                    "" => version.to_owned(),
                    architecture => format!("{version} ({architecture})"),
                }
            }
        };
        vec![
            object.metadata.name.clone().into(),
            state(object).into(),
            roles(object).into(),
            printing::age(&object.metadata, now),
            info.map(|info| info.kubelet_version.clone())
                .unwrap_or_default()
                .into(),
            address(object, "InternalIP").into(),
            address(object, "ExternalIP").into(),
            printing::text_or(info.map(|info| &info.os_image), "<unknown>"),
            kernel.into(),
            printing::text_or(
                info.map(|info| &info.container_runtime_version),
                "<unknown>",
            ),
        ]
    }
}

fn state(node: &Node) -> String {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    // Of several conditions of one type the last counts.
    let ready = match conditions
        .iter()
        .rfind(|condition| condition.type_ == "Ready")
    {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node
        .spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or(false);
    if cordoned {
        format!("{ready},SchedulingDisabled")
    } else {
        ready.to_owned()
    }
}

/// The roles that the node's labels name, sorted.
fn roles(node: &Node) -> String {
    let roles: BTreeSet<&str> = node
        .metadata
        .labels
        .iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => Some(value.as_str()),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    match roles.is_empty() {
        true => "<none>".to_owned(),
        false => roles.into_iter().collect::<Vec<_>>().join(","),
    }
}

fn address<'a>(node: &'a Node, kind: &str) -> &'a str {
    let addresses = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    addresses
        .iter()
        .find(|address| address.type_ == kind)
        .map_or("<none>", |address| &address.address)
}
