//! How old versions relate to the stored ones where more than the version's name differs.

use serde_json::{Map, Value, json};

use crate::conversion::{object, put_annotation, take_annotation};

/// The same fields under another version.
pub(super) fn reversioned(mut value: Value, api_version: &str) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.insert("apiVersion".to_owned(), api_version.into());
    }
    value
}

/// Nothing to fill in.
pub(super) fn no_defaults(_: &mut Value) {}

/// What is at a path of fields, if all of them are there.
fn at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter()
        .try_fold(value, |value, field| value.get_mut(field))
}

/// The elements of the list under a field.
fn elements<'a>(parent: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = parent.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// A workload without a selector selects what its template is labelled with.
pub(super) fn default_selector(value: &mut Value) {
    let labels = value.pointer("/spec/template/metadata/labels").cloned();
    let (Some(labels), Some(spec)) = (labels, object(value, "spec")) else {
        return;
    };
    let given = spec
        .get("selector")
        .is_some_and(|selector| !selector.is_null());
    if !given && labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        spec.insert("selector".to_owned(), json!({"matchLabels": labels}));
    }
}

/// Pods are replaced only when somebody deletes them.
fn default_on_delete(value: &mut Value) {
    default_selector(value);
    if let Some(spec) = object(value, "spec") {
        let strategy = spec.entry("updateStrategy").or_insert_with(|| json!({}));
        if let Some(strategy) = strategy.as_object_mut()
            && strategy
                .get("type")
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
        {
            strategy.insert("type".to_owned(), "OnDelete".into());
        }
    }
}

/// `extensions/v1beta1` daemon sets, `apps/v1beta1` stateful sets.
pub(super) const ON_DELETE: fn(&mut Value) = default_on_delete;

const ROLLBACK: &str = "deprecated.deployment.rollback.to";
const GENERATION: &str = "deprecated.daemonset.template.generation";

/// Moves a field of the spec (of the object in `inner`, if that is not empty) into an annotation.
fn field_to_annotation(value: &mut Value, field: &str, inner: &str, key: &str) {
    let taken = object(value, "spec").and_then(|spec| spec.remove(field));
    let taken = taken.and_then(|taken| match inner {
        "" => Some(taken),
        inner => taken.get(inner).cloned(),
    });
    if let Some(number) = taken.filter(Value::is_number) {
        put_annotation(value, key, &number);
    }
}

pub(super) fn deployment_to_storage(value: Value) -> Value {
    let mut value = reversioned(value, "apps/v1");
    field_to_annotation(&mut value, "rollbackTo", "revision", ROLLBACK);
    value
}

pub(super) fn deployment_from_storage(value: Value, api_version: &str) -> Value {
    let mut value = reversioned(value, api_version);
    if let Some(revision) = take_annotation(&mut value, ROLLBACK)
        && let Some(spec) = object(&mut value, "spec")
    {
        spec.insert("rollbackTo".to_owned(), json!({"revision": revision}));
    }
    value
}

pub(super) fn daemon_set_to_storage(value: Value) -> Value {
    let mut value = reversioned(value, "apps/v1");
    field_to_annotation(&mut value, "templateGeneration", "", GENERATION);
    value
}

pub(super) fn daemon_set_from_storage(value: Value) -> Value {
    let mut value = reversioned(value, "extensions/v1beta1");
    if let Some(generation) = take_annotation(&mut value, GENERATION)
        && let Some(spec) = object(&mut value, "spec")
    {
        spec.insert("templateGeneration".to_owned(), generation);
    }
    value
}

/// `{serviceName, servicePort}` as `{service: {name, port: {name or number}}}`.
fn backend_to_v1(backend: &mut Value) {
    let Some(fields) = backend.as_object_mut() else {
        return;
    };
    let name = fields.remove("serviceName").unwrap_or_default();
    let port = fields.remove("servicePort").unwrap_or_default();
    let port = match port {
        Value::String(name) => json!({"name": name}),
        Value::Number(number) => json!({"number": number}),
        _ => json!({}),
    };
    let is_named = name.as_str().is_some_and(|name| !name.is_empty());
    if is_named || port != json!({}) {
        let name = name.as_str().unwrap_or_default();
        fields.insert("service".to_owned(), json!({"name": name, "port": port}));
    }
}

fn backend_from_v1(backend: &mut Value) {
    let Some(fields) = backend.as_object_mut() else {
        return;
    };
    if let Some(mut service) = fields.remove("service") {
        fields.insert("serviceName".to_owned(), service["name"].take());
        let mut port = service["port"].take();
        let port = match port.get_mut("name").map(Value::take) {
            Some(name) => name,
            None => port.get_mut("number").map(Value::take).unwrap_or_default(),
        };
        if !port.is_null() {
            fields.insert("servicePort".to_owned(), port);
        }
    }
}

fn each_backend(value: &mut Value, default: &str, change: fn(&mut Value)) {
    let Some(spec) = value.get_mut("spec") else {
        return;
    };
    if let Some(backend) = spec.get_mut(default) {
        change(backend);
    }
    for rule in elements(spec, "rules") {
        if let Some(http) = rule.get_mut("http") {
            elements(http, "paths")
                .filter_map(|path| path.get_mut("backend"))
                .for_each(change);
        }
    }
}

