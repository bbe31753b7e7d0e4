//! The functions that expressions can call: names, variants and what they do, from the tables of the libraries.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::error::EvalError;
use crate::library;
use crate::types::Type;
use crate::value::Value;

/// What a function does with its arguments (the receiver first).
pub(crate) type Act = for<'v> fn(&[Value<'v>]) -> Result<Value<'v>, EvalError>;

/// A line of a library's table: function, variant, signature, what it does. A signature reads `(int, int) -> int`, or
/// `string.(int) -> string` for what is called on a value; single capitals are type parameters.
pub(crate) type Row = (&'static str, &'static str, &'static str, Act);

/// All variants of a function.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) overloads: Vec<Overload>,
}

/// One variant of a function.
pub(crate) struct Overload {
    pub(crate) id: &'static str,
    pub(crate) member: bool,
    pub(crate) params: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) act: Act,
}

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let mut functions: HashMap<&'static str, Function> = HashMap::new();
    for row in library::tables().into_iter().flatten() {
        let (name, id, signature, act) = *row;
        let (member, params, result) = signature_types(signature);
        functions
            .entry(name)
            .or_insert_with(|| Function {
                name,
                overloads: Vec::new(),
            })
            .overloads
            .push(Overload {
                id,
                member,
                params,
                result,
                act,
            });
    }
    functions
});

/// The function of that name.
pub(crate) fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

fn signature_types(signature: &'static str) -> (bool, Vec<Type>, Type) {
    let (left, result) = signature.split_once(" -> ").unwrap_or((signature, "dyn"));
    let (receiver, args) = match left.find(".(") {
        Some(at) => (Some(&left[..at]), &left[at + 1..]),
        None => (None, left),
    };
    let inner = args
        .strip_prefix('(')
        .and_then(|args| args.strip_suffix(')'))
        .unwrap_or_default();
    let params = receiver
        .into_iter()
        .chain(split(inner))
        .map(parse_type)
        .collect();
    (receiver.is_some(), params, parse_type(result))
}

/// Splits at commas that are not within brackets.
fn split(text: &'static str) -> Vec<&'static str> {
    let mut parts = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

pub(crate) fn parse_type(text: &'static str) -> Type {
    let text = text.trim();
    if let Some((outer, inner)) = text.split_once('(') {
        let params = split(inner.strip_suffix(')').unwrap_or(inner));
        let mut params = params.into_iter().map(parse_type);
        let mut next = || params.next().unwrap_or(Type::Dyn);
        return match outer {
            "list" => Type::list(next()),
            "map" => {
                let key = next();
                Type::map(key, next())
            }
            "optional" => Type::optional(next()),
            _ => Type::TypeOf(Arc::new(next())),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "type" => Type::TypeOf(Arc::new(Type::Dyn)),
        _ if text.len() == 1 => Type::Param(text),
        _ => Type::Opaque(text),
    }
}

/// Whether a value can go where the parameter's type is wanted. Elements of lists and maps are not looked at.
pub(crate) fn accepts(param: &Type, value: &Value<'_>) -> bool {
    match param {
        Type::Dyn | Type::Param(_) | Type::Var(_) | Type::Error => true,
        Type::Null => matches!(value, Value::Null),
        Type::Bool => matches!(value, Value::Bool(_)),
        Type::Int => matches!(value, Value::Int(_)),
        Type::Uint => matches!(value, Value::Uint(_)),
        Type::Double => matches!(value, Value::Double(_)),
        Type::String => matches!(value, Value::String(_)),
        Type::Bytes => matches!(value, Value::Bytes(_)),
        Type::Duration => matches!(value, Value::Duration(_)),
        Type::Timestamp => matches!(value, Value::Timestamp(_)),
        Type::List(_) => matches!(value, Value::List(_)),
        Type::Map(_) => matches!(value, Value::Map(_)),
        Type::Object(_) => matches!(value, Value::Map(_) | Value::Object(_)),
        Type::Optional(_) => matches!(value, Value::Optional(_)),
        Type::TypeOf(_) => matches!(value, Value::Type(_)),
        Type::Opaque(name) => matches!(value, Value::Opaque(opaque) if opaque.type_name() == *name),
    }
}
