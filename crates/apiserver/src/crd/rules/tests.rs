use serde_json::{Value, json};
use skiff_api::Path;

use super::{Rules, definition_errors};

fn schema(spec: Value) -> Value {
    json!({"type": "object", "properties": {"spec": spec}})
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": spec})
}

fn found(schema: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
    let findings = Rules::compile(schema).validate(new, old, &Vec::new());
    findings.errors.iter().map(ToString::to_string).collect()
}

fn refused(schema: &Value) -> Vec<String> {
    let path = Path::new("spec")
        .child("validation")
        .child("openAPIV3Schema");
    definition_errors(schema, &path, true)
        .iter()
        .map(ToString::to_string)
        .collect()
}

const AT_SPEC: &str =
    "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";

#[test]
fn a_rule_holds_or_is_reported() {
    let schema = schema(json!({
        "type": "object",
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}},
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max"},
            {"rule": "self.max < 100", "message": "too much", "reason": "FieldValueForbidden", "fieldPath": ".max"},
            {"rule": "self.min >= 0", "messageExpression": "self.min < -5 ? 'far too low' : 'too' + ' low'"},
        ],
    }));
    assert_eq!(refused(&schema), Vec::<String>::new());
    assert_eq!(
        found(&schema, &object(json!({"min": 1, "max": 2})), None),
        Vec::<String>::new()
    );
    assert_eq!(
        found(&schema, &object(json!({"min": -1, "max": -2})), None),
        [
            "spec: Invalid value: failed rule: self.min <= self.max",
            "spec: Invalid value: too low",
        ]
    );
    assert_eq!(
        found(&schema, &object(json!({"min": 1, "max": 200})), None),
        ["spec.max: Forbidden: too much"]
    );
    assert_eq!(
        found(&schema, &object(json!({"min": 1})), None),
        [
            "spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max",
            "spec: Invalid value: \"object\": no such key: max evaluating rule: too much",
        ]
    );
}

#[test]
fn transition_rules_need_something_to_compare_with() {
    let schema = schema(json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20, "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "name is immutable"}]},
            "flag": {"type": "boolean", "x-kubernetes-validations": [{"rule": "!oldSelf.hasValue() || self == oldSelf.value()", "optionalOldSelf": true}]},
            "list": {
                "type": "array", "maxItems": 5,
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"],
                "items": {
                    "type": "object", "required": ["key"],
                    "properties": {"key": {"type": "string", "maxLength": 10}, "value": {"type": "integer"}},
                    "x-kubernetes-validations": [{"rule": "self.value >= oldSelf.value"}],
                },
            },
        },
    }));
    assert_eq!(refused(&schema), Vec::<String>::new());
    let old = object(
        json!({"name": "a", "flag": true, "list": [{"key": "x", "value": 3}, {"key": "y", "value": 1}]}),
    );
    let new = object(
        json!({"name": "b", "flag": false, "list": [{"key": "y", "value": 0}, {"key": "z", "value": 0}]}),
    );
    assert_eq!(found(&schema, &new, None), Vec::<String>::new());
    assert_eq!(
        found(&schema, &new, Some(&old)),
        [
            "spec.flag: Invalid value: false: failed rule: !oldSelf.hasValue() || self == oldSelf.value()",
            "spec.list[0]: Invalid value: failed rule: self.value >= oldSelf.value",
            "spec.name: Invalid value: \"b\": name is immutable",
        ]
    );
}

#[test]
fn what_was_wrong_before_and_did_not_change_is_only_warned_of() {
    let schema = schema(json!({
        "type": "object",
        "properties": {
            "a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]},
            "b": {"type": "integer"},
        },
    }));
    let old = object(json!({"a": 0, "b": 1}));
    let same = object(json!({"a": 0, "b": 2}));
    let findings = Rules::compile(&schema).validate(&same, Some(&old), &Vec::new());
    assert!(findings.errors.is_empty());
    assert_eq!(
        findings.warnings,
        ["spec.a: Invalid value: 0: failed rule: self > 0"]
    );
    let worse = object(json!({"a": -1, "b": 2}));
    assert_eq!(
        found(&schema, &worse, Some(&old)),
        ["spec.a: Invalid value: -1: failed rule: self > 0"]
    );
}

#[test]
fn a_definition_with_a_rule_that_does_not_compile_is_refused() {
    let schema = schema(json!({
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.b > 0"}],
    }));
    assert_eq!(
        refused(&schema),
        [format!(
            "{AT_SPEC}.rule: Invalid value: {{\"Rule\":\"self.b > 0\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}}: compilation failed: ERROR: <input>:1:5: undefined field 'b'\n | self.b > 0\n | ....^"
        )]
    );
    let not_bool = self::schema(json!({
        "type": "object",
        "x-kubernetes-validations": [{"rule": "1 + 1", "reason": "Nonsense", "fieldPath": ".x"}],
    }));
    assert_eq!(
        refused(&not_bool),
        [
            format!(
                "{AT_SPEC}.reason: Unsupported value: \"Nonsense\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
            ),
            format!("{AT_SPEC}.fieldPath: Invalid value: \".x\": must be a valid path"),
        ]
    );
}

#[test]
fn expensive_rules_are_refused() {
    let schema = schema(json!({
        "type": "object",
        "properties": {"list": {"type": "array", "items": {"type": "string"}}},
        "x-kubernetes-validations": [{"rule": "self.list.all(x, self.list.all(y, x == y))"}],
    }));
    let limit = "exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    assert_eq!(
        refused(&schema),
        [
            format!("{AT_SPEC}.rule: Forbidden: estimated rule cost {limit}"),
            format!(
                "{AT_SPEC}.rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            ),
            format!(
                "spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema {limit}"
            ),
        ]
    );
}

#[test]
fn old_values_of_atomic_lists_cannot_be_asked_for() {
    let schema = schema(json!({
        "type": "array", "maxItems": 10,
        "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}, {"rule": "self > 0", "optionalOldSelf": true}]},
    }));
    let at = "spec.validation.openAPIV3Schema.properties[spec].items.x-kubernetes-validations";
    assert_eq!(
        refused(&schema),
        [
            format!(
                "{at}[0].rule: Invalid value: \"self >= oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[spec]"
            ),
            format!(
                "{at}[1].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
            ),
        ]
    );
}

#[test]
fn rules_are_not_asked_about_objects_of_the_wrong_shape() {
    let schema = schema(json!({
        "type": "object",
        "x-kubernetes-validations": [{"rule": "false"}],
    }));
    let before = vec![skiff_api::FieldError::required(&Path::new("spec"), "")];
    let findings = Rules::compile(&schema).validate(&object(json!({})), None, &before);
    assert_eq!(
        findings
            .errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"
        ]
    );
}
