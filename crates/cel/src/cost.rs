//! What a call costs when it runs.

use crate::library::opaque::Opaque;
use crate::value::Value;

/// What naming a variable or a field costs.
pub(crate) const SELECT: u64 = 1;
/// What making a list costs.
pub(crate) const LIST: u64 = 10;
/// What making a map costs.
pub(crate) const MAP: u64 = 30;
/// What making an object costs.
pub(crate) const OBJECT: u64 = 40;
/// What going once over a text costs per character.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// What a regular expression costs per character of its own, for each unit of the text.
pub(crate) const PATTERN: f64 = 0.25;
/// What asking the authorizer costs: two questions per expression fit the limit of a call.
pub(crate) const AUTHORIZATION: u64 = 350_000;
/// The longest pattern behind a named format.
pub(crate) const FORMAT_PATTERN: u64 = 128;

/// How a call's cost follows from its arguments and its result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Charge {
    Fixed(u64),
    /// The size of an argument, by a factor, rounded up.
    Traverse(usize, f64),
    /// The size of the result, by a factor, rounded up.
    Result(f64),
    /// The shorter of two, by the cost of traversal.
    Shorter,
    /// Both together, by the cost of traversal.
    Together,
    /// A text against a pattern.
    Match,
    Contains,
    /// The elements of a list, their texts traversed.
    Elements,
    /// `x in list`
    Membership,
    Selector,
    /// An address or range within a range; the flags: by text, and a range.
    Within(bool, bool),
    Validate,
    /// A new list as long as the result.
    NewList,
    Flatten,
    /// Every element against every other, of this argument.
    SelfCompare(usize),
    Sets(f64),
}

/// How the function's variant is charged; `overload` is empty where several variants are possible.
pub(crate) fn charge(function: &str, overload: &str) -> Charge {
    by_overload(overload)
        .or_else(|| by_function(function, overload))
        .unwrap_or_else(|| by_standard(overload))
}

/// Libraries that charge for single variants.
fn by_overload(overload: &str) -> Option<Charge> {
    Some(match overload {
        "list_slice" | "lists_range" | "list_reverse" => Charge::NewList,
        "list_flatten" | "list_flatten_int" => Charge::Flatten,
        "list_distinct" => Charge::SelfCompare(0),
        "list_sets_contains_list" | "list_sets_intersects_list" => Charge::Sets(1.0),
        "list_sets_equivalent_list" => Charge::Sets(2.0),
        _ if overload.ends_with("_sortByAssociatedKeys") => Charge::SelfCompare(1),
        _ if overload.starts_with("list_") && overload.ends_with("_sort") => Charge::SelfCompare(0),
        _ => return None,
    })
}

/// Kubernetes' own functions are charged by name.
fn by_function(function: &str, overload: &str) -> Option<Charge> {
    Some(match function {
        "check" => Charge::Fixed(AUTHORIZATION),
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name"
        | "allowed" | "reason" | "error" | "errored" => Charge::Fixed(1),
        "fieldSelector" | "labelSelector" => Charge::Selector,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => Charge::Elements,
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => Charge::Traverse(0, TRAVERSAL),
        "ip" if overload == "cidr_ip" => Charge::Fixed(1),
        "ip" => Charge::Traverse(0, TRAVERSAL),
        "replace" | "split" | "ip.isCanonical" => Charge::Traverse(0, 2.0 * TRAVERSAL),
        "join" => Charge::Result(2.0 * TRAVERSAL),
        "find" | "findAll" => Charge::Match,
        "containsIP" => Charge::Within(overload == "cidr_contains_ip_string", false),
        "containsCIDR" => Charge::Within(overload == "cidr_contains_cidr_string", true),
        "validate" => Charge::Validate,
        _ => return None,
    })
}

/// The language's own functions.
fn by_standard(overload: &str) -> Charge {
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => Charge::Traverse(0, TRAVERSAL),
        "in_list" => Charge::Membership,
        id if is_comparison(id) => Charge::Shorter,
        "add_string" | "add_bytes" => Charge::Together,
        "matches_string" => Charge::Match,
        "contains_string" => Charge::Contains,
        _ => Charge::Fixed(1),
    }
}

