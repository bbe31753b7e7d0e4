//! The spec of a claim, in a PersistentVolumeClaim or in a pod's ephemeral volume.

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate, TypedLocalObjectReference,
    TypedObjectReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::resources::resource_quantity;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entry, items, text};
use crate::validation::meta::{self, SelectorRules};
use crate::validation::names;
use crate::validation::quantity::Amount;
use crate::validation::values::{Bare, all_invalid, one_of};

/// The access modes, in the order of messages.
pub(crate) const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// What an old object had wrong may stay wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClaimRules {
    pub allow_invalid_selector_values: bool,
    pub allow_invalid_api_group: bool,
}

/// The template of a claim in an ephemeral volume.
pub(crate) fn claim_template(
    errors: &mut ErrorList,
    template: &PersistentVolumeClaimTemplate,
    path: &Path,
) {
    if let Some(meta) = &template.metadata {
        template_meta(errors, meta, &path.child("metadata"));
    }
    claim_spec(
        errors,
        &template.spec,
        ClaimRules::default(),
        &path.child("spec"),
    );
}

fn template_meta(errors: &mut ErrorList, meta: &ObjectMeta, path: &Path) {
    meta::annotations(errors, &meta.annotations, &path.child("annotations"));
    meta::labels(errors, &meta.labels, &path.child("labels"));
    let there = |value: &Option<String>| !text(value).is_empty();
    for (name, set) in [
        ("name", there(&meta.name)),
        ("generateName", there(&meta.generate_name)),
        ("namespace", there(&meta.namespace)),
        ("selfLink", there(&meta.self_link)),
        ("uID", there(&meta.uid)),
        ("resourceVersion", there(&meta.resource_version)),
        ("generation", meta.generation.unwrap_or(0) != 0),
        ("creationTimestamp", meta.creation_timestamp.is_some()),
        ("deletionTimestamp", meta.deletion_timestamp.is_some()),
        (
            "deletionGracePeriodSeconds",
            meta.deletion_grace_period_seconds.is_some(),
        ),
        ("ownerReferences", meta.owner_references.is_some()),
        ("finalizers", meta.finalizers.is_some()),
        ("managedFields", meta.managed_fields.is_some()),
    ] {
        if set {
            errors.push(FieldError::forbidden(&path.child(name), "cannot be set"));
        }
    }
}

/// The spec of a claim.
pub(crate) fn claim_spec(
    errors: &mut ErrorList,
    spec: &PersistentVolumeClaimSpec,
    rules: ClaimRules,
    path: &Path,
) {
    let modes_path = path.child("accessModes");
    if items(&spec.access_modes).is_empty() {
        errors.push(FieldError::required(
            &modes_path,
            "at least 1 access mode is required",
        ));
    }
    let selector_rules = SelectorRules {
        allow_invalid_values: rules.allow_invalid_selector_values,
    };
    meta::label_selector(
        errors,
        spec.selector.as_ref(),
        selector_rules,
        &path.child("selector"),
    );
    access_modes(errors, items(&spec.access_modes), &modes_path);
    let size = spec
        .resources
        .as_ref()
        .and_then(|resources| entry(&resources.requests, "storage"));
    let size_path = path.child("resources").key("storage");
    match size {
        None => errors.push(FieldError::required(&size_path, "")),
        Some(size) if Amount::of(size) <= Amount::ZERO => {
            errors.push(FieldError::invalid(
                &size_path,
                &size.0,
                "must be greater than zero",
            ));
        }
        Some(size) => resource_quantity(errors, "storage", size, &size_path),
    }
    class_name(
        errors,
        &spec.storage_class_name,
        &path.child("storageClassName"),
    );
    if let Some(mode) = &spec.volume_mode {
        one_of(
            errors,
            &path.child("volumeMode"),
            mode,
            &["Block", "Filesystem"],
        );
    }
    data_sources(errors, spec, rules, path);
    class_name(
        errors,
        &spec.volume_attributes_class_name,
        &path.child("volumeAttributesClassName"),
    );
}

/// The name of a storage class or the like, where there is one.
pub(crate) fn class_name(errors: &mut ErrorList, name: &Option<String>, path: &Path) {
    let name = text(name);
    if !name.is_empty() {
        all_invalid(errors, path, name, names::dns_subdomain(name));
    }
}

/// Known modes, and the one for a single pod not with others.
pub(crate) fn access_modes(errors: &mut ErrorList, modes: &[String], path: &Path) {
    let (mut single, mut other) = (false, false);
    for mode in modes {
        one_of(errors, path, mode, &ACCESS_MODES);
        if mode == "ReadWriteOncePod" {
            single = true;
        } else {
            other |= ACCESS_MODES.contains(&mode.as_str());
        }
    }
    if single && other {
        errors.push(FieldError::forbidden(
            path,
            "may not use ReadWriteOncePod with other access modes",
        ));
    }
}

fn data_sources(
    errors: &mut ErrorList,
    spec: &PersistentVolumeClaimSpec,
    rules: ClaimRules,
    path: &Path,
) {
    let source_path = path.child("dataSource");
    if let Some(TypedLocalObjectReference {
        api_group,
        kind,
        name,
    }) = &spec.data_source
    {
        data_source(errors, (api_group, kind, name), rules, &source_path);
    }
    let Some(reference) = &spec.data_source_ref else {
        return;
    };
    let TypedObjectReference {
        api_group,
        kind,
        name,
        namespace,
    } = reference;
    let reference_path = path.child("dataSourceRef");
    data_source(errors, (api_group, kind, name), rules, &reference_path);
    let namespace = text(namespace);
    if !namespace.is_empty() {
        let path = reference_path.child("namespace");
        all_invalid(errors, &path, namespace, names::dns_label(namespace));
    }
    if let Some(source) = &spec.data_source {
        // Upstream shows the path as the value; it prints as an empty structure.
        let shown = || Bare("{}".into());
        if !namespace.is_empty() {
            errors.push(FieldError::invalid(
                path,
                shown(),
                "may not be specified when dataSourceRef.namespace is specified",
            ));
        } else if (&source.api_group, &source.kind, &source.name) != (api_group, kind, name) {
            errors.push(FieldError::invalid(
                path,
                shown(),
                "must match dataSourceRef",
            ));
        }
    }
}

fn data_source(
    errors: &mut ErrorList,
    (group, kind, name): (&Option<String>, &String, &String),
    rules: ClaimRules,
    path: &Path,
) {
    for (field, value) in [("name", name), ("kind", kind)] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    let group = text(group);
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.push(FieldError::invalid(
            path,
            kind,
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        ));
    }
    if !group.is_empty() && !rules.allow_invalid_api_group {
        all_invalid(
            errors,
            &path.child("apiGroup"),
            group,
            names::dns_subdomain(group),
        );
    }
}
