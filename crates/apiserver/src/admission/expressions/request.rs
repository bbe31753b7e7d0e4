//! The request as expressions see it: `request`, and `namespaceObject`.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use skiff_cel::{Schema, Type};

use crate::admission::matching::{Match, Matching};
use crate::admission::{AdmissionRequest, Operation};
use crate::registry::Resource;

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

/// What a resource's objects (or its subresource's) are, as rules and reviews write it.
pub(crate) struct Shown {
    pub kind: Json,
    pub resource: Json,
}

impl Shown {
    /// Of a resource, under a subresource.
    pub fn of(resource: &Resource, subresource: &str) -> Self {
        let own = &resource.kind;
        let found = Some(subresource)
            .filter(|name| !name.is_empty())
            .and_then(|name| resource.subresource(name));
        let kind = match found {
            Some(subresource) => {
                let (group, version, kind) = &subresource.kind;
                json!({"group": group, "version": version, "kind": kind})
            }
            None => json!({"group": own.group, "version": own.version, "kind": own.kind}),
        };
        Self {
            kind,
            resource: json!({"group": own.group, "version": own.version, "resource": own.plural}),
        }
    }
}

fn put(object: &mut Map<String, Json>, name: &str, text: &str) {
    if !text.is_empty() {
        object.insert(name.to_owned(), text.into());
    }
}

/// The request as an AdmissionRequest shows it, objects aside; `matched` says what it was taken for.
pub(crate) fn request_value(matching: &Matching<'_>, matched: &Match) -> Json {
    let request = matching.request;
    let asked = matching.asked();
    let own = Shown::of(request.resource, request.subresource);
    let taken = match matched {
        Match::Own => Shown::of(request.resource, request.subresource),
        Match::Equivalent(resource) => Shown::of(resource, request.subresource),
    };
    let user = &request.call.user;
    let mut info = Map::new();
    put(&mut info, "username", &user.name);
    put(&mut info, "uid", &user.uid);
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".to_owned(), json!(user.extra));
    }
    let mut object = Map::new();
    object.insert("uid".to_owned(), "".into());
    object.insert("kind".to_owned(), taken.kind);
    object.insert("resource".to_owned(), taken.resource);
    put(&mut object, "subResource", request.subresource);
    object.insert("requestKind".to_owned(), own.kind);
    object.insert("requestResource".to_owned(), own.resource);
    put(&mut object, "requestSubResource", request.subresource);
    put(&mut object, "name", asked.name);
    put(&mut object, "namespace", asked.namespace);
    object.insert("operation".to_owned(), request.operation.as_str().into());
    object.insert("userInfo".to_owned(), info.into());
    object.insert("dryRun".to_owned(), request.dry_run.into());
    object.insert("options".to_owned(), options(request));
    object.into()
}

/// The options of the operation, as the client gave them.
pub(crate) fn options(request: &AdmissionRequest<'_>) -> Json {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        // What is connected to is said by the object.
        Operation::Connect => return Json::Null,
    };
    let mut options = Map::new();
    options.insert("kind".to_owned(), kind.into());
    options.insert("apiVersion".to_owned(), "meta.k8s.io/v1".into());
    if request.dry_run {
        options.insert("dryRun".to_owned(), json!(["All"]));
    }
    let query = &request.call.query;
    let names: &[&str] = match request.operation {
        Operation::Delete => &["propagationPolicy"],
        _ => &["fieldManager", "fieldValidation"],
    };
    for name in names {
        put(&mut options, name, query.get(name));
    }
    if request.operation == Operation::Delete
        && let Ok(Some(seconds)) = query.number("gracePeriodSeconds")
    {
        options.insert("gracePeriodSeconds".to_owned(), seconds.into());
    }
    options.into()
}
