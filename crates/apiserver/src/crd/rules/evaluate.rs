//! Asks compiled rules about an object.

use serde_json::Value;
use skiff_api::field::ErrorType;
use skiff_api::{FieldError, Path};
use skiff_cel::{Bindings, EvalError, Evaluation, PER_CALL_LIMIT, Program, Schema, Value as Cel};

use super::compile::nothing;
use super::{Findings, Place, Rule};

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";
const MAX_MESSAGE: usize = 5 * 1024;

/// Asks all rules from this place down.
pub(super) fn evaluate(place: &Place, new: &Value, old: Option<&Value>, budget: u64) -> Findings {
    let mut asking = Asking {
        found: Findings::default(),
        budget,
    };
    let ratchet = Ratchet {
        current: old.map(|old| (new, old)),
        parent: None,
    };
    // Running out of budget ends it; what was found until then stands.
    let _ = asking.place(place, &Path::default(), new, old, ratchet);
    asking.found
}

/// No further rule is asked.
struct Stop;

/// Which old value belongs to what is looked at, and to what is around it: what did not change is only warned of.
#[derive(Clone, Copy)]
struct Ratchet<'v> {
    current: Option<(&'v Value, &'v Value)>,
    parent: Option<(&'v Value, &'v Value)>,
}

impl<'v> Ratchet<'v> {
    fn unchanged(&self) -> bool {
        self.current
            .or(self.parent)
            .is_some_and(|(new, old)| new == old)
    }

    fn key(self, name: &str) -> Self {
        let Some((new, old)) = self.current else {
            return self;
        };
        if self.parent.is_none() && matches!(name, "apiVersion" | "kind") {
            return Self {
                current: None,
                parent: None,
            };
        }
        Self {
            current: new.get(name).zip(old.get(name)),
            parent: self.current,
        }
    }

    fn index(self, matched: Option<(&'v Value, &'v Value)>) -> Self {
        if self.current.is_none() {
            return self;
        }
        Self {
            current: matched,
            parent: self.current,
        }
    }
}

struct Asking {
    found: Findings,
    budget: u64,
}

impl Asking {
    fn place(
        &mut self,
        place: &Place,
        path: &Path,
        new: &Value,
        old: Option<&Value>,
        ratchet: Ratchet<'_>,
    ) -> Result<(), Stop> {
        if new.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        self.rules(place, path, new, old, ratchet)?;
        for alternative in &place.all_of {
            let ratchet = Ratchet {
                current: None,
                parent: ratchet.parent,
            };
            self.place(alternative, path, new, old, ratchet)?;
        }
        match new {
            Value::Array(items) => self.items(place, path, items, old, ratchet),
            Value::Object(fields) => self.fields(place, path, fields, old, ratchet),
            _ => Ok(()),
        }
    }

    fn items(
        &mut self,
        place: &Place,
        path: &Path,
        items: &[Value],
        old: Option<&Value>,
        ratchet: Ratchet<'_>,
    ) -> Result<(), Stop> {
        let Some(below) = &place.items else {
            return Ok(());
        };
        let old = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let before = Keyed::new(&place.list_keys, old);
        for (index, item) in items.iter().enumerate() {
            let match_ = before.get(item);
            let ratchet = ratchet.index(match_.map(|old| (item, old)));
            self.place(below, &path.index(index), item, match_, ratchet)?;
        }
        Ok(())
    }

    fn fields(
        &mut self,
        place: &Place,
        path: &Path,
        fields: &serde_json::Map<String, Value>,
        old: Option<&Value>,
        ratchet: Ratchet<'_>,
    ) -> Result<(), Stop> {
        let old = old.filter(|_| place.map_correlates);
        for (name, value) in fields {
            let old = old.and_then(|old| old.get(name));
            if let Some(below) = &place.additional {
                self.place(below, &path.key(name), value, old, ratchet.key(name))?;
            }
            if let Some(below) = place.properties.get(name) {
                self.place(below, &path.child(name), value, old, ratchet.key(name))?;
            }
        }
        Ok(())
    }

