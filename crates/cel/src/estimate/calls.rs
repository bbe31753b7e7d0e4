//! The bounds on the cost of single calls, and on the sizes of what they give.

use super::{Coster, Estimate, Place};
use crate::cost::{AUTHORIZATION, FORMAT_PATTERN, LIST, OBJECT, PATTERN, TRAVERSAL, is_comparison};
use crate::syntax::ast::{Expr, Kind, Literal};
use crate::types::Type;

/// A cost, and the size of the result where it is known.
type Bounds = (Estimate, Option<Estimate>);

const ADDRESS: Estimate = Estimate { min: 4, max: 16 };

impl Coster<'_> {
    /// What a variant of a function costs, its arguments included (but not the target).
    pub(super) fn variant(
        &mut self,
        expr: &Expr,
        function: &str,
        id: &str,
        target: Option<&Expr>,
        args: &[Expr],
        costs: &[Estimate],
    ) -> Bounds {
        let sum = costs
            .iter()
            .fold(Estimate::fixed(0), |sum, cost| sum.add(*cost));
        let own = self
            .list_variant(id, target, args)
            .or_else(|| self.kubernetes(function, id, target, args));
        if let Some((cost, size)) = own {
            return (cost.add(sum), size);
        }
        match (id, costs, args) {
            ("logical_or" | "logical_and", [left, right], _) => (
                Estimate {
                    min: left.min,
                    max: left.add(*right).max,
                },
                None,
            ),
            ("conditional", [condition, yes, no], [_, yes_expr, no_expr]) => {
                let size = self
                    .size_or_unknown(yes_expr)
                    .union(self.size_or_unknown(no_expr));
                if let (Some(a), Some(b)) = (self.entry_sizes(yes_expr), self.entry_sizes(no_expr))
                {
                    self.entries.insert(expr.id, a.union(b));
                }
                (condition.add(yes.union(*no)), Some(size))
            }
            ("add_string" | "add_bytes" | "add_list", _, [a, b]) => {
                let size = self.size_or_unknown(a).add(self.size_or_unknown(b));
                if let (Some(a), Some(b)) = (self.entry_sizes(a), self.entry_sizes(b)) {
                    self.entries.insert(expr.id, a.union(b));
                }
                let cost = if id == "add_list" {
                    Estimate::fixed(1)
                } else {
                    size.scaled(TRAVERSAL)
                };
                (cost.add(sum), Some(size))
            }
            _ => {
                let (cost, size) = self.standard(id, target, args);
                (cost.add(sum), size)
            }
        }
    }

    fn standard(&mut self, id: &str, target: Option<&Expr>, args: &[Expr]) -> Bounds {
        let first = args.first().map(|arg| self.size_or_unknown(arg));
        let target = target.map(|target| self.size_or_unknown(target));
        match (id, target, first) {
            ("string_format", Some(size), _) => (size.scaled(TRAVERSAL), None),
            ("string_to_bytes", _, Some(size)) => (
                size.scaled(TRAVERSAL),
                Some(Estimate {
                    min: size.min,
                    max: size.max.saturating_mul(4),
                }),
            ),
            ("bytes_to_string", _, Some(size)) => (
                size.scaled(TRAVERSAL),
                Some(Estimate {
                    min: size.min / 4,
                    max: size.max,
                }),
            ),
            ("strings_quote", _, Some(size)) => (
                size.scaled(TRAVERSAL),
                Some(Estimate {
                    min: size.min.saturating_add(2),
                    max: size.max.saturating_mul(2).saturating_add(2),
                }),
            ),
            ("starts_with_string" | "ends_with_string", _, Some(size)) => {
                (size.scaled(TRAVERSAL), None)
            }
            ("in_list", _, _) => match args.get(1) {
                Some(list) => (self.size_or_unknown(list), None),
                None => (Estimate::fixed(1), None),
            },
            ("matches_string", Some(text), Some(pattern)) => (matching(text, pattern), None),
            ("contains_string", Some(text), Some(part)) => {
                (text.scaled(TRAVERSAL).times(part.scaled(TRAVERSAL)), None)
            }
            _ if is_comparison(id) => {
                let second = args.get(1).map(|arg| self.size_or_unknown(arg));
                let max = first
                    .map_or(u64::MAX, |size| size.max)
                    .min(second.map_or(u64::MAX, |size| size.max));
                let range = Estimate {
                    min: u64::from(max > 0),
                    max,
                };
                (range.scaled(TRAVERSAL), None)
            }
            _ => (Estimate::fixed(1), None),
        }
    }

    /// The list library's own estimates, and those of sets.
    fn list_variant(&mut self, id: &str, target: Option<&Expr>, args: &[Expr]) -> Option<Bounds> {
        let new_list = |factor: f64, size: Estimate| {
            (
                size.scaled(factor).add(Estimate::fixed(1 + LIST)),
                Some(size),
            )
        };
        if let "list_sets_contains_list"
        | "list_sets_intersects_list"
        | "list_sets_equivalent_list" = id
        {
            let factor = if id == "list_sets_equivalent_list" {
                2.0
            } else {
                1.0
            };
            let [a, b] = args else { return None };
            let product = self.size_or_unknown(a).times(self.size_or_unknown(b));
            return Some((product.scaled(factor).add(Estimate::fixed(1)), None));
        }
        if id == "lists_range" {
            return Some(new_list(
                1.0,
                Estimate::fixed(int_literal(args.first()?).unwrap_or(u64::MAX)),
            ));
        }
        let sorted = id.starts_with("list_")
            && (id.ends_with("_sort") || id.ends_with("_sortByAssociatedKeys"));
        if !sorted
            && !matches!(
                id,
                "list_slice"
                    | "list_reverse"
                    | "list_flatten"
                    | "list_flatten_int"
                    | "list_distinct"
            )
        {
            return None;
        }
        let of = if id.ends_with("_sortByAssociatedKeys") {
            args.first()?
        } else {
            target?
        };
        let size = self.size_or_unknown(of);
        Some(match id {
            "list_slice" => {
                let start = int_literal(args.first()?).unwrap_or(0);
                let end = int_literal(args.get(1)?).unwrap_or(size.max);
                new_list(1.0, Estimate::fixed(end.saturating_sub(start)))
            }
            "list_reverse" => new_list(1.0, size),
            "list_flatten" => new_list(1.0, size),
            "list_flatten_int" => {
                let depth = int_literal(args.first()?).unwrap_or(u64::MAX);
                new_list(depth as f64, size)
            }
            "list_distinct" => new_list(2.0, size.times(size)),
            _ if id.starts_with("list_string") || id.starts_with("list_bytes") => {
                new_list(2.0 + TRAVERSAL, size.times(size))
            }
            _ => new_list(2.0, size.times(size)),
        })
    }

    /// The estimates of Kubernetes' libraries, by the function's name.
    fn kubernetes(
        &mut self,
        function: &str,
        id: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Option<Bounds> {
        let one = Some((Estimate::fixed(1), None));
        let first = args.first().map(|arg| self.size_or_unknown(arg));
        let target_size = target.map(|target| self.size_or_unknown(target));
        match function {
            "check" => Some((Estimate::fixed(AUTHORIZATION), None)),
            "serviceAccount"
            | "path"
            | "group"
            | "resource"
            | "subresource"
            | "namespace"
            | "name"
            | "allowed"
            | "reason"
            | "error"
            | "errored"
            | "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast"
            | "format.named"
            | "sign"
            | "asInteger"
            | "isInteger"
            | "asApproximateFloat"
            | "isGreaterThan"
            | "isLessThan"
            | "compareTo"
            | "add"
            | "sub"
            | "major"
            | "minor"
            | "patch"
            | "getScheme"
            | "getHostname"
            | "getHost"
            | "getPort"
            | "getEscapedPath"
            | "getQuery" => one,
            "fieldSelector" | "labelSelector" => Some((selector(first?), None)),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                Some((self.elements(target?), None))
            }
            "url" | "jsonpatch.escapeKey" => Some((first?.scaled(TRAVERSAL), first)),
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                Some((target_size?.scaled(TRAVERSAL), target_size))
            }
            "replace" if args.len() >= 2 => {
                let with = self.size_or_unknown(args.get(1)?);
                Some(replace(target_size?, first?, with))
            }
            "split" => Some(split(target_size?, args.get(1))),
            "join" => Some(self.join(target?, args.first())),
            "find" | "findAll" => {
                let text = target_size?;
                let size = Estimate {
                    min: 0,
                    max: text.max,
                };
                Some((matching(text, first?), Some(size)))
            }
            "ip" if id == "cidr_ip" => one,
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver"
            | "isSemver" => Some((first?.scaled(TRAVERSAL), None)),
            "ip.isCanonical" => Some((first?.scaled(2.0 * TRAVERSAL), None)),
            "containsIP" => Some((within(id == "cidr_contains_ip_string", false, first?), None)),
            "containsCIDR" => Some((
                within(id == "cidr_contains_cidr_string", true, first?),
                None,
            )),
            "validate" => Some((
                first?
                    .scaled(TRAVERSAL)
                    .scaled(FORMAT_PATTERN as f64 * PATTERN),
                None,
            )),
            "_==_" => self.opaque_equality(args),
            _ => None,
        }
    }

    /// Values of Kubernetes' own types are compared at the cost of one.
    fn opaque_equality(&self, args: &[Expr]) -> Option<Bounds> {
        let [a, b] = args else { return None };
        let (Type::Opaque(a), Type::Opaque(b)) =
            (self.checked.type_of(a.id), self.checked.type_of(b.id))
        else {
            return None;
        };
        if a != b {
            return None;
        }
        let max = if *a == "kubernetes.NamedFormat" {
            64
        } else {
            1
        };
        let range = Estimate { min: 1, max };
        let cost = if max > 1 {
            range.scaled(TRAVERSAL)
        } else {
            range
        };
        Some((cost, None))
    }

    /// Going over a list's elements, or over a text.
    fn elements(&mut self, target: &Expr) -> Estimate {
        let size = self.size_or_unknown(target);
        let Some((element, ty)) = self.list_element(target) else {
            return size.scaled(TRAVERSAL);
        };
        let mut each = Estimate::fixed(1);
        if matches!(ty, Type::String | Type::Bytes) {
            each = each.add(element.scaled(TRAVERSAL));
        }
        size.times(each)
    }

    /// The size and type of a list's elements.
    fn list_element(&self, list: &Expr) -> Option<(Estimate, Type)> {
        let ty = match self.checked.type_of(list.id) {
            Type::List(element) | Type::Optional(element) => Type::clone(element),
            Type::Map(entry) => entry.0.clone(),
            _ => return None,
        };
        let size = match self.place(list) {
            Some(Place::At(schema)) => schema
                .element()
                .and_then(|element| super::place_size(&Place::At(element.clone()))),
            _ => None,
        };
        Some((size.unwrap_or(Estimate::UNKNOWN), ty))
    }

    fn join(&mut self, list: &Expr, separator: Option<&Expr>) -> Bounds {
        let count = self.size_or_unknown(list);
        let mut size = match self.list_element(list) {
            Some((element, _)) => count.times(element),
            None => Estimate::fixed(0),
        };
        if let Some(separator) = separator {
            let between = Estimate {
                min: count.min.saturating_sub(1),
                max: count.max.saturating_sub(1),
            };
            size = size.add(self.size_or_unknown(separator).times(between));
        }
        (size.scaled(TRAVERSAL), Some(size))
    }
}

