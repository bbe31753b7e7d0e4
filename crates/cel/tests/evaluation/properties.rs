use proptest::prelude::*;
use skiff_cel::{Bindings, Environment, PER_CALL_LIMIT, Value, from_openapi};

use super::json;

fn number() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        any::<i8>().prop_map(|n| format!("({n})")),
        Just("self.n".to_owned()),
        Just("size(self.list)".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone(), "[-+*/%]")
                .prop_map(|(a, b, op)| format!("({a} {op} {b})")),
            inner
                .clone()
                .prop_map(|a| format!("[{a}, 2].map(x, x + {a}).sum()")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("({a} > {b} ? {a} : {b})")),
        ]
    })
    .boxed()
}

fn text() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        "[a-z]{0,6}".prop_map(|s| format!("'{s}'")),
        Just("self.text".to_owned()),
        Just("self.list[0]".to_owned()),
    ];
    leaf.prop_recursive(3, 10, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} + {b})")),
            inner
                .clone()
                .prop_map(|a| format!("{a}.upperAscii().trim()")),
            inner.prop_map(|a| format!("{a}.replace('a', 'bcd')")),
        ]
    })
    .boxed()
}

fn truth() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        (number(), number(), "(<=|==|!=|>)").prop_map(|(a, b, op)| format!("{a} {op} {b}")),
        (text(), text()).prop_map(|(a, b)| format!("{a}.startsWith({b})")),
        text().prop_map(|a| format!("{a}.matches('[a-c]+')")),
        text().prop_map(|a| format!("{a} in self.list")),
        text().prop_map(|a| format!("self.list.exists(x, x == {a})")),
        text().prop_map(|a| format!("self.labels.all(k, k != {a})")),
        Just("has(self.n)".to_owned()),
    ];
    leaf.prop_recursive(3, 10, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            inner.prop_map(|a| format!("self.list.all(y, {a})")),
        ]
    })
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_compiler_panic(source in ".{0,80}") {
        let _ = super::environment().compile(&source);
    }

    #[test]
    fn no_pile_of_tokens_makes_it_panic(tokens in proptest::collection::vec(
        proptest::sample::select(vec![
            "(", ")", "[", "]", "{", "}", ".", ",", "?", ":", "!", "-", "+", "*", "==", "in", "&&", "||", "1", "2u",
            "1.5", "'a'", "b'b'", "object", "x", "has", "all", "map", "exists", "cel.bind", "optional.of", "true",
            "null", "size", "matches", "duration", "format", "@", "`a`", "\"", "\\", "//", "\n",
        ]), 0..30)) {
        let _ = super::environment().compile(&tokens.join(" "));
        let _ = super::environment().compile(&tokens.concat());
    }

    #[test]
    fn evaluation_is_the_same_each_time_and_costs_no_more_than_estimated(source in truth(), n in any::<i16>(), text in "[a-z]{0,5}") {
        let schema = json!({"type": "object", "properties": {
            "n": {"type": "integer"},
            "text": {"type": "string", "maxLength": 5},
            "list": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 5}},
            "labels": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "string"}},
        }});
        let schema = from_openapi(&schema, false, "T").expect("a schema");
        let environment = Environment::new().variable_of("self", schema.clone());
        let program = environment.compile(&source).map_err(|e| TestCaseError::fail(format!("{source}: {e}")))?;
        let json = json!({"n": n, "text": text, "list": ["a", text], "labels": {"x": "y"}});
        let bindings = Bindings::new().with("self", Value::from_typed_json(&json, &schema).expect("a value"));
        let one = program.evaluate(&bindings, PER_CALL_LIMIT);
        let two = program.evaluate(&bindings, PER_CALL_LIMIT);
        prop_assert_eq!(one.cost, two.cost);
        prop_assert_eq!(one.result.map(|v| v.as_bool()), two.result.map(|v| v.as_bool()));
        // As upstream, which we follow to the number: the estimate of these two counts the argument, the evaluation the text
        // that it is looked for in.
        let differs = source.contains("startsWith") || source.contains("endsWith");
        prop_assert!(differs || one.cost <= program.estimated_cost().max, "{}: {} > {:?}", source, one.cost, program.estimated_cost());
    }
}
