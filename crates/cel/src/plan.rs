//! What is evaluated: the checked tree with names resolved to places, constants made and calls bound.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::check::{Checked, Reference};
use crate::cost::{self, Charge};
use crate::declare::Overload;
use crate::environment::Environment;
use crate::error::{CompileErrors, EvalError};
use crate::library::regex::Pattern;
use crate::syntax::Parsed;
use crate::syntax::ast::{Call, Comprehension, Entry, Expr, Kind, Literal, op};
use crate::types::ObjectType;
use crate::value::{Key, Map, Text, Value};

/// A step of a program.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    /// A variable that the caller gives.
    Variable(Arc<str>),
    /// A variable of a loop or of `cel.bind`.
    Local(usize),
    /// A field of a variable that the caller computes field by field.
    LazyField(Arc<str>, Arc<str>),
    Select(Box<Node>, Arc<str>),
    Has(Box<Node>, Arc<str>),
    OptSelect(Box<Node>, Arc<str>),
    Index(Box<(Node, Node)>),
    OptIndex(Box<(Node, Node)>),
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    Conditional(Box<(Node, Node, Node)>),
    NotStrictlyFalse(Box<Node>),
    /// `optional.or(x)`; the flag says whether it is `orValue`.
    OptionalOr(Box<(Node, Node)>, bool),
    /// Membership in a list that is known beforehand.
    InSet(Box<Node>, Vec<Key<'static>>),
    Call(Box<CallNode>),
    List(Vec<Node>, Vec<usize>),
    Map(Vec<(Node, Node, bool)>),
    Object(Arc<ObjectType>, Vec<(Arc<str>, Node, bool)>),
    /// Adds elements to the list that a loop gathers.
    Append(usize, Vec<Node>),
    /// Adds an entry to the map that a loop gathers.
    Insert(usize, Box<(Node, Option<Node>)>),
    Fold(Box<Fold>),
    Bind(Box<(Node, Node)>),
}

#[derive(Debug)]
pub(crate) struct CallNode {
    pub(crate) overloads: Vec<&'static Overload>,
    pub(crate) args: Vec<Node>,
    pub(crate) charge: Charge,
    /// The second argument as a regular expression, where it is a constant.
    pub(crate) pattern: Option<Pattern>,
}

impl std::fmt::Debug for Overload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id)
    }
}

#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) range: Node,
    pub(crate) init: Node,
    pub(crate) condition: Node,
    pub(crate) step: Node,
    pub(crate) result: Node,
    pub(crate) two: bool,
    /// Whether a fault in one step can be made up for by a later one.
    pub(crate) absorbs: bool,
}

/// Plans a checked expression.
pub(crate) fn plan(
    environment: &Environment,
    source: &str,
    parsed: &Parsed,
    checked: &Checked,
) -> Result<Node, CompileErrors> {
    let mut planner = Planner {
        environment,
        checked,
        locals: Vec::new(),
        fault: None,
    };
    let node = planner.node(&parsed.root);
    match planner.fault {
        Some((id, message)) => Err(CompileErrors::new(
            source,
            vec![parsed.positions.issue(source, id, message)],
        )),
        None => Ok(node),
    }
}

struct Planner<'p> {
    environment: &'p Environment,
    checked: &'p Checked,
    /// The loops' variables by their places.
    locals: Vec<Arc<str>>,
    fault: Option<(usize, String)>,
}

