use skiff_cel::{
    Authorizer, Bindings, Check, Decision, Environment, Estimate, PER_CALL_LIMIT, Schema,
    ServiceAccount, Type, Value, authorizer_type, from_openapi,
};

use super::{Json, json, run};

#[track_caller]
fn refused(table: &[(&str, &str)]) {
    for (source, wanted) in table {
        let errors = super::environment()
            .compile(source)
            .err()
            .map(|e| e.to_string());
        assert_eq!(errors.as_deref(), Some(*wanted), "{source}");
    }
}

#[test]
fn faults_are_shown_with_their_place() {
    refused(&[
        (
            "objec.spec",
            "ERROR: <input>:1:1: undeclared reference to 'objec' (in container '')\n | objec.spec\n | ^",
        ),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "nope(1)",
            "ERROR: <input>:1:5: undeclared reference to 'nope' (in container '')\n | nope(1)\n | ....^",
        ),
        (
            "'a'.size(1)",
            "ERROR: <input>:1:9: found no matching overload for 'size' applied to 'string.(int)'\n | 'a'.size(1)\n | ........^",
        ),
        (
            "true &&\n  1",
            "ERROR: <input>:2:3: expected type 'bool' but found 'int'\n |   1\n | ..^",
        ),
        (
            "[1, 'a']",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^",
        ),
        (
            "1.all(x, x)",
            "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | 1.all(x, x)\n | ^",
        ),
        (
            "has(object)",
            "ERROR: <input>:1:5: invalid argument to has() macro\n | has(object)\n | ....^",
        ),
        (
            "'a'.matches('(')",
            "ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^",
        ),
        (
            "(1",
            "ERROR: <input>:1:3: Syntax error: mismatched input '<EOF>' expecting ')'\n | (1\n | ..^",
        ),
        (
            "99999999999999999999",
            "ERROR: <input>:1:1: invalid int literal\n | 99999999999999999999\n | ^",
        ),
        (
            "if + 1",
            "ERROR: <input>:1:1: reserved identifier: if\n | if + 1\n | ^",
        ),
    ]);
}

#[test]
fn types_are_found() {
    let schema = json!({"type": "object", "properties": {
        "n": {"type": "integer"}, "list": {"type": "array", "items": {"type": "string"}},
        "when": {"type": "string", "format": "date-time"}, "either": {"x-kubernetes-int-or-string": true},
        "a.b-c": {"type": "boolean"}, "namespace": {"type": "string"},
    }});
    let schema = from_openapi(&schema, false, "T").expect("a schema");
    let environment = Environment::new().variable_of("self", schema.clone());
    for (source, wanted) in [
        ("self.n + 1", Type::Int),
        ("self.list.map(x, size(x))", Type::list(Type::Int)),
        ("self.when - duration('1h')", Type::Timestamp),
        ("self.either", Type::Dyn),
        ("self.a__dot__b__dash__c", Type::Bool),
        ("self.namespace + self.__namespace__", Type::String),
        ("self.?n", Type::optional(Type::Int)),
        (
            "self.list.transformMap(i, v, v + '!')",
            Type::map(Type::Int, Type::String),
        ),
        (
            "cel.bind(x, self.n, x > 1 ? [x] : [])",
            Type::list(Type::Int),
        ),
        ("type(self.n)", Type::TypeOf(std::sync::Arc::new(Type::Int))),
    ] {
        let program = environment.compile(source).expect(source);
        assert_eq!(*program.output_type(), wanted, "{source}");
    }
    let json = json!({"n": 1, "list": ["x"], "when": "2024-01-01T00:00:00Z", "either": "5%", "a.b-c": true, "namespace": "ns"});
    let bindings = Bindings::new().with(
        "self",
        Value::from_typed_json(&json, &schema).expect("a value"),
    );
    for source in [
        "self.a__dot__b__dash__c && self.namespace == 'ns' && self.__namespace__ == 'ns'",
        "type(self.either) == string && self.when.getFullYear() == 2024",
        "self == self && has(self.n) && !has(self.?either.x.y) || true",
    ] {
        let program = environment.compile(source);
        if let Ok(program) = program {
            assert_eq!(
                program
                    .evaluate(&bindings, PER_CALL_LIMIT)
                    .result
                    .expect(source)
                    .as_bool(),
                Some(true),
                "{source}"
            );
        }
    }
}

