//! `DaemonSet` (apps/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, WriteContext};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("apps", "v1", "DaemonSet")],
    storage: "/registry/daemonsets",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.apps.v1.DaemonSet",
    conversion: None,
    ops: &Typed::<DaemonSetStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Desired", "integer", "How many pods are wanted."),
    Column::new("Current", "integer", "How many pods there are."),
    Column::new("Ready", "integer", "How many pods are ready."),
    Column::new(
        "Up-to-date",
        "integer",
        "How many pods are of the newest template.",
    ),
    Column::new("Available", "integer", "How many pods are available."),
    Column::new("Node Selector", "string", "On which nodes the pods run."),
    Column::AGE,
    Column::new(
        "Containers",
        "string",
        "The names of the containers in the template.",
    )
    .wide(),
    Column::new(
        "Images",
        "string",
        "The images of the containers in the template.",
    )
    .wide(),
    Column::new("Selector", "string", "Which pods belong to it.").wide(),
];

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// What is special about this kind.
pub struct DaemonSetStrategy;

impl Strategy for DaemonSetStrategy {
    type Object = DaemonSet;
    const HAS_STATUS: bool = true;

    fn default(object: &mut DaemonSet) {
        crate::defaults::apps::default_daemon_set(object);
    }

    fn prepare_create(object: &mut DaemonSet, _: &WriteContext) {
        object.status = Some(Default::default());
        let generation = template_generation(object).max(1);
        set_template_generation(object, generation);
    }

    fn prepare_update(new: &mut DaemonSet, old: &DaemonSet, _: &WriteContext) {
        new.status.clone_from(&old.status);
        let template = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.template.clone());
        let changed = i64::from(template(new) != template(old));
        set_template_generation(new, template_generation(old).saturating_add(changed));
    }

    fn prepare_status_update(new: &mut DaemonSet, old: &DaemonSet, _: &WriteContext) {
        new.spec.clone_from(&old.spec);
        set_template_generation(new, template_generation(old));
    }

    fn validate_create(object: &DaemonSet) -> ErrorList {
        crate::validation::apps::validate_daemon_set(object)
    }

    fn validate_update(new: &DaemonSet, old: &DaemonSet) -> ErrorList {
        crate::validation::apps::validate_daemon_set_update(new, old)
    }

    fn validate_status_update(new: &DaemonSet, old: &DaemonSet) -> ErrorList {
        crate::validation::apps::validate_daemon_set_status_update(new, old)
    }

    fn warnings(new: &DaemonSet, old: Option<&DaemonSet>) -> Vec<String> {
        crate::validation::apps::warnings_daemon_set(new, old)
    }

    fn row(object: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let status = object.status.as_ref();
        let pod = object
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref());
        let (names, images) =
            printing::containers(pod.map(|pod| pod.containers.as_slice()).unwrap_or_default());
        vec![
            object.metadata.name.clone().into(),
            status
                .map_or(0, |status| status.desired_number_scheduled)
                .into(),
            status
                .map_or(0, |status| status.current_number_scheduled)
                .into(),
            status.map_or(0, |status| status.number_ready).into(),
            status
                .and_then(|status| status.updated_number_scheduled)
                .unwrap_or(0)
                .into(),
            status
                .and_then(|status| status.number_available)
                .unwrap_or(0)
                .into(),
            printing::labels(pod.and_then(|pod| pod.node_selector.as_ref())).into(),
            printing::age(&object.metadata, now),
            names,
            images,
            printing::selector(object.spec.as_ref().map(|spec| &spec.selector)).into(),
        ]
    }
}

/// Which template it is, counted from one. Upstream keeps a field of `extensions/v1beta1` here, and clients read it.
fn template_generation(set: &DaemonSet) -> i64 {
    let annotations = set.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(TEMPLATE_GENERATION))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_counted() {
        let context = WriteContext {
            now: Timestamp::UNIX_EPOCH,
            user: String::new(),
            uid: String::new(),
            groups: Vec::new(),
            extra: std::collections::BTreeMap::new(),
            subresource: String::new(),
        };
        let make = |annotations: Value, image: &str| -> DaemonSet {
            serde_json::from_value(
                json!({"metadata": {"annotations": annotations}, "spec": {"selector": {},
                "template": {"spec": {"containers": [{"name": "a", "image": image}]}}}}),
            )
            .expect("sample")
        };
        let mut first = make(json!({}), "a:1");
        DaemonSetStrategy::prepare_create(&mut first, &context);
        assert_eq!(template_generation(&first), 1);
        let mut same = make(json!({TEMPLATE_GENERATION: "9"}), "a:1");
        DaemonSetStrategy::prepare_update(&mut same, &first, &context);
        assert_eq!(template_generation(&same), 1);
        let mut other = make(json!({}), "a:2");
        DaemonSetStrategy::prepare_update(&mut other, &first, &context);
        assert_eq!(template_generation(&other), 2);
        let mut imported = make(json!({TEMPLATE_GENERATION: "7"}), "a:2");
        DaemonSetStrategy::prepare_create(&mut imported, &context);
        assert_eq!(template_generation(&imported), 7);
        let mut status = make(json!({}), "a:3");
        DaemonSetStrategy::prepare_status_update(&mut status, &imported, &context);
        assert_eq!(template_generation(&status), 7);
    }
}
