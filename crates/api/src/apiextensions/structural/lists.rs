//! What must be unique in lists, and what must be in embedded objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use super::{Additional, List, Node};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::meta::validate_object_meta;

fn child(path: Option<&Path>, name: &str) -> Path {
    match path {
        Some(path) => path.child(name),
        None => Path::new(name),
    }
}

/// What is there twice in lists that are sets or maps.
pub fn validate_lists(
    path: Option<&Path>,
    object: &Map<String, Value>,
    schema: &Node,
) -> ErrorList {
    let mut errors = ErrorList::new();
    for (name, value) in object {
        if let Additional::Fitting(node) = &schema.additional {
            let path = match path {
                Some(path) => path.key(name),
                None => Path::new(name),
            };
            value_lists(&path, value, node, &mut errors);
        }
        if let Some(node) = schema.property(name) {
            value_lists(&child(path, name), value, node, &mut errors);
        }
    }
    errors
}

fn value_lists(path: &Path, value: &Value, schema: &Node, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => errors.extend(validate_lists(Some(path), map, schema)),
        Value::Array(list) => {
            match &schema.list {
                Some(List::Set) => {
                    for index in repeated(list) {
                        let value = list.get(index).cloned().unwrap_or_default();
                        errors.push(FieldError::duplicate(&path.index(index), value));
                    }
                }
                Some(List::Map(keys)) => keyed_list(path, list, keys, errors),
                Some(List::Atomic) | None => {}
            }
            if let Some(items) = schema.items.as_deref() {
                for (index, value) in list.iter().enumerate() {
                    value_lists(&path.index(index), value, items, errors);
                }
            }
        }
        _ => {}
    }
}

fn keyed_list(path: &Path, list: &[Value], keys: &[String], errors: &mut ErrorList) {
    let odd = list
        .iter()
        .position(|value| !value.is_object() && !value.is_null());
    if let Some(index) = odd {
        let value = list.get(index).cloned().unwrap_or_default();
        let why = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(&path.index(index), value, why));
        return;
    }
    let of = |value: &Value| -> Value {
        let keys = keys.iter();
        let found = keys.filter_map(|key| Some((key.clone(), value.get(key)?.clone())));
        Value::Object(found.collect())
    };
    let found: Vec<Value> = list.iter().map(of).collect();
    for index in repeated(&found) {
        let value = found.get(index).cloned().unwrap_or_default();
        errors.push(FieldError::duplicate(&path.index(index), value));
    }
}

/// The places where values come for the second time.
fn repeated(list: &[Value]) -> Vec<usize> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut places = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let times = seen.entry(value.to_string()).or_default();
        if *times == 1 {
            places.push(index);
        }
        *times += 1;
    }
    places
}

/// What is wrong with the type and metadata of embedded objects.
pub fn validate_embedded(
    path: Option<&Path>,
    object: &Map<String, Value>,
    schema: &Node,
) -> ErrorList {
    let mut errors = ErrorList::new();
    if !schema.any(&|node: &Node| node.embedded) {
        return errors;
    }
    for (name, value) in object {
        if let Some(node) = schema.property(name) {
            embedded_in(&child(path, name), value, node, &mut errors);
        } else if let Additional::Fitting(node) = &schema.additional {
            embedded_in(&child(path, name), value, node, &mut errors);
        }
    }
    errors
}

fn embedded_in(path: &Path, value: &Value, schema: &Node, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                embedded_object(path, map, errors);
            }
            errors.extend(validate_embedded(Some(path), map, schema));
        }
        Value::Array(list) => {
            if let Some(items) = schema.items.as_deref() {
                for (index, value) in list.iter().enumerate() {
                    embedded_in(&path.index(index), value, items, errors);
                }
            }
        }
        _ => {}
    }
}

fn embedded_object(path: &Path, object: &Map<String, Value>, errors: &mut ErrorList) {
    for name in ["apiVersion", "kind"] {
        let path = path.child(name);
        match object.get(name) {
            None => errors.push(FieldError::required(&path, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(&path, "", "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" => {
                if text.matches('/').count() > 1 {
                    let why = format!("unexpected GroupVersion string: {text}");
                    errors.push(FieldError::invalid(&path, text, &why));
                }
            }
            Some(Value::String(text)) => {
                let wrong = crate::validation::names::dns_1035_label(&text.to_lowercase());
                if !wrong.is_empty() {
                    let why = format!(
                        "may have mixed case, but should otherwise match: {}",
                        wrong.join(",")
                    );
                    errors.push(FieldError::invalid(&path, text, &why));
                }
            }
            Some(other) => {
                errors.push(FieldError::invalid(
                    &path,
                    other.clone(),
                    "must be a string",
                ));
            }
        }
    }
    let Some(value) = object.get("metadata") else {
        return;
    };
    let path = path.child("metadata");
    match serde_json::from_value::<ObjectMeta>(value.clone()) {
        Ok(mut meta) => {
            if meta.name.as_ref().is_none_or(String::is_empty) {
                meta.name = Some("fakename".to_owned());
            }
            let namespaced = meta.namespace.as_ref().is_some_and(|name| !name.is_empty());
            let rule =
                |name: &str, _: bool| crate::validation::names::path_segment_name(name, false);
            errors.extend(validate_object_meta(&meta, namespaced, &rule, &path));
        }
        Err(error) => {
            errors.push(FieldError::invalid(
                &path,
                value.clone(),
                &error.to_string(),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::node;
    use super::*;

    #[test]
    fn what_must_be_unique_is() {
        let schema = node(json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"], "items": {"type": "object"}},
        }}));
        let object = json!({
            "set": ["x", "y", "x", "x"],
            "map": [{"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2, "c": 3}],
        });
        let errors = validate_lists(None, object.as_object().unwrap(), &schema);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                r#"map[2]: Duplicate value: {"a":1,"b":2}"#,
                r#"set[2]: Duplicate value: "x""#,
            ]
        );
    }

    #[test]
    fn embedded_objects_say_what_they_are() {
        let schema = node(json!({"type": "object", "properties": {
            "e": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        }}));
        let object = json!({"e": {"kind": "", "metadata": {"labels": {"x/": "y"}}}});
        let errors = validate_embedded(None, object.as_object().unwrap(), &schema);
        let places: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert!(
            places.starts_with(&["e.apiVersion", "e.kind", "e.metadata.labels"]),
            "{places:?}"
        );
    }
}