/// Whether an overload compares two values, and so looks at no more than the shorter of them.
pub(crate) fn is_comparison(id: &str) -> bool {
    matches!(
        id,
        "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals"
    )
}

fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

fn size(args: &[Value<'_>], index: usize) -> u64 {
    args.get(index).map_or(1, Value::cost_size)
}

/// What the call cost.
pub(crate) fn cost(charge: Charge, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
    match charge {
        Charge::Fixed(cost) => cost,
        Charge::Traverse(index, factor) => scaled(size(args, index), factor),
        Charge::Result(factor) => scaled(result.map_or(1, Value::cost_size), factor),
        Charge::Shorter => shorter(args),
        Charge::Together => scaled(size(args, 0).saturating_add(size(args, 1)), TRAVERSAL),
        Charge::Match => pattern_cost(size(args, 0), size(args, 1)),
        Charge::Contains => {
            scaled(size(args, 0), TRAVERSAL).saturating_mul(scaled(size(args, 1), TRAVERSAL))
        }
        Charge::Elements => args.first().map_or(0, traversal),
        Charge::Membership => size(args, 1),
        Charge::Selector => selector(size(args, 1)),
        Charge::Within(text, range) => within(args, text, range),
        Charge::Validate => match args.first() {
            Some(Value::Opaque(Opaque::Format(format))) => {
                pattern_cost(size(args, 1), format.pattern_size)
            }
            _ => 1,
        },
        Charge::NewList => result.map_or(1, Value::cost_size).saturating_add(1 + LIST),
        Charge::Flatten => {
            let depth = match args.get(1) {
                Some(Value::Int(depth)) => u64::try_from(*depth).unwrap_or_default(),
                _ => 1,
            };
            size(args, 0).saturating_mul(depth).saturating_add(1 + LIST)
        }
        Charge::SelfCompare(index) => self_compare(args.get(index)),
        Charge::Sets(factor) => {
            1 + (size(args, 0).saturating_mul(size(args, 1)) as f64 * factor) as u64
        }
    }
}

/// Equality: of values of Kubernetes' own types one unit, of others by the shorter.
fn shorter(args: &[Value<'_>]) -> u64 {
    if matches!(args.first(), Some(Value::Opaque(_))) {
        return 1;
    }
    scaled(size(args, 0).min(size(args, 1)), TRAVERSAL)
}

fn pattern_cost(text: u64, pattern: u64) -> u64 {
    scaled(text.saturating_add(1), TRAVERSAL).saturating_mul(scaled(pattern, PATTERN))
}

/// A value's whole tree, gone over once: texts by their bytes, everything else one unit.
fn traversal(value: &Value<'_>) -> u64 {
    let text = |bytes: usize| (bytes as f64 * TRAVERSAL) as u64;
    match value {
        Value::String(value) => text(value.len()),
        Value::Bytes(value) => text(value.len()),
        Value::List(list) => list
            .iter()
            .map(|value| value.map_or(1, |value| traversal(&value)))
            .fold(0, u64::saturating_add),
        Value::Map(map) => map
            .keys()
            .iter()
            .map(|key| {
                let value = map.find(key).ok().flatten();
                traversal(key) + value.map_or(1, |value| traversal(&value))
            })
            .fold(0, u64::saturating_add),
        _ => 1,
    }
}

/// A selector of that length: each requirement takes at least two characters and a struct with a list.
pub(crate) fn selector(length: u64) -> u64 {
    LIST + scaled(length, TRAVERSAL) + scaled(scaled(length, 0.5), (LIST + OBJECT) as f64)
}

fn within(args: &[Value<'_>], text: bool, range: bool) -> u64 {
    let base = size(args, 0);
    let mut cost = scaled(base + base, TRAVERSAL);
    if range {
        cost += scaled(base, TRAVERSAL) + 1;
    }
    if text {
        cost += scaled(size(args, 1), TRAVERSAL);
    }
    cost
}

fn self_compare(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else {
        return 1 + LIST;
    };
    let factor = match list.get(0) {
        Some(Ok(Value::String(_) | Value::Bytes(_))) => 2.0 + TRAVERSAL,
        _ => 2.0,
    };
    let size = list.len() as u64;
    (size.saturating_mul(size) as f64 * factor) as u64 + 1 + LIST
}
