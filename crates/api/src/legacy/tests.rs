use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::schema::table::with_optional;

fn kind(api_version: &str, name: &str) -> &'static Kind {
    let mut kinds = kinds().iter();
    kinds
        .find(|kind| kind.kind == name && kind.api_version() == api_version)
        .unwrap()
}

/// What is stored of an object of an old version.
fn stored(kind: &Kind, value: Value) -> Value {
    let mut object = kind.ops.decode(Cow::Owned(value)).unwrap();
    kind.ops.default(&mut *object);
    (kind.conversion.unwrap().to_storage)(object.to_value())
}

#[test]
fn every_old_version_has_types_and_a_stored_kind() {
    let schema = with_optional();
    let mut seen = BTreeSet::new();
    for kind in kinds() {
        assert!(seen.insert((kind.group, kind.version, kind.plural)));
        let root = schema.find(kind.schema);
        let root = root.unwrap_or_else(|| panic!("no type {}", kind.schema));
        assert!(
            schema.get(root).field("metadata").is_some(),
            "{}",
            kind.schema
        );
        let conversion = kind.conversion.unwrap();
        let stored = crate::kinds().iter().find(|other| {
            other.storage == kind.storage && other.api_version() == conversion.storage_version
        });
        let stored = stored.unwrap_or_else(|| panic!("{} is not stored", kind.schema));
        assert_eq!(
            stored.subresources.len(),
            kind.subresources.len(),
            "{}",
            kind.schema
        );
        // Discovery's names are the kind's, whatever the version.
        assert_eq!(stored.plural, kind.plural);
        let value =
            json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "a"}});
        let there = (conversion.to_storage)(value.clone());
        assert_eq!(there["apiVersion"], conversion.storage_version);
        assert_eq!(
            (conversion.from_storage)(there)["apiVersion"],
            value["apiVersion"]
        );
        let object = kind.ops.decode(Cow::Owned(value)).unwrap();
        let row = kind.ops.row(&*object, Timestamp::UNIX_EPOCH);
        assert_eq!(row.len(), kind.columns.len(), "{}", kind.schema);
    }
    for def in schema.types() {
        let leaf = def.name.starts_with("apiextensions.");
        assert!(leaf || !def.fields.is_empty(), "{} has no fields", def.name);
    }
}

#[test]
fn every_old_type_has_a_schema_with_its_fields() {
    let schema = with_optional();
    for kind in kinds() {
        let mut generator = schemars::SchemaGenerator::default();
        kind.ops.add_schema(&mut generator);
        let definitions = generator.definitions();
        let package = kind.schema.rsplit_once('.').unwrap().0;
        assert!(definitions.contains_key(kind.schema), "{}", kind.schema);
        for (name, definition) in definitions
            .iter()
            .filter(|(name, _)| name.starts_with(package))
        {
            let Some(properties) = definition.get("properties").and_then(Value::as_object) else {
                continue;
            };
            let id = schema
                .find(name)
                .unwrap_or_else(|| panic!("no type {name}"));
            let ours: Vec<&str> = schema
                .get(id)
                .fields
                .iter()
                .map(|field| &*field.name)
                .collect();
            let mut theirs: Vec<&str> = properties.keys().map(String::as_str).collect();
            theirs.sort_unstable();
            assert_eq!(ours, theirs, "{name}");
        }
    }
}

#[test]
fn deployments_of_old_select_what_their_template_is_labelled_with() {
    let old = kind("extensions/v1beta1", "Deployment");
    let spec = json!({"replicas": 1, "rollbackTo": {"revision": 3},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}});
    let value = json!({"apiVersion": "extensions/v1beta1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": spec});
    let made = stored(old, value.clone());
    assert_eq!(made["apiVersion"], "apps/v1");
    assert_eq!(made["spec"]["selector"], json!({"matchLabels": {"a": "b"}}));
    assert_eq!(made["spec"].get("rollbackTo"), None);
    assert_eq!(
        made["metadata"]["annotations"]["deprecated.deployment.rollback.to"],
        "3"
    );
    let back = (old.conversion.unwrap().from_storage)(made);
    assert_eq!(back["spec"]["rollbackTo"], json!({"revision": 3}));
    assert_eq!(back["metadata"].get("annotations"), None);
    let set = kind("apps/v1beta1", "StatefulSet");
    assert_eq!(
        stored(set, value)["spec"]["updateStrategy"],
        json!({"type": "OnDelete"})
    );
}

