//! Adds the defaults that a schema gives.

use serde_json::{Map, Value};

use super::{Additional, Node};

/// Fills in defaults, after nulls that may not be were taken away. Idempotent.
pub fn fill(object: &mut Map<String, Value>, schema: &Node) {
    drop_nulls(object, Some(schema));
    fields(object, schema);
}

fn is_bad_null(value: &Value, schema: &Node) -> bool {
    value.is_null() && !schema.nullable
}

fn drop_nulls(map: &mut Map<String, Value>, schema: Option<&Node>) {
    map.retain(|name, value| {
        let schema = schema.and_then(|schema| schema.field(name));
        let gone =
            schema.is_some_and(|schema| is_bad_null(value, schema) && schema.default.is_none());
        if !gone {
            drop_nulls_in(value, schema);
        }
        !gone
    });
}

fn drop_nulls_in(value: &mut Value, schema: Option<&Node>) {
    match value {
        Value::Object(map) => drop_nulls(map, schema),
        Value::Array(list) => {
            let items = schema.and_then(|schema| schema.items.as_deref());
            list.iter_mut()
                .for_each(|value| drop_nulls_in(value, items));
        }
        _ => {}
    }
}

fn fields(map: &mut Map<String, Value>, schema: &Node) {
    for (name, node) in &schema.properties {
        let Some(default) = &node.default else {
            continue;
        };
        if map.get(name).is_none_or(|value| is_bad_null(value, node)) {
            map.insert(name.clone(), default.clone());
        }
    }
    for (name, value) in map.iter_mut() {
        match (schema.property(name), &schema.additional) {
            (Some(node), _) => values(value, node),
            (None, Additional::Fitting(node)) => element(value, node),
            _ => {}
        }
    }
}

fn values(value: &mut Value, schema: &Node) {
    match value {
        Value::Object(map) => fields(map, schema),
        Value::Array(list) => {
            if let Some(items) = schema.items.as_deref() {
                list.iter_mut().for_each(|value| element(value, items));
            }
        }
        _ => {}
    }
}

fn element(value: &mut Value, schema: &Node) {
    if is_bad_null(value, schema) {
        *value = schema.default.clone().unwrap_or_default();
    }
    values(value, schema);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::node;
    use super::*;

    #[test]
    fn absent_fields_and_forbidden_nulls_get_their_defaults() {
        let schema = node(json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "A"},
            "b": {"type": "string", "nullable": true, "default": "B"},
            "c": {"type": "string"},
            "d": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 1}}},
            "e": {"type": "object", "properties": {"x": {"type": "integer", "default": 1}}},
            "l": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer", "default": 2}}}},
            "m": {"type": "object", "additionalProperties": {"type": "string", "default": "M"}},
        }}));
        let table = [
            (json!({}), json!({"a": "A", "b": "B", "d": {"x": 1}})),
            (
                json!({"a": null, "b": null, "c": null}),
                json!({"a": "A", "b": null, "d": {"x": 1}}),
            ),
            (
                json!({"a": "1", "b": "2", "d": {"x": 3}, "e": {}, "l": [{}, {"x": 1}], "m": {"k": null, "l": "x"}}),
                json!({"a": "1", "b": "2", "d": {"x": 3}, "e": {"x": 1}, "l": [{"x": 2}, {"x": 1}], "m": {"k": "M", "l": "x"}}),
            ),
        ];
        for (object, expected) in table {
            let Value::Object(mut map) = object else {
                continue;
            };
            fill(&mut map, &schema);
            assert_eq!(Value::from(map.clone()), expected);
            fill(&mut map, &schema);
            assert_eq!(Value::from(map), expected, "again");
        }
    }
}
