use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
};
use serde_json::{Value, json};

use super::{bindings, policies};
use crate::field::ErrorList;
use crate::validation::expressions::{
    ExpressionChecker, ExpressionScope, ExpressionUse, SelectorFault,
};

/// Finds `bad` in expressions wrong.
struct Finder;

impl ExpressionChecker for Finder {
    fn scope(&self, _: bool) -> Box<dyn ExpressionScope + '_> {
        Box::new(Self)
    }
    fn device_selector(&self, _: &str) -> Result<(), SelectorFault> {
        Ok(())
    }
}

impl ExpressionScope for Finder {
    fn check(&mut self, expression: &str, purpose: ExpressionUse) -> Result<(), String> {
        match expression.contains("bad") {
            true => Err(format!("not a {:?}", purpose.result)),
            false => Ok(()),
        }
    }
    fn declare(&mut self, _: &str, text: &str, purpose: ExpressionUse) -> Result<(), String> {
        self.check(text, purpose)
    }
}

fn lines(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// A valid object with one value set at a JSON pointer (`null` takes it out).
fn with(base: &Value, pointer: &str, value: Value) -> Value {
    let mut object = base.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap();
    match parent {
        Value::Object(map) if value.is_null() => drop(map.remove(last)),
        Value::Object(map) => drop(map.insert(last.to_owned(), value)),
        Value::Array(list) => list[last.parse::<usize>().unwrap()] = value,
        _ => unreachable!(),
    }
    object
}

fn resources() -> Value {
    json!({
        "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {},
        "resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"], "resources": ["deployments"], "scope": "*"}],
    })
}

fn validating() -> Value {
    json!({"metadata": {"name": "p.example.com"}, "spec": {
        "failurePolicy": "Fail", "matchConstraints": resources(),
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "c", "expression": "true"}],
        "variables": [{"name": "v", "expression": "1"}],
        "validations": [{"expression": "true", "message": "m", "reason": "Invalid"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "'x'"}],
    }})
}

