//! Round trips, and bytes as another implementation writes them.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn a_deployment_goes_there_and_back() {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
            "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 5},
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}],
                "volumes": [{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}]}}},
        "status": {}});
    assert_eq!(decode(&encode(&object).unwrap()).unwrap(), object);
}

#[test]
fn bytes_unions_and_raw_json_go_there_and_back() {
    for object in [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {}}}]},
            "data": {"k": "AAEC/w=="}, "type": "Opaque"}),
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
            "spec": {"user": "u", "extra": {"scopes": ["a", "b"]}}, "status": {"allowed": true}}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "x"},
            "spec": {"group": "g", "names": {"plural": "xs", "kind": "X"}, "scope": "Namespaced", "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}, "default": [1]},
                    "b": {"additionalProperties": false, "maximum": 2.5}}}}}]},
            "status": {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []}}),
    ] {
        let mut back = decode(&encode(&object).unwrap()).unwrap();
        // Empty lists have no form on the wire.
        if back["kind"] == "CustomResourceDefinition" {
            back["status"]["conditions"] = json!([]);
            back["status"]["storedVersions"] = json!([]);
        }
        assert_eq!(back, object);
    }
}

#[test]
fn empty_fields_that_upstream_always_writes_are_left_out() {
    // A ConfigMap as Go writes it: metadata with name "a", empty generateName and an unset creationTimestamp.
    let mut metadata = Vec::new();
    wire::put_bytes(&mut metadata, 1, b"a");
    wire::put_bytes(&mut metadata, 2, b"");
    wire::put_integer(&mut metadata, 7, 0);
    wire::put_bytes(&mut metadata, 8, b"");
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 1, &metadata);
    let mut kind = Vec::new();
    wire::put_bytes(&mut kind, 1, b"v1");
    wire::put_bytes(&mut kind, 2, b"ConfigMap");
    let mut body = MAGIC.to_vec();
    wire::put_bytes(&mut body, 1, &kind);
    wire::put_bytes(&mut body, 2, &raw);
    assert_eq!(
        decode(&body).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
    );
}

#[test]
fn options_of_a_deletion_are_known_in_every_group() {
    let object = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Foreground"});
    assert_eq!(decode(&encode(&object).unwrap()).unwrap(), object);
    assert!(decode(b"{}").is_err());
}

#[test]
fn every_message_that_the_table_names_is_in_it() {
    for line in include_str!("table.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
        assert_eq!(
            messages::fields(name).count(),
            fields.split_whitespace().count(),
            "{name}"
        );
        for field in messages::fields(name) {
            let inner = field.kind.trim_start_matches(['r', 'k', 'p', 'L']);
            if let Some(inner) = inner.strip_prefix('m') {
                assert!(messages::find(inner).is_some(), "{name} names {inner}");
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut body = MAGIC.to_vec();
        let mut kind = Vec::new();
        wire::put_bytes(&mut kind, 1, b"v1");
        wire::put_bytes(&mut kind, 2, b"Pod");
        wire::put_bytes(&mut body, 1, &kind);
        wire::put_bytes(&mut body, 2, &bytes);
        let _ = decode(&body);
        let _ = decode(&bytes);
    }
}
