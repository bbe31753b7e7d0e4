//! Defaults of containers, init containers and ephemeral containers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle,
    LifecycleHandler, ObjectFieldSelector, Probe, ResourceFieldSelector, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::image::pull_policy;
use crate::validation::absent::{default_number, default_text, default_value, text};
use crate::validation::quantity::{canonicalise, canonicalise_resource};

/// The fields that containers of all sorts share.
struct Parts<'a> {
    image: &'a Option<String>,
    image_pull_policy: &'a mut Option<String>,
    termination_message_path: &'a mut Option<String>,
    termination_message_policy: &'a mut Option<String>,
    ports: &'a mut Option<Vec<ContainerPort>>,
    env: &'a mut Option<Vec<EnvVar>>,
    resources: &'a mut Option<ResourceRequirements>,
    probes: [&'a mut Option<Probe>; 3],
    lifecycle: &'a mut Option<Lifecycle>,
}

macro_rules! parts {
    ($container:ident) => {
        Parts {
            image: &$container.image,
            image_pull_policy: &mut $container.image_pull_policy,
            termination_message_path: &mut $container.termination_message_path,
            termination_message_policy: &mut $container.termination_message_policy,
            ports: &mut $container.ports,
            env: &mut $container.env,
            resources: &mut $container.resources,
            probes: [
                &mut $container.liveness_probe,
                &mut $container.readiness_probe,
                &mut $container.startup_probe,
            ],
            lifecycle: &mut $container.lifecycle,
        }
    };
}

pub(super) fn default_container(container: &mut Container) {
    default_parts(parts!(container));
}

pub(super) fn default_ephemeral_container(container: &mut EphemeralContainer) {
    default_parts(parts!(container));
}

fn default_parts(parts: Parts<'_>) {
    if text(parts.image_pull_policy).is_empty() {
        *parts.image_pull_policy = Some(pull_policy(text(parts.image)).to_owned());
    }
    default_text(parts.termination_message_path, "/dev/termination-log");
    default_text(parts.termination_message_policy, "File");
    for port in parts.ports.iter_mut().flatten() {
        default_text(&mut port.protocol, "TCP");
    }
    for variable in parts.env.iter_mut().flatten() {
        default_variable(variable);
    }
    default_value(parts.resources, ResourceRequirements::default());
    if let Some(resources) = parts.resources {
        default_resources(resources);
    }
    for probe in parts.probes.into_iter().flatten() {
        default_probe(probe);
    }
    if let Some(lifecycle) = parts.lifecycle {
        for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop] {
            if let Some(LifecycleHandler {
                http_get: Some(get),
                ..
            }) = handler
            {
                default_http_get(get);
            }
        }
    }
}

fn default_variable(variable: &mut EnvVar) {
    let Some(source) = &mut variable.value_from else {
        return;
    };
    if let Some(selector) = &mut source.field_ref {
        default_field_selector(selector);
    }
    if let Some(selector) = &mut source.file_key_ref {
        default_value(&mut selector.optional, false);
    }
    if let Some(selector) = &mut source.resource_field_ref {
        default_resource_selector(selector);
    }
}

pub(super) fn default_field_selector(selector: &mut ObjectFieldSelector) {
    default_text(&mut selector.api_version, "v1");
}

pub(super) fn default_resource_selector(selector: &mut ResourceFieldSelector) {
    canonicalise(selector.divisor.get_or_insert_with(|| Quantity("0".into())));
}

/// Limits and requests: canonical quantities of at most three decimal places.
pub(super) fn default_resources(resources: &mut ResourceRequirements) {
    default_resource_list(&mut resources.limits);
    default_resource_list(&mut resources.requests);
}

/// A resource list: canonical quantities of at most three decimal places.
pub fn default_resource_list(list: &mut Option<BTreeMap<String, Quantity>>) {
    for quantity in list.iter_mut().flat_map(BTreeMap::values_mut) {
        canonicalise_resource(quantity);
    }
}

fn default_probe(probe: &mut Probe) {
    default_number(&mut probe.timeout_seconds, 1);
    default_number(&mut probe.period_seconds, 10);
    default_number(&mut probe.success_threshold, 1);
    default_number(&mut probe.failure_threshold, 3);
    if let Some(get) = &mut probe.http_get {
        default_http_get(get);
    }
    if let Some(grpc) = &mut probe.grpc {
        default_value(&mut grpc.service, String::new());
    }
}

fn default_http_get(get: &mut HTTPGetAction) {
    default_text(&mut get.path, "/");
    default_text(&mut get.scheme, "HTTP");
}
