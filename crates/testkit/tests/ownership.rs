//! Who owns which field: what writes leave in `managedFields`, and server-side apply.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use skiff_testkit::TestCluster;

fn make<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn as_manager(name: &str) -> PostParams {
    PostParams {
        field_manager: Some(name.to_owned()),
        ..PostParams::default()
    }
}

/// Manager, operation, subresource and fields of each entry.
fn owners(object: &impl kube::ResourceExt) -> Vec<(String, String, String, Value)> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let entries = object.managed_fields().iter();
    entries
        .map(|entry| {
            let fields = entry.fields_v1.clone().map(|fields| fields.0);
            (
                text(&entry.manager),
                text(&entry.operation),
                text(&entry.subresource),
                fields.unwrap_or_default(),
            )
        })
        .collect()
}

fn map(data: Value) -> ConfigMap {
    make(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data}))
}

#[tokio::test]
async fn every_write_names_its_manager() {
    let cluster = TestCluster::start().await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let pod: Pod = make(
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    );
    let made = pods.create(&as_manager("maker"), &pod).await.unwrap();
    assert_eq!(owners(&made).len(), 1);
    assert_eq!(owners(&made)[0].0, "maker");
    // What the server adds on its own (here the service account) is nobody's.
    assert!(made.spec.as_ref().unwrap().service_account_name.is_some());
    let spec = &owners(&made)[0].3["f:spec"];
    assert!(spec.get("f:serviceAccountName").is_none(), "{spec}");
    assert_eq!(
        spec["f:containers"]["k:{\"name\":\"c\"}"]["f:image"],
        json!({})
    );

    let mut running = made.clone();
    running.status = Some(make(json!({"phase": "Running"})));
    let running = pods
        .replace_status("p", &as_manager("kubelet"), &running)
        .await
        .unwrap();
    let fields = json!({"f:status": {"f:phase": {}}});
    let kubelet = ("kubelet".into(), "Update".into(), "status".into(), fields);
    assert!(owners(&running).contains(&kubelet));
    // Nothing changes: not even the time.
    let same = pods
        .replace_status("p", &as_manager("other"), &running)
        .await
        .unwrap();
    assert_eq!(
        same.metadata.resource_version,
        running.metadata.resource_version
    );

    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let patched = pods
        .patch("p", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert!(
        owners(&patched)
            .iter()
            .any(|owner| owner.3 == json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}))
    );
    // An empty list starts over, and nothing is recorded from then on.
    let patch = Patch::Merge(json!({"metadata": {"managedFields": []}}));
    let reset = pods
        .patch("p", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(owners(&reset), []);
}

#[tokio::test]
async fn a_client_that_knows_no_owners_does_not_lose_them() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let made = maps
        .create(&as_manager("a"), &map(json!({"x": "1", "y": "1"})))
        .await
        .unwrap();
    let mut changed = made.clone();
    changed.metadata.managed_fields = None;
    changed.data = Some(make(json!({"x": "2", "y": "1"})));
    let changed = maps.replace("m", &as_manager("b"), &changed).await.unwrap();
    assert_eq!(
        owners(&changed)
            .into_iter()
            .map(|owner| (owner.0, owner.3))
            .collect::<Vec<_>>(),
        [
            ("a".to_owned(), json!({"f:data": {".": {}, "f:y": {}}})),
            ("b".to_owned(), json!({"f:data": {"f:x": {}}})),
        ]
    );
}

#[tokio::test]
async fn apply_makes_changes_takes_away_and_conflicts() {
    let cluster = TestCluster::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let by = PatchParams::apply;
    let config = |data| Patch::Apply(map(data));
    let made = maps
        .patch("m", &by("a"), &config(json!({"x": "1", "y": "1"})))
        .await
        .unwrap();
    let again = maps
        .patch("m", &by("a"), &config(json!({"x": "1", "y": "1"})))
        .await
        .unwrap();
    assert_eq!(made, again);
    let dry = PatchParams {
        dry_run: true,
        ..by("a")
    };
    let dry = maps
        .patch("m", &dry, &config(json!({"x": "3"})))
        .await
        .unwrap();
    assert_eq!(dry.data, Some(make(json!({"x": "3"}))));
    assert_eq!(maps.get("m").await.unwrap(), made);

    let refused = maps
        .patch("m", &by("b"), &config(json!({"x": "2"})))
        .await
        .unwrap_err();
    let kube::Error::Api(status) = refused else {
        panic!("{refused}")
    };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"a\": .data.x"
    );
    let causes = &status.details.as_ref().unwrap().causes;
    assert_eq!(
        (causes[0].reason.as_str(), causes[0].field.as_str()),
        ("FieldManagerConflict", ".data.x")
    );

    let forced = maps
        .patch("m", &by("b").force(), &config(json!({"x": "2"})))
        .await
        .unwrap();
    assert_eq!(forced.data, Some(make(json!({"x": "2", "y": "1"}))));
    // What a no longer applies goes; x is b's now.
    let less = maps
        .patch("m", &by("a"), &config(json!({"z": "1"})))
        .await
        .unwrap();
    assert_eq!(less.data, Some(make(json!({"x": "2", "z": "1"}))));

    let mut wrong = map(json!({}));
    wrong.metadata.uid = Some("another".to_owned());
    wrong.metadata.name = Some("n".to_owned());
    let refused = maps
        .patch("n", &by("a"), &Patch::Apply(&wrong))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("uid mismatch"), "{refused}");
    wrong.metadata.uid = None;
    wrong.metadata.name = Some("m".to_owned());
    wrong.metadata.resource_version = Some("1".to_owned());
    let refused = maps
        .patch("m", &by("a"), &Patch::Apply(&wrong))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("has been modified"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_scale_has_owners_of_its_own() {
    let cluster = TestCluster::start().await.unwrap();
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    let config = |replicas: i32| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let by = PatchParams::apply;
    deployments
        .patch("d", &by("me"), &Patch::Apply(config(1)))
        .await
        .unwrap();
    let scale = |replicas: i32| {
        Patch::Apply(
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}}),
        )
    };
    let refused = deployments.patch_scale("d", &by("scaler"), &scale(3)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("Apply failed with 1 conflict: conflict with \"me\": .spec.replicas"),
        "{refused}"
    );
    deployments
        .patch_scale("d", &by("scaler").force(), &scale(3))
        .await
        .unwrap();
    let scaled = deployments.get("d").await.unwrap();
    assert_eq!(scaled.spec.as_ref().unwrap().replicas, Some(3));
    let last = owners(&scaled).pop().unwrap();
    let fields = json!({"f:spec": {"f:replicas": {}}});
    assert_eq!(
        last,
        ("scaler".into(), "Apply".into(), "scale".into(), fields)
    );
    let refused = deployments
        .patch("d", &by("me"), &Patch::Apply(config(1)))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("conflict with \"scaler\" with subresource \"scale\": .spec.replicas"),
        "{refused}"
    );
}
