//! Nodes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    ConfigMapNodeConfigSource, Node, NodeConfigSource, NodeSpec, NodeStatus, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pod::taint_effect;
use super::resources::resource_quantity;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entries, entry, items, text};
use crate::validation::meta::label_key;
use crate::validation::values::{Bare, all_invalid, json, positive, required};
use crate::validation::{names, net};

const TAINTS: &str = "scheduler.alpha.kubernetes.io/taints";
const NO_CHANGE: &str = "node updates may not change podCIDR except from \"\" to valid";

/// What is wrong with a new Node, its metadata aside.
#[must_use]
pub fn validate_node(node: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    let (no_spec, no_status) = (NodeSpec::default(), NodeStatus::default());
    let spec = node.spec.as_ref().unwrap_or(&no_spec);
    let status = node.status.as_ref().unwrap_or(&no_status);
    annotations(&mut errors, node);
    taints(
        &mut errors,
        items(&spec.taints),
        &Path::new("metadata").child("taints"),
    );
    resources(&mut errors, status);
    let swap = status
        .node_info
        .as_ref()
        .and_then(|info| info.swap.as_ref());
    if let Some(capacity) = swap.and_then(|swap| swap.capacity) {
        let path = Path::new("metadata")
            .child("nodeSwapStatus")
            .child("capacity");
        positive(&mut errors, &path, capacity);
    }
    features(&mut errors, status);
    let ranges = items(&spec.pod_cidrs);
    let path = Path::new("spec").child("podCIDRs");
    for (index, range) in ranges.iter().enumerate() {
        errors.extend(net::legacy_cidr(&path.index(index), range, &[]));
    }
    if ranges.len() > 1 {
        let families: BTreeSet<Option<bool>> = ranges
            .iter()
            .map(|range| net::Network::parse(range).map(|range| range.address.is_ipv4()))
            .collect();
        if ranges.len() > 2 || families.len() < 2 {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.push(FieldError::invalid(&path, json(ranges), detail));
        }
    }
    errors
}

/// What is wrong with a changed Node, its metadata aside.
#[must_use]
pub fn validate_node_update(new: &Node, old: &Node) -> ErrorList {
    let mut errors = validate_node(new);
    errors.extend(validate_node_status_update(new, old));
    errors
}

/// What is wrong with the new status of a Node (and what an update may not change).
#[must_use]
pub fn validate_node_status_update(new: &Node, old: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    let (no_spec, no_status) = (NodeSpec::default(), NodeStatus::default());
    let (spec, old_spec) = (
        new.spec.as_ref().unwrap_or(&no_spec),
        old.spec.as_ref().unwrap_or(&no_spec),
    );
    let status = new.status.as_ref().unwrap_or(&no_status);
    annotations(&mut errors, new);
    resources(&mut errors, status);
    features(&mut errors, status);
    let mut seen = BTreeSet::new();
    for (index, address) in items(&status.addresses).iter().enumerate() {
        if !seen.insert((&address.type_, &address.address)) {
            let path = Path::new("status").child("addresses").index(index);
            let shown = format!(
                "{{\"Type\":{},\"Address\":{}}}",
                json(&address.type_).0,
                json(&address.address).0
            );
            errors.push(FieldError::duplicate(&path, Bare(shown)));
        }
    }
    kept(&mut errors, spec, old_spec);
    if let Some(source) = &spec.config_source {
        config_source(
            &mut errors,
            source,
            false,
            &Path::new("spec").child("configSource"),
        );
    }
    if let Some(config) = &status.config {
        let path = Path::new("status").child("config");
        for (name, source) in [
            ("assigned", &config.assigned),
            ("active", &config.active),
            ("lastKnownGood", &config.last_known_good),
        ] {
            if let Some(source) = source {
                config_source(&mut errors, source, true, &path.child(name));
            }
        }
    }
    taints(
        &mut errors,
        items(&spec.taints),
        &Path::new("metadata").child("taints"),
    );
    if text(&spec.external_id) != text(&old_spec.external_id) {
        let path = Path::new("spec").child("externalID");
        errors.push(FieldError::forbidden(&path, "may not be updated"));
    }
    errors
}

fn kept(errors: &mut ErrorList, spec: &NodeSpec, old: &NodeSpec) {
    let (ranges, old_ranges) = (items(&spec.pod_cidrs), items(&old.pod_cidrs));
    let path = Path::new("spec").child("podCIDRs");
    if !old_ranges.is_empty() {
        let changes = if ranges.len() == old_ranges.len() {
            ranges
                .iter()
                .zip(old_ranges)
                .filter(|(new, old)| new != old)
                .count()
        } else {
            1
        };
        for _ in 0..changes {
            errors.push(FieldError::forbidden(&path, NO_CHANGE));
        }
    }
    let (id, old_id) = (text(&spec.provider_id), text(&old.provider_id));
    if !old_id.is_empty() && id != old_id {
        let path = Path::new("spec").child("providerID");
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&path, detail));
    }
}