    fn rules(
        &mut self,
        place: &Place,
        path: &Path,
        new: &Value,
        old: Option<&Value>,
        ratchet: Ratchet<'_>,
    ) -> Result<(), Stop> {
        let refuse = |detail: &str| FieldError::invalid(path, place.ty.as_str(), detail);
        if let Some(fault) = &place.fault {
            self.found.errors.push(refuse(&format!(
                "rule compiler initialization error: {fault}"
            )));
            return Ok(());
        }
        let Some(schema) = place.schema.as_deref().filter(|_| !place.rules.is_empty()) else {
            return Ok(());
        };
        if self.budget == 0 {
            self.found.errors.push(refuse(OUT_OF_BUDGET));
            return Err(Stop);
        }
        for rule in &place.rules {
            let program = match &rule.program {
                None => continue,
                Some(Ok(program)) => program,
                Some(Err(fault)) => {
                    self.found
                        .errors
                        .push(refuse(&format!("rule compile error: {fault}")));
                    continue;
                }
            };
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let bindings = bindings(schema, new, old, rule.optional_old);
            match self.run(program, &bindings) {
                Run::Exhausted => {
                    self.found.errors.push(refuse(OUT_OF_BUDGET));
                    return Err(Stop);
                }
                Run::Done(Ok(value)) if value.as_bool() == Some(true) => {}
                Run::Done(Ok(_)) => self.broken(place, rule, path, new, &bindings, ratchet)?,
                Run::Done(Err(fault)) => {
                    self.found.errors.push(refuse(&fault_text(&fault, rule)));
                    if fault == EvalError::CostExceeded {
                        return Err(Stop);
                    }
                }
            }
        }
        Ok(())
    }

    fn run<'v>(&mut self, program: &Program, bindings: &Bindings<'v>) -> Run<'v> {
        let Evaluation { result, cost } = program.evaluate(bindings, PER_CALL_LIMIT);
        if cost > self.budget {
            return Run::Exhausted;
        }
        self.budget -= cost;
        Run::Done(result)
    }

    /// Reports a rule that does not hold.
    fn broken(
        &mut self,
        place: &Place,
        rule: &Rule,
        path: &Path,
        new: &Value,
        bindings: &Bindings<'_>,
        ratchet: Ratchet<'_>,
    ) -> Result<(), Stop> {
        let path = match &rule.field {
            Some(field) => path.child(field),
            None => path.clone(),
        };
        let mut stop = Ok(());
        let error = match self.message(rule, bindings) {
            Message::Text(text) => refusal(place, rule, &path, new, &text),
            Message::Default => refusal(place, rule, &path, new, &default_message(rule)),
            Message::Stop(detail) => {
                stop = Err(Stop);
                FieldError::invalid(&path, place.ty.as_str(), &detail)
            }
        };
        if !rule.uses_old && ratchet.unchanged() {
            self.found.warnings.push(error.to_string());
        } else {
            self.found.errors.push(error);
        }
        stop
    }

    fn message(&mut self, rule: &Rule, bindings: &Bindings<'_>) -> Message {
        let Some(Ok(program)) = &rule.message_program else {
            return Message::Default;
        };
        let value = match self.run(program, bindings) {
            Run::Exhausted => {
                return Message::Stop("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned());
            }
            Run::Done(Err(EvalError::CostExceeded)) => {
                return Message::Stop(format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
                    rule.message_source
                ));
            }
            Run::Done(Err(error)) => {
                tracing::debug!(%error, "messageExpression evaluation failed");
                return Message::Default;
            }
            Run::Done(Ok(value)) => value,
        };
        match value.as_str().map(str::trim) {
            Some(text) if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') => {
                Message::Text(text.to_owned())
            }
            _ => Message::Default,
        }
    }
}

