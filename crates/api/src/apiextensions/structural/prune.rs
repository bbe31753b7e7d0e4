//! Takes away the fields that a schema does not know.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::{Additional, META, Node};

/// Prunes an object of a custom resource, its metadata excepted, and answers the paths of what was taken, sorted.
pub fn prune(object: &mut Map<String, Value>, schema: &Node) -> Vec<String> {
    let mut pruner = Pruner {
        path: String::new(),
        gone: Vec::new(),
    };
    pruner.fields(object, schema, true);
    pruner.gone.sort();
    pruner.gone
}

struct Pruner {
    path: String,
    gone: Vec<String>,
}

impl Pruner {
    fn within(&mut self, step: std::fmt::Arguments<'_>, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        // Writing to a string does not fail.
        let _ = self.path.write_fmt(step);
        then(self);
        self.path.truncate(length);
    }

    fn in_field(&mut self, name: &str, then: impl FnOnce(&mut Self)) {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.within(format_args!("{dot}{name}"), then);
    }

    fn record(&mut self, name: &str) {
        self.in_field(name, |pruner| pruner.gone.push(pruner.path.clone()));
    }

    /// `schema`: `None` knows nothing, so that scalars stay and objects become empty.
    fn value(&mut self, value: &mut Value, schema: Option<&Node>) {
        match value {
            Value::Object(map) => match schema {
                Some(schema) => self.fields(map, schema, schema.embedded),
                None => {
                    for (name, _) in std::mem::take(map) {
                        self.record(&name);
                    }
                }
            },
            Value::Array(list) => {
                if let Some(schema) = schema.filter(|schema| schema.preserve) {
                    return self.preserved_list(list, schema);
                }
                let items = schema.and_then(|schema| schema.items.as_deref());
                for (index, value) in list.iter_mut().enumerate() {
                    self.within(format_args!("[{index}]"), |pruner| {
                        pruner.value(value, items);
                    });
                }
            }
            _ => {}
        }
    }

    fn preserved_list(&mut self, list: &mut [Value], schema: &Node) {
        let Some(items) = schema.items.as_deref() else {
            return;
        };
        for (index, value) in list.iter_mut().enumerate() {
            self.within(format_args!("[{index}]"), |pruner| match value {
                Value::Object(map) => pruner.known_fields(map, items, items.embedded),
                Value::Array(list) => pruner.preserved_list(list, items),
                _ => {}
            });
        }
    }

    fn fields(&mut self, map: &mut Map<String, Value>, schema: &Node, embedded: bool) {
        if schema.preserve {
            return self.known_fields(map, schema, embedded);
        }
        let mut gone = Vec::new();
        for (name, value) in map.iter_mut() {
            if embedded && META.contains(&name.as_str()) {
                continue;
            }
            match (schema.property(name), &schema.additional) {
                (Some(known), _) => self.in_field(name, |pruner| pruner.value(value, Some(known))),
                (None, Additional::Fitting(node)) => {
                    self.in_field(name, |pruner| pruner.value(value, Some(node)));
                }
                (None, Additional::Any(_)) => {
                    self.in_field(name, |pruner| pruner.value(value, None));
                }
                (None, Additional::Unsaid) => gone.push(name.clone()),
            }
        }
        for name in gone {
            map.remove(&name);
            self.record(&name);
        }
    }

    /// Unknown fields stay; those that the schema knows are pruned by it.
    fn known_fields(&mut self, map: &mut Map<String, Value>, schema: &Node, embedded: bool) {
        for (name, value) in map.iter_mut() {
            if embedded && META.contains(&name.as_str()) {
                continue;
            }
            match (schema.property(name), &schema.additional) {
                (Some(known), _) => self.in_field(name, |pruner| pruner.value(value, Some(known))),
                (None, Additional::Fitting(node)) => {
                    self.in_field(name, |pruner| pruner.value(value, Some(node)));
                }
                (None, Additional::Any(_)) => {
                    self.in_field(name, |pruner| pruner.value(value, None));
                }
                (None, Additional::Unsaid) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::node;
    use super::*;

    fn pruned(schema: Value, object: Value) -> (Value, Vec<String>) {
        let Value::Object(mut map) = object else {
            panic!("no object")
        };
        let gone = prune(&mut map, &node(schema));
        (map.into(), gone)
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "string"},
                "l": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
                "m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "object"}}},
                "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
            }},
        }});
        let object = json!({
            "apiVersion": "v1", "kind": "K", "metadata": {"name": "n", "odd": 1}, "other": 1,
            "spec": {
                "a": "1", "b": 2, "l": [{"x": "1", "y": 2}], "m": {"k": {"x": "1", "y": 2}},
                "open": {"anything": {"at": "all"}, "known": {"gone": 1}},
                "embedded": {"apiVersion": "v1", "kind": "E", "metadata": {"name": "e"}, "spec": {"gone": 1}, "gone": 1},
            },
        });
        let (value, gone) = pruned(schema, object);
        assert_eq!(
            gone,
            [
                "other",
                "spec.b",
                "spec.embedded.gone",
                "spec.embedded.spec.gone",
                "spec.l[0].y",
                "spec.m.k.y",
                "spec.open.known.gone",
            ]
        );
        assert_eq!(
            value["spec"],
            json!({
                "a": "1", "l": [{"x": "1"}], "m": {"k": {"x": "1"}},
                "open": {"anything": {"at": "all"}, "known": {}},
                "embedded": {"apiVersion": "v1", "kind": "E", "metadata": {"name": "e"}, "spec": {}},
            })
        );
        assert_eq!(value["metadata"], json!({"name": "n", "odd": 1}));
    }
}