fn annotations(errors: &mut ErrorList, node: &Node) {
    let path = Path::new("metadata").child("annotations");
    if let Some(value) = entry(&node.metadata.annotations, TAINTS).filter(|v| !v.is_empty()) {
        match serde_json::from_str::<Vec<Taint>>(value) {
            Ok(list) => taints(errors, &list, &path.child(TAINTS)),
            Err(error) => errors.push(FieldError::invalid(&path, TAINTS, &error.to_string())),
        }
    }
}

/// Taints: well-formed, and one per key and effect.
fn taints(errors: &mut ErrorList, taints: &[Taint], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        label_key(errors, &taint.key, &path.child("key"));
        let value = text(&taint.value);
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(
                &path.child("value"),
                value,
                &wrong.join(";"),
            ));
        }
        let effect_path = path.child("effect");
        if taint.effect.is_empty() {
            errors.push(FieldError::required(&effect_path, ""));
        } else {
            taint_effect(errors, &taint.effect, &effect_path);
        }
        if !seen.insert((&taint.effect, &taint.key)) {
            let shown = format!(
                "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{}}}",
                json(&taint.key).0,
                json(value).0,
                json(&taint.effect).0,
                json(&taint.time_added).0
            );
            let mut error = FieldError::duplicate(&path, Bare(shown));
            error
                .body
                .push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
    }
}

fn resources(errors: &mut ErrorList, status: &NodeStatus) {
    let lists: [(&str, &Option<BTreeMap<String, Quantity>>); 2] = [
        ("capacity", &status.capacity),
        ("allocatable", &status.allocatable),
    ];
    for (name, list) in lists {
        for (resource, quantity) in entries(list) {
            let path = Path::new("status").child(name).child(resource);
            resource_quantity(errors, resource, quantity, &path);
        }
    }
}

fn is_feature(name: &str) -> bool {
    let mut segments = name.split('/');
    segments.next().is_some_and(|first| {
        first.starts_with(|c: char| c.is_ascii_uppercase())
            && first.bytes().all(|c| c.is_ascii_alphanumeric())
    }) && segments.all(|segment| {
        segment.starts_with(|c: char| c.is_ascii_alphabetic())
            && segment.bytes().all(|c| c.is_ascii_alphanumeric())
    })
}

fn features(errors: &mut ErrorList, status: &NodeStatus) {
    let path = Path::new("status").child("declaredFeatures");
    let features = items(&status.declared_features);
    for (index, feature) in features.iter().enumerate() {
        let rule = if feature.len() > names::SUBDOMAIN_MAX {
            "must be no more than 253 characters"
        } else if !is_feature(feature) {
            "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
        } else {
            ""
        };
        if !rule.is_empty() {
            let detail = format!("invalid feature name {feature:?}: {rule}");
            errors.push(FieldError::invalid(&path.index(index), feature, &detail));
        }
        if let Some(next) = features.get(index + 1) {
            let path = path.index(index + 1);
            if feature == next {
                errors.push(FieldError::duplicate(&path, next));
            } else if feature > next {
                let detail = "list must be sorted alphabetically";
                errors.push(FieldError::invalid(&path, next, detail));
            }
        }
    }
}

fn config_source(errors: &mut ErrorList, source: &NodeConfigSource, status: bool, path: &Path) {
    match &source.config_map {
        Some(map) => config_map(errors, map, status, &path.child("configMap")),
        None => errors.push(FieldError::invalid(
            path,
            Bare("{\"ConfigMap\":null}".into()),
            "exactly one reference subfield must be non-nil",
        )),
    }
}

fn config_map(errors: &mut ErrorList, map: &ConfigMapNodeConfigSource, status: bool, path: &Path) {
    for (name, value) in [
        ("uid", text(&map.uid)),
        ("resourceVersion", text(&map.resource_version)),
    ] {
        let path = path.child(name);
        if status {
            required(errors, &path, value);
        } else if !value.is_empty() {
            errors.push(FieldError::forbidden(
                &path,
                &format!("{name} must not be set in spec"),
            ));
        }
    }
    let judges: [(&str, &str, names::Rule); 3] = [
        ("namespace", &map.namespace, names::dns_label),
        ("name", &map.name, names::dns_subdomain),
        (
            "kubeletConfigKey",
            &map.kubelet_config_key,
            names::config_key,
        ),
    ];
    for (name, value, judge) in judges {
        let path = path.child(name);
        required(errors, &path, value);
        if !value.is_empty() {
            all_invalid(errors, &path, value, judge(value));
        }
    }
}

/// What the client is told about a Node.
#[must_use]
pub fn warnings_node(new: &Node, _old: Option<&Node>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(spec) = &new.spec {
        if spec.config_source.is_some() {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !text(&spec.external_id).is_empty() {
            warnings.push(
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned(),
            );
        }
        for (index, range) in items(&spec.pod_cidrs).iter().enumerate() {
            let path = Path::new("spec").child("podCIDRs").index(index);
            warnings.extend(net::cidr_warnings(&path, range));
        }
    }
    warnings
}
