//! Small checks of single values, and how structured values are printed in messages.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use serde::Serialize;
use serde_json::{Value, json};

use super::names;
use crate::field::{ErrorList, FieldError, Path, Shown};

/// A value that is printed in a message as it stands, without quotes.
pub(crate) struct Bare(pub String);

impl Shown for Bare {
    fn shown(&self) -> String {
        self.0.clone()
    }
}

/// A structured value, printed as JSON.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Bare {
    Bare(serde_json::to_string(value).unwrap_or_default())
}

/// A term as upstream's own types print it: with capitals, and with what is absent.
pub(crate) fn internal_term(term: &NodeSelectorTerm) -> Value {
    let list = |expressions: &Option<Vec<NodeSelectorRequirement>>| match expressions {
        None => Value::Null,
        Some(list) => list
            .iter()
            .map(|one| json!({"Key": one.key, "Operator": one.operator, "Values": one.values}))
            .collect(),
    };
    json!({"MatchExpressions": list(&term.match_expressions), "MatchFields": list(&term.match_fields)})
}

/// Terms as upstream's own types print them.
pub(crate) fn internal_terms(terms: &[NodeSelectorTerm]) -> Value {
    match terms {
        [] => Value::Null,
        terms => terms.iter().map(internal_term).collect(),
    }
}

/// What upstream says of a field that must not change.
pub(crate) const IMMUTABLE: &str = "field is immutable";
/// What upstream says of a negative number.
pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";

/// The number must not be negative.
pub(crate) fn non_negative(errors: &mut ErrorList, path: &Path, value: impl Into<i64>) {
    let value = value.into();
    if value < 0 {
        errors.push(FieldError::invalid(path, value, NEGATIVE));
    }
}

/// The number must be positive.
pub(crate) fn positive(errors: &mut ErrorList, path: &Path, value: impl Into<i64>) {
    let value = value.into();
    if value <= 0 {
        errors.push(FieldError::invalid(
            path,
            value,
            "must be greater than zero",
        ));
    }
}

/// The value must be as before.
pub(crate) fn immutable<T: PartialEq>(
    errors: &mut ErrorList,
    path: &Path,
    new: &T,
    old: &T,
    shown: impl Shown,
) {
    if new != old {
        errors.push(FieldError::invalid(path, shown, IMMUTABLE));
    }
}

/// One error per message about the value.
pub(crate) fn all_invalid(
    errors: &mut ErrorList,
    path: &Path,
    value: &str,
    messages: impl IntoIterator<Item = String>,
) {
    for message in messages {
        errors.push(FieldError::invalid(path, value, &message));
    }
}

/// The text must be one of the supported ones (given in upstream's order).
pub(crate) fn one_of(errors: &mut ErrorList, path: &Path, value: &str, supported: &[&str]) {
    if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// The text must be there and one of the supported ones.
pub(crate) fn required_one_of(
    errors: &mut ErrorList,
    path: &Path,
    value: &str,
    supported: &[&str],
) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        one_of(errors, path, value, supported);
    }
}

/// The text must be there.
pub(crate) fn required(errors: &mut ErrorList, path: &Path, value: &str) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

/// A path that begins with the domain of who defines it: `acme.io/foo`.
pub(crate) fn domain_prefixed_path(errors: &mut ErrorList, value: &str, path: &Path) {
    const PATTERN: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let parts = value.split_once('/');
    let Some((domain, rest)) = parts.filter(|(a, b)| !a.is_empty() && !b.is_empty()) else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid(path, value, detail));
        return;
    };
    all_invalid(errors, path, domain, names::dns_subdomain(domain));
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c);
    if !rest.bytes().all(allowed) {
        let detail = names::pattern_error("Invalid path", PATTERN, &[]);
        errors.push(FieldError::invalid(path, rest, &detail));
    }
}
