//! What may be wrong with a definition's schema: the rules that make it structural, and those of Kubernetes' extensions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Value, json};

use crate::apiextensions::structural::{
    META, Node, default, formats, lists, prune, regex, validate as values,
};
use crate::field::{ErrorList, FieldError, Path};

/// What is wrong with a schema that is under `path`.
pub fn validate(
    schema: &JSONSchemaProps,
    old: Option<&JSONSchemaProps>,
    has_status: bool,
    path: &Path,
) -> ErrorList {
    let path = path.child("openAPIV3Schema");
    let mut errors = ErrorList::new();
    if has_status {
        status_at_root(schema, &path, &mut errors);
    }
    if schema.nullable == Some(true) {
        let why = "nullable cannot be true at the root";
        errors.push(FieldError::forbidden(&path.child("nullable"), why));
    }
    let mut structural = ErrorList::new();
    place(schema, Level::Root, &path, &mut structural);
    complete(schema, schema, &path, &mut structural);
    structural.sort_by_key(ToString::to_string);
    if structural.is_empty() && old != Some(schema) {
        defaults(schema, &path, true, &mut structural);
    }
    errors.extend(structural);
    let context = Extensions {
        in_meta: false,
        no_defaults: None,
    };
    context.check(schema, true, &path, &mut errors);
    errors
}

/// If the status is a subresource, its schema is taken out of the whole, so that nothing at the root may speak of it.
fn status_at_root(schema: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    if schema.type_.as_deref() != Some("object") {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        let ty = schema.type_.clone().unwrap_or_default();
        errors.push(FieldError::invalid(&path.child("type"), ty, why));
        return;
    }
    let junctors = [&schema.all_of, &schema.any_of, &schema.one_of];
    let other = junctors
        .iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
        || schema.not.is_some()
        || schema.additional_properties.is_some()
        || schema.default.is_some()
        || schema.enum_.as_ref().is_some_and(|list| !list.is_empty());
    if other {
        let why = "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled";
        let shown = serde_json::to_value(schema).unwrap_or_default();
        errors.push(FieldError::invalid(path, shown, why));
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

fn yes(flag: Option<bool>) -> bool {
    flag == Some(true)
}

fn items_of(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

fn additional_of(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(schema)) => Some(schema),
        _ => None,
    }
}

fn type_of(schema: &JSONSchemaProps) -> &str {
    schema.type_.as_deref().unwrap_or_default()
}

/// The rules of a place outside of alternatives.
fn place(schema: &JSONSchemaProps, level: Level, path: &Path, errors: &mut ErrorList) {
    let ty = type_of(schema);
    let items = items_of(schema);
    if ty == "array" && schema.items.is_none() {
        errors.push(FieldError::required(
            &path.child("items"),
            "must be specified",
        ));
    }
    if let Some(items) = items {
        place(items, Level::Item, &path.child("items"), errors);
    }
    for (name, property) in schema.properties.iter().flatten() {
        let path = path.child("properties").key(name);
        place(property, Level::Field, &path, errors);
    }
    if schema.additional_properties.is_some() {
        let path = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&path, "must not be used at the root"));
        }
        if let Some(additional) = additional_of(schema) {
            place(additional, Level::Field, &path, errors);
        }
    }
    let embedded = yes(schema.x_kubernetes_embedded_resource);
    let int_or_string = yes(schema.x_kubernetes_int_or_string);
    let preserve = yes(schema.x_kubernetes_preserve_unknown_fields);
    if int_or_string {
        let why = "must be false if x-kubernetes-int-or-string is true";
        for (set, field) in [
            (preserve, "x-kubernetes-preserve-unknown-fields"),
            (embedded, "x-kubernetes-embedded-resource"),
        ] {
            if set {
                errors.push(FieldError::invalid(&path.child(field), true, why));
            }
        }
    }
    junctors(schema, path, errors);
    let type_path = path.child("type");
    if embedded && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match ty {
            "" => FieldError::required(&type_path, why),
            _ => FieldError::invalid(&type_path, ty, why),
        });
    } else if ty.is_empty() && !int_or_string && !preserve {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&type_path, why));
    }
    if embedded && schema.additional_properties.is_some() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        let path = path.child("additionalProperties");
        errors.push(FieldError::forbidden(&path, why));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(
            &type_path,
            ty,
            "must be object at the root",
        ));
    }
    metadata(schema, level, embedded, path, errors);
    let no_properties = schema.properties.as_ref().is_none_or(|map| map.is_empty());
    if embedded && !preserve && no_properties {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), why));
    }
}

