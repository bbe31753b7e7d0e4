use super::*;

fn on_config_maps(validations: Value) -> Value {
    json!({"matchConstraints": rules("", "configmaps", &["CREATE", "UPDATE"]), "validations": validations})
}

fn deny() -> Value {
    json!({"validationActions": ["Deny"]})
}

#[tokio::test]
async fn a_deployment_is_refused_and_others_are_not() {
    let world = World::start().await;
    let spec = json!({
        "matchConstraints": rules("apps", "deployments", &["CREATE", "UPDATE"]),
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "odd", "expression": "variables.replicas % 2 == 1"},
        ],
        "validations": [
            {"expression": "variables.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + string(variables.replicas)"},
            {"expression": "variables.odd"},
            {"expression": "namespaceObject.metadata.name == 'default'", "message": "elsewhere", "reason": "Forbidden"},
        ],
    });
    world
        .bind("validating", "count.example.com", spec, deny())
        .await;
    let answer = world
        .until_refused(DEPLOYMENTS, &deployment("marker", 1))
        .await;
    let prefix = "ValidatingAdmissionPolicy 'count.example.com' with binding 'count.example.com-binding' denied request: ";
    let message = format!("{prefix}wants replicas > 1, got 1");
    assert_eq!(answer.code, 422);
    assert_eq!(answer.body["reason"], "Invalid");
    assert_eq!(
        answer.message(),
        format!("deployments.apps \"marker\" is forbidden: {message}")
    );
    assert_eq!(
        answer.body["details"],
        json!({"name": "marker", "group": "apps", "kind": "deployments", "causes": [{"message": message}]})
    );
    let even = world.try_out(DEPLOYMENTS, &deployment("even", 4)).await;
    assert!(
        even.message()
            .ends_with("denied request: failed expression: variables.odd")
    );
    assert_eq!(
        world
            .try_out(DEPLOYMENTS, &deployment("fine", 3))
            .await
            .code,
        201
    );
    let other = "/apis/apps/v1/namespaces/kube-system/deployments";
    let elsewhere = world.try_out(other, &deployment("there", 3)).await;
    assert_eq!(
        (elsewhere.code, &elsewhere.body["reason"]),
        (403, &json!("Forbidden"))
    );
    assert!(elsewhere.message().ends_with("denied request: elsewhere"));
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    assert_eq!(world.try_out(sets, &deployment("set", 1)).await.code, 201);
}

#[tokio::test]
async fn what_a_failed_validation_does_is_up_to_the_binding() {
    let world = World::start().await;
    let validations =
        json!([{"expression": "has(object.data) && 'ok' in object.data", "message": "wants ok"}]);
    let actions = json!({"validationActions": ["Warn", "Audit"]});
    world
        .bind("validating", "tell", on_config_maps(validations), actions)
        .await;
    let bad = config_map("a", json!({"x": "1"}));
    let answer = world
        .until(CONFIG_MAPS, &bad, |answer| !answer.warnings.is_empty())
        .await;
    assert_eq!(answer.code, 201);
    assert_eq!(
        answer.warnings,
        [
            "299 - \"Validation failed for ValidatingAdmissionPolicy 'tell' with binding 'tell-binding': wants ok\""
        ]
    );
    let good = world
        .try_out(CONFIG_MAPS, &config_map("b", json!({"ok": ""})))
        .await;
    assert_eq!((good.code, good.warnings.len()), (201, 0));
}

#[tokio::test]
async fn an_expression_that_fails_refuses_unless_failures_are_ignored() {
    let world = World::start().await;
    let validations = json!([{"expression": "object.data.must == 'be'"}]);
    let mut spec = on_config_maps(validations);
    world
        .bind("validating", "strict", spec.clone(), deny())
        .await;
    let without = config_map("a", json!({"x": "1"}));
    let answer = world.until_refused(CONFIG_MAPS, &without).await;
    assert_eq!(answer.code, 422);
    assert!(
        answer.message().ends_with(
            "denied request: expression 'object.data.must == 'be'' resulted in error: no such key: must"
        ),
        "{}",
        answer.message()
    );
    spec["failurePolicy"] = "Ignore".into();
    let path = format!("{GROUP}/validatingadmissionpolicies/strict");
    let patched = world
        .ask(Method::PATCH, &path, &json!({"spec": spec}))
        .await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    world
        .until(CONFIG_MAPS, &without, |answer| answer.code == 201)
        .await;
    // What is false is refused all the same.
    let wrong = world
        .try_out(CONFIG_MAPS, &config_map("a", json!({"must": "not"})))
        .await;
    assert_eq!(wrong.code, 422);
}

