//! What storage drivers and their helpers write: VolumeAttachments, CSINodes, CSIStorageCapacities, VolumeAttributesClasses.

use std::collections::BTreeSet;

use k8s_openapi::api::storage::v1::{
    CSINode, CSINodeDriver, CSIStorageCapacity, VolumeAttachment, VolumeAttributesClass,
    VolumeError,
};

use super::absent::{count, entries, items, text};
use super::core::pod::volumes::csi_driver_name;
use super::meta::{SelectorRules, has_invalid_value, label_selector, shown_selector};
use super::names;
use super::quantity::Amount;
use super::storage::parameters;
use super::values::{NEGATIVE, all_invalid, immutable, json, non_negative, required};
use crate::field::{ErrorList, FieldError, Path};

const METADATA_SIZE: usize = 256 * 1024;
const MESSAGE_SIZE: usize = 1024;
const NODE_ID_LENGTH: usize = 256;

/// What is wrong with a VolumeAttachment, its metadata aside.
#[must_use]
pub fn validate_volume_attachment(attachment: &VolumeAttachment) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = &attachment.spec;
    csi_driver_name(&mut errors, &spec.attacher, &path.child("attacher"));
    let source_path = path.child("source");
    let source = &spec.source;
    let volume = source.persistent_volume_name.as_ref();
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (volume, &source.inline_volume_spec) {
        (None, None) => errors.push(FieldError::required(&source_path, ONE)),
        (Some(_), Some(_)) => errors.push(FieldError::forbidden(&source_path, ONE)),
        (Some(name), None) if name.is_empty() => errors.push(FieldError::required(
            &source_path.child("persistentVolumeName"),
            "must specify non empty persistentVolumeName",
        )),
        _ => {}
    }
    let node = &spec.node_name;
    all_invalid(
        &mut errors,
        &path.child("nodeName"),
        node,
        names::dns_subdomain(node),
    );
    if let Some(status) = &attachment.status {
        let path = Path::new("status");
        let size: usize = entries(&status.attachment_metadata)
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if size > METADATA_SIZE {
            errors.push(FieldError::too_long(
                &path.child("attachmentMetadata"),
                METADATA_SIZE,
            ));
        }
        volume_error(
            &mut errors,
            status.attach_error.as_ref(),
            &path.child("attachError"),
        );
        volume_error(
            &mut errors,
            status.detach_error.as_ref(),
            &path.child("detachError"),
        );
    }
    if let Some(name) = volume {
        let path = source_path.child("persistentVolumeName");
        all_invalid(&mut errors, &path, name, names::dns_subdomain(name));
    }
    errors
}

fn volume_error(errors: &mut ErrorList, error: Option<&VolumeError>, path: &Path) {
    let Some(error) = error else { return };
    if text(&error.message).len() > MESSAGE_SIZE {
        // Upstream names the limit of the metadata here.
        errors.push(FieldError::too_long(&path.child("message"), METADATA_SIZE));
    }
    if let Some(code) = error.error_code.filter(|code| *code < 0) {
        let range = names::range_error(0, i64::from(i32::MAX));
        errors.push(FieldError::invalid(&path.child("errorCode"), code, &range));
    }
}

/// What is wrong with a changed VolumeAttachment: what is asked for stays.
#[must_use]
pub fn validate_volume_attachment_update(
    new: &VolumeAttachment,
    old: &VolumeAttachment,
) -> ErrorList {
    let mut errors = validate_volume_attachment(new);
    let shown = json(&new.spec);
    immutable(&mut errors, &Path::new("spec"), &new.spec, &old.spec, shown);
    errors
}

/// What is wrong with a CSINode, its metadata aside.
#[must_use]
pub fn validate_csi_node(node: &CSINode) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("drivers");
    let mut names = BTreeSet::new();
    for (index, driver) in node.spec.drivers.iter().enumerate() {
        let path = path.index(index);
        csi_driver_name(&mut errors, &driver.name, &path.child("name"));
        node_id(&mut errors, &driver.node_id, &path.child("nodeID"));
        let limit = driver.allocatable.as_ref().and_then(|limits| limits.count);
        if let Some(limit) = limit {
            non_negative(
                &mut errors,
                &path.child("allocatable").child("count"),
                limit,
            );
        }
        if !names.insert(&driver.name) {
            errors.push(FieldError::duplicate(&path.child("name"), &driver.name));
        }
        topology_keys(&mut errors, driver, &path);
    }
    errors
}