/// What a schema may say of the metadata of an object.
fn metadata(
    schema: &JSONSchemaProps,
    level: Level,
    embedded: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let property = |name: &str| schema.properties.as_ref()?.get(name);
    if level != Level::Root && !embedded {
        return;
    }
    for name in ["kind", "apiVersion"] {
        if let Some(found) = property(name).filter(|found| type_of(found) != "string") {
            let path = path.child("properties").key(name).child("type");
            errors.push(FieldError::invalid(&path, type_of(found), "must be string"));
        }
    }
    let Some(found) = property("metadata") else {
        return;
    };
    let path = path.child("properties").key("metadata");
    if type_of(found) != "object" {
        let path = path.child("type");
        errors.push(FieldError::invalid(&path, type_of(found), "must be object"));
    }
    if level == Level::Root {
        let mut rest = found.clone();
        let names = rest.properties.iter().flatten();
        let allowed = names
            .into_iter()
            .all(|(name, _)| name == "name" || name == "generateName");
        if allowed {
            rest.properties = None;
        }
        rest.type_ = None;
        rest.default = None;
        rest.description = None;
        if rest != JSONSchemaProps::default() {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(&path, why));
        }
    }
}

/// Whether alternatives say nothing but that the value is a number or a string.
fn is_int_or_string(list: &Option<Vec<JSONSchemaProps>>) -> bool {
    let of = |ty: &str| JSONSchemaProps {
        type_: Some(ty.to_owned()),
        ..JSONSchemaProps::default()
    };
    list.as_deref() == Some(&[of("integer"), of("string")])
}

/// The rules of alternatives.
fn junctors(schema: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    if !is_int_or_string(&schema.any_of) {
        for (index, inner) in schema.any_of.iter().flatten().enumerate() {
            nested(inner, false, &path.child("anyOf").index(index), errors);
        }
    }
    for (index, inner) in schema.all_of.iter().flatten().enumerate() {
        let skip = index == 0 && is_int_or_string(&inner.any_of);
        nested(inner, skip, &path.child("allOf").index(index), errors);
    }
    for (index, inner) in schema.one_of.iter().flatten().enumerate() {
        nested(inner, false, &path.child("oneOf").index(index), errors);
    }
    if let Some(inner) = schema.not.as_deref() {
        nested(inner, false, &path.child("not"), errors);
    }
    if let Some(pattern) = schema.pattern.as_deref().filter(|text| !text.is_empty())
        && let Err(error) = regex(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&path.child("pattern"), pattern, &why));
    }
}