#[tokio::test]
async fn conditions_and_selectors_narrow_a_policy_down() {
    let world = World::start().await;
    let spec = json!({
        "matchConstraints": {
            "resourceRules": rules("", "configmaps", &["*"])["resourceRules"],
            "excludeResourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"], "resourceNames": ["spared"]}],
            "objectSelector": {"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        },
        "matchConditions": [
            {"name": "people", "expression": "!('system:nodes' in request.userInfo.groups)"},
            {"name": "creations", "expression": "request.operation == 'CREATE' && request.resource.resource == 'configmaps'"},
        ],
        "validations": [{"expression": "false", "message": "never"}],
    });
    world.bind("validating", "narrow", spec, deny()).await;
    let plain = config_map("a", json!({}));
    world.until_refused(CONFIG_MAPS, &plain).await;
    let code = async |path: &str, body: &Value| world.try_out(path, body).await.code;
    assert_eq!(
        code(CONFIG_MAPS, &config_map("spared", json!({}))).await,
        201
    );
    let free = json!({"metadata": {"name": "f", "labels": {"free": ""}}});
    assert_eq!(code(CONFIG_MAPS, &free).await, 201);
    assert_eq!(
        code("/api/v1/namespaces/kube-system/configmaps", &plain).await,
        201
    );
    let node = UserInfo::new("n", &["system:masters", "system:nodes"]);
    let answer = world.ask_as(node, Method::POST, CONFIG_MAPS, &plain).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    // A deletion does not meet the conditions.
    let gone = world
        .ask(Method::DELETE, &format!("{CONFIG_MAPS}/a"), &json!({}))
        .await;
    assert_eq!(gone.code, 200);
}

#[tokio::test]
async fn a_condition_that_fails_refuses_in_its_own_words() {
    let world = World::start().await;
    let mut spec = on_config_maps(json!([{"expression": "true"}]));
    spec["matchConditions"] = json!([{"name": "c", "expression": "object.data.x == '1'"}]);
    world.bind("validating", "cond", spec, deny()).await;
    let answer = world
        .until_refused(CONFIG_MAPS, &config_map("a", json!({"y": ""})))
        .await;
    assert!(
        answer.message().ends_with(
            "denied request: expression 'object.data.x == '1'' resulted in error: no such key: x"
        ),
        "{}",
        answer.message()
    );
}