#[test]
fn validating_policies() {
    let m = "/spec/matchConstraints";
    let rule = "/spec/matchConstraints/resourceRules/0";
    let table: Vec<(String, Value, &[&str])> = vec![
        (
            "/spec/failurePolicy".into(),
            json!("X"),
            &[
                "spec.failurePolicy: Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
            ],
        ),
        (
            m.into(),
            Value::Null,
            &["spec.matchConstraints: Required value"],
        ),
        (
            format!("{m}/resourceRules"),
            json!([]),
            &["spec.matchConstraints.resourceRules: Required value"],
        ),
        (
            format!("{m}/matchPolicy"),
            json!("Like"),
            &[
                "spec.matchConstraints.matchPolicy: Unsupported value: \"Like\": supported values: \"Equivalent\", \"Exact\"",
            ],
        ),
        (
            format!("{m}/namespaceSelector"),
            Value::Null,
            &["spec.matchConstraints.namespaceSelector: Required value"],
        ),
        (
            format!("{m}/objectSelector"),
            json!({"matchLabels": {"-": "x"}}),
            &[
                "spec.matchConstraints.objectSelector.matchLabels: Invalid value: \"-\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ],
        ),
        (
            format!("{rule}/operations"),
            json!(["*", "CREATE"]),
            &[
                "spec.matchConstraints.resourceRules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ],
        ),
        (
            format!("{rule}/operations"),
            json!(["GET"]),
            &[
                "spec.matchConstraints.resourceRules[0].operations[0]: Unsupported value: \"GET\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
            ],
        ),
        (
            format!("{rule}/apiGroups"),
            json!(["*", "apps"]),
            &[
                "spec.matchConstraints.resourceRules[0].apiGroups: Invalid value: [\"*\",\"apps\"]: if '*' is present, must not specify other API groups",
            ],
        ),
        (
            format!("{rule}/apiVersions"),
            json!([""]),
            &["spec.matchConstraints.resourceRules[0].apiVersions[0]: Required value"],
        ),
        (
            format!("{rule}/resources"),
            json!(["pods/*", "pods/log"]),
            &[
                "spec.matchConstraints.resourceRules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
            ],
        ),
        (
            format!("{rule}/resources"),
            json!(["*", "pods"]),
            &[
                "spec.matchConstraints.resourceRules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            ],
        ),
        (
            format!("{rule}/resources"),
            json!(["*/*", "pods"]),
            &[
                "spec.matchConstraints.resourceRules[0].resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify other resources",
            ],
        ),
        (
            format!("{rule}/scope"),
            json!("Here"),
            &[
                "spec.matchConstraints.resourceRules[0].scope: Unsupported value: \"Here\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
            ],
        ),
        (
            format!("{rule}/resourceNames"),
            json!(["a", "a", "."]),
            &[
                "spec.matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
                "spec.matchConstraints.resourceRules[0].resourceNames[2]: Invalid value: \".\": may not be '.'",
            ],
        ),
        (
            "/spec/paramKind/apiVersion".into(),
            json!("a/b/c"),
            &[
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            ],
        ),
        (
            "/spec/paramKind/apiVersion".into(),
            json!("apps/"),
            &["spec.paramKind.apiVersion: Invalid value: \"apps/\": version must be specified"],
        ),
        (
            "/spec/paramKind/kind".into(),
            json!(""),
            &["spec.paramKind.kind: Required value"],
        ),
        (
            "/spec/matchConditions/0/expression".into(),
            json!(" "),
            &["spec.matchConditions[0].expression: Required value"],
        ),
        (
            "/spec/matchConditions/0/expression".into(),
            json!(" bad "),
            &["spec.matchConditions[0].expression: Invalid value: \"bad\": not a Bool"],
        ),
        (
            "/spec/matchConditions".into(),
            json!([{"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}]),
            &["spec.matchConditions[1].name: Duplicate value: \"a\""],
        ),
        (
            "/spec/variables/0/name".into(),
            json!("in"),
            &["spec.variables[0].name: Invalid value: \"in\": must be a valid CEL identifier"],
        ),
        (
            "/spec/variables/0/expression".into(),
            json!(""),
            &["spec.variables[0].expression: Required value: expression is not specified"],
        ),
        (
            "/spec/variables/0/expression".into(),
            json!("bad"),
            &["spec.variables[0].expression: Invalid value: \"bad\": not a Any"],
        ),
        (
            "/spec/validations/0/expression".into(),
            json!(""),
            &["spec.validations[0].expression: Required value: expression is not specified"],
        ),
        (
            "/spec/validations/0/expression".into(),
            json!("bad"),
            &["spec.validations[0].expression: Invalid value: \"bad\": not a Bool"],
        ),
        (
            "/spec/validations/0/messageExpression".into(),
            json!(" "),
            &[
                "spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
            ],
        ),
        (
            "/spec/validations/0/messageExpression".into(),
            json!("bad"),
            &["spec.validations[0].messageExpression: Invalid value: \"bad\": not a String"],
        ),
        (
            "/spec/validations/0/message".into(),
            json!("a\nb"),
            &[
                "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
            ],
        ),
        (
            "/spec/validations/0/reason".into(),
            json!("Why"),
            &[
                "spec.validations[0].reason: Unsupported value: \"Why\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            ],
        ),
        (
            "/spec/auditAnnotations/0/valueExpression".into(),
            json!("bad"),
            &[
                "spec.auditAnnotations[0].valueExpression: Invalid value: \"bad\": not a StringOrNull",
            ],
        ),
        (
            "/spec/auditAnnotations".into(),
            json!([{"key": "k", "valueExpression": "'a'"}, {"key": "k", "valueExpression": "'a'"}]),
            &["spec.auditAnnotations[1].key: Duplicate value: \"k\""],
        ),
    ];
    let valid = validating();
    let errors = |value: Value| {
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(value).unwrap();
        lines(&policies::validate_validating(&policy, None, &Finder))
    };
    assert_eq!(errors(valid.clone()), Vec::<String>::new());
    for (pointer, value, expected) in table {
        let shown = format!("{pointer} {value}");
        assert_eq!(errors(with(&valid, &pointer, value)), expected, "{shown}");
    }
    let mut empty = valid;
    empty["spec"]["validations"] = json!([]);
    empty["spec"]["auditAnnotations"] = json!([]);
    let detail = "Required value: validations or auditAnnotations must contain at least one item";
    assert_eq!(
        errors(empty),
        [
            format!("spec.validations: {detail}"),
            format!("spec.auditAnnotations: {detail}")
        ]
    );
}

#[test]
fn unchanged_match_conditions_stay_as_they_are() {
    let mut value = validating();
    value["spec"]["matchConditions"][0]["expression"] = json!("bad");
    let old: ValidatingAdmissionPolicy = serde_json::from_value(value).unwrap();
    assert!(policies::validate_validating(&old, Some(&old), &Finder).is_empty());
    let mut new = old.clone();
    new.spec.as_mut().unwrap().param_kind = None;
    assert_eq!(
        policies::validate_validating(&new, Some(&old), &Finder).len(),
        1
    );
}

#[test]
fn mutating_policies() {
    let valid = json!({"metadata": {"name": "p"}, "spec": {
        "failurePolicy": "Fail", "matchConstraints": resources(), "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
    }});
    let mutation = "/spec/mutations/0";
    let table: Vec<(String, Value, &[&str])> = vec![
        (
            "/spec/reinvocationPolicy".into(),
            Value::Null,
            &["spec.reinvocationPolicy: Required value"],
        ),
        (
            "/spec/reinvocationPolicy".into(),
            json!("Often"),
            &[
                "spec.reinvocationPolicy: Unsupported value: \"Often\": supported values: \"IfNeeded\", \"Never\"",
            ],
        ),
        (
            "/spec/mutations".into(),
            json!([]),
            &["spec.mutations: Required value: mutations must contain at least one item"],
        ),
        (
            "/spec/matchConstraints/resourceRules/0/operations".into(),
            json!(["DELETE"]),
            &[
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ],
        ),
        (
            format!("{mutation}/patchType"),
            json!("X"),
            &[
                "spec.mutations[0].patchType: Unsupported value: \"X\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
            ],
        ),
        (
            format!("{mutation}/patchType"),
            json!(""),
            &["spec.mutations[0].patchType: Required value"],
        ),
        (
            format!("{mutation}/patchType"),
            json!("ApplyConfiguration"),
            &[
                "spec.mutations[0].applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration",
                "spec.mutations[0].jsonPatch: Invalid value: \"{jsonPatch}\": must not be specified when patchType is ApplyConfiguration",
            ],
        ),
        (
            format!("{mutation}/jsonPatch/expression"),
            json!(""),
            &["spec.mutations[0].jsonPatch.expression: Required value"],
        ),
        (
            format!("{mutation}/jsonPatch/expression"),
            json!("bad"),
            &["spec.mutations[0].jsonPatch.expression: Invalid value: \"bad\": not a JsonPatch"],
        ),
    ];
    let errors = |value: Value| {
        let policy: MutatingAdmissionPolicy = serde_json::from_value(value).unwrap();
        lines(&policies::validate_mutating(&policy, None, &Finder))
    };
    assert_eq!(errors(valid.clone()), Vec::<String>::new());
    for (pointer, value, expected) in table {
        let shown = format!("{pointer} {value}");
        assert_eq!(errors(with(&valid, &pointer, value)), expected, "{shown}");
    }
}

#[test]
fn policy_bindings() {
    let valid = json!({"metadata": {"name": "b"}, "spec": {
        "policyName": "p", "validationActions": ["Deny", "Audit"],
        "paramRef": {"name": "x", "parameterNotFoundAction": "Deny"},
        "matchResources": resources(),
    }});
    let table: Vec<(&str, Value, &[&str])> = vec![
        (
            "/spec/policyName",
            json!(""),
            &["spec.policyName: Required value"],
        ),
        (
            "/spec/validationActions",
            json!([]),
            &["spec.validationActions: Required value: at least one validation action is required"],
        ),
        (
            "/spec/validationActions",
            json!(["Deny", "Deny"]),
            &["spec.validationActions[1]: Duplicate value: \"Deny\""],
        ),
        (
            "/spec/validationActions",
            json!(["Log"]),
            &[
                "spec.validationActions[0]: Unsupported value: \"Log\": supported values: \"Audit\", \"Deny\", \"Warn\"",
            ],
        ),
        (
            "/spec/validationActions",
            json!(["Deny", "Warn"]),
            &[
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            ],
        ),
        (
            "/spec/paramRef/name",
            Value::Null,
            &["spec.paramRef: Required value: one of name or selector must be specified"],
        ),
        (
            "/spec/paramRef/selector",
            json!({}),
            &[
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
            ],
        ),
        (
            "/spec/paramRef/parameterNotFoundAction",
            Value::Null,
            &["spec.paramRef.parameterNotFoundAction: Required value"],
        ),
        (
            "/spec/paramRef/parameterNotFoundAction",
            json!("Warn"),
            &[
                "spec.paramRef.parameterNotFoundAction: Unsupported value: \"Warn\": supported values: \"Deny\", \"Allow\"",
            ],
        ),
        (
            "/spec/matchResources/matchPolicy",
            Value::Null,
            &["spec.matchResources.matchPolicy: Required value"],
        ),
    ];
    let errors = |value: Value| {
        let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(value).unwrap();
        lines(&bindings::validate_validating(&binding))
    };
    assert_eq!(errors(valid.clone()), Vec::<String>::new());
    for (pointer, value, expected) in table {
        let shown = format!("{pointer} {value}");
        assert_eq!(errors(with(&valid, pointer, value)), expected, "{shown}");
    }
    let mut deleting = valid;
    deleting["spec"]["matchResources"]["resourceRules"][0]["operations"] = json!(["DELETE"]);
    let binding: MutatingAdmissionPolicyBinding = serde_json::from_value(deleting).unwrap();
    assert_eq!(
        lines(&bindings::validate_mutating(&binding)),
        [
            "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
        ]
    );
}