fn node_id(errors: &mut ErrorList, id: &str, path: &Path) {
    required(errors, path, id);
    if id.len() > NODE_ID_LENGTH {
        let detail = format!("must be {NODE_ID_LENGTH} characters or less");
        errors.push(FieldError::invalid(path, id, &detail));
    }
}

fn topology_keys(errors: &mut ErrorList, driver: &CSINodeDriver, path: &Path) {
    let mut seen = BTreeSet::new();
    for key in items(&driver.topology_keys) {
        required(errors, path, key);
        if !seen.insert(key) {
            errors.push(FieldError::duplicate(path, key));
        }
        all_invalid(errors, path, key, names::qualified_name(key));
    }
}

/// What is wrong with a changed CSINode: of a driver that stays only the limit changes.
#[must_use]
pub fn validate_csi_node_update(new: &CSINode, old: &CSINode) -> ErrorList {
    let mut errors = validate_csi_node(new);
    let path = Path::new("spec").child("drivers");
    let plain = |driver: &CSINodeDriver| CSINodeDriver {
        allocatable: None,
        ..driver.clone()
    };
    for old in &old.spec.drivers {
        for new in new.spec.drivers.iter().filter(|new| new.name == old.name) {
            let (new, old) = (plain(new), plain(old));
            immutable(&mut errors, &path, &new, &old, json(&new));
        }
    }
    errors
}

/// What is wrong with a CSIStorageCapacity, its metadata aside.
#[must_use]
pub fn validate_csi_storage_capacity(capacity: &CSIStorageCapacity) -> ErrorList {
    capacity_errors(capacity, SelectorRules::default())
}

fn capacity_errors(capacity: &CSIStorageCapacity, rules: SelectorRules) -> ErrorList {
    let mut errors = ErrorList::new();
    let topology = capacity.node_topology.as_ref();
    label_selector(&mut errors, topology, rules, &Path::new("nodeTopology"));
    let (path, class) = (Path::new("storageClassName"), &capacity.storage_class_name);
    all_invalid(&mut errors, &path, class, names::dns_subdomain(class));
    if let Some(quantity) = &capacity.capacity
        && Amount::of(quantity).is_negative()
    {
        errors.push(FieldError::invalid(
            &Path::new("capacity"),
            &quantity.0,
            NEGATIVE,
        ));
    }
    errors
}

/// What is wrong with a changed CSIStorageCapacity: what it is the capacity of stays.
#[must_use]
pub fn validate_csi_storage_capacity_update(
    new: &CSIStorageCapacity,
    old: &CSIStorageCapacity,
) -> ErrorList {
    let rules = SelectorRules {
        allow_invalid_values: old.node_topology.as_ref().is_some_and(has_invalid_value),
    };
    let mut errors = capacity_errors(new, rules);
    let (path, shown) = (
        Path::new("nodeTopology"),
        shown_selector(new.node_topology.as_ref()),
    );
    immutable(
        &mut errors,
        &path,
        &new.node_topology,
        &old.node_topology,
        shown,
    );
    let (class, old_class) = (&new.storage_class_name, &old.storage_class_name);
    immutable(
        &mut errors,
        &Path::new("storageClassName"),
        class,
        old_class,
        class,
    );
    errors
}

/// What is wrong with a VolumeAttributesClass, its metadata aside.
#[must_use]
pub fn validate_volume_attributes_class(class: &VolumeAttributesClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("driverName");
    required(&mut errors, &path, &class.driver_name);
    if !class.driver_name.is_empty() {
        let name = class.driver_name.to_lowercase();
        all_invalid(&mut errors, &path, &name, names::qualified_name(&name));
    }
    parameters(&mut errors, &class.parameters);
    if count(&class.parameters) == 0 {
        errors.push(FieldError::required(
            &Path::new("parameters"),
            "must contain at least one key/value pair",
        ));
    }
    errors
}

