//! What may be wrong with a definition, in upstream's words.

mod schema;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition,
    CustomResourceDefinitionNames, CustomResourceDefinitionVersion, CustomResourceSubresources,
    JSONSchemaProps, SelectableField,
};
use serde_json::json;

use super::naming::{self, Approval};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::names::{dns_1035_label, dns_subdomain};

/// More selectable fields than these are refused.
const MAX_SELECTABLE: usize = 8;

/// What is wrong with a new definition.
#[must_use]
pub fn validate(crd: &CustomResourceDefinition) -> ErrorList {
    let mut errors = name(crd);
    errors.extend(spec(crd, None));
    errors.extend(stored_versions(crd));
    errors.extend(approved(crd, None));
    errors.extend(preserve_unknown_fields(crd, None));
    errors
}

/// What is wrong with a changed definition.
#[must_use]
pub fn validate_update(
    new: &CustomResourceDefinition,
    old: &CustomResourceDefinition,
) -> ErrorList {
    let mut errors = spec(new, Some(old));
    let path = Path::new("spec");
    let mut fixed = |path: Path, new: &str, old: &str| {
        if new != old {
            errors.push(FieldError::invalid(&path, new, "field is immutable"));
        }
    };
    let (names, had) = (&new.spec.names, &old.spec.names);
    if naming::holds(old, "Established") {
        fixed(path.child("scope"), &new.spec.scope, &old.spec.scope);
        fixed(path.child("names").child("kind"), &names.kind, &had.kind);
    }
    fixed(path.child("group"), &new.spec.group, &old.spec.group);
    fixed(
        path.child("names").child("plural"),
        &names.plural,
        &had.plural,
    );
    errors.extend(stored_versions(new));
    errors.extend(approved(new, Some(old)));
    errors.extend(preserve_unknown_fields(new, Some(old)));
    errors
}

fn name(crd: &CustomResourceDefinition) -> ErrorList {
    let name = crd.metadata.name.as_deref().unwrap_or_default();
    let wanted = format!("{}.{}", crd.spec.names.plural, crd.spec.group);
    if name == wanted || name.is_empty() {
        return ErrorList::new();
    }
    let path = Path::new("metadata").child("name");
    vec![FieldError::invalid(
        &path,
        name,
        "must be spec.names.plural+\".\"+spec.group",
    )]
}

fn stored_versions(crd: &CustomResourceDefinition) -> ErrorList {
    let path = Path::new("status").child("storedVersions");
    let stored = crd
        .status
        .as_ref()
        .and_then(|status| status.stored_versions.clone())
        .unwrap_or_default();
    if stored.is_empty() {
        let why = "must have at least one stored version";
        return vec![FieldError::invalid(&path, json!(stored), why)];
    }
    let mut errors = ErrorList::new();
    let versions = &crd.spec.versions;
    for version in versions.iter().filter(|version| version.storage) {
        if !stored.contains(&version.name) {
            let why = format!("must have the storage version {}", version.name);
            errors.push(FieldError::invalid(&path, json!(stored), &why));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.name == *name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(&path.index(index), name, &why));
        }
    }
    errors
}

fn approved(new: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>) -> ErrorList {
    if !naming::is_protected(&new.spec.group) {
        return ErrorList::new();
    }
    let (state, reason) = naming::approval(new);
    let text = |crd: &CustomResourceDefinition| {
        let annotations = crd.metadata.annotations.as_ref();
        annotations
            .and_then(|annotations| annotations.get(naming::APPROVED_ANNOTATION))
            .cloned()
            .unwrap_or_default()
    };
    // What was let through before may stay as it is.
    if old.is_some_and(|old| naming::approval(old).0 == state || text(old) == text(new)) {
        return ErrorList::new();
    }
    let path = Path::new("metadata")
        .child("annotations")
        .key(naming::APPROVED_ANNOTATION);
    match state {
        Approval::Missing => vec![FieldError::required(&path, &reason)],
        Approval::Invalid => vec![FieldError::invalid(&path, text(new), &reason)],
        Approval::Bypassed | Approval::Approved => ErrorList::new(),
    }
}

fn preserve_unknown_fields(
    new: &CustomResourceDefinition,
    old: Option<&CustomResourceDefinition>,
) -> ErrorList {
    let keeps = |crd: &CustomResourceDefinition| crd.spec.preserve_unknown_fields == Some(true);
    if !keeps(new) || old.is_some_and(keeps) {
        return ErrorList::new();
    }
    let path = Path::new("spec").child("preserveUnknownFields");
    let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
    vec![FieldError::invalid(&path, true, why)]
}

