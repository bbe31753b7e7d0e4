//! Defaults of the smaller kinds of the core group.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    Event, LimitRange, LimitRangeItem, Namespace, Node, ResourceQuota, Secret,
};

use super::container::default_resource_list;
use crate::validation::absent::{default_text, default_value, text};

/// A Secret: texts become data.
pub fn default_secret(secret: &mut Secret) {
    default_text(&mut secret.type_, "Opaque");
    if let Some(texts) = secret.string_data.take().filter(|texts| !texts.is_empty()) {
        let data = secret.data.get_or_insert_with(BTreeMap::new);
        data.extend(
            texts
                .into_iter()
                .map(|(key, text)| (key, ByteString(text.into_bytes()))),
        );
    }
}

/// A Namespace: it carries its name as a label.
pub fn default_namespace(namespace: &mut Namespace) {
    let name = text(&namespace.metadata.name).to_owned();
    if !name.is_empty() {
        let labels = namespace.metadata.labels.get_or_insert_with(BTreeMap::new);
        labels.insert("kubernetes.io/metadata.name".into(), name);
    }
    default_value(&mut namespace.spec, Default::default());
    let status = namespace.status.get_or_insert_with(Default::default);
    default_text(&mut status.phase, "Active");
}

/// A Node: all of its capacity can be given to pods unless it says less.
pub fn default_node(node: &mut Node) {
    default_value(&mut node.spec, Default::default());
    let status = node.status.get_or_insert_with(Default::default);
    if status.allocatable.is_none() {
        status.allocatable = status.capacity.clone();
    }
    default_resource_list(&mut status.capacity);
    default_resource_list(&mut status.allocatable);
    let endpoints = status.daemon_endpoints.get_or_insert_with(Default::default);
    default_value(&mut endpoints.kubelet_endpoint, Default::default());
    default_value(&mut status.node_info, Default::default());
}

/// A LimitRange.
pub fn default_limit_range(range: &mut LimitRange) {
    let spec = range.spec.get_or_insert_with(Default::default);
    for item in &mut spec.limits {
        default_limits(item);
    }
}

fn default_limits(item: &mut LimitRangeItem) {
    if item.type_ == "Container" {
        let limits = item.default.get_or_insert_with(BTreeMap::new);
        let requests = item.default_request.get_or_insert_with(BTreeMap::new);
        for (name, quantity) in item.max.iter().flatten() {
            limits
                .entry(name.clone())
                .or_insert_with(|| quantity.clone());
        }
        for (name, quantity) in limits.iter().chain(item.min.iter().flatten()) {
            requests
                .entry(name.clone())
                .or_insert_with(|| quantity.clone());
        }
        for list in [&mut item.default, &mut item.default_request] {
            if list.as_ref().is_some_and(BTreeMap::is_empty) {
                *list = None;
            }
        }
    }
    for list in [
        &mut item.max,
        &mut item.min,
        &mut item.default,
        &mut item.default_request,
        &mut item.max_limit_request_ratio,
    ] {
        default_resource_list(list);
    }
}

/// A ResourceQuota.
pub fn default_resource_quota(quota: &mut ResourceQuota) {
    let spec = quota.spec.get_or_insert_with(Default::default);
    default_resource_list(&mut spec.hard);
    let status = quota.status.get_or_insert_with(Default::default);
    default_resource_list(&mut status.hard);
    default_resource_list(&mut status.used);
}

/// An Event of the core group: what is always there.
pub fn default_event(event: &mut Event) {
    default_value(&mut event.source, Default::default());
    default_value(&mut event.reporting_component, String::new());
    default_value(&mut event.reporting_instance, String::new());
}
