//! Runs a planned program, counting what it costs.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::activation::Activation;
use crate::cost::{self, LIST, MAP, OBJECT, SELECT};
use crate::declare::accepts;
use crate::error::EvalError;
use crate::plan::{CallNode, Fold, Node};
use crate::types::ObjectType;
use crate::value::{Key, List, Map, Object, Value};

type Result<T> = std::result::Result<T, EvalError>;

pub(crate) struct Evaluator<'e, 'v> {
    pub(crate) activation: &'e dyn Activation<'v>,
    pub(crate) budget: u64,
    pub(crate) cost: u64,
    /// The loops' variables; a fault stays in its place until it is read.
    locals: Vec<Result<Value<'v>>>,
}

impl<'e, 'v> Evaluator<'e, 'v> {
    pub(crate) fn new(activation: &'e dyn Activation<'v>, budget: u64) -> Self {
        Self {
            activation,
            budget,
            cost: 0,
            locals: Vec::new(),
        }
    }

    fn charge(&mut self, cost: u64) -> Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.budget {
            return Err(EvalError::CostExceeded);
        }
        Ok(())
    }

    pub(crate) fn eval(&mut self, node: &Node) -> Result<Value<'v>> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Variable(name) => {
                self.charge(SELECT)?;
                self.activation
                    .variable(name)
                    .ok_or_else(|| EvalError::fault(format!("no such attribute(s): {name}")))
            }
            Node::Local(place) => {
                self.charge(SELECT)?;
                self.local(*place)
            }
            Node::LazyField(name, field) => self.lazy_field(name, field),
            Node::Select(operand, field) => {
                let operand = self.eval(operand)?;
                self.charge(SELECT)?;
                select(&operand, field)
            }
            Node::Has(operand, field) => {
                let operand = self.eval(operand)?;
                has(&operand, field).map(Value::Bool)
            }
            Node::OptSelect(operand, field) => {
                let operand = self.eval(operand)?;
                self.charge(SELECT)?;
                opt_select(&operand, field)
            }
            Node::Index(pair) => self.index(&pair.0, &pair.1, false),
            Node::OptIndex(pair) => self.index(&pair.0, &pair.1, true),
            Node::And(pair) => self.logic(&pair.0, &pair.1, false),
            Node::Or(pair) => self.logic(&pair.0, &pair.1, true),
            Node::Conditional(parts) => match self.eval(&parts.0)? {
                Value::Bool(true) => self.eval(&parts.1),
                Value::Bool(false) => self.eval(&parts.2),
                _ => Err(EvalError::no_such_overload()),
            },
            Node::NotStrictlyFalse(operand) => self.not_strictly_false(operand),
            Node::OptionalOr(pair, value) => self.optional_or(&pair.0, &pair.1, *value),
            Node::InSet(needle, keys) => {
                let needle = self.eval(needle)?;
                Ok(Value::Bool(Key::new(&needle).is_some_and(|key| {
                    keys.binary_search_by(|k| Key::cmp(k, &key)).is_ok()
                })))
            }
            Node::Call(call) => self.call(call),
            Node::List(elements, optional) => self.list(elements, optional),
            Node::Map(entries) => self.map(entries),
            Node::Object(ty, fields) => self.object(ty, fields),
            Node::Append(place, elements) => self.append(*place, elements),
            Node::Insert(place, parts) => self.insert(*place, &parts.0, parts.1.as_ref()),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(parts) => {
                let value = self.keep(&parts.0)?;
                self.locals.push(value);
                let result = self.eval(&parts.1);
                self.locals.pop();
                result
            }
        }
    }

    /// A value or the fault that stands for it; only running out of budget ends the evaluation.
    fn keep(&mut self, node: &Node) -> Result<Result<Value<'v>>> {
        match self.eval(node) {
            Err(EvalError::CostExceeded) => Err(EvalError::CostExceeded),
            other => Ok(other),
        }
    }

    fn local(&self, place: usize) -> Result<Value<'v>> {
        self.locals
            .get(place)
            .cloned()
            .unwrap_or_else(|| Err(EvalError::fault("no such attribute(s)")))
    }

    #[inline(never)]
    fn lazy_field(&mut self, name: &Arc<str>, field: &Arc<str>) -> Result<Value<'v>> {
        self.charge(2 * SELECT)?;
        match self.activation.field(name, field) {
            Some(result) => result,
            None => Err(EvalError::no_such_key(field)),
        }
    }

    #[inline(never)]
    fn logic(&mut self, left: &Node, right: &Node, decides: bool) -> Result<Value<'v>> {
        let left = self.keep(left)?;
        if let Ok(Value::Bool(b)) = left
            && b == decides
        {
            return Ok(Value::Bool(decides));
        }
        let right = self.keep(right)?;
        match (left, right) {
            (_, Ok(Value::Bool(b))) if b == decides => Ok(Value::Bool(decides)),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decides)),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    #[inline(never)]
    fn not_strictly_false(&mut self, operand: &Node) -> Result<Value<'v>> {
        let value = self.keep(operand)?;
        self.charge(1)?;
        Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false)))))
    }

    #[inline(never)]
    fn optional_or(&mut self, left: &Node, right: &Node, value: bool) -> Result<Value<'v>> {
        match self.eval(left)? {
            Value::Optional(Some(inner)) if value => Ok(Value::clone(&inner)),
            Value::Optional(None) => self.eval(right),
            other => Ok(other),
        }
    }

    #[inline(never)]
    fn index(&mut self, operand: &Node, index: &Node, optional: bool) -> Result<Value<'v>> {
        let operand = self.eval(operand)?;
        let index = self.eval(index)?;
        self.charge(SELECT)?;
        let (operand, was_optional) = match operand {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => (Value::clone(&inner), true),
            other => (other, false),
        };
        match find(&operand, &index) {
            Ok(Some(value)) if optional || was_optional => {
                Ok(Value::Optional(Some(Arc::new(value))))
            }
            Ok(Some(value)) => Ok(value),
            Ok(None) if optional || was_optional => Ok(Value::Optional(None)),
            Ok(None) => Err(match operand {
                Value::List(_) => {
                    EvalError::fault(format!("index out of bounds: {}", shown(&index)))
                }
                _ => EvalError::no_such_key(shown(&index)),
            }),
            Err(error) => Err(error),
        }
    }

    #[inline(never)]
    fn call(&mut self, call: &CallNode) -> Result<Value<'v>> {
        match call.args.as_slice() {
            [] => self.finish(call, &[]),
            [a] => {
                let args = [self.eval(a)?];
                self.finish(call, &args)
            }
            [a, b] => {
                let a = self.eval(a)?;
                let args = [a, self.eval(b)?];
                self.finish(call, &args)
            }
            many => {
                let mut args = Vec::with_capacity(many.len());
                for arg in many {
                    args.push(self.eval(arg)?);
                }
                self.finish(call, &args)
            }
        }
    }

    fn finish(&mut self, call: &CallNode, args: &[Value<'v>]) -> Result<Value<'v>> {
        let result = match &call.pattern {
            Some(pattern) => pattern.apply(&call.overloads, args),
            None => call
                .overloads
                .iter()
                .find(|overload| {
                    overload
                        .params
                        .iter()
                        .zip(args)
                        .all(|(param, arg)| accepts(param, arg))
                })
                .map_or_else(
                    || Err(EvalError::no_such_overload()),
                    |overload| (overload.act)(args),
                ),
        };
        let cost = cost::cost(call.charge, args, result.as_ref().ok());
        self.charge(cost)?;
        result
    }

    #[inline(never)]
    fn list(&mut self, elements: &[Node], optional: &[usize]) -> Result<Value<'v>> {
        let mut values = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            let value = self.eval(element)?;
            if optional.contains(&index) {
                match value {
                    Value::Optional(None) => {}
                    Value::Optional(Some(inner)) => values.push(Value::clone(&inner)),
                    other => return Err(not_optional(&other)),
                }
            } else {
                values.push(value);
            }
        }
        self.charge(LIST)?;
        Ok(Value::list(values))
    }

    #[inline(never)]
    fn map(&mut self, entries: &[(Node, Node, bool)]) -> Result<Value<'v>> {
        let mut map = IndexMap::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let mut value = self.eval(value)?;
            if *optional {
                value = match value {
                    Value::Optional(None) => continue,
                    Value::Optional(Some(inner)) => Value::clone(&inner),
                    other => return Err(not_optional(&other)),
                };
            }
            let place = Key::new(&key).ok_or_else(|| {
                EvalError::fault(format!(
                    "unsupported key type: {}",
                    key.type_of().runtime_name()
                ))
            })?;
            if map.insert(place, (key.clone(), value)).is_some() {
                return Err(EvalError::fault(format!(
                    "Failed with repeated key: {}",
                    shown(&key)
                )));
            }
        }
        self.charge(MAP)?;
        Ok(Value::Map(Map::Shared(Arc::new(map))))
    }

    #[inline(never)]
    fn object(
        &mut self,
        ty: &Arc<ObjectType>,
        fields: &[(Arc<str>, Node, bool)],
    ) -> Result<Value<'v>> {
        let mut out = Vec::with_capacity(fields.len());
        for (name, value, optional) in fields {
            let value = self.eval(value)?;
            let value = match (optional, value) {
                (true, Value::Optional(None)) => continue,
                (true, Value::Optional(Some(inner))) => Value::clone(&inner),
                (true, other) => return Err(not_optional(&other)),
                (false, value) => value,
            };
            out.push((name.clone(), value));
        }
        self.charge(OBJECT)?;
        Ok(Value::Object(Arc::new(Object {
            type_name: ty.name.clone(),
            fields: out,
        })))
    }

    /// Takes the value out of a local's place, so that nothing else holds it while it is added to.
    fn take(&mut self, place: usize) -> Result<Value<'v>> {
        match self.locals.get_mut(place) {
            Some(slot) => std::mem::replace(slot, Ok(Value::Null)),
            None => Err(EvalError::fault("no such attribute(s)")),
        }
    }

    #[inline(never)]
    fn append(&mut self, place: usize, elements: &[Node]) -> Result<Value<'v>> {
        let mut values = Vec::with_capacity(elements.len());
        for element in elements {
            values.push(self.eval(element)?);
        }
        self.charge(SELECT + LIST + 1)?;
        match self.take(place)? {
            Value::List(List::Shared(mut list)) => {
                Arc::make_mut(&mut list).append(&mut values);
                Ok(Value::List(List::Shared(list)))
            }
            _ => Err(EvalError::no_such_overload()),
        }
    }

    #[inline(never)]
    fn insert(&mut self, place: usize, first: &Node, second: Option<&Node>) -> Result<Value<'v>> {
        let first = self.eval(first)?;
        let added: Vec<(Value<'v>, Value<'v>)> = match second {
            Some(value) => vec![(first, self.eval(value)?)],
            None => match first {
                Value::Map(map) => {
                    let mut added = Vec::new();
                    for key in map.keys() {
                        if let Some(value) = map.find(&key)? {
                            added.push((key, value));
                        }
                    }
                    added
                }
                _ => return Err(EvalError::no_such_overload()),
            },
        };
        self.charge(SELECT + 1)?;
        let Value::Map(Map::Shared(mut map)) = self.take(place)? else {
            return Err(EvalError::no_such_overload());
        };
        let entries = Arc::make_mut(&mut map);
        for (key, value) in added {
            let Some(place) = Key::new(&key) else {
                return Err(EvalError::fault("unsupported key type"));
            };
            if entries.contains_key(&place) {
                return Err(EvalError::fault(format!(
                    "insert failed: key {} already exists",
                    shown(&key)
                )));
            }
            entries.insert(place, (key, value));
        }
        Ok(Value::Map(Map::Shared(map)))
    }

    #[inline(never)]
    fn fold(&mut self, fold: &Fold) -> Result<Value<'v>> {
        let range = self.eval(&fold.range)?;
        let init = self.keep(&fold.init)?;
        let base = self.locals.len();
        self.locals.push(init);
        self.locals.push(Ok(Value::Null));
        if fold.two {
            self.locals.push(Ok(Value::Null));
        }
        let done = match &range {
            Value::List(list) => self.fold_list(fold, base, list),
            Value::Map(map) => self.fold_map(fold, base, map),
            _ => Err(EvalError::fault(format!(
                "got '{}', expected iterable type",
                range.type_of().runtime_name()
            ))),
        };
        self.locals.truncate(base + 1);
        let result = done.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(base);
        result
    }

    fn set(&mut self, place: usize, value: Result<Value<'v>>) {
        if let Some(slot) = self.locals.get_mut(place) {
            *slot = value;
        }
    }

    fn fold_list(&mut self, fold: &Fold, base: usize, list: &List<'v>) -> Result<()> {
        for index in 0..list.len() {
            let Some(value) = list.get(index) else { break };
            if fold.two {
                self.set(base + 1, Ok(Value::Int(index as i64)));
                self.set(base + 2, value);
            } else {
                self.set(base + 1, value);
            }
            if !self.fold_step(fold, base)? {
                break;
            }
        }
        Ok(())
    }

    fn fold_map(&mut self, fold: &Fold, base: usize, map: &Map<'v>) -> Result<()> {
        for key in map.keys() {
            if fold.two {
                let value = map
                    .find(&key)
                    .and_then(|value| value.ok_or_else(|| EvalError::no_such_key(shown(&key))));
                self.set(base + 2, value);
            }
            self.set(base + 1, Ok(key));
            if !self.fold_step(fold, base)? {
                break;
            }
        }
        Ok(())
    }

    /// One step of a loop; says whether to go on.
    fn fold_step(&mut self, fold: &Fold, base: usize) -> Result<bool> {
        if let Ok(Value::Bool(false)) = self.keep(&fold.condition)? {
            return Ok(false);
        }
        let value = self.keep(&fold.step)?;
        if !fold.absorbs
            && let Err(error) = value
        {
            return Err(error);
        }
        self.set(base, value);
        Ok(true)
    }
}

