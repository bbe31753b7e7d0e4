//! `CSIDriver` (storage.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/csidrivers",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.storage.v1.CSIDriver",
    conversion: None,
    ops: &Typed::<CSIDriverStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "AttachRequired",
        "boolean",
        "Whether volumes are attached before they are mounted.",
    ),
    Column::new(
        "PodInfoOnMount",
        "boolean",
        "Whether the driver is told about the pod.",
    ),
    Column::new(
        "StorageCapacity",
        "boolean",
        "Whether the scheduler minds the capacity.",
    ),
    Column::new(
        "TokenRequests",
        "string",
        "For which audiences the driver gets tokens.",
    ),
    Column::new(
        "RequiresRepublish",
        "boolean",
        "Whether volumes are published again from time to time.",
    ),
    Column::new("Modes", "string", "What kinds of volumes the driver does."),
    Column::AGE,
];

/// What is special about this kind.
pub struct CSIDriverStrategy;

impl Strategy for CSIDriverStrategy {
    type Object = CSIDriver;
    const HAS_GENERATION: bool = true;
    const HAS_FIRST_GENERATION: bool = false;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut CSIDriver) {
        crate::defaults::storage::default_csi_driver(object);
    }

    fn validate_create(object: &CSIDriver) -> ErrorList {
        crate::validation::storage::validate_csi_driver(object)
    }

    fn validate_update(new: &CSIDriver, old: &CSIDriver) -> ErrorList {
        crate::validation::storage::validate_csi_driver_update(new, old)
    }

    fn warnings(new: &CSIDriver, old: Option<&CSIDriver>) -> Vec<String> {
        crate::validation::warnings::warnings_csi_driver(new, old)
    }

    fn row(object: &CSIDriver, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        let modes = spec
            .volume_lifecycle_modes
            .as_ref()
            .map(|modes| modes.join(","));
        let audiences = spec.token_requests.as_ref().map_or_else(
            || "<unset>".to_owned(),
            |requests| {
                requests
                    .iter()
                    .map(|request| request.audience.as_str())
                    .collect::<Vec<_>>()
                    .join(",")
            },
        );
        vec![
            object.metadata.name.clone().into(),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or(false).into(),
            spec.storage_capacity.unwrap_or(false).into(),
            audiences.into(),
            spec.requires_republish.unwrap_or(false).into(),
            printing::text_or(modes.as_ref(), "<none>"),
            printing::age(&object.metadata, now),
        ]
    }
}
