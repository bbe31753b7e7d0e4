//! The types of `request` and `namespaceObject`, which expressions of admission see.

use std::sync::Arc;

use crate::schema::Schema;
use crate::types::Type;

/// The type of `request`: an AdmissionRequest without uid and objects.
#[must_use]
pub fn request_schema() -> Arc<Schema> {
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
#[must_use]
pub fn namespace_schema() -> Arc<Schema> {
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
