//! The macros: calls that the parser turns into loops, presence tests and names for values.

use std::sync::Arc;

use super::ast::{ACCUMULATOR, Call, Comprehension, Expr, Kind, Literal, Select, op};
use super::parser::{Parser, Stop};

/// The name of a loop variable that nothing reads.
const UNUSED: &str = "#unused";
const SORT_INPUT: &str = "@__sortBy_input__";

/// A call as it stands in the source: what a macro makes of it, or a plain call.
pub(super) fn call(
    parser: &mut Parser<'_>,
    at: usize,
    name: String,
    target: Option<Expr>,
    args: Vec<Expr>,
) -> Result<Expr, Stop> {
    let call = Call {
        function: Arc::from(name),
        target,
        args,
    };
    match expand(parser, at, call) {
        Expansion::Done(expr) => Ok(expr),
        Expansion::None(call) => Ok(parser.node(at, Kind::Call(Box::new(call)))),
        Expansion::Fault(offset, message) => {
            parser.report(offset, message);
            Ok(parser.node(at, Kind::Literal(Literal::Null)))
        }
        Expansion::TooBig => Err(Stop::TooDeep),
    }
}

enum Expansion {
    Done(Expr),
    None(Call),
    Fault(usize, String),
    TooBig,
}

fn expand(parser: &mut Parser<'_>, at: usize, call: Call) -> Expansion {
    let count = call.args.len();
    let name = call.function.clone();
    let result = match (&*name, call.target.is_some(), count) {
        ("has", false, 1) => has(parser, at, call),
        ("bind", true, 3) if is_cel(&call) => bind(parser, at, call),
        ("optMap" | "optFlatMap", true, 2) => opt_map(parser, at, call),
        ("sortBy", true, 2) => sort_by(parser, at, call),
        ("all" | "exists" | "exists_one" | "existsOne", true, 2 | 3)
        | ("map", true, 2 | 3)
        | ("filter", true, 2)
        | ("transformList" | "transformMap" | "transformMapEntry", true, 3 | 4) => {
            comprehension(parser, at, call)
        }
        _ => return Expansion::None(call),
    };
    if parser.is_too_big() {
        return Expansion::TooBig;
    }
    match result {
        Ok(expr) => Expansion::Done(expr),
        Err((offset, message)) => Expansion::Fault(offset, message),
    }
}

type Expanded = Result<Expr, (usize, String)>;

fn is_cel(call: &Call) -> bool {
    matches!(call.target.as_ref().map(|t| &t.kind), Some(Kind::Ident(name)) if &**name == "cel")
}

fn has(parser: &mut Parser<'_>, at: usize, mut call: Call) -> Expanded {
    match call.args.pop() {
        Some(Expr {
            kind: Kind::Select(select),
            ..
        }) if !select.test_only => Ok(parser.node(
            at,
            Kind::Select(Box::new(Select {
                test_only: true,
                ..*select
            })),
        )),
        Some(other) => Err((
            parser.offset(&other),
            "invalid argument to has() macro".to_owned(),
        )),
        None => Err((at, "invalid argument to has() macro".to_owned())),
    }
}

fn ident(parser: &mut Parser<'_>, at: usize, name: &str) -> Expr {
    parser.node(at, Kind::Ident(Arc::from(name)))
}

fn literal(parser: &mut Parser<'_>, at: usize, literal: Literal) -> Expr {
    parser.node(at, Kind::Literal(literal))
}

fn list(parser: &mut Parser<'_>, at: usize, elements: Vec<Expr>) -> Expr {
    parser.node(
        at,
        Kind::List {
            elements,
            optional: Vec::new(),
        },
    )
}

fn member(parser: &mut Parser<'_>, at: usize, name: &str, target: Expr, args: Vec<Expr>) -> Expr {
    parser.node(
        at,
        Kind::Call(Box::new(Call {
            function: Arc::from(name),
            target: Some(target),
            args,
        })),
    )
}

/// `name` stands for `value` within `body`.
fn named_value(
    parser: &mut Parser<'_>,
    at: usize,
    name: Arc<str>,
    value: Expr,
    body: Expr,
) -> Expr {
    let range = list(parser, at, Vec::new());
    let condition = literal(parser, at, Literal::Bool(false));
    let step = ident(parser, at, &name);
    parser.node(
        at,
        Kind::Comprehension(Box::new(Comprehension {
            range,
            var: Arc::from(UNUSED),
            var2: None,
            accu: name,
            init: value,
            condition,
            step,
            result: body,
        })),
    )
}

fn simple_name(
    parser: &Parser<'_>,
    expr: &Expr,
    message: &str,
) -> Result<Arc<str>, (usize, String)> {
    match &expr.kind {
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err((parser.offset(expr), message.to_owned())),
    }
}

fn bind(parser: &mut Parser<'_>, at: usize, call: Call) -> Expanded {
    let Ok([name, value, body]) = <[Expr; 3]>::try_from(call.args) else {
        return Err((at, "cel.bind() takes three arguments".to_owned()));
    };
    let name = simple_name(
        parser,
        &name,
        "cel.bind() variable names must be simple identifiers",
    )?;
    Ok(named_value(parser, at, name, value, body))
}