/// The rules of a place within alternatives.
fn nested(schema: &JSONSchemaProps, skip_any: bool, path: &Path, errors: &mut ErrorList) {
    let mut inner = schema.clone();
    if skip_any {
        inner.any_of = None;
    }
    junctors(&inner, path, errors);
    if let Some(items) = items_of(schema) {
        nested(items, false, &path.child("items"), errors);
    }
    for (name, property) in schema.properties.iter().flatten() {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    let text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let rules = schema.x_kubernetes_validations.as_ref();
    let forbidden = [
        (text(&schema.type_), "type", "must be empty"),
        (
            schema.additional_properties.is_some(),
            "additionalProperties",
            "must be undefined",
        ),
        (schema.default.is_some(), "default", "must be undefined"),
        (text(&schema.title), "title", "must be empty"),
        (text(&schema.description), "description", "must be empty"),
        (yes(schema.nullable), "nullable", "must be false"),
        (
            yes(schema.x_kubernetes_preserve_unknown_fields),
            "x-kubernetes-preserve-unknown-fields",
            "must be false",
        ),
        (
            yes(schema.x_kubernetes_embedded_resource),
            "x-kubernetes-embedded-resource",
            "must be false",
        ),
        (
            yes(schema.x_kubernetes_int_or_string),
            "x-kubernetes-int-or-string",
            "must be false",
        ),
        (
            schema.x_kubernetes_list_map_keys.is_some(),
            "x-kubernetes-list-map-keys",
            "must be empty",
        ),
        (
            schema.x_kubernetes_list_type.is_some(),
            "x-kubernetes-list-type",
            "must be undefined",
        ),
        (
            schema.x_kubernetes_map_type.is_some(),
            "x-kubernetes-map-type",
            "must be undefined",
        ),
        (
            rules.is_some_and(|rules| !rules.is_empty()),
            "x-kubernetes-validations",
            "must be empty",
        ),
    ];
    for (set, field, why) in forbidden {
        if set {
            let why = format!("{why} to be structural");
            errors.push(FieldError::forbidden(&path.child(field), &why));
        }
    }
    let has_metadata = schema.properties.as_ref();
    if has_metadata.is_some_and(|map| map.contains_key("metadata")) {
        let path = path.child("properties").key("metadata");
        let why = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(&path, why));
    }
}

/// What alternatives speak of must be there outside of them, too.
fn complete(
    schema: &JSONSchemaProps,
    outside: &JSONSchemaProps,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (name, list) in [
        ("allOf", &schema.all_of),
        ("anyOf", &schema.any_of),
        ("oneOf", &schema.one_of),
    ] {
        for (index, inner) in list.iter().flatten().enumerate() {
            covered(
                inner,
                Some(outside),
                path,
                &path.child(name).index(index),
                errors,
            );
        }
    }
    if let Some(inner) = schema.not.as_deref() {
        covered(inner, Some(outside), path, &path.child("not"), errors);
    }
    if !std::ptr::eq(schema, outside) {
        return;
    }
    for (name, property) in schema.properties.iter().flatten() {
        let path = path.child("properties").key(name);
        complete(property, property, &path, errors);
    }
    if let Some(items) = items_of(schema) {
        complete(items, items, &path.child("items"), errors);
    }
    if let Some(additional) = additional_of(schema) {
        let path = path.child("additionalProperties");
        complete(additional, additional, &path, errors);
    }
}

fn covered(
    inner: &JSONSchemaProps,
    outside: Option<&JSONSchemaProps>,
    outside_path: &Path,
    path: &Path,
    errors: &mut ErrorList,
) {
    let Some(outside) = outside else {
        let why = format!("because it is defined in {path}");
        errors.push(FieldError::required(outside_path, &why));
        return;
    };
    complete_within(inner, outside, outside_path, path, errors);
    for (name, property) in inner.properties.iter().flatten() {
        let place = outside_path.child("properties").key(name);
        let known = outside.properties.as_ref().and_then(|map| map.get(name));
        // Fields of an open map are covered by what its other fields must fit.
        let known = known.or_else(|| additional_of(outside));
        let path = path.child("properties").key(name);
        covered(property, known, &place, &path, errors);
    }
    if let Some(items) = items_of(inner) {
        let place = outside_path.child("items");
        covered(
            items,
            items_of(outside),
            &place,
            &path.child("items"),
            errors,
        );
    }
}

fn complete_within(
    inner: &JSONSchemaProps,
    outside: &JSONSchemaProps,
    outside_path: &Path,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (name, list) in [
        ("allOf", &inner.all_of),
        ("anyOf", &inner.any_of),
        ("oneOf", &inner.one_of),
    ] {
        for (index, other) in list.iter().flatten().enumerate() {
            let path = path.child(name).index(index);
            covered(other, Some(outside), outside_path, &path, errors);
        }
    }
    if let Some(other) = inner.not.as_deref() {
        covered(
            other,
            Some(outside),
            outside_path,
            &path.child("not"),
            errors,
        );
    }
}