fn rename(fields: Option<&mut Map<String, Value>>, from: &str, to: &str) {
    if let Some(fields) = fields
        && let Some(value) = fields.remove(from)
    {
        fields.insert(to.to_owned(), value);
    }
}

/// A path without a type means what the controller likes.
pub(super) fn default_path_types(value: &mut Value) {
    let Some(spec) = value.get_mut("spec") else {
        return;
    };
    for rule in elements(spec, "rules") {
        let Some(http) = rule.get_mut("http") else {
            continue;
        };
        for path in elements(http, "paths").filter_map(Value::as_object_mut) {
            path.entry("pathType")
                .or_insert_with(|| "ImplementationSpecific".into());
        }
    }
}

pub(super) fn ingress_to_storage(value: Value) -> Value {
    let mut value = reversioned(value, "networking.k8s.io/v1");
    each_backend(&mut value, "backend", backend_to_v1);
    rename(object(&mut value, "spec"), "backend", "defaultBackend");
    value
}

pub(super) fn ingress_from_storage(value: Value, api_version: &str) -> Value {
    let mut value = reversioned(value, api_version);
    each_backend(&mut value, "defaultBackend", backend_from_v1);
    rename(object(&mut value, "spec"), "defaultBackend", "backend");
    value
}

// In policy/v1beta1 an empty selector selects no pod, in v1 all; the other meaning is a selector on a label that no pod
// has.
const EMPTY_MATCH: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

fn on_empty_match(operator: &str) -> Value {
    json!({"matchExpressions": [{"key": EMPTY_MATCH, "operator": operator}]})
}

fn swap_selector(value: &mut Value, pairs: &[(Value, Value)]) {
    if let Some(selector) = at(value, &["spec", "selector"])
        && let Some((_, to)) = pairs.iter().find(|(from, _)| from == selector)
    {
        *selector = to.clone();
    }
}

pub(super) fn disruption_budget_to_storage(value: Value) -> Value {
    let mut value = reversioned(value, "policy/v1");
    let pairs = [
        (json!({}), on_empty_match("Exists")),
        (on_empty_match("DoesNotExist"), json!({})),
    ];
    swap_selector(&mut value, &pairs);
    value
}

pub(super) fn disruption_budget_from_storage(value: Value) -> Value {
    let mut value = reversioned(value, "policy/v1beta1");
    let pairs = [
        (json!({}), on_empty_match("DoesNotExist")),
        (on_empty_match("Exists"), json!({})),
    ];
    swap_selector(&mut value, &pairs);
    value
}

const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn endpoint_slice_to_storage(value: Value) -> Value {
    let mut value = reversioned(value, "discovery.k8s.io/v1");
    for endpoint in elements(&mut value, "endpoints").filter_map(Value::as_object_mut) {
        if let Some(Value::Object(mut topology)) = endpoint.remove("topology") {
            if let Some(zone) = topology.remove(ZONE) {
                endpoint.insert("zone".to_owned(), zone);
            }
            if !topology.is_empty() {
                endpoint.insert("deprecatedTopology".to_owned(), topology.into());
            }
        }
    }
    value
}

pub(super) fn endpoint_slice_from_storage(value: Value) -> Value {
    let mut value = reversioned(value, "discovery.k8s.io/v1beta1");
    for endpoint in elements(&mut value, "endpoints").filter_map(Value::as_object_mut) {
        let topology = endpoint.remove("deprecatedTopology").unwrap_or_default();
        let mut topology = topology.as_object().cloned().unwrap_or_default();
        if let Some(zone) = endpoint.remove("zone") {
            topology.insert(ZONE.to_owned(), zone);
        }
        if !topology.is_empty() {
            endpoint.insert("topology".to_owned(), topology.into());
        }
    }
    value
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// `rbac.authorization.k8s.io/v1alpha1` subjects name a version, later ones a group.
pub(super) fn binding_to_storage(value: Value) -> Value {
    let mut value = reversioned(value, "rbac.authorization.k8s.io/v1");
    for subject in elements(&mut value, "subjects").filter_map(Value::as_object_mut) {
        let version = subject.remove("apiVersion").unwrap_or_default();
        let group = version.as_str().and_then(|version| version.split_once('/'));
        if let Some((group, _)) = group {
            subject.insert("apiGroup".to_owned(), group.into());
        }
    }
    value
}

pub(super) fn binding_from_storage(value: Value) -> Value {
    let mut value = reversioned(value, "rbac.authorization.k8s.io/v1alpha1");
    for subject in elements(&mut value, "subjects").filter_map(Value::as_object_mut) {
        let group = subject.remove("apiGroup").unwrap_or_default();
        let version = match group.as_str() {
            Some(RBAC) => format!("{RBAC}/v1alpha1"),
            _ => "v1".to_owned(),
        };
        subject.insert("apiVersion".to_owned(), version.into());
    }
    value
}
