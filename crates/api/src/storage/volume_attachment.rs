//! `VolumeAttachment` (storage.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "storage.k8s.io",
        "v1",
        "VolumeAttachment",
    )],
    storage: "/registry/volumeattachments",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.storage.v1.VolumeAttachment",
    conversion: None,
    ops: &Typed::<VolumeAttachmentStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Attacher", "string", "The driver that attaches.").name(),
    Column::new("PV", "string", "The volume."),
    Column::new("Node", "string", "The node it is on."),
    Column::new("Attached", "boolean", "Whether it is attached."),
    Column::AGE,
];

/// What is special about this kind.
pub struct VolumeAttachmentStrategy;

impl Strategy for VolumeAttachmentStrategy {
    type Object = VolumeAttachment;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut VolumeAttachment) {
        crate::defaults::storage::default_volume_attachment(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &VolumeAttachment) -> ErrorList {
        crate::validation::attachments::validate_volume_attachment(object)
    }

    fn validate_update(new: &VolumeAttachment, old: &VolumeAttachment) -> ErrorList {
        crate::validation::attachments::validate_volume_attachment_update(new, old)
    }

    fn validate_status_update(new: &VolumeAttachment, old: &VolumeAttachment) -> ErrorList {
        crate::validation::attachments::validate_volume_attachment_update(new, old)
    }

    fn row(object: &VolumeAttachment, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        vec![
            object.metadata.name.clone().into(),
            spec.attacher.clone().into(),
            spec.source
                .persistent_volume_name
                .clone()
                .unwrap_or_default()
                .into(),
            spec.node_name.clone().into(),
            object
                .status
                .as_ref()
                .is_some_and(|status| status.attached)
                .into(),
            printing::age(&object.metadata, now),
        ]
    }
}