/// Whether all versions say the same; upstream then speaks of a field of the specification instead.
fn hoisted<T: PartialEq>(
    versions: &[CustomResourceDefinitionVersion],
    part: impl Fn(&CustomResourceDefinitionVersion) -> &T,
) -> bool {
    versions
        .split_first()
        .is_some_and(|(first, rest)| rest.iter().all(|version| part(version) == part(first)))
}

fn labels(errors: &mut ErrorList, path: &Path, text: &str) {
    let wrong = dns_1035_label(text);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(path, text, &wrong.join(",")));
    }
}

fn spec(crd: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>) -> ErrorList {
    let (spec, path) = (&crd.spec, Path::new("spec"));
    let mut errors = ErrorList::new();
    let group = path.child("group");
    let wrong = dns_subdomain(&spec.group);
    match spec.group.as_str() {
        "" => errors.push(FieldError::required(&group, "")),
        text if !wrong.is_empty() => {
            errors.push(FieldError::invalid(&group, text, &wrong.join(",")));
        }
        text if !text.contains('.') => {
            let why = "should be a domain with at least one dot";
            errors.push(FieldError::invalid(&group, text, why));
        }
        _ => {}
    }
    let scope = path.child("scope");
    match spec.scope.as_str() {
        "" => errors.push(FieldError::required(&scope, "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported(
            &scope,
            other,
            &["Cluster", "Namespaced"],
        )),
    }
    let had_schemas = old.is_none_or(|old| {
        let mut versions = old.spec.versions.iter();
        versions.all(|version| schema_of(version).is_some())
    });
    for (index, version) in spec.versions.iter().enumerate() {
        if had_schemas && schema_of(version).is_none() {
            let path = path.child("versions").index(index).child("schema");
            errors.push(FieldError::required(&path.child("openAPIV3Schema"), ""));
        }
    }
    versions(crd, old, &path, &mut errors);
    names(&spec.names, &path.child("names"), &mut errors);
    let known = old.is_none_or(|old| {
        let conversion = old.spec.conversion.as_ref();
        let webhook = conversion.and_then(|conversion| conversion.webhook.as_ref());
        webhook.is_none_or(|webhook| {
            let versions = &webhook.conversion_review_versions;
            versions.is_empty() || versions.iter().any(|version| is_review(version))
        })
    });
    if let Some(given) = &spec.conversion {
        conversion(given, known, &path.child("conversion"), &mut errors);
    }
    errors
}

fn schema_of(version: &CustomResourceDefinitionVersion) -> Option<&JSONSchemaProps> {
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

fn versions(
    crd: &CustomResourceDefinition,
    old: Option<&CustomResourceDefinition>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let versions = &crd.spec.versions;
    let all = path.child("versions");
    let one_schema = hoisted(versions, |version| &version.schema);
    let one_subresources = hoisted(versions, |version| &version.subresources);
    let one_columns = hoisted(versions, |version| &version.additional_printer_columns);
    let one_selectable = hoisted(versions, |version| &version.selectable_fields);
    for (index, version) in versions.iter().enumerate() {
        let own = all.index(index);
        labels(errors, &own.child("name"), &version.name);
        deprecation(version, &own.child("deprecationWarning"), errors);
        let first = index == 0;
        let before = old.and_then(|old| {
            let mut versions = old.spec.versions.iter();
            versions.find(|other| other.name == version.name)
        });
        let has_status = |version: &CustomResourceDefinitionVersion| {
            let subresources = version.subresources.as_ref();
            subresources.is_some_and(|subresources| subresources.status.is_some())
        };
        if let Some(schema) = schema_of(version).filter(|_| first || !one_schema) {
            let (place, status) = match one_schema {
                true => (path.child("validation"), versions.iter().any(has_status)),
                false => (own.child("schema"), has_status(version)),
            };
            let old = before.and_then(schema_of);
            errors.extend(schema::validate(schema, old, status, &place));
        }
        if first || !one_subresources {
            let place = if one_subresources { path } else { &own };
            subresources(
                version.subresources.as_ref(),
                &place.child("subresources"),
                errors,
            );
        }
        if first || !one_columns {
            let place = if one_columns { path } else { &own };
            let columns = version.additional_printer_columns.iter().flatten();
            for (index, given) in columns.enumerate() {
                let place = place.child("additionalPrinterColumns").index(index);
                column(given, &place, errors);
            }
        }
        if first || !one_selectable {
            let place = if one_selectable { path } else { &own };
            selectable(
                version.selectable_fields.as_deref().unwrap_or_default(),
                before.and_then(|before| before.selectable_fields.as_deref()),
                schema_of(version),
                &place.child("selectableFields"),
                errors,
            );
        }
    }
    let shown = || serde_json::to_value(versions).unwrap_or_default();
    let unique = versions.iter().enumerate().all(|(index, version)| {
        !versions
            .iter()
            .take(index)
            .any(|other| other.name == version.name)
    });
    if !unique {
        let why = "must contain unique version names";
        errors.push(FieldError::invalid(&all, shown(), why));
    }
    if versions.iter().filter(|version| version.storage).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(&all, shown(), why));
    }
}

