use serde_json::Value;

use super::*;

fn definition(change: impl FnOnce(&mut Value)) -> CustomResourceDefinition {
    let mut value = json!({
        "metadata": {"name": "foos.e.com"},
        "spec": {
            "group": "e.com", "scope": "Namespaced",
            "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            "conversion": {"strategy": "None"},
        },
        "status": {"storedVersions": ["v1"]},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn texts(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let errors = validate(&definition(change));
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_definition_is_fine() {
    assert_eq!(texts(|_| {}), Vec::<String>::new());
}

#[test]
fn faults_of_a_definition_are_told_in_upstreams_words() {
    type Change = fn(&mut Value);
    let table: &[(Change, &str)] = &[
        (
            |v| v["metadata"]["name"] = "foo.e.com".into(),
            r#"metadata.name: Invalid value: "foo.e.com": must be spec.names.plural+"."+spec.group"#,
        ),
        (
            |v| v["spec"]["scope"] = "Everywhere".into(),
            r#"spec.scope: Unsupported value: "Everywhere": supported values: "Cluster", "Namespaced""#,
        ),
        (
            |v| v["spec"]["names"]["listKind"] = "Foo".into(),
            r#"spec.names.listKind: Invalid value: "Foo": kind and listKind may not be the same"#,
        ),
        (
            |v| v["spec"]["versions"][0]["schema"] = Value::Null,
            "spec.versions[0].schema.openAPIV3Schema: Required value",
        ),
        (
            |v| v["spec"]["preserveUnknownFields"] = true.into(),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ),
        (
            |v| v["status"]["storedVersions"] = json!(["v1", "v0"]),
            r#"status.storedVersions[1]: Invalid value: "v0": missing from spec.versions; v0 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from status.storedVersions"#,
        ),
        (
            |v| {
                v["spec"]["versions"][0]["additionalPrinterColumns"] =
                    json!([{"name": "A", "type": "x", "jsonPath": "spec"}])
            },
            r#"spec.additionalPrinterColumns[0].type: Invalid value: "x": must be one of boolean,date,integer,number,string"#,
        ),
        (
            |v| v["spec"]["conversion"] = json!({"strategy": "Webhook"}),
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
        (
            |v| v["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": ".status.y"}}),
            r#"spec.subresources.scale.specReplicasPath: Invalid value: ".status.x": should be a json path under .spec"#,
        ),
        (
            |v| v["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.color"}]),
            r#"spec.selectableFields[0].jsonPath: Invalid value: ".spec.color": is an invalid path: does not refer to a valid field"#,
        ),
    ];
    for (change, expected) in table {
        let got = texts(*change);
        assert!(
            got.iter().any(|text| text == expected),
            "{expected}: {got:#?}"
        );
    }
    let group = texts(|v| {
        v["spec"]["group"] = "k8s.io".into();
        v["metadata"]["name"] = "foos.k8s.io".into();
    });
    assert!(group[0].starts_with("metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation"), "{group:?}");
}

fn of_schema(schema: Value) -> Vec<String> {
    texts(|v| v["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema)
}

#[test]
fn schemas_are_structural() {
    let root = "spec.validation.openAPIV3Schema";
    let table = [
        (
            json!({}),
            "type: Required value: must not be empty at the root",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            "type: Invalid value: \"array\": must be object at the root",
        ),
        (
            json!({"type": "object", "properties": {"a": {}}}),
            "properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            "properties[a].items: Required value: must be specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {}}}}),
            "properties[a].items.type: Required value: must not be empty for specified array items",
        ),
        (
            json!({"type": "object", "anyOf": [{"type": "object"}]}),
            "anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"a": {"minimum": 1}}}]}),
            "properties[a]: Required value: because it is defined in spec.validation.openAPIV3Schema.anyOf[0].properties[a]",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            "additionalProperties: Forbidden: must not be used at the root",
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            "properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
            "properties[a].default: Invalid value: \"string\": spec.validation.openAPIV3Schema.properties[a].default in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "default": {"x": 1}}}}),
            "properties[a].default: Invalid value: {\"x\":1}: must not have unknown fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "strin"}}}),
            "properties[a].type: Unsupported value: \"strin\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}}}),
            "properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}}}),
            "properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
            "x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            json!({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true}}}),
            "properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true",
        ),
        (
            json!({"type": "object", "properties": {"a": {"$ref": "#/x", "type": "object"}}}),
            "properties[a].$ref: Forbidden: $ref is not supported",
        ),
    ];
    for (schema, expected) in table {
        let got = of_schema(schema.clone());
        let expected = format!("{root}.{expected}");
        assert!(
            got.iter().any(|text| text.starts_with(&expected)),
            "{schema}: {expected}: {got:#?}"
        );
    }
    for fine in [
        json!({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}),
        json!({"type": "object", "properties": {"a": {"type": "string", "default": "x"}, "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}}}),
        json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}}}, "oneOf": [{"required": ["a"]}, {"properties": {"a": {"required": ["b"]}}}]}),
    ] {
        let got = of_schema(fine.clone());
        assert!(got.is_empty(), "{fine}: {got:#?}");
    }
}

#[test]
fn what_is_fixed_stays() {
    let mut old = definition(|_| {});
    old.status.as_mut().unwrap().conditions =
        serde_json::from_value(json!([{"type": "Established", "status": "True"}])).unwrap();
    let mut new = old.clone();
    new.spec.scope = "Cluster".to_owned();
    new.spec.names.kind = "Bar".to_owned();
    let texts: Vec<String> = validate_update(&new, &old)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        texts,
        [
            r#"spec.scope: Invalid value: "Cluster": field is immutable"#,
            r#"spec.names.kind: Invalid value: "Bar": field is immutable"#,
        ]
    );
}