#[test]
fn lists_are_equal_as_their_kind_says() {
    let schema = json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
            "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
        "atomic": {"type": "array", "items": {"type": "string"}},
    }});
    let schema = from_openapi(&schema, false, "T").expect("a schema");
    let environment = Environment::new()
        .variable_of("a", schema.clone())
        .variable_of("b", schema.clone());
    let one: Json = json!({"set": ["x", "y"], "atomic": ["x", "y"], "map": [{"k": "1", "v": 1}, {"k": "2", "v": 2}]});
    let two: Json = json!({"set": ["y", "x"], "atomic": ["y", "x"], "map": [{"k": "2", "v": 2}, {"k": "1", "v": 1}]});
    let bindings = Bindings::new()
        .with("a", Value::from_typed_json(&one, &schema).expect("a value"))
        .with("b", Value::from_typed_json(&two, &schema).expect("a value"));
    for source in [
        "a.set == b.set",
        "a.map == b.map",
        "a.atomic != b.atomic",
        "size(a.set + b.set) == 2",
        "size(a.map + b.map) == 2",
    ] {
        let program = environment.compile(source).expect(source);
        assert_eq!(
            program
                .evaluate(&bindings, PER_CALL_LIMIT)
                .result
                .expect(source)
                .as_bool(),
            Some(true),
            "{source}"
        );
    }
}

struct Allows;

impl Authorizer for Allows {
    fn authorize(
        &self,
        account: Option<&ServiceAccount>,
        verb: &str,
        check: &Check<'_>,
    ) -> Decision {
        let what = match check {
            Check::Path(path) => (*path).to_owned(),
            Check::Resource(r) => format!(
                "{}/{}/{}/{}/{}",
                r.group, r.resource, r.subresource, r.namespace, r.name
            ),
        };
        let who = account.map_or("me", |account| account.name.as_str());
        Decision {
            allowed: verb == "get",
            reason: format!("{who} {verb} {what}"),
            error: None,
        }
    }
}

#[test]
fn the_authorizer_is_asked() {
    let environment = Environment::new().with("authorizer", authorizer_type());
    let bindings = Bindings::new().with("authorizer", Value::authorizer(&Allows));
    for (source, wanted) in [
        (
            "authorizer.path('/healthz').check('get').allowed()",
            json!(true),
        ),
        (
            "authorizer.group('apps').resource('deployments').subresource('scale').namespace('n').name('x').check('list').reason()",
            json!("me list apps/deployments/scale/n/x"),
        ),
        (
            "authorizer.serviceAccount('ns', 'bot').group('').resource('pods').check('get').reason()",
            json!("bot get /pods///"),
        ),
        (
            "authorizer.path('/x').check('get').errored() || authorizer.path('/x').check('get').error() != ''",
            json!(false),
        ),
    ] {
        let program = environment.compile(source).expect(source);
        assert_eq!(
            program
                .evaluate(&bindings, PER_CALL_LIMIT)
                .result
                .expect(source)
                .to_json(),
            Ok(wanted),
            "{source}"
        );
    }
    let program = environment
        .compile("['a', 'b', 'c'].all(x, authorizer.path('/' + x).check('get').allowed())")
        .expect("compiles");
    let evaluation = program.evaluate(&bindings, PER_CALL_LIMIT);
    assert_eq!(
        evaluation.result.err().map(|e| e.to_string()).as_deref(),
        Some("operation cancelled: actual cost limit exceeded")
    );
}

#[test]
fn mutations_make_objects() {
    let environment = super::environment().with_mutation();
    let object = super::object();
    let bindings = Bindings::new().with("object", Value::from_json(&object));
    for (source, wanted) in [
        (
            "Object{spec: Object.spec{replicas: object.spec.replicas + 1}}",
            json!({"spec": {"replicas": 4}}),
        ),
        (
            "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b~c'), value: 1}]",
            json!([{"op": "add", "path": "/metadata/labels/a~1b~0c", "value": 1}]),
        ),
        (
            "Object{spec: Object.spec{?x: object.?nope}}",
            json!({"spec": {}}),
        ),
    ] {
        let program = environment.compile(source).expect(source);
        assert_eq!(
            program
                .evaluate(&bindings, PER_CALL_LIMIT)
                .result
                .expect(source)
                .to_json(),
            Ok(wanted),
            "{source}"
        );
    }
    assert!(super::environment().compile("Object{}").is_err());
    let errors = environment
        .compile("JSONPatch{op: 1}")
        .expect_err("wrong type");
    assert!(
        errors
            .to_string()
            .contains("expected type of field 'op' is 'string' but provided type is 'int'")
    );
}