/// Defaults must fit the schema that they stand in.
fn defaults(schema: &JSONSchemaProps, path: &Path, root: bool, errors: &mut ErrorList) {
    if let Some(given) = &schema.default {
        default_value(&given.0, schema, root, &path.child("default"), errors);
    }
    for (name, property) in schema.properties.iter().flatten() {
        if root && name == "metadata" {
            continue;
        }
        let path = path.child("properties").key(name);
        defaults(property, &path, false, errors);
    }
    if let Some(items) = items_of(schema) {
        defaults(items, &path.child("items"), false, errors);
    }
    if let Some(additional) = additional_of(schema) {
        let path = path.child("additionalProperties");
        defaults(additional, &path, false, errors);
    }
}

fn default_value(
    value: &Value,
    schema: &JSONSchemaProps,
    root: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let node = Node::new(schema);
    // It is judged as a field of an object, as it will be.
    let holder = Node {
        properties: vec![("default".to_owned(), node.clone())],
        ..Node::default()
    };
    let Value::Object(mut pruned) = json!({"default": value}) else {
        return;
    };
    prune::prune(&mut pruned, &holder);
    if pruned.get("default") != Some(value) {
        let why = "must not have unknown fields";
        errors.push(FieldError::invalid(path, value.clone(), why));
        return;
    }
    default::fill(&mut pruned, &holder);
    let filled = pruned.remove("default").unwrap_or_default();
    let found = values::validate_at(path.as_str(), &filled, None, &node);
    let failed = !found.is_empty();
    errors.extend(found);
    if let (Value::Object(map), false) = (&filled, failed) {
        errors.extend(lists::validate_lists(Some(path), map, &node));
        let _ = root;
    }
}

/// The rules of Kubernetes' extensions and of what OpenAPI has and definitions have not.
#[derive(Clone, Copy)]
struct Extensions<'a> {
    /// Within the metadata of an object.
    in_meta: bool,
    /// Why no default may be here.
    no_defaults: Option<&'a str>,
}

