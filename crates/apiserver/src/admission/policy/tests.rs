use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, ValidatingAdmissionPolicy,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use skiff_api::schema::body::Target;

use super::validating::{Annotation, Decision, Outcome};
use super::{mutating, validating};
use crate::admission::expressions::Inputs;

fn inputs<'a>(object: &'a Value, request: &'a Value, params: &'a Value) -> Inputs<'a> {
    Inputs {
        object,
        old_object: &Value::Null,
        request,
        params,
        namespace: &Value::Null,
        authorizer: None,
    }
}

fn policy(spec: Value) -> validating::Policy {
    let object = json!({"metadata": {"name": "p"}, "spec": spec});
    let object: ValidatingAdmissionPolicy = serde_json::from_value(object).unwrap();
    validating::Policy::new(&object)
}

fn denied(message: &str) -> Decision {
    Decision::Deny(message.to_owned(), "Invalid".to_owned())
}

fn failed(message: &str) -> Decision {
    Decision::Deny(message.to_owned(), String::new())
}

#[test]
fn messages_in_the_order_of_their_sources() {
    let object = json!({"n": 1, "s": "x"});
    let long = "'a'".to_owned() + &".replace('a', 'aaaaaaaaaa')".repeat(4);
    #[rustfmt::skip]
    let table = [
        (json!({"expression": "object.n == 1"}), Decision::Admit),
        (json!({"expression": " object.n == 2 "}), denied("failed expression: object.n == 2")),
        (json!({"expression": "object.n == 2", "message": " two "}), denied("two")),
        (json!({"expression": "object.n == 2", "message": "two", "messageExpression": "' got ' + object.s"}), denied("got x")),
        // What a message expression cannot say, the message says.
        (json!({"expression": "object.n == 2", "message": "two", "messageExpression": "object.none"}), denied("two")),
        (json!({"expression": "object.n == 2", "message": "two", "messageExpression": "'  '"}), denied("two")),
        (json!({"expression": "object.n == 2", "message": "two", "messageExpression": "'a\\nb'"}), denied("two")),
        (json!({"expression": "object.n == 2", "message": "two", "messageExpression": long}), denied("two")),
        (json!({"expression": "object.n == 2", "reason": "Forbidden"}), Decision::Deny("failed expression: object.n == 2".into(), "Forbidden".into())),
        (json!({"expression": "object.none == 2"}), failed("expression 'object.none == 2' resulted in error: no such key: none")),
        (json!({"expression": "1"}), failed("compilation error: must evaluate to bool but got int")),
    ];
    for (validation, expected) in table {
        let outcome = policy(json!({"validations": [validation]})).evaluate(inputs(
            &object,
            &Value::Null,
            &Value::Null,
        ));
        assert_eq!(outcome.decisions, [expected], "{validation}");
    }
}

#[test]
fn failures_and_conditions() {
    let object = json!({"n": 1});
    let evaluate = |failure: &str, conditions: Value| {
        let spec = json!({"failurePolicy": failure, "matchConditions": conditions,
            "validations": [{"expression": "object.none"}, {"expression": "object.n == 2", "message": "m"}]});
        policy(spec).evaluate(inputs(&object, &Value::Null, &Value::Null))
    };
    let ignored = evaluate("Ignore", json!([]));
    assert_eq!(ignored.decisions, [Decision::Admit, denied("m")]);
    let yes = json!({"name": "yes", "expression": "true"});
    let no = json!({"name": "no", "expression": "object.n == 2"});
    let bad = json!({"name": "bad", "expression": "object.none == 2"});
    let error = "expression 'object.none == 2' resulted in error: no such key: none";
    for (failure, conditions, expected) in [
        ("Fail", json!([yes, no, bad]), vec![]),
        ("Fail", json!([bad, no]), vec![]),
        ("Fail", json!([yes, bad]), vec![failed(error)]),
        ("Ignore", json!([yes, bad]), vec![Decision::Admit]),
    ] {
        let outcome = evaluate(failure, conditions.clone());
        assert_eq!(outcome.decisions, expected, "{failure} {conditions}");
    }
}

#[test]
fn audit_annotations() {
    let object = json!({"s": " text ", "n": 1});
    let evaluate =
        |failure: &str, expression: &str| -> Outcome {
            let annotation = json!([{"key": "k", "valueExpression": expression}]);
            policy(json!({"failurePolicy": failure, "auditAnnotations": annotation}))
                .evaluate(inputs(&object, &Value::Null, &Value::Null))
        };
    for (failure, expression, expected) in [
        (
            "Fail",
            "'the ' + object.s",
            Annotation::Publish("k".into(), "the  text".into()),
        ),
        ("Fail", "null", Annotation::Exclude),
        ("Fail", "' '", Annotation::Exclude),
        (
            "Fail",
            "string(object.none)",
            Annotation::Error(
                "expression 'string(object.none)' resulted in error: no such key: none".into(),
            ),
        ),
        ("Ignore", "string(object.none)", Annotation::Exclude),
    ] {
        let outcome = evaluate(failure, expression);
        assert_eq!(outcome.annotations, [expected], "{failure} {expression}");
    }
}

