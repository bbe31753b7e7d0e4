//! What an expression costs at least and at most, before it runs: from the bounds that schemas give for lists, maps
//! and texts.

mod calls;

use std::collections::HashMap;
use std::sync::Arc;

use crate::check::{Checked, Reference};
use crate::cost::{LIST, MAP, OBJECT, SELECT};
use crate::environment::Environment;
use crate::schema::{Schema, Shape};
use crate::syntax::Parsed;
use crate::syntax::ast::{Call, Comprehension, Entry, Expr, Id, Kind, Literal, Select, op};
use crate::types::Type;
use crate::value::chars;

/// The least and the most something costs; also the least and the most elements something has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The least.
    pub min: u64,
    /// The most; `u64::MAX` where nothing bounds it.
    pub max: u64,
}

impl Estimate {
    pub(crate) const UNKNOWN: Self = Self {
        min: 0,
        max: u64::MAX,
    };

    pub(crate) const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    pub(crate) fn times(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }

    pub(crate) fn scaled(self, factor: f64) -> Self {
        // A float too large for the integer becomes its maximum, which is what is wanted.
        let scale = |n: u64| (n as f64 * factor).ceil() as u64;
        Self {
            min: scale(self.min),
            max: scale(self.max),
        }
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// The bounds on the cost of a checked expression.
pub(crate) fn estimate(environment: &Environment, parsed: &Parsed, checked: &Checked) -> Estimate {
    Coster {
        environment,
        checked,
        places: HashMap::new(),
        locals: Vec::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    }
    .cost(&parsed.root)
}

/// Where in a variable's schema a value stands.
#[derive(Clone)]
enum Place {
    At(Arc<Schema>),
    /// The keys of a map.
    Keys,
}

/// The sizes of a container's keys and values.
#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: Estimate,
    value: Estimate,
}

impl Entries {
    fn union(self, other: Self) -> Self {
        Self {
            list: self.list,
            key: self.key.union(other.key),
            value: self.value.union(other.value),
        }
    }
}

/// A variable of a loop.
struct Local {
    name: Arc<str>,
    place: Option<Place>,
    size: Option<Estimate>,
    entries: Option<Entries>,
}

struct Coster<'c> {
    environment: &'c Environment,
    checked: &'c Checked,
    places: HashMap<Id, Place>,
    locals: Vec<Local>,
    sizes: HashMap<Id, Estimate>,
    entries: HashMap<Id, Entries>,
}

