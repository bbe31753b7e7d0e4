//! From a schema to compiled rules.

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use skiff_cel::{Environment, Program, Schema, Type, escape, from_openapi};

use super::{Place, Rule, field_path};

/// What is counted as the largest object.
const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// What the type of `self` is called where it has no other name.
const SELF_TYPE: &str = "selfType";
static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::Null);

/// The rules of a schema, if it has any.
pub(super) fn compile(schema: &Value) -> Option<Place> {
    if !has_rules(schema) {
        return None;
    }
    let seen = from_openapi(schema, true, SELF_TYPE);
    let place = place(schema, schema, seen);
    (!place.is_empty()).then_some(place)
}

pub(super) fn rules_of(schema: &Value) -> &[Value] {
    schema
        .get("x-kubernetes-validations")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn has_rules(schema: &Value) -> bool {
    if !rules_of(schema).is_empty() {
        return true;
    }
    let below = |name: &str| {
        schema
            .get(name)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(serde_json::Map::values)
    };
    let all_of = schema.get("allOf").and_then(Value::as_array);
    below("properties").any(has_rules)
        || schema.get("items").is_some_and(has_rules)
        || schema.get("additionalProperties").is_some_and(has_rules)
        || all_of.into_iter().flatten().any(has_rules)
}

pub(super) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn is_embedded(schema: &Value) -> bool {
    schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true))
}

/// Whether values of a map, old and new, belong together by their names.
pub(super) fn map_correlates(schema: &Value) -> bool {
    matches!(
        schema.get("x-kubernetes-map-type").and_then(Value::as_str),
        None | Some("granular" | "atomic")
    )
}

fn list_keys(schema: &Value) -> Vec<String> {
    if text(schema, "x-kubernetes-list-type") != "map" {
        return Vec::new();
    }
    schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// The place of `node`, with the rules that `validations` (the same, or an alternative of an `allOf`) has for it.
fn place(validations: &Value, node: &Value, schema: Option<Arc<Schema>>) -> Place {
    let rules = rules_of(validations);
    let mut out = Place {
        ty: text(node, "type").to_owned(),
        list_keys: list_keys(node),
        map_correlates: map_correlates(node),
        ..Place::default()
    };
    match &schema {
        Some(schema) => {
            out.rules = rules
                .iter()
                .map(|rule| compile_rule(rule, node, schema))
                .collect()
        }
        None if !rules.is_empty() => {
            out.fault = Some("failed to convert to declType for CEL validation rules".to_owned());
        }
        None => {}
    }
    if let (Some(validations), Some(node)) = (validations.get("items"), node.get("items")) {
        out.items = child(validations, node, element(schema.as_ref()));
    }
    if let (Some(validations), Some(node)) = (
        validations
            .get("additionalProperties")
            .filter(|v| v.is_object()),
        node.get("additionalProperties").filter(|v| v.is_object()),
    ) {
        out.additional = child(validations, node, element(schema.as_ref()));
    }
    let properties = validations.get("properties").and_then(Value::as_object);
    for (name, validations) in properties.into_iter().flatten() {
        let Some(node) = node.get("properties").and_then(|p| p.get(name)) else {
            continue;
        };
        let Some(field) = field_schema(name, node, schema.as_ref()) else {
            continue;
        };
        if let Some(place) = child(validations, node, Some(field)) {
            out.properties.insert(name.clone(), *place);
        }
    }
    let all_of = validations.get("allOf").and_then(Value::as_array);
    for alternative in all_of
        .into_iter()
        .flatten()
        .filter(|alternative| has_rules(alternative))
    {
        let place = place(alternative, node, schema.clone());
        if !place.is_empty() {
            out.all_of.push(place);
        }
    }
    out.schema = schema;
    out
}

fn element(schema: Option<&Arc<Schema>>) -> Option<Arc<Schema>> {
    schema.and_then(|schema| schema.element().cloned())
}

/// The schema of a property; of one that no expression can name it is read on its own.
fn field_schema(name: &str, node: &Value, parent: Option<&Arc<Schema>>) -> Option<Arc<Schema>> {
    match escape(name) {
        Some(escaped) => parent?.field(&escaped).cloned(),
        None => from_openapi(node, is_embedded(node), SELF_TYPE),
    }
}

fn child(validations: &Value, node: &Value, schema: Option<Arc<Schema>>) -> Option<Box<Place>> {
    if !has_rules(validations) {
        return None;
    }
    let place = place(validations, node, schema);
    (!place.is_empty()).then(|| Box::new(place))
}

/// What rules of this place can see.
fn environment(schema: &Arc<Schema>, optional_old: bool) -> Environment {
    let environment = Environment::new().variable_of("self", schema.clone());
    if optional_old {
        environment.with("oldSelf", Type::optional(schema.to_type()))
    } else {
        environment.variable_of("oldSelf", schema.clone())
    }
}

pub(super) fn compile_rule(rule: &Value, node: &Value, schema: &Arc<Schema>) -> Rule {
    let source = text(rule, "rule");
    let optional_old = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
    let path = text(rule, "fieldPath");
    let mut out = Rule {
        rule: source.to_owned(),
        message: text(rule, "message").to_owned(),
        reason: rule
            .get("reason")
            .and_then(Value::as_str)
            .map(str::to_owned),
        optional_old,
        uses_old: false,
        program: None,
        message_program: None,
        message_source: text(rule, "messageExpression").to_owned(),
        field: None,
        cardinality: MAX_REQUEST_BYTES / schema.min_size().saturating_add(1),
    };
    if source.trim().is_empty() {
        return out;
    }
    let environment = environment(schema, optional_old);
    let program = checked(&environment, source, &Type::Bool, "");
    out.uses_old = program
        .as_ref()
        .is_ok_and(|program| program.uses("oldSelf"));
    let compiled = program.is_ok();
    out.program = Some(program);
    if compiled && !out.message_source.is_empty() {
        let program = checked(
            &environment,
            &out.message_source,
            &Type::String,
            "messageExpression ",
        );
        out.message_program = Some(program);
    }
    if compiled && !path.is_empty() {
        out.field = field_path::normalized(path, node).ok();
    }
    out
}

fn checked(
    environment: &Environment,
    source: &str,
    wanted: &Type,
    what: &str,
) -> Result<Program, String> {
    let program = environment
        .compile(source)
        .map_err(|errors| format!("{what}compilation failed: {errors}"))?;
    if program.output_type() == wanted {
        return Ok(program);
    }
    Err(match wanted {
        Type::Bool => "cel expression must evaluate to a bool".to_owned(),
        _ => "messageExpression must evaluate to a string".to_owned(),
    })
}

/// A JSON null that lives as long as anything.
pub(super) fn nothing() -> &'static Value {
    &NOTHING
}