fn opt_map(parser: &mut Parser<'_>, at: usize, call: Call) -> Expanded {
    let flat = &*call.function == "optFlatMap";
    let (Some(target), Ok([name, body])) = (call.target, <[Expr; 2]>::try_from(call.args)) else {
        return Err((at, "optMap() takes two arguments".to_owned()));
    };
    let message = format!(
        "{}() variable name must be a simple identifier",
        call.function
    );
    let name = simple_name(parser, &name, &message)?;
    let again = copy(parser, &target);
    let condition = member(parser, at, "hasValue", target, Vec::new());
    let value = member(parser, at, "value", again, Vec::new());
    let mapped = named_value(parser, at, name, value, body);
    let some = if flat {
        mapped
    } else {
        parser.call(at, "optional.of", vec![mapped])
    };
    let none = parser.call(at, "optional.none", Vec::new());
    Ok(parser.call(at, op::CONDITIONAL, vec![condition, some, none]))
}

fn sort_by(parser: &mut Parser<'_>, at: usize, call: Call) -> Expanded {
    let Some(target) = call.target else {
        return Err((at, "sortBy needs a list".to_owned()));
    };
    if !matches!(
        target.kind,
        Kind::List { .. }
            | Kind::Select(_)
            | Kind::Ident(_)
            | Kind::Comprehension(_)
            | Kind::Call(_)
    ) {
        return Err((
            parser.offset(&target),
            "sortBy can only be applied to a list, identifier, comprehension, call or select expression"
                .to_owned(),
        ));
    }
    let input = ident(parser, at, SORT_INPUT);
    let keys = comprehension(
        parser,
        at,
        Call {
            function: Arc::from("map"),
            target: Some(input),
            args: call.args,
        },
    )?;
    let input = ident(parser, at, SORT_INPUT);
    let sorted = member(parser, at, "@sortByAssociatedKeys", input, vec![keys]);
    Ok(named_value(
        parser,
        at,
        Arc::from(SORT_INPUT),
        target,
        sorted,
    ))
}

/// A loop variable's name, which must be a plain one and not the accumulator's.
fn loop_name(parser: &Parser<'_>, expr: &Expr, message: &str) -> Result<Arc<str>, (usize, String)> {
    let name = simple_name(parser, expr, message)?;
    if &*name == ACCUMULATOR || &*name == "__result__" {
        return Err((
            parser.offset(expr),
            "iteration variable overwrites accumulator variable".to_owned(),
        ));
    }
    Ok(name)
}

fn comprehension(parser: &mut Parser<'_>, at: usize, call: Call) -> Expanded {
    let name = call.function.clone();
    let Some(range) = call.target else {
        return Err((at, format!("{name} needs a target")));
    };
    let two = match &*name {
        "transformList" | "transformMap" | "transformMapEntry" => true,
        "map" | "filter" => false,
        _ => call.args.len() == 3,
    };
    let mut args = call.args.into_iter();
    let message = if two || !matches!(&*name, "map" | "filter") {
        "argument must be a simple name"
    } else {
        "argument is not an identifier"
    };
    let Some(first) = args.next() else {
        return Err((at, message.to_owned()));
    };
    let var = loop_name(parser, &first, message)?;
    let var2 = match (two, args.next_if_two(two)) {
        (true, Some(second)) => {
            let var2 = loop_name(parser, &second, message)?;
            if var2 == var {
                return Err((
                    parser.offset(&second),
                    format!("duplicate variable name: {var}"),
                ));
            }
            Some(var2)
        }
        _ => None,
    };
    let rest: Vec<Expr> = args.collect();
    let parts = loop_parts(parser, at, &name, &var, rest)?;
    Ok(parser.node(
        at,
        Kind::Comprehension(Box::new(Comprehension {
            range,
            var,
            var2,
            accu: Arc::from(ACCUMULATOR),
            init: parts.init,
            condition: parts.condition,
            step: parts.step,
            result: parts.result,
        })),
    ))
}

trait NextIf {
    fn next_if_two(&mut self, two: bool) -> Option<Expr>;
}

impl NextIf for std::vec::IntoIter<Expr> {
    fn next_if_two(&mut self, two: bool) -> Option<Expr> {
        if two { self.next() } else { None }
    }
}

