//! What is wrong with an object by its schema, in upstream's words.

use serde_json::{Map, Number, Value};

use super::{Additional, Checks, List, Node, Ty, formats};
use crate::field::{ErrorList, ErrorType, FieldError, Path};

/// What is wrong with a value. With `old`, what was there before, what has not changed is not judged anew.
#[must_use]
pub fn validate(value: &Value, old: Option<&Value>, schema: &Node) -> ErrorList {
    validate_at("", value, old, schema)
}

/// The same for a value at a place, which messages name.
#[must_use]
pub fn validate_at(path: &str, value: &Value, old: Option<&Value>, schema: &Node) -> ErrorList {
    let found = judge(path, value, old, schema);
    found.errors.into_iter().map(|(error, _)| error).collect()
}

/// What was found, and how many checks went well: of several alternatives the one that fits best is told of.
#[derive(Default)]
struct Found {
    /// With the message that tells them apart.
    errors: Vec<(FieldError, String)>,
    matches: usize,
}

impl Found {
    fn add(&mut self, error: FieldError, message: String) {
        if !self.errors.iter().any(|(_, other)| *other == message) {
            self.errors.push((error, message));
        }
    }

    fn merge(&mut self, other: Self) {
        self.matches += other.matches;
        for (error, message) in other.errors {
            self.add(error, message);
        }
    }

    fn is_fine(&self) -> bool {
        self.errors.is_empty()
    }

    /// A fault of the value at a place.
    fn at(&mut self, path: &str, value: &Value, message: String) {
        let error = FieldError::invalid(&place(path), value.clone(), &message);
        self.add(error, message);
    }

    fn wrong_type(&mut self, path: &str, shown: &str, message: String) {
        let error = FieldError {
            kind: ErrorType::TypeInvalid,
            ..FieldError::invalid(&place(path), shown, &message)
        };
        self.add(error, message);
    }

    /// A fault of the schema as a whole, which upstream gives no place.
    fn general(&mut self, message: String) {
        let error = FieldError::invalid(&Path::default(), "", &message);
        self.add(error, message);
    }
}

fn place(path: &str) -> Path {
    let path = path.strip_prefix('.').unwrap_or(path);
    Path::new(path)
}

/// The type of a value, and the format that upstream sees in it.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(number) if number.is_f64() => ("number", "float64"),
        Value::Number(_) => ("integer", "int64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

fn judge(path: &str, value: &Value, old: Option<&Value>, schema: &Node) -> Found {
    let mut found = Found::default();
    if old == Some(value) {
        // What has not changed may stay whatever the schema says by now.
        return found;
    }
    let format = schema.checks.as_ref().map_or("", |checks| &checks.format);
    if schema.ty.is_some() || schema.int_or_string || !format.is_empty() {
        check_type(path, value, schema, format, &mut found);
    }
    let Some(checks) = schema.checks.as_deref() else {
        structure(path, value, old, schema, &mut found);
        found.matches += 1;
        return found;
    };
    if value.is_null() {
        check_values(path, value, checks, &mut found);
        return found;
    }
    junctors(path, value, old, checks, &mut found);
    match value {
        Value::String(text) => check_text(path, text, schema, checks, &mut found),
        Value::Number(number) => check_number(path, number, schema, checks, &mut found),
        Value::Array(list) => check_list(path, value, list, checks, &mut found),
        Value::Object(map) => check_object(path, map, checks, &mut found),
        Value::Null | Value::Bool(_) => {}
    }
    check_values(path, value, checks, &mut found);
    structure(path, value, old, schema, &mut found);
    found.matches += 1;
    found
}

fn check_type(path: &str, value: &Value, schema: &Node, format: &str, found: &mut Found) {
    let wanted = match (schema.int_or_string, schema.ty) {
        (true, _) => "integer,string",
        (false, Some(ty)) => ty.name(),
        (false, None) => "",
    };
    let wants = |ty: &str| wanted.split(',').any(|wanted| wanted == ty);
    let (ty, shown_format) = type_of(value);
    if value.is_null() {
        if !wanted.is_empty() && !schema.nullable {
            let message = format!("{path} in body must be of type {wanted}: \"null\"");
            found.wrong_type(path, "null", message);
        }
        return;
    }
    let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let fits = wants(ty)
        || (ty == "number" && whole && wants("integer"))
        || (ty == "integer" && wants("number"));
    let texts = matches!(value, Value::String(_) | Value::Array(_));
    if !format.is_empty() && !texts && !fits && shown_format != format {
        let message = format!("{path} in body must be of type {format}: {shown_format:?}");
        found.wrong_type(path, shown_format, message);
        return;
    }
    if !format.is_empty() && texts && !wants("number") && !wants("integer") {
        found.matches += 1;
        return;
    }
    if fits {
        found.matches += 1;
    } else {
        let message = format!("{path} in body must be of type {wanted}: {ty:?}");
        found.wrong_type(path, ty, message);
    }
}

fn check_values(path: &str, value: &Value, checks: &Checks, found: &mut Found) {
    let values = &checks.one_of_values;
    if values.is_empty() {
        found.matches += 1;
        return;
    }
    if values.iter().any(|allowed| same(allowed, value)) {
        found.matches += 1;
        return;
    }
    let texts: Vec<String> = values
        .iter()
        .map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    let supported: Vec<&str> = texts.iter().map(String::as_str).collect();
    let error = FieldError::not_supported(&place(path), value.clone(), &supported);
    found.add(error, format!("{path} in body should be one of {texts:?}"));
}

/// Equality of JSON, in which `1` is `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn check_text(path: &str, text: &str, schema: &Node, checks: &Checks, found: &mut Found) {
    let value = || Value::from(text);
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(max) = checks.max_length.filter(|max| length > *max) {
        let error = FieldError::too_long(&place(path), usize::try_from(max).unwrap_or(0));
        let message = format!("{path} in body should be at most {max} chars long");
        found.add(error, message);
    } else if let Some(min) = checks.min_length.filter(|min| length < *min) {
        let message = format!("{path} in body should be at least {min} chars long");
        found.at(path, &value(), message);
    } else if let Some(pattern) = checks
        .pattern
        .as_ref()
        .filter(|pattern| !pattern.matches(text))
    {
        let message = format!("{path} in body should match '{}'", pattern.text);
        found.at(path, &value(), message);
    } else {
        found.matches += 1;
    }
    let numeric = matches!(schema.ty, Some(Ty::Integer | Ty::Number));
    let format = &checks.format;
    if !numeric && !format.is_empty() && !formats::fits(format, text) {
        let message = format!("{path} in body must be of type {format}: {text:?}");
        found.wrong_type(path, text, message);
    }
}

