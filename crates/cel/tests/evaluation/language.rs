use super::*;

#[test]
fn fields_and_operators() {
    gives(&[
        ("object.spec.replicas <= 5", json!(true)),
        ("object.metadata.labels['app'] == 'web'", json!(true)),
        ("object.spec.names[1]", json!("b")),
        (
            "has(object.spec.replicas) && !has(object.spec.other)",
            json!(true),
        ),
        ("1 + 2 * 3 - 4 / 2 % 3", json!(5)),
        ("-(-9223372036854775807) - 1", json!(9223372036854775806i64)),
        ("2.5 * 2.0", json!(5.0)),
        ("'a' + 'b'", json!("ab")),
        ("[1] + [2, 3]", json!([1, 2, 3])),
        ("1 < 2 ? 'yes' : 'no'", json!("yes")),
        (
            "'b' in object.spec.names && !('z' in object.spec.names)",
            json!(true),
        ),
        ("'app' in object.metadata.labels", json!(true)),
        ("{'a': 1, 'b': 2}.b", json!(2)),
        ("dyn(1) == 1.0 && dyn(1u) == 1", json!(true)),
        ("1 < 2u && 2u > 1.5 && 1 <= 1.0", json!(true)),
        (
            "type(1) == int && type('') == string && type([]) == list",
            json!(true),
        ),
        ("object.spec.nothing == null", json!(true)),
    ]);
}

#[test]
fn logic_makes_up_for_faults() {
    gives(&[
        ("true || 1 / 0 > 0", json!(true)),
        ("1 / 0 > 0 || true", json!(true)),
        ("false && 1 / 0 > 0", json!(false)),
        ("1 / 0 > 0 && false", json!(false)),
        ("[1, 0].exists(x, 1 / x == 1)", json!(true)),
        ("[0, 1].exists(x, 1 / x == 1)", json!(true)),
        ("[0, 2].all(x, 2 / x == 2)", json!(false)),
    ]);
    fails(&[
        ("false || 1 / 0 > 0", "division by zero"),
        ("[0, 1].all(x, 1 / x == 1)", "division by zero"),
    ]);
}

#[test]
fn faults() {
    fails(&[
        ("9223372036854775807 + 1", "integer overflow"),
        ("1u - 2u", "unsigned integer overflow"),
        ("1 % 0", "modulus by zero"),
        ("object.spec.missing", "no such key: missing"),
        ("object.spec.names[7]", "index out of bounds: 7"),
        ("{'a': 1}['b']", "no such key: b"),
        ("int('x')", "type conversion error from 'string' to 'int'"),
        ("dyn('a') + dyn(1)", "no such overload"),
    ]);
}

#[test]
fn what_it_costs() {
    costs(&[
        ("object.spec.replicas <= 5", 4),
        ("has(object.spec.replicas)", 2),
        ("1 + 1 == 2", 2),
        ("'abc' + 'def' == 'abcdef'", 2),
        ("[1, 2, 3].all(x, x > 0)", 3 * (2 + 1 + 2) + 1),
        ("['a', 'b'].exists(x, x == 'z')", 2 * (3 + 1 + 2) + 1),
        ("object.spec.names.map(n, n)", 3 + 3 * (1 + 10 + 1 + 1) + 1),
        ("'a' in ['a', 'b']", 0),
        ("'b' in object.spec.names", 3 + 1),
        ("'aaaaaaaaaa'.contains('a')", 1),
        ("'aaaaaaaaaa'.matches('a+')", 2),
    ]);
}
