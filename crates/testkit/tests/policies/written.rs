use super::*;

fn policy(validation: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": rules("apps", "deployments", &["CREATE"]), "validations": [validation]}})
}

#[tokio::test]
async fn expressions_are_compiled_when_they_are_written() {
    let world = World::start().await;
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let table = [
        (
            json!({"expression": "object.spec.replicas >"}),
            "spec.validations[0].expression: Invalid value: \"object.spec.replicas >\": compilation failed: ERROR: <input>:1:23: Syntax error: mismatched input '<EOF>' expecting {",
        ),
        (
            json!({"expression": "nothing == 1"}),
            "spec.validations[0].expression: Invalid value: \"nothing == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')\n | nothing == 1\n | ^",
        ),
        (
            json!({"expression": "1 + 1"}),
            "spec.validations[0].expression: Invalid value: \"1 + 1\": must evaluate to bool but got int",
        ),
        (
            json!({"expression": "true", "messageExpression": "authorizer.path('/').check('get').reason()"}),
            "spec.validations[0].messageExpression: Invalid value: \"authorizer.path('/').check('get').reason()\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'authorizer' (in container '')",
        ),
        (
            json!({"expression": "params.x == 1"}),
            "spec.validations[0].expression: Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')",
        ),
    ];
    for (validation, expected) in table {
        let answer = world.ask(Method::POST, &path, &policy(validation)).await;
        assert_eq!(answer.code, 422, "{}", answer.body);
        assert!(
            answer.message().contains(expected),
            "{}\n{expected}",
            answer.message()
        );
    }
    let mut composed = policy(json!({"expression": "variables.a && variables.b == 1"}));
    composed["spec"]["variables"] = json!([{"name": "a", "expression": "true"}]);
    let answer = world.ask(Method::POST, &path, &composed).await;
    assert!(
        answer.message().contains("undefined field 'b'"),
        "{}",
        answer.message()
    );
}

#[tokio::test]
async fn a_policys_generation_grows_with_its_spec_and_status_is_apart() {
    let world = World::start().await;
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    let mut made = policy(json!({"expression": "true"}));
    made["status"] = json!({"observedGeneration": 7});
    let made = world.made(&policies, &made).await;
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["status"], json!({}));
    assert_eq!(made["spec"]["failurePolicy"], "Fail");
    let path = format!("{policies}/p");
    let labelled = json!({"metadata": {"labels": {"a": "b"}}, "status": {"observedGeneration": 9}});
    let answer = world.ask(Method::PATCH, &path, &labelled).await;
    assert_eq!(answer.body["metadata"]["generation"], 1);
    assert_eq!(answer.body["status"], json!({}));
    let status = json!({"metadata": {"labels": {"a": "c"}}, "spec": {"failurePolicy": "Ignore"}, "status": {"observedGeneration": 1,
        "typeChecking": {"expressionWarnings": [{"fieldRef": "spec.validations[0].expression", "warning": "w"}]}}});
    let answer = world
        .ask(Method::PATCH, &format!("{path}/status"), &status)
        .await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    assert_eq!(answer.body["status"], status["status"]);
    assert_eq!(answer.body["spec"]["failurePolicy"], "Fail");
    assert_eq!(answer.body["metadata"]["labels"], json!({"a": "b"}));
    let answer = world
        .ask(
            Method::PATCH,
            &path,
            &json!({"spec": {"failurePolicy": "Ignore"}}),
        )
        .await;
    assert_eq!(answer.body["metadata"]["generation"], 2);
    assert_eq!(answer.body["status"]["observedGeneration"], 1);
}

#[tokio::test]
async fn whoever_writes_parameters_into_a_policy_must_be_able_to_read_them() {
    let world = World::start().await;
    world
        .0
        .server
        .set_authorizer(std::sync::Arc::new(PolicyWriters));
    let user = || UserInfo::new("jane", &["system:authenticated"]);
    let mut policy = policy(json!({"expression": "true"}));
    policy["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "Secret"});
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let answer = world.ask_as(user(), Method::POST, &path, &policy).await;
    assert_eq!(
        answer.message(),
        "ValidatingAdmissionPolicy.admissionregistration.k8s.io \"p\" is invalid: spec.paramKind: Forbidden: user &{jane  [system:authenticated] map[]} must have \"get\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)"
    );
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": "x", "parameterNotFoundAction": "Allow"}}});
    let path = format!("{GROUP}/validatingadmissionpolicybindings");
    let answer = world.ask_as(user(), Method::POST, &path, &binding).await;
    assert_eq!(
        answer.message(),
        "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io \"b\" is invalid: spec.paramRef: Forbidden: unable to get policy p to determine minimum required permissions and user &{jane  [system:authenticated] map[]} does not have \"get\" permission for all groups, versions and resources"
    );
    world
        .made(&format!("{GROUP}/validatingadmissionpolicies"), &policy)
        .await;
    let answer = world.ask_as(user(), Method::POST, &path, &binding).await;
    assert!(answer.message().ends_with("user &{jane  [system:authenticated] map[]} does not have \"get\" permission on the object referenced by paramRef"), "{}", answer.message());
}

/// May write policies, and nothing else.
struct PolicyWriters;

#[async_trait::async_trait]
impl skiff_apiserver::Authorizer for PolicyWriters {
    async fn authorize(
        &self,
        attributes: &skiff_apiserver::Attributes,
    ) -> skiff_apiserver::Decision {
        if attributes.group == "admissionregistration.k8s.io" {
            skiff_apiserver::Decision::Allow(String::new())
        } else {
            skiff_apiserver::Decision::NoOpinion(String::new())
        }
    }
}