#[test]
fn a_variable_is_computed_once_and_its_failure_named() {
    let object = json!({"n": 2});
    let spec = json!({
        "variables": [{"name": "a", "expression": "object.n"}, {"name": "b", "expression": "variables.a * 2"}, {"name": "c", "expression": "object.none"}],
        "validations": [{"expression": "variables.b == 4 && variables.b + variables.a == 6"}, {"expression": "variables.c == 1"}],
    });
    let outcome = policy(spec).evaluate(inputs(&object, &Value::Null, &Value::Null));
    assert_eq!(
        outcome.decisions,
        [
            Decision::Admit,
            failed(
                "expression 'variables.c == 1' resulted in error: composited variable \"c\" fails to evaluate: no such key: none"
            )
        ]
    );
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let name = prop_oneof![
            Just("metadata"),
            Just("spec"),
            Just("a"),
            Just("labels"),
            Just("template")
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name.prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("object".to_owned()),
        Just("object.spec.a".to_owned()),
        Just("object.metadata.labels".to_owned()),
        Just("oldObject".to_owned()),
        Just("request.userInfo.groups".to_owned()),
        Just("params.a".to_owned()),
        Just("variables.v".to_owned()),
        Just("'é'".to_owned()),
        Just("9223372036854775807".to_owned()),
        Just("-1.5e300".to_owned()),
        Just("null".to_owned()),
        Just("[1, 'a', null]".to_owned()),
        Just("{'a': [{}]}".to_owned()),
        Just("authorizer.path('/').check('get').allowed()".to_owned()),
        Just(
            "Object{spec: Object.spec{a: 1}, metadata: Object.metadata{labels: {'a': 'b'}}}"
                .to_owned()
        ),
        Just("[JSONPatch{op: 'add', path: '/spec/replicas', value: 3}]".to_owned()),
        Just("[JSONPatch{op: 'copy', from: '/spec', path: '/spec/a'}]".to_owned()),
        ".{0,12}",
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let operator = prop_oneof![
            Just("+"),
            Just("-"),
            Just("*"),
            Just("/"),
            Just("%"),
            Just("=="),
            Just("<"),
            Just("&&"),
            Just("||"),
            Just("in"),
        ];
        prop_oneof![
            (two.clone(), operator).prop_map(|((a, b), op)| format!("({a}) {op} ({b})")),
            two.clone()
                .prop_map(|(a, b)| format!("({a}) ? ({b}) : ({a})")),
            two.clone()
                .prop_map(|(a, b)| format!("({a}).all(x, x == ({b}))")),
            two.clone()
                .prop_map(|(a, b)| format!("({a}).map(x, [x, {b}])")),
            two.prop_map(|(a, b)| format!("({a})[{b}]")),
            inner.clone().prop_map(|a| format!("size({a}) > 0")),
            inner
                .clone()
                .prop_map(|a| format!("string({a}).matches('(a|b)*')")),
            inner.prop_map(|a| format!("quantity(string({a})).isGreaterThan(quantity('1'))")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever a policy says, and whatever it is asked about, there is an answer.
    #[test]
    fn arbitrary_policies_never_panic(
        sources in proptest::collection::vec(expression(), 6),
        object in json_value(),
        params in json_value(),
    ) {
        let spec = json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "variables": [{"name": "v", "expression": sources[0]}],
            "matchConditions": [{"name": "c", "expression": format!("({}) == 1 || true", sources[1])}],
            "validations": [{"expression": sources[2], "messageExpression": sources[3]}, {"expression": format!("({}) == ({})", sources[2], sources[4])}],
            "auditAnnotations": [{"key": "k", "valueExpression": sources[5]}],
        });
        let request = json!({"userInfo": {"groups": ["a"]}});
        let _ = policy(spec.clone()).evaluate(inputs(&object, &request, &params));

        let mutations = json!({"metadata": {"name": "m"}, "spec": {
            "paramKind": spec["paramKind"], "variables": spec["variables"],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": sources[3]}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression": sources[4]}}],
        }});
        let mutating: MutatingAdmissionPolicy = serde_json::from_value(mutations).unwrap();
        let mutating = mutating::Policy::new(&mutating);
        let kinds = skiff_api::kinds();
        let kind = kinds.iter().find(|kind| kind.kind == "Deployment").unwrap();
        let target = Target::of(kind).unwrap();
        for mutation in &mutating.mutations {
            let _ = mutating.mutate(mutation, inputs(&object, &request, &params), &target);
        }
    }
}
