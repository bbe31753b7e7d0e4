//! Environment variables of containers and where their values come from.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector,
    ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::paths;
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::text;
use crate::validation::names;
use crate::validation::quantity::{Amount, canonical_text};
use crate::validation::values::all_invalid;

/// The fields of a pod that variables may show.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields of a pod that the downward API knows at all.
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: [&str; 13] = [
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

/// The variables of a container.
pub(super) fn variables(errors: &mut ErrorList, variables: &[EnvVar], path: &Path) {
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        let (name, name_path) = (&variable.name, path.child("name"));
        if name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else {
            all_invalid(errors, &name_path, name, names::environment_name(name));
        }
        if let Some(source) = &variable.value_from {
            value_source(
                errors,
                source,
                text(&variable.value),
                &path.child("valueFrom"),
            );
        }
    }
}

fn value_source(errors: &mut ErrorList, source: &EnvVarSource, value: &str, path: &Path) {
    let mut sources = 0;
    if let Some(selector) = &source.field_ref {
        sources += 1;
        field_selector(errors, selector, &FIELDS, &path.child("fieldRef"));
    }
    if let Some(selector) = &source.resource_field_ref {
        sources += 1;
        resource_selector(errors, selector, false, &path.child("resourceFieldRef"));
    }
    if let Some(selector) = &source.config_map_key_ref {
        sources += 1;
        key_selector(
            errors,
            &selector.name,
            &selector.key,
            &path.child("configMapKeyRef"),
        );
    }
    if let Some(selector) = &source.secret_key_ref {
        sources += 1;
        key_selector(
            errors,
            &selector.name,
            &selector.key,
            &path.child("secretKeyRef"),
        );
    }
    if let Some(selector) = &source.file_key_ref {
        sources += 1;
        file_selector(errors, selector, &path.child("fileKeyRef"));
    }
    let detail = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if !value.is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}

/// `metadata.labels['app']` as path and subscript.
fn split_subscript(field: &str) -> Option<(&str, &str)> {
    field
        .strip_suffix("']")?
        .split_once("['")
        .filter(|(path, _)| !path.is_empty())
}

/// A reference to a field of the pod; `supported` lists those that may be shown here.
pub(super) fn field_selector(
    errors: &mut ErrorList,
    selector: &ObjectFieldSelector,
    supported: &[&str],
    path: &Path,
) {
    let version = text(&selector.api_version);
    let field = selector.field_path.as_str();
    for (name, value) in [("apiVersion", version), ("fieldPath", field)] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(name), ""));
            return;
        }
    }
    let field_path = path.child("fieldPath");
    let mut unconvertible = |why: String| {
        let detail = format!("error converting fieldPath: {why}");
        errors.push(FieldError::invalid(&field_path, field, &detail));
    };
    if version != "v1" {
        return unconvertible(format!("unsupported pod version: {version}"));
    }
    if let Some((name, subscript)) = split_subscript(field) {
        match name {
            "metadata.annotations" => {
                let key = subscript.to_lowercase();
                all_invalid(errors, path, &key, names::qualified_name(&key));
            }
            "metadata.labels" => {
                all_invalid(errors, path, subscript, names::qualified_name(subscript));
            }
            _ => unconvertible(format!("field label does not support subscript: {field}")),
        }
        return;
    }
    // An old name of one field.
    let name = if field == "spec.host" {
        "spec.nodeName"
    } else {
        field
    };
    if !KNOWN_FIELDS.contains(&name) {
        return unconvertible(format!("field label not supported: {field}"));
    }
    if !supported.contains(&name) {
        errors.push(FieldError::not_supported(&field_path, name, supported));
    }
}

/// A reference to a container's limits or requests; in a volume the container is named.
pub(super) fn resource_selector(
    errors: &mut ErrorList,
    selector: &ResourceFieldSelector,
    volume: bool,
    path: &Path,
) {
    let resource = selector.resource.as_str();
    let pages =
        resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if volume && text(&selector.container_name).is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !pages {
        errors.push(FieldError::not_supported(
            &path.child("resource"),
            resource,
            &RESOURCES,
        ));
    }
    if let Some(divisor) = &selector.divisor {
        divisor_of(errors, resource, divisor, path);
    }
}

fn divisor_of(errors: &mut ErrorList, resource: &str, divisor: &Quantity, path: &Path) {
    if Amount::of(divisor).is_zero() {
        return;
    }
    let what = match resource.split_once('.') {
        Some((_, "cpu")) => "cpu",
        Some((_, "memory")) => "memory",
        Some((_, "ephemeral-storage")) => "local ephemeral storage",
        Some((_, name)) if name.starts_with("hugepages-") => "hugepages",
        _ => return,
    };
    let text = canonical_text(&divisor.0).unwrap_or_default();
    let detail = if what == "cpu" {
        if matches!(text.as_str(), "1m" | "1") {
            return;
        }
        "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
    } else {
        if BYTE_DIVISORS.contains(&text.as_str()) {
            return;
        }
        format!(
            "only divisor's values {} are supported with the {what} resource",
            BYTE_DIVISORS.join(", ")
        )
    };
    errors.push(FieldError::invalid(
        &path.child("divisor"),
        resource,
        &detail,
    ));
}

fn key_selector(errors: &mut ErrorList, name: &str, key: &str, path: &Path) {
    all_invalid(
        errors,
        &path.child("name"),
        name,
        names::dns_subdomain(name),
    );
    let key_path = path.child("key");
    if key.is_empty() {
        errors.push(FieldError::required(&key_path, ""));
    } else {
        all_invalid(errors, &key_path, key, names::config_key(key));
    }
}

fn file_selector(errors: &mut ErrorList, selector: &FileKeySelector, path: &Path) {
    let FileKeySelector {
        key,
        volume_name,
        path: file,
        ..
    } = selector;
    let (key_path, name_path, file_path) = (
        path.child("key"),
        path.child("volumeName"),
        path.child("path"),
    );
    if key.is_empty() {
        errors.push(FieldError::required(&key_path, ""));
    } else {
        all_invalid(errors, &key_path, key, names::environment_name(key));
    }
    if volume_name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        all_invalid(
            errors,
            &name_path,
            volume_name,
            names::dns_label(volume_name),
        );
    }
    if file.is_empty() {
        errors.push(FieldError::required(&file_path, ""));
    } else {
        paths::no_backsteps(errors, file, &file_path);
    }
}

/// ConfigMaps and Secrets that become variables as a whole.
pub(super) fn sources(errors: &mut ErrorList, sources: &[EnvFromSource], path: &Path) {
    for (index, source) in sources.iter().enumerate() {
        let item = path.index(index);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            let path = item.child("prefix");
            all_invalid(errors, &path, prefix, names::environment_name(prefix));
        }
        let mut count = 0;
        if let Some(reference) = &source.config_map_ref {
            count += 1;
            source_name(
                errors,
                &reference.name,
                &item.child("configMapRef").child("name"),
            );
        }
        if let Some(reference) = &source.secret_ref {
            count += 1;
            source_name(
                errors,
                &reference.name,
                &item.child("secretRef").child("name"),
            );
        }
        let detail = match count {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(path, "", detail));
    }
}

fn source_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        // Upstream judges it as the beginning of a name.
        all_invalid(errors, path, name, names::subdomain_name(name, true));
    }
}