fn check_number(path: &str, number: &Number, schema: &Node, checks: &Checks, found: &mut Found) {
    let value = Value::Number(number.clone());
    let Some(float) = number.as_f64() else {
        return;
    };
    let before = found.errors.len();
    let integer = schema.ty == Some(Ty::Integer);
    let out_of_range = match checks.format.as_str() {
        "int32" if integer => float < f64::from(i32::MIN) || float > f64::from(i32::MAX),
        "float" => float.abs() > f64::from(f32::MAX),
        _ => integer && number.as_i64().is_none() && float.abs() >= 9.223_372_036_854_776e18,
    };
    if out_of_range {
        let ty = schema.ty.map_or("", Ty::name);
        found.general(match checks.format.as_str() {
            "" => format!("Checked value must be of type {ty} (default format) in {path}"),
            format => format!("Checked value must be of type {ty} with format {format} in {path}"),
        });
    }
    if let Some(factor) = checks.multiple_of {
        let quotient = float / factor;
        if factor <= 0.0 {
            let message =
                format!("factor MultipleOf declared for {path} must be positive: {factor}");
            found.at(path, &value, message);
        } else if (quotient - quotient.round()).abs() > 1e-9 * quotient.abs().max(1.0) {
            let message = format!("{path} in body should be a multiple of {factor}");
            found.at(path, &value, message);
        }
    }
    if let Some(min) = checks.minimum {
        let exclusive = checks.exclusive_minimum;
        if float < min || (exclusive && float <= min) {
            let word = if exclusive {
                "greater than"
            } else {
                "greater than or equal to"
            };
            found.at(
                path,
                &value,
                format!("{path} in body should be {word} {min}"),
            );
        }
    }
    if let Some(max) = checks.maximum {
        let exclusive = checks.exclusive_maximum;
        if float > max || (exclusive && float >= max) {
            let word = if exclusive {
                "less than"
            } else {
                "less than or equal to"
            };
            found.at(
                path,
                &value,
                format!("{path} in body should be {word} {max}"),
            );
        }
    }
    if found.errors.len() == before {
        found.matches += 1;
    }
}

fn check_list(path: &str, value: &Value, list: &[Value], checks: &Checks, found: &mut Found) {
    let size = i64::try_from(list.len()).unwrap_or(i64::MAX);
    if let Some(min) = checks.min_items.filter(|min| size < *min) {
        let message = format!("{path} in body should have at least {min} items");
        found.at(path, &size.into(), message);
    }
    if let Some(max) = checks.max_items.filter(|max| size > *max) {
        let max_items = usize::try_from(max).unwrap_or(0);
        let error = FieldError::too_many(&place(path), list.len(), max_items);
        let message = format!("{path} in body should have at most {max} items");
        found.add(error, message);
    }
    if checks.unique_items {
        let repeated = list
            .iter()
            .enumerate()
            .any(|(index, value)| list.iter().take(index).any(|other| other == value));
        if repeated {
            let message = format!("{path} in body shouldn't contain duplicates");
            let error = FieldError::invalid(&place(path), "", &message);
            found.add(error, message);
        }
    }
    let _ = value;
    found.matches += 1;
}

