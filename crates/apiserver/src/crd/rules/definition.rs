//! What is wrong with the rules of a definition: texts, paths, compilation and cost.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::field::Shown;
use skiff_api::{ErrorList, FieldError, Path};
use skiff_cel::{Schema, escape, from_openapi};

use super::compile::{compile_rule, is_embedded, map_correlates, rules_of, text};
use super::{Rule, field_path};

/// What a single expression may cost by its estimate.
const EXPRESSION_LIMIT: u64 = 10_000_000;
/// What all expressions of a schema may cost together.
const SCHEMA_LIMIT: u64 = 100_000_000;
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

/// What is wrong with the rules of a version's schema, which stands at `path` (`spec.validation.openAPIV3Schema`,
/// `spec.versions[0].schema.openAPIV3Schema`). `sound` says whether the schema itself is right: rules of a wrong one are
/// not compiled.
#[must_use]
pub fn definition_errors(schema: &Value, path: &Path, sound: bool) -> ErrorList {
    let mut total = Total::default();
    let context = sound.then_some(Context {
        types: Types::None,
        cardinality: Some(1),
        uncorrelated: None,
        is_root: true,
    });
    let found = check(schema, path, context, &mut total);
    let mut errors = found.schema;
    errors.extend(found.expressions);
    if total.sum > SCHEMA_LIMIT {
        for (path, _) in &total.most_expensive {
            errors.push(FieldError::forbidden(
                path,
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
            ));
        }
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(
            path,
            &too_expensive(name, total.sum, SCHEMA_LIMIT),
        ));
    }
    errors
}

/// Errors of the texts, and errors of the expressions: these are only looked for where there are none of those.
#[derive(Default)]
struct Found {
    schema: ErrorList,
    expressions: ErrorList,
}

impl Found {
    fn absorb(&mut self, other: Self) {
        self.schema.extend(other.schema);
        self.expressions.extend(other.expressions);
    }
}

/// What the cost of all expressions comes to.
#[derive(Default)]
struct Total {
    sum: u64,
    most_expensive: Vec<(Path, u64)>,
}

impl Total {
    fn observe(&mut self, path: Path, cost: u64) {
        self.sum = self.sum.saturating_add(cost);
        if cost < SCHEMA_LIMIT / 100 {
            return;
        }
        self.most_expensive.push((path, cost));
        self.most_expensive
            .sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        self.most_expensive.truncate(4);
    }
}

/// What is known of the types at a place.
#[derive(Clone)]
enum Types {
    /// Nothing yet: no rule stands above.
    None,
    /// Read when a rule above was met.
    Known(Arc<Schema>),
}

/// Where in the schema we are.
#[derive(Clone)]
struct Context {
    types: Types,
    /// How often data of this place can occur at most, where lists and maps above are bounded.
    cardinality: Option<u64>,
    /// The outermost list above whose elements, old and new, cannot be matched.
    uncorrelated: Option<Path>,
    is_root: bool,
}

impl Context {
    /// The types here; read from the schema where nothing above has them.
    fn schema(&mut self, schema: &Value) -> Option<Arc<Schema>> {
        if let Types::Known(known) = &self.types {
            return Some(known.clone());
        }
        let read = from_openapi(schema, self.is_root || is_embedded(schema), "selfType")?;
        self.types = Types::Known(read.clone());
        Some(read)
    }

    fn below(&self, schema: &Value, types: Option<Arc<Schema>>) -> Self {
        let cardinality = match (self.cardinality, factor(schema)) {
            (Some(count), Some(factor)) => Some(count.saturating_mul(factor)),
            _ => None,
        };
        Self {
            types: types.map_or(Types::None, Types::Known),
            cardinality,
            uncorrelated: self.uncorrelated.clone(),
            is_root: false,
        }
    }

    fn forbid_old(mut self, path: &Path) -> Self {
        self.uncorrelated.get_or_insert_with(|| path.clone());
        self
    }

