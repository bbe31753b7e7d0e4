use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::built_in;

fn pod(text: &str) -> Result<Checked, CheckError> {
    let schema = built_in();
    check(
        text.as_bytes(),
        schema,
        schema.find("io.k8s.api.core.v1.Pod").unwrap(),
    )
}

fn error(text: &str) -> String {
    pod(text).unwrap_err().to_string()
}

#[test]
fn unknown_and_duplicate_fields_are_named_with_their_path() {
    let checked = pod(
        r#"{"kind":"Pod","metadata":{"name":"a","namaspace":"x","labels":{"a":"1","a":"2"}},
            "spec":{"containers":[{"name":"a","images":"b","image":"x","image":"y"},{"nome":1}],"nodeName":"n","nodeName":"m"},"extra":[1,{"a":2}]}"#,
    )
    .unwrap();
    assert_eq!(
        checked.strict,
        [
            r#"unknown field "metadata.namaspace""#,
            r#"duplicate field "metadata.labels.a""#,
            r#"unknown field "spec.containers[0].images""#,
            r#"duplicate field "spec.containers[0].image""#,
            r#"unknown field "spec.containers[1].nome""#,
            r#"duplicate field "spec.nodeName""#,
            r#"unknown field "extra""#,
        ]
    );
    assert_eq!(checked.value["spec"]["nodeName"], "m");
    assert_eq!(checked.value["spec"]["containers"][0]["image"], "y");
    assert_eq!(checked.value["metadata"]["labels"]["a"], "2");
    assert!(checked.value.get("extra").is_none());
}

#[test]
fn wrong_types_are_named_as_upstream_does() {
    for (text, message) in [
        (
            r#"{"spec":{"containers":[{"env":[{"name":"a","value":1}]}]}}"#,
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            r#"{"metadata":{"annotations":"x"}}"#,
            "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.annotations of type map[string]string",
        ),
        (
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"containers":{}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"restartPolicy":[]}}"#,
            "json: cannot unmarshal array into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            r#"{"spec":{"terminationGracePeriodSeconds":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            r#"{"spec":{"containers":[{"ports":[{"containerPort":3000000000}]}]}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            r#"[]"#,
            "json: cannot unmarshal array into Go value of type v1.Pod",
        ),
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"${x}"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":1.5}}}]}}"#,
            "json: cannot unmarshal number 1.5 into Go value of type int32",
        ),
        (
            r#"{"metadata":{"creationTimestamp":"now"}}"#,
            r#"parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006""#,
        ),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
    assert!(matches!(pod(r#"{"kind":"#), Err(CheckError::Syntax(_))));
    assert!(matches!(
        pod(r#"{"kind":"Pod"} x"#),
        Err(CheckError::Syntax(_))
    ));
}

#[test]
fn leaves_what_upstream_would_store() {
    let checked = pod(
        r#"{"kind":"Pod","metadata":{"name":"a","creationTimestamp":null,"labels":{},"finalizers":[],
              "deletionTimestamp":"2026-01-02T03:04:05+02:00","generation":0},
            "spec":{"nodeName":"","hostNetwork":false,"terminationGracePeriodSeconds":0,"automountServiceAccountToken":false,
              "securityContext":{},"containers":[{"name":"","command":[],"resources":{"limits":{"cpu":0.5,"memory":"1024Mi"}},
                "livenessProbe":{"httpGet":{"port":80}}}],"volumes":[{"name":"v","emptyDir":{}}]}}"#,
    )
    .unwrap();
    assert_eq!(
        checked.value,
        json!({
            "kind": "Pod",
            "metadata": {"name": "a", "deletionTimestamp": "2026-01-02T01:04:05Z"},
            "spec": {
                "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "securityContext": {},
                "containers": [{
                    "name": "", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"port": 80}},
                }],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "status": {},
        })
    );
    assert!(checked.strict.is_empty());
}

#[test]
fn nulls_in_lists_and_maps_become_zero_values() {
    let checked =
        pod(r#"{"metadata":{"labels":{"a":null}},"spec":{"containers":[null]}}"#).unwrap();
    assert_eq!(checked.value["metadata"]["labels"]["a"], "");
    assert_eq!(
        checked.value["spec"]["containers"][0],
        json!({"resources": {}})
    );
}

#[test]
fn duplicates_are_found_anywhere() {
    assert_eq!(
        duplicates(br#"{"a":1,"b":[{"c":1,"c":2}],"a":{"x":1,"x":2}}"#),
        [
            r#"duplicate field "b[0].c""#,
            r#"duplicate field "a""#,
            r#"duplicate field "a.x""#
        ]
    );
}

/// Any JSON; keys are often those of a pod, so that it gets somewhere.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("metadata"),
        Just("spec"),
        Just("containers"),
        Just("name"),
        Just("labels"),
        Just("env"),
        Just("value"),
        Just("resources"),
        Just("limits"),
        Just("ports"),
        Just("status"),
        Just("volumes"),
        Just("nonsense"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn text_and_value_give_the_same_and_a_second_check_changes_nothing(value in any_json()) {
        let schema = built_in();
        let root = schema.find("io.k8s.api.core.v1.Pod").unwrap();
        let of_text = check(value.to_string().as_bytes(), schema, root);
        let of_value = check_value(value, schema, root);
        prop_assert_eq!(&of_text, &of_value);
        if let Ok(checked) = of_text && checked.value.is_object() {
            let again = check_value(checked.value.clone(), schema, root).unwrap();
            prop_assert_eq!(again.value, checked.value);
            prop_assert!(again.strict.is_empty());
        }
    }
}