impl Extensions<'_> {
    fn check(&self, schema: &JSONSchemaProps, root: bool, path: &Path, errors: &mut ErrorList) {
        self.plain(schema, path, errors);
        if yes(schema.unique_items) {
            let why =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errors.push(FieldError::forbidden(&path.child("uniqueItems"), why));
        }
        let has_properties = schema
            .properties
            .as_ref()
            .is_some_and(|map| !map.is_empty());
        if has_properties
            && !matches!(
                schema.additional_properties,
                None | Some(JSONSchemaPropsOrBool::Bool(true))
            )
        {
            let why = "additionalProperties and properties are mutual exclusive";
            let path = path.child("additionalProperties");
            errors.push(FieldError::forbidden(&path, why));
        }
        if let Some(additional) = additional_of(schema) {
            let inner = Extensions {
                no_defaults: match self.in_meta {
                    true => Some("inside additionalProperties applying to object metadata"),
                    false => self.no_defaults,
                },
                ..*self
            };
            let path = path.child("additionalProperties");
            inner.check(additional, false, &path, errors);
        }
        let embedded = yes(schema.x_kubernetes_embedded_resource);
        for (name, property) in schema.properties.iter().flatten() {
            let meta = (root || embedded) && META.contains(&name.as_str());
            let why = format!("in top-level {name}");
            let inner = Extensions {
                in_meta: self.in_meta || meta,
                no_defaults: if meta && root {
                    Some(&why)
                } else {
                    self.no_defaults
                },
            };
            let path = path.child("properties").key(name);
            inner.check(property, false, &path, errors);
        }
        for (name, list) in [
            ("allOf", &schema.all_of),
            ("oneOf", &schema.one_of),
            ("anyOf", &schema.any_of),
        ] {
            for (index, inner) in list.iter().flatten().enumerate() {
                self.check(inner, false, &path.child(name).index(index), errors);
            }
        }
        if let Some(inner) = schema.not.as_deref() {
            self.check(inner, false, &path.child("not"), errors);
        }
        if let Some(items) = items_of(schema) {
            self.check(items, false, &path.child("items"), errors);
        }
        if schema.x_kubernetes_preserve_unknown_fields == Some(false) {
            let path = path.child("x-kubernetes-preserve-unknown-fields");
            errors.push(FieldError::invalid(
                &path,
                false,
                "must be true or undefined",
            ));
        }
        map_type(schema, path, errors);
        list_type(schema, path, errors);
    }

    fn plain(&self, schema: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
        const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
        let ty = type_of(schema);
        if ty == "null" {
            let why = "type cannot be set to null, use nullable as an alternative";
            errors.push(FieldError::forbidden(&path.child("type"), why));
        } else if !ty.is_empty() && !TYPES.contains(&ty) {
            errors.push(FieldError::not_supported(&path.child("type"), ty, &TYPES));
        }
        if let Some(why) = self.no_defaults.filter(|_| schema.default.is_some()) {
            let why = format!("must not be set {why}");
            errors.push(FieldError::forbidden(&path.child("default"), &why));
        }
        let some = |map: bool| map;
        let unsupported = [
            (schema.id.as_ref().is_some_and(|id| !id.is_empty()), "id"),
            (schema.additional_items.is_some(), "additionalItems"),
            (
                some(
                    schema
                        .pattern_properties
                        .as_ref()
                        .is_some_and(|map| !map.is_empty()),
                ),
                "patternProperties",
            ),
            (
                some(
                    schema
                        .definitions
                        .as_ref()
                        .is_some_and(|map| !map.is_empty()),
                ),
                "definitions",
            ),
            (schema.dependencies.is_some(), "dependencies"),
            (schema.ref_path.is_some(), "$ref"),
        ];
        for (set, field) in unsupported {
            if set {
                let why = format!("{field} is not supported");
                errors.push(FieldError::forbidden(&path.child(field), &why));
            }
        }
        if matches!(schema.items, Some(JSONSchemaPropsOrArray::Schemas(_))) {
            let why = "items must be a schema object and not an array";
            errors.push(FieldError::forbidden(&path.child("items"), why));
        }
        if self.in_meta && yes(schema.x_kubernetes_embedded_resource) {
            let path = path.child("x-kubernetes-embedded-resource");
            let why = "must not be used inside of resource meta";
            errors.push(FieldError::forbidden(&path, why));
        }
    }
}

fn wrong_type(ty: &str, path: &Path, why: &str) -> FieldError {
    let path = path.child("type");
    match ty {
        "" => FieldError::required(&path, why),
        _ => FieldError::invalid(&path, ty, why),
    }
}

fn map_type(schema: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    let Some(kind) = schema.x_kubernetes_map_type.as_deref() else {
        return;
    };
    if type_of(schema) != "object" {
        let why = "must be object if x-kubernetes-map-type is specified";
        errors.push(wrong_type(type_of(schema), path, why));
    }
    if !matches!(kind, "atomic" | "granular") {
        let path = path.child("x-kubernetes-map-type");
        errors.push(FieldError::not_supported(
            &path,
            kind,
            &["atomic", "granular"],
        ));
    }
}