    fn known(&self) -> Option<&Arc<Schema>> {
        match &self.types {
            Types::Known(schema) => Some(schema),
            Types::None => None,
        }
    }
}

/// How many children one value of the schema has at most; `None` where nothing bounds them.
fn factor(schema: &Value) -> Option<u64> {
    let bound = |name: &str| schema.get(name).map(|n| n.as_u64().unwrap_or_default());
    match text(schema, "type") {
        "object" if schema.get("additionalProperties").is_some() => bound("maxProperties"),
        "array" => bound("maxItems"),
        _ => Some(1),
    }
}

fn check(schema: &Value, path: &Path, context: Option<Context>, total: &mut Total) -> Found {
    let mut found = Found::default();
    let rules = rules_of(schema);
    let mut context = context;
    if !rules.is_empty()
        && let Some(context) = &mut context
    {
        // Read once here, used by all below.
        context.schema(schema);
    }
    below(schema, path, context.as_ref(), total, &mut found);
    for (index, rule) in rules.iter().enumerate() {
        let path = path.child("x-kubernetes-validations").index(index);
        texts(rule, schema, &path, &mut found.schema);
    }
    if rules.is_empty() || !found.schema.is_empty() {
        return found;
    }
    if let Some(context) = &mut context {
        let Some(types) = context.schema(schema) else {
            found.expressions.push(FieldError::internal(
                &path.child("x-kubernetes-validations"),
                "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations",
            ));
            return found;
        };
        for (index, rule) in rules.iter().enumerate() {
            let path = path.child("x-kubernetes-validations").index(index);
            let compiled = compile_rule(rule, schema, &types);
            expression(
                rule,
                &compiled,
                &path,
                context,
                total,
                &mut found.expressions,
            );
        }
    }
    found
}

/// Everything below a place.
fn below(
    schema: &Value,
    path: &Path,
    context: Option<&Context>,
    total: &mut Total,
    found: &mut Found,
) {
    let element = || {
        context
            .and_then(Context::known)
            .and_then(|s| s.element().cloned())
    };
    let correlates = map_correlates(schema);
    let narrowed = |context: Context| {
        if correlates {
            context
        } else {
            context.forbid_old(path)
        }
    };
    if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
        let context = context.map(|context| narrowed(context.below(schema, element())));
        let path = path.child("additionalProperties");
        found.absorb(check(values, &path, context, total));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let context = context.map(|context| {
            let types = context
                .known()
                .and_then(|known| known.field(&escape(name)?).cloned());
            narrowed(context.below(schema, types))
        });
        let path = path.child("properties").key(name);
        found.absorb(check(property, &path, context, total));
    }
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        let context = context.map(|context| {
            let context = context.below(schema, element());
            if text(schema, "x-kubernetes-list-type") == "map" {
                context
            } else {
                context.forbid_old(path)
            }
        });
        found.absorb(check(items, &path.child("items"), context, total));
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        let alternatives = schema.get(name).and_then(Value::as_array);
        for (index, alternative) in alternatives.into_iter().flatten().enumerate() {
            let path = path.child(name).index(index);
            found.absorb(check(alternative, &path, None, total));
        }
    }
}