fn deprecation(version: &CustomResourceDefinitionVersion, path: &Path, errors: &mut ErrorList) {
    let Some(text) = &version.deprecation_warning else {
        return;
    };
    let mut refuse = |why: &str| errors.push(FieldError::invalid(path, text, why));
    if version.deprecated != Some(true) {
        return refuse("can only be set for deprecated versions");
    }
    if text.len() > 256 {
        refuse("must be <= 256 characters long");
    }
    if text.is_empty() {
        refuse("must not be an empty string");
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        refuse(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        ));
    }
}

fn names(names: &CustomResourceDefinitionNames, path: &Path, errors: &mut ErrorList) {
    let singular = names.singular.as_deref().unwrap_or_default();
    let list_kind = names.list_kind.as_deref().unwrap_or_default();
    let all = [
        ("plural", names.plural.as_str()),
        ("singular", singular),
        ("kind", names.kind.as_str()),
        ("listKind", list_kind),
    ];
    for (field, text) in all {
        if text.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    for (field, text) in all.into_iter().filter(|(_, text)| !text.is_empty()) {
        let kind = field == "kind" || field == "listKind";
        let wrong = match kind {
            true => dns_1035_label(&text.to_lowercase()),
            false => dns_1035_label(text),
        };
        if !wrong.is_empty() {
            let mixed = "may have mixed case, but should otherwise match: ";
            let why = format!("{}{}", if kind { mixed } else { "" }, wrong.join(","));
            errors.push(FieldError::invalid(&path.child(field), text, &why));
        }
    }
    for (index, name) in names.short_names.iter().flatten().enumerate() {
        labels(errors, &path.child("shortNames").index(index), name);
    }
    if !names.kind.is_empty() && names.kind == list_kind {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(&path.child("listKind"), list_kind, why));
    }
    for (index, name) in names.categories.iter().flatten().enumerate() {
        labels(errors, &path.child("categories").index(index), name);
    }
}

fn simple_path(text: &str, path: &Path, errors: &mut ErrorList) -> bool {
    if text.starts_with('.') {
        return true;
    }
    let why = "must be a simple json path starting with .";
    errors.push(FieldError::invalid(path, text, why));
    false
}

fn column(column: &CustomResourceColumnDefinition, path: &Path, errors: &mut ErrorList) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 9] = [
        "byte",
        "date",
        "date-time",
        "double",
        "float",
        "int32",
        "int64",
        "password",
        "",
    ];
    if column.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let why = format!("must be one of {}", TYPES.join(","));
    if column.type_.is_empty() {
        errors.push(FieldError::required(&path.child("type"), &why));
    } else if !TYPES.contains(&column.type_.as_str()) {
        errors.push(FieldError::invalid(
            &path.child("type"),
            &column.type_,
            &why,
        ));
    }
    let format = column.format.as_deref().unwrap_or_default();
    if !FORMATS.contains(&format) {
        let known = &FORMATS[..FORMATS.len() - 1];
        let why = format!("must be one of {}", known.join(","));
        errors.push(FieldError::invalid(&path.child("format"), format, &why));
    }
    let place = path.child("JSONPath");
    match column.json_path.as_str() {
        "" => errors.push(FieldError::required(&place, "")),
        text => {
            simple_path(text, &place, errors);
        }
    }
}

fn subresources(given: Option<&CustomResourceSubresources>, path: &Path, errors: &mut ErrorList) {
    let Some(scale) = given.and_then(|given| given.scale.as_ref()) else {
        return;
    };
    let mut check = |field: &str, text: &str, under: &[&str], why: &str| {
        let path = path.child("scale").child(field);
        if simple_path(text, &path, errors) && !under.iter().any(|under| text.starts_with(under)) {
            errors.push(FieldError::invalid(&path, text, why));
        }
    };
    let selector = scale.label_selector_path.as_deref().unwrap_or_default();
    for (field, text, under, why) in [
        (
            "specReplicasPath",
            scale.spec_replicas_path.as_str(),
            ".spec.",
            "should be a json path under .spec",
        ),
        (
            "statusReplicasPath",
            scale.status_replicas_path.as_str(),
            ".status.",
            "should be a json path under .status",
        ),
    ] {
        if !text.is_empty() {
            check(field, text, &[under], why);
        }
    }
    if !selector.is_empty() {
        let why = "should be a json path under either .spec or .status";
        check("labelSelectorPath", selector, &[".spec.", ".status."], why);
    }
    for (field, text) in [
        ("specReplicasPath", &scale.spec_replicas_path),
        ("statusReplicasPath", &scale.status_replicas_path),
    ] {
        if text.is_empty() {
            let path = path.child("scale").child(field);
            errors.push(FieldError::required(&path, ""));
        }
    }
}

