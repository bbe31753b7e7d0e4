use super::*;

#[test]
fn macros() {
    gives(&[
        ("[1, 2, 3].map(x, x * 2)", json!([2, 4, 6])),
        ("[1, 2, 3].map(x, x > 1, x * 2)", json!([4, 6])),
        ("[1, 2, 3].filter(x, x != 2)", json!([1, 3])),
        ("[1, 2, 3].exists_one(x, x == 2)", json!(true)),
        (
            "[[1, 2], [3]].map(x, x.map(y, y + 1))",
            json!([[2, 3], [4]]),
        ),
        ("{'a': 1}.all(k, k == 'a')", json!(true)),
        ("{'a': 1}.all(k, v, k == 'a' && v == 1)", json!(true)),
        ("[4, 5].transformList(i, v, i * v)", json!([0, 5])),
        (
            "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 10)",
            json!({"b": 20}),
        ),
        (
            "[1, 2].transformMapEntry(i, v, {string(v): i})",
            json!({"1": 0, "2": 1}),
        ),
        ("cel.bind(x, 2, x * x)", json!(4)),
    ]);
}