/// What is wrong with a changed VolumeAttributesClass: nothing may change.
#[must_use]
pub fn validate_volume_attributes_class_update(
    new: &VolumeAttributesClass,
    old: &VolumeAttributesClass,
) -> ErrorList {
    let mut errors = ErrorList::new();
    for (field, changed) in [
        ("driverName", new.driver_name != old.driver_name),
        ("parameters", new.parameters != old.parameters),
    ] {
        if changed {
            let detail = format!("updates to {field} are forbidden.");
            errors.push(FieldError::forbidden(&Path::new(field), &detail));
        }
    }
    errors.extend(validate_volume_attributes_class(new));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn of<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn attachment(source: Value, attacher: &str, node: &str) -> VolumeAttachment {
        of(
            json!({"metadata": {}, "spec": {"attacher": attacher, "nodeName": node, "source": source}}),
        )
    }

    #[test]
    fn attachments() {
        let volume = json!({"persistentVolumeName": "v"});
        let good = attachment(volume.clone(), "csi.example.org", "n");
        assert_eq!(texts(validate_volume_attachment(&good)), [""; 0]);
        let table = [
            (
                attachment(json!({}), "", "n"),
                vec![
                    "spec.attacher: Required value",
                    "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ],
            ),
            (
                attachment(
                    json!({"persistentVolumeName": "", "inlineVolumeSpec": {}}),
                    "a",
                    "n",
                ),
                vec![
                    "spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ],
            ),
        ];
        for (attachment, wanted) in table {
            let errors = texts(validate_volume_attachment(&attachment));
            assert!(
                errors.starts_with(&wanted.iter().map(ToString::to_string).collect::<Vec<_>>()),
                "{errors:?}"
            );
        }
        let moved = attachment(volume, "csi.example.org", "m");
        let errors = texts(validate_volume_attachment_update(&moved, &good));
        assert_eq!(errors.len(), 1);
        assert!(errors[0].ends_with("field is immutable"), "{errors:?}");
    }

    #[test]
    fn nodes_of_drivers() {
        let node = |drivers: Value| -> CSINode {
            of(json!({"metadata": {}, "spec": {"drivers": drivers}}))
        };
        let driver = |id: &str, count: i32| json!({"name": "d", "nodeID": id, "topologyKeys": ["a"], "allocatable": {"count": count}});
        assert_eq!(
            texts(validate_csi_node(&node(json!([driver("n", 1)])))),
            [""; 0]
        );
        assert_eq!(
            texts(validate_csi_node(&node(json!([
                driver("", 1),
                driver("x", -1)
            ])))),
            [
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[1].name: Duplicate value: \"d\"",
            ]
        );
        let old = node(json!([driver("n", 1)]));
        assert!(validate_csi_node_update(&node(json!([driver("n", 7)])), &old).is_empty());
        assert_eq!(
            validate_csi_node_update(&node(json!([driver("m", 1)])), &old).len(),
            1
        );
    }

    #[test]
    fn capacities_and_classes() {
        let capacity = |class: &str, amount: &str| -> CSIStorageCapacity {
            of(json!({"metadata": {}, "storageClassName": class, "capacity": amount}))
        };
        assert!(validate_csi_storage_capacity(&capacity("c", "1Gi")).is_empty());
        assert_eq!(
            texts(validate_csi_storage_capacity(&capacity("c", "-1"))),
            ["capacity: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
        assert_eq!(
            texts(validate_csi_storage_capacity_update(
                &capacity("d", "1"),
                &capacity("c", "2")
            )),
            ["storageClassName: Invalid value: \"d\": field is immutable"]
        );
        let class = |driver: &str, parameters: Value| -> VolumeAttributesClass {
            of(json!({"metadata": {}, "driverName": driver, "parameters": parameters}))
        };
        assert_eq!(
            texts(validate_volume_attributes_class(&class("", json!({})))),
            [
                "driverName: Required value",
                "parameters: Required value: must contain at least one key/value pair",
            ]
        );
        assert_eq!(
            texts(validate_volume_attributes_class_update(
                &class("d", json!({"a": "c"})),
                &class("d", json!({"a": "b"}))
            )),
            ["parameters: Forbidden: updates to parameters are forbidden."]
        );
    }
}