#[test]
fn ingresses_of_old_name_services_in_place() {
    let old = kind("extensions/v1beta1", "Ingress");
    let value = json!({"apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": {"name": "x"}, "spec": {
        "backend": {"serviceName": "d", "servicePort": 80},
        "rules": [{"host": "h", "http": {"paths": [{"path": "/", "backend": {"serviceName": "s", "servicePort": "web"}}]}}]}});
    let made = stored(old, value);
    assert_eq!(
        made["spec"],
        json!({
        "defaultBackend": {"service": {"name": "d", "port": {"number": 80}}},
        "rules": [{"host": "h", "http": {"paths": [{"path": "/", "pathType": "ImplementationSpecific",
            "backend": {"service": {"name": "s", "port": {"name": "web"}}}}]}}]})
    );
    let back = (old.conversion.unwrap().from_storage)(made);
    assert_eq!(
        back["spec"]["backend"],
        json!({"serviceName": "d", "servicePort": 80})
    );
    assert_eq!(
        back["spec"]["rules"][0]["http"]["paths"][0]["backend"],
        json!({"serviceName": "s", "servicePort": "web"})
    );
}

#[test]
fn an_empty_selector_of_an_old_budget_selects_nothing() {
    let old = kind("policy/v1beta1", "PodDisruptionBudget")
        .conversion
        .unwrap();
    let budget = |version: &str, selector: Value| json!({"apiVersion": version, "kind": "PodDisruptionBudget", "metadata": {}, "spec": {"selector": selector}});
    let label = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";
    let on = |operator: &str| json!({"matchExpressions": [{"key": label, "operator": operator}]});
    for (v1beta1, v1) in [
        (json!({}), on("Exists")),
        (on("DoesNotExist"), json!({})),
        (
            json!({"matchLabels": {"a": "b"}}),
            json!({"matchLabels": {"a": "b"}}),
        ),
    ] {
        let (old_form, new_form) = (budget("policy/v1beta1", v1beta1), budget("policy/v1", v1));
        assert_eq!((old.to_storage)(old_form.clone()), new_form);
        assert_eq!((old.from_storage)(new_form), old_form);
    }
}

#[test]
fn autoscalers_of_old_survive_the_way_to_the_store_and_back() {
    let old = kind("autoscaling/v2beta1", "HorizontalPodAutoscaler")
        .conversion
        .unwrap();
    let hpa = json!({"apiVersion": "autoscaling/v2beta1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
    "spec": {"maxReplicas": 3, "metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "targetAverageUtilization": 50}},
        {"type": "Pods", "pods": {"metricName": "m", "targetAverageValue": "1k"}},
        {"type": "Object", "object": {"target": {"kind": "Service", "name": "s"}, "metricName": "r", "targetValue": "2k"}},
        {"type": "External", "external": {"metricName": "q", "metricSelector": {"matchLabels": {"a": "b"}}, "targetAverageValue": "30"}},
    ]}, "status": {"currentReplicas": 1, "desiredReplicas": 1, "currentMetrics": [
        {"type": "Resource", "resource": {"name": "cpu", "currentAverageUtilization": 7, "currentAverageValue": "3m"}}]}});
    let made = (old.to_storage)(hpa.clone());
    let metrics = &made["spec"]["metrics"];
    assert_eq!(
        metrics[0]["resource"],
        json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}})
    );
    assert_eq!(
        metrics[2]["object"],
        json!({"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "r"}, "target": {"type": "Value", "value": "2k"}})
    );
    assert_eq!(
        metrics[3]["external"],
        json!({"metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "AverageValue", "averageValue": "30"}})
    );
    assert_eq!((old.from_storage)(made), hpa);
}

#[test]
fn zones_and_subjects_find_their_new_places() {
    let slice = kind("discovery.k8s.io/v1beta1", "EndpointSlice")
        .conversion
        .unwrap();
    let value = json!({"apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice", "metadata": {}, "endpoints": [
        {"addresses": ["10.0.0.1"], "topology": {"topology.kubernetes.io/zone": "z", "kubernetes.io/hostname": "n"}}]});
    let made = (slice.to_storage)(value.clone());
    assert_eq!(made["endpoints"][0]["zone"], "z");
    assert_eq!(
        made["endpoints"][0]["deprecatedTopology"],
        json!({"kubernetes.io/hostname": "n"})
    );
    assert_eq!((slice.from_storage)(made), value);
    let binding = kind("rbac.authorization.k8s.io/v1alpha1", "RoleBinding")
        .conversion
        .unwrap();
    let value = json!({"apiVersion": "rbac.authorization.k8s.io/v1alpha1", "kind": "RoleBinding", "metadata": {}, "subjects": [
        {"kind": "User", "name": "u", "apiVersion": "rbac.authorization.k8s.io/v1alpha1"},
        {"kind": "ServiceAccount", "name": "s", "namespace": "n", "apiVersion": "v1"}]});
    let made = (binding.to_storage)(value.clone());
    assert_eq!(made["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!((binding.from_storage)(made), value);
}