fn has_newlines(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

/// What is wrong with a rule's texts.
fn texts(rule: &Value, schema: &Value, path: &Path, errors: &mut ErrorList) {
    let (source, message) = (text(rule, "rule"), text(rule, "message"));
    let (trimmed, trimmed_message) = (source.trim(), message.trim());
    if trimmed.is_empty() {
        errors.push(FieldError::required(
            &path.child("rule"),
            "rule is not specified",
        ));
    } else if !message.is_empty() && trimmed_message.is_empty() {
        errors.push(FieldError::invalid(
            &path.child("message"),
            message,
            "must be non-empty if specified",
        ));
    } else if has_newlines(trimmed_message) {
        errors.push(FieldError::invalid(
            &path.child("message"),
            message,
            "must not contain line breaks",
        ));
    } else if has_newlines(trimmed) && trimmed_message.is_empty() {
        errors.push(FieldError::required(
            &path.child("message"),
            "message must be specified if rule contains line breaks",
        ));
    }
    let expression = text(rule, "messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        errors.push(FieldError::required(
            &path.child("messageExpression"),
            "messageExpression must be non-empty if specified",
        ));
    }
    if let Some(reason) = rule.get("reason").and_then(Value::as_str)
        && !REASONS.contains(&reason)
    {
        errors.push(FieldError::not_supported(
            &path.child("reason"),
            reason,
            &REASONS,
        ));
    }
    field_texts(
        text(rule, "fieldPath"),
        schema,
        &path.child("fieldPath"),
        errors,
    );
}

fn field_texts(field: &str, schema: &Value, path: &Path, errors: &mut ErrorList) {
    if field.is_empty() {
        return;
    }
    if field.trim().is_empty() {
        errors.push(FieldError::invalid(
            path,
            field,
            "must be non-empty if specified",
        ));
    }
    if has_newlines(field) {
        errors.push(FieldError::invalid(
            path,
            field,
            "must not contain line breaks",
        ));
    }
    if field_path::normalized(field, schema).is_err() {
        errors.push(FieldError::invalid(path, field, "must be a valid path"));
    }
}

/// What is wrong with a rule's expressions.
fn expression(
    source: &Value,
    rule: &Rule,
    path: &Path,
    context: &Context,
    total: &mut Total,
    errors: &mut ErrorList,
) {
    let at_rule = path.child("rule");
    let at_message = path.child("messageExpression");
    let cost = match &rule.program {
        Some(Ok(program)) => program.estimated_cost().max,
        _ => 0,
    };
    let cost = cost.saturating_mul(context.cardinality.unwrap_or(rule.cardinality));
    if cost > EXPRESSION_LIMIT {
        let detail = too_expensive("estimated rule cost", cost, EXPRESSION_LIMIT);
        errors.push(FieldError::forbidden(&at_rule, &detail));
    }
    total.observe(at_rule.clone(), cost);
    if let Some(Err(fault)) = &rule.program {
        errors.push(FieldError::invalid(&at_rule, Written(source), fault));
    }
    match &rule.message_program {
        Some(Err(fault)) => errors.push(FieldError::invalid(&at_message, Written(source), fault)),
        Some(Ok(program)) => {
            let cost = program.estimated_cost().max;
            if cost > EXPRESSION_LIMIT {
                let detail =
                    too_expensive("estimated messageExpression cost", cost, EXPRESSION_LIMIT);
                errors.push(FieldError::forbidden(&at_message, &detail));
            }
            total.observe(at_message, cost);
        }
        None => {}
    }
    if rule.uses_old {
        if let Some(list) = &context.uncorrelated {
            errors.push(FieldError::invalid(
                &at_rule,
                rule.rule.as_str(),
                &format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"),
            ));
        }
    } else if let Some(optional) = source.get("optionalOldSelf").and_then(Value::as_bool) {
        errors.push(FieldError::invalid(
            &path.child("optionalOldSelf"),
            optional,
            "may not be set if oldSelf is not used in rule",
        ));
    }
}

fn too_expensive(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// A rule as upstream shows it in errors: the fields of its internal type.
struct Written<'v>(&'v Value);

impl Shown for Written<'_> {
    fn shown(&self) -> String {
        let quoted = |name: &str| Value::from(text(self.0, name)).to_string();
        let or_null = |name: &str| self.0.get(name).unwrap_or(&Value::Null).to_string();
        format!(
            "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
            quoted("rule"),
            quoted("message"),
            quoted("messageExpression"),
            or_null("reason"),
            quoted("fieldPath"),
            or_null("optionalOldSelf"),
        )
    }
}
