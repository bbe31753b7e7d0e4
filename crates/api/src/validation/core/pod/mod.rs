//! Pods and pod templates, topic by topic.

pub(crate) mod affinity;
mod annotations;
mod containers;
mod env;
mod handlers;
mod mounts;
pub(crate) mod paths;
mod resize;
mod rules;
pub(crate) mod scheduling;
mod security;
mod spec;
mod status;
mod update;
pub(crate) mod volumes;
pub(crate) mod volumes_network;
pub(crate) mod volumes_projected;
mod warnings;
mod windows;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Binding, Pod, PodSpec, PodTemplate, PodTemplateSpec};

pub use annotations::MIRROR;
pub(crate) use containers::protocol;
pub(crate) use handlers::port;
pub use resize::{qos_class, validate_pod_resize};
pub use rules::PodRules;
pub(crate) use scheduling::taint_effect;
pub use status::validate_pod_status_update;
pub use update::{validate_pod_ephemeral_containers_update, validate_pod_update};

pub use warnings::warnings_pod;
pub(crate) use warnings::{claim_spec_warnings, deprecated_node_label, template_warnings};

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, text};
use crate::validation::{meta, values};

/// What is wrong with a new Pod, its metadata aside.
#[must_use]
pub fn validate_pod(pod: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    let missing = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&missing);
    metadata_and_spec(&mut errors, pod, spec, &PodRules::for_pod());
    let path = Path::new("spec");
    if !items(&spec.ephemeral_containers).is_empty() {
        let path = path.child("ephemeralContainers");
        errors.push(FieldError::forbidden(&path, "cannot be set on create"));
    }
    if !text(&spec.node_name).is_empty() && !items(&spec.scheduling_gates).is_empty() {
        errors.push(FieldError::forbidden(
            &path.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
    annotations::match_fields(&mut errors, &pod.metadata, spec, &path);
    errors
}

/// What new and changed pods are both held to.
fn metadata_and_spec(errors: &mut ErrorList, pod: &Pod, spec: &PodSpec, rules: &PodRules) {
    let annotations_path = Path::new("metadata").child("annotations");
    annotations::annotations(errors, &pod.metadata, spec, rules, &annotations_path);
    let path = Path::new("spec");
    self::spec::spec(errors, spec, Some(&pod.metadata), rules, &path);
    if text(&spec.service_account_name).is_empty() {
        for (index, volume) in items(&spec.volumes).iter().enumerate() {
            let sources = volume
                .projected
                .as_ref()
                .map_or(&[][..], |p| items(&p.sources));
            let path = path
                .child("volumes")
                .index(index)
                .child("projected")
                .child("sources");
            for (index, source) in sources.iter().enumerate() {
                if source.service_account_token.is_some() {
                    errors.push(FieldError::forbidden(
                        &path.index(index).child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    ));
                }
            }
        }
    }
    for (name, containers) in [
        ("containers", spec.containers.as_slice()),
        ("initContainers", items(&spec.init_containers)),
    ] {
        for (index, container) in containers.iter().enumerate() {
            containers::image_spaces(errors, container, &path.child(name).index(index));
        }
    }
}

/// What is wrong with the template of a workload. `old` is the template it had, if it changes.
pub fn validate_template(
    errors: &mut ErrorList,
    template: &PodTemplateSpec,
    old: Option<&PodTemplateSpec>,
    path: &Path,
) {
    let rules = PodRules::after(
        old.and_then(|old| old.spec.as_ref()),
        old.and_then(|old| old.metadata.as_ref()),
    );
    let (no_meta, no_spec) = (Default::default(), PodSpec::default());
    let meta = template.metadata.as_ref().unwrap_or(&no_meta);
    let spec = template.spec.as_ref().unwrap_or(&no_spec);
    meta::labels(errors, &meta.labels, &path.child("labels"));
    let annotations_path = path.child("annotations");
    meta::annotations(errors, &meta.annotations, &annotations_path);
    annotations::annotations(errors, meta, spec, &rules, &annotations_path);
    let spec_path = path.child("spec");
    self::spec::spec(errors, spec, None, &rules, &spec_path);
    annotations::match_fields(errors, meta, spec, &spec_path);
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.push(FieldError::forbidden(
            &spec_path.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}

/// What is wrong with a PodTemplate object.
#[must_use]
pub fn validate_pod_template(template: &PodTemplate) -> ErrorList {
    pod_template(template, None)
}

/// What is wrong with a changed PodTemplate object.
#[must_use]
pub fn validate_pod_template_update(new: &PodTemplate, old: &PodTemplate) -> ErrorList {
    pod_template(new, Some(old))
}

fn pod_template(new: &PodTemplate, old: Option<&PodTemplate>) -> ErrorList {
    let mut errors = ErrorList::new();
    let missing = PodTemplateSpec::default();
    let template = new.template.as_ref().unwrap_or(&missing);
    let old = old.and_then(|old| old.template.as_ref());
    validate_template(&mut errors, template, old, &Path::new("template"));
    errors
}

/// What is wrong with the binding of a pod to a node.
#[must_use]
pub fn validate_binding(binding: &Binding) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("target");
    let kind = text(&binding.target.kind);
    if !matches!(kind, "" | "Node") {
        let path = path.child("kind");
        errors.push(FieldError::not_supported(&path, kind, &["Node", "<empty>"]));
    }
    values::required(&mut errors, &path.child("name"), text(&binding.target.name));
    errors
}