fn check_object(path: &str, map: &Map<String, Value>, checks: &Checks, found: &mut Found) {
    let size = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(min) = checks.min_properties.filter(|min| size < *min) {
        let message = format!("{path} in body should have at least {min} properties");
        found.at(path, &size.into(), message);
    }
    if let Some(max) = checks.max_properties.filter(|max| size > *max) {
        let allowed = usize::try_from(max).unwrap_or(0);
        let error = FieldError::too_many(&place(path), map.len(), allowed);
        let message = format!("{path} in body should have at most {max} properties");
        found.add(error, message);
    }
    for name in checks
        .required
        .iter()
        .filter(|name| !map.contains_key(*name))
    {
        let path = format!("{path}.{name}");
        let error = FieldError::required(&place(&path), "");
        found.add(error, format!("{path} in body is required"));
    }
}

/// What is under the value.
fn structure(path: &str, value: &Value, old: Option<&Value>, schema: &Node, found: &mut Found) {
    match value {
        Value::Array(list) => {
            let Some(items) = schema.items.as_deref() else {
                return;
            };
            for (index, value) in list.iter().enumerate() {
                let old = old.and_then(|old| correlated(old, value, schema));
                found.merge(judge(&format!("{path}[{index}]"), value, old, items));
            }
        }
        Value::Object(map) => {
            for (name, value) in map {
                let under = || match path {
                    "" => name.clone(),
                    _ => format!("{path}.{name}"),
                };
                let old = old.and_then(|old| old.get(name));
                match (schema.property(name), &schema.additional) {
                    (Some(node), _) => found.merge(judge(&under(), value, old, node)),
                    (None, Additional::Fitting(node)) => {
                        found.merge(judge(&format!("{path}.{name}"), value, old, node));
                    }
                    (None, Additional::Any(false)) => {
                        let message = format!("{path}.{name} in body is a forbidden property");
                        found.at(path, &name.as_str().into(), message);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// The element that an element of a list was before, where the list says how elements are known.
fn correlated<'a>(old: &'a Value, value: &Value, schema: &Node) -> Option<&'a Value> {
    let Some(List::Map(keys)) = &schema.list else {
        return None;
    };
    let list = old.as_array()?;
    list.iter()
        .find(|other| keys.iter().all(|key| other.get(key) == value.get(key)))
}

fn junctors(path: &str, value: &Value, old: Option<&Value>, checks: &Checks, found: &mut Found) {
    if !checks.any_of.is_empty() {
        let (fine, best) = best_of(path, value, old, &checks.any_of);
        if fine == 0 {
            found.general(format!(
                "{path:?} must validate at least one schema (anyOf)"
            ));
        }
        found.merge(best);
    }
    if !checks.one_of.is_empty() {
        let (fine, best) = best_of(path, value, old, &checks.one_of);
        if fine != 1 {
            let why = match fine {
                0 => "Found none valid".to_owned(),
                many => format!("Found {many} valid alternatives"),
            };
            found.general(format!(
                "{path:?} must validate one and only one schema (oneOf). {why}"
            ));
        }
        if fine < 2 {
            found.merge(best);
        }
    }
    if !checks.all_of.is_empty() {
        let mut fine = 0;
        for node in &checks.all_of {
            let result = judge(path, value, old, node);
            fine += usize::from(result.is_fine());
            found.merge(result);
        }
        if fine != checks.all_of.len() {
            let why = if fine == 0 { ". None validated" } else { "" };
            found.general(format!(
                "{path:?} must validate all the schemas (allOf){why}"
            ));
        }
    }
    if let Some(node) = &checks.not
        && judge(path, value, old, node).is_fine()
    {
        found.general(format!("{path:?} must not validate the schema (not)"));
    }
    found.matches += 1;
}

/// How many of several alternatives hold, and what the first that does, or else the best of the others, found.
fn best_of(path: &str, value: &Value, old: Option<&Value>, nodes: &[Node]) -> (usize, Found) {
    let (mut fine, mut best) = (0, None::<Found>);
    for node in nodes {
        let result = judge(path, value, old, node);
        let better = match &best {
            None => true,
            Some(best) if fine == 0 => result.is_fine() || result.matches > best.matches,
            Some(_) => false,
        };
        fine += usize::from(result.is_fine());
        if better {
            best = Some(result);
        }
    }
    (fine, best.unwrap_or_default())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
