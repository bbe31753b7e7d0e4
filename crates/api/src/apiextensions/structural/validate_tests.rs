use serde_json::json;

use super::super::node;
use super::*;

fn texts(schema: Value, value: Value) -> Vec<String> {
    let errors = validate(&value, None, &node(schema));
    errors.iter().map(ToString::to_string).collect()
}

/// The schema of `spec.x`, and a value of it.
fn of_field(schema: Value, value: Value) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": schema}}}});
    texts(schema, json!({"spec": {"x": value}}))
}

#[test]
fn faults_are_told_in_upstreams_words() {
    let table = [
        (
            json!({"type": "integer"}),
            json!("a"),
            r#"spec.x: Invalid value: "string": spec.x in body must be of type integer: "string""#,
        ),
        (
            json!({"type": "string"}),
            json!(null),
            r#"spec.x: Invalid value: "null": spec.x in body must be of type string: "null""#,
        ),
        (
            json!({"type": "integer"}),
            json!(1.5),
            r#"spec.x: Invalid value: "number": spec.x in body must be of type integer: "number""#,
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            r#"spec.x: Unsupported value: "c": supported values: "a", "b""#,
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            r#"spec.x: Invalid value: "b": spec.x in body should match '^a+$'"#,
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("abc"),
            "spec.x: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("a"),
            r#"spec.x: Invalid value: "a": spec.x in body should be at least 2 chars long"#,
        ),
        (
            json!({"type": "integer", "minimum": 2}),
            json!(1),
            "spec.x: Invalid value: 1: spec.x in body should be greater than or equal to 2",
        ),
        (
            json!({"type": "integer", "maximum": 2, "exclusiveMaximum": true}),
            json!(2),
            "spec.x: Invalid value: 2: spec.x in body should be less than 2",
        ),
        (
            json!({"type": "integer", "multipleOf": 2}),
            json!(3),
            "spec.x: Invalid value: 3: spec.x in body should be a multiple of 2",
        ),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
            json!(["a", "b"]),
            "spec.x: Too many: 2: must have at most 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!(["a", 1]),
            r#"spec.x[1]: Invalid value: "integer": spec.x[1] in body must be of type string: "integer""#,
        ),
        (
            json!({"type": "object", "required": ["y"]}),
            json!({}),
            "spec.x.y: Required value",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"k": 1}),
            r#"spec.x.k: Invalid value: "integer": spec.x.k in body must be of type string: "integer""#,
        ),
        (
            json!({"type": "string", "format": "ipv4"}),
            json!("x"),
            r#"spec.x: Invalid value: "x": spec.x in body must be of type ipv4: "x""#,
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            r#"spec.x: Invalid value: "boolean": spec.x in body must be of type integer,string: "boolean""#,
        ),
        (
            json!({"type": "integer", "not": {"minimum": 5}}),
            json!(7),
            r#"<nil>: Invalid value: "": "spec.x" must not validate the schema (not)"#,
        ),
    ];
    for (schema, value, expected) in table {
        let got = of_field(schema.clone(), value.clone());
        assert!(
            got.iter().any(|text| text == expected),
            "{schema} {value}: {got:#?}"
        );
        assert_eq!(got.len(), 1, "{schema} {value}: {got:#?}");
    }
}

#[test]
fn what_fits_is_not_complained_of() {
    let table = [
        (json!({"type": "integer"}), json!(1.0)),
        (json!({"type": "number"}), json!(1)),
        (json!({"type": "string", "nullable": true}), json!(null)),
        (json!({"x-kubernetes-int-or-string": true}), json!("10%")),
        (json!({"x-kubernetes-int-or-string": true}), json!(5)),
        (json!({"type": "integer", "format": "int64"}), json!(5)),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("2026-01-01T00:00:00Z"),
        ),
        (
            json!({"x-kubernetes-preserve-unknown-fields": true}),
            json!([1, {"a": null}]),
        ),
        (
            json!({"type": "string", "enum": ["a", null], "nullable": true}),
            json!(null),
        ),
    ];
    for (schema, value) in table {
        let got = of_field(schema.clone(), value.clone());
        assert!(got.is_empty(), "{schema} {value}: {got:?}");
    }
}

#[test]
fn alternatives_hold_as_they_say() {
    let one = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert!(of_field(one.clone(), json!({"a": "1"})).is_empty());
    assert_eq!(
        of_field(one.clone(), json!({"a": "1", "b": "2"})),
        [
            r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
        ]
    );
    let none = of_field(one, json!({}));
    assert_eq!(
        none[0],
        r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found none valid"#
    );
    let any = json!({"type": "integer", "anyOf": [{"minimum": 10}, {"maximum": 2}]});
    assert!(of_field(any.clone(), json!(1)).is_empty());
    assert_eq!(
        of_field(any, json!(5))[0],
        r#"<nil>: Invalid value: "": "spec.x" must validate at least one schema (anyOf)"#
    );
}

#[test]
fn what_has_not_changed_is_not_judged_anew() {
    let schema = node(json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "string"},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}},
    }}));
    let old = json!({"a": "long", "l": [{"k": "x", "v": 5}]});
    let new = json!({"a": "long", "b": "new", "l": [{"k": "y", "v": 1}, {"k": "x", "v": 5}]});
    assert!(validate(&new, Some(&old), &schema).is_empty());
    assert_eq!(validate(&new, None, &schema).len(), 2);
    let worse = json!({"a": "longer", "l": [{"k": "x", "v": 6}]});
    assert_eq!(validate(&worse, Some(&old), &schema).len(), 2);
}
