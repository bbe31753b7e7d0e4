use super::*;

fn policy(group: &str, resource: &str, mutations: Value) -> Value {
    json!({"matchConstraints": rules(group, resource, &["CREATE", "UPDATE"]), "reinvocationPolicy": "Never", "mutations": mutations})
}

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

#[tokio::test]
async fn a_configuration_is_merged_into_what_is_written() {
    let world = World::start().await;
    let mutations = json!([
        apply("Object{metadata: Object.metadata{annotations: {'mutated-by': 'admission-policy'}}}"),
        apply(
            "Object{spec: Object.spec{replicas: object.spec.replicas + 1336, template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'side', image: 's'}]}}}}"
        ),
    ]);
    world
        .bind(
            "mutating",
            "m",
            policy("apps", "deployments", mutations),
            json!({}),
        )
        .await;
    let answer = world
        .until(DEPLOYMENTS, &deployment("d", 1), |answer| {
            answer.body["metadata"]["annotations"]["mutated-by"] == "admission-policy"
        })
        .await;
    assert_eq!(answer.body["spec"]["replicas"], 1337);
    let containers = &answer.body["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["name"], "c");
    assert_eq!(containers[1]["name"], "side");
    // What policies add has its defaults.
    assert_eq!(containers[1]["imagePullPolicy"], "Always");
    assert_eq!(answer.body["metadata"]["name"], "d");
    assert!(answer.body["metadata"]["uid"].is_string());
}

#[tokio::test]
async fn a_json_patch_is_made_of_expressions() {
    let world = World::start().await;
    let mut spec = policy(
        "",
        "configmaps",
        json!([patch(
            "(has(object.metadata.labels) ? [] : [JSONPatch{op: 'add', path: '/metadata/labels', value: {}}]) + [JSONPatch{op: 'test', path: '/data/x', value: '1'}, JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('example.com/by'), value: variables.who}]"
        )]),
    );
    spec["variables"] = json!([{"name": "who", "expression": "request.userInfo.username"}]);
    spec["matchConditions"] =
        json!([{"name": "c", "expression": "object.metadata.name != 'spared'"}]);
    world.bind("mutating", "labels", spec, json!({})).await;
    let label = |answer: &Answer| answer.body["metadata"]["labels"]["example.com/by"].clone();
    let map = config_map("a", json!({"x": "1"}));
    world
        .until(CONFIG_MAPS, &map, |answer| label(answer) == "admin")
        .await;
    let spared = world
        .try_out(CONFIG_MAPS, &config_map("spared", json!({"x": "1"})))
        .await;
    assert_eq!(label(&spared), Value::Null);
    let other = world
        .try_out(CONFIG_MAPS, &config_map("b", json!({"x": "2"})))
        .await;
    assert_eq!(
        (other.code, label(&other)),
        (201, Value::Null),
        "the test in the patch fails"
    );
}

#[tokio::test]
async fn mutations_that_do_not_apply_refuse() {
    let table = [
        (
            apply(
                "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'x': 'y'}}}}",
            ),
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
        ),
        (
            apply("Object{spec: Object.wrong{replicas: 1}}"),
            "type mismatch: unexpected type name \"Object.wrong\", expected \"Object.spec\", which matches field name path from root Object type",
        ),
        (
            apply("Object{spec: Object.spec{replicas: object.spec.nothing}}"),
            "expression 'Object{spec: Object.spec{replicas: object.spec.nothing}}' resulted in error: no such key: nothing",
        ),
        (
            patch("[JSONPatch{op: 'add', path: '/spec/a/b', value: 1}]"),
            "JSON Patch: add operation does not apply: doc is missing path: \"/spec/a/b\": missing value",
        ),
    ];
    for (mutation, expected) in table {
        let world = World::start().await;
        world
            .bind(
                "mutating",
                "m",
                policy("apps", "deployments", json!([mutation])),
                json!({}),
            )
            .await;
        let answer = world.until_refused(DEPLOYMENTS, &deployment("d", 1)).await;
        assert_eq!(
            answer.message(),
            format!("policy 'm' with binding 'm-binding' denied request: {expected}")
        );
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (403, &json!("Invalid"))
        );
    }
}

#[tokio::test]
async fn later_changes_bring_earlier_policies_back_that_want_it() {
    for (reinvocation, count) in [("Never", "0"), ("IfNeeded", "1")] {
        let world = World::start().await;
        // The first counts the keys that the second adds.
        let mut first = policy(
            "",
            "configmaps",
            json!([patch(
                "[JSONPatch{op: 'add', path: '/data/count', value: string(object.data.filter(k, k == 'added').size())}]"
            )]),
        );
        first["reinvocationPolicy"] = reinvocation.into();
        let second = policy(
            "",
            "configmaps",
            json!([patch(
                "'added' in object.data ? [] : [JSONPatch{op: 'add', path: '/data/added', value: ''}]"
            )]),
        );
        world.bind("mutating", "a-first", first, json!({})).await;
        world.bind("mutating", "b-second", second, json!({})).await;
        let map = config_map("m", json!({"x": ""}));
        let answer = world
            .until(CONFIG_MAPS, &map, |answer| {
                answer.body["data"]["added"].is_string() && answer.body["data"]["count"].is_string()
            })
            .await;
        assert_eq!(answer.body["data"]["count"], count, "{reinvocation}");
    }
}

#[tokio::test]
async fn parameters_and_ignored_failures() {
    let world = World::start().await;
    let mut spec = policy(
        "apps",
        "deployments",
        json!([apply(
            "Object{metadata: Object.metadata{labels: params.data}}"
        )]),
    );
    spec["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let binding = json!({"paramRef": {"name": "labels", "parameterNotFoundAction": "Deny"}});
    world.bind("mutating", "p", spec, binding).await;
    let answer = world.until_refused(DEPLOYMENTS, &deployment("d", 1)).await;
    assert_eq!(
        answer.message(),
        "policy 'p' with binding 'p-binding' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    );
    world
        .made(CONFIG_MAPS, &config_map("labels", json!({"team": "x"})))
        .await;
    let answer = world
        .until(DEPLOYMENTS, &deployment("d", 1), |answer| {
            answer.code == 201
        })
        .await;
    assert_eq!(answer.body["metadata"]["labels"], json!({"team": "x"}));
    let policy = format!("{GROUP}/mutatingadmissionpolicies/p");
    let ignore = json!({"spec": {"failurePolicy": "Ignore"}});
    assert_eq!(world.ask(Method::PATCH, &policy, &ignore).await.code, 200);
    let gone = world
        .ask(Method::DELETE, &format!("{CONFIG_MAPS}/labels"), &json!({}))
        .await;
    assert_eq!(gone.code, 200);
    let answer = world
        .until(DEPLOYMENTS, &deployment("d", 1), |answer| {
            answer.code == 201 && answer.body["metadata"]["labels"].is_null()
        })
        .await;
    assert_eq!(answer.body["spec"]["replicas"], 1);
}