enum Run<'v> {
    Done(Result<Cel<'v>, EvalError>),
    /// It cost more than is left.
    Exhausted,
}

enum Message {
    Text(String),
    Default,
    Stop(String),
}

fn typed<'v>(json: &'v Value, schema: &'v Schema) -> Option<Cel<'v>> {
    Cel::from_typed_json(json, schema).ok()
}

fn bindings<'v>(
    schema: &'v Schema,
    new: &'v Value,
    old: Option<&'v Value>,
    optional: bool,
) -> Bindings<'v> {
    let mut bindings = Bindings::new();
    let current = typed(new, schema);
    bindings.set("self", current.unwrap_or_else(|| Cel::from_json(nothing())));
    let old = old.and_then(|old| typed(old, schema));
    if optional {
        bindings.set("oldSelf", Cel::Optional(old.map(std::sync::Arc::new)));
    } else if let Some(old) = old {
        bindings.set("oldSelf", old);
    }
    bindings
}

/// How a rule is named where it went wrong: by its message, or as it is written.
fn named(rule: &Rule) -> &str {
    if rule.message.is_empty() {
        rule.rule.trim()
    } else {
        rule.message.trim()
    }
}

fn default_message(rule: &Rule) -> String {
    if rule.message.is_empty() {
        format!("failed rule: {}", rule.rule.trim())
    } else {
        rule.message.trim().to_owned()
    }
}

fn fault_text(fault: &EvalError, rule: &Rule) -> String {
    let text = fault.to_string();
    if *fault == EvalError::CostExceeded {
        return format!(
            "'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
            named(rule)
        );
    }
    if text.starts_with("no such overload") {
        return format!(
            "'{text}': call arguments did not match a supported operator, function or macro signature for rule: {}",
            named(rule)
        );
    }
    format!("{text} evaluating rule: {}", named(rule))
}

fn refusal(place: &Place, rule: &Rule, path: &Path, new: &Value, detail: &str) -> FieldError {
    // Objects and lists are not shown.
    let shown = (!matches!(place.ty.as_str(), "object" | "array")).then_some(new);
    match rule.reason.as_deref() {
        Some("FieldValueForbidden") => FieldError::forbidden(path, detail),
        Some("FieldValueRequired") => FieldError::required(path, detail),
        Some("FieldValueDuplicate") => match shown {
            Some(value) => FieldError::duplicate(path, value),
            None => without_value(ErrorType::Duplicate, path, "Duplicate value".to_owned()),
        },
        _ => match shown {
            Some(value) => FieldError::invalid(path, value, detail),
            None => without_value(ErrorType::Invalid, path, format!("Invalid value: {detail}")),
        },
    }
}

fn without_value(kind: ErrorType, path: &Path, body: String) -> FieldError {
    FieldError {
        kind,
        path: path.clone(),
        body,
    }
}

/// The old elements of a list by their keys.
struct Keyed<'v> {
    keys: &'v [String],
    items: std::collections::HashMap<Vec<String>, &'v Value>,
}

impl<'v> Keyed<'v> {
    fn new(keys: &'v [String], items: &'v [Value]) -> Self {
        let mut by_key = std::collections::HashMap::new();
        if !keys.is_empty() {
            for item in items {
                if let Some(key) = key_of(keys, item) {
                    by_key.entry(key).or_insert(item);
                }
            }
        }
        Self {
            keys,
            items: by_key,
        }
    }

    fn get(&self, item: &Value) -> Option<&'v Value> {
        if self.items.is_empty() {
            return None;
        }
        self.items.get(&key_of(self.keys, item)?).copied()
    }
}

/// What tells an element apart; only scalars do.
fn key_of(keys: &[String], item: &Value) -> Option<Vec<String>> {
    keys.iter()
        .map(|key| match item.get(key)? {
            Value::Null | Value::Array(_) | Value::Object(_) => None,
            scalar => Some(scalar.to_string()),
        })
        .collect()
}