#[tokio::test]
async fn parameters_come_from_objects_that_the_binding_names_or_selects() {
    let world = World::start().await;
    let mut spec = on_config_maps(json!([
        {"expression": "object.metadata.name in ['limits', 'more'] || object.data.size() <= int(params.data.max)",
         "messageExpression": "'at most ' + params.data.max"}]));
    spec["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let binding = json!({"validationActions": ["Deny"], "paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    world.bind("validating", "sized", spec, binding).await;
    let one = config_map("a", json!({"x": ""}));
    let missing = world.until_refused(CONFIG_MAPS, &one).await;
    assert!(
        missing.message().ends_with("denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{}",
        missing.message()
    );
    // The binding would keep its own parameters from being made.
    let path = format!("{GROUP}/validatingadmissionpolicybindings/sized-binding");
    let allow = json!({"spec": {"paramRef": {"parameterNotFoundAction": "Allow"}}});
    assert_eq!(world.ask(Method::PATCH, &path, &allow).await.code, 200);
    world
        .until(CONFIG_MAPS, &one, |answer| answer.code == 201)
        .await;
    let mut limits = config_map("limits", json!({"max": "1"}));
    limits["metadata"]["labels"] = json!({"role": "limit"});
    world.made(CONFIG_MAPS, &limits).await;
    let two = config_map("b", json!({"x": "", "y": ""}));
    let refused = world.until_refused(CONFIG_MAPS, &two).await;
    assert!(
        refused.message().ends_with("denied request: at most 1"),
        "{}",
        refused.message()
    );
    assert_eq!(world.try_out(CONFIG_MAPS, &one).await.code, 201);
    // A change of the parameters counts at once.
    let wider = json!({"data": {"max": "2"}});
    let path_limits = format!("{CONFIG_MAPS}/limits");
    assert_eq!(
        world.ask(Method::PATCH, &path_limits, &wider).await.code,
        200
    );
    world
        .until(CONFIG_MAPS, &two, |answer| answer.code == 201)
        .await;
    // By selector, every parameter is asked.
    let selector = json!({"spec": {"paramRef": {"name": null, "selector": {"matchLabels": {"role": "limit"}}}}});
    assert_eq!(world.ask(Method::PATCH, &path, &selector).await.code, 200);
    let mut more = config_map("more", json!({"max": "0"}));
    more["metadata"]["labels"] = json!({"role": "limit"});
    world.made(CONFIG_MAPS, &more).await;
    let refused = world.until_refused(CONFIG_MAPS, &one).await;
    assert!(
        refused.message().ends_with("denied request: at most 0"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn parameters_that_cannot_be() {
    let world = World::start().await;
    let mut spec = on_config_maps(json!([{"expression": "true"}]));
    spec["paramKind"] = json!({"apiVersion": "example.com/v1", "kind": "Nothing"});
    world.bind("validating", "unknown", spec, deny()).await;
    let answer = world
        .until_refused(CONFIG_MAPS, &config_map("a", json!({})))
        .await;
    assert_eq!(
        answer.message(),
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'unknown' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Nothing'"
    );
}

#[tokio::test]
async fn a_namespaced_parameter_needs_a_namespace() {
    let world = World::start().await;
    let spec = json!({"matchConstraints": rules("", "persistentvolumes", &["CREATE"]),
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "validations": [{"expression": "true"}]});
    let binding = json!({"validationActions": ["Deny"], "paramRef": {"name": "x", "parameterNotFoundAction": "Allow"}});
    world.bind("validating", "cluster", spec, binding).await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
    let answer = world
        .until_refused("/api/v1/persistentvolumes", &volume)
        .await;
    assert!(
        answer.message().ends_with("failed to configure binding: cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"),
        "{}",
        answer.message()
    );
}

#[tokio::test]
async fn the_authorizer_answers_expressions() {
    let world = World::start().await;
    let validations = json!([
        {"expression": "!authorizer.group('').resource('secrets').namespace('default').check('get').allowed()", "message": "may read secrets"},
        {"expression": "authorizer.requestResource.check('create').allowed() || true"},
        {"expression": "!authorizer.serviceAccount('default', 'nobody').group('').resource('pods').check('get').allowed()"},
    ]);
    world
        .bind("validating", "authz", on_config_maps(validations), deny())
        .await;
    let answer = world
        .until_refused(CONFIG_MAPS, &config_map("a", json!({})))
        .await;
    assert!(
        answer
            .message()
            .ends_with("denied request: may read secrets"),
        "{}",
        answer.message()
    );
}

#[tokio::test]
async fn rules_for_one_version_hold_for_the_others_where_they_are_equivalent() {
    let world = World::start().await;
    let mut spec = json!({"matchConstraints": {"resourceRules": [{"apiGroups": ["autoscaling"], "apiVersions": ["v1"],
        "operations": ["CREATE"], "resources": ["horizontalpodautoscalers"]}]},
        "validations": [{"expression": "object.apiVersion == 'autoscaling/v1' && object.spec.targetCPUUtilizationPercentage < 90 && request.kind.version == 'v1' && request.requestKind.version == 'v2'", "message": "too much"}]});
    world.bind("validating", "cpu", spec.clone(), deny()).await;
    let scaler = |percent: i64| {
        json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}]}})
    };
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let answer = world.until_refused(path, &scaler(95)).await;
    assert!(
        answer.message().ends_with("denied request: too much"),
        "{}",
        answer.message()
    );
    let fine = world.try_out(path, &scaler(50)).await;
    assert_eq!(fine.code, 201, "{}", fine.body);
    spec["matchConstraints"]["matchPolicy"] = "Exact".into();
    let policy = format!("{GROUP}/validatingadmissionpolicies/cpu");
    assert_eq!(
        world
            .ask(Method::PATCH, &policy, &json!({"spec": spec}))
            .await
            .code,
        200
    );
    world
        .until(path, &scaler(95), |answer| answer.code == 201)
        .await;
}

#[tokio::test]
async fn policies_do_not_hold_for_policies_and_end_with_their_binding() {
    let world = World::start().await;
    let spec = json!({"matchConstraints": {"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]},
        "validations": [{"expression": "false", "message": "nothing goes"}]});
    world.bind("validating", "lock", spec, deny()).await;
    let map = config_map("a", json!({}));
    world.until_refused(CONFIG_MAPS, &map).await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(world.ask(Method::POST, reviews, &review).await.code, 201);
    let path = format!("{GROUP}/validatingadmissionpolicybindings/lock-binding");
    assert_eq!(world.ask(Method::DELETE, &path, &json!({})).await.code, 200);
    world
        .until(CONFIG_MAPS, &map, |answer| answer.code == 201)
        .await;
}

#[tokio::test]
async fn what_costs_too_much_is_stopped() {
    let world = World::start().await;
    let list: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let list = format!("[{}]", list.join(","));
    let expression = format!("{list}.all(a, {list}.all(b, {list}.all(c, a + b + c >= 0)))");
    world
        .bind(
            "validating",
            "dear",
            on_config_maps(json!([{"expression": expression}])),
            deny(),
        )
        .await;
    let answer = world
        .until_refused(CONFIG_MAPS, &config_map("a", json!({})))
        .await;
    assert!(
        answer
            .message()
            .ends_with("resulted in error: operation cancelled: actual cost limit exceeded"),
        "{}",
        answer.message()
    );
}