struct LoopParts {
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

fn loop_parts(
    parser: &mut Parser<'_>,
    at: usize,
    name: &str,
    var: &Arc<str>,
    mut rest: Vec<Expr>,
) -> Result<LoopParts, (usize, String)> {
    let Some(body) = rest.pop() else {
        return Err((at, format!("{name} needs an expression")));
    };
    let filter = rest.pop();
    match name {
        "all" | "exists" => Ok(quantifier(parser, at, name == "all", body)),
        "exists_one" | "existsOne" => {
            let accu = ident(parser, at, ACCUMULATOR);
            let one = literal(parser, at, Literal::Int(1));
            let more = parser.call(at, op::ADD, vec![accu, one]);
            let step = conditional_step(parser, at, Some(body), more);
            let accu = ident(parser, at, ACCUMULATOR);
            let one = literal(parser, at, Literal::Int(1));
            Ok(LoopParts {
                init: literal(parser, at, Literal::Int(0)),
                condition: literal(parser, at, Literal::Bool(true)),
                step,
                result: parser.call(at, op::EQ, vec![accu, one]),
            })
        }
        "transformMap" | "transformMapEntry" => {
            let mut args = vec![ident(parser, at, ACCUMULATOR)];
            if name == "transformMap" {
                args.push(ident(parser, at, var));
            }
            args.push(body);
            let more = parser.call(at, "cel.@mapInsert", args);
            let init = parser.node(at, Kind::Map(Vec::new()));
            Ok(gathering(parser, at, init, filter, more))
        }
        _ => {
            let (filter, element) = if name == "filter" {
                (Some(body), ident(parser, at, var))
            } else {
                (filter, body)
            };
            let accu = ident(parser, at, ACCUMULATOR);
            let element = list(parser, at, vec![element]);
            let more = parser.call(at, op::ADD, vec![accu, element]);
            let init = list(parser, at, Vec::new());
            Ok(gathering(parser, at, init, filter, more))
        }
    }
}

fn gathering(
    parser: &mut Parser<'_>,
    at: usize,
    init: Expr,
    filter: Option<Expr>,
    more: Expr,
) -> LoopParts {
    let step = conditional_step(parser, at, filter, more);
    LoopParts {
        init,
        condition: literal(parser, at, Literal::Bool(true)),
        step,
        result: ident(parser, at, ACCUMULATOR),
    }
}

/// `filter ? more : accumulator`, or just `more`.
fn conditional_step(parser: &mut Parser<'_>, at: usize, filter: Option<Expr>, more: Expr) -> Expr {
    match filter {
        None => more,
        Some(filter) => {
            let unchanged = ident(parser, at, ACCUMULATOR);
            parser.call(at, op::CONDITIONAL, vec![filter, more, unchanged])
        }
    }
}

fn quantifier(parser: &mut Parser<'_>, at: usize, all: bool, body: Expr) -> LoopParts {
    let mut going = ident(parser, at, ACCUMULATOR);
    if !all {
        going = parser.call(at, op::NOT, vec![going]);
    }
    let accu = ident(parser, at, ACCUMULATOR);
    LoopParts {
        init: literal(parser, at, Literal::Bool(all)),
        condition: parser.call(at, op::NOT_STRICTLY_FALSE, vec![going]),
        step: parser.call(at, if all { op::AND } else { op::OR }, vec![accu, body]),
        result: ident(parser, at, ACCUMULATOR),
    }
}

/// The same tree with numbers of its own.
fn copy(parser: &mut Parser<'_>, expr: &Expr) -> Expr {
    let offset = parser.offset(expr);
    if parser.is_too_big() {
        return parser.node(offset, Kind::Literal(Literal::Null));
    }
    let kind = match &expr.kind {
        Kind::Literal(_) | Kind::Ident(_) => expr.kind.clone(),
        Kind::Select(select) => Kind::Select(Box::new(Select {
            operand: copy(parser, &select.operand),
            field: select.field.clone(),
            test_only: select.test_only,
        })),
        Kind::Call(call) => Kind::Call(Box::new(Call {
            function: call.function.clone(),
            target: call.target.as_ref().map(|target| copy(parser, target)),
            args: call.args.iter().map(|arg| copy(parser, arg)).collect(),
        })),
        Kind::List { elements, optional } => Kind::List {
            elements: elements.iter().map(|e| copy(parser, e)).collect(),
            optional: optional.clone(),
        },
        Kind::Map(entries) => Kind::Map(
            entries
                .iter()
                .map(|entry| super::ast::Entry {
                    key: copy(parser, &entry.key),
                    value: copy(parser, &entry.value),
                    optional: entry.optional,
                })
                .collect(),
        ),
        Kind::Struct { name, fields } => Kind::Struct {
            name: name.clone(),
            fields: fields
                .iter()
                .map(|field| {
                    let value = copy(parser, &field.value);
                    super::ast::FieldInit {
                        id: parser.node(offset, Kind::Literal(Literal::Null)).id,
                        name: field.name.clone(),
                        value,
                        optional: field.optional,
                    }
                })
                .collect(),
        },
        Kind::Comprehension(c) => Kind::Comprehension(Box::new(Comprehension {
            range: copy(parser, &c.range),
            var: c.var.clone(),
            var2: c.var2.clone(),
            accu: c.accu.clone(),
            init: copy(parser, &c.init),
            condition: copy(parser, &c.condition),
            step: copy(parser, &c.step),
            result: copy(parser, &c.result),
        })),
    };
    parser.node(offset, kind)
}