impl Planner<'_> {
    fn node(&mut self, expr: &Expr) -> Node {
        match self.checked.references.get(&expr.id) {
            Some(Reference::Variable(name)) => return self.variable(name),
            Some(Reference::Type(ty)) => return Node::Const(Value::Type(ty.clone())),
            _ => {}
        }
        match &expr.kind {
            Kind::Literal(literal) => Node::Const(constant(literal)),
            Kind::Ident(name) => self.variable(name),
            Kind::Select(select) => self.select(select),
            Kind::Call(call) => self.call(expr, call),
            Kind::List { elements, optional } => self.list(elements, optional),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { fields, .. } => {
                let Some(Reference::Construct(object)) = self.checked.references.get(&expr.id)
                else {
                    return Node::Const(Value::Null);
                };
                let fields = fields
                    .iter()
                    .map(|f| (f.name.clone(), self.node(&f.value), f.optional))
                    .collect();
                Node::Object(object.clone(), fields)
            }
            Kind::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn variable(&self, name: &Arc<str>) -> Node {
        match self.locals.iter().rposition(|local| local == name) {
            Some(place) => Node::Local(place),
            None => Node::Variable(name.clone()),
        }
    }

    fn select(&mut self, select: &crate::syntax::ast::Select) -> Node {
        let operand = self.node(&select.operand);
        let field = select.field.clone();
        match operand {
            Node::Variable(name) if self.environment.is_lazy(&name) => {
                if select.test_only {
                    Node::Const(Value::Bool(true))
                } else {
                    Node::LazyField(name, field)
                }
            }
            operand if select.test_only => Node::Has(Box::new(operand), field),
            operand => Node::Select(Box::new(operand), field),
        }
    }

    fn pair(&mut self, args: &[Expr]) -> Option<Box<(Node, Node)>> {
        match args {
            [a, b] => {
                let a = self.node(a);
                Some(Box::new((a, self.node(b))))
            }
            _ => None,
        }
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> Node {
        self.special(call)
            .unwrap_or_else(|| self.plain_call(expr, call))
    }

    /// Calls that do not evaluate all their arguments, or that are no functions.
    fn special(&mut self, call: &Call) -> Option<Node> {
        match &*call.function {
            op::AND => self.pair(&call.args).map(Node::And),
            op::OR => self.pair(&call.args).map(Node::Or),
            op::INDEX => self.pair(&call.args).map(Node::Index),
            op::OPT_INDEX => self.pair(&call.args).map(Node::OptIndex),
            op::CONDITIONAL => match call.args.as_slice() {
                [a, b, c] => {
                    let a = self.node(a);
                    let b = self.node(b);
                    Some(Node::Conditional(Box::new((a, b, self.node(c)))))
                }
                _ => None,
            },
            op::NOT_STRICTLY_FALSE => call
                .args
                .first()
                .map(|arg| Node::NotStrictlyFalse(Box::new(self.node(arg)))),
            op::OPT_SELECT => match call.args.as_slice() {
                [
                    operand,
                    Expr {
                        kind: Kind::Literal(Literal::String(field)),
                        ..
                    },
                ] => Some(Node::OptSelect(Box::new(self.node(operand)), field.clone())),
                _ => None,
            },
            "or" | "orValue" if call.args.len() == 1 => {
                let target = self.node(call.target.as_ref()?);
                let other = self.node(call.args.first()?);
                let value = &*call.function == "orValue";
                Some(Node::OptionalOr(Box::new((target, other)), value))
            }
            op::ADD => self.append(call),
            "cel.@mapInsert" => self.insert(call),
            op::IN => self.set_membership(call),
            _ => None,
        }
    }

    /// `accumulator + [x]` within a loop adds to the list in place.
    fn append(&mut self, call: &Call) -> Option<Node> {
        let [target, added] = call.args.as_slice() else {
            return None;
        };
        let (Kind::Ident(name), Kind::List { elements, optional }) = (&target.kind, &added.kind)
        else {
            return None;
        };
        if &**name != crate::syntax::ast::ACCUMULATOR || !optional.is_empty() {
            return None;
        }
        let Node::Local(place) = self.variable(name) else {
            return None;
        };
        let elements = elements.iter().map(|element| self.node(element)).collect();
        Some(Node::Append(place, elements))
    }

    fn insert(&mut self, call: &Call) -> Option<Node> {
        let (target, rest) = call.args.split_first()?;
        let Node::Local(place) = self.node(target) else {
            return None;
        };
        let (first, second) = rest.split_first()?;
        let first = self.node(first);
        let second = second.first().map(|value| self.node(value));
        Some(Node::Insert(place, Box::new((first, second))))
    }

    /// `x in [constants]` looks the value up instead of comparing one by one.
    fn set_membership(&mut self, call: &Call) -> Option<Node> {
        let [needle, list] = call.args.as_slice() else {
            return None;
        };
        let Kind::List { elements, optional } = &list.kind else {
            return None;
        };
        if !optional.is_empty() {
            return None;
        }
        let mut keys = Vec::with_capacity(elements.len());
        for element in elements {
            let Kind::Literal(literal) = &element.kind else {
                return None;
            };
            keys.push(Key::new(&constant(literal))?);
        }
        keys.sort();
        Some(Node::InSet(Box::new(self.node(needle)), keys))
    }

    fn plain_call(&mut self, expr: &Expr, call: &Call) -> Node {
        let Some(Reference::Call {
            function,
            overloads,
            namespaced,
        }) = self.checked.references.get(&expr.id)
        else {
            return Node::Const(Value::Null);
        };
        let target = call.target.as_ref().filter(|_| !namespaced);
        let args: Vec<Node> = target
            .into_iter()
            .chain(&call.args)
            .map(|arg| self.node(arg))
            .collect();
        let id = match overloads.as_slice() {
            [only] => only.id,
            _ => "",
        };
        if let Some(node) = self.converted(expr, function, overloads, &args) {
            return node;
        }
        let pattern = self.pattern(expr, function, &args);
        Node::Call(Box::new(CallNode {
            overloads: overloads.clone(),
            charge: cost::charge(function, id),
            args,
            pattern,
        }))
    }

    /// A conversion of a constant is a constant; one that fails fails now.
    fn converted(
        &mut self,
        expr: &Expr,
        function: &str,
        overloads: &[&'static Overload],
        args: &[Node],
    ) -> Option<Node> {
        let [Node::Const(value)] = args else {
            return None;
        };
        if !is_conversion(function) {
            return None;
        }
        let overload = overloads.iter().find(|overload| {
            overload
                .params
                .iter()
                .all(|p| crate::declare::accepts(p, value))
        })?;
        match (overload.act)(std::slice::from_ref(value)) {
            Ok(value) => Some(Node::Const(value)),
            Err(error) => {
                self.note(expr, &error, function);
                None
            }
        }
    }

    fn note(&mut self, expr: &Expr, error: &EvalError, function: &str) {
        let what = match function {
            "duration" => "duration argument",
            "timestamp" => "timestamp argument",
            _ => "argument",
        };
        let _ = error;
        if matches!(function, "duration" | "timestamp") && self.fault.is_none() {
            let at = match &expr.kind {
                Kind::Call(call) => call.args.first().map_or(expr.id, |arg| arg.id),
                _ => expr.id,
            };
            self.fault = Some((at, format!("invalid {what}")));
        }
    }

    fn pattern(&mut self, expr: &Expr, function: &str, args: &[Node]) -> Option<Pattern> {
        if !matches!(function, "matches" | "find" | "findAll") {
            return None;
        }
        let Some(Node::Const(Value::String(text))) = args.get(1) else {
            return None;
        };
        match Pattern::new(text) {
            Ok(pattern) => Some(pattern),
            Err(_) => {
                let at = match &expr.kind {
                    Kind::Call(call) => call.args.last().map_or(expr.id, |arg| arg.id),
                    _ => expr.id,
                };
                if function == "matches" && self.fault.is_none() {
                    self.fault = Some((at, "invalid matches argument".to_owned()));
                }
                None
            }
        }
    }

    fn list(&mut self, elements: &[Expr], optional: &[usize]) -> Node {
        let nodes: Vec<Node> = elements.iter().map(|element| self.node(element)).collect();
        if optional.is_empty() && nodes.iter().all(|node| matches!(node, Node::Const(_))) {
            let values = nodes.into_iter().filter_map(into_constant).collect();
            return Node::Const(Value::list(values));
        }
        Node::List(nodes, optional.to_vec())
    }

    fn map(&mut self, entries: &[Entry]) -> Node {
        let nodes: Vec<(Node, Node, bool)> = entries
            .iter()
            .map(|entry| {
                let key = self.node(&entry.key);
                (key, self.node(&entry.value), entry.optional)
            })
            .collect();
        constant_map(&nodes).unwrap_or(Node::Map(nodes))
    }

    fn comprehension(&mut self, c: &Comprehension) -> Node {
        let init = self.node(&c.init);
        if c.is_bind() {
            self.locals.push(c.accu.clone());
            let result = self.node(&c.result);
            self.locals.pop();
            return Node::Bind(Box::new((init, result)));
        }
        let range = self.node(&c.range);
        self.locals.push(c.accu.clone());
        self.locals.push(c.var.clone());
        if let Some(var2) = &c.var2 {
            self.locals.push(var2.clone());
        }
        let condition = self.node(&c.condition);
        let step = self.node(&c.step);
        self.locals
            .truncate(self.locals.len() - if c.var2.is_some() { 2 } else { 1 });
        let result = self.node(&c.result);
        self.locals.pop();
        Node::Fold(Box::new(Fold {
            range,
            init,
            condition,
            absorbs: matches!(step, Node::And(_) | Node::Or(_)),
            step,
            result,
            two: c.var2.is_some(),
        }))
    }
}

pub(crate) fn is_conversion(function: &str) -> bool {
    matches!(
        function,
        "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "uint"
    )
}

fn into_constant(node: Node) -> Option<Value<'static>> {
    match node {
        Node::Const(value) => Some(value),
        _ => None,
    }
}

/// A map literal of constants with keys that differ.
fn constant_map(nodes: &[(Node, Node, bool)]) -> Option<Node> {
    let mut entries = IndexMap::with_capacity(nodes.len());
    for (key, value, optional) in nodes {
        let (Node::Const(key), Node::Const(value), false) = (key, value, optional) else {
            return None;
        };
        if entries
            .insert(Key::new(key)?, (key.clone(), value.clone()))
            .is_some()
        {
            return None;
        }
    }
    Some(Node::Const(Value::Map(Map::Shared(Arc::new(entries)))))
}

pub(crate) fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(text) => Value::String(Text::Shared(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

/// The variables of the environment that the expression reads.
pub(crate) fn variables(checked: &Checked, environment: &Environment) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = checked
        .references
        .values()
        .filter_map(|reference| match reference {
            Reference::Variable(name) if environment.variable(name).is_some() => Some(name.clone()),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}