#[test]
fn lazy_variables_are_computed_field_by_field() {
    struct Lazily;
    impl<'a> skiff_cel::Activation<'a> for Lazily {
        fn variable(&self, _: &str) -> Option<Value<'a>> {
            None
        }
        fn field(
            &self,
            variable: &str,
            field: &str,
        ) -> Option<Result<Value<'a>, skiff_cel::EvalError>> {
            assert_eq!(variable, "variables");
            (field == "a").then_some(Ok(Value::Int(7)))
        }
    }
    let schema = Schema::object(
        "kubernetes.variables",
        [("a", Schema::int()), ("b", Schema::int())],
    );
    let environment = Environment::new().lazy_variable("variables", schema);
    let program = environment
        .compile("variables.a + 1 == 8 && has(variables.b)")
        .expect("compiles");
    assert_eq!(
        program
            .evaluate(&Lazily, PER_CALL_LIMIT)
            .result
            .expect("value")
            .as_bool(),
        Some(true)
    );
    assert!(environment.compile("variables.c").is_err());
}

#[test]
fn estimates_follow_the_schema() {
    let schema = json!({"type": "object", "properties": {
        "text": {"type": "string", "maxLength": 10},
        "list": {"type": "array", "maxItems": 100, "items": {"type": "string", "maxLength": 10}},
    }});
    let schema = from_openapi(&schema, false, "T").expect("a schema");
    let environment = Environment::new().variable_of("self", schema);
    for (source, min, max) in [
        ("self.text == 'abc'", 3, 3),
        ("self.text.matches('a+')", 3, 7),
        ("self.list.all(x, x == 'a')", 3, 3 + 100 * (2 + 1 + 1 + 1)),
        (
            "self.list.map(x, size(x)).sum() > 1",
            14,
            14 + 100 * 14 + 100,
        ),
    ] {
        let found = environment.compile(source).expect(source).estimated_cost();
        assert_eq!(found, Estimate { min, max }, "{source}");
    }
}

#[test]
fn hostile_expressions_are_refused_or_survived() {
    let deep = |open: &str, middle: &str, close: &str, n: usize| {
        format!("{}{middle}{}", open.repeat(n), close.repeat(n))
    };
    let sources = [
        deep("(", "1", ")", 20_000),
        deep("[", "1", "]", 20_000),
        deep("{'a': ", "1", "}", 5_000),
        "!".repeat(50_000),
        format!("{}true", "!".repeat(9_999)),
        format!("1{}", " + 1".repeat(20_000)),
        format!("object{}", ".a".repeat(20_000)),
        format!("object{}", "[0]".repeat(20_000)),
        format!("optional.of(1){}", ".optMap(x, x)".repeat(100)),
        "true ? ".repeat(10_000) + "1",
        "x".repeat(200_000),
        deep("[1].all(x, ", "true", ")", 2_000),
        deep("cel.bind(a, {1: 1}, cel.bind(b, {a: a}, ", "1", "))", 60),
        format!("true{}", " && true".repeat(9_000)),
        deep("(", "1", ")", 79),
        deep("[1].map(x, ", "1", ")", 79),
        deep("[1].all(x, [1].exists(y, ", "x == y", "))", 39),
        deep("size([1].filter(x, x > ", "1", "))", 39),
        format!("{}1{}", "(".repeat(78), " + 1)".repeat(78)),
        format!("1{}", " + 1".repeat(240)),
    ];
    // No more stack than a thread of the server has.
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let thread = small.spawn(move || {
        for source in sources {
            let _ = run(&source);
        }
    });
    assert!(thread.is_ok_and(|thread| thread.join().is_ok()));
}