fn list_type(schema: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    let kind = schema.x_kubernetes_list_type.as_deref();
    let keys = schema
        .x_kubernetes_list_map_keys
        .as_deref()
        .unwrap_or_default();
    let kind_path = path.child("x-kubernetes-list-type");
    let items = items_of(schema);
    let items_path = path.child("items");
    match (kind, items) {
        (Some(_), _) if type_of(schema) != "array" => {
            let why = "must be array if x-kubernetes-list-type is specified";
            errors.push(wrong_type(type_of(schema), path, why));
        }
        (Some("set"), Some(items)) => {
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            let inner = items.x_kubernetes_list_type.as_deref();
            match type_of(items) {
                "array" if inner.is_some_and(|inner| inner != "atomic") => {
                    let path = items_path.child("x-kubernetes-list-type");
                    errors.push(FieldError::invalid(&path, inner.unwrap_or_default(), why));
                }
                "object" if items.x_kubernetes_map_type.as_deref() != Some("atomic") => {
                    let path = items_path.child("x-kubernetes-map-type");
                    errors.push(FieldError::invalid(&path, json!(inner), why));
                }
                _ => {}
            }
        }
        _ => {}
    }
    if let Some(kind) = kind.filter(|kind| !matches!(*kind, "atomic" | "set" | "map")) {
        let known = ["atomic", "set", "map"];
        errors.push(FieldError::not_supported(&kind_path, kind, &known));
    }
    if !keys.is_empty() && kind != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match kind {
            None => FieldError::required(&kind_path, why),
            Some(kind) => FieldError::invalid(&kind_path, kind, why),
        });
    }
    if kind == Some("map") {
        map_list(schema, keys, path, errors);
    }
    if let (Some("map" | "set"), Some(items)) = (kind, items)
        && yes(items.nullable)
    {
        let why = format!(
            "cannot be nullable when x-kubernetes-list-type is {}",
            kind.unwrap_or_default()
        );
        errors.push(FieldError::forbidden(&items_path.child("nullable"), &why));
    }
}

fn map_list(schema: &JSONSchemaProps, keys: &[String], path: &Path, errors: &mut ErrorList) {
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(&keys_path, why));
    }
    let items_path = path.child("items");
    if schema.items.is_none() {
        let why = "must have a schema if x-kubernetes-list-type is map";
        errors.push(FieldError::required(&items_path, why));
    }
    let Some(items) = items_of(schema) else {
        return;
    };
    if type_of(items) != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        let path = items_path.child("type");
        errors.push(FieldError::invalid(&path, type_of(items), why));
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        let property = items.properties.as_ref().and_then(|map| map.get(key));
        let place = items_path.child("properties").key(key);
        match property {
            None => {
                let why = "entries must all be names of item properties";
                errors.push(FieldError::invalid(&keys_path, json!(keys), why));
            }
            Some(property) => {
                if matches!(type_of(property), "array" | "object") {
                    let why =
                        "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let path = place.child("type");
                    errors.push(FieldError::invalid(&path, type_of(items), why));
                }
                let required = items.required.as_ref();
                let required = required.is_some_and(|required| required.contains(key));
                if property.default.is_none() && !required {
                    let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    errors.push(FieldError::required(&place.child("default"), why));
                }
                if yes(property.nullable) {
                    let why =
                        "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                    errors.push(FieldError::forbidden(&place.child("nullable"), why));
                }
            }
        }
        if keys.iter().take(index).any(|other| other == key) {
            let why = "must not contain duplicate entries";
            errors.push(FieldError::invalid(&keys_path, json!(keys), why));
        }
    }
}

/// Adds the formats that are not looked at.
pub fn unrecognized_formats(schema: &JSONSchemaProps, found: &mut Vec<String>) {
    if let Some(format) = schema.format.as_ref().filter(|format| !format.is_empty())
        && !formats::is_recognized(type_of(schema), format)
        && !found.contains(format)
    {
        found.push(format.clone());
    }
    let lists = [&schema.all_of, &schema.any_of, &schema.one_of];
    let nested = lists.into_iter().flatten().flatten();
    let properties = schema.properties.iter().flatten().map(|(_, schema)| schema);
    let all = nested.chain(properties).chain(items_of(schema));
    for inner in all
        .chain(additional_of(schema))
        .chain(schema.not.as_deref())
    {
        unrecognized_formats(inner, found);
    }
}