fn not_optional(value: &Value<'_>) -> EvalError {
    EvalError::fault(format!(
        "cannot initialize optional list element from non-optional value {}",
        shown(value)
    ))
}

fn select<'v>(operand: &Value<'v>, field: &Arc<str>) -> Result<Value<'v>> {
    match operand {
        Value::Map(map) => match map.get(field) {
            Some(value) => value,
            None => Err(EvalError::no_such_key(field)),
        },
        Value::Object(object) => object
            .fields
            .iter()
            .find(|(name, _)| name == field)
            .map(|(_, value)| value.clone())
            .ok_or_else(|| EvalError::no_such_key(field)),
        Value::Optional(_) => opt_select(operand, field),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn has(operand: &Value<'_>, field: &Arc<str>) -> Result<bool> {
    match operand {
        Value::Map(map) => match map.get(field) {
            Some(Err(error)) => Err(error),
            found => Ok(found.is_some()),
        },
        Value::Object(object) => Ok(object.fields.iter().any(|(name, _)| name == field)),
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(inner)) => has(inner, field),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn opt_select<'v>(operand: &Value<'v>, field: &Arc<str>) -> Result<Value<'v>> {
    let operand = match operand {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => inner,
        other => other,
    };
    if !has(operand, field)? {
        return Ok(Value::Optional(None));
    }
    select(operand, field).map(|value| Value::Optional(Some(Arc::new(value))))
}

/// What is at the index, if anything is.
fn find<'v>(operand: &Value<'v>, index: &Value<'v>) -> Result<Option<Value<'v>>> {
    match operand {
        Value::List(list) => {
            let place = match index {
                Value::Int(i) => usize::try_from(*i).ok(),
                Value::Uint(u) => usize::try_from(*u).ok(),
                Value::Double(d) if d.fract() == 0.0 && *d >= 0.0 => Some(*d as usize),
                Value::Double(_) => None,
                _ => {
                    return Err(EvalError::fault(format!(
                        "unsupported index type '{}' in list",
                        index.type_of().runtime_name()
                    )));
                }
            };
            place.and_then(|place| list.get(place)).transpose()
        }
        Value::Map(map) => map.find(index),
        Value::Object(object) => match index {
            Value::String(name) => Ok(object
                .fields
                .iter()
                .find(|(field, _)| **field == **name)
                .map(|(_, value)| value.clone())),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A key or index as faults show it.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => text.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Double(d) => crate::library::convert::double_text(*d),
        other => format!("{other:?}"),
    }
}
