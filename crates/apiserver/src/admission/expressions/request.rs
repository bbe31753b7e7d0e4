//! The types of `request` and `namespaceObject`, and the namespace as expressions see it.

use std::sync::Arc;

use serde_json::Value as Json;
use skiff_cel::{Schema, Type};

/// The type of `request`.
pub(super) fn request_schema() -> Arc<Schema> {
    let text = Schema::string;
    let kind = Schema::object(
        "kubernetes.GroupVersionKind",
        [("group", text()), ("version", text()), ("kind", text())],
    );
    let resource = Schema::object(
        "kubernetes.GroupVersionResource",
        [("group", text()), ("version", text()), ("resource", text())],
    );
    let user = Schema::object(
        "kubernetes.UserInfo",
        [
            ("username", text()),
            ("uid", text()),
            ("groups", Schema::list(text())),
            ("extra", Schema::map(Schema::list(text()))),
        ],
    );
    Schema::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", text()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Schema::bool()),
            ("options", Schema::any()),
        ],
    )
}

/// The type of `namespaceObject`.
pub(super) fn namespace_schema() -> Arc<Schema> {
    let text = Schema::string;
    let time = || Schema::of(Type::Timestamp);
    let texts = || Schema::list(text());
    let spec = Schema::object("kubernetes.NamespaceSpec", [("finalizers", texts())]);
    let condition = Schema::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", time()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let status = Schema::object(
        "kubernetes.NamespaceStatus",
        [("conditions", Schema::list(condition)), ("phase", text())],
    );
    let metadata = Schema::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", Schema::map(text())),
            ("annotations", Schema::map(text())),
            ("UID", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", Schema::int()),
            ("deletionTimestamp", time()),
            ("generation", Schema::int()),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    Schema::object(
        "kubernetes.Namespace",
        [("metadata", metadata), ("spec", spec), ("status", status)],
    )
}

/// A namespace as expressions see it: without its owners and its record of owners.
pub(crate) fn namespace_object(namespace: &Json) -> Json {
    let mut object = namespace.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Json::as_object_mut) {
        for hidden in ["managedFields", "ownerReferences", "selfLink"] {
            metadata.remove(hidden);
        }
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("apiVersion");
        object.remove("kind");
    }
    object
}