fn selectable(
    fields: &[SelectableField],
    before: Option<&[SelectableField]>,
    schema: Option<&JSONSchemaProps>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let path = path.index(index).child("jsonPath");
        let text = field.json_path.as_str();
        if text.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        let mut refuse = |why: &str| errors.push(FieldError::invalid(&path, text, why));
        let found = text.strip_prefix('.').and_then(|text| {
            let mut names = text.split('.');
            let under = |schema: &JSONSchemaProps, name: &str| -> Option<JSONSchemaProps> {
                schema.properties.as_ref()?.get(name).cloned()
            };
            names.try_fold(schema?.clone(), |schema, name| under(&schema, name))
        });
        let Some(found) = found else {
            refuse("is an invalid path: does not refer to a valid field");
            continue;
        };
        if text.starts_with(".metadata.") || text == ".metadata" {
            refuse("must not point to fields in metadata");
        }
        let ty = found.type_.as_deref().unwrap_or_default();
        if !matches!(ty, "boolean" | "integer" | "string") {
            refuse(
                "must point to a field of type boolean, integer, or string. Enum string fields and strings with formats are allowed.",
            );
        }
        if seen.contains(&text) {
            errors.push(FieldError::duplicate(&path, text));
        }
        seen.push(text);
    }
    if fields.len() > MAX_SELECTABLE && before != Some(fields) {
        errors.push(FieldError::too_many(path, fields.len(), MAX_SELECTABLE));
    }
}

fn is_review(version: &str) -> bool {
    matches!(version, "v1" | "v1beta1")
}

fn conversion(
    given: &CustomResourceConversion,
    known_wanted: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let strategy = path.child("strategy");
    match given.strategy.as_str() {
        "" => errors.push(FieldError::required(&strategy, "")),
        "None" | "Webhook" => {}
        other => errors.push(FieldError::not_supported(
            &strategy,
            other,
            &["None", "Webhook"],
        )),
    }
    let config_path = path.child("webhookClientConfig");
    let config = given
        .webhook
        .as_ref()
        .and_then(|webhook| webhook.client_config.as_ref());
    let versions = given.webhook.as_ref();
    let versions = versions.map_or(&[][..], |webhook| &webhook.conversion_review_versions);
    if given.strategy != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if config.is_some() {
            errors.push(FieldError::forbidden(&config_path, why));
        }
        if !versions.is_empty() {
            errors.push(FieldError::forbidden(
                &path.child("conversionReviewVersions"),
                why,
            ));
        }
        return;
    }
    match config {
        None => {
            let why = "required when strategy is set to Webhook";
            errors.push(FieldError::required(&config_path, why));
        }
        Some(config) if config.url.is_some() == config.service.is_some() => {
            let why = "exactly one of url or service is required";
            errors.push(FieldError::required(&config_path, why));
        }
        Some(config) => {
            if let Some(url) = &config.url
                && !url.starts_with("https://")
            {
                let why =
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.push(FieldError::invalid(&config_path.child("url"), url, why));
            }
            if let Some(service) = &config.service {
                let path = config_path.child("service");
                for (field, text) in [("name", &service.name), ("namespace", &service.namespace)] {
                    if text.is_empty() {
                        let why = format!("service {field} is required");
                        errors.push(FieldError::required(&path.child(field), &why));
                    }
                }
                let port = service.port.unwrap_or(443);
                if !(1..=65535).contains(&port) {
                    let why = "port is not valid: must be between 1 and 65535, inclusive";
                    errors.push(FieldError::invalid(&path.child("port"), port, why));
                }
            }
        }
    }
    let path = path.child("conversionReviewVersions");
    if versions.is_empty() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        let own = path.index(index);
        if versions.iter().take(index).any(|other| other == version) {
            errors.push(FieldError::invalid(&own, version, "duplicate version"));
        } else {
            for why in dns_1035_label(version) {
                errors.push(FieldError::invalid(&own, version, &why));
            }
        }
    }
    if known_wanted && !versions.iter().any(|version| is_review(version)) {
        let why = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(&path, json!(versions), why));
    }
}

/// The formats in the schemas that are not looked at, each once, in the order of the versions.
#[must_use]
pub fn unrecognized_formats(crd: &CustomResourceDefinition) -> Vec<String> {
    let mut found = Vec::new();
    for schema in crd.spec.versions.iter().filter_map(schema_of) {
        schema::unrecognized_formats(schema, &mut found);
    }
    found
}

#[cfg(test)]
#[path = "validation/tests.rs"]
mod tests;