fn int_literal(expr: &Expr) -> Option<u64> {
    match expr.kind {
        Kind::Literal(Literal::Int(n)) => Some(u64::try_from(n).unwrap_or_default()),
        _ => None,
    }
}

fn matching(text: Estimate, pattern: Estimate) -> Estimate {
    text.add(Estimate::fixed(1))
        .scaled(TRAVERSAL)
        .times(pattern.scaled(PATTERN))
}

fn selector(length: Estimate) -> Estimate {
    Estimate::fixed(LIST)
        .add(length.scaled(TRAVERSAL))
        .add(length.scaled(0.5).scaled((LIST + OBJECT) as f64))
}

fn within(text: bool, range: bool, other: Estimate) -> Estimate {
    let mut cost = ADDRESS.add(ADDRESS).scaled(TRAVERSAL);
    if range {
        cost = cost.add(ADDRESS.scaled(TRAVERSAL)).add(Estimate::fixed(1));
    }
    if text {
        cost = cost.add(other.scaled(TRAVERSAL));
    }
    cost
}

/// The longest and the shortest text that a replacement can make.
fn replace(text: Estimate, old: Estimate, new: Estimate) -> Bounds {
    let divided = |a: u64, b: u64| (a as f64 / b as f64).ceil() as u64;
    let (most, keeps_most) = if old.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if new.max <= old.min {
        (0, text.max)
    } else {
        (divided(text.max, old.min), 0)
    };
    let (least, keeps_least) = if old.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if old.max <= new.min {
        (0, text.min)
    } else {
        (divided(text.min, old.max), 0)
    };
    let count = Estimate {
        min: least,
        max: most,
    };
    let kept = Estimate {
        min: keeps_least,
        max: keeps_most,
    };
    (
        text.scaled(2.0 * TRAVERSAL),
        Some(count.times(new).add(kept)),
    )
}

fn split(text: Estimate, limit: Option<&Expr>) -> Bounds {
    let max = limit.and_then(int_literal).unwrap_or(text.max);
    (text.scaled(2.0 * TRAVERSAL), Some(Estimate { min: 0, max }))
}