impl Coster<'_> {
    fn cost(&mut self, expr: &Expr) -> Estimate {
        if let Some(Reference::Variable(name)) = self.checked.references.get(&expr.id) {
            let name = name.clone();
            return self.name(expr.id, &name);
        }
        match &expr.kind {
            Kind::Literal(_) => Estimate::fixed(0),
            Kind::Ident(_) => Estimate::fixed(SELECT),
            Kind::Select(select) => self.select(expr.id, select),
            Kind::Call(call) => self.call(expr, call),
            Kind::List { elements, .. } => self.list(expr.id, elements),
            Kind::Map(entries) => self.map(expr.id, entries),
            Kind::Struct { fields, .. } => fields
                .iter()
                .map(|field| self.cost(&field.value))
                .fold(Estimate::fixed(OBJECT), Estimate::add),
            Kind::Comprehension(c) if c.is_bind() => self.bind(expr, c),
            Kind::Comprehension(c) => self.comprehension(expr, c),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| &*local.name == name)
    }

    fn name(&mut self, id: Id, name: &str) -> Estimate {
        let place = match self.local(name) {
            Some(local) => local.place.clone(),
            None => self
                .environment
                .variable(name)
                .map(|(_, schema)| Place::At(schema.clone())),
        };
        if let Some(place) = place {
            self.places.insert(id, place);
        }
        Estimate::fixed(SELECT)
    }

    fn select(&mut self, id: Id, select: &Select) -> Estimate {
        if matches!(self.checked.references.get(&id), Some(Reference::Type(_))) {
            return Estimate::fixed(SELECT);
        }
        let operand = self.cost(&select.operand);
        if select.test_only {
            return operand;
        }
        if let Some(Place::At(schema)) = self.places.get(&select.operand.id) {
            let field = schema
                .field(&select.field)
                .or_else(|| {
                    let escaped = crate::escape::escape(&select.field)?;
                    schema.field(&escaped)
                })
                .cloned();
            if let Some(field) = field {
                self.places.insert(id, Place::At(field));
            }
        }
        match self.checked.type_of(select.operand.id) {
            Type::Map(_) | Type::Object(_) => operand.add(Estimate::fixed(SELECT)),
            _ => operand,
        }
    }

    fn list(&mut self, id: Id, elements: &[Expr]) -> Estimate {
        let mut sum = Estimate::fixed(LIST);
        let mut value = empty_range(elements.is_empty());
        for element in elements {
            sum = sum.add(self.cost(element));
            value = value.union(self.size_or_unknown(element));
        }
        let entries = Entries {
            list: true,
            key: Estimate::fixed(1),
            value,
        };
        self.entries.insert(id, entries);
        sum
    }

    fn map(&mut self, id: Id, entries: &[Entry]) -> Estimate {
        let mut sum = Estimate::fixed(MAP);
        let mut key = empty_range(entries.is_empty());
        let mut value = key;
        for entry in entries {
            sum = sum.add(self.cost(&entry.key)).add(self.cost(&entry.value));
            key = key.union(self.size_or_unknown(&entry.key));
            value = value.union(self.size_or_unknown(&entry.value));
        }
        let list = false;
        self.entries.insert(id, Entries { list, key, value });
        sum
    }

    fn bind(&mut self, expr: &Expr, c: &Comprehension) -> Estimate {
        let sum = self.cost(&c.range).add(self.cost(&c.init));
        self.push_value(&c.accu, &c.init);
        let sum = sum.add(self.cost(&c.result));
        self.locals.pop();
        self.copy_sizes(expr.id, &c.result);
        sum
    }

    fn copy_sizes(&mut self, id: Id, from: &Expr) {
        if let Some(size) = self.size(from) {
            self.sizes.insert(id, size);
        }
        if let Some(entries) = self.entry_sizes(from) {
            self.entries.insert(id, entries);
        }
    }

    /// A name for a value that is known: an accumulator, or what `cel.bind` names.
    fn push_value(&mut self, name: &Arc<str>, value: &Expr) {
        let local = Local {
            name: name.clone(),
            place: self.place(value),
            size: self.size(value),
            entries: self.entry_sizes(value),
        };
        self.locals.push(local);
    }

    /// A name for what a loop takes out of a container: its elements or values, or its keys.
    fn push_element(&mut self, name: &Arc<str>, range: &Expr, keys: bool) {
        let entries = self.entry_sizes(range);
        let size = entries.map(|entries| if keys { entries.key } else { entries.value });
        let place = match self.place(range) {
            Some(Place::At(schema)) => match (&schema.shape, keys) {
                (Shape::Map(_), true) => Some(Place::Keys),
                (_, true) => None,
                (_, false) => schema.element().cloned().map(Place::At),
            },
            _ => None,
        };
        self.locals.push(Local {
            name: name.clone(),
            place,
            size,
            entries: None,
        });
    }

    fn comprehension(&mut self, expr: &Expr, c: &Comprehension) -> Estimate {
        let mut sum = self.cost(&c.range).add(self.cost(&c.init));
        self.push_value(&c.accu, &c.init);
        let list = match self.entry_sizes(&c.range) {
            Some(entries) => entries.list,
            None => matches!(self.checked.type_of(c.range.id), Type::List(_)),
        };
        let depth = self.locals.len();
        match &c.var2 {
            Some(var2) => {
                self.push_element(&c.var, &c.range, true);
                self.push_element(var2, &c.range, false);
            }
            None => self.push_element(&c.var, &c.range, !list),
        }
        let step = self.cost(&c.condition).add(self.cost(&c.step));
        self.locals.truncate(depth);
        sum = sum.add(self.cost(&c.result));
        self.locals.pop();
        let count = self.size_or_unknown(&c.range);
        sum = sum.add(count.times(step));
        match &c.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&c.init) {
                    self.sizes.insert(expr.id, size);
                }
            }
            Kind::List { .. } | Kind::Map(_) => {
                self.sizes.insert(expr.id, count);
                if let Some(entries) = self.entry_sizes(&c.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    /// Where in a schema the value stands; what a loop gathers stands nowhere.
    fn place(&self, expr: &Expr) -> Option<Place> {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.place.clone();
        }
        self.places.get(&expr.id).cloned()
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Estimate {
        self.size(expr).unwrap_or(Estimate::UNKNOWN)
    }

    fn size(&mut self, expr: &Expr) -> Option<Estimate> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(&expr.kind) {
            return Some(Estimate::fixed(size));
        }
        if let Some(size) = self.place(expr).and_then(|place| place_size(&place)) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(self.checked.type_of(expr.id)) {
            return Some(Estimate::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn entry_sizes(&self, expr: &Expr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.entries),
            _ => None,
        }
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> Estimate {
        if &*call.function == "dyn"
            && let [arg] = call.args.as_slice()
        {
            let cost = self.cost(arg).add(Estimate::fixed(1));
            self.copy_sizes(expr.id, arg);
            return cost;
        }
        let args: Vec<Estimate> = call.args.iter().map(|arg| self.cost(arg)).collect();
        if &*call.function == op::OPT_SELECT {
            return args.first().map_or(Estimate::fixed(1), |operand| {
                operand.add(Estimate::fixed(1))
            });
        }
        let Some(Reference::Call {
            overloads,
            namespaced,
            ..
        }) = self.checked.references.get(&expr.id)
        else {
            return Estimate::fixed(0);
        };
        let ids: Vec<&'static str> = overloads.iter().map(|overload| overload.id).collect();
        let target = call.target.as_ref().filter(|_| !namespaced);
        let function = match (&call.target, namespaced) {
            (Some(target), true) => {
                let prefix = crate::syntax::ast::qualified_name(target).unwrap_or_default();
                Arc::from(format!("{prefix}.{}", call.function))
            }
            _ => call.function.clone(),
        };
        let mut sum = Estimate::fixed(0);
        if let Some(target) = target {
            sum = self.cost(target);
        }
        let mut cost = empty_range(false);
        let mut result: Option<Estimate> = None;
        for id in ids {
            let (call_cost, size) = self.variant(expr, &function, id, target, &call.args, &args);
            cost = cost.union(call_cost);
            if let Some(size) = size {
                result = Some(result.map_or(size, |known| known.union(size)));
            }
            if let ("index_list" | "index_map", Some(container)) = (id, call.args.first()) {
                result = self.entry_sizes(container).map(|entries| entries.value);
                if let Some(Place::At(schema)) = self.place(container)
                    && let Some(element) = schema.element()
                {
                    self.places.insert(expr.id, Place::At(element.clone()));
                }
            }
        }
        let result = result.or_else(|| self.size(expr));
        if let Some(size) = result {
            self.sizes.insert(expr.id, size);
        }
        sum.add(cost)
    }
}

/// The range that a union of sizes starts from: nothing, or the sizes of no elements.
fn empty_range(empty: bool) -> Estimate {
    Estimate {
        min: if empty { 0 } else { u64::MAX },
        max: 0,
    }
}

fn literal_size(kind: &Kind) -> Option<u64> {
    Some(match kind {
        Kind::Literal(Literal::String(text)) => chars(text),
        Kind::Literal(Literal::Bytes(bytes)) => bytes.len() as u64,
        Kind::Literal(_) => 1,
        Kind::List { elements, .. } => elements.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => return None,
    })
}

/// The bound that a schema gives. Values without a length count nothing; of dynamic ones nothing is known.
fn place_size(place: &Place) -> Option<Estimate> {
    let max = match place {
        Place::Keys => 0,
        Place::At(schema) => match (schema.max_elements, &schema.shape) {
            (Some(max), _) => max,
            (None, Shape::Bool | Shape::Int | Shape::Uint | Shape::Double | Shape::Object(_)) => 0,
            _ => return None,
        },
    };
    Some(Estimate { min: 0, max })
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => {
            true
        }
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}
